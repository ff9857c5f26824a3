"""Scenarios from the tests and threads of peers: where pods go, and what becomes of them with their nodes.

Peers are Nomad's system scheduler, Swarm's global orchestrator, Kruise's DaemonSet, wadm, OpenYurt and ECS. Each
docstring names the peer and the scenario; docs/scenarios.md lists all of them and what covers each.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import structs

from everynode.core.commands import CreatePod
from everynode.core.events import StatusReported, Tick
from everynode.core.status import compute_status
from everynode.core.values import DaemonSet, Status, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod, taint
from everynode.testing.situations import (
    AGENT,
    NOTHING,
    SET,
    Asked,
    alike,
    asked,
    pods_on,
    situation,
)
from everynode.testing.world import World

ONE = node("node-0")
ZONED = {"nodeSelector": {"zone": "a"}}
HOUR_MS = 3_600_000


def status_of(world: World) -> Status:
    """Count, as the worker sees it now."""
    world.read(world.worker)
    status = compute_status(world.worker.fleet, SET)
    assert status is not None
    return status


def reason(status: Status, kind: str) -> str:
    """Return the reason of a condition."""
    condition = status.condition(kind)
    assert condition is not None
    return condition.reason


def either_zone(*zones: tuple[str, ...]) -> dict[str, object]:
    """Make a spec with one term of affinity for each group of zones."""
    terms = [
        {"matchExpressions": [{"key": "zone", "operator": "In", "values": list(each)}]}
        for each in zones
    ]
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    return {"affinity": {"nodeAffinity": required}}


# Placement


def test_a_constraint_that_excludes_some_is_no_failure() -> None:
    """Nomad, scenario 3: excluded nodes are counted apart, nothing is degraded and the rollout is complete."""
    world = situation(daemonset(ZONED), [*alike(2, zone="a"), node("b", zone="b")], [])
    world.run()

    status = status_of(world)
    assert {"NodeSelectorMismatch": 1} == status.excluded_nodes
    assert (2, 2, 0) == (
        status.desired_number_scheduled,
        status.number_available,
        status.number_unavailable,
    )
    assert ("AllPodsAvailable", "AsExpected", "RolloutComplete") == (
        reason(status, "Available"),
        reason(status, "Degraded"),
        reason(status, "Progressing"),
    )


def test_all_nodes_filtered_is_said_and_nothing_hangs() -> None:
    """Nomad, wadm and docker/cli, scenario 4: without an eligible node the rollout is complete, and why is said."""
    world = situation(daemonset(ZONED), alike(3, zone="b"), [])
    world.run()

    status = status_of(world)
    assert (0, {"NodeSelectorMismatch": 3}) == (
        status.desired_number_scheduled,
        status.excluded_nodes,
    )
    assert "RolloutComplete" == reason(status, "Progressing")


def test_the_same_spec_again_does_nothing() -> None:
    """Nomad, scenario 5, L2: what was applied already asks for nothing."""
    world = situation(AGENT, alike(3), [])
    world.run()

    world.apply(AGENT)

    assert NOTHING == asked(world)


def test_the_last_matching_node_loses_its_label() -> None:
    """wadm, scenario 7, L1: the instance goes although no other node matches that could speak for the set."""
    world = situation(daemonset(ZONED), [node("node-0", zone="a"), node("other")], [])
    world.run()
    world.put_node(node("node-0"))
    world.run()

    assert {} == world.pods


def test_two_overlapping_selectors_give_one() -> None:
    """wadm, scenario 8, S1: a node that two terms of affinity match gets one pod."""
    spec = either_zone(("a",), ("a", "b"))
    world = situation(daemonset(spec), [node("node-0", zone="a"), node("node-1", zone="b")], [])
    world.run()

    assert ["node-0", "node-1"] == sorted(running.node for running in world.pods.values())


def test_resources_are_exhausted_on_one_node() -> None:
    """Nomad, scenario 11, L3: the pod that cannot start waits on its node, others are served, nothing is made anew."""
    world = situation(AGENT, alike(3), [])
    world.decide()
    while world.queue:
        world.start_ready = world.queue[0].node != "node-1"
        world.carry_out()
    waiting = next(found for found in world.pods.values() if found.node == "node-1")
    assert "Pending" == waiting.phase
    assert NOTHING == asked(world)
    assert {"NotReady": 1} == status_of(world).waiting_nodes

    world.change_pod(waiting.key, phase="Running", ready=True)

    assert NOTHING == asked(world)
    assert 3 == status_of(world).number_available


def test_a_backend_that_is_removed_from_the_spec_loses_its_pods() -> None:
    """Nomad, scenario 13 (a data center is removed from the job): pods stop there, and only there."""
    nodes = [node("node-0"), node("node-1", backend="west")]
    world = situation(AGENT, nodes, [])
    world.run()
    kept = next(found for found in world.pods.values() if found.backend == "east")

    world.apply(structs.replace(AGENT, backend="east", generation=2))
    world.run()

    assert [kept] == list(world.pods.values())


def test_a_change_of_placement_in_the_template_is_a_new_revision() -> None:
    """Swarm, scenario 14: there, instances that still match are not restarted by a change of placement alone.

    We differ, as Kubernetes does: node selector and affinity are part of the pod template, and so of the revision. With
    OnDelete nothing restarts; where a set may be at all (its backend) is no part of it, and restarts nothing.
    """
    nodes = alike(2, zone="a")
    rolling = UpdateStrategy(type="RollingUpdate")
    world = situation(daemonset({}, update_strategy=rolling), nodes, [])
    world.run()
    before = set(world.pods)

    world.apply(daemonset({}, update_strategy=rolling, generation=2, backend="east"))
    world.run()
    assert before == set(world.pods)

    world.apply(daemonset(ZONED, generation=3))
    world.run()
    assert before == set(world.pods)

    world.apply(daemonset(ZONED, update_strategy=rolling, generation=4))
    world.run()
    assert not before & set(world.pods)


# Nodes


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        pytest.param({"ready": False}, [], id="down"),
        pytest.param({"unschedulable": True}, [], id="drain"),
        pytest.param({"unschedulable": True, "ready": False}, [], id="drain and down"),
        pytest.param({"labels": {"heartbeat": "2"}}, [], id="update without change"),
        pytest.param(
            {"taints": (taint("drain:NoExecute"),)}, ["UntoleratedTaint"], id="drained by a taint"
        ),
    ],
)
def test_a_node_goes_down_or_is_drained(change: dict[str, object], wanted: list[str]) -> None:
    """Nomad, scenario 33: only a taint that evicts takes the pod away.

    We differ for nodes that are down: Nomad counts their instances as lost and stops them. Here, as in Kubernetes, a
    pod on a node that cannot be reached stays the node's pod until the node is gone or somebody taints it.
    """
    world = situation(AGENT, [ONE], [])
    world.run()

    world.put_node(structs.replace(ONE, **change))

    assert wanted == [why for _, why in asked(world).deletes]
    assert [] == asked(world).creates


def test_a_node_is_drained_before_the_plan_is_carried_out() -> None:
    """Nomad, scenario 34, S6, L1: a create that was decided for a node that has gone comes to nothing."""
    world = situation(AGENT, alike(2), [])
    assert ["node-0", "node-1"] == asked(world).creates

    world.remove_node(ONE.key)
    outcomes = []
    while world.queue:
        outcomes.append(world.carry_out())
    world.put_node(node("node-1", "drain:NoExecute"))

    assert ["superseded", "done"] == [item.result for item in outcomes if item is not None]
    world.run()
    assert {} == world.pods


def test_a_drain_is_lifted() -> None:
    """Nomad #1104 and #27495, scenario 35, L1: a node that is eligible again gets its pod again."""
    world = situation(AGENT, [ONE], [])
    world.run()
    world.put_node(node("node-0", "drain:NoExecute"))
    world.run()
    assert {} == world.pods

    world.put_node(ONE)
    world.run()

    assert ["node-0"] == [running.node for running in world.pods.values()]


