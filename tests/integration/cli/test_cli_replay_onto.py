"""`everynode replay --speed`: what once happened, made to happen again to a fleet that is alive."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.recordings.make import DIRECTORY as RECORDINGS
from tests.recordings.make import covered, versioned, write

from everynode.testing.world import World

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode, Running, WrittenFleet

LOSING = RECORDINGS / "losing-nodes.everynode"
WHILE_MS = 20_000
"""Long enough, at 20 times the speed, for three pods to be there."""

TRACE = """\
0,1,0
0,2,0
0,3,0
1000,2,1
2000,2,0
3000,3,1
"""


@pytest.fixture
def trace(tmp_path: Path, manifest: Callable[..., str]) -> tuple[str, ...]:
    """Machine events and a set for all of them, as options of `replay`."""
    events, sets = tmp_path / "events.csv", tmp_path / "set.yaml"
    events.write_text(TRACE)
    sets.write_text(manifest("agent").replace("nodeSelector: {kubernetes.io/os: linux}", ""))
    columns = ("--map", "time=0,machine=1,event=2", "--time-unit", "ms")
    return ("--from", "csv", str(events), *columns, "-f", str(sets))


@pytest.mark.parametrize(
    ("name", "nodes", "sets", "creates_min"),
    [("losing-nodes", 22, 1, 5), ("deleting", 6, 8, 6), ("covering", 150, 2, 150)],
)
def test_a_recording(
    everynode: Everynode, name: str, nodes: int, sets: int, creates_min: int
) -> None:
    """Nodes and sets come again; what follows is decided now, and in the end all is covered."""
    ended = everynode("replay", RECORDINGS / f"{name}.everynode", "--speed", "1000x", "-o", "json")

    found = json.loads(ended.out)
    assert (0, True, 0) == (ended.code, found["covered"], found["passedOver"])
    assert {"nodes": nodes, "daemonsets": sets, "pods": 0} == found["events"]
    assert found["creates"] >= creates_min
    assert found["decisions"] > 0


def test_pods_that_end(everynode: Everynode, tmp_path: Path) -> None:
    """A pod that failed and one that somebody deleted: those in their places do likewise, and are replaced."""
    world = covered(World(), 3, versioned(1))
    first, second, _ = sorted(world.pods)
    world.now_ms += WHILE_MS
    world.change_pod(first, phase="Failed", ready=False)
    world.remove_pod(second)
    world.run()
    path = tmp_path / "r"
    write(world, path, redact=False)

    ended = everynode("replay", path, "--speed", "20x", "-o", "json")

    found = json.loads(ended.out)
    assert (0, True) == (ended.code, found["covered"])
    assert {"nodes": 3, "daemonsets": 1, "pods": 2} == found["events"]
    assert 5 == found["creates"]


def test_what_others_recorded(everynode: Everynode, trace: tuple[str, ...]) -> None:
    """A trace works as well; it takes as long as it took then, by the speed that is asked for."""
    ended = everynode("replay", *trace, "--speed", "100x")

    assert 0 == ended.code
    assert "7 events (6 of nodes, 1 of daemonsets, 0 of pods), 0 passed over" in ended.out
    assert "3 s then, " in ended.out
    assert "2 nodes, all covered" in ended.out


async def test_a_server_that_is_named(written: WrittenFleet) -> None:
    """With --nats the fleet is there afterwards; one that has a log already is refused."""
    url = written._everynode.address
    first = await written("replay", str(LOSING), "--speed", "1000x", "--nats", str(url))
    nodes = await written("get", "nodes", "-o", "name")
    again = await written("replay", str(LOSING), "--speed", "1000x", "--nats", str(url))

    assert (0, 10, 1) == (first.code, len(nodes.out.splitlines()), again.code)
    assert "has a log already" in again.err


def test_it_is_stopped(start: Callable[..., Running], trace: tuple[str, ...]) -> None:
    """Ctrl-C ends it in order, and it says how far it came."""
    running = start("replay", *trace, "--speed", "0.0001x")
    running.line("replaying")

    code = running.stop()

    assert 130 == code
    assert any("not all covered" in line for line in running.out)


@pytest.mark.parametrize(
    "words",
    [
        *(("--speed", speed) for speed in ("0x", "-1", "fast", "x", "1e9999", "nan")),
        ("--speed", "1x", "--verify"),
        ("--speed", "1x", "--at", "0s"),
        ("--nats", "nats://127.0.0.1:1"),
    ],
    ids=" ".join,
)
def test_usage(everynode: Everynode, words: tuple[str, ...]) -> None:
    """What makes no sense is refused before anything is started."""
    assert 2 == everynode("replay", LOSING, *words).code
