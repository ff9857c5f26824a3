"""What explanations say of reasons, opposites, pods of others and nodes; and which messages they are made of."""

from __future__ import annotations

from types import ModuleType

import pytest
from msgspec import structs
from tests.unit.support_explaining import (
    KEY,
    SURGING,
    affine,
    causes,
    covered,
    entries_of,
    explained,
    fill,
    made,
    on_nodes,
    removed,
    the_pod,
)

from everynode.core import claims, decision, eligibility
from everynode.core.commands import AdoptPod
from everynode.core.events import PodGone, PodObserved
from everynode.core.identity import revision_hash
from everynode.core.values import (
    NO_EXECUTE,
    NO_SCHEDULE,
    NodeKey,
    Owner,
    Pod,
    SetKey,
)
from everynode.replay.explaining import explain_nodes
from everynode.replay.explaining_history import History, PodSearch, Scope
from everynode.replay.explaining_reasons import MEANINGS, meaning_of
from everynode.replay.recording import Entry
from everynode.replay.replaying import renaming
from everynode.replay.streams import subject_filter
from everynode.testing.builders import BACKEND, daemonset, node, pod
from everynode.testing.world import World


class TestReasons:
    """Every reason has words."""

    @pytest.mark.parametrize("module", [decision, claims, eligibility])
    def test_every_code(self, module: ModuleType) -> None:
        """A code of the core that has no sentence is found here."""
        codes = {
            value
            for name, value in vars(module).items()
            if name.isupper() and isinstance(value, str) and value.isalpha()
        }

        assert codes
        assert codes <= set(MEANINGS) | {NO_EXECUTE, NO_SCHEDULE}

    def test_unknown(self) -> None:
        """A code of a newer program is said to be unknown; a surge has words of its own."""
        assert "no words" in meaning_of("delete", "Whatever")
        assert meaning_of("create", claims.OUTDATED) != meaning_of("delete", claims.OUTDATED)


class TestOpposites:
    """What would have kept a pod from being made."""

    @pytest.mark.parametrize(
        ("requirement", "said"),
        [
            ({"operator": "In", "values": ["x"]}, "node a did not have label zone=x"),
            (
                {"operator": "In", "values": ["w", "x"]},
                "node a had a label zone that is none of w, x, or none at all",
            ),
            ({"operator": "NotIn", "values": ["y"]}, "node a had label zone=y"),
            ({"operator": "Exists"}, "node a did not have label zone"),
            ({"key": "gpu", "operator": "DoesNotExist"}, "node a had a label gpu"),
            (
                {"key": "size", "operator": "Gt", "values": ["3"]},
                "node a did not have a label size above 3 (it has '5')",
            ),
        ],
    )
    def test_affinity(self, requirement: dict[str, object], said: str) -> None:
        """Each requirement of the one term that the node meets."""
        world = World()
        world.put_node(node("a", zone="x", size="5"))
        world.apply(daemonset(affine([{"key": "zone"} | requirement])))
        world.run()

        assert said in made(explained(world, the_pod(world).name)).opposite.conditions

    def test_several_terms(self) -> None:
        """A node that meets several terms would have had to meet none."""
        world = covered(
            daemonset(
                affine(
                    [{"key": "zone", "operator": "Exists"}],
                    [{"key": "zone", "operator": "In", "values": ["x"]}],
                )
            )
        )

        step = made(explained(world, the_pod(world).name))

        assert "node a met neither zone Exists, nor zone In (x)" in step.opposite.conditions

    def test_one_of_two_terms(self) -> None:
        """A term that the node did not meet is not what made it eligible."""
        world = covered(
            daemonset(
                affine(
                    [{"key": "zone", "operator": "In", "values": ["y"]}],
                    [{"key": "zone", "operator": "In", "values": ["x"]}],
                )
            )
        )

        step = made(explained(world, the_pod(world).name))

        assert (
            "node a did not have label zone=x, and met no other term of the node affinity"
            in step.opposite.conditions
        )

    def test_what_is_to_stay_so(self) -> None:
        """A requirement on the same label that the node meets without having it must go on being met."""
        term: list[dict[str, object]] = [
            {"key": "k", "operator": "Exists"},
            {"key": "k", "operator": "NotIn", "values": ["1"]},
        ]
        world = World()
        world.put_node(node("a", k="2"))
        world.apply(daemonset(affine(term)))
        world.run()
        name = the_pod(world).name
        world.put_node(node("a"))
        world.run()

        step = removed(explained(world, name))

        assert ("node a had a label k", "node a still met k NotIn (1)") == step.opposite.conditions

    def test_three_of_a_kind(self) -> None:
        """The youngest of three would go as long as any other is there; with a surge, any other of its kind."""
        world = covered(daemonset(update_strategy=SURGING), "a")
        first = the_pod(world)
        for number, name in enumerate(("second", "third"), 1):
            made_ms = world.now_ms + number
            world.put_pod(
                pod(daemonset(), node("a"), name, revision=first.revision, created_ms=made_ms)
            )
        newest = pod(daemonset(), node("a"), "new", revision="new", created_ms=world.now_ms)
        world.put_pod(newest)
        world.run()

        (condition, *_) = removed(explained(world, "third")).opposite.conditions

        assert f"pods {first.name} and second were not on node a, too" == condition

    def test_taints(self) -> None:
        """A taint that is not tolerated; what is tolerated is said, and if that is all."""
        some = covered(
            daemonset({"tolerations": [{"key": "k", "value": "v", "effect": "NoExecute"}]})
        )
        every = covered(daemonset({"tolerations": [{"operator": "Exists"}]}))

        told = [made(explained(world, the_pod(world).name)) for world in (some, every)]

        assert any("(it tolerates k=v:NoExecute, " in each for each in told[0].opposite.conditions)
        assert any("did not tolerate every taint" in each for each in told[1].opposite.conditions)