def test_availability_goes_round() -> None:
    """Swarm, scenario 36: active, pause (nothing new, what runs stays), drain (it goes), active; down, up."""
    world = situation(AGENT, [ONE], [])
    world.run()
    (first,) = world.pods

    world.put_node(node("node-0", "pause:NoSchedule"))
    assert NOTHING == asked(world)
    world.put_node(node("node-0", "pause:NoSchedule", "drain:NoExecute"))
    assert [(first.name, "UntoleratedTaint")] == asked(world).deletes
    world.carry_out()
    world.put_node(node("node-0", "pause:NoSchedule"))
    assert NOTHING == asked(world)  # what went stays away
    world.put_node(ONE)
    assert Asked(["node-0"], []) == asked(world)
    world.carry_out()
    world.set_node_ready(ONE.key, ready=False)
    assert NOTHING == asked(world)
    world.set_node_ready(ONE.key, ready=True)
    assert NOTHING == asked(world)


def _disconnect(world: World) -> None:
    world.set_node_ready(ONE.key, ready=False)


def _reconnect(world: World) -> None:
    world.set_node_ready(ONE.key, ready=True)


def _template_changes(world: World) -> None:
    world.apply(daemonset({"image": "v2"}, generation=2))


def _pod_ends(world: World) -> None:
    world.change_pod(next(iter(world.pods)), phase="Failed", ready=False)


def _node_goes(world: World) -> None:
    world.remove_node(ONE.key)


