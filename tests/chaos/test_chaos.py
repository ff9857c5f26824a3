"""Chaos on real processes, in small: a run of a minute, and workers that are killed while they cover a fleet.

The whole of it is ``make chaos``. Each test starts a process of its own, so that what it mounts and starts goes with
it; it prints a table, and the command that repeats it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = "tests.chaos.run"
KILLING_MODULE = "tests.chaos.kill_workers"

pytestmark = pytest.mark.slow


async def run(module: str, *arguments: object) -> str:
    """Run a module to its end; returns what it printed, or fails with that."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *map(str, arguments)),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()  # the kernel ends its children with it
            await process.wait()
    text = output.decode(errors="replace")
    print(text)  # noqa: T201 - pytest shows it if the test fails
    if process.returncode != 0:
        pytest.fail(f"{module} ended with {process.returncode}:\n{text}")
    return text


@pytest.mark.timeout(300)  # it takes about 80 s; a machine that does other things needs more
async def test_a_minute_of_chaos(tmp_path: Path) -> None:
    """S1, S3, S4, S5, S6, L1, L2: every kind of fault, on three servers, three workers and two adapters.

    How soon it converges is the business of `make chaos`; here it has to at all, however busy the machine is.
    """
    output = await run(MODULE, "--seconds", 60, "--within", 90, "--keep", tmp_path)
    assert "VIOLATION" not in output
    assert "reproduce:" not in output


@pytest.mark.timeout(120)
async def test_workers_are_killed_while_they_cover_a_fleet() -> None:
    """S1, S4, S5, L1: covered exactly, no pod twice, no command lost; with 5,000 nodes it takes a minute."""
    output = await run(KILLING_MODULE, "--nodes", 600, "--seconds", 8)
    assert "VIOLATION" not in output
    assert "reproduce:" not in output
