"""What people are told, how often, and in which order."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from msgspec import structs

from everynode.core.commands import AdoptPod, Command, CreatePod, DeletePod, ReleasePod, outcome_of
from everynode.core.events import NoticeReported
from everynode.core.notices import MESSAGE_LENGTH_MAX, PROGRESS_INTERVAL_MS, NoticeBoard
from everynode.core.values import Condition, Notice, Selector, SetKey, Status, UpdateStrategy
from everynode.testing.builders import daemonset, node
from everynode.testing.situations import AGENT, SET, alike, situation
from everynode.testing.world import World

UID = "uid-agent"
ABOUT: dict[str, Any] = {
    "id": "id-1",
    "backend": "east",
    "node": "node-1",
    "namespace": "default",
    "daemonset": "agent",
    "daemonset_uid": UID,
    "generation": 1,
    "pod": "pod-1",
    "expires_ms": 9,
}
CREATE = CreatePod(**ABOUT, node_uid="uid-1", revision="rev")
ON_POD: dict[str, Any] = {**ABOUT, "pod_uid": "uid-pod-1"}
DELETE = DeletePod(**ON_POD)


def status(reason: str, *, moved_ms: int = 0, revision: str = "rev", name: str = "agent") -> Status:
    """Make a status whose rollout stands so."""
    progressing = Condition(
        type="Progressing",
        status="True",
        reason=reason,
        message=f"message of {reason}",
        last_update_ms=moved_ms,
    )
    return Status(
        namespace="default",
        daemonset=name,
        daemonset_uid=UID,
        observed_generation=1,
        revision=revision,
        conditions=(progressing,),
    )


def reasons(board: NoticeBoard) -> list[str]:
    """Take what is to be told, and return the reasons."""
    return [notice.reason for notice in board.take()]


def told(world: World) -> list[Notice]:
    """Return what people were told so far."""
    return [r.message.notice for r in world.log if isinstance(r.message, NoticeReported)]


# Commands


@pytest.mark.parametrize(
    ("command", "good", "bad", "done", "failed"),
    [
        (CREATE, "SuccessfulCreate", "FailedCreate", "Created", "create"),
        (DELETE, "SuccessfulDelete", "FailedDelete", "Deleted", "delete"),
        (AdoptPod(**ON_POD), "SuccessfulAdopt", "FailedAdopt", "Adopted", "adopt"),
        (ReleasePod(**ON_POD), "SuccessfulRelease", "FailedRelease", "Released", "release"),
    ],
)
def test_what_became_of_a_command(
    command: Command, good: str, bad: str, done: str, failed: str
) -> None:
    """It is told with its pod and node; what was refused or failed, with what the backend said."""
    board = NoticeBoard()
    board.command_settled(command, outcome_of(command, "done"), 7)
    (notice,) = board.take()

    assert notice == Notice(
        namespace="default",
        daemonset="agent",
        daemonset_uid=UID,
        type="Normal",
        reason=good,
        message=f"{done} pod pod-1 on node node-1",
        node="node-1",
        pod="pod-1",
        count=1,
        first_ms=7,
        last_ms=7,
    )
    results: tuple[Literal["refused", "failed"], ...] = ("refused", "failed")
    for result in results:
        board.command_settled(command, outcome_of(command, result, "no room"), 8)
        (notice,) = board.take()
        assert (bad, "Warning") == (notice.reason, notice.type)
        assert notice.message == f"Could not {failed} pod pod-1 on node node-1: no room"


def test_what_was_no_longer_wanted_is_not_worth_a_word() -> None:
    """A command that was superseded is neither a success nor a failure."""
    board = NoticeBoard()
    board.command_settled(CREATE, outcome_of(CREATE, "superseded"), 7)

    assert not board
    assert board.take() == []


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("PodFailed", ("FailedDaemonPod", "Warning", "has failed")),
        ("PodSucceeded", ("SucceededDaemonPod", "Normal", "has ended")),
    ],
)
def test_a_pod_that_has_ended_is_told_of(reason: str, wanted: tuple[str, str, str]) -> None:
    """As in Kubernetes' controller a pod that is replaced because it ended is told when that is decided."""
    board = NoticeBoard()
    board.command_decided(structs.replace(DELETE, reason=reason), 7)
    (notice,) = board.take()

    assert wanted[:2] == (notice.reason, notice.type)
    assert notice.message == f"Pod pod-1 on node node-1 {wanted[2]} and is replaced"
    assert ("node-1", "pod-1", 7) == (notice.node, notice.pod, notice.first_ms)


