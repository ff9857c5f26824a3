"""How fast a recording is replayed, from the file to the folded state, and what memory that takes.

The recordings are written here, and a fresh process replays each, on one core: it decompresses, checks, decodes and
folds. Run as a program, this module is that process: it prints what it took as JSON.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from measuring import Row, Target, say
from memory import FLEET, SHARDS, make_pod, peak_mb
from workload import make_nodes, make_set_for_all

from everynode import wire
from everynode.cli.starting import spare_garbage_collection
from everynode.core.events import DaemonSetObserved, NodeObserved, PodObserved
from everynode.core.identity import revision_hash
from everynode.replay.recording import MAGIC, SCHEMA_VERSION, Header, Reader, Writer
from everynode.replay.replaying import Replay
from everynode.replay.streams import entry_of, stream_of

EVENTS_PER_SECOND = Target(bound=100_000, unit="/s", at_least=True)
LONGER_MEMORY_RATIO = Target(bound=1.1)

RUNS = 5
LONGER = 10
RUN_TIMEOUT_SECONDS = 300
EVENT_MS = 10
PART = "replay, fresh process"

Kind = Literal["nodes", "pods"]


@dataclass(frozen=True)
class Sizes:
    """How large the fleet is, and how many events there are after it has come up."""

    nodes: int
    sets: int
    events: int


def measure(sizes: Sizes) -> list[Row]:
    """Replay events of nodes, events of pods, and ten times as many of both."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="everynode-bench-") as directory:
        path = Path(directory) / "recording.everynode"
        kinds: dict[str, tuple[Kind, ...]] = {"nodes": ("nodes",), "pods": ("pods",)}
        for what, drawn in kinds.items():
            say(f"replay: {sizes.events:,} events of {what}")
            _write(path, sizes, drawn, sizes.events)
            found = [_run(path) for _ in range(RUNS)]
            rate = max(each["messages"] / each["seconds"] for each in found)
            text = f"{sizes.nodes:,} nodes, {sizes.sets} sets: events of {what}"
            rows.append(Row(part=PART, what=text, figure=rate, unit="/s", target=EVENTS_PER_SECOND))
        peaks = []
        for times in (1, LONGER):
            say(f"replay: memory, {times} times as long")
            _write(path, sizes, ("nodes", "pods"), sizes.events * times)
            peaks.append(_run(path)["peak_mb"])
        rows += [
            Row(
                part=PART, what=f"{sizes.events:,} events: peak memory", figure=peaks[0], unit="MB"
            ),
            Row(
                part=PART,
                what=f"{LONGER} times as many: memory, to that",
                figure=peaks[1] / peaks[0],
                unit="",
                target=LONGER_MEMORY_RATIO,
            ),
        ]
    return rows


def _messages(sizes: Sizes, kinds: tuple[Kind, ...], events: int) -> Iterator[wire.AnyMessage]:
    """A fleet comes up; then readiness comes and goes, of nodes or of pods."""
    nodes = make_nodes(sizes.nodes)
    yield from (NodeObserved(node=node) for node in nodes)
    pods = []
    for number in range(sizes.sets):
        daemonset = make_set_for_all(f"agent-{number}")
        yield DaemonSetObserved(daemonset=daemonset)
        revision = revision_hash(daemonset.template)
        pods += [make_pod(daemonset, node, revision) for node in nodes]
    yield from (PodObserved(pod=pod) for pod in pods)
    draw = random.Random(f"replay/{events}")
    for number in range(events):
        if kinds[number % len(kinds)] == "nodes":
            place = draw.randrange(len(nodes))
            ready = not nodes[place].ready
            since_ms = 0 if ready else number + 1
            nodes[place] = msgspec.structs.replace(
                nodes[place], ready=ready, unready_since_ms=since_ms
            )
            yield NodeObserved(node=nodes[place])
        else:
            place = draw.randrange(len(pods))
            ready = not pods[place].ready
            since_ms = number + 1 if ready else 0
            pods[place] = msgspec.structs.replace(pods[place], ready=ready, ready_since_ms=since_ms)
            yield PodObserved(pod=pods[place])


def _write(path: Path, sizes: Sizes, kinds: tuple[Kind, ...], events: int) -> None:
    subjects = wire.Subjects(FLEET, SHARDS)
    header = Header(
        what=MAGIC,
        schema=SCHEMA_VERSION,
        fleet=FLEET,
        shards=SHARDS,
        begins=1,
        from_sequence=1,
        from_ms=EVENT_MS,
        recorded_ms=EVENT_MS,
    )
    with path.open("wb") as file:
        writer = Writer(file, header)
        for sequence, message in enumerate(_messages(sizes, kinds, events), start=1):
            writer.write(entry_of(subjects, sequence, sequence * EVENT_MS, message))
        writer.finish()


def _run(path: Path) -> dict[str, float]:
    done = subprocess.run(  # noqa: S603 - this very module
        [sys.executable, __file__, str(path)],
        capture_output=True,
        check=True,
        text=True,
        timeout=RUN_TIMEOUT_SECONDS,
    )
    took: dict[str, float] = json.loads(done.stdout)
    return took


def _replay(path: Path) -> dict[str, float]:
    """Replay a file to its end, as the command does."""
    spare_garbage_collection()
    start = time.process_time()  # of one core: there is one thread, and other work must not count
    with path.open("rb") as file:
        stream = stream_of(Reader(file, path.name))
        replay = Replay(stream.subjects, renamed=stream.renamed)
        for _ in replay.run(stream.entries):
            raise AssertionError("nobody decided anything")
    seconds = time.process_time() - start
    assert not replay.counts.malformed
    return {"seconds": seconds, "messages": replay.counts.messages, "peak_mb": peak_mb()}


if __name__ == "__main__":
    print(json.dumps(_replay(Path(sys.argv[1]))))
