"""A real worker and a real adapter host on the simulated log cover a few nodes, the same way for the same seed."""

import asyncio
from dataclasses import dataclass, field

import pytest
from tests.unit.support_simulation import Simulation, simulation

from everynode import wire
from everynode.core.events import DaemonSetObserved, NodeObserved
from everynode.core.pacing import Limits
from everynode.ports import Outgoing
from everynode.runtime.host import AdapterHost
from everynode.runtime.worker import Worker
from everynode.testing import builders
from everynode.testing.simulation.faults import BusFaults
from everynode.testing.simulation.process import Process
from everynode_simulated import SimulatedAdapter
from everynode_simulated.behaviour import Behaviour
from everynode_simulated.fleet import SimulatedFleet

NODES = 6
FAULTS = BusFaults(
    latency_ms_max=50,
    slow=0.02,
    answer_lost=0.05,
    request_lost=0.02,
    request_late=0.02,
    race_unnamed=0.5,
    consumer_vanished=0.02,
    chunk_cut=0.3,
    state_lag_ms_max=2_000,
    command_again=0.1,
    command_lost=0.05,
    command_late=0.05,
    command_twice=0.1,
    announcement_lost=0.1,
    announcement_twice=0.1,
    announcement_late=0.1,
)


@dataclass
class Whole:
    """A fleet with one worker and one host."""

    sim: Simulation
    fleet: SimulatedFleet
    adapter: SimulatedAdapter
    processes: dict[str, Process] = field(default_factory=dict)

    def start_worker(self, name: str) -> None:
        """Start a worker."""
        process, bus = self.sim.another(name)
        process.spawn(Worker(bus, name, clock=process.clock).run())
        self.processes[name] = process

    def start_host(self, name: str) -> None:
        """Start a host."""
        process, bus = self.sim.another(name)
        host = AdapterHost(bus, self.adapter, clock=process.clock, host_id=name)
        process.spawn(host.run())
        self.processes[name] = process

    async def say(self, message: wire.AnyMessage) -> None:
        """Write something on the log."""
        subjects = self.sim.server.subjects
        await self.sim.bus.publish([Outgoing(subjects.of(message), wire.encode(message))])

    def is_covered(self) -> bool:
        """Each node has a pod of the set."""
        return sorted(pod.node for pod in self.fleet.pods.values()) == sorted(
            node.name for node in self.fleet.nodes.values()
        )


def make(sim: Simulation) -> Whole:
    """Start a worker and a host for a few nodes, and say which set there is."""
    nodes = [builders.node(f"n{number}") for number in range(NODES)]
    fleet = SimulatedFleet(nodes, behaviour=Behaviour(seed=1), clock=sim.loop.world.clock)
    whole = Whole(sim, fleet, SimulatedAdapter("east", fleet))
    whole.start_worker("worker")
    whole.start_host("host")
    sim.run(whole.say(DaemonSetObserved(daemonset=builders.daemonset())))
    return whole


def test_covered() -> None:
    """Without faults the nodes are covered, and then it is silent (L1, L2)."""
    with simulation() as sim:
        whole = make(sim)
        sim.wait(whole.is_covered)
        sim.let_pass(30_000)
        commands = sum(".command." in one.subject for one in sim.server.history)
        assert commands == NODES
        stored = len(sim.server.history)
        sim.let_pass(60_000)
        assert len(sim.server.history) == stored
        assert whole.is_covered()


@pytest.mark.parametrize("seed", range(5))
def test_covered_with_faults(seed: int) -> None:
    """With a log that breaks what it may, and everybody killed once, the nodes are covered once it is well (L1)."""
    with simulation(seed) as sim:
        whole = make(sim)
        sim.wait(lambda: "east" in sim.server.backends)
        sim.server.faults = FAULTS
        sim.let_pass(sim.loop.random.randrange(3_000))
        for name in ("worker", "host"):
            whole.processes[name].kill()
            sim.let_pass(sim.loop.random.randrange(10_000))
            start = whole.start_worker if name == "worker" else whole.start_host
            sim.server.heal()  # a host that is not told whether its backend was recorded gives up
            start(f"{name}-2")
            sim.let_pass(1_000)
            sim.server.faults = FAULTS
            sim.server.outage(sim.loop.random.randrange(3_000))
            sim.let_pass(sim.loop.random.randrange(20_000))
        sim.server.heal()
        sim.wait(whole.is_covered)
        sim.let_pass(300_000)
        assert whole.is_covered()


@pytest.mark.parametrize("jump_ms", [-3_600_000, 3_600_000])
def test_a_clock_jumps_while_a_command_waits(jump_ms: int) -> None:
    """A worker whose clock is set right says all the same when a command that nobody carries out expires (L1)."""
    with simulation() as sim:
        whole = make(sim)
        whole.processes["host"].kill()
        sim.run(whole.say(NodeObserved(node=builders.node("n0"))))

        def said(kind: str) -> int:
            return sum(f".{kind}." in one.subject for one in sim.server.history)

        sim.wait(lambda: said("command") > 0)
        sim.let_pass(10_000)
        whole.processes["worker"].clock.set(jump_ms)
        sim.let_pass(Limits().pending_ms - 20_000)
        assert (1, 0) == (said("command"), said("tick"))
        sim.let_pass(60_000)
        assert 1 < said("command")


def test_equal_seeds() -> None:
    """Equal seeds give equal logs and digests, and other seeds others."""

    def run(seed: int) -> tuple[int, int, tuple[object, ...]]:
        with simulation(seed, BusFaults(latency_ms_max=50, chunk_cut=0.3)) as sim:
            whole = make(sim)
            sim.wait(whole.is_covered)
            sim.run(asyncio.sleep(5))
            return sim.loop.steps, sim.loop.digest, tuple(sim.server.history)

    assert run(1) == run(1)
    assert len({run(seed)[1] for seed in range(4)}) == 4
