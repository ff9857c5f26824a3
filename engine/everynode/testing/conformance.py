"""The conformance kit: what every adapter must pass, ours first.

An adapter author subclasses ``AdapterConformance`` in a pytest module and supplies a ``Harness``: how to make the
adapter, and how to look at the backend and act on it past the adapter, as an outsider. docs/adapters.md shows one. The
kit knows only ``everynode.ports`` and ``everynode.core``: no log is needed.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from everynode.core.events import NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, NodeKey
from everynode.ports import Adapter, ListBegun, ListEnded
from everynode.testing.harness import (
    Harness,
    SeenPod,
    Watch,
    apply,
    create_command,
    delete_command,
    listed,
    require,
    seen,
    some_nodes,
)

__all__ = ["AdapterConformance", "Harness", "SeenPod"]

SIMULTANEOUS_CALLS = 8


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
