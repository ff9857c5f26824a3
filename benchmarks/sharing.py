"""Several workers cover one fleet: what another one saves the others, on one machine, in one run.

Worker processes share the sets of a fleet whose adapter answers at once. Server and adapter run on the same processors,
so the time can only fall as far as the workers had been what it was waiting for; what each worker reads and computes
tells more. The same program, given ``--worker``, is one of the workers.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import structlog
from measuring import Row, Target, say
from workload import make_set_for_all

from everynode.cli.starting import GARBAGE_THRESHOLD
from everynode.core.values import DaemonSet, Node
from everynode.runtime.applying import apply
from everynode.runtime.clock import SystemClock
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.host import AdapterHost
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.roster import beat_subject, listen, read_beat
from everynode.runtime.settings import Connection, StreamSettings
from everynode.runtime.worker import Worker
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet

HANDOVER_SECONDS = Target(bound=2.0, unit="s")

WORKERS = (1, 2, 4)
FLEET = "bench"
BACKEND = "simulated"
LISTEN_MS = 1_000
POLL_SECONDS = 0.02
WAIT_SECONDS_MAX = 300
LOG_BYTES_MAX = 1024**3
SHARDS = 64
"""More than by default, so that chance deals them out more evenly."""


@dataclass(frozen=True)
class Sizes:
    """How large the fleet is, and that in which a worker is killed."""

    sets: int
    nodes: int
    nodes_killed: int


@dataclass(frozen=True)
class _Run:
    seconds: float
    handover_seconds: float
    workers: list[dict[str, Any]]

    def largest(self, figure: str) -> float:
        """Return a figure of the worker that has most of it."""
        return max(float(worker[figure]) for worker in self.workers)


def measure(sizes: Sizes) -> list[Row]:
    """Cover the fleet with one worker, with two and with four; then with two, of which one is killed."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    part = f"sharing: {sizes.sets} sets, {sizes.nodes:,} nodes"
    rows, runs = [], {}
    for workers in WORKERS:
        say(f"sharing: {workers} workers")
        run = runs[workers] = asyncio.run(_run(sizes, workers, kill=False))
        one = runs[WORKERS[0]]
        rows += [
            Row(
                part=part,
                what=f"{workers} workers: {what}",
                figure=figure,
                unit=unit,
            )
            for what, figure, unit in (
                ("covered after", run.seconds, "s"),
                ("share of the time that one takes", run.seconds / one.seconds, ""),
                ("most messages that one has folded", run.largest("folded"), "messages"),
                (
                    "share of what a single one folds",
                    run.largest("folded") / one.largest("folded"),
                    "",
                ),
                ("most processor time of one", run.largest("cpu_seconds"), "s"),
                (
                    "share of a single one's processor time",
                    run.largest("cpu_seconds") / one.largest("cpu_seconds"),
                    "",
                ),
                ("decisions refused by the fence", _sum(run, "refused"), ""),
            )
        ]
    say("sharing: 2 workers, one is killed")
    small = replace(sizes, nodes=sizes.nodes_killed)
    killed = asyncio.run(_run(small, 2, kill=True)).handover_seconds
    rows.append(
        Row(
            part=f"sharing: {small.sets} sets, {small.nodes:,} nodes",
            what="one of two is killed: the other has its shards after",
            figure=killed,
            unit="s",
            target=HANDOVER_SECONDS,
        )
    )
    return rows


def _sum(run: _Run, figure: str) -> float:
    return sum(float(worker[figure]) for worker in run.workers)


