"""A fleet that lives: a real server, real workers that are killed, a simulated backend in which things happen.

Used by ``recorded`` and by its test: both record it, and decide everything again elsewhere. What happens is drawn from
a seed; when it meets the workers is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs
from tests.chaos.support_process import KeptProcess

from everynode.cli.local import is_covered
from everynode.cli.running import beside
from everynode.core.identity import canonical, derived_uid
from everynode.core.values import NO_EXECUTE, DaemonSet, Node, SetKey, Taint, UpdateStrategy
from everynode.runtime.applying import apply
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.host import AdapterHost
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection, StreamSettings
from everynode.runtime.view import follow_view
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet

PROGRAM = Path(sys.executable).parent / "everynode"
BACKEND = "simulated"
FLEET = "recorded"
LOG_BYTES_MAX = 1024**3
COVERED_SECONDS_MAX = 300
COMMAND_SECONDS_MAX = 600
DRAINED = Taint(key="example.com/drained", effect=NO_EXECUTE)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a life is like.

    Attributes:
        rounds: How often something happens, before and during the update each.
        changes: To how many nodes, each time.
        round_seconds: How long after the one before.
        kill_rounds: After how many rounds a worker is killed (SIGKILL) and started again.
    """

    nodes: Sequence[Node]
    sets: Sequence[DaemonSet]
    seed: int = 0
    workers: int = 3
    rounds: int = 60
    changes: int = 10
    round_seconds: float = 0.5
    kill_rounds: int = 8


@dataclass
class Life:
    """What happened."""

    kills: int = 0
    changes: dict[str, int] = field(default_factory=dict)

    def count(self, what: str) -> None:
        """Remember that this happened once more."""
        self.changes[what] = self.changes.get(what, 0) + 1


def updated(daemonset: DaemonSet, version: int) -> DaemonSet:
    """Make another version of a set, to be rolled out within a budget."""
    template: dict[str, Any] = msgspec.json.decode(daemonset.template)
    template.setdefault("metadata", {}).setdefault("annotations", {})["version"] = str(version)
    return structs.replace(
        daemonset,
        template=msgspec.Raw(canonical(msgspec.json.encode(template))),
        update_strategy=UpdateStrategy(type="RollingUpdate", max_unavailable="10%"),
    )


async def live(directory: Path, shape: Shape, recording: Path) -> Life:
    """Live through all of it, and record it.

    Raises:
        TimeoutError: The fleet was not covered in the end.
        subprocess.CalledProcessError: It could not be recorded.
    """
    async with contextlib.AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(directory / "nats", 0))
        settings = StreamSettings(log_max_bytes=LOG_BYTES_MAX)
        connection = Connection(servers=(server.url,))
        bus = await stack.enter_async_context(await connect(connection, FLEET, create=settings))
        workers = list(_workers(directory, server.url, shape.workers))
        for worker in workers:
            stack.callback(worker.kill)
            worker.start()
        behaviour = Behaviour(
            seed=shape.seed,
            start_ms=(5, 300),
            stop_ms=(0, 300),
            run_ms=(100, 2_000),
            pods_fail=0.01,
        )
        simulated = SimulatedFleet(shape.nodes, behaviour=behaviour)
        host = AdapterHost(bus, SimulatedAdapter(BACKEND, simulated))
        async with beside(host.run()):
            await host.listed.wait()
            life = await _live(bus, simulated, workers, shape)
        for worker in workers:
            await worker.end()
        await asyncio.to_thread(_record, server.url, recording)
    return life


def _record(url: str, recording: Path) -> None:
    command = [str(PROGRAM), "record", "-o", str(recording), "--fleet", FLEET, "--nats", url]
    subprocess.run(command, check=True, timeout=COMMAND_SECONDS_MAX)


def _workers(directory: Path, url: str, count: int) -> Iterator[KeptProcess]:
    for number in range(count):
        name = f"worker-{number}"
        command = [str(PROGRAM), "worker", "--name", name, "--fleet", FLEET, "--nats", url]
        yield KeptProcess(name, command, log=directory / f"{name}.log")


async def _live(
    bus: JetStreamBus, simulated: SimulatedFleet, workers: list[KeptProcess], shape: Shape
) -> Life:
    life, draw = Life(), random.Random(f"life/{shape.seed}")
    churn = _Churn(simulated, draw, life)
    for version in (1, 2):
        generations: dict[SetKey, int] = {}
        for daemonset in shape.sets:
            wanted = daemonset if version == 1 else updated(daemonset, version)
            applied = (await apply(bus, wanted)).daemonset
            generations[applied.key] = applied.generation
        for number in range(shape.rounds):
            for _ in range(shape.changes):
                churn.happen()
            if number % shape.kill_rounds == shape.kill_rounds // 2:
                worker = draw.choice(workers)
                worker.kill()
                worker.start()
                life.kills += 1
            await asyncio.sleep(shape.round_seconds)  # the pace of what happens
        churn.heal()
        await _covered(bus, generations)
    return life


async def _covered(bus: JetStreamBus, generations: dict[SetKey, int]) -> None:
    """Wait until each set has a ready pod of what is wanted on each of its nodes."""
    async with asyncio.timeout(COVERED_SECONDS_MAX):
        async for view in follow_view(bus, ["daemonset", "status", "node"]):
            found = [(view.statuses.get(key), number) for key, number in generations.items()]
            if all(
                status is not None and status.observed_generation == number and is_covered(status)
                for status, number in found
            ):
                return
    raise AssertionError("a view is followed for as long as anybody reads it")


class _Churn:
    """Lets nodes leave, join, return, fall silent, and change their labels and taints."""

    def __init__(self, simulated: SimulatedFleet, draw: random.Random, life: Life) -> None:
        self._simulated = simulated
        self._draw = draw
        self._life = life
        self._away: list[Node] = []
        self._returns = 0

    def happen(self) -> None:
        """Let one thing happen to one node."""
        what = self._draw.choice(
            ("leave", "return", "silent", "heard", "label", "drain", "undrain")
        )
        fleet, name = self._simulated, self._draw.choice(list(self._simulated.nodes))
        match what:
            case "leave" if len(self._away) < len(fleet.nodes) // 5:
                self._away.append(fleet.nodes[name])
                fleet.remove_node(name)
            case "return" if self._away:
                self._return(self._away.pop(self._draw.randrange(len(self._away))))
            case "silent" | "heard":
                fleet.set_node_ready(name, ready=what == "heard")
            case "label":
                fleet.update_labels(name, {"example.com/rack": str(self._draw.randrange(9))})
            case "drain" | "undrain":
                put, remove = ([DRAINED], []) if what == "drain" else ([], [DRAINED])
                fleet.update_taints(name, put, remove)
            case _:
                return
        self._life.count(what)

    def heal(self) -> None:
        """Let everybody return, and be well."""
        while self._away:
            self._return(self._away.pop())
        for name in list(self._simulated.nodes):
            self._simulated.set_node_ready(name, ready=True)
            self._simulated.update_taints(name, [], [DRAINED])

    def _return(self, node: Node) -> None:
        """Let a node return: it is another one under the same name, as a backend has it."""
        self._returns += 1
        uid = derived_uid(node.uid, str(self._returns))
        self._simulated.add_node(structs.replace(node, uid=uid))
