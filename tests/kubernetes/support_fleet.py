"""everynode on a control plane: a real nats-server, workers and the adapter's host, in this process or in their own.

Used by the tests in this directory. `Observer` looks at the API server past the adapter, and judges: never two live
pods of a set on one node (S1), and in the end exactly one on each that should have one (L1).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec
from tests.kubernetes.support_api import Api, ApiError
from tests.kubernetes.support_control_plane import ControlPlane

from everynode.core.pacing import Limits
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.execution import ExecutionLimits
from everynode.runtime.host import AdapterHost, HostSettings
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.observing import ObserveLimits
from everynode.runtime.settings import Connection, StreamSettings
from everynode.runtime.worker import Worker
from everynode_kubernetes import KubernetesAdapter
from everynode_kubernetes.access import Access
from everynode_kubernetes.adapter import identity_of
from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.reflector import ReflectLimits

SMALL = StreamSettings(log_max_bytes=256 * 1024**2)
BACKEND = "cluster"
DEADLINE_S = 90.0
POLL_S = 0.25
REFLECT_LIMITS = ReflectLimits(retry_last_ms=2_000)

_numbers = itertools.count(1)


class Fleet:
    """A fleet whose only backend is a control plane.

    Args:
        plane: The control plane.
        server: The log's server.
    """

    def __init__(self, plane: ControlPlane, server: EmbeddedServer) -> None:
        """Run nothing yet."""
        self.plane = plane
        self.server = server
        self.name = f"k8s-{os.getpid()}-{next(_numbers)}"
        self.bus: JetStreamBus
        self.hosts: list[AdapterHost] = []
        self.adapters: list[KubernetesAdapter] = []
        self.workers: list[Worker] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._buses: list[JetStreamBus] = []

    @property
    def connection(self) -> Connection:
        """How to reach the log."""
        return Connection(servers=(self.server.url,))

    async def connect(self) -> JetStreamBus:
        """Open one more connection to the log; it is closed with the fleet."""
        bus = await connect(self.connection, self.name, create=SMALL)
        self._buses.append(bus)
        return bus

    async def add_worker(self, limits: Limits | None = None) -> Worker:
        """Run one more worker in this process."""
        worker = Worker(await self.connect(), f"worker-{len(self.workers)}", limits)
        self.workers.append(worker)
        self._tasks.append(asyncio.create_task(worker.run()))
        return worker

    async def add_adapter(self, kubeconfig: Path | None = None, **access_more: Any) -> AdapterHost:
        """Run one more adapter host in this process; with another kubeconfig, it goes another way to the cluster.

        Args:
            kubeconfig: The administrator's unless given.
            access_more: More of ``Access``, such as `watch_silence_ms`.
        """
        access = Access(kubeconfig=kubeconfig or self.plane.kubeconfig, **access_more)
        api = await ApiServer.connect(access)
        adapter = KubernetesAdapter(BACKEND, api, await identity_of(api), REFLECT_LIMITS)
        settings = HostSettings(
            observe=ObserveLimits(retry_first_ms=50, retry_last_ms=2_000, doubt_delay_ms=500),
            execution=ExecutionLimits(retry_first_ms=100, retry_last_ms=2_000, tries_max=20),
        )
        host = AdapterHost(await self.connect(), adapter, settings)
        self.adapters.append(adapter)
        self.hosts.append(host)
        self._tasks.append(asyncio.create_task(host.run()))
        return host

    async def close(self) -> None:
        """End everything that runs in this process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for adapter in self.adapters:
            await adapter.close()
        for bus in self._buses:
            await bus.close()

    @contextlib.asynccontextmanager
    async def process(self, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run `everynode ARGS` on this fleet as a process of its own; it is killed at the end."""
        log = (self.plane.logs / f"everynode-{next(_numbers)}.log").open("wb")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from everynode.cli import main; main()", *args),
            *("--fleet", self.name, "--nats", self.server.url),
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            log.close()
            if process.returncode is None:
                process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def running_fleet(
    plane: ControlPlane, *, workers: int = 1, adapters: int = 1
) -> AsyncIterator[Fleet]:
    """Run a fleet on a control plane, until the end of the block."""
    async with EmbeddedServer(None, 0) as server:
        fleet = Fleet(plane, server)
        fleet.bus = await fleet.connect()
        try:
            for _ in range(workers):
                await fleet.add_worker()
            for _ in range(adapters):
                await fleet.add_adapter()
            yield fleet
        finally:
            await fleet.close()


# --- looking, past the adapter ----------------------------------------------------------------------------------------


class SeenPod(msgspec.Struct, frozen=True):
    """A pod as the API server has it."""

    namespace: str
    name: str
    uid: str
    node: str
    owner: str
    owner_uid: str
    phase: str
    ready: bool
    deleting: bool
    labels: dict[str, str]
    image: str
    ready_since: str = ""

    @property
    def live(self) -> bool:
        """It counts as the node's pod."""
        return not self.deleting and self.phase not in {"Failed", "Succeeded"}


def seen_pod(api: dict[str, Any]) -> SeenPod:
    """Read a pod out of the API's JSON."""
    metadata, spec, status = api["metadata"], api["spec"], api.get("status", {})
    owners = metadata.get("ownerReferences", [])
    owner: dict[str, Any] = next((each for each in owners if each.get("controller")), {})
    conditions = status.get("conditions", [])
    ready: dict[str, str] = next((each for each in conditions if each["type"] == "Ready"), {})
    return SeenPod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        node=spec.get("nodeName") or _bound_for(spec),
        owner=owner.get("name", ""),
        owner_uid=owner.get("uid", ""),
        phase=status.get("phase", "Pending"),
        ready=ready.get("status") == "True",
        deleting="deletionTimestamp" in metadata,
        labels=metadata.get("labels", {}),
        image=spec["containers"][0].get("image", ""),
        ready_since=ready.get("lastTransitionTime", ""),
    )


