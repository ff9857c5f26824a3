"""What a worker's memory of a large fleet takes, measured in a process of its own.

The messages are encoded here, into a file, and a fresh process reads them as a worker does: decode, check the subject,
fold. Run as a program, this module is that process: it prints what it took as JSON.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from measuring import Row, Target, say
from workload import make_nodes, make_set_for_all

from everynode import wire
from everynode.core.events import DaemonSetObserved, NodeObserved, PodObserved
from everynode.core.identity import pod_name, revision_hash
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.state import Record
from everynode.core.values import DaemonSet, Node, Owner, Pod

NODES_MEMORY_MB = Target(bound=600, unit="MB")

FLEET = "bench"
SHARDS = 16
PROPOSALS_MAX = 64
RUN_TIMEOUT_SECONDS = 120
BYTES_PER_MB = 1024 * 1024


@dataclass(frozen=True)
class Sizes:
    """How large the fleet is; the sets cover every node."""

    nodes: int
    sets: int


def make_pod(daemonset: DaemonSet, node: Node, revision: str) -> Pod:
    """Make the pod that a node should have, running and ready."""
    name = pod_name(daemonset.name, daemonset.uid, node.uid, revision, replaces="", slot=0)
    return Pod(
        backend=node.backend,
        namespace=daemonset.namespace,
        name=name,
        uid=f"uid-{name}",
        node=node.name,
        node_uid=node.uid,
        owner=Owner(name=daemonset.name, uid=daemonset.uid),
        revision=revision,
        phase="Running",
        ready=True,
        ready_since_ms=1,
        created_ms=1,
    )


def fleet_messages(nodes: Iterable[Node], sets: int) -> Iterator[wire.AnyMessage]:
    """Say that these nodes are there, and the pods of so many sets on every one of them."""
    nodes = list(nodes)
    for node in nodes:
        yield NodeObserved(node=node)
    for number in range(sets):
        daemonset = make_set_for_all(f"agent-{number}")
        revision = revision_hash(daemonset.template)
        yield DaemonSetObserved(daemonset=daemonset)
        for node in nodes:
            yield PodObserved(pod=make_pod(daemonset, node, revision))


def measure(sizes: Sizes) -> list[Row]:
    """Fold nodes alone, then nodes and the pods of all sets, each in a fresh process."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="everynode-bench-") as directory:
        for sets in (0, sizes.sets):
            pods = sets * sizes.nodes
            what = f"{sizes.nodes:,} nodes" + (f", {pods:,} pods" if pods else "")
            say(f"memory: {what}")
            path = Path(directory) / "messages"
            _write(path, fleet_messages(make_nodes(sizes.nodes), sets))
            took = _run(path)
            part = "worker, fresh process"
            rows += [
                Row(
                    part=part,
                    what=f"{what}: peak memory",
                    figure=took["peak_mb"],
                    unit="MB",
                    target=None if pods else NODES_MEMORY_MB,
                ),
                Row(part=part, what=f"{what}: to fold", figure=took["seconds"], unit="s"),
                Row(
                    part=part,
                    what=f"{what}: longest garbage collection",
                    figure=took["collection_ms"],
                    unit="ms",
                ),
            ]
    return rows


def _write(path: Path, messages: Iterable[wire.AnyMessage]) -> None:
    subjects = wire.Subjects(FLEET, SHARDS)
    with path.open("wb") as file:
        for message in messages:
            file.write(subjects.of(message).encode() + b" " + wire.encode(message) + b"\n")


def _run(path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, str(path)]
    done = subprocess.run(  # noqa: S603 - this very module
        command, capture_output=True, check=True, text=True, timeout=RUN_TIMEOUT_SECONDS
    )
    took: dict[str, float] = json.loads(done.stdout)
    return took


def peak_mb() -> float:
    """Return the most memory that this process ever had.

    Linux' ru_maxrss begins with what the parent had; VmHWM is that of this program alone.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / BYTES_PER_MB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / BYTES_PER_MB


def _fold_all(path: Path) -> dict[str, float]:
    """Fold a file of messages, as a worker does."""
    pauses_ns: list[int] = [0]
    begun_ns = 0

    def on_collection(phase: str, _info: dict[str, int]) -> None:
        nonlocal begun_ns
        if phase == "start":
            begun_ns = time.perf_counter_ns()
        else:
            pauses_ns.append(time.perf_counter_ns() - begun_ns)

    gc.callbacks.append(on_collection)
    subjects = wire.Subjects(FLEET, SHARDS)
    machine = WorkerMachine("bench", SHARDS, Limits())
    start = time.perf_counter_ns()
    with path.open("rb") as file:
        for sequence, line in enumerate(file, start=1):
            subject, _, payload = line.partition(b" ")
            message = wire.decode_from(subjects, subject.decode(), payload)
            machine.fold(Record(sequence, sequence, message))
    machine.proposals(PROPOSALS_MAX)
    seconds = (time.perf_counter_ns() - start) / 1e9
    return {"peak_mb": peak_mb(), "seconds": seconds, "collection_ms": max(pauses_ns) / 1e6}


if __name__ == "__main__":
    print(json.dumps(_fold_all(Path(sys.argv[1]))))