async def _run(sizes: Sizes, workers: int, *, kill: bool) -> _Run:
    async with EmbeddedServer(None, 0) as server:
        settings = StreamSettings(shards=SHARDS, log_max_bytes=LOG_BYTES_MAX)
        connection = Connection(servers=(server.url,))
        async with await connect(connection, FLEET, create=settings) as bus:
            nodes = [
                Node(BACKEND, f"n{number:05}", f"uid-{number}") for number in range(sizes.nodes)
            ]
            fleet = SimulatedFleet(nodes, behaviour=Behaviour(start_ms=(1, 2)))
            host = AdapterHost(bus, SimulatedAdapter(BACKEND, fleet))
            task = asyncio.create_task(host.run())
            processes = [_start(server.url, number) for number in range(workers)]
            try:
                return await _measured(bus, fleet, sizes, processes, kill=kill)
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _measured(
    bus: JetStreamBus,
    fleet: SimulatedFleet,
    sizes: Sizes,
    processes: list[subprocess.Popen[str]],
    *,
    kill: bool,
) -> _Run:
    """Cover the fleet, kill a worker if that is wanted, and ask the rest what they did."""
    while not await _divided(bus, len(processes)):
        pass
    sets = [make_set_for_all(f"set-{number}") for number in range(sizes.sets)]
    start = time.perf_counter()
    for daemonset in sets:
        await apply(bus, daemonset)
    async with asyncio.timeout(WAIT_SECONDS_MAX):
        while not _covered(fleet, sets, sizes.nodes):  # noqa: ASYNC110 - it moves when asked
            await asyncio.sleep(POLL_SECONDS)
    seconds = time.perf_counter() - start
    assert len(fleet.pods) == sizes.sets * sizes.nodes
    handover_seconds = await _handover_seconds(bus, processes) if kill else 0.0
    reports = [_report(process) for process in processes if process.poll() is None]
    return _Run(seconds, handover_seconds, reports)


def _covered(fleet: SimulatedFleet, sets: list[DaemonSet], nodes: int) -> bool:
    fleet.advance()
    pods = fleet.pods.values()
    return len(pods) == len(sets) * nodes and all(pod.ready for pod in pods)


async def _divided(bus: JetStreamBus, workers: int) -> bool:
    """Listen for a while; whether all workers are there, decide for each shard once, and follow no others."""
    beats = await listen(bus, SystemClock(), LISTEN_MS)
    shards = sorted(shard for beat in beats for shard in beat.shards)
    ready = [beat for beat in beats if beat.ready and beat.holds == beat.shards]
    return len(ready) == workers and shards == list(range(bus.subjects.shards))


async def _handover_seconds(bus: JetStreamBus, processes: list[subprocess.Popen[str]]) -> float:
    """Kill the first worker, and see how long it takes until others decide for all that it decided for."""
    beats = {beat.id: beat for beat in await listen(bus, SystemClock(), LISTEN_MS)}
    (victim,) = (beat for beat in beats.values() if beat.worker == "worker-0")
    del beats[victim.id]
    done = asyncio.Event()

    async def hear(payload: bytes) -> bytes:
        beat = read_beat(payload, bus.subjects.shards)
        if beat.id != victim.id:
            beats[beat.id] = beat
            if set(victim.shards) <= {shard for known in beats.values() for shard in known.shards}:
                done.set()
        return b""

    await bus.serve(beat_subject(bus.subjects), hear)
    start = time.perf_counter()
    processes[0].send_signal(signal.SIGKILL)
    await done.wait()
    seconds = time.perf_counter() - start
    await bus.stop_serving(beat_subject(bus.subjects))
    processes[0].wait()
    return seconds


def _start(url: str, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - this program
        [sys.executable, Path(__file__), "--worker", f"worker-{number}", "--nats", url],
        stdout=subprocess.PIPE,
        text=True,
    )


def _report(process: subprocess.Popen[str]) -> dict[str, Any]:
    """End a worker and return what it says that it did."""
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=WAIT_SECONDS_MAX)
    report: dict[str, Any] = msgspec.json.decode(printed)
    return report


async def _work(url: str, name: str) -> None:
    """Be a worker until SIGTERM; print what was done."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 20)  # as the command does
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with await connect(Connection(servers=(url,)), FLEET) as bus:
        worker = Worker(bus, name)
        started_with = time.process_time()
        task = asyncio.create_task(worker.run())
        await stopped.wait()
        cpu_seconds = time.process_time() - started_with
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    print(json.dumps(asdict(worker.counts) | {"cpu_seconds": cpu_seconds}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", required=True)
    parser.add_argument("--nats", required=True)
    options = parser.parse_args()
    asyncio.run(_work(options.nats, options.worker))