def test_other_decisions_are_not_told() -> None:
    """Deletes for other reasons are told when they have been carried out."""
    board = NoticeBoard()
    board.command_decided(structs.replace(DELETE, reason="Duplicate"), 7)

    assert not board


# Repeats, order, limits


def test_several_alike_are_told_as_one() -> None:
    """B1: what happens again before it was told is counted, from the first to the last, with the last one's words."""
    board = NoticeBoard()
    for number in range(3):
        command = structs.replace(CREATE, pod=f"pod-{number}", node=f"node-{number}")
        board.command_settled(command, outcome_of(command, "done"), 10 + number)
    assert board
    (notice,) = board.take()

    assert (3, 10, 12) == (notice.count, notice.first_ms, notice.last_ms)
    assert ("node-2", "pod-2") == (notice.node, notice.pod)
    assert notice.message == "Created pod pod-2 on node node-2"
    assert not board


def test_what_was_told_is_not_counted_again() -> None:
    """After it was taken a notice begins anew."""
    board = NoticeBoard()
    counts = []
    for _ in range(2):
        board.command_settled(CREATE, outcome_of(CREATE, "done"), 10)
        counts += [notice.count for notice in board.take()]

    assert counts == [1, 1]


@pytest.mark.parametrize("meanwhile", [0, 2])
def test_what_could_not_be_written_is_told_later(meanwhile: int) -> None:
    """A notice that could not be written is told again, together with what came meanwhile."""
    board = NoticeBoard()
    board.command_settled(CREATE, outcome_of(CREATE, "done"), 10)
    (notice,) = board.take()
    for number in range(meanwhile):
        board.command_settled(CREATE, outcome_of(CREATE, "done"), 20 + number)

    board.put_back(notice)

    (again,) = board.take()
    last_ms = 21 if meanwhile else 10
    assert (1 + meanwhile, 10, last_ms) == (again.count, again.first_ms, again.last_ms)


def test_notices_leave_in_the_order_in_which_they_happened() -> None:
    """Set by set; also one that could not be written before leaves before those that came after it."""
    board = NoticeBoard()
    other = structs.replace(CREATE, daemonset="a-set-before")
    board.status_changed(None, status("RolloutComplete"), 5)
    board.command_settled(DELETE, outcome_of(DELETE, "done"), 6)
    board.command_settled(CREATE, outcome_of(CREATE, "done"), 7)
    board.command_settled(other, outcome_of(other, "done"), 8)
    first = board.take()
    assert [
        ("a-set-before", "SuccessfulCreate"),
        ("agent", "RolloutStarted"),
        ("agent", "RolloutComplete"),
        ("agent", "SuccessfulDelete"),
        ("agent", "SuccessfulCreate"),
    ] == [(notice.daemonset, notice.reason) for notice in first]

    board.command_settled(CREATE, outcome_of(CREATE, "failed"), 9)
    for notice in first:
        board.put_back(notice)

    assert [*(notice.reason for notice in first), "FailedCreate"] == reasons(board)


def test_a_message_has_a_limit() -> None:
    """B1: a backend that says very much does not fill the log."""
    board = NoticeBoard()
    board.command_settled(CREATE, outcome_of(CREATE, "failed", "x" * 9_999), 1)
    (notice,) = board.take()

    assert len(notice.message) == MESSAGE_LENGTH_MAX == 1_024
    assert notice.message.startswith("Could not create pod pod-1 on node node-1: xxx")


