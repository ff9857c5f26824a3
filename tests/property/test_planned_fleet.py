"""What a plan rests on is what a worker knows, though much of the log is not folded for it, or in another order."""

from __future__ import annotations

from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from tests.property.support_fingerprint import differences, fingerprint
from tests.property.test_convergence import folded, histories

from everynode import wire
from everynode.core.pacing import Limits
from everynode.core.state import FleetState, Record
from everynode.ports import Received
from everynode.replay import planning_fleet
from everynode.replay.planning_fleet import PlannedFleet
from everynode.testing.world import SHARDS

NOT_ASKED = ("windows", "proposal")
"""How many pods may be made at a time, and so what a worker decides now: a plan is about what it comes to."""

SUBJECTS = wire.Subjects("world", SHARDS)


def planned(kept: list[Record], log: list[Record], sets: FleetState, now_ms: int) -> PlannedFleet:
    """Take in what STATE kept, and a log, for a plan of all its sets."""
    fleet = PlannedFleet(SUBJECTS, sets.sets)
    for place, record in enumerate((*kept, *log)):
        subject = SUBJECTS.of(record.message)  # type: ignore[arg-type] # a world writes such messages only
        payload = wire.encode(record.message)  # type: ignore[arg-type] # as above
        received = Received(record.sequence, record.time_ms, subject, payload)
        if not fleet.wants(subject):
            continue
        if place < len(kept):
            assert fleet.take_kept(received)
        else:
            fleet.take(received)
    fleet.settle(now_ms)
    # Or it would wait for the rest of a batch that it does not need.
    fleet.state.sequence = log[-1].sequence
    return fleet


@given(histories(), st.booleans(), st.sampled_from((1, 5, planning_fleet.TOLD_MESSAGES_MIN)))
def test_it_knows_what_a_worker_knows(
    history: tuple[list[Record], Limits], from_state: bool, held: int
) -> None:
    """Of the log alone, or of STATE and the log after it; whether it reads all at the end or a little at a time."""
    log, limits = history
    worker = folded(log, limits)
    kept = {SUBJECTS.of(each.message): each for each in log}  # type: ignore[arg-type] # as above
    is_state = {kind.name for kind in wire.KINDS if kind.kept_in_state}
    state = [each for subject, each in kept.items() if subject.split(".")[2] in is_state]
    with mock.patch.object(planning_fleet, "TOLD_MESSAGES_MIN", held):
        ours = planned(state if from_state else [], log, worker, worker.now_ms)

    found = differences(fingerprint(worker), fingerprint(ours.state))
    found = [each for each in found if not isinstance(each, tuple) or each[1] not in NOT_ASKED]
    assert not found, found
