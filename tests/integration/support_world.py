"""A whole fleet for a test: real log, workers, adapter host, and a simulated backend that is watched.

``World`` starts, stops and kills the parts, each over a connection of its own as in real life. Waiting is for what its
witness and its recorder have seen (``support_seen``), never for time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest
from tests.integration.support_seen import Recorder, Witness

from everynode import wire
from everynode.core.commands import CreatePod, Decision
from everynode.core.eligibility import compile_constraints, verdict
from everynode.core.events import (
    NodeGone,
    NodeObserved,
)
from everynode.core.values import DaemonSet, Node, NodeKey, Pod, Selector, SetKey
from everynode.ports import Outgoing
from everynode.runtime.applying import Applied, apply, delete
from everynode.runtime.host import AdapterHost
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection, StreamSettings
from everynode.runtime.streams import log_name, state_name
from everynode.runtime.worker import Worker
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet

BACKEND = "sim"
WAIT_SECONDS = 40
SMALL = StreamSettings(log_max_bytes=64 * 1024**2)
QUIET_HEARTBEATS = 2
"""So many signs of life of the log, one a second, with no message between them are silence."""


def make_node(name: str, *, backend: str = BACKEND, **fields: object) -> Node:
    """Make a node."""
    return msgspec.structs.replace(Node(backend=backend, name=name, uid=f"uid-{name}"), **fields)


def make_set(name: str = "agent", spec: str = "{}", **fields: object) -> DaemonSet:
    """Make a set; ``spec`` is its template's, in JSON."""
    template = msgspec.Raw(b'{"spec":%s}' % spec.encode())
    made = DaemonSet(
        namespace="default",
        name=name,
        uid="given by apply",
        generation=1,
        selector=Selector(match_labels={"app": name}),
        template=template,
    )
    return msgspec.structs.replace(made, **fields)


def known_bug(reason: str) -> pytest.MarkDecorator:
    """Mark what does not work yet: once it does, the test says so by failing, and the mark goes."""
    return pytest.mark.xfail(strict=True, reason=reason)


