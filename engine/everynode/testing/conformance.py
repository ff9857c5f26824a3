"""The conformance kit: what every adapter must pass, ours first.

An adapter author subclasses ``AdapterConformance`` in a pytest module and supplies a ``Harness``: how to make the
adapter, and how to look at the backend and act on it past the adapter, as an outsider. docs/adapters.md shows one. The
kit knows only ``everynode.ports`` and ``everynode.core``: no log is needed.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

import msgspec
import pytest
import pytest_asyncio

from everynode.core.commands import Command, CreatePod, DeletePod, Outcome
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.identity import canonical, command_id, derived_uid, pod_name, revision_hash
from everynode.core.values import Node, NodeKey, Owner, Pod, PodKey
from everynode.errors import OutcomeUnknownError, UnavailableError
from everynode.ports import Adapter, ListBegun, ListEnded, Observation

WAIT_TIMEOUT_S = 20.0
TRIES_MAX = 20
RETRY_MS = 250
SIMULTANEOUS_CALLS = 8
MS_PER_SECOND = 1_000
NEVER_MS = 2**53
"""An expiry that does not come: expiring commands is the adapter host's business."""


class SeenPod(NamedTuple):
    """A pod as an outsider sees it in the backend."""

    namespace: str
    name: str
    uid: str
    node: str


class Harness(abc.ABC):
    """One backend under test, with at least two nodes, and nothing of the kit's set on them.

    Attributes:
        can_change_nodes: ``add_node`` and ``remove_node`` work.
        can_remove_pods: ``remove_pod`` works.
        can_add_foreign_pods: ``add_foreign_pod`` works.
        namespace: Where the kit's pods are made.
        daemonset: The set that they belong to; a backend that checks owners needs a real one.
        template: The pod template, as JSON.
    """

    can_change_nodes = True
    can_remove_pods = True
    can_add_foreign_pods = True
    namespace = "default"
    daemonset = Owner(name="conformance", uid=derived_uid("conformance"))
    template: bytes = (
        b'{"metadata":{"labels":{"app":"conformance"}},"spec":{"containers":'
        b'[{"name":"main","image":"registry.k8s.io/pause:3.10"}]}}'
    )

    @abc.abstractmethod
    async def make_adapter(self) -> Adapter:
        """Make an adapter for the backend; a further one is for the same backend."""

    @abc.abstractmethod
    async def node_names(self) -> list[str]:
        """Name the backend's nodes."""

    @abc.abstractmethod
    async def pods(self) -> list[SeenPod]:
        """List the pods that are there, whoever made them, other than those on their way out."""

    async def add_node(self, name: str) -> None:
        """Let a node join."""
        raise NotImplementedError

    async def remove_node(self, name: str) -> None:
        """Let a node leave."""
        raise NotImplementedError

    async def remove_pod(self, namespace: str, name: str) -> None:
        """Remove a pod behind the adapter's back."""
        raise NotImplementedError

    async def add_foreign_pod(self, namespace: str, name: str, node: str) -> None:
        """Make a pod that belongs to someone else."""
        raise NotImplementedError

    async def close(self) -> None:
        """Undo everything."""
        return


