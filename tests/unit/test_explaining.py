"""Why a pod is there, or gone: the decision, and the message that brought it about."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec import structs
from tests.unit.support_explaining import (
    KEY,
    ROLLING,
    SURGING,
    affine,
    causes,
    covered,
    entries_of,
    explained,
    made,
    removed,
    the_pod,
)

from everynode.core.commands import CreatePod, DeletePod, ReleasePod, outcome_of
from everynode.core.events import PodObserved
from everynode.core.identity import revision_hash
from everynode.core.pacing import Limits
from everynode.core.values import (
    Node,
    NodeKey,
    Selector,
    UpdateStrategy,
)
from everynode.testing.builders import BACKEND, daemonset, node, pod
from everynode.testing.world import World


class TestMade:
    """Why a pod was made."""

    def test_a_set_is_applied(self) -> None:
        """Everything about the first pod of a set on a node."""
        world = covered(daemonset({"nodeSelector": {"zone": "x"}}), "a")
        running = the_pod(world)

        found = explained(world, running.name)
        step = made(found)

        assert (running.key, running.uid, NodeKey(BACKEND, "a"), KEY) == (
            found.key,
            found.uid,
            found.node_key,
            found.set_key,
        )
        assert found.pod == running
        assert (None, None, None, ()) == (found.gone, found.adopted, found.removed, found.notes)
        assert isinstance(step.command, CreatePod)
        assert step.decision is not None
        assert step.decided is not None
        assert 2 == step.decision.basis
        assert 3 == step.decided.sequence
        assert "worker first" == step.decided.publisher == step.told.publisher
        assert ["DaemonSet default/agent applied, generation 1"] == causes(step)
        assert ("applied to the fleet", 2) == (step.causes[0].publisher, step.causes[0].sequence)
        assert "done" == step.ending.result
        assert step.ending.fact is not None
        assert f"adapter of backend {BACKEND}" == step.ending.fact.publisher
        assert not step.opposite.together
        assert "node a did not have label zone=x" in step.opposite.conditions
        assert "node a had a pod of the set already" in step.opposite.conditions
        assert ("slow start: at most 1 pod could be on their way on backend east",) == step.notes

    @pytest.mark.parametrize(
        ("before", "after", "said"),
        [
            (node("c"), node("c", zone="x"), "node c: label zone=x added"),
            (node("c", zone="y"), node("c", zone="x"), "label zone changed from 'y' to 'x'"),
            (
                node("c", "k=v:NoSchedule", zone="x"),
                node("c", zone="x"),
                "node c: taint k=v:NoSchedule removed",
            ),
            (None, node("c", zone="x"), "node c joined"),
        ],
    )
    def test_a_node_becomes_eligible(self, before: Node | None, after: Node, said: str) -> None:
        """The message of the node is the cause, and what it changed is said."""
        world = covered(daemonset({"nodeSelector": {"zone": "x"}}))
        if before is not None:
            world.put_node(before)
            world.run()
        world.put_node(after)
        changed = len(world.log)
        world.put_node(structs.replace(after, labels=after.labels | {"o": "k"}))
        world.run()

        step = made(explained(world, the_pod(world, "c").name))

        assert [changed] == [fact.sequence for fact in step.causes]
        assert said in step.causes[0].what
        assert f"adapter of backend {BACKEND}" == step.causes[0].publisher

    def test_a_pod_vanishes(self) -> None:
        """Somebody deleted the pod before it: the tombstone is the cause."""
        world = covered()
        world.remove_pod(the_pod(world).key)
        world.run()

        step = made(explained(world, the_pod(world).name))

        assert 1 == len(step.causes)
        assert "gone: it went" in step.causes[0].what

    def test_a_pod_fails(self) -> None:
        """A pod that ended was taken away: that, and how many ended before."""
        world = covered()
        first = the_pod(world)
        world.change_pod(first.key, phase="Failed", ready=False)
        world.run()

        taken = removed(explained(world, first.name))
        step = made(explained(world, the_pod(world).name))

        assert [f"pod {first.name}: Failed"] == causes(taken)
        assert "PodFailed" == taken.command.reason
        assert ("its containers had not ended",) == taken.opposite.conditions
        assert [f"delete of pod {first.name} asked for, attempt 0: PodFailed"] == causes(step)[:1]
        assert "gone" in causes(step)[1]
        assert "pods that ended on this node before it, one after the other: 1" in step.notes

    @pytest.mark.parametrize("comes_after_ms", [(), (0,), (0, 5_000)])
    def test_a_pod_that_rested(self, comes_after_ms: tuple[int, ...]) -> None:
        """The second that fails stays for a while: time alone makes room then."""
        world = covered()
        for _ in range(2):
            last = the_pod(world)
            world.change_pod(last.key, phase="Failed", ready=False)
            for _ in range(2):  # it goes, and another comes
                world.decide()
                world.carry_out()
        for after_ms in comes_after_ms:  # while it rests or later: it has nothing to do with it
            world.now_ms += after_ms
            world.put_node(node("a", zone="x", after=str(after_ms)))
        world.now_ms += 5_000
        world.run()

        step = removed(explained(world, last.name))

        assert [f"pod {last.name}: Failed"] == causes(step)
        assert "it was time alone that brought it about after that" in step.notes
        assert any("stayed until 1 s after it was made" in note for note in step.notes)

    def test_a_try_that_failed(self) -> None:
        """The second try says what became of the first."""
        world = World()
        world.put_node(node("a"))
        world.apply(daemonset())
        world.decide()
        world.carry_out(works=False)
        failed = len(world.log)
        world.run()

        step = made(explained(world, the_pod(world).name))

        assert 1 == step.command.attempt
        assert [2, failed] == [fact.sequence for fact in step.causes]
        assert causes(step)[1].endswith("attempt 0: failed: the backend would not")

    def test_a_try_that_nobody_heard_of(self) -> None:
        """One that expired says so."""
        world = World(Limits(pending_ms=1_000))
        world.put_node(node("a"))
        world.apply(daemonset())
        world.decide()
        (lost,) = world.queue
        world.queue.clear()
        world.run()

        step = made(explained(world, the_pod(world).name))

        assert f"create of pod {lost.pod}, attempt 0: expired" == causes(step)[-1]

    def test_a_try_of_which_nothing_was_seen(self) -> None:
        """One that is said to be done, and no pod came."""
        world = World()
        world.put_node(node("a"))
        world.apply(daemonset())
        world.decide()
        world.write(outcome_of(world.queue.pop(), "done"))
        world.run()

        step = made(explained(world, the_pod(world).name))

        assert causes(step)[-1].endswith("attempt 0: said to be done, and nothing was seen of it")

    def test_still_pending(self) -> None:
        """A create that was carried out and not answered yet, and not expired."""
        world = covered(None, "a")
        entries = [each for each in entries_of(world) if ".outcome." not in each.received.subject]

        step = made(explained(world, the_pod(world).name, entries))

        assert ("pending", None) == (step.ending.result, step.ending.fact)

    def test_the_same_name_again(self) -> None:
        """A pod of the same name that came later is told apart from the one before it."""
        world = covered()
        first = the_pod(world)
        world.put_node(node("a", "k:NoExecute", zone="x"))
        world.run()
        world.now_ms += 2 * world.limits.horizon_ms
        world.put_node(node("a", zone="x"))
        world.run()
        second = the_pod(world)

        found = explained(world, second.name)

        assert first.name == second.name
        assert first.uid != second.uid == found.uid
        assert [first.uid] == [uid for uid, _, _ in found.earlier]
        assert ["node a: taint k:NoExecute removed"] == causes(made(found))
        assert found.removed is None


class TestRemoved:
    """Why a pod is gone."""

    @pytest.mark.parametrize(
        ("spec", "changed", "code", "conditions"),
        [
            (
                {},
                node("a", "k=v:NoExecute", "s:NoSchedule"),
                "UntoleratedTaint",
                ("the set tolerated taint k=v:NoExecute, or node a did not have it",),
            ),
            (
                {"nodeSelector": {"zone": "x", "os": "l"}},
                node("a", zone="y"),
                "NodeSelectorMismatch",
                (
                    "node a had label os=l (it has none)",
                    "node a had label zone=x (it has 'y')",
                ),
            ),
            (
                affine([{"key": "zone", "operator": "NotIn", "values": ["y", "z"]}]),
                node("a", zone="y"),
                "NodeAffinityMismatch",
                ("node a did not have label zone=y",),
            ),
            (
                affine(
                    [{"key": "zone", "operator": "In", "values": ["x"]}],
                    [{"key": "os", "operator": "In", "values": ["l"]}],
                ),
                node("a", zone="y"),
                "NodeAffinityMismatch",
                ("node a met zone In (x), or os In (l)",),
            ),
        ],
    )
    def test_the_node_changes(
        self, spec: dict[str, object], changed: Node, code: str, conditions: tuple[str, ...]
    ) -> None:
        """The node's message is the cause, and all that had to be otherwise is named."""
        world = World()
        world.put_node(node("a", zone="x", os="l"))
        world.apply(daemonset(spec))
        world.run()
        name = the_pod(world).name
        world.put_node(changed)
        at = len(world.log)
        world.run()

        found = explained(world, name)
        step = removed(found)

        assert (code, [at]) == (step.command.reason, [fact.sequence for fact in step.causes])
        assert step.opposite.together
        assert conditions == step.opposite.conditions
        assert found.gone is not None
        assert () == found.notes

    def test_the_set_changes(self) -> None:
        """A template for other nodes takes the pod away: by the set's message."""
        world = covered()
        name = the_pod(world).name
        world.apply_changed(daemonset({"nodeSelector": {"zone": "y"}}))
        world.run()

        step = removed(explained(world, name))

        assert ["DaemonSet default/agent applied, generation 2: template changed"] == causes(step)

    @pytest.mark.parametrize(
        ("act", "code", "verb", "condition"),
        [
            (lambda world: world.delete(KEY), "SetDeleted", DeletePod, "with --cascade orphan"),
            (
                lambda world: world.delete(KEY, cascade="orphan"),
                "SetDeletedPodsStay",
                ReleasePod,
                "set default/agent had not been deleted",
            ),
            (
                lambda world: world.label_pod(the_pod(world).key, {"app": "other"}),
                "SelectorMismatch",
                ReleasePod,
                "its labels met app In (agent) (it has app=other)",
            ),
            (
                lambda world: world.remove_node(NodeKey(BACKEND, "a")),
                "NodeGone",
                DeletePod,
                "node a had stayed in the fleet (with uid uid-east-a)",
            ),
            (
                lambda world: (world.delete(KEY), world.apply(daemonset(uid="another"))),
                "OwnerReplaced",
                DeletePod,
                "set default/agent had not been deleted and made anew",
            ),
        ],
    )
    def test_other_reasons(
        self, act: Callable[[World], object], code: str, verb: type, condition: str
    ) -> None:
        """Each reason, with the message that brought it about and what would have kept the pod."""
        world = covered(None, "a")
        name = the_pod(world).name
        act(world)
        at = len(world.log)
        world.run()

        step = removed(explained(world, name))

        assert (code, verb) == (step.command.reason, type(step.command))
        assert at - 1 <= step.causes[-1].sequence <= at
        assert any(condition in each for each in step.opposite.conditions)

    def test_duplicates(self) -> None:
        """Of two, the one that goes is told which one stays."""
        world = covered(None, "a")
        first = the_pod(world)
        world.put_pod(pod(daemonset(), node("a"), "late", created_ms=world.now_ms))
        at = len(world.log)
        world.run()

        found = explained(world, "late")
        step = removed(found)

        assert ("Duplicate", [at]) == (step.command.reason, [each.sequence for each in step.causes])
        assert f"pod {first.name} were not on node a, too" in step.opposite.conditions
        assert found.made is None
        assert any("no decision made it" in note for note in found.notes)

    def test_of_two_reasons_the_one_that_was_given(self) -> None:
        """A duplicate that goes because its node is no place for it any more: the node's message is the cause."""
        world = covered(None, "a")
        first = the_pod(world)
        world.put_pod(pod(daemonset(), node("a"), "late", created_ms=world.now_ms))
        world.put_node(node("a", "k:NoExecute", zone="x"))
        at = len(world.log)
        world.run()

        step = removed(explained(world, "late"))

        assert "UntoleratedTaint" == step.command.reason
        assert [at] == [fact.sequence for fact in step.causes]
        assert step.opposite.together
        assert (
            f"pod {first.name} were not on node a, too" in step.opposite.conditions
        )  # tolerated, it would go as a duplicate

    def test_nobody_of_ours(self) -> None:
        """A pod that went without a decision of ours: the adapter told."""
        world = covered()
        gone = the_pod(world)
        world.remove_pod(gone.key)

        found = explained(world, gone.name)

        assert found.removed is None
        assert found.gone is not None
        assert any("no decision removed it" in note for note in found.notes)


