"""A backend in which nodes and pods are files in a directory; an example of an adapter in a package of its own.

    nodes/<name>              {"uid": "...", "labels": {...}}: someone else writes and removes these
    pods/<namespace>/<name>   a pod: ours if it can be read as one, else someone else's

The adapter host finds the class by its entry point and runs it; docs/adapters.md explains what it promises.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec.structs import replace

from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    DeletePod,
    Outcome,
    ReleasePod,
    outcome_of,
)
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, Owner, Pod, PodKey
from everynode.errors import ConfigurationError, UnavailableError
from everynode.ports import ListBegun, ListEnded, Observation, View

POLL_INTERVAL_S = 0.05


class NodeFile(msgspec.Struct):
    """What stands in a node's file."""

    uid: str
    labels: dict[str, str] = {}


class Metadata(msgspec.Struct):
    """What of a pod template's metadata is kept with a pod."""

    labels: dict[str, str] = {}


class Template(msgspec.Struct):
    """What of a pod template is read."""

    metadata: Metadata = msgspec.field(default_factory=Metadata)


Seen = tuple[dict[str, Node], dict[PodKey, Pod]]


class DirectoryAdapter:
    """Files as a backend.

    Args:
        backend: Name of the backend in the fleet.
        path: The directory.
    """

    def __init__(self, backend: str, path: Path) -> None:
        """Make the directory if it is not there, and give it an identity."""
        self.backend = backend
        self._nodes = path / "nodes"
        self._pods = path / "pods"
        self._lock = path / "lock"
        for directory in (self._nodes, self._pods):
            directory.mkdir(parents=True, exist_ok=True)
        write_once(path / "identity", secrets.token_hex(8).encode())
        self.identity = (path / "identity").read_text(encoding="utf-8")

    @classmethod
    def from_options(cls, backend: str, options: Mapping[str, str]) -> DirectoryAdapter:
        """Make one from the options of ``everynode adapter run``.

        Raises:
            ConfigurationError: There is no ``path``, or something that is not known.
        """
        if options.keys() != {"path"}:
            raise ConfigurationError(
                f"backend {backend}: the adapter takes one option: path=DIRECTORY"
            )
        return cls(backend, Path(options["path"]))

    async def observe(self, known: View) -> AsyncGenerator[Observation]:  # noqa: ARG002 - it lists everything
        """List everything, then look again and again and tell what is different.

        Raises:
            UnavailableError: The directory cannot be read.
        """
        nodes, pods = await asyncio.to_thread(self._look)
        yield ListBegun("nodes")
        for node in nodes.values():
            yield NodeObserved(node=node)
        yield ListEnded("nodes")
        yield ListBegun("pods")
        for pod in pods.values():
            yield PodObserved(pod=pod)
        yield ListEnded("pods")
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            nodes_now, pods_now = await asyncio.to_thread(self._look)
            for difference in differences((nodes, pods), (nodes_now, pods_now)):
                yield difference
            nodes, pods = nodes_now, pods_now

    async def apply(self, command: Command) -> Outcome:
        """Write, change or remove a file, unless it is so already."""
        return await asyncio.to_thread(self._carry_out, command)

    def _carry_out(self, command: Command) -> Outcome:
        match command:
            case CreatePod():
                return self._create(command)
            case DeletePod():
                return self._delete(command)
            case AdoptPod():
                return self._adopt(command)
            case ReleasePod():
                return self._release(command)

    def _create(self, command: CreatePod) -> Outcome:
        node = self._read_node(self._nodes / command.node)
        if node is None or node.uid != command.node_uid:
            return outcome_of(command, "refused", f"node {command.node} is not there")
        now_ms = time.time_ns() // 1_000_000
        template = msgspec.json.decode(command.template or b"{}", type=Template)
        pod = Pod(
            backend=self.backend,
            namespace=command.namespace,
            name=command.pod,
            uid=secrets.token_hex(8),
            node=command.node,
            node_uid=command.node_uid,
            owner=Owner(name=command.daemonset, uid=command.daemonset_uid),
            revision=command.revision,
            labels=template.metadata.labels,
            generation=command.generation,
            failures=command.failures,
            phase="Running",
            ready=True,
            ready_since_ms=now_ms,
            created_ms=now_ms,
        )
        path = self._path(command)
        path.parent.mkdir(exist_ok=True)
        # Whoever comes first makes the pod; everybody else finds it. That is all it takes for "at most one".
        write_once(path, msgspec.json.encode(pod))
        made = self._read_pod(path)
        if made is None or made.owner != pod.owner or made.node_uid != pod.node_uid:
            return outcome_of(command, "refused", f"{path} belongs to someone else")
        return outcome_of(command, "done", pod_uid=made.uid)

    def _delete(self, command: DeletePod) -> Outcome:
        path = self._path(command)
        with self._locked():
            pod = self._read_pod(path)
            if pod is not None and pod.uid == command.pod_uid:
                path.unlink(missing_ok=True)
        return outcome_of(command, "done")

    def _adopt(self, command: AdoptPod) -> Outcome:
        path = self._path(command)
        owner = Owner(name=command.daemonset, uid=command.daemonset_uid)
        with self._locked():
            pod = self._read_pod(path)
            if pod is None or pod.uid != command.pod_uid:
                return outcome_of(command, "superseded", f"{path} is not there, or not ours")
            if pod.owner is None:
                write_anew(path, msgspec.json.encode(replace(pod, owner=owner)))
            elif pod.owner.uid != owner.uid:
                return outcome_of(command, "superseded", f"{path} is {pod.owner.name}'s")
        return outcome_of(command, "done", pod_uid=pod.uid)

    def _release(self, command: ReleasePod) -> Outcome:
        path = self._path(command)
        with self._locked():
            pod = self._read_pod(path)
            is_meant = pod is not None and pod.uid == command.pod_uid
            if pod and is_meant and pod.owner and pod.owner.uid == command.daemonset_uid:
                write_anew(path, msgspec.json.encode(replace(pod, owner=None)))
        return outcome_of(command, "done")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep others who go by this lock from changing pods: between reading one and writing it nothing happens."""
        with self._lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _path(self, command: Command) -> Path:
        return self._pods / command.namespace / command.pod

    def _look(self) -> Seen:
        """Read all files."""
        try:
            nodes = [self._read_node(path) for path in sorted(self._nodes.glob("[!.]*"))]
            pods = [self._read_pod(path) for path in sorted(self._pods.glob("*/[!.]*"))]
        except OSError as error:
            raise UnavailableError(f"backend {self.backend}: {error}") from error
        return {node.name: node for node in nodes if node}, {pod.key: pod for pod in pods if pod}

    def _read_node(self, path: Path) -> Node | None:
        """Read a node; one whose file cannot be read is not there."""
        try:
            found = msgspec.json.decode(path.read_bytes(), type=NodeFile)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return Node(backend=self.backend, name=path.name, uid=found.uid, labels=found.labels)

    def _read_pod(self, path: Path) -> Pod | None:
        """Read a pod; what cannot be read as one of this backend's is someone else's."""
        try:
            pod = msgspec.json.decode(path.read_bytes(), type=Pod)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        is_ours = pod.key == PodKey(self.backend, path.parent.name, path.name)
        return pod if is_ours else None


def write_once(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, unless there is one of that name."""
    draft = path.parent / f".{secrets.token_hex(8)}"
    draft.write_bytes(content)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def write_anew(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, in place of the one of that name."""
    draft = path.parent / f".{secrets.token_hex(8)}"
    draft.write_bytes(content)
    draft.replace(path)


def differences(before: Seen, now: Seen) -> list[Observation]:
    """Say what has changed from one look to the next: what has gone first, so that a new one may have its name."""
    (nodes, pods), (nodes_now, pods_now) = before, now
    found: list[Observation] = []
    for name, node in nodes.items():
        if name not in nodes_now:
            found.append(NodeGone(backend=node.backend, name=name, uid=node.uid))
    for key, pod in pods.items():
        if key not in pods_now or pods_now[key].uid != pod.uid:
            found.append(
                PodGone(
                    backend=pod.backend,
                    namespace=pod.namespace,
                    name=pod.name,
                    uid=pod.uid,
                    node=pod.node,
                    node_uid=pod.node_uid,
                    owner=pod.owner,
                )
            )
    found += [
        NodeObserved(node=node) for name, node in nodes_now.items() if nodes.get(name) != node
    ]
    found += [PodObserved(pod=pod) for key, pod in pods_now.items() if pods.get(key) != pod]
    return found
