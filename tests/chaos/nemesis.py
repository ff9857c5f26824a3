"""Makes the faults of a plan happen to a rig, and heals it afterwards. Used by ``run``.

Each fault heals itself, also when it is interrupted, so that ``heal`` finds little left to do. It asks no part that is
tested, and decides nothing by what happens but when a server that was hurt has caught up with its peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from tests.chaos.faults import LANES, RECOVERY_MS, Fault, plan
from tests.chaos.histories import Loss
from tests.chaos.support_cluster import Server
from tests.chaos.support_process import KeptProcess
from tests.chaos.support_rig import FLEET, Client, Rig
from tests.kubernetes.support_proxy import TcpProxy

from everynode.core.identity import shard_of
from everynode.errors import EverynodeError
from everynode.runtime.link import ApiRefusal, Link
from everynode.runtime.settings import Connection
from everynode.runtime.streams import log_name, state_name

GARBAGE_MAX = 30
CAUGHT_UP_SECONDS_MAX = 8
POLL_SECONDS = 0.1
LOSS_MARGIN_MS = 30_000
"""For so long after a store was put back, a command that is on no log may still be in an adapter's hands."""


GARBAGE = (
    b"",
    b"\x00\xff\xfe garbage",
    b"{",
    b'{"v":1}',
    b'{"v":99,"kind":"NodeObserved","node":{}}',
    b'{"v":1,"kind":"Nonsense"}',
    b'{"v":1,"kind":"PodObserved","pod":{"name":7}}',
    b'{"v":1,"kind":"Tick","shard":3,"dueMs":-5}',
    b"[" * 2_000,
)