class TestRollouts:
    """Why a pod was replaced, and when."""

    @staticmethod
    def updated(strategy: UpdateStrategy) -> tuple[World, list[str]]:
        """Cover three nodes, and change the template; returns the names of the old pods."""
        world = covered(daemonset(update_strategy=strategy), "a", "b", "c")
        old = sorted(each.name for each in world.pods.values())
        world.apply_changed(daemonset({"hostNetwork": True}, update_strategy=strategy))
        world.run()
        return world, old

    def test_an_old_pod(self) -> None:
        """The generation that made it old, the budget, both revisions, and what would have kept it."""
        world, old = self.updated(ROLLING)

        steps = [removed(explained(world, name)) for name in old]

        for step in steps:
            assert "OutdatedRevision" == step.command.reason
            assert ["DaemonSet default/agent applied, generation 2: template changed"] == causes(
                step
            )
            assert any(
                "maxUnavailable 1 allows 1 of 3 nodes; 0 had no" in note for note in step.notes
            )
            was, now = revision_hash(daemonset().template), world.sets[KEY].template
            assert (
                f"the pod was of revision {was}; the set's was {revision_hash(now)}" in step.notes
            )
            assert "the update strategy were OnDelete" in step.opposite.conditions
            assert "maxUnavailable (1) were used up by other nodes" in step.opposite.conditions

    def test_the_new_pod(self) -> None:
        """It was made because the old one went, and that because it was old."""
        world, _ = self.updated(ROLLING)

        step = made(explained(world, the_pod(world).name))

        assert "NodeHasNoPod" == step.command.reason
        assert causes(step)[0].endswith("attempt 0: OutdatedRevision")
        assert "gone" in causes(step)[1]

    def test_resumed(self) -> None:
        """A rollout that was paused: the generation that made the pod old, and the one that resumed."""
        strategy = structs.replace(ROLLING, paused=True)
        world, old = self.updated(strategy)
        assert old == sorted(each.name for each in world.pods.values())
        world.apply_changed(structs.replace(world.sets[KEY], update_strategy=ROLLING))
        world.run()

        step = removed(explained(world, old[0]))

        assert [
            "DaemonSet default/agent applied, generation 2: template changed",
            "DaemonSet default/agent applied, generation 3: rollout resumed",
        ] == causes(step)

    def test_chosen(self) -> None:
        """A rollout for some nodes only: the node became one of them."""
        strategy = structs.replace(ROLLING, selector=Selector(match_labels={"zone": "y"}))
        world, old = self.updated(strategy)
        world.put_node(node("a", zone="y"))
        world.run()

        step = removed(explained(world, next(name for name in old if node_of(world, name) == "a")))

        assert ["DaemonSet default/agent applied, generation 2: template changed"] == causes(step)[
            :1
        ]
        assert ["node a: label zone changed from 'x' to 'y'"] == causes(step)[1:]

    def test_surge(self) -> None:
        """With a surge the new pod comes first, because of the template; the old one goes once that is ready."""
        world, old = self.updated(SURGING)

        added = made(explained(world, the_pod(world).name))
        gone = removed(explained(world, next(name for name in old if node_of(world, name) == "a")))

        assert "OutdatedRevision" == added.command.reason
        assert ["DaemonSet default/agent applied, generation 2: template changed"] == causes(added)
        assert any("maxSurge 1 lets 1 node have" in note for note in added.notes)
        assert 2 == len(gone.causes)
        assert f"pod {the_pod(world).name}" in causes(gone)[1]
        assert f"pod {the_pod(world).name} were not available yet" in gone.opposite.conditions
        assert "maxSurge (1) were used up by other nodes" in added.opposite.conditions

    def test_a_broken_pod_is_taken_first(self) -> None:
        """What is not ready costs nothing, and that is said."""
        world = covered(daemonset(update_strategy=ROLLING), "a", "b")
        broken = the_pod(world, "b")
        world.change_pod(broken.key, phase="Running", ready=False)
        world.apply_changed(daemonset({"hostNetwork": True}, update_strategy=ROLLING))
        world.run()

        step = removed(explained(world, broken.name))

        assert "the pod was not ready: to replace it took nothing from the budget" in step.notes
        assert not any("used up" in each for each in step.opposite.conditions)


def node_of(world: World, name: str) -> str:
    """Return where a pod is or was."""
    return next(
        record.message.pod.node
        for record in world.log
        if isinstance(record.message, PodObserved) and record.message.pod.name == name
    )
