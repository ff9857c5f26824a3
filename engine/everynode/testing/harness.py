"""What the conformance kit stands on: a backend to test, watching its adapter, and the commands of a worker.

Adapter authors subclass ``Harness`` and use the rest only when they add cases of their own; ``conformance`` has the
kit's. Nothing here knows the log.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

import msgspec
import pytest
from msgspec.structs import replace

from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    DeletePod,
    Outcome,
    ReleasePod,
)
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.identity import canonical, command_id, derived_uid, pod_name, revision_hash
from everynode.core.values import WHOLE_MAX, Node, NodeKey, Owner, Pod, PodKey
from everynode.errors import OutcomeUnknownError, UnavailableError
from everynode.ports import Adapter, ListBegun, ListEnded, Observation

WAIT_TIMEOUT_S = 20.0
TRIES_MAX = 20
RETRY_MS = 250
MS_PER_SECOND = 1_000
NEVER_MS = WHOLE_MAX
"""An expiry that does not come: expiring commands is the adapter host's business."""
GENERATION = 3
FAILURES = 2

_OnPod = TypeVar("_OnPod", DeletePod, AdoptPod, ReleasePod)


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
        can_add_orphans: ``add_orphan`` works.
        namespace: Where the kit's pods are made.
        daemonset: The set that they belong to; a backend that checks owners needs a real one.
        template: The pod template, as JSON.
    """

    can_change_nodes = True
    can_remove_pods = True
    can_add_foreign_pods = True
    can_add_orphans = True
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

    async def add_orphan(
        self, namespace: str, name: str, node: str, labels: dict[str, str]
    ) -> None:
        """Make a pod that nobody controls."""
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

    def is_controlled(self, key: PodKey, owner: Owner | None) -> bool:
        """Say whether a pod is there, and this set controls it; or nobody, for ``None``."""
        return key in self.pods and self.pods[key].owner == owner

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
        generation=GENERATION,
        pod=pod,
        revision=revision,
        failures=FAILURES,
        expires_ms=NEVER_MS,
        template=msgspec.Raw(canonical(harness.template)),
    )


def delete_command(create: CreatePod, pod_uid: str) -> DeletePod:
    """Make the command that deletes what another one created."""
    return _on_pod(DeletePod, create, pod_uid)


def adopt_command(create: CreatePod, pod_uid: str) -> AdoptPod:
    """Make the command that has a set adopt the pod of the name and on the node of a create."""
    return _on_pod(AdoptPod, create, pod_uid)


def release_command(create: CreatePod, pod_uid: str) -> ReleasePod:
    """Make the command that has a set let go of what another one created."""
    return _on_pod(ReleasePod, create, pod_uid)


def _on_pod(kind: type[_OnPod], create: CreatePod, pod_uid: str) -> _OnPod:
    name = create.pod + pod_uid
    return kind(
        id=command_id(create.daemonset_uid, GENERATION, create.node, kind.verb, name, 0),
        backend=create.backend,
        node=create.node,
        node_uid=create.node_uid,
        namespace=create.namespace,
        daemonset=create.daemonset,
        daemonset_uid=create.daemonset_uid,
        generation=GENERATION,
        pod=create.pod,
        pod_uid=pod_uid,
        expires_ms=NEVER_MS,
    )


def by_another_set(command: _OnPod) -> _OnPod:
    """Make the same command come from another set."""
    return replace(command, daemonset="another", daemonset_uid=derived_uid("another"))


async def observed(adapter: Adapter, command: CreatePod | AdoptPod) -> Pod:
    """Return the pod of a command's name as an adapter lists it, or tells of it in time."""
    async with Watch(adapter) as watch:
        await watch.until(lambda: command.pod_key in watch.pods, f"pod {command.pod}")
        return watch.pods[command.pod_key]


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
