"""A large fleet lives, is recorded, and is decided again by every Python there is: ``make recorded``.

The nodes are the 1,213 of a published cluster where they are on this machine, else generated; the sets are those of
deploy/examples. Workers are killed meanwhile. Then each interpreter verifies the recording, in a process with another
PYTHONHASHSEED; for each but our own a throw-away environment is made from the locked requirements.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog
from tests.recordings.living import BACKEND, COMMAND_SECONDS_MAX, Life, Shape, live

from everynode.core.values import DaemonSet, Node
from everynode.manifest import read_daemonsets, read_nodes
from everynode_simulated import generate_nodes

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "deploy" / "examples"
REAL_NODES = ROOT.parent / "shared" / "data" / "nodes-openb.yaml"
NODES = 1_213
PYTHON_NAMES = tuple(f"python3.{minor}" for minor in range(11, 16))
RUN_EVERYNODE = "from everynode.cli import main; main()"
SETUP_SECONDS_MAX = 600


@dataclass(frozen=True)
class Verified:
    """What one interpreter said of a recording."""

    hash_seed: int
    again: int
    decisions: int
    same: bool
    seconds: float
    why: str = ""


class _Verdict(msgspec.Struct):
    same: bool
    again: int
    decisions: int


def example_sets() -> list[DaemonSet]:
    """Read the sets of deploy/examples."""
    return [
        accepted.daemonset
        for path in sorted(EXAMPLES.glob("*.yaml"))
        for accepted in read_daemonsets(path.name, path.read_bytes()).accepted
    ]


def fleet_nodes(count: int) -> list[Node]:
    """Take the real nodes where they are, else generate some."""
    if count == NODES and REAL_NODES.is_file():
        found = read_nodes([(REAL_NODES.name, REAL_NODES.read_bytes())], BACKEND)
        return [accepted.node for accepted in found.accepted]
    return generate_nodes(count, 0, BACKEND)


def verify(recording: Path, python: Path, hash_seed: int) -> Verified:
    """Decide everything again in a process of its own."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": f"{ROOT / 'engine'}:{ROOT / 'adapters'}",
    }
    words = ["-c", RUN_EVERYNODE, "replay", str(recording), "--verify", "-o", "json"]
    began = time.monotonic()
    ended = subprocess.run(
        [str(python), *words],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
    )
    seconds = time.monotonic() - began
    try:
        verdict = msgspec.json.decode(ended.stdout, type=_Verdict)
    except msgspec.DecodeError:
        return Verified(hash_seed, 0, 0, False, seconds, ended.stderr[-500:])
    why = "" if verdict.same else ended.stdout
    same = verdict.same and ended.returncode == 0
    return Verified(hash_seed, verdict.again, verdict.decisions, same, seconds, why)


def pythons(directory: Path) -> Iterator[tuple[str, Path | str]]:
    """Find the interpreters, and give each what it needs.

    Returns:
        Its version, and the interpreter with everything installed, or why there is none.
    """
    yield _version(sys.executable), Path(sys.executable)
    seen = {_version(sys.executable).rpartition(".")[0]}
    for name in os.environ.get("PYTHONS", "").split() or PYTHON_NAMES:
        found = shutil.which(name)
        version = _version(found) if found else ""
        if version and version.rpartition(".")[0] not in seen:
            seen.add(version.rpartition(".")[0])
            yield version, _environment(str(found), directory / version)


def _version(python: str) -> str:
    """Ask an interpreter for its version; empty if it does not run."""
    command = [python, "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(command, capture_output=True, check=False, text=True).stdout.strip()


def _environment(python: str, directory: Path) -> Path | str:
    ours = directory / "bin" / "python"
    requirements = ROOT / "requirements" / "run.txt"
    install = [str(ours), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    commands = (
        [python, "-m", "venv", str(directory)],
        [*install, "--no-deps", "--require-hashes", "-r", str(requirements)],
    )
    for command in commands:
        ended = subprocess.run(
            command, capture_output=True, check=False, text=True, timeout=SETUP_SECONDS_MAX
        )
        if ended.returncode:
            return ended.stderr[-500:]
    return ours


def main() -> int:
    """Run from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Record a fleet and decide everything again.")
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--rounds", type=int, default=60, help="of what happens, twice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="keep the recording here")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    with tempfile.TemporaryDirectory(prefix="everynode-recorded-") as name:
        directory = Path(name)
        recording = directory / "recorded.everynode"
        shape = Shape(
            nodes=fleet_nodes(options.nodes),
            sets=example_sets(),
            seed=options.seed,
            rounds=options.rounds,
        )
        began = time.monotonic()
        life = asyncio.run(live(directory, shape, recording))
        print(_told(life, shape, recording, time.monotonic() - began), flush=True)  # noqa: T201
        if options.keep:
            shutil.copyfile(recording, options.keep)
        results = []
        for number, (version, python) in enumerate(pythons(directory), start=1):
            if isinstance(python, Path):
                result = verify(recording, python, hash_seed=number)
            else:
                result = Verified(number, 0, 0, False, 0.0, python)
            results.append(result)
            print(_row(version, result), flush=True)  # noqa: T201
    return 0 if all(each.same and each.again == each.decisions for each in results) else 1


def _told(life: Life, shape: Shape, recording: Path, seconds: float) -> str:
    happened = ", ".join(f"{what} {count}" for what, count in sorted(life.changes.items()))
    return (
        f"{len(shape.nodes)} nodes, {len(shape.sets)} sets, {shape.workers} workers, {seconds:.0f} s; "
        f"{life.kills} kills; {happened}; recording of {recording.stat().st_size / 1e6:.1f} MB"
    )


def _row(version: str, result: Verified) -> str:
    verdict = "the same" if result.same else f"NOT THE SAME: {result.why}"
    return (
        f"Python {version:8} PYTHONHASHSEED={result.hash_seed}  {result.again} of {result.decisions} decisions  "
        f"{result.seconds:.1f} s  {verdict}"
    )


if __name__ == "__main__":
    sys.exit(main())
