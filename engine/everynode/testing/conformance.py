"""The conformance kit: what every adapter must pass, ours first.

An adapter author subclasses ``AdapterConformance`` in a pytest module and supplies a ``Harness``: how to make the
adapter, and how to look at the backend and act on it past the adapter, as an outsider. docs/adapters.md shows one. The
kit knows only ``everynode.ports`` and ``everynode.core``: no log is needed.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest
import pytest_asyncio

from everynode.core.events import NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, NodeKey
from everynode.ports import Adapter, ListBegun, ListEnded
from everynode.testing.harness import (
    FAILURES,
    GENERATION,
    Harness,
    SeenPod,
    Watch,
    adopt_command,
    apply,
    by_another_set,
    create_command,
    delete_command,
    listed,
    observed,
    release_command,
    require,
    seen,
    some_nodes,
)

__all__ = ["AdapterConformance", "Harness", "SeenPod"]

SIMULTANEOUS_CALLS = 8
ORPHAN_LABELS = {"app": "conformance", "tier": "orphan"}


@pytest.mark.asyncio
class AdapterConformance(abc.ABC):
    """The cases. Subclass it under a name that begins with ``Test``."""

    @abc.abstractmethod
    async def make_harness(self) -> Harness:
        """Make a backend to test; each case gets one of its own, and closes it."""

    @pytest_asyncio.fixture
    async def harness(self) -> AsyncGenerator[Harness]:
        """One backend for one case."""
        harness = await self.make_harness()
        yield harness
        await harness.close()

    # --- what is ------------------------------------------------------------------------------------------------------

    async def test_it_says_who_it_is(self, harness: Harness) -> None:
        """Two adapters of one backend have the same name and the same identity."""
        first, second = await harness.make_adapter(), await harness.make_adapter()
        assert first.backend
        assert first.identity
        assert (first.backend, first.identity) == (second.backend, second.identity)
        assert isinstance(first, Adapter)

    async def test_lists_come_first_nodes_before_pods(self, harness: Harness) -> None:
        """Observing begins with a complete list of nodes, then one of pods, each in its brackets."""
        async with Watch(await harness.make_adapter()) as watch:
            brackets = [one for one in watch.said if isinstance(one, ListBegun | ListEnded)]
            assert brackets[:4] == [
                ListBegun("nodes"),
                ListEnded("nodes"),
                ListBegun("pods"),
                ListEnded("pods"),
            ]
            assert isinstance(watch.said[0], ListBegun)
            assert all(isinstance(one, NodeObserved) for one in listed(watch.said, "nodes"))
            assert all(isinstance(one, PodObserved) for one in listed(watch.said, "pods"))

    async def test_the_list_names_every_node(self, harness: Harness) -> None:
        """The list of nodes names the backend's nodes, all of them and no other, each with a uid of its own."""
        adapter = await harness.make_adapter()
        async with Watch(adapter) as watch:
            named = [
                one.node for one in listed(watch.said, "nodes") if isinstance(one, NodeObserved)
            ]
            assert sorted(await harness.node_names()) == sorted(node.name for node in named)
            assert {adapter.backend} == {node.backend for node in named}
            assert len(named) == len({node.uid for node in named})

    async def test_the_list_names_every_pod(self, harness: Harness) -> None:
        """A pod that was created before is in the list of pods, as what it was created for."""
        adapter, nodes = await some_nodes(harness, 2)
        creates = [create_command(harness, node) for node in nodes]
        outcomes = [await apply(adapter, create) for create in creates]
        async with Watch(await harness.make_adapter()) as watch:
            named = {
                (one.pod.key, one.pod.uid, one.pod.node)
                for one in listed(watch.said, "pods")
                if isinstance(one, PodObserved)
            }
            for create, outcome in zip(creates, outcomes, strict=True):
                assert (create.pod_key, outcome.pod_uid, create.node) in named

    async def test_it_lists_again_when_observed_again(self, harness: Harness) -> None:
        """Observing anew, after an end at any point, begins with lists that are complete again."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        await apply(adapter, create)
        observing = adapter.observe(Watch(adapter))
        await anext(observing)
        close = getattr(observing, "aclose", None)
        if close is not None:
            await close()
        async with Watch(adapter) as watch:
            assert sorted(await harness.node_names()) == sorted(key.name for key in watch.nodes)
            assert create.pod_key in watch.pods

    # --- creating -----------------------------------------------------------------------------------------------------

    async def test_a_create_makes_its_pod(self, harness: Harness) -> None:
        """A create makes exactly one pod, under the name and on the node that it says."""
        adapter, (node, _) = await some_nodes(harness, 2)
        before = await harness.pods()
        create = create_command(harness, node)
        outcome = await apply(adapter, create)
        assert outcome.result == "done"
        assert (outcome.id, outcome.verb) == (create.id, "create")
        assert outcome.set_key == create.set_key
        made = [pod for pod in await harness.pods() if pod not in before]
        assert [(harness.namespace, create.pod, outcome.pod_uid, node.name)] == made

    async def test_a_created_pod_is_observed(self, harness: Harness) -> None:
        """A created pod comes as an event and carries its owner, revision, node and uid."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        async with Watch(adapter) as watch:
            outcome = await apply(adapter, create)
            await watch.until(lambda: create.pod_key in watch.pods, f"pod {create.pod}")
            pod = watch.pods[create.pod_key]
        assert harness.daemonset == pod.owner
        assert (create.revision, node.name, outcome.pod_uid) == (pod.revision, pod.node, pod.uid)
        assert pod.node_uid in {"", node.uid}

    async def test_a_created_pod_says_how_it_came_about(self, harness: Harness) -> None:
        """A created pod carries the generation and the failures of its create, for whoever lists it later."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        await apply(adapter, create)
        pod = await observed(await harness.make_adapter(), create)
        assert (pod.generation, pod.failures) == (GENERATION, FAILURES)

    async def test_a_repeated_create_changes_nothing(self, harness: Harness) -> None:
        """S1: a create that is carried out again is done, with the same pod."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        first = await apply(adapter, create)
        again = await apply(adapter, create)
        other = await apply(await harness.make_adapter(), create)
        assert [first.result, again.result, other.result] == ["done"] * 3
        assert {first.pod_uid} == {again.pod_uid, other.pod_uid}
        assert [first.pod_uid] == [pod.uid for pod in await harness.pods() if pod.node == node.name]

    async def test_simultaneous_creates_make_one_pod(self, harness: Harness) -> None:
        """S1: creates of the same pod that overlap are all done, with the same pod."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        calls = (apply(adapter, create) for _ in range(SIMULTANEOUS_CALLS))
        outcomes = await asyncio.gather(*calls)
        assert {"done"} == {outcome.result for outcome in outcomes}
        assert len({outcome.pod_uid for outcome in outcomes}) == 1
        assert len([pod for pod in await harness.pods() if pod.node == node.name]) == 1

    async def test_a_create_does_not_take_a_foreign_pod(self, harness: Harness) -> None:
        """A create whose name belongs to someone else's pod is refused, and that pod is left as it was."""
        require(harness.can_add_foreign_pods, "add foreign pods")
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        await harness.add_foreign_pod(harness.namespace, create.pod, node.name)
        before = await seen(harness, create.pod)
        outcome = await apply(adapter, create)
        assert outcome.result == "refused"
        assert outcome.message
        assert before == await seen(harness, create.pod)

    async def test_a_create_for_an_unknown_node_is_refused(self, harness: Harness) -> None:
        """A create for a node that is not there makes no pod, whether its name is unknown or only its uid."""
        adapter, (node, _) = await some_nodes(harness, 2)
        before = await harness.pods()
        for stranger in (
            Node(backend=node.backend, name="no-such-node", uid="no-such-uid"),
            Node(backend=node.backend, name=node.name, uid="no-such-uid"),
        ):
            outcome = await apply(adapter, create_command(harness, stranger))
            assert outcome.result == "refused"
            assert outcome.message
        assert before == await harness.pods()

    # --- deleting -----------------------------------------------------------------------------------------------------

    async def test_a_delete_removes_its_pod(self, harness: Harness) -> None:
        """A delete with the pod's uid is done, and the pod goes, and no other."""
        adapter, nodes = await some_nodes(harness, 2)
        creates = [create_command(harness, node) for node in nodes]
        outcomes = [await apply(adapter, create) for create in creates]
        delete = delete_command(creates[0], outcomes[0].pod_uid)
        async with Watch(adapter) as watch:
            outcome = await apply(adapter, delete)
            await watch.until(lambda: creates[0].pod_key not in watch.pods, "the pod's end")
        assert (outcome.result, outcome.id, outcome.verb) == ("done", delete.id, "delete")
        assert await seen(harness, creates[0].pod) == []
        assert len(await seen(harness, creates[1].pod)) == 1

    async def test_a_repeated_delete_is_done(self, harness: Harness) -> None:
        """A delete of a pod that is gone, or never was, is done."""
        adapter, (node, other) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        outcome = await apply(adapter, create)
        delete = delete_command(create, outcome.pod_uid)
        assert (await apply(adapter, delete)).result == "done"
        assert (await apply(adapter, delete)).result == "done"
        never = delete_command(create_command(harness, other), "no-such-uid")
        assert (await apply(adapter, never)).result == "done"

    async def test_a_delete_spares_the_successor(self, harness: Harness) -> None:
        """A delete with another uid does nothing to the pod that has the name now."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        outcome = await apply(adapter, create)
        late = await apply(adapter, delete_command(create, "the-uid-of-its-predecessor"))
        assert late.result == "done"
        assert [outcome.pod_uid] == [pod.uid for pod in await seen(harness, create.pod)]

    async def test_a_deleted_pod_can_be_created_again(self, harness: Harness) -> None:
        """A create after a delete of the same name makes another pod, with another uid."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        first = await apply(adapter, create)
        await apply(adapter, delete_command(create, first.pod_uid))
        second = await apply(adapter, create)
        assert second.result == "done"
        assert first.pod_uid != second.pod_uid
        assert [second.pod_uid] == [pod.uid for pod in await seen(harness, create.pod)]

    # --- adopting and releasing ---------------------------------------------------------------------------------------

    async def test_an_orphan_is_observed(self, harness: Harness) -> None:
        """A pod that nobody controls is told of, without an owner and with its labels."""
        require(harness.can_add_orphans, "add orphans")
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        await harness.add_orphan(harness.namespace, create.pod, node.name, ORPHAN_LABELS)
        pod = await observed(adapter, create)
        assert (None, node.name) == (pod.owner, pod.node)
        assert pod.labels == ORPHAN_LABELS

    async def test_an_adopted_orphan_is_the_sets(self, harness: Harness) -> None:
        """An adoption is done: the same pod is observed under the set, and so it is by whoever lists it later."""
        require(harness.can_add_orphans, "add orphans")
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        await harness.add_orphan(harness.namespace, create.pod, node.name, ORPHAN_LABELS)
        orphan = await observed(adapter, create)
        adopt = adopt_command(create, orphan.uid)
        async with Watch(adapter) as watch:
            outcome = await apply(adapter, adopt)
            await watch.until(
                lambda: watch.is_controlled(create.pod_key, harness.daemonset), "the adoption"
            )
        assert (outcome.result, outcome.id, outcome.verb) == ("done", adopt.id, "adopt")
        pod = await observed(await harness.make_adapter(), create)
        assert (harness.daemonset, orphan.uid) == (pod.owner, pod.uid)

    async def test_a_released_pod_is_an_orphan(self, harness: Harness) -> None:
        """A release is done: the pod is left as it is, and is told of without an owner, with its template's labels."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        created = await apply(adapter, create)
        before = await seen(harness, create.pod)
        release = release_command(create, created.pod_uid)
        async with Watch(adapter) as watch:
            outcome = await apply(adapter, release)
            await watch.until(lambda: watch.is_controlled(create.pod_key, None), "the release")
        assert (outcome.result, outcome.id, outcome.verb) == ("done", release.id, "release")
        assert before == await seen(harness, create.pod)
        pod = await observed(await harness.make_adapter(), create)
        expected = msgspec.json.decode(harness.template)["metadata"]["labels"]
        assert (None, created.pod_uid) == (pod.owner, pod.uid)
        assert expected.items() <= (pod.labels or {}).items()

    async def test_releasing_and_adopting_again(self, harness: Harness) -> None:
        """A pod can be released and adopted, and each of it repeated: all are done, and it stays the same pod."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        created = await apply(adapter, create)
        release = release_command(create, created.pod_uid)
        adopt = adopt_command(create, created.pod_uid)
        for command, owner in ((release, None), (adopt, harness.daemonset)):
            assert (await apply(adapter, command)).result == "done"
            assert (await apply(adapter, command)).result == "done"
            assert (await apply(await harness.make_adapter(), command)).result == "done"
            pod = await observed(adapter, create)
            assert (owner, created.pod_uid) == (pod.owner, pod.uid)

    async def test_a_create_does_not_take_an_orphan(self, harness: Harness) -> None:
        """A create whose name an orphan has is refused: a set gets that by adoption alone."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        created = await apply(adapter, create)
        await apply(adapter, release_command(create, created.pod_uid))
        outcome = await apply(adapter, create)
        assert outcome.result == "refused"
        assert (await observed(adapter, create)).owner is None

    async def test_an_adoption_does_not_take_what_another_set_has(self, harness: Harness) -> None:
        """An adoption of a pod that another set controls is superseded, and the pod stays what it was."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        created = await apply(adapter, create)
        adopt = by_another_set(adopt_command(create, created.pod_uid))
        outcome = await apply(adapter, adopt)
        assert outcome.result == "superseded"
        assert outcome.message
        assert harness.daemonset == (await observed(adapter, create)).owner

    async def test_one_of_two_sets_adopts_an_orphan(self, harness: Harness) -> None:
        """Of adoptions of one orphan by two sets that overlap, one is done, and the pod is that set's."""
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        created = await apply(adapter, create)
        await apply(adapter, release_command(create, created.pod_uid))
        adopt = adopt_command(create, created.pod_uid)
        adopts = [adopt, by_another_set(adopt)] * SIMULTANEOUS_CALLS
        outcomes = await asyncio.gather(*(apply(adapter, one) for one in adopts))
        done = {
            one.daemonset for one, its in zip(adopts, outcomes, strict=True) if its.result == "done"
        }
        assert {"done", "superseded"} == {outcome.result for outcome in outcomes}
        owner = (await observed(adapter, create)).owner
        assert [owner.name if owner else ""] == list(done)

    async def test_an_adoption_does_not_take_a_foreign_pod(self, harness: Harness) -> None:
        """An adoption of a pod that is someone else's is superseded, and that pod is left as it was."""
        require(harness.can_add_foreign_pods, "add foreign pods")
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        await harness.add_foreign_pod(harness.namespace, create.pod, node.name)
        before = await seen(harness, create.pod)
        outcome = await apply(adapter, adopt_command(create, before[0].uid or "unknown"))
        assert outcome.result == "superseded"
        assert outcome.message
        assert before == await seen(harness, create.pod)

    async def test_an_adoption_that_comes_too_late(self, harness: Harness) -> None:
        """An adoption of a pod that is gone or going is superseded, also if there is another one of its name."""
        adapter, (node, other) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        created = await apply(adapter, create)
        await apply(adapter, release_command(create, created.pod_uid))
        late = adopt_command(create, "the-uid-of-its-predecessor")
        never = adopt_command(create_command(harness, other), "no-such-uid")
        for adopt in (late, never):
            outcome = await apply(adapter, adopt)
            assert outcome.result == "superseded"
            assert outcome.message
        assert (await observed(adapter, create)).owner is None
        await apply(adapter, delete_command(create, created.pod_uid))
        gone = await apply(adapter, adopt_command(create, created.pod_uid))
        assert gone.result == "superseded"

    async def test_a_release_spares_what_it_is_not_about(self, harness: Harness) -> None:
        """A release of a pod that is gone, or is another set's, is done and changes nothing."""
        adapter, (node, other) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        created = await apply(adapter, create)
        for release in (
            release_command(create, "the-uid-of-its-predecessor"),
            release_command(create_command(harness, other), "no-such-uid"),
            by_another_set(release_command(create, created.pod_uid)),
        ):
            assert (await apply(adapter, release)).result == "done"
        assert harness.daemonset == (await observed(adapter, create)).owner

    async def test_a_released_pod_can_be_deleted(self, harness: Harness) -> None:
        """An orphan that someone removes is gone, like any other pod."""
        require(harness.can_remove_pods, "remove pods")
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        created = await apply(adapter, create)
        async with Watch(adapter) as watch:
            await apply(adapter, release_command(create, created.pod_uid))
            await watch.until(lambda: watch.is_controlled(create.pod_key, None), "the release")
            await harness.remove_pod(harness.namespace, create.pod)
            await watch.until(lambda: create.pod_key not in watch.pods, "the pod's end")

    # --- outsiders ----------------------------------------------------------------------------------------------------

    async def test_a_pod_that_an_outsider_removes_is_gone(self, harness: Harness) -> None:
        """A pod that someone else removes comes as an end, with what is needed to know whose it was."""
        require(harness.can_remove_pods, "remove pods")
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        async with Watch(adapter) as watch:
            outcome = await apply(adapter, create)
            await watch.until(lambda: create.pod_key in watch.pods, f"pod {create.pod}")
            await harness.remove_pod(harness.namespace, create.pod)
            await watch.until(lambda: create.pod_key not in watch.pods, "the pod's end")
            ends = [one for one in watch.said if isinstance(one, PodGone)]
        assert (outcome.pod_uid, node.name) == (ends[-1].uid, ends[-1].node)
        assert harness.daemonset == ends[-1].owner

    async def test_a_node_that_joins_is_observed(self, harness: Harness) -> None:
        """A node that joins comes as an event, and pods can be created on it."""
        require(harness.can_change_nodes, "add nodes")
        adapter = await harness.make_adapter()
        key = NodeKey(adapter.backend, "conformance-joined")
        async with Watch(adapter) as watch:
            await harness.add_node(key.name)
            await watch.until(lambda: key in watch.nodes, f"node {key.name}")
            outcome = await apply(adapter, create_command(harness, watch.nodes[key]))
        assert outcome.result == "done"

    async def test_a_node_that_leaves_is_gone(self, harness: Harness) -> None:
        """A node that leaves comes as an end, and its pods end too, at the latest when they are deleted."""
        require(harness.can_change_nodes, "remove nodes")
        adapter, (node, _) = await some_nodes(harness, 2)
        create = create_command(harness, node)
        async with Watch(adapter) as watch:
            outcome = await apply(adapter, create)
            await watch.until(lambda: create.pod_key in watch.pods, f"pod {create.pod}")
            await harness.remove_node(node.name)
            await watch.until(lambda: node.key not in watch.nodes, f"the end of node {node.name}")
            deleted = await apply(adapter, delete_command(create, outcome.pod_uid))
            assert deleted.result == "done"
            await watch.until(lambda: create.pod_key not in watch.pods, "the end of its pod")
        assert (await apply(adapter, create)).result == "refused"

    async def test_a_node_that_returns_is_another_one(self, harness: Harness) -> None:
        """A node that joins under the name of one that left has another uid."""
        require(harness.can_change_nodes, "add and remove nodes")
        adapter, (node, _) = await some_nodes(harness, 2)
        async with Watch(adapter) as watch:
            await harness.remove_node(node.name)
            await watch.until(lambda: node.key not in watch.nodes, f"the end of node {node.name}")
            await harness.add_node(node.name)
            await watch.until(lambda: node.key in watch.nodes, f"node {node.name}")
            assert node.uid != watch.nodes[node.key].uid
