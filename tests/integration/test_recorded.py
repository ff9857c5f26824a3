"""S7: what real workers decided, one of them killed, is decided again in another process, to the byte."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.recordings.living import BACKEND, Shape, live
from tests.recordings.recorded import example_sets, verify

from everynode_simulated import generate_nodes

pytestmark = pytest.mark.timeout(120)


async def test_a_life_is_decided_again(tmp_path: Path) -> None:
    """Nodes come and go, a worker is killed, everything is updated; with other hash seeds it is all the same."""
    recording = tmp_path / "life.everynode"
    shape = Shape(
        nodes=generate_nodes(60, 0, BACKEND),
        sets=example_sets()[:2],
        workers=2,
        rounds=8,
        changes=4,
        round_seconds=0.05,
        kill_rounds=8,
    )

    life = await live(tmp_path, shape, recording)
    found = [verify(recording, Path(sys.executable), seed) for seed in (1, 2)]

    assert 2 == life.kills
    assert [("", True)] * 2 == [(each.why, each.same) for each in found]
    assert all(each.again == each.decisions > 20 for each in found)
