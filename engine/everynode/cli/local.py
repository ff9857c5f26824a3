"""A whole fleet in this process: worker, simulated backend, and the server that its log is on.

Used by `up`, and in part by `replay --speed`. It is made of the parts that the commands `worker` and `adapter` run in
processes of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from everynode.cli.options import Target
from everynode.cli.running import beside
from everynode.cli.terminal import note_line
from everynode.core.values import Node, SetKey, Status
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.host import AdapterHost
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection, StreamSettings
from everynode.runtime.worker import Worker
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet

LOG_BYTES_MAX = 1024**3
"""How much the log of an embedded server keeps: it shares a disk with everything else on this machine."""

WORKER_NAME = "up"

STARTS_ANEW = "this log is from before; the simulated fleet starts anew: its pods are made again"
"""Said before the log is: its list of pods, which names none of those it had, is doubted at first, with a warning."""


@dataclass
class LocalFleet:
    """A fleet that runs in this process.

    Attributes:
        shown: Where its log is, as it may be shown.
        embedded_port: The port of the server that was started for it; `None` if it was not ours to start.
    """

    bus: JetStreamBus
    host: AdapterHost
    worker: Worker
    simulated: SimulatedFleet
    shown: str
    embedded_port: int | None

    async def wait_covered(self, wanted: dict[SetKey, int], sequence: int) -> None:
        """Wait until every set has a ready pod on each node that should have one."""
        while True:
            await self.worker.wait_settled(sequence)
            if self.covered(wanted):
                return
            await self.worker.wait_changed()

    def covered(self, wanted: dict[SetKey, int]) -> bool:
        """Say whether every set is covered.

        Args:
            wanted: Sets that must be among them, each with the generation that counts.
        """
        statuses = self.worker.statuses()
        for key, generation in wanted.items():
            status = statuses.get(key)
            if status is None or status.observed_generation < generation:
                return False
        return all(is_covered(status) for status in statuses.values())


def is_covered(status: Status, silent: int = 0) -> bool:
    """Say whether each node that should have a pod of the set has one that is ready, but for those that are silent.

    Args:
        status: How the set is.
        silent: On so many nodes no pod gets ready.
    """
    desired = status.desired_number_scheduled
    return desired == status.current_number_scheduled <= status.number_ready + silent


class Wanted(NamedTuple):
    """What the fleet is to be like.

    Attributes:
        data_dir: Where an embedded server keeps the log; `None`: nowhere after the end.
    """

    nodes: list[Node]
    backend: str
    seed: int
    data_dir: Path | None


@contextlib.asynccontextmanager
async def local_fleet(target: Target, wanted: Wanted) -> AsyncIterator[LocalFleet]:
    """Start the parts, and stop them in the end.

    Raises:
        EverynodeError: A part could not be started, or failed for good.
    """
    async with local_log(target, wanted.data_dir) as (bus, shown, port):
        if (await bus.log_position()).last_sequence > 0:
            note_line(STARTS_ANEW)
        simulated = SimulatedFleet(wanted.nodes, behaviour=Behaviour(seed=wanted.seed))
        host = AdapterHost(bus, SimulatedAdapter(wanted.backend, simulated))
        worker = Worker(bus, WORKER_NAME, follow_all=True)
        async with beside(host.run(), worker.run()):
            yield LocalFleet(bus, host, worker, simulated, shown, port)


class LocalLog(NamedTuple):
    """A fleet's log; the fields are those of ``LocalFleet``."""

    bus: JetStreamBus
    shown: str
    embedded_port: int | None


@contextlib.asynccontextmanager
async def local_log(target: Target, data_dir: Path | None) -> AsyncIterator[LocalLog]:
    """Reach a fleet's log, on a server that is started for it if none is named.

    Raises:
        EverynodeError: The server could not be started or reached.
    """
    async with contextlib.AsyncExitStack() as stack:
        connection, settings, port = target.connection, StreamSettings(), None
        if not target.nats_given:
            server = await stack.enter_async_context(EmbeddedServer(data_dir))
            connection, port = Connection(servers=(server.url,)), server.port
            settings = StreamSettings(log_max_bytes=LOG_BYTES_MAX)
        bus = await stack.enter_async_context(
            await connect(connection, target.fleet, create=settings)
        )
        yield LocalLog(bus, connection.shown, port)
