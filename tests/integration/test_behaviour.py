"""What people see: nodes, pods and sets come, change and go, and the fleet follows. All parts are real."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.integration.support_world import World, make_node, make_set

from everynode.core.commands import Decision
from everynode.core.events import RevisionGone, RevisionRecorded, StatusGone, Tick
from everynode.core.sharing import Peers
from everynode.core.values import NO_EXECUTE, NO_SCHEDULE, Taint

SET = make_set()
GPU = make_set("gpu", '{"nodeSelector":{"gpu":"yes"}}')
TAINT = Taint(key="dedicated", value="db", effect=NO_SCHEDULE)
EVICTING = Taint(key="dedicated", value="db", effect=NO_EXECUTE)


@pytest.fixture
async def fleet_of_five(world: World) -> World:
    """Five nodes, a worker and a host, and one set that covers all."""
    world.add_nodes(5)
    await world.start_worker()
    await world.start_host()
    await world.apply(SET)
    await world.covered()
    return world


class TestNodes:
    """Nodes that come, change and go."""

    async def test_a_node_that_joins_gets_its_pods(self, fleet_of_five: World) -> None:
        """L1: a new node gets one pod of each set that it is eligible for."""
        world = fleet_of_five
        await world.apply(make_set("second"))
        world.backend.add_node(make_node("new"))
        await world.covered()
        assert [1, 1] == [len(world.pods(daemonset, "new")) for daemonset in world.sets.values()]

    async def test_the_pods_of_a_node_that_left_are_deleted(self, fleet_of_five: World) -> None:
        """L1, S5: where pods outlive their node, each is deleted by a command that is on the log."""
        world = fleet_of_five
        world.behave(pods_outlive_nodes=True)
        (pod,) = world.pods(SET, "n0002")
        world.backend.remove_node("n0002")
        assert world.backend.pod(pod.key) is not None
        await world.covered()
        assert [(pod.uid, "NodeGone")] == [(c.pod_uid, c.reason) for c in world.log.deletes()]
        assert ["n0000", "n0001", "n0003", "n0004"] == world.nodes_with(SET)
        world.assert_accounted_for()

    async def test_pods_that_went_with_their_node_are_no_trouble(
        self, fleet_of_five: World
    ) -> None:
        """L1: pods that left together with their node leave nothing to do, and the node's return is a new place."""
        world = fleet_of_five
        world.backend.remove_node("n0002")
        await world.covered()
        assert ["n0000", "n0001", "n0003", "n0004"] == world.nodes_with(SET)
        world.backend.add_node(make_node("n0002", uid="another machine"))
        await world.covered()
        assert ["another machine"] == [pod.node_uid for pod in world.pods(SET, "n0002")]

    async def test_a_node_of_the_same_name_is_another_node(self, fleet_of_five: World) -> None:
        """S1, L1: a pod that outlived its node goes, and the node that has the name now gets its own."""
        world = fleet_of_five
        world.behave(pods_outlive_nodes=True)
        (pod,) = world.pods(SET, "n0003")
        world.backend.remove_node("n0003")
        world.backend.add_node(make_node("n0003", uid="another machine"))
        await world.covered()
        (successor,) = world.pods(SET, "n0003")
        assert (successor.node_uid, successor.name != pod.name) == ("another machine", True)
        assert [pod.uid] == [command.pod_uid for command in world.log.deletes()]

    async def test_a_pod_follows_the_labels_of_its_node(self, fleet_of_five: World) -> None:
        """L1: a label that a set selects by brings its pod, and takes it when it goes."""
        world = fleet_of_five
        await world.apply(GPU)
        await world.covered()
        assert [] == world.nodes_with(GPU)
        world.backend.update_labels("n0001", {"gpu": "yes"})
        await world.covered()
        assert ["n0001"] == world.nodes_with(GPU)
        world.backend.update_labels("n0001", {"gpu": "no"})
        await world.covered()
        assert [] == world.nodes_with(GPU)
        world.assert_accounted_for()

    async def test_no_schedule_keeps_what_runs_and_brings_nothing_new(
        self, fleet_of_five: World
    ) -> None:
        """L1: a pod that runs stays when an untolerated NoSchedule taint comes; a new one is not made."""
        world = fleet_of_five
        (pod,) = world.pods(SET, "n0001")
        world.backend.update_taints("n0001", [TAINT])
        await world.covered()
        await world.silent()
        assert [pod] == world.pods(SET, "n0001")
        world.backend.delete_pod(pod.key)
        await world.silent()
        assert [] == world.pods(SET, "n0001")
        world.backend.update_taints("n0001", [], [TAINT])
        await world.covered()
        assert 1 == len(world.pods(SET, "n0001"))

    async def test_no_execute_removes_what_runs(self, fleet_of_five: World) -> None:
        """L1: an untolerated NoExecute taint takes the pod away; without it, the pod comes back."""
        world = fleet_of_five
        world.backend.update_taints("n0001", [EVICTING])
        await world.until(lambda: not world.pods(SET, "n0001"), "the pod is gone")
        await world.covered()
        assert ["UntoleratedTaint"] == [command.reason for command in world.log.deletes()]
        world.backend.update_taints("n0001", [], [EVICTING])
        await world.covered()
        assert 1 == len(world.pods(SET, "n0001"))

    async def test_a_cordoned_node_gets_pods(self, fleet_of_five: World) -> None:
        """L1: cordoning keeps no pod of a DaemonSet away."""
        world = fleet_of_five
        world.backend.cordon("n0001")
        await world.apply(make_set("second"))
        world.backend.delete_pod(world.pods(SET, "n0001")[0].key)
        await world.covered()
        assert [1, 1] == [len(world.pods(daemonset, "n0001")) for daemonset in world.sets.values()]