class Nemesis:
    """The faults of one run.

    Args:
        rig: Whom they happen to.
        seed: Which ones they are.
        seconds: For how long.
    """

    def __init__(self, rig: Rig, seed: int, seconds: float) -> None:
        """Do nothing yet."""
        self.counts: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.losses: list[Loss] = []
        self._rig = rig
        self._seed = seed
        self._seconds = seconds
        self._random = random.Random(f"nemesis/{seed}")
        self._copies = 0

    async def run(self) -> None:
        """Let everything happen, until the time is over."""
        deadline = time.monotonic() + self._seconds
        lanes = [self._lane(plan(self._seed, lane, self._seconds), deadline) for lane in LANES]
        await asyncio.gather(*lanes)

    async def _lane(self, faults: list[Fault], deadline: float) -> None:
        for fault in faults:
            takes_ms = fault.pause_ms + fault.duration_ms + RECOVERY_MS[fault.lane]
            if time.monotonic() + takes_ms / 1_000 > deadline:
                return
            await asyncio.sleep(fault.pause_ms / 1_000)
            self._tell(fault, "begins")
            async with self._happening(fault):
                self._tell(fault, "lasts")
                await asyncio.sleep(fault.duration_ms / 1_000)
            self._tell(fault, "is over")

    def _tell(self, fault: Fault, what: str) -> None:
        """Write down what happens and when, to be laid beside the histories."""
        line = f"{time.time_ns() // 1_000_000} {fault.kind} ({fault.target}) {what}\n"
        with self._rig.fault_history.open("a") as output:
            output.write(line)

    async def heal(self) -> None:
        """Let every process run and every link pass."""
        for server in self._rig.cluster.servers:
            server.free_disk()
            server.process.go_on()
            server.process.start()
        for client in self._rig.clients:
            client.process.go_on()
            client.process.start()
            for link in self._links_of(client):
                link.speak()
                await link.accept()
        for server in self._rig.cluster.servers:
            for link in server.links:
                link.speak()
                await link.accept()

    # --- what happens -----------------------------------------------------------------------------------------------

    def _happening(self, fault: Fault) -> contextlib.AbstractAsyncContextManager[None]:
        self.counts[fault.kind] += 1
        if fault.lane == "servers":
            return self._to_servers(fault)
        if fault.lane == "processes":
            return self._to_process(fault)
        return self._to_bus(fault)

    def _client(self, kind: str, target: int) -> Client:
        clients = self._rig.adapters if "adapter" in kind else self._rig.workers
        return clients[target % len(clients)]

    def _links_of(self, client: Client) -> list[TcpProxy]:
        return [*client.links, *([client.backend_link] if client.backend_link else [])]

    @contextlib.asynccontextmanager
    async def _to_process(self, fault: Fault) -> AsyncIterator[None]:
        process = self._client(fault.kind, fault.target).process
        if fault.kind.startswith("kill"):
            process.kill()
        elif fault.kind.startswith("pause"):
            process.stand_still()
        else:
            await process.end()
        try:
            yield
        finally:
            process.go_on()
            process.start()

    @contextlib.asynccontextmanager
    async def _to_servers(self, fault: Fault) -> AsyncIterator[None]:
        servers = self._rig.cluster.servers
        server = servers[fault.target % len(servers)]
        others = [other for other in servers if other is not server]
        try:
            match fault.kind:
                case "kill server" | "restart server":
                    async with self._without(server, gently=fault.kind == "restart server"):
                        yield
                case "kill two servers":
                    async with self._without(server, others[0]):
                        yield
                case "pause server":
                    async with _standing_still(server.process):
                        yield
                case "cut off server":
                    async with _silent(server.links):
                        yield
                case "cut two servers apart":
                    async with _silent([link for link in server.links if link in others[0].links]):
                        yield
                case "fill disk":
                    async with self._full(server):
                        yield
                case "restore older copy of one":
                    async with self._restored(server):
                        yield
                case _:
                    async with self._restored(*servers):
                        yield
        finally:
            await self._caught_up()

    @contextlib.asynccontextmanager
    async def _without(self, *servers: Server, gently: bool = False) -> AsyncIterator[None]:
        for server in servers:
            if gently:
                await server.process.end()
            else:
                server.process.kill()
        try:
            yield
        finally:
            for server in servers:
                server.process.start()

    @contextlib.asynccontextmanager
    async def _full(self, server: Server) -> AsyncIterator[None]:
        if not server.has_own_disk:
            self.counts["fill disk"] -= 1
            self.skipped["fill disk"] += 1
            yield
            return
        await asyncio.to_thread(server.fill_disk)
        try:
            yield
        finally:
            server.process.kill()
            server.free_disk()
            server.process.start()

    @contextlib.asynccontextmanager
    async def _restored(self, *servers: Server) -> AsyncIterator[None]:
        """Copy the stores of servers, let them run on for a while, then put the copies back."""
        self._copies += 1
        from_ms = time.time_ns() // 1_000_000
        copies: list[Path] = []
        async with self._without(*servers):
            copies += [
                await asyncio.to_thread(server.copy_store, self._copies) for server in servers
            ]
        await self._caught_up()
        await self._something_is_written()
        try:
            yield
        finally:
            async with self._without(*servers):
                for server, copy in zip(servers, copies, strict=True):
                    await asyncio.to_thread(server.restore_store, copy)
            to_ms = time.time_ns() // 1_000_000
            self.losses.append(Loss(from_ms, to_ms + LOSS_MARGIN_MS))

    @contextlib.asynccontextmanager
    async def _to_bus(self, fault: Fault) -> AsyncIterator[None]:
        client = self._client(fault.kind, fault.target)
        match fault.kind:
            case "garbage":
                await self._tolerantly(self._publish_garbage)
                yield
            case "step down leaders":
                await self._tolerantly(self._step_down)
                yield
            case "cut backend off":
                adapters = self._rig.adapters
                link = adapters[fault.target % len(adapters)].backend_link
                async with _cut([link] if link else []):
                    yield
            case "cut links of a worker" | "cut links of an adapter":
                async with _cut(client.links):
                    yield
            case _:
                async with _silent(client.links):
                    yield

    async def _tolerantly(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do something that may fail because of another fault."""
        with contextlib.suppress(EverynodeError, ApiRefusal):
            await action()

    async def _publish_garbage(self) -> None:
        bus = self._rig.bus
        keys = list(self._rig.sets)
        for _ in range(self._random.randint(1, GARBAGE_MAX)):
            key = self._random.choice(keys)
            shard = shard_of(key, bus.subjects.shards)
            node = f"n{self._random.randrange(self._rig.shape.nodes):05}"
            tail = self._random.choice(
                (
                    f"node.sim.{node}",
                    f"pod.{shard}.sim.default.{node}-pod",
                    f"daemonset.{shard}.default.{key.name}",
                    f"daemonset.{shard}.default.no-such-set",
                    f"revision.{shard}.default.{key.name}.0123456789abc",
                    f"decision.{shard}.default.{key.name}",
                    f"status.{shard}.default.{key.name}",
                    f"command.sim.{node}.{shard}.garbage{self._random.randrange(1_000)}",
                    f"outcome.{shard}.garbage{self._random.randrange(1_000)}",
                    f"tick.{shard}",
                    "unheard.of",
                )
            )
            await bus._link.publish(f"{bus.subjects.prefix}.{tail}", self._random.choice(GARBAGE))

    async def _step_down(self) -> None:
        link = self._rig.bus._link
        log = log_name(FLEET)
        for operation in (
            f"STREAM.LEADER.STEPDOWN.{log}",
            f"STREAM.LEADER.STEPDOWN.{state_name(FLEET)}",
            f"CONSUMER.LEADER.STEPDOWN.{log}.adapter-sim",
        ):
            with contextlib.suppress(ApiRefusal):
                await link.call(operation, timeout_ms=1_000)
        servers = tuple(server.url for server in self._rig.cluster.servers)
        system = await Link.open(Connection(servers=servers, user="sys", password="sys"))  # noqa: S106 - of a server that listens here only
        try:
            await system.call("META.LEADER.STEPDOWN", {}, timeout_ms=1_000)
        finally:
            await system.close()

    async def _something_is_written(self) -> None:
        """Wait until the log has grown since the copies were made, so that there is something to lose; not for ever."""
        before = self._rig.reader.sequence
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CAUGHT_UP_SECONDS_MAX):
                while self._rig.reader.sequence <= before:
                    await self._rig.reader.changed.wait()

    async def _caught_up(self) -> None:
        """Wait until every server has what its peers have, so that the next fault meets a whole cluster."""
        deadline = time.monotonic() + CAUGHT_UP_SECONDS_MAX
        while time.monotonic() < deadline:
            with contextlib.suppress(EverynodeError, ApiRefusal):
                if await self._all_current():
                    return
            await asyncio.sleep(POLL_SECONDS)
        self.skipped["waiting for replicas"] += 1

    async def _all_current(self) -> bool:
        for stream in (log_name(FLEET), state_name(FLEET)):
            told = await self._rig.bus._link.call(f"STREAM.INFO.{stream}", timeout_ms=1_000)
            replicas = told.get("cluster", {}).get("replicas", [])
            wanted = len(self._rig.cluster.servers) - 1
            good = [one for one in replicas if one.get("current") and not one.get("offline")]
            if len(good) != wanted:
                return False
        return True


@contextlib.asynccontextmanager
async def _standing_still(process: KeptProcess) -> AsyncIterator[None]:
    process.stand_still()
    try:
        yield
    finally:
        process.go_on()


@contextlib.asynccontextmanager
async def _silent(links: list[TcpProxy]) -> AsyncIterator[None]:
    """Let links pass nothing, without a word; what was said meanwhile arrives late."""
    for link in links:
        link.fall_silent()
    try:
        yield
    finally:
        for link in links:
            link.speak()


@contextlib.asynccontextmanager
async def _cut(links: list[TcpProxy]) -> AsyncIterator[None]:
    """End the connections of links and refuse new ones."""
    for link in links:
        link.refuse()
        await link.cut()
    try:
        yield
    finally:
        for link in links:
            await link.accept()
