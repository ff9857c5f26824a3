"""A real Kubernetes control plane whose nodes everynode covers, beside the controller that Kubernetes has built in.

Both do the same on the same control plane, one after the other, without limits on their requests. A DaemonSet is
made, and the time counts until the API server has a ready pod of it on every node; then its image is changed, and
the time counts until every node has a ready pod of the new one. Scheduler and kubelets (kwok) take their time for both.
Needs what `make control-plane` builds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from measuring import Row, say

from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import connect
from everynode.runtime.settings import Connection, StreamSettings

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.kubernetes.support_api import Api
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_programs import MissingProgramsError, find_programs

DEADLINE_SECONDS = 300
UNAVAILABLE = "10%"
IMAGES = ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.10")
NAMESPACE = "bench"
SETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sizes:
    """How large the cluster is."""

    nodes: int


@dataclass(frozen=True)
class Result:
    """What one of the two took.

    Attributes:
        created_seconds: Until the last pod object was made.
        covered_seconds: Until the last node had a ready pod.
        updated_seconds: From the change of the image until the last node had a ready pod of it.
        processor_seconds: Of all its processes, for covering and updating.
        memory_mb: The sum of the peaks of all its processes.
    """

    created_seconds: float
    covered_seconds: float
    updated_seconds: float
    covering_processor_seconds: float
    updating_processor_seconds: float
    memory_mb: float


def measure(sizes: Sizes) -> list[Row]:
    """Measure both; without the programs of a control plane, say how to get them and measure nothing."""
    try:
        find_programs()
    except MissingProgramsError as error:
        say(f"cluster: not measured: {error}")
        return []
    built_in, ours = asyncio.run(_compare(sizes.nodes))
    part = f"Kubernetes, {sizes.nodes:,} nodes"
    rows = []
    for name, result in (("built-in controller", built_in), ("everynode", ours)):
        figures = (
            ("all pods made", result.created_seconds, "s"),
            ("all nodes covered", result.covered_seconds, "s"),
            ("processor time for that", result.covering_processor_seconds, "s"),
            (f"all pods updated, {UNAVAILABLE} at a time", result.updated_seconds, "s"),
            ("processor time for that", result.updating_processor_seconds, "s"),
            ("peak memory", result.memory_mb, "MB"),
        )
        rows += [
            Row(part=part, what=f"{name}: {what}", figure=figure, unit=unit)
            for what, figure, unit in figures
        ]
    return rows


async def _compare(nodes: int) -> tuple[Result, Result]:
    with tempfile.TemporaryDirectory() as directory:
        async with ControlPlane.start(Path(directory)) as plane:
            say(f"cluster: {nodes:,} nodes register")
            await plane.add_nodes(nodes)
            async with plane.api() as api:
                await api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
                say("cluster: the built-in controller")
                async with _built_in(plane) as pids:
                    built_in = await _run(api, pids, nodes)
                say("cluster: everynode")
                async with _everynode(plane) as pids:
                    ours = await _run(api, pids, nodes)
    return built_in, ours


# --- the two ----------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _built_in(plane: ControlPlane) -> AsyncIterator[list[int]]:
    plane.start_controller("daemonset")
    try:
        yield [plane.pids["daemonset-controller"]]
    finally:
        await plane.stop_controller("daemonset")


@contextlib.asynccontextmanager
async def _everynode(plane: ControlPlane) -> AsyncIterator[list[int]]:
    """The server of the log, a worker and an adapter, each a process of its own."""
    async with EmbeddedServer(None, 0) as server:
        settings = StreamSettings(log_max_bytes=1024**3)
        bus = await connect(Connection(servers=(server.url,)), "bench", create=settings)
        await bus.close()
        target = ("--fleet", "bench", "--nats", server.url)
        access = ("--kubeconfig", str(plane.kubeconfig), "--backend", "bench", "--force")
        command = [str(Path(sys.executable).parent / "everynode")]
        started = [
            await asyncio.create_subprocess_exec(
                *command, *arguments, *target, stderr=asyncio.subprocess.DEVNULL
            )
            for arguments in (("worker",), ("adapter", "kubernetes", *access))
        ]
        assert server.pid is not None
        try:
            yield [server.pid, *(process.pid for process in started)]
        finally:
            for process in started:
                process.terminate()
                await process.wait()


# --- what is measured -------------------------------------------------------------------------------------------------


async def _run(api: Api, pids: Sequence[int], nodes: int) -> Result:
    await _warm_up(api, nodes)
    processor_before = _processor_seconds(pids)
    manifest = _manifest(nodes)
    async with _Pods(api) as pods:
        started = time.perf_counter()
        await api.create(SETS, manifest)
        created, covered = await pods.until_covered(nodes, IMAGES[0])
        processor_covered = _processor_seconds(pids)
        changed = time.perf_counter()
        container = {"name": "main", "image": IMAGES[1]}
        spec = {"spec": {"template": {"spec": {"containers": [container]}}}}
        await api.patch(f"{SETS}/agent", spec, "strategic")
        _, updated = await pods.until_covered(nodes, IMAGES[1])
    result = Result(
        created_seconds=created - started,
        covered_seconds=covered - started,
        updated_seconds=updated - changed,
        covering_processor_seconds=processor_covered - processor_before,
        updating_processor_seconds=_processor_seconds(pids) - processor_covered,
        memory_mb=sum(_peak_mb(pid) for pid in pids),
    )
    await _delete(api, "agent")
    return result


async def _warm_up(api: Api, nodes: int) -> None:
    """Wait until a set on no node is looked at: whoever is to be measured is at work then."""
    body = _manifest(nodes)
    body["metadata"]["name"] = "first"
    body["spec"]["template"]["spec"]["nodeSelector"] = {"no": "node"}
    await api.create(SETS, body)
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (await api.get(f"{SETS}/first"))["status"].get("observedGeneration"):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.1)
    await _delete(api, "first")


async def _delete(api: Api, name: str) -> None:
    await api.delete(f"{SETS}/{name}", {"propagationPolicy": "Background"})
    async with asyncio.timeout(DEADLINE_SECONDS):
        while (await api.get(PODS, limit=1))["items"]:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.2)


class _Pod(NamedTuple):
    node: str
    image: str
    ready: bool


class _Pods:
    """The pods as a watch of its own shows them; times are those at which they were seen.

    What an event costs does not depend on the number of pods: the API server ends a watch that is read too slowly.
    """

    def __init__(self, api: Api) -> None:
        self._api = api
        self._pods: dict[str, _Pod] = {}  # by uid
        self._ready: Counter[str] = Counter()  # by image
        self._changed = asyncio.Event()
        self._last_added = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        version = (await self._api.get(PODS))["metadata"]["resourceVersion"]
        self._task = asyncio.create_task(self._watch(version))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self, version: str) -> None:
        while True:
            async for event in self._api.watch(PODS, resourceVersion=version):
                assert event["type"] != "ERROR", event
                version = event["object"]["metadata"]["resourceVersion"]
                self._see(event["type"], event["object"])

    def _see(self, kind: str, pod: dict[str, Any]) -> None:
        uid = pod["metadata"]["uid"]
        before = self._pods.pop(uid, None)
        if before is not None:
            self._ready[before.image] -= before.ready
        if kind != "DELETED":
            if before is None:
                self._last_added = time.perf_counter()
            conditions = pod["status"].get("conditions", [])
            seen = self._pods[uid] = _Pod(
                node=pod["spec"].get("nodeName", ""),
                image=pod["spec"]["containers"][0]["image"],
                ready=any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
            )
            self._ready[seen.image] += seen.ready
        self._changed.set()

    async def until_covered(self, nodes: int, image: str) -> tuple[float, float]:
        """Return when the last pod was made, and when the last one was ready."""
        assert self._task is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            while self._ready[image] < nodes or len(self._pods) > nodes:
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait((changed, self._task), return_when=asyncio.FIRST_COMPLETED)
                if self._task.done():
                    changed.cancel()
                    self._task.result()
                self._changed.clear()
        covered = time.perf_counter()
        assert len({pod.node for pod in self._pods.values()}) == nodes, "two pods on a node"
        return self._last_added, covered


def _manifest(nodes: int) -> dict[str, Any]:
    labels = {"app": "agent"}
    pod = {
        "containers": [{"name": "main", "image": IMAGES[0]}],
        "terminationGracePeriodSeconds": 1,
    }
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": UNAVAILABLE}}
    return {
        "metadata": {"name": "agent", "namespace": NAMESPACE, "labels": {"nodes": str(nodes)}},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
            "updateStrategy": rolling,
        },
    }


def _processor_seconds(pids: Sequence[int]) -> float:
    """Return the processor time that processes have used so far (proc(5), stat: utime and stime)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_SECOND


def _peak_mb(pid: int) -> float:
    """Return the most memory that a process has had (proc(5), status: VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0