class TestPods:
    """Pods that end."""

    @pytest.mark.parametrize("stop_ms", [0, 30])
    async def test_a_pod_that_was_deleted_is_replaced(
        self, fleet_of_five: World, stop_ms: int
    ) -> None:
        """S1, L1: whoever deletes a pod gets another one, once the first is gone."""
        world = fleet_of_five
        world.behave(stop_ms=(stop_ms, stop_ms))
        (pod,) = world.pods(SET, "n0004")
        world.backend.delete_pod(pod.key)
        await world.covered()
        (successor,) = world.pods(SET, "n0004")
        assert successor.uid != pod.uid
        assert [] == world.log.deletes()

    @pytest.mark.parametrize("stop_ms", [0, 30])
    @pytest.mark.parametrize("end", ["fail_pod", "finish_pod"])
    async def test_a_pod_that_ended_is_replaced(
        self, fleet_of_five: World, end: str, stop_ms: int
    ) -> None:
        """S1, L1: a pod that failed or finished is deleted by command, and another one takes its place."""
        world = fleet_of_five
        world.behave(stop_ms=(stop_ms, stop_ms))
        (pod,) = world.pods(SET, "n0000")
        getattr(world.backend, end)(pod.key)
        await world.covered()
        (successor,) = world.pods(SET, "n0000")
        assert (successor.uid != pod.uid, successor.name != pod.name) == (True, True)
        assert [pod.uid] == [command.pod_uid for command in world.log.deletes()]
        world.assert_accounted_for()

    async def test_many_pods_end_at_once(self, fleet_of_five: World) -> None:
        """S1, S4, S5: losing every pod at once, again and again, ends in an exact cover."""
        world = fleet_of_five
        world.add_nodes(35)
        await world.covered()
        for _ in range(3):
            for pod in world.pods(SET):
                world.backend.delete_pod(pod.key)
            await world.covered()
        assert 40 == len(world.pods(SET))
        world.assert_accounted_for()

    async def test_what_a_flaky_backend_does_not_do_at_once_is_done_later(
        self, fleet_of_five: World
    ) -> None:
        """S1, S4: calls that fail or whose answers are lost are repeated, and nothing comes twice."""
        world = fleet_of_five
        world.behave(calls_unavailable=0.3, calls_unanswered=0.3, seed=3)
        world.add_nodes(15)
        await world.covered()
        assert len(world.witness.created) == len(world.backend.pods)
        world.assert_accounted_for()


