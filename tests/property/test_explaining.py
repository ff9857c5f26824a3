"""Whatever happened, each command has a cause, and that is true of the whole fleet, not only of what was read."""

from __future__ import annotations

import pytest
from hypothesis import settings
from tests.property.support_rolling import TroubledFleet
from tests.property.test_convergence import Fleets
from tests.unit.support_explaining import entries_of, fill

from everynode.core.events import DaemonSetObserved, Tick
from everynode.core.identity import revision_of
from everynode.core.state import FleetState, Record
from everynode.replay.explaining import explain_command
from everynode.replay.explaining_causes import fold_told, is_needed, situation_of
from everynode.replay.explaining_facts import Told
from everynode.replay.explaining_history import History, Issued, Scope
from everynode.testing.world import World

pytestmark = pytest.mark.timeout(600)  # a red run takes its time to find the shortest history

COMMANDS_CHECKED_MAX = 8
EXAMPLES_MAX = 15


def assert_explained(world: World) -> None:
    """Check the last commands of a log."""
    told = [record.message for record in world.log]
    for set_key in sorted(
        {each.daemonset.key for each in told if isinstance(each, DaemonSetObserved)}
    ):
        for name in sorted({key.name for key in world.nodes}):
            history = History(world.subjects, Scope((set_key,), name))
            fill(history, world, entries_of(world))
            for issued in history.issued[-COMMANDS_CHECKED_MAX:]:
                assert_true(world, history, issued)
                assert explain_command(history, issued, world.now_ms).opposite.conditions


def assert_true(world: World, history: History, issued: Issued) -> None:
    """Check that the need for a command was there at its basis, and arose where it is said to have."""
    command, decision = issued.command, issued.decision
    assert decision is not None
    situation = situation_of(history, issued, revision_of)
    arose = max(
        (fact.sequence for fact in situation.causes if fact.sequence <= decision.basis), default=0
    )
    assert arose, command
    fleet = FleetState(world.limits)
    for record in world.log[: decision.basis]:
        if record.sequence == arose and not situation.by_time and len(situation.causes) == 1:
            _pass_time(fleet, record.time_ms)
            assert not is_needed(fleet, command), (command, record)
        fold_told(fleet, Told(record, is_kept=False))
        if record.sequence >= arose and not situation.by_time:
            assert is_needed(fleet, command), (command, record)
    _pass_time(fleet, decision.at_ms)
    assert is_needed(fleet, command), command


def _pass_time(fleet: FleetState, now_ms: int) -> None:
    fleet.fold(Record(fleet.sequence, now_ms, Tick(shard=0, due_ms=now_ms)))


class ExplainedFleets(Fleets):
    """A fleet under random change, whose commands are explained in the end."""

    def teardown(self) -> None:
        """Each has its cause."""
        super().teardown()
        assert_explained(self.world)


class ExplainedRollouts(TroubledFleet):
    """Rollouts under random change, whose commands are explained in the end."""

    def teardown(self) -> None:
        """Each has its cause."""
        super().teardown()
        assert_explained(self.world)


TestExplainedFleets = ExplainedFleets.TestCase
TestExplainedFleets.settings = settings(max_examples=EXAMPLES_MAX, stateful_step_count=30)
TestExplainedRollouts = ExplainedRollouts.TestCase
TestExplainedRollouts.settings = settings(max_examples=EXAMPLES_MAX, stateful_step_count=30)
