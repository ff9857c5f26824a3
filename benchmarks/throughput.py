"""How many messages a second: decoded and folded by a worker, and stored on and read from a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from measuring import Row, quiet_heap, say
from memory import FLEET, SHARDS, make_pod
from workload import CPUS, make_nodes, make_set_for_all

from everynode import wire
from everynode.core.events import DaemonSetObserved, NodeObserved, PodObserved
from everynode.core.identity import revision_hash
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.state import Record
from everynode.core.values import Node
from everynode.ports import Outgoing
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection, StreamSettings

RUNS = 3
LOG_BYTES_MAX = 1024**3
FOLLOW_TIMEOUT_SECONDS = 60
FOLD_PART = "decode and fold"
BUS_PART = "log on a real server"


@dataclass(frozen=True)
class Sizes:
    """How many messages."""

    nodes: int
    bus_messages: int


class _Reader:
    """Decodes and folds, as a worker does."""

    def __init__(self) -> None:
        self._subjects = wire.Subjects(FLEET, SHARDS)
        self._machine = WorkerMachine("bench", SHARDS, Limits())
        self._sequence = 0

    def written(self, messages: Sequence[wire.AnyMessage]) -> list[tuple[str, bytes]]:
        return [(self._subjects.of(message), wire.encode(message)) for message in messages]

    def seconds(self, messages: Sequence[wire.AnyMessage]) -> float:
        """Measure decoding and folding of all of them."""
        payloads = self.written(messages)
        with quiet_heap():
            start = time.perf_counter_ns()
            for subject, payload in payloads:
                self._sequence += 1
                message = wire.decode_from(self._subjects, subject, payload)
                self._machine.fold(Record(self._sequence, self._sequence, message))
            return (time.perf_counter_ns() - start) / 1e9


def measure(sizes: Sizes) -> list[Row]:
    """Measure both."""
    say(f"throughput: {sizes.nodes:,} nodes, {sizes.bus_messages:,} messages on a server")
    nodes = make_nodes(sizes.nodes)
    rows = [
        Row(part=FOLD_PART, what=what, figure=per_second, unit="/s")
        for what, per_second in _fold_rates(nodes)
    ]
    published, followed = asyncio.run(_bus_rates(make_nodes(sizes.bus_messages)))
    rows += [
        Row(part=BUS_PART, what="publish, batches of 1,000", figure=published, unit="messages/s"),
        Row(part=BUS_PART, what="follow from the start", figure=followed, unit="messages/s"),
    ]
    return rows


def _fold_rates(nodes: Sequence[Node]) -> Iterator[tuple[str, float]]:
    agent = make_set_for_all("agent")
    revision = revision_hash(agent.template)
    pods = [make_pod(agent, node, revision) for node in nodes]
    steps: list[tuple[str, list[wire.AnyMessage]]] = [
        ("nodes, new", [NodeObserved(node=node) for node in nodes]),
        ("nodes, a label changed", [NodeObserved(node=_relabelled(node)) for node in nodes]),
        ("nodes, nothing changed", [NodeObserved(node=_relabelled(node)) for node in nodes]),
        ("pods, new", [PodObserved(pod=pod) for pod in pods]),
        (
            "pods, not ready any more",
            [PodObserved(pod=msgspec.structs.replace(pod, ready=False)) for pod in pods],
        ),
    ]
    best: dict[str, float] = {}
    for _ in range(RUNS):
        reader = _Reader()
        reader.seconds([DaemonSetObserved(daemonset=agent)])
        for what, messages in steps:
            rate = len(messages) / reader.seconds(messages)
            best[what] = max(best.get(what, 0), rate)
    yield from best.items()


def _relabelled(node: Node) -> Node:
    return msgspec.structs.replace(node, labels={**node.labels, CPUS: "128"})


async def _bus_rates(nodes: Sequence[Node]) -> tuple[float, float]:
    """Store all of them, read all of them; the best of some runs, each on its own fleet."""
    published: list[float] = []
    followed: list[float] = []
    async with EmbeddedServer(None) as server:
        connection = Connection(servers=(server.url,))
        for run in range(RUNS):
            settings = StreamSettings(log_max_bytes=LOG_BYTES_MAX)
            async with await connect(connection, f"{FLEET}-{run}", create=settings) as bus:
                messages = [
                    Outgoing(bus.subjects.of_node(node.key), wire.encode(NodeObserved(node=node)))
                    for node in nodes
                ]
                start = time.perf_counter()
                last = await bus.publish(messages)
                published.append(len(messages) / (time.perf_counter() - start))
                followed.append(len(messages) / await _follow_seconds(bus, last))
    return max(published), max(followed)


async def _follow_seconds(bus: JetStreamBus, last_sequence: int) -> float:
    start = time.perf_counter()
    subjects = bus.subjects.followed_by_worker(list(range(bus.subjects.shards)))
    async with (
        asyncio.timeout(FOLLOW_TIMEOUT_SECONDS),
        aclosing(bus.follow(subjects, 1)) as chunks,
    ):
        async for chunk in chunks:
            if chunk and chunk[-1].sequence >= last_sequence:
                break
    return time.perf_counter() - start