class TestSets:
    """Sets that are applied, changed and deleted."""

    async def test_a_deleted_set_leaves_nothing(self, fleet_of_five: World) -> None:
        """L1, S5: its pods go by command, and its revision and status go from the log's state."""
        world = fleet_of_five
        other = make_set("other")
        await world.apply(other)
        await world.covered()
        await world.delete(SET)
        await world.until(lambda: len(world.log.of(StatusGone)) == 1, "the status is gone")
        await world.covered()
        assert ([], 5) == (world.pods(SET), len(world.pods(other)))
        assert [other.key] == list(world.log.statuses)
        recorded = {
            m.revision.hash
            for _, m in world.log.of(RevisionRecorded)
            if m.revision.set_key == SET.key
        }
        assert recorded == {m.hash for _, m in world.log.of(RevisionGone)}
        assert {"SetDeleted"} == {command.reason for command in world.log.deletes()}
        await world.silent()
        world.assert_accounted_for()

    async def test_orphaned_pods_stay(self, fleet_of_five: World) -> None:
        """L1: a set that is deleted with cascade=orphan lets go of its pods, and nobody looks after them."""
        world = fleet_of_five
        before = [(pod.uid, pod.ready) for pod in world.pods(SET)]
        await world.delete(SET, orphan=True)
        await world.until(lambda: len(world.log.of(StatusGone)) == 1, "the status is gone")
        await world.silent()
        assert before == [(pod.uid, pod.ready) for pod in world.backend.pods.values()]
        assert {None} == {pod.owner for pod in world.backend.pods.values()}
        assert [] == world.log.deletes()

    async def test_a_set_that_was_made_anew_is_another_set(self, fleet_of_five: World) -> None:
        """S1, L1: the pods of a deleted set give way to those of its namesake."""
        world = fleet_of_five
        before = {pod.uid for pod in world.pods(SET)}
        await world.delete(SET)
        await world.apply(SET)
        await world.covered()
        assert set() == before & {pod.uid for pod in world.pods(SET)}
        world.assert_accounted_for()

    async def test_the_same_manifest_again_changes_nothing(self, fleet_of_five: World) -> None:
        """L2: nothing at all is written to the log."""
        world = fleet_of_five
        await world.silent()
        end = (await world.bus.log_position()).last_sequence
        assert "unchanged" == (await world.apply(SET)).action
        await world.silent()
        assert end == (await world.bus.log_position()).last_sequence

    async def test_a_change_of_where_it_runs_moves_its_pods(self, fleet_of_five: World) -> None:
        """L1: nodes that a changed set no longer wants lose their pods; the others keep theirs."""
        world = fleet_of_five
        world.backend.update_labels("n0001", {"gpu": "yes"})
        (kept,) = world.pods(SET, "n0001")
        await world.apply(replace(SET, template=GPU.template))
        await world.covered()
        assert [kept.uid] == [pod.uid for pod in world.pods(SET)]
        world.assert_accounted_for()

    async def test_without_a_strategy_a_new_template_is_for_new_pods(
        self, fleet_of_five: World
    ) -> None:
        """L1: OnDelete: pods that run stay as they are; one that is deleted comes back as it is wanted now."""
        world = fleet_of_five
        before = {pod.node: pod for pod in world.pods(SET)}
        await world.apply(make_set(spec='{"containers":[{"name":"new"}]}'))
        await world.covered()
        assert before == {pod.node: pod for pod in world.pods(SET)}
        world.backend.delete_pod(before["n0002"].key)
        await world.covered()
        (successor,) = world.pods(SET, "n0002")
        assert successor.revision != before["n0002"].revision
        assert before.items() - {("n0002", before["n0002"])} <= {
            (pod.node, pod) for pod in world.pods(SET)
        }


class TestSilence:
    """L2: then silence."""

    async def test_a_covered_fleet_writes_nothing(self, fleet_of_five: World) -> None:
        """L2: with several sets and nodes covered, the log does not grow."""
        world = fleet_of_five
        world.add_nodes(20)
        await world.apply(GPU)
        await world.apply(make_set("third"))
        await world.covered()
        end = world.log.sequence
        await world.silent()
        assert end == world.log.sequence
        assert world.log.of(Tick) == []

    async def test_time_alone_brings_what_is_due(self, fleet_of_five: World) -> None:
        """L1, L2: pods become available by a tick after minReadySeconds, and then it is silent."""
        world = fleet_of_five
        waiting = make_set("waiting", min_ready_seconds=1)
        await world.apply(waiting)
        await world.covered()
        await world.until(
            lambda: world.log.statuses[waiting.key].number_available == 5, "all are available"
        )
        await world.silent()

    async def test_an_empty_fleet_is_silent(self, world: World) -> None:
        """L2: a worker that was there before any node, and a set without nodes, write no decision over and over."""
        worker = await world.start_worker()
        await world.start_host()
        await world.apply(SET)
        await world.covered()
        await world.silent()
        world.add_nodes(2)
        await world.covered()
        assert worker.worker.counts.refused == 0


class TestTwoWorkers:
    """Neither hears of the other, so both decide for every set; the fence decides between them."""

    async def test_the_fence_keeps_two_workers_apart(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """S1, S4, S5, S6: exactly covered, refusals counted, and no command decided twice."""
        monkeypatch.setattr(Peers, "hear", lambda *_: False)
        world.add_nodes(120)
        first, second = await world.start_worker("first"), await world.start_worker("second")
        await world.start_host()
        sets = [await world.apply(make_set(f"set-{number}")) for number in range(6)]
        await world.covered()
        assert [120] * 6 == [len(world.pods(applied.daemonset)) for applied in sets]
        ids = [command.id for command in world.log.creates()]
        assert len(ids) == len(set(ids)) == 720
        assert first.worker.counts.refused + second.worker.counts.refused > 0
        assert 720 == first.worker.counts.creates + second.worker.counts.creates
        deciders = {decision.worker for _, decision in world.log.of(Decision)}
        assert deciders <= {"first", "second"}
        world.assert_accounted_for()
        await world.silent()

    async def test_each_create_was_for_a_node_that_was_eligible_then(self, world: World) -> None:
        """S2: with labels that change all the time, no create is for a node that its decision's basis did not allow."""
        world.add_nodes(30)
        await world.start_worker("first")
        await world.start_worker("second")
        await world.start_host()
        await world.apply(GPU)
        for turn in range(12):
            value = "yes" if turn % 2 == 0 else "no"
            for name in list(world.backend.nodes)[turn::3]:
                world.backend.update_labels(name, {"gpu": value})
            seen = world.log.sequence
            await world.until(lambda seen=seen: world.log.sequence > seen, "the log goes on")  # type: ignore[misc]
        await world.covered()
        world.assert_creates_were_eligible(GPU)
        world.assert_accounted_for()