def _set_goes(world: World) -> None:
    world.delete(SET)


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        pytest.param([_disconnect], [], id="running-disconnect"),
        pytest.param([_disconnect, _reconnect], [], id="running-reconnect"),
        pytest.param([_disconnect, _template_changes], [], id="update-job-version"),
        pytest.param([_disconnect, _pod_ends], ["PodFailed"], id="failed-disconnect"),
        pytest.param([_disconnect, _node_goes], ["NodeGone"], id="unknown-expired"),
        pytest.param([_disconnect, _set_goes], ["SetDeleted"], id="stopped"),
        pytest.param([_disconnect, _set_goes, _reconnect], ["SetDeleted"], id="stopped-reconnect"),
    ],
)
def test_a_node_is_disconnected(events: list[Callable[[World], None]], wanted: list[str]) -> None:
    """Nomad, scenario 37: what is asked for a pod on a node that cannot be reached.

    Nomad has a state "unknown" with a deadline of its own. Here a node that is not ready is as any other for
    placement, and its pods are replaced when it is said to have gone. Rows about migrating do not apply: a pod of a
    set never moves.
    """
    world = situation(AGENT, [ONE], [])
    world.run()
    for event in events:
        event(world)

    assert Asked([], [(name.name, why) for name, why in zip(world.pods, wanted, strict=False)]) == (
        asked(world)
    )


def test_reconnecting_twice_changes_nothing() -> None:
    """Nomad, scenario 38, L2: a node that comes and goes keeps its one pod, and nothing is asked for."""
    world = situation(AGENT, [ONE], [])
    world.run()
    (first,) = world.pods
    for _ in range(3):
        _disconnect(world)
        assert NOTHING == asked(world)
        _reconnect(world)
        assert NOTHING == asked(world)

    assert [first] == list(world.pods)


def test_the_next_pod_waits_until_the_last_has_stopped() -> None:
    """ECS, scenario 40, S1: "not running" is not "stopped": the successor waits until the pod is gone.

    In which order a node that is drained stops its pods is the backend's business; a set does nothing there.
    """
    world = situation(AGENT, [ONE], [])
    world.run()
    (first,) = world.pods.values()
    world.put_pod(structs.replace(first, deleting=True, ready=False, phase="Unknown"))
    assert NOTHING == asked(world)

    world.remove_pod(first.key)

    assert Asked(["node-0"], []) == asked(world)


# Failures


def test_what_failed_is_known_to_the_next_leader() -> None:
    """Swarm, scenario 42: how often pods failed in a row outlives the worker; so does the rest that the next one has.

    There is no greatest number of attempts: a node without its pod is never right.
    """
    world = situation(AGENT, [ONE], [])
    rests_ms = []
    for _ in range(5):
        begun_ms = world.now_ms
        while not any(found.live for found in world.pods.values()):
            world.worker = world.new_worker("next")
            if not world.decide():
                due = world.worker.due()
                assert due is not None
                world.now_ms = due.time_ms
                world.write(Tick(shard=0, due_ms=0))
            while world.queue:
                world.carry_out()
        rests_ms.append(world.now_ms - begun_ms)
        (key,) = (found.key for found in world.pods.values() if found.live)
        world.change_pod(key, phase="Failed", ready=False)

    assert [0, 0, 1_000, 2_000, 4_000] == rests_ms


def test_a_start_that_fails_for_ever_is_no_tight_loop() -> None:
    """Wadm #253, scenario 44, L3: in an hour it is tried some thirty times, and the other nodes have their pods."""
    world = situation(AGENT, alike(3), [])
    tries = 0
    begun_ms = world.now_ms
    while world.now_ms < begun_ms + HOUR_MS:
        world.decide()
        while world.queue:
            works = world.queue[0].node != "node-1"
            tries += not works
            world.carry_out(works=works)
        world.read(world.worker)
        due = world.worker.due()
        world.now_ms = begun_ms + HOUR_MS if due is None else max(world.now_ms, due.time_ms)
        world.write(Tick(shard=0, due_ms=0))

    assert {"node-0", "node-2"} == {running.node for running in world.pods.values()}
    assert 30 <= tries <= 40
    assert "ProgressDeadlineExceeded" == reason(status_of(world), "Degraded")


# Explanations


def _odd(world: World, wanted: DaemonSet) -> None:
    """Bring about what has made counters of others wrong: more pods than nodes, none where there should be some."""
    world.put_pod(pod(wanted, ONE, "extra", created_ms=5))
    world.put_pod(pod(wanted, node("never-heard-of"), "elsewhere"))
    world.remove_node(node("node-1").key)
    world.put_node(node("node-0", "k:NoExecute"))


def test_counts_are_never_negative() -> None:
    """Nomad #7019, scenario 63: whatever is there, no counter is below zero; what is reported could not be, either."""
    world = situation(AGENT, alike(2), pods_on(ONE, 2))
    world.decide()
    _odd(world, AGENT)
    while world.queue:
        world.carry_out()
        world.decide()

    reports = [item.message for item in world.log if isinstance(item.message, StatusReported)]
    numbers = [
        value
        for report in reports
        for field in report.status.__struct_fields__
        if isinstance(value := getattr(report.status, field), int)
    ]
    assert reports
    assert all(value >= 0 for value in numbers)
    creates = [item.message for item in world.log if isinstance(item.message, CreatePod)]
    assert ["node-1"] == [command.node for command in creates]