class Watch:
    """An adapter being observed: what it has said, and what is so according to it. An async context manager."""

    def __init__(self, adapter: Adapter) -> None:
        """Prepare; it begins with ``async with``."""
        self.nodes: dict[NodeKey, Node] = {}
        self.pods: dict[PodKey, Pod] = {}
        self.said: list[Observation] = []
        self._adapter = adapter
        self._task: asyncio.Task[None] | None = None
        self._heard = asyncio.Condition()

    async def __aenter__(self) -> Self:
        """Begin, and wait for the first lists."""
        self._task = asyncio.create_task(self._listen())
        await self.until(lambda: ListEnded("pods") in self.said, "the end of the list of pods")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop observing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Wait until something was observed; the adapter fails the test if it is not, in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WAIT_TIMEOUT_S), self._heard:
                await self._heard.wait_for(lambda: is_so() or self._has_ended)
        if not is_so():
            if self._task is not None and self._has_ended:
                self._task.result()
                raise AssertionError(f"observe ended before it said: {what}")
            raise AssertionError(f"not observed within {WAIT_TIMEOUT_S} s: {what}")

    def on(self, node: Node) -> list[Pod]:
        """The observed live pods on a node."""
        return [pod for pod in self.pods.values() if pod.node == node.name and pod.live]

    @property
    def _has_ended(self) -> bool:
        return self._task is not None and self._task.done()

    async def _listen(self) -> None:
        observing = self._adapter.observe(self)
        try:
            async for observation in observing:
                async with self._heard:
                    self._take(observation)
                    self._heard.notify_all()
        finally:
            close = getattr(observing, "aclose", None)
            if close is not None:
                await close()
            async with self._heard:
                self._heard.notify_all()

    def _take(self, observation: Observation) -> None:
        self.said.append(observation)
        match observation:
            case NodeObserved(node=node):
                self.nodes[node.key] = node
            case NodeGone():
                self.nodes.pop(observation.key, None)
            case PodObserved(pod=pod):
                self.pods[pod.key] = pod
            case PodGone():
                self.pods.pop(observation.key, None)
            case ListBegun() | ListEnded():
                pass


def create_command(
    harness: Harness, node: Node, *, replaces: str = "", attempt: int = 0
) -> CreatePod:
    """Make the command that a worker would write for this node."""
    owner = harness.daemonset
    revision = revision_hash(harness.template)
    pod = pod_name(owner.name, owner.uid, node.uid, revision, replaces, 0)
    return CreatePod(
        id=command_id(owner.uid, 1, f"{node.backend}/{node.name}", "create", pod, attempt),
        backend=node.backend,
        node=node.name,
        node_uid=node.uid,
        namespace=harness.namespace,
        daemonset=owner.name,
        daemonset_uid=owner.uid,
        generation=1,
        pod=pod,
        revision=revision,
        expires_ms=NEVER_MS,
        template=msgspec.Raw(canonical(harness.template)),
    )


def delete_command(create: CreatePod, pod_uid: str) -> DeletePod:
    """Make the command that deletes what another one created."""
    return DeletePod(
        id=command_id(create.daemonset_uid, 1, create.node, "delete", create.pod + pod_uid, 0),
        backend=create.backend,
        node=create.node,
        node_uid=create.node_uid,
        namespace=create.namespace,
        daemonset=create.daemonset,
        daemonset_uid=create.daemonset_uid,
        generation=1,
        pod=create.pod,
        pod_uid=pod_uid,
        expires_ms=NEVER_MS,
    )


async def apply(adapter: Adapter, command: Command) -> Outcome:
    """Carry a command out as the adapter host does: again, when it could not be or it is not known."""
    for _ in range(TRIES_MAX - 1):
        try:
            return await adapter.apply(command)
        except (UnavailableError, OutcomeUnknownError):
            await asyncio.sleep(RETRY_MS / MS_PER_SECOND)
    return await adapter.apply(command)


async def some_nodes(harness: Harness, count: int) -> tuple[Adapter, list[Node]]:
    """Make an adapter and return it with nodes that it lists, in the order of their names."""
    adapter = await harness.make_adapter()
    async with Watch(adapter) as watch:
        nodes = sorted(watch.nodes.values(), key=lambda node: node.name)
    assert len(nodes) >= count, f"the harness must have at least {count} nodes"
    return adapter, nodes[:count]


async def seen(harness: Harness, name: str) -> list[SeenPod]:
    """Look a pod up in the backend."""
    return [pod for pod in await harness.pods() if pod.name == name]


def require(capability: bool, what: str) -> None:  # noqa: FBT001 - it reads as a sentence
    """Leave a case out for a backend on which an outsider cannot do this."""
    if not capability:
        pytest.skip(f"the harness cannot {what}")


def listed(said: Sequence[Observation], kind: str) -> list[Observation]:
    """Return what the first list of a kind named."""
    kinds = [observation.kind if isinstance(observation, ListBegun) else "" for observation in said]
    begun = kinds.index(kind)
    rest = list(said[begun + 1 :])
    ended = next(i for i, one in enumerate(rest) if isinstance(one, ListEnded) and one.kind == kind)
    return rest[:ended]


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
