"""S7: a recorded log gives the same decisions again, to the byte, whatever happened; and another rule is noticed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from tests.property.support_rolling import TroubledFleet
from tests.property.test_convergence import Fleets

from everynode import wire
from everynode.core import decision as deciding
from everynode.core.pacing import Limits
from everynode.ports import Received
from everynode.replay.recording import MAGIC, Entry, Header, Reader, Writer
from everynode.replay.replaying import Decided, Replay
from everynode.testing.builders import daemonset, node
from everynode.testing.world import World

pytestmark = pytest.mark.timeout(600)  # a red run takes its time to find the shortest history


def recorded(world: World) -> list[Entry]:
    """Return a world's log as a recording has it."""
    return [
        Entry(
            Received(
                record.sequence,
                record.time_ms,
                world.subjects.of(record.message),  # type: ignore[arg-type] # a world writes such messages only
                wire.encode(record.message),  # type: ignore[arg-type]
            ),
            is_kept=False,
        )
        for record in world.log
    ]


def replayed(world: World, limits: Limits | None = None) -> list[Decided]:
    """Decide again what a world's log says was decided."""
    return list(Replay(world.subjects, limits or world.limits).run(recorded(world)))


def assert_same(world: World) -> None:
    """S7: all decisions are the same."""
    found = replayed(world)

    assert sum(
        entry.received.subject.split(".")[2] == "decision" for entry in recorded(world)
    ) == len(found)
    assert [] == [each.why_not for each in found if each.why_not]
    assert [] == [each.difference() for each in found if each.difference() is not None]


class ReplayedFleets(Fleets):
    """A fleet under random change, whose log is replayed in the end."""

    def teardown(self) -> None:
        """S7: the same decisions."""
        super().teardown()
        assert_same(self.world)


class ReplayedRollouts(TroubledFleet):
    """Rollouts under random change, whose log is replayed in the end."""

    def teardown(self) -> None:
        """S7: the same decisions."""
        super().teardown()
        assert_same(self.world)


TestReplayedFleets = ReplayedFleets.TestCase
TestReplayedFleets.settings = settings(stateful_step_count=40)
TestReplayedRollouts = ReplayedRollouts.TestCase
TestReplayedRollouts.settings = settings(stateful_step_count=40)


def lived() -> World:
    """A fleet that has been covered, and whose nodes changed."""
    world = World()
    world.apply(daemonset())
    for name in "abc":
        world.put_node(node(name))
    world.run()
    world.put_node(node("c", "a=b:NoExecute"))
    world.put_node(node("d"))
    world.run()
    return world


class TestOtherRules:
    """A change of a rule is noticed, at the first decision that it changes."""

    def test_none(self) -> None:
        """The same rules, the same decisions; there are some of both kinds."""
        found = replayed(lived())

        counts = [each.decision.counts for each in found]
        assert (4, 1) == (
            sum(each.creates for each in counts),
            sum(each.deletes for each in counts),
        )
        assert_same(lived())

    def test_another_rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is not tolerated is left alone: the first decision that differs is the one that deleted."""
        world = lived()
        monkeypatch.setattr(deciding, "unwanted", lambda *_: [])

        found = [each.difference() for each in replayed(world)]
        first = next(each for each in found if each is not None)

        assert 1 == first.decision.counts.deletes
        assert all(each is None for each in found[: found.index(first)])

    def test_other_limits(self) -> None:
        """So it is with other limits: the first decision is the same, as slow start begins with one."""
        found = [each.difference() for each in replayed(lived(), Limits(pending_ms=1_000))]

        assert found[0] is not None
        assert b'"expiresMs"' in (found[0].was or b"")
        assert 2 == found[0].place


def test_another_process(tmp_path: Path) -> None:
    """S7: another process with other hash seeds decides the same; what it decides is compared as text."""
    world = lived()
    file = io.BytesIO()
    writer = Writer(
        file,
        Header(
            what=MAGIC,
            schema=1,
            fleet=world.subjects.fleet,
            shards=world.subjects.shards,
            begins=1,
            from_sequence=1,
            from_ms=0,
            recorded_ms=0,
        ),
    )
    for entry in recorded(world):
        writer.write(entry)
    writer.finish()
    path = tmp_path / "recording"
    path.write_bytes(file.getvalue())
    assert len(world.log) == len(list(Reader(io.BytesIO(file.getvalue()), "r").entries()))

    told = []
    for seed in ("0", "1"):
        command = [
            str(Path(sys.executable).with_name("everynode")),
            "replay",
            str(path),
            "-o",
            "json",
        ]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        result = subprocess.run(
            command, env=environment, capture_output=True, check=True, text=True
        )
        told.append(result.stdout)

    assert told[0] == told[1]
    assert len(replayed(world)) == len(json.loads(told[0]))
    assert all(each["same"] for each in json.loads(told[0]))