class TestOfOthers:
    """Pods that no decision of this fleet made."""

    def test_adopted(self) -> None:
        """An orphan that a set took: nobody here made it, a decision adopted it."""
        world = World()
        world.put_node(node("a"))
        found_there = pod(daemonset(), node("a"), "orphan")
        world.put_pod(structs.replace(found_there, owner=None, labels={"app": "agent"}))
        world.apply(daemonset())
        world.run()

        found = explained(world, "orphan")

        assert found.made is None
        assert any("no decision made it that the log has" in note for note in found.notes)
        assert found.adopted is not None
        assert isinstance(found.adopted.command, AdoptPod)
        assert ["DaemonSet default/agent applied, generation 1"] == causes(found.adopted)
        assert "somebody controlled it" in found.adopted.opposite.conditions
        assert found.removed is None

    def test_an_orphan(self) -> None:
        """Nobody controls it: nothing but who told of it is said."""
        world = covered()
        lone = structs.replace(pod(daemonset(), node("a"), "lone"), owner=None, labels={})
        world.put_pod(lone)

        found = explained(world, "lone")

        assert (None, None, None) == (found.set_key, found.made, found.adopted)
        assert "no set controls it" in found.notes

    def test_of_a_foreign_set(self) -> None:
        """A set that the fleet does not know."""
        world = covered()
        owner = Owner(name="foreign", uid="uid-foreign")
        world.put_pod(structs.replace(pod(daemonset(), node("a"), "p"), owner=owner))

        found = explained(world, "p")

        assert SetKey("default", "foreign") == found.set_key
        assert any("the log has no set default/foreign" in note for note in found.notes)

    def test_older_than_the_log(self) -> None:
        """What was kept from before the log begins says so: who made it is not known."""
        world = covered(None, "a")
        entries = entries_of(world, kept_until=len(world.log))

        found = explained(world, the_pod(world).name, entries)

        assert found.made is None
        assert 0 == found.first.time_ms
        assert any("older than what the log still has" in note for note in found.notes)

    def test_a_cause_older_than_the_log(self) -> None:
        """A decision whose cause was kept: it is named, and that earlier ones are not known."""
        world = covered(None, "a")
        entries = entries_of(world, kept_until=2)

        step = made(explained(world, the_pod(world).name, entries))

        assert [(2, 0)] == [(fact.sequence, fact.time_ms) for fact in step.causes]
        assert any("older than the log" in note for note in step.notes)

    def test_without_the_decision(self) -> None:
        """A log that begins between a decision and its command: it is said, and nothing invented."""
        world = covered(None, "a")
        entries = [each for each in entries_of(world) if ".decision." not in each.received.subject]

        step = made(explained(world, the_pod(world).name, entries))

        assert (None, None) == (step.decision, step.decided)
        assert any("does not have the decision" in note for note in step.notes)

    def test_another_decision(self) -> None:
        """An earlier decision about the set is not taken for the one that is not there."""
        world = covered(None, "a")
        world.put_node(node("b"))
        before = len(world.log)
        world.run()
        entries = [
            each
            for each in entries_of(world)
            if ".decision." not in each.received.subject or each.received.sequence <= before
        ]

        assert made(explained(world, the_pod(world, "a").name, entries)).decision is not None
        assert made(explained(world, the_pod(world, "b").name, entries)).decision is None

    def test_made_anew_by_somebody_else(self) -> None:
        """A pod under the name of one that we made, with another uid: that decision did not make it."""
        world = covered(None, "a")
        first = the_pod(world)
        world.remove_pod(first.key)
        world.put_pod(structs.replace(first, uid="uid-of-somebody"))

        found = explained(world, first.name)

        assert ("uid-of-somebody", None) == (found.uid, found.made)

    def test_one_that_is_to_come(self) -> None:
        """A pod that is gone, while another of its name is on its way: its own decision is shown."""
        world = covered(None, "a")
        first = the_pod(world)
        world.put_node(node("a", "k:NoExecute", zone="x"))
        world.run()
        world.now_ms += 2 * world.limits.horizon_ms
        world.put_node(node("a", zone="x"))
        world.decide()
        (coming,) = world.queue

        found = explained(world, first.name)

        assert first.name == coming.pod
        assert made(found).told.sequence < found.first.sequence

    def test_a_set_that_a_backend_keeps(self) -> None:
        """Its messages are the backend's."""
        world = covered(structs.replace(daemonset(), origin="cluster"), "a")
        name = the_pod(world).name
        world.delete(KEY)
        world.run()

        found = explained(world, name)

        assert ["backend cluster"] == [each.publisher for each in made(found).causes]
        assert ["backend cluster"] == [each.publisher for each in removed(found).causes]

    def test_only_a_tombstone(self) -> None:
        """A pod of which the log has only that it went."""
        world = covered(None, "a")
        gone = the_pod(world)
        world.remove_pod(gone.key)
        entries = [
            each
            for each in entries_of(world)
            if ".pod." not in each.received.subject or each.received.sequence == len(world.log)
        ]

        found = explained(world, gone.name, entries)

        assert found.pod is None
        assert found.gone is not None
        assert gone.uid == found.uid

    def test_in_another_backend(self) -> None:
        """Two backends with a pod of one name: each is found by its backend."""
        world = covered(None, "a")
        name = the_pod(world).name
        twin = pod(daemonset(), node("a", backend="west"), name)
        world.put_pod(twin)
        search = PodSearch(world.subjects, KEY.namespace, name)
        for entry in entries_of(world):
            if subject_filter(search.patterns())(entry.received.subject):
                search.take(entry)

        assert [BACKEND, "west"] == [key.backend for key in search.found()]
        assert twin.uid == explained(world, name, backend="west").uid
        assert the_pod_in(world, BACKEND).uid == explained(world, name, backend=BACKEND).uid

    def test_from_one_set_to_another(self) -> None:
        """A pod that another set adopted is not gone, and both decisions are told."""
        world = covered(None, "a")
        mine = the_pod(world)
        world.delete(KEY, cascade="orphan")
        world.run()
        heir = structs.replace(daemonset(name="heir"), selector=daemonset().selector)
        world.label_pod(mine.key, {"app": "agent"})
        world.apply(heir)
        world.run()

        found = explained(world, mine.name)

        assert SetKey("default", "heir") == found.set_key
        assert found.gone is None
        assert made(found).command.daemonset == "agent"
        assert found.adopted is not None
        assert found.adopted.command.daemonset == "heir"
        assert removed(found).command.reason == "SetDeletedPodsStay"

    def test_back_to_the_first(self) -> None:
        """A pod that another set had for a while is of the one that controls it now."""
        world = covered(None, "a")
        mine = the_pod(world)
        heir = structs.replace(daemonset(name="heir"), selector=daemonset().selector)
        for leaving, coming in ((KEY, heir), (heir.key, daemonset(uid="back"))):
            world.delete(leaving, cascade="orphan")
            world.run()
            world.label_pod(mine.key, {"app": "agent"})
            world.apply(coming)
            world.run()

        assert KEY == explained(world, mine.name).set_key