# Rollouts


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("RolloutComplete", [("RolloutComplete", "Normal")]),
        ("RolloutHeld", [("RolloutHeld", "Normal")]),
        ("RolloutPaused", [("RolloutPaused", "Normal")]),
        ("ProgressDeadlineExceeded", [("RolloutStalled", "Warning")]),
        ("OnDelete", []),
        ("Unheard", []),
    ],
)
def test_a_rollout_takes_a_turn(reason: str, wanted: list[tuple[str, str]]) -> None:
    """Each turn is told once, when it comes, of which revision and in the words of the condition."""
    board = NoticeBoard()
    before = status("RolloutProgressing")

    board.status_changed(before, status(reason), 50_000)

    found = board.take()
    assert wanted == [(notice.reason, notice.type) for notice in found]
    assert all(notice.message == f"Revision rev: message of {reason}" for notice in found)
    board.status_changed(status(reason), status(reason, moved_ms=9), 90_000)
    assert not board


@pytest.mark.parametrize("before", [None, status("RolloutComplete", revision="earlier")])
def test_a_rollout_begins(before: Status | None) -> None:
    """A set's first report and another revision are told as a start; that it goes on is not said at once."""
    board = NoticeBoard()
    board.status_changed(before, status("RolloutProgressing"), 1_000_000)
    (notice,) = board.take()

    assert ("RolloutStarted", "Normal", 1_000_000) == (notice.reason, notice.type, notice.first_ms)
    assert notice.message == "Revision rev: message of RolloutProgressing"


@pytest.mark.parametrize("revision", ["a", "z"])
def test_a_start_that_is_an_end(revision: str) -> None:
    """A rollout that has nothing to do is told as started and complete, also after another that was complete."""
    board = NoticeBoard()

    board.status_changed(status("RolloutComplete", revision=revision), status("RolloutComplete"), 1)

    assert reasons(board) == ["RolloutStarted", "RolloutComplete"]


def test_a_rollout_goes_on() -> None:
    """B1: that it has come further is said every ten seconds at most."""
    board = NoticeBoard()
    start_ms = 1_000_000
    before = status("RolloutProgressing", moved_ms=start_ms)
    board.status_changed(None, before, start_ms)
    board.take()
    when = []
    for at_ms in range(start_ms + 1, start_ms + 25_000, 111):
        after = status("RolloutProgressing", moved_ms=at_ms)
        board.status_changed(before, after, at_ms)
        when += [(notice.first_ms - start_ms, notice.reason) for notice in board.take()]
        before = after

    first, second = (at_ms for at_ms, _ in when)
    assert {"RolloutProgressing"} == {reason for _, reason in when}
    assert first in range(PROGRESS_INTERVAL_MS, PROGRESS_INTERVAL_MS + 111)
    assert second in range(first + PROGRESS_INTERVAL_MS, first + PROGRESS_INTERVAL_MS + 111)


@pytest.mark.parametrize(("wait_ms", "wanted"), [(9_999, []), (10_000, ["RolloutProgressing"])])
def test_a_rollout_goes_on_after_ten_seconds(wait_ms: int, wanted: list[str]) -> None:
    """The ten seconds are those since something was said of its progress."""
    board = NoticeBoard()
    began = status("RolloutProgressing", moved_ms=500)
    board.status_changed(None, began, 500)
    board.take()

    board.status_changed(began, status("RolloutProgressing", moved_ms=501), 500 + wait_ms)

    assert wanted == reasons(board)


@pytest.mark.parametrize(
    ("moved_ms", "wanted"), [(1, ["RolloutProgressing"]), (3, ["RolloutProgressing"]), (2, [])]
)
def test_a_rollout_that_has_not_come_further(moved_ms: int, wanted: list[str]) -> None:
    """A report that changes for another reason says nothing of the rollout; another worker's clock may be behind."""
    board = NoticeBoard()
    before = status("RolloutProgressing", moved_ms=2)

    board.status_changed(before, status("RolloutProgressing", moved_ms=moved_ms), 1_000_000)

    assert wanted == reasons(board)


def test_a_rollout_that_was_held_goes_on() -> None:
    """A worker that starts in the middle says that it goes on as soon as it does."""
    board = NoticeBoard()
    board.status_changed(status("RolloutPaused"), status("RolloutProgressing"), 5)
    assert reasons(board) == ["RolloutProgressing"]

    board.status_changed(status("RolloutPaused"), status("RolloutProgressing"), 10_004)
    assert not board


def test_a_status_of_an_earlier_version() -> None:
    """S8: a status without conditions says nothing; the first that has one is told as a turn."""
    board = NoticeBoard()
    silent = structs.replace(status("RolloutComplete"), conditions=())
    board.status_changed(None, silent, 1)
    assert not board

    board.status_changed(silent, status("RolloutComplete"), 2)

    assert reasons(board) == ["RolloutComplete"]


