"""A whole fleet of real processes for a chaos run: servers, workers, adapters, and a backend that tells the truth.

Used by ``run`` and ``kill_workers``. Every link that may be cut goes through a proxy of its own: between each two
servers, between each worker or adapter and each server, between each adapter and the backend. What happened is
written down at the backend and at the log by those who saw it; the rig only starts, asks and waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
from tests.chaos.backend import BACKEND, LINE_BYTES_MAX
from tests.chaos.support_cluster import Cluster
from tests.chaos.support_process import KeptProcess
from tests.chaos.support_reader import LogReader
from tests.kubernetes.support_processes import free_port
from tests.kubernetes.support_proxy import TcpProxy

from everynode.core.identity import revision_hash
from everynode.core.values import DaemonSet, Selector, SetKey, UpdateStrategy
from everynode.errors import EverynodeError
from everynode.runtime.applying import apply
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import StreamSettings

ROOT = Path(__file__).resolve().parents[2]
FLEET = "chaos"
LOG_BYTES_MAX = 256 * 1024**2
SUPERVISE_SECONDS = 0.25
POLL_SECONDS = 0.1
START_SECONDS_MAX = 20
RETRY_SECONDS = 0.3
MAX_UNAVAILABLE_PERCENT = 10

ENTRY_POINTS = "[everynode.adapters]\nchaos = tests.chaos.remote_adapter:RemoteAdapter\n"


@dataclass
class Shape:
    """How large a rig is."""

    nodes: int
    seed: int
    servers: int = 3
    workers: int = 3
    adapters: int = 2
    apply_ms: str = "1-20"
    bad_calls: float = 0.0


@dataclass
class Client:
    """A worker or an adapter: its process, and its links.

    Attributes:
        links: To each server.
        backend_link: To the backend; adapters only.
    """

    process: KeptProcess
    links: list[TcpProxy] = field(default_factory=list)
    backend_link: TcpProxy | None = None


def make_set(name: str, version: int, tier: str = "") -> DaemonSet:
    """Make a set that is rolled out within a budget; each version has a template of its own."""
    spec: dict[str, object] = {"version": version}
    if tier:
        spec["nodeSelector"] = {"tier": tier}
    template = {"metadata": {"labels": {"app": name}}, "spec": spec}
    return DaemonSet(
        namespace="default",
        name=name,
        uid="given by apply",
        generation=1,
        selector=Selector(match_labels={"app": name}),
        template=msgspec.Raw(msgspec.json.encode(template, order="sorted")),
        update_strategy=UpdateStrategy(
            type="RollingUpdate", max_unavailable=f"{MAX_UNAVAILABLE_PERCENT}%"
        ),
    )


class Rig:
    """All of it; an async context manager.

    Args:
        directory: Where everything is.
        shape: How large it is.
    """

    def __init__(self, directory: Path, shape: Shape) -> None:
        """Start nothing yet."""
        self.shape = shape
        self.cluster = Cluster(directory, shape.servers)
        self.workers: list[Client] = []
        self.adapters: list[Client] = []
        self.sets: dict[SetKey, DaemonSet] = {}
        self.ended: Counter[str] = Counter()
        """How often processes ended by themselves, and were started again."""
        self.backend_history = directory / "backend.jsonl"
        self.log_history = directory / "log.jsonl"
        self.fault_history = directory / "faults.txt"
        self._directory = directory
        self._backend_port = free_port()
        self._stack = contextlib.AsyncExitStack()
        self._bus: JetStreamBus | None = None
        self._reader: LogReader | None = None

    @property
    def bus(self) -> JetStreamBus:
        """The run's own way to the log."""
        if self._bus is None:
            raise RuntimeError("the rig was not started")
        return self._bus

    @property
    def reader(self) -> LogReader:
        """Who reads the log."""
        if self._reader is None:
            raise RuntimeError("the rig was not started")
        return self._reader

    @property
    def clients(self) -> list[Client]:
        """Workers and adapters."""
        return [*self.workers, *self.adapters]

    # --- start and end ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start everything; no set is wanted yet."""
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End everything."""
        await self._stack.aclose()

    async def _start(self) -> None:
        site = self._directory / "site" / "everynode_chaos-0.dist-info"
        site.mkdir(parents=True)
        (site / "METADATA").write_text("Metadata-Version: 2.1\nName: everynode-chaos\nVersion: 0\n")
        (site / "entry_points.txt").write_text(ENTRY_POINTS)
        await self._stack.enter_async_context(self.cluster)
        await self._create_fleet()
        self._bus = await self._connected()
        self._reader = LogReader(await self._connected(), self.log_history)
        await self._start_backend()
        for number in range(self.shape.adapters):
            await self._start_adapter(f"adapter-{number}")
        for number in range(self.shape.workers):
            await self._start_client(f"worker-{number}", self.workers, "worker")
        await self._stack.enter_async_context(beside(self._reader.run))
        await self._stack.enter_async_context(beside(self._supervise))

    async def _create_fleet(self) -> None:
        """Create the fleet; a cluster that has just come up may not find places for all replicas yet."""
        settings = StreamSettings(replicas=self.shape.servers, log_max_bytes=LOG_BYTES_MAX)
        async with asyncio.timeout(START_SECONDS_MAX):
            while True:
                with contextlib.suppress(EverynodeError):
                    bus = await connect(self.cluster.connection, FLEET, create=settings)
                    await bus.close()
                    return
                await asyncio.sleep(POLL_SECONDS)

    async def _connected(self) -> JetStreamBus:
        bus = await connect(self.cluster.connection, FLEET)
        self._stack.push_async_callback(bus.close)
        return bus

    async def _start_backend(self) -> None:
        shape = self.shape
        command = [sys.executable, "-m", "tests.chaos.backend"]
        for option, value in (
            ("--port", self._backend_port),
            ("--nodes", shape.nodes),
            ("--seed", shape.seed),
            ("--history", self.backend_history),
            ("--apply-ms", shape.apply_ms),
            ("--bad-calls", shape.bad_calls),
        ):
            command += [option, str(value)]
        backend = self._process("backend", command)
        backend.start()
        async with asyncio.timeout(START_SECONDS_MAX):
            while True:
                with contextlib.suppress(OSError):
                    await self.ask_backend("state")
                    return
                await asyncio.sleep(POLL_SECONDS)

    async def _start_adapter(self, name: str) -> None:
        link = TcpProxy(f"tcp://127.0.0.1:{self._backend_port}")
        await self._stack.enter_async_context(link)
        options = ["--backend", BACKEND, "--option", f"address=127.0.0.1:{link.port}"]
        client = await self._start_client(name, self.adapters, "adapter", "run", "chaos", *options)
        client.backend_link = link

    async def _start_client(self, name: str, kin: list[Client], *words: str) -> Client:
        links = []
        for server in self.cluster.servers:
            proxy = TcpProxy(server.url)
            links.append(await self._stack.enter_async_context(proxy))
        urls = [word for link in links for word in ("--nats", f"nats://127.0.0.1:{link.port}")]
        program = str(Path(sys.executable).parent / "everynode")
        words = (*words, *(("--name", name) if words[0] == "worker" else ()))
        process = self._process(name, [program, *words, "--fleet", FLEET, *urls])
        process.start()
        client = Client(process, links)
        kin.append(client)
        return client

    def _process(self, name: str, command: list[str]) -> KeptProcess:
        paths = (self._directory / "site", ROOT / "engine", ROOT / "adapters", ROOT)
        process = KeptProcess(
            name,
            command,
            log=self._directory / f"{name}.log",
            environment={"PYTHONPATH": ":".join(map(str, paths))},
        )
        self._stack.callback(process.kill)
        return process

    async def _supervise(self) -> None:
        """Start again what ends by itself, as a service manager does."""
        while True:
            await asyncio.sleep(SUPERVISE_SECONDS)
            processes = [client.process for client in self.clients]
            processes += [server.process for server in self.cluster.servers]
            for process in processes:
                if process.revive():
                    self.ended[process.name] += 1

    # --- what people do ---------------------------------------------------------------------------------------------

    async def apply(self, daemonset: DaemonSet) -> None:
        """Apply a set, as often as it takes."""
        while True:
            try:
                applied = await apply(self.bus, daemonset)
            except EverynodeError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.sets[daemonset.key] = applied.daemonset
                return

    async def ask_backend(self, verb: str) -> dict[str, Any]:
        """Ask the backend for something; it answers with how things are there.

        Raises:
            OSError: It does not listen.
        """
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._backend_port, limit=LINE_BYTES_MAX
        )
        try:
            writer.write(b"control\n" + msgspec.json.encode({"verb": verb}) + b"\n")
            answer: dict[str, Any] = msgspec.json.decode(await reader.readline())
            return answer
        finally:
            writer.close()

    # --- what is so -------------------------------------------------------------------------------------------------

    async def faults(self) -> list[str]:
        """Say what keeps the fleet from being exactly covered, at the backend and on the log."""
        state = await self.ask_backend("state")
        faults = [
            fault for daemonset in self.sets.values() for fault in _faults_of(daemonset, state)
        ]
        wanted = {daemonset.uid for daemonset in self.sets.values()}
        faults += [f"a pod of {pod['set']}" for pod in state["pods"] if pod["set"] not in wanted]
        faults += [
            f"command {command} at {place} has no outcome"
            for command, place in self.reader.open_commands.items()
        ]
        return faults

    async def converged(self, seconds_max: float) -> tuple[float, list[str]]:
        """Wait until nothing is wrong; returns how many seconds that took, and what is wrong if it took too long."""
        began = time.monotonic()
        while True:
            faults = await self.faults()
            elapsed = time.monotonic() - began
            if not faults or elapsed >= seconds_max:
                return elapsed, faults
            # What a large fleet answers takes time to write and to read.
            await asyncio.sleep(POLL_SECONDS * max(1, self.shape.nodes / 500))

    async def silent(self, quiet_seconds: float, seconds_max: float) -> bool:
        """Wait until no decision and no command was written for a while (L2); whether that came in time."""
        deadline = time.monotonic() + seconds_max
        while time.monotonic() < deadline:
            before = self.reader.actions
            await asyncio.sleep(quiet_seconds)
            if self.reader.actions == before:
                return True
        return False


def _faults_of(daemonset: DaemonSet, state: dict[str, Any]) -> list[str]:
    """Compare the pods of a set with the nodes that should have one; every node tolerates what it has."""
    revision = revision_hash(daemonset.template)
    spec = msgspec.json.decode(daemonset.template).get("spec", {})
    tier = spec.get("nodeSelector", {}).get("tier")
    wanted = {
        node["uid"] for node in state["nodes"] if node["open"] and tier in {None, node["tier"]}
    }
    pods = [pod for pod in state["pods"] if pod["set"] == daemonset.uid]
    counts = Counter(pod["node"] for pod in pods)
    good = {pod["node"] for pod in pods if pod["ready"] and pod["revision"] == revision}
    faults = [f"{daemonset.key}: node {node} has {counts[node]} pods" for node in wanted - good]
    faults += [
        f"{daemonset.key}: {count} pods on node {node}"
        for node, count in counts.items()
        if count > 1 or node not in wanted
    ]
    return faults


@contextlib.asynccontextmanager
async def beside(part: Callable[[], Any]) -> AsyncIterator[None]:
    """Keep something running during the block."""
    task = asyncio.create_task(part())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
