"""Programs that are kept running: workers and adapter hosts, each in a process of its own that can die at any step.

What starts them again stands outside of the simulation, as systemd does in the world: after a death, and when a
program gives up because the log could not be reached. Anything else that ends a program is a failure of the run.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from everynode.core.pacing import Limits
from everynode.errors import UnavailableError
from everynode.runtime.bus import FleetBus
from everynode.runtime.host import AdapterHost, HostSettings
from everynode.runtime.worker import Worker
from everynode.testing.simulation.adapter import AdapterFaults, ClusterAdapter
from everynode.testing.simulation.backend import SimulatedCluster
from everynode.testing.simulation.loop import VirtualLoop
from everynode.testing.simulation.marks import mark, register
from everynode.testing.simulation.process import Process

GAVE_UP = "program gave up and was started again"
RESTART_MS = 1_000

register(GAVE_UP)

OpenBus = Callable[[Process], FleetBus]


class Role:
    """One program that is kept running; subclasses say which.

    Attributes:
        process: The one that runs it now.
        starts: How often it was started.
        crashes: What ended it that should not have.
    """

    def __init__(self, loop: VirtualLoop, name: str, open_bus: OpenBus) -> None:
        """Do not run yet."""
        self.name = name
        self.starts = 0
        self.crashes: list[BaseException] = []
        self.process = loop.world
        self._loop = loop
        self._open_bus = open_bus

    @property
    def is_running(self) -> bool:
        """There is a process, and it was not killed."""
        return self.process is not self._loop.world and self.process.alive

    def start(self) -> None:
        """Run it, unless it runs."""
        if self.is_running:
            return
        self.starts += 1
        self.process = self._loop.process(f"{self.name}.{self.starts}")
        self.process.spawn(self._keep_running(self.process))

    def kill(self, restart_after_ms: int) -> None:
        """Kill it, and start it again after a while."""
        if self.is_running:
            self.process.kill()
            self._loop.after_ms(restart_after_ms, self.start)

    async def _keep_running(self, process: Process) -> None:
        while True:
            try:
                await self._run(process)
            except UnavailableError:
                mark(GAVE_UP)
                await asyncio.sleep(RESTART_MS / 1_000)
            except Exception as error:  # noqa: BLE001 - it fails the run
                self.crashes.append(error)
                return

    async def _run(self, process: Process) -> None:
        raise NotImplementedError


class WorkerRole(Role):
    """A worker."""

    def __init__(self, loop: VirtualLoop, name: str, open_bus: OpenBus, limits: Limits) -> None:
        """Do not run yet."""
        super().__init__(loop, name, open_bus)
        self.worker: Worker | None = None
        self._limits = limits

    @property
    def writing(self) -> int:
        """How many messages its session has on their way to the log."""
        session = None if self.worker is None else self.worker._session  # noqa: SLF001 - it tells nobody
        return 0 if session is None else session.writing

    async def _run(self, process: Process) -> None:
        self.worker = Worker(self._open_bus(process), process.name, self._limits, process.clock)
        await self.worker.run()


class HostRole(Role):
    """An adapter host of one backend."""

    def __init__(
        self,
        loop: VirtualLoop,
        name: str,
        open_bus: OpenBus,
        cluster: SimulatedCluster,
        settings: HostSettings,
        faults: AdapterFaults,
        chance: random.Random,
    ) -> None:
        """Do not run yet."""
        super().__init__(loop, name, open_bus)
        self.cluster = cluster
        self.adapter: ClusterAdapter | None = None
        self.host: AdapterHost | None = None
        self._settings = settings
        self._faults = faults
        self._chance = chance

    def set_faults(self, faults: AdapterFaults) -> None:
        """Change what goes wrong between it and its backend, from now on."""
        self._faults = faults
        if self.adapter is not None:
            self.adapter.faults = faults
            self.adapter.cut_until_ms = 0

    async def _run(self, process: Process) -> None:
        bus = self._open_bus(process)
        self.adapter = ClusterAdapter(self.cluster, self._loop, self._chance, self._faults)
        host_id = f"{process.name}-{self._chance.getrandbits(32):08x}"
        self.host = AdapterHost(bus, self.adapter, self._settings, process.clock, host_id)
        await self.host.run()