def test_a_set_made_anew_is_told_from_the_start() -> None:
    """What was said of a set that is gone is forgotten with it."""
    board = NoticeBoard()
    board.selects_all(SET, UID, 1)
    board.status_changed(None, status("RolloutProgressing"), 10_000)
    assert len(board.take()) == 2

    board.forget(SET)
    board.forget(SetKey("default", "never-heard-of"))

    board.selects_all(SET, UID, 10_001)
    board.status_changed(status("RolloutPaused"), status("RolloutProgressing"), 10_002)
    assert reasons(board) == ["SelectingAll", "RolloutProgressing"]


# Sets that select everything


@pytest.mark.parametrize("uid", ["a-uid", "z-uid"])
def test_a_set_that_selects_all_is_told_once(uid: str) -> None:
    """B1: however often it is looked at, an empty selector is told once per set; another of its name is another set."""
    board = NoticeBoard()
    for at_ms in (3, 4):
        board.selects_all(SET, UID, at_ms)
    (notice,) = board.take()
    assert ("SelectingAll", "Warning", 1, 3) == (
        notice.reason,
        notice.type,
        notice.count,
        notice.first_ms,
    )
    assert (notice.namespace, notice.daemonset, notice.daemonset_uid) == (*SET, UID)
    board.selects_all(SET, UID, 5)
    assert not board

    board.selects_all(SET, uid, 6)

    assert [uid] == [notice.daemonset_uid for notice in board.take()]


def test_selecting_all_is_told_once_while_nodes_come_and_go() -> None:
    """B1: nothing that happens in the fleet makes the worker say it again."""
    world = World()
    world.apply(structs.replace(AGENT, selector=Selector()))
    for number in range(5):
        world.now_ms += 250
        world.put_node(node(f"node-{number}"))
        assert world.decide() == []

    assert [("SelectingAll", 1)] == [(notice.reason, notice.count) for notice in told(world)]


# Nodes that are skipped


@pytest.mark.parametrize(
    ("count", "named"),
    [
        (1, "n0"),
        (5, "n0, n1, n2, n3, n4"),
        (6, "n0, n1, n2, n3, n4 and 1 more"),
        (16, "n0, n1, n2, n3, n4 and 11 more"),
    ],
)
def test_nodes_that_are_skipped_are_named(count: int, named: str) -> None:
    """B1: up to five by name, the others as a number."""
    board = NoticeBoard()
    board.nodes_skipped(SET, UID, [f"n{number}" for number in range(count)], 4)
    (notice,) = board.take()

    assert ("NodeSkipped", "Normal", "n0", 4) == (
        notice.reason,
        notice.type,
        notice.node,
        notice.first_ms,
    )
    assert notice.message.endswith(f": {named}")


def test_no_node_is_skipped() -> None:
    """Nothing is said of nothing."""
    board = NoticeBoard()
    board.nodes_skipped(SET, UID, [], 4)

    assert not board


def test_a_skipped_node_is_told_once_for_as_long_as_it_is() -> None:
    """Nodes that were lost before the rollout are told when it passes over them; one lost later is told then."""
    strategy = UpdateStrategy(type="RollingUpdate", unreachable_nodes="Skip")
    world = situation(daemonset(update_strategy=strategy), alike(4), [])
    world.run()
    world.set_node_ready(alike(1)[0].key, ready=False)
    world.run()
    assert "NodeSkipped" not in {notice.reason for notice in told(world)}, "its pod is not old"

    world.hanging.add("nothing")
    image = {"containers": [{"image": "new"}]}
    world.apply(daemonset(image, generation=2, update_strategy=strategy))
    world.decide()
    world.set_node_ready(alike(4)[3].key, ready=False)
    world.decide()
    world.run()
    world.set_node_ready(alike(1)[0].key, ready=True)
    world.run()

    skipped = [notice for notice in told(world) if notice.reason == "NodeSkipped"]
    assert ["node-0", "node-3"] == [notice.node for notice in skipped]
    assert [1, 1] == [notice.count for notice in skipped]