def the_pod_in(world: World, backend: str) -> Pod:
    """Return the one pod of a backend."""
    (found,) = (each for each in world.pods.values() if each.backend == backend)
    return found


class TestNodes:
    """How a set stood on a node."""

    def test_as_it_was(self) -> None:
        """Before and after a taint: the verdict, what it rests on, the pods, and the last decision."""
        world = covered(None, "a", "b")
        before = len(world.log)
        name = the_pod(world).name
        world.put_node(node("a", "k:NoExecute", zone="x"))
        tainted = len(world.log)
        world.run()

        (then,), (now,) = on_nodes(world, "a", before) or [], on_nodes(world, "a") or []

        assert then.found.should_run
        assert [(name, True)] == [(each.name, wanted) for each, wanted, _ in then.pods]
        assert ["create"] == [step.command.verb for step in then.steps]
        assert "node a joined" == then.told_node.what
        assert ["UntoleratedTaint"] == [reason.code for reason in now.found.reasons]
        assert tainted == now.told_node.sequence
        assert then.told_set == now.told_set
        assert () == now.pods
        assert ["delete"] == [step.command.verb for step in now.steps]

    def test_what_was_not_there(self) -> None:
        """A set that was not there is told apart from a node that was not."""
        world = covered(None, "a")
        world.remove_node(NodeKey(BACKEND, "a"))

        assert [] == on_nodes(world, "a")
        assert [] == on_nodes(world, "nope")
        assert on_nodes(world, "a", 1) is None

        world.delete(KEY)

        assert on_nodes(world, "a") is None

    def test_another_name_for_a_template(self) -> None:
        """What was taken out of a recording does not make its pods look old."""
        world = covered(None, "a")
        history = History(world.subjects, Scope((KEY,), "a"))
        fill(history, world, entries_of(world))
        now = revision_hash(daemonset().template)

        same = explain_nodes(history, KEY, world.now_ms, renaming({"else": "other"}))
        other = explain_nodes(history, KEY, world.now_ms, renaming({now: "was"}))

        assert [True] == [wanted for _, wanted, _ in (same or [])[0].pods]
        assert [False] == [wanted for _, wanted, _ in (other or [])[0].pods]