class Part:
    """A part of the fleet that runs in this process: a task, and a connection that goes with it."""

    def __init__(self, bus: JetStreamBus, what: Worker | AdapterHost) -> None:
        """Start it."""
        self.bus = bus
        self.task = asyncio.create_task(what.run())

    async def stop(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        await self.bus.close()


class WorkerPart(Part):
    """A worker."""

    def __init__(self, bus: JetStreamBus, name: str) -> None:
        """Start it."""
        self.worker = Worker(bus, name)
        super().__init__(bus, self.worker)


class HostPart(Part):
    """An adapter host."""

    def __init__(self, bus: JetStreamBus, adapter: SimulatedAdapter) -> None:
        """Start it."""
        self.host = AdapterHost(bus, adapter)
        super().__init__(bus, self.host)


class World:
    """One fleet and all its parts. Made by ``world``."""

    def __init__(self, connection: Connection, bus: JetStreamBus, directory: Path) -> None:
        """Start nothing yet."""
        self.connection = connection
        self.name = bus.subjects.fleet
        self.bus = bus
        self.log = Recorder()
        self.sets: dict[SetKey, DaemonSet] = {}
        self.backend = SimulatedFleet()
        self.witness = Witness(self.backend, self._notify)
        self.adapter = SimulatedAdapter(BACKEND, self.backend)
        self.wait_seconds = WAIT_SECONDS
        self.made_up_commands: set[str] = set()
        self._node_numbers = itertools.count()
        self._directory = directory
        self._parts: list[Part] = []
        self._processes: list[asyncio.subprocess.Process] = []
        self._recording: asyncio.Task[None] | None = None
        self._recording_bus: JetStreamBus | None = None
        self._changed = asyncio.Event()

    # Parts

    def behave(self, **behaviour: object) -> None:
        """Change how the backend behaves from now on."""
        self.backend.behaviour = Behaviour(**behaviour)  # type: ignore[arg-type] # checked by the class

    def add_nodes(self, count: int) -> None:
        """Let nodes join: n0000, n0001, ..."""
        for _ in range(count):
            self.backend.add_node(make_node(f"n{next(self._node_numbers):04}"))

    async def start_worker(self, name: str = "worker") -> WorkerPart:
        """Start a worker in this process."""
        part = WorkerPart(await connect(self.connection, self.name), name)
        self._parts.append(part)
        return part

    async def start_host(self, adapter: SimulatedAdapter | None = None) -> HostPart:
        """Start the adapter's host, or another one's."""
        part = HostPart(await connect(self.connection, self.name), adapter or self.adapter)
        self._parts.append(part)
        return part

    async def start_worker_process(self, name: str) -> asyncio.subprocess.Process:
        """Start a worker as people do."""
        program = Path(sys.executable).parent / "everynode"
        arguments = ("worker", "--nats", self.connection.servers[0], "--fleet", self.name)
        with (self._directory / f"{name}.log").open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                program,
                *arguments,
                "--name",
                name,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._processes.append(process)
        return process

    async def stop(self, part: Part) -> None:
        """End a part at once."""
        self._parts.remove(part)
        await part.stop()

    async def record(self) -> None:
        """Record the log, from its beginning."""
        await self._stop_recording()
        self.log = Recorder()
        self._recording_bus = await connect(self.connection, self.name)
        self._recording = asyncio.create_task(self.log.run(self._recording_bus, self._notify))

    async def _stop_recording(self) -> None:
        if self._recording is not None and self._recording_bus is not None:
            self._recording.cancel()
            await asyncio.gather(self._recording, return_exceptions=True)
            await self._recording_bus.close()

    async def close(self) -> None:
        """End all parts."""
        self.witness.close()
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        for part in self._parts:
            await part.stop()
        await self._stop_recording()

    async def remake_streams(self, *names: str) -> None:
        """Delete streams of the fleet (both, if none is named) and make them anew."""
        for name in names or (state_name(self.name), log_name(self.name)):
            await self.bus._link.call(f"STREAM.DELETE.{name}")
        async with await connect(self.connection, self.name, create=SMALL):
            pass

    # What people do

    async def apply(self, daemonset: DaemonSet) -> Applied:
        """Apply a set; from now on the fleet is to be covered with it."""
        applied = await apply(self.bus, daemonset)
        self.sets[daemonset.key] = applied.daemonset
        return applied

    async def delete(self, daemonset: DaemonSet, *, orphan: bool = False) -> None:
        """Delete a set."""
        assert await delete(self.bus, daemonset.key, "orphan" if orphan else "background")
        del self.sets[daemonset.key]

    async def publish(
        self, subject: str, payload: bytes, headers: dict[str, str] | None = None
    ) -> int:
        """Put anything on the log, by whatever program; returns its place."""
        answer = await self.bus._link.request(subject, payload, 5_000, headers)
        return int(msgspec.json.decode(answer)["seq"])

    async def reconnected(self) -> None:
        """Wait until the connection of the test itself is back."""
        async with asyncio.timeout(self.wait_seconds):
            while not self.bus.connected:  # noqa: ASYNC110 - the library sets no event for us
                await asyncio.sleep(0.01)

    async def say(self, message: wire.AnyMessage) -> int:
        """Put a message on the log, where it belongs."""
        return await self.bus.publish(
            [Outgoing(self.bus.subjects.of(message), wire.encode(message))]
        )

    # What is so

    def pods(self, daemonset: DaemonSet, node: str | None = None) -> list[Pod]:
        """The live pods that a set has at the backend."""
        return [
            pod
            for pod in self.backend.pods.values()
            if pod.live and pod.set_key == daemonset.key and node in {None, pod.node}
        ]

    def nodes_with(self, daemonset: DaemonSet) -> list[str]:
        """The nodes on which a set has live pods, one entry for each pod."""
        return sorted(pod.node for pod in self.pods(daemonset))

    def faults(self) -> list[str]:
        """Everything that keeps the fleet from being exactly covered, at the backend and on the log."""
        self.backend.advance()
        faults = [fault for daemonset in self.sets.values() for fault in self._faults_of(daemonset)]
        wanted = set(self.sets)
        faults += [
            f"pod {pod.name} on {pod.node} belongs to no set that is wanted"
            for pod in self.backend.pods.values()
            if pod.set_key not in wanted
        ]
        faults += [
            f"command {name} at {place} has no outcome"
            for name, place in self.log.open_commands.items()
            if name not in self.made_up_commands
        ]
        return faults

    def _faults_of(self, daemonset: DaemonSet) -> list[str]:
        constraints = compile_constraints(daemonset)
        counts = Counter(
            pod.node_key for pod in self.backend.pods.values() if pod.set_key == daemonset.key
        )
        ready = Counter(
            pod.node_key
            for pod in self.backend.pods.values()
            if pod.set_key == daemonset.key and pod.live and pod.ready
        )
        faults, desired = [], 0
        for node in self.backend.nodes.values():
            judged = verdict(constraints, node)
            desired += judged.should_run
            allowed = {1} if judged.should_run else {0, 1} if judged.may_stay else {0}
            count = counts.pop(node.key, 0)
            if count not in allowed or (judged.should_run and ready[node.key] != 1):
                faults.append(f"{daemonset.key}: {count} pods on {node.name}")
        faults += [f"{daemonset.key}: pods on {key.name}, which is gone" for key in counts]
        status = self.log.statuses.get(daemonset.key)
        if status is None or status.daemonset_uid != daemonset.uid:
            faults.append(f"{daemonset.key}: no status")
        elif (desired, desired, daemonset.generation) != (
            status.desired_number_scheduled,
            status.number_ready,
            status.observed_generation,
        ):
            faults.append(f"{daemonset.key}: {desired} nodes, but {status}")
        return faults

    async def restart_parts(self) -> None:
        """End every part that runs in this process; start a worker and a host anew."""
        for part in list(self._parts):
            await self.stop(part)
        await self.start_worker("successor")
        await self.start_host()

    async def goes_on(self) -> None:
        """S8, L3, L1: covered now and after all parts have started anew, also with what is new."""
        daemonset = next(iter(self.sets.values()))
        await self.apply(make_set("other"))
        self.add_nodes(1)
        await self.covered()
        await self.restart_parts()
        self.add_nodes(1)
        for wanted in (daemonset, make_set("other")):
            self.backend.delete_pod(self.pods(wanted)[0].key)
        await self.apply(make_set("third"))
        await self.covered()

    # Waiting

    def _notify(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something is so.

        Args:
            condition: Asked again after each change at the backend or on the log, and each second.
            what: For the message of the failure.
        """
        try:
            async with asyncio.timeout(self.wait_seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
                    for part in self._parts:
                        if part.task.done():
                            await part.task
        except TimeoutError:
            raise AssertionError(
                f"not within {self.wait_seconds} s: {what}\n{self.describe()}"
            ) from None

    async def covered(self) -> None:
        """Wait until the fleet is exactly covered with all sets, and the log knows it; nothing came twice (S1)."""
        await self.until(lambda: not self.faults(), "the fleet is exactly covered")
        assert self.witness.doubles == []

    async def silent(self) -> None:
        """Wait until nothing is written to the log any more (L2)."""
        self.log.quiet_heartbeats = 0
        await self.until(
            lambda: self.log.quiet_heartbeats >= QUIET_HEARTBEATS, "silence on the log"
        )

    async def until_state_is_not(self, subject: str, payload: bytes) -> None:
        """Wait until STATE has something else than this on a subject: the server dropped it, or it was replaced."""
        async with asyncio.timeout(self.wait_seconds):
            while payload in await self._state_of(subject):  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.05)

    async def until_state_has(self, subject: str) -> None:
        """Wait until STATE has something on a subject."""
        async with asyncio.timeout(self.wait_seconds):
            while not await self._state_of(subject):  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(0.05)

    async def _state_of(self, subject: str) -> list[bytes]:
        async with aclosing(self.bus.read_state([subject])) as chunks:
            return [received.payload async for chunk in chunks for received in chunk]

    async def read_to(self, sequence: int) -> None:
        """Wait until the log was recorded up to there."""
        await self.until(
            lambda: self.log.sequence >= sequence, f"the log was read up to {sequence}"
        )

    def describe(self) -> str:
        """Say how things are, for a test that failed."""
        kinds = Counter(type(message).__name__ for _, message in self.log.messages)
        parts = [
            f"worker {part.worker.name}: at {part.worker.sequence}, caught up {part.worker.caught_up}, "
            f"settled {part.worker.settled}, {part.worker.counts}"
            for part in self._parts
            if isinstance(part, WorkerPart)
        ]
        parts += [str(part.host.counts) for part in self._parts if isinstance(part, HostPart)]
        tail = [f"{place} {str(message)[:300]}" for place, message in self.log.messages[-8:]]
        faults = self.faults()
        return "\n".join(
            (
                f"{len(faults)} faults: {faults[:8]}",
                f"log: {self.log.sequence} messages, {dict(kinds)}, {len(self.log.malformed)} malformed",
                *parts,
                *tail,
                *(f"{path.name}: {_tail(path)}" for path in sorted(self._directory.glob("*.log"))),
            )
        )

    def assert_accounted_for(self) -> None:
        """S4: each command has an outcome. S5: each effect has a command."""
        assert {} == self.log.open_commands
        created = {pod.name for pod in self.witness.created}
        assert set() == created - {command.pod for command in self.log.creates()}
        deleted = {
            pod.uid
            for pod in self.witness.gone
            if pod.why in {c.reason for c in self.log.deletes()}
        }
        assert set() == deleted - {command.pod_uid for command in self.log.deletes()}

    def assert_creates_were_eligible(self, daemonset: DaemonSet) -> None:
        """S2: each create is for a node that was eligible at the basis of its decision."""
        constraints = compile_constraints(daemonset)
        history: dict[NodeKey, list[tuple[int, bool, str]]] = defaultdict(list)
        decision: Decision | None = None
        for sequence, message in self.log.messages:
            match message:
                case NodeObserved(node=node):
                    eligible = verdict(constraints, node).should_run
                    history[node.key].append((sequence, eligible, node.uid))
                case NodeGone():
                    history[message.key].append((sequence, False, ""))
                case Decision():
                    decision = message
                case CreatePod() if message.daemonset == daemonset.name:
                    assert decision is not None
                    known = [
                        entry for entry in history[message.node_key] if entry[0] <= decision.basis
                    ]
                    assert (True, message.node_uid) == known[-1][1:], f"{message.pod} at {sequence}"


def _tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-1500:]


@contextlib.asynccontextmanager
async def world(connection: Connection, bus: JetStreamBus, directory: Path) -> AsyncIterator[World]:
    """Make a fleet whose log is recorded; nothing else runs yet."""
    made = World(connection, bus, directory)
    try:
        await made.record()
        yield made
    finally:
        await made.close()
