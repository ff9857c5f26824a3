"""What a plan takes in of a log: what matters of it, whatever the order in which it is told."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.unit.test_planning import (
    COMMAND,
    NODES,
    NOW_MS,
    SUBJECTS,
    agent,
    covered,
    fleet,
    hear,
    running,
)

from everynode import wire
from everynode.core.commands import CreatePod, ReleasePod, outcome_of
from everynode.core.events import DaemonSetObserved, NodeObserved, PodObserved
from everynode.ports import Received
from everynode.runtime.ledger import pod_gone


@pytest.mark.parametrize("gone", [b"PodGone", b"Pod\\u0047one"])
def test_a_pod_that_came_back(gone: bytes) -> None:
    """A pod was let go of and is the set's again: that it had gone shows that the release is not on its way.

    Others may write the same text in another way.
    """
    known = covered(agent(), NODES[:1])
    back = running(agent(), NODES[:1])
    release = ReleasePod(**COMMAND, node="a", pod="pod-a", pod_uid="uid-pod-a")
    hear(known, release)
    tombstone = pod_gone(back[0].pod, "it was let go of")
    payload = wire.encode(tombstone).replace(b"PodGone", gone)
    for sequence, body in ((101, payload), (102, wire.encode(back[0]))):
        known.take(Received(sequence, NOW_MS, SUBJECTS.of(tombstone), body))

    assert 0 == known.arrive(NOW_MS)
    assert 1 == len(known.state.sets[agent().key].pods)


@pytest.mark.parametrize(("bound", "least"), [("TOLD_MESSAGES_MIN", 10), ("TOLD_BYTES_MAX", 2_000)])
def test_what_went_long_ago_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, bound: str, least: int
) -> None:
    """B1: of pods that came and went no more is held than there are nodes and pods, however long the log is."""
    monkeypatch.setattr(f"everynode.replay.planning_fleet.{bound}", least)
    known = covered(agent(), NODES[:1])
    horizon_ms = known.state.limits.horizon_ms
    for number in range(100):
        (pod,) = running(agent(), NODES[:1])
        named = PodObserved(pod=replace(pod.pod, name=f"pod-{number}", uid=f"uid-{number}"))
        time_ms = NOW_MS + number * horizon_ms
        messages: tuple[wire.AnyMessage, ...] = (named, pod_gone(named.pod, "it ended"))
        for place, message in enumerate(messages):
            sequence = 1_000 + 2 * number + place
            subject, payload = SUBJECTS.of(message), wire.encode(message)
            known.take(Received(sequence, time_ms, subject, payload))
    assert len(known._told) + len(known._last) + len(known._gone) < 40
    known.settle(NOW_MS + 100 * horizon_ms)
    assert 1 == len(known.state.sets[agent().key].pods)


def test_what_cannot_be_read() -> None:
    """The last that can be read counts, however much of it was overtaken; what was told later makes up for it."""
    known = covered(agent(), NODES[:2])
    (first, second) = running(agent(), NODES[:2], ready=False)
    for sequence, message, payload in (
        (100, first, wire.encode(first)),
        (101, first, b"no message"),
        (102, second, b'{"v":1,"kind":"PodGone"}'),
        (103, second, wire.encode(second)),
    ):
        known.take(Received(sequence, NOW_MS, SUBJECTS.of(message), payload))
    known.settle(NOW_MS)

    assert [False, False] == [
        each.pod.ready for each in known.state.sets[agent().key].pods.values()
    ]
    assert 1 == known.refused


def test_what_state_kept() -> None:
    """Whether it can be used is said at once, so that the one before it can be looked for."""
    known = fleet(DaemonSetObserved(daemonset=agent()))
    messages: tuple[wire.AnyMessage, ...] = (
        NodeObserved(node=NODES[0]),
        *running(agent(), NODES[:1]),
    )
    for message in messages:
        subject = SUBJECTS.of(message)
        assert not known.take_kept(Received(101, NOW_MS, subject, b"no message"))
        assert known.take_kept(Received(100, NOW_MS, subject, wire.encode(message)))
    known.settle(NOW_MS)

    assert 2 == known.refused
    assert 1 == len(known.state.index)
    assert 1 == len(known.state.sets[agent().key].pods)


def test_what_was_asked_for_long_ago_is_forgotten() -> None:
    """B1: nothing is kept of it, whatever it was and however large, but for as long as anything is waited for."""
    known = covered(agent(), NODES[:1])
    subject = SUBJECTS.of_set("decision", agent().key)
    for number in range(100):
        time_ms = NOW_MS + number * known.state.limits.horizon_ms // 2
        known.take(Received(1_000 + number, time_ms, subject, b"?"))
    assert 3 == len(known._passing)


def test_subjects_of_another_fleet() -> None:
    """They may be as long as ours."""
    theirs = SUBJECTS.prefix[:-1] + "?"
    for kind in ("node.east.a", "pod.orphan.east.default.a", "outcome.0.a", "command.east.a.0.b"):
        assert not fleet().wants(f"{theirs}.{kind}")
    for kind in ("daemonset", "status", "decision", "revision"):
        ours = SUBJECTS.of_set(kind, agent().key) + (".a" if kind == "revision" else "")
        assert fleet().wants(ours)
        assert not fleet().wants(ours.replace(SUBJECTS.prefix, theirs))


@pytest.mark.parametrize("kind", ["pod", "pod.0", "command.a", "outcome", "daemonset", "other", ""])
def test_a_subject_that_is_none(kind: str) -> None:
    """Whoever may write may write on subjects that are too short: they are not wanted."""
    assert not fleet().wants(f"{SUBJECTS.prefix}.{kind}")


def test_what_comes_late() -> None:
    """A message about a pod that is older than what is known of it changes nothing."""
    known = fleet(DaemonSetObserved(daemonset=agent()))
    hear(known, *running(agent(), NODES[:1]))
    (late,) = running(agent(), NODES[:1], ready=False)
    known.take(Received(50, NOW_MS, SUBJECTS.of(late), wire.encode(late)))
    known.settle(NOW_MS)

    (found,) = known.state.sets[agent().key].pods.values()
    assert found.pod.ready


def test_what_was_said_of_commands() -> None:
    """It is asked only of those that have not taken effect; one that has failed is not on its way any more."""
    made = CreatePod(**COMMAND, node="a", node_uid="uid-a", pod="pod-a", revision="x")
    asked = {**COMMAND, "id": "other"}
    other = CreatePod(**asked, node="b", node_uid=NODES[1].uid, pod="pod-b", revision="x")
    known = covered(agent(), NODES[:1])
    hear(known, NodeObserved(node=NODES[1]), made, other)

    (subject,) = known.outcome_subjects()
    failed = outcome_of(other, "failed")
    assert subject == SUBJECTS.of(failed)
    known.take(Received(200, NOW_MS, subject, wire.encode(failed)))
    assert 0 == known.arrive(NOW_MS)