class TestReading:
    """Which messages are read, and which are kept."""

    def test_patterns(self) -> None:
        """Wildcards stand for one token, or for the rest."""
        is_one = subject_filter(["a.*.c%2Ed", "x.>"])

        assert [True, False, False, True, False] == [
            is_one(subject) for subject in ("a.b.c%2Ed", "a.b.b.c%2Ed", "a.b.c-2Ed", "x.y.z", "x")
        ]

    def test_only_what_concerns_the_node(self) -> None:
        """What is kept does not grow with the fleet: of other nodes nothing is."""
        small, large = covered(None, "a"), covered(None, "a", *(f"n{i}" for i in range(50)))
        kept = []
        for world in (small, large):
            history = History(world.subjects, Scope((KEY,), "a"))
            fill(history, world, entries_of(world))
            kept.append((len(history.facts), len(history.issued), len(history.outcomes)))

        assert kept[0] == kept[1]

    def test_a_pod_that_only_names_the_node(self) -> None:
        """A label that is the node's name does not bring a pod there."""
        world = covered(None, "a", "b")
        world.put_pod(pod(daemonset(), node("b"), "other", labels={"near": "a"}))
        history = History(world.subjects, Scope((KEY,), "a"))
        fill(history, world, entries_of(world))

        told = [each.record.message for each in history.facts]
        assert {"a"} == {each.pod.node for each in told if isinstance(each, PodObserved)}

    def test_unreadable(self) -> None:
        """Garbage on a subject is passed over."""
        world = covered(None, "a")
        entries = entries_of(world)
        place = next(i for i, each in enumerate(entries) if ".pod." in each.received.subject)
        received = structs.replace(entries[place].received, payload=b'"a" nothing')
        entries.insert(place, Entry(received, is_kept=False))

        assert made(explained(world, the_pod(world).name, entries)).ending.result == "done"


def test_a_reason_that_became_another() -> None:
    """A pod that may not stay, and then for another reason: the need is as old as the first one."""
    world = covered(daemonset({"nodeSelector": {"zone": "x"}}), "a")
    name = the_pod(world).name
    world.put_node(node("a", "k:NoExecute", zone="x"))
    world.put_node(node("a", "k:NoExecute", zone="y"))
    world.run()

    step = removed(explained(world, name))

    assert "NodeSelectorMismatch" == step.command.reason
    assert ["node a: taint k:NoExecute added"] == causes(step)


def test_tombstones_of_other_sets_do_not_end_a_pod() -> None:
    """A pod that changes hands leaves a tombstone on the former owner's subject; it is not gone."""
    world = covered(None, "a")
    mine = the_pod(world)
    world.orphan(mine.key)

    found = explained(world, mine.name)

    assert isinstance(world.log[-1].message, PodGone)
    assert found.gone is None
    assert "no set controls it any more; default/agent did" in found.notes
