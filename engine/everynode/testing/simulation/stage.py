"""One fleet, put together from a configuration: its log, its backends, the programs that run it, and who watches them.

``run`` drives it from a seed, ``crash`` kills its programs one step after the other. It decides nothing; it only
connects the parts and asks the checkers.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter

from everynode.runtime.session import PROPOSALS_IN_FLIGHT_MAX
from everynode.testing.simulation.adapter import AdapterFaults
from everynode.testing.simulation.backend import Behaviour, SimulatedCluster
from everynode.testing.simulation.checks import BackendWitness, Violation, check_made
from everynode.testing.simulation.config import BACKENDS, SET_NAMES, SHARDS, Configuration
from everynode.testing.simulation.history import History
from everynode.testing.simulation.loop import VirtualLoop
from everynode.testing.simulation.people import Outsiders, People
from everynode.testing.simulation.rest import last_action, unquiet, wrong
from everynode.testing.simulation.roles import HostRole, Role, WorkerRole
from everynode.testing.simulation.server import SimulatedServer

AUDIT_MS = 250
"""How often decisions and bounds are looked at."""
QUIET_MS = 30_000
"""So long nothing must be decided for a fleet to be at rest."""
STEP_MS = 1_000

_MS_PER_SECOND = 1_000


class Stage:
    """A fleet in a simulation.

    Args:
        loop: Time and chance.
        configuration: What it is like.

    Attributes:
        violations: What was wrong so far.
        forgot: LOG has let go of messages that were younger than the horizon: a worker that starts does not know of all
            commands and decisions then, and S3 and S6 cannot hold.
        split: LOG has lost its end, and STATE has not: it tells of what never was.
    """

    def __init__(self, loop: VirtualLoop, configuration: Configuration) -> None:
        """Put it together; nothing runs yet."""
        self.loop = loop
        self.configuration = configuration
        self.violations: list[Violation] = []
        self.forgot = False
        self.split = False
        self.server = SimulatedServer(loop, "sim", SHARDS, configuration.bus)
        server = self.server
        self.history = History(
            server.subjects, server.history, server.state.last, server.log.position
        )
        chance = loop.random
        self.clusters = [
            SimulatedCluster(name, loop, chance, configuration.behaviour)
            for name in BACKENDS[: configuration.backends]
        ]
        self.witnesses = [BackendWitness(one, self.history, loop) for one in self.clusters]
        self.names = list(SET_NAMES[: configuration.sets])
        self.outside = loop.process("outside")
        self.outsiders = [
            Outsiders(cluster, self.names, configuration.habits, chance)
            for cluster in self.clusters
        ]
        self.people = People(
            bus=self.server.bus(self.outside),
            names=self.names,
            backends=[cluster.backend for cluster in self.clusters],
            habits=configuration.habits,
            timers=loop,
            random_=chance,
        )
        self.workers = [
            WorkerRole(loop, f"worker-{number}", self.server.bus, configuration.limits)
            for number in range(1, configuration.workers + 1)
        ]
        self.hosts = [
            HostRole(
                loop,
                f"host-{cluster.backend}-{number}",
                self.server.bus,
                cluster,
                configuration.settings,
                configuration.adapter,
                chance,
            )
            for cluster in self.clusters
            for number in range(1, configuration.hosts + 1)
        ]

    @property
    def roles(self) -> list[Role]:
        """All programs of the fleet."""
        return [*self.workers, *self.hosts]

    def begin(self) -> None:
        """Start everything."""
        for outsiders in self.outsiders:
            outsiders.begin(self.configuration.nodes)
            self.outside.spawn(outsiders.act())
        self.outside.spawn(self.people.act())
        for role in self.roles:
            role.start()
        self.loop.world.spawn(self._watch())

    def heal(self) -> None:
        """End all faults: whatever is down comes up, and nobody interferes any more.

        If the streams contradict each other, an operator stops all programs, has STATE made anew, and starts them.
        """
        self.outside.kill()
        self.server.heal()
        if self.split:
            for role in self.roles:
                role.kill(STEP_MS)
            self.server.state.make_anew()
            self.server.state.take_over(
                self.server.log, self.server.log.last_sequence, self.loop.now_ms
            )
        for cluster in self.clusters:
            cluster.heal(Behaviour())
        for host in self.hosts:
            host.set_faults(AdapterFaults())
        for role in self.roles:
            if role.is_running:
                role.process.resume()
                role.process.set_clock(0)
            elif not self.split:
                role.start()

    # --- checking -----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(AUDIT_MS / _MS_PER_SECOND)
            self.audit()

    def audit(self) -> None:
        """Look at what was decided since the last time, and at what must never be."""
        self.history.read()
        is_complete = not self.history.lost_ms
        for made in self.history.take_fresh():
            if not self.forgot:
                self.violations += check_made(self.history, made, complete=is_complete)
        for witness in self.witnesses:
            self.violations += [
                item for item in witness.violations if item.promise != "S3" or not self.forgot
            ]
            witness.violations.clear()
        for role in self.roles:
            self.violations += [
                Violation("L3", f"{role.name} ended with {type(error).__name__}: {error}")
                for error in role.crashes
            ]
        for error in self.loop.failures():
            text = f"nobody caught {type(error).__name__}: {error}"
            self.violations.append(Violation("L3", text))
        self._check_bounds()

    def _check_bounds(self) -> None:
        """B1: what has a limit keeps to it."""
        limits = self.configuration.settings.execution
        for host in self.hosts:
            calls = 0 if host.adapter is None else host.adapter.calls_max
            if calls > limits.concurrency_max:
                self._too_many(host.name, "calls to the adapter", calls, limits.concurrency_max)
        for backend, queue in self.server.queues.items():
            if queue.in_flight > limits.in_flight_max:
                self._too_many(backend, "commands", queue.in_flight, limits.in_flight_max)
        for worker in self.workers:
            writing = worker.writing
            if writing > PROPOSALS_IN_FLIGHT_MAX + 1:  # and one for statuses
                self._too_many(worker.name, "proposals", writing, PROPOSALS_IN_FLIGHT_MAX)

    def _too_many(self, who: str, what: str, count: int, limit: int) -> None:
        self.violations.append(Violation("B1", f"{who}: {count} {what}, the limit is {limit}"))

    def wrong(self) -> list[Violation]:
        """Say what is not as it should be in the end."""
        self.audit()
        now_ms, first = self.loop.now_ms, self.server.log.first_sequence
        return wrong(self.history, self.clusters, now_ms, first)

    # --- running ------------------------------------------------------------------------------------------------------

    def run_for(self, duration_ms: int, steps_max: int) -> bool:
        """Run for so long; says whether nothing was wrong.

        Args:
            duration_ms: How much virtual time passes.
            steps_max: How many steps the whole run may have.
        """
        ended = self.loop.run_until(
            lambda: bool(self.violations),
            steps_max=steps_max - self.loop.steps,
            until_ms=self.loop.now_ms + duration_ms,
        )
        if ended == "steps":
            text = f"still busy after {self.loop.steps} steps: something does not come to an end"
            self.violations.append(Violation("B1", text))
        if ended != "done":
            self.audit()
        return not self.violations

    def run_to_rest(self, limit_ms: int, steps_max: int, quiet_ms: int = QUIET_MS) -> bool:
        """Run until everything is as it should be, and silent; says whether it came to that in time (L1, L2).

        Args:
            limit_ms: How much virtual time that may take.
            steps_max: How many steps the whole run may have.
            quiet_ms: So long nothing must be decided, and once more as long after that.
        """
        begun_ms = self.loop.now_ms
        end_ms = begun_ms + limit_ms
        while True:
            if not self.run_for(STEP_MS, steps_max):
                return False
            last_ms = last_action(self.history)
            is_quiet = self.loop.now_ms - max(last_ms, begun_ms) > quiet_ms
            left = self.wrong() if is_quiet or self.loop.now_ms >= end_ms else []
            if is_quiet and not left:
                break
            if self.loop.now_ms >= end_ms:
                text = f"a decision at {last_ms}, {limit_ms} ms after the faults have ended"
                self.violations += left or [Violation("L2", text)]
                return False
        since_ms = self.loop.now_ms
        if self.run_for(quiet_ms, steps_max):
            self.violations += [*unquiet(self.history, since_ms), *self.wrong()]
        return not self.violations

    # --- what came of it ----------------------------------------------------------------------------------------------

    def trace(self) -> str:
        """Return a hash of everything that happened, and in which order."""
        digest = hashlib.blake2b(str(self.loop.digest).encode(), digest_size=10)
        for received in self.server.history:
            digest.update(f"{received.sequence} {received.time_ms} {received.subject}".encode())
            digest.update(received.payload)
        for cluster in self.clusters:
            digest.update(repr(cluster.changes).encode())
        return digest.hexdigest()

    def figures(self) -> Counter[str]:
        """Count what happened."""
        figures = Counter(
            {
                "messages on the log": len(self.server.history),
                "decisions": len(self.history.made),
                "commands": len(self.history.issued),
                "changes at backends": sum(cluster.version for cluster in self.clusters),
                "program starts": sum(role.starts for role in self.roles),
            }
        )
        for witness in self.witnesses:
            figures.update({f"executed: {verb}": n for verb, n in witness.executed.items()})
        return figures