def _bound_for(spec: dict[str, Any]) -> str:
    """Name the node that a pod is made for, before the scheduler has bound it."""
    try:
        required = spec["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        return str(required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])
    except (KeyError, IndexError):
        return ""


async def pods_of(plane: ControlPlane, namespace: str, daemonset: str = "") -> list[SeenPod]:
    """List the pods of a namespace that somebody controls; those of one set, if it is named."""
    async with plane.api() as api:
        return await _pods(api, namespace, daemonset)


async def _pods(api: Api, namespace: str, daemonset: str) -> list[SeenPod]:
    listed = await api.get(f"/api/v1/namespaces/{namespace}/pods")
    pods = [seen_pod(item) for item in listed["items"]]
    return [pod for pod in pods if pod.owner and daemonset in {"", pod.owner}]


class PodObserver:
    """Follows all pods of the API server by a watch of its own, and records each breach of S1.

    An async context manager. With `surge`, two live pods of a set on a node are allowed. `on_change` is told of all
    pods after each change, as the API server had them at that moment.
    """

    def __init__(self, plane: ControlPlane, *, surge: bool = False) -> None:
        """Prepare."""
        self.breaches: list[str] = []
        self.pods: dict[str, SeenPod] = {}
        self.created = 0
        self.on_change: Callable[[list[SeenPod]], None] = lambda _: None
        self._plane = plane
        self._live_max = 2 if surge else 1
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to watch."""
        async with self._plane.api() as api:
            version = await self._list(api)
        self._task = asyncio.create_task(self._watch(version))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _list(self, api: Api) -> str:
        """See what is there, and what is not any more; return the list's version."""
        listed = await api.get("/api/v1/pods")
        pods = [seen_pod(item) for item in listed["items"]]
        for gone in self.pods.keys() - {pod.uid for pod in pods}:
            self._see("DELETED", self.pods[gone])
        for pod in pods:
            self._see("MODIFIED", pod)
        return str(listed["metadata"]["resourceVersion"])

    async def _watch(self, version: str) -> None:
        """Watch, and list again after each gap, whatever happens to the API server."""
        while True:
            try:
                async with self._plane.api() as api:
                    version = version or await self._list(api)
                    async for event in api.watch("/api/v1/pods", resourceVersion=version):
                        if event["type"] == "ERROR":
                            break
                        self._see(event["type"], seen_pod(event["object"]))
            except (aiohttp.ClientError, OSError, ApiError):
                await asyncio.sleep(POLL_S)
            version = ""

    def _see(self, kind: str, pod: SeenPod) -> None:
        if kind == "DELETED":
            self.pods.pop(pod.uid, None)
        else:
            self._see_there(pod)
        self.on_change(list(self.pods.values()))

    def _see_there(self, pod: SeenPod) -> None:
        self.created += pod.uid not in self.pods
        self.pods[pod.uid] = pod
        if not (pod.live and pod.owner_uid):
            return
        place = (pod.owner_uid, pod.node)
        live = [p for p in self.pods.values() if p.live and (p.owner_uid, p.node) == place]
        if len(live) > self._live_max:
            names = ", ".join(sorted(one.name for one in live))
            self.breaches.append(f"S1: {len(live)} live pods of {pod.owner} on {pod.node}: {names}")


async def until_covered(
    plane: ControlPlane,
    namespace: str,
    daemonset: str,
    nodes: Iterable[str],
    *,
    image: str = "",
    deadline_s: float = DEADLINE_S,
) -> list[SeenPod]:
    """Wait until a set has exactly one pod on each of these nodes, all ready, and no other; return them."""
    wanted = sorted(nodes)
    pods: list[SeenPod] = []
    try:
        async with asyncio.timeout(deadline_s), plane.api() as api:
            while True:
                pods = await _pods(api, namespace, daemonset)
                ready = all(pod.ready and pod.live and image in {"", pod.image} for pod in pods)
                if ready and sorted(pod.node for pod in pods) == wanted:
                    return pods
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise AssertionError(_difference(daemonset, wanted, pods, image)) from None


def _difference(daemonset: str, wanted: list[str], pods: list[SeenPod], image: str) -> str:
    found: dict[str, list[SeenPod]] = defaultdict(list)
    for pod in pods:
        found[pod.node].append(pod)
    missing = [node for node in wanted if node not in found]
    surplus = [node for node in found if node not in wanted or len(found[node]) > 1]
    wrong = [pod.name for pod in pods if not pod.ready or image not in {"", pod.image}]
    return (
        f"{daemonset} does not cover its {len(wanted)} nodes: missing on {missing[:5]} ({len(missing)}), "
        f"surplus on {surplus[:5]} ({len(surplus)}), not as wanted {wrong[:5]} ({len(wrong)})"
    )


def daemonset_manifest(
    name: str,
    namespace: str = "default",
    *,
    image: str = "registry.k8s.io/pause:3.9",
    node_selector: dict[str, str] | None = None,
    update_strategy: Mapping[str, object] | None = None,
    annotations: dict[str, str] | None = None,
    pod_spec: dict[str, object] | None = None,
    spec: dict[str, object] | None = None,
) -> str:
    """Write a DaemonSet, as JSON for `kubectl apply -f -`; it tolerates everything."""
    labels = {"app": name}
    pod: dict[str, object] = {
        "containers": [{"name": "main", "image": image}],
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 1,
        **({"nodeSelector": node_selector} if node_selector else {}),
        **(pod_spec or {}),
    }
    document = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            **({"annotations": annotations} if annotations else {}),
        },
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            **({"updateStrategy": update_strategy} if update_strategy else {}),
            **(spec or {}),
        },
    }
    return msgspec.json.encode(document).decode()
