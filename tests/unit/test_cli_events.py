"""How what people were told is folded into lines, and how a line is shown."""

import msgspec
import pytest

from everynode.cli.describe_rollout import EVENTS_MAX, event_lines
from everynode.cli.event_folding import COMBINED, DIFFERENT_MAX, QUIET_MS, EventFolder
from everynode.cli.events import EventScreen, EventsOutput
from everynode.cli.objects import event_object
from everynode.cli.reading import NoticeWish
from everynode.core.values import Notice

NOW = 1_700_000_000_000


def notice(message: str = "Created pod a-1", **changes: object) -> Notice:
    """Something that people are told about the set `logging/fluentd`."""
    told = Notice(
        namespace="logging",
        daemonset="fluentd",
        daemonset_uid="u1",
        type="Normal",
        reason="SuccessfulCreate",
        message=message,
        first_ms=NOW,
        last_ms=NOW,
    )
    return msgspec.structs.replace(told, **changes)


def test_the_same_again_counts_up() -> None:
    """The same message is one line: counts add up, and it spans from the first to the last."""
    folder = EventFolder()
    folder.fold(notice(count=3, first_ms=NOW - 5_000), NOW)
    told = folder.fold(notice(count=2, last_ms=NOW + 9_000), NOW + 9_000)
    assert folder.lines() == [told]
    assert (told.count, told.first_ms, told.last_ms) == (5, NOW - 5_000, NOW + 9_000)
    assert told.message == "Created pod a-1"


@pytest.mark.parametrize(
    "change",
    [
        {"message": "Created pod a-2"},
        {"reason": "FailedCreate"},
        {"type": "Warning"},
        {"daemonset_uid": "u2"},
    ],
)
def test_what_differs_is_another_line(change: dict[str, object]) -> None:
    """Another message, reason, type or set is another line."""
    folder = EventFolder()
    folder.fold(notice(), NOW)
    folder.fold(msgspec.structs.replace(notice(), **change), NOW)
    assert [told.count for told in folder.lines()] == [1, 1]


def test_what_was_told_last_stands_last() -> None:
    """Lines are in the order in which they were told last, and one that comes again moves to the end."""
    folder = EventFolder()
    for number, message in enumerate(["a", "b", "a"]):
        folder.fold(notice(message, last_ms=NOW + number), NOW + number)
    assert [told.message for told in folder.lines()] == ["b", "a"]
    at_once = EventFolder()
    for message in ("a", "b", "a"):
        at_once.fold(notice(message), NOW)
    assert [told.message for told in at_once.lines()] == ["b", "a"]


def test_a_count_is_not_that_of_one_pod() -> None:
    """What a worker tells of several pods as one says so, and names the last of them."""
    folder = EventFolder()
    several = folder.fold(notice("Created pod a-9", pod="a-9", count=4), NOW)
    one = folder.fold(notice("Created pod b-1", pod="b-1"), NOW)
    assert (several.message, several.count) == (COMBINED + "Created pod a-9", 4)
    assert (one.message, one.count) == ("Created pod b-1", 1)


def test_many_different_ones_are_combined() -> None:
    """B1: after ten different messages of a kind the rest is one line, which shows the last of them."""
    folder = EventFolder()
    for number in range(DIFFERENT_MAX + 5):
        folder.fold(notice(f"Created pod a-{number}"), NOW)
    again = folder.fold(notice("Created pod a-0"), NOW)
    assert (again.message, again.count) == ("Created pod a-0", 2)
    combined = [told for told in folder.lines() if told.combined]
    assert len(folder.lines()) == DIFFERENT_MAX + 1
    assert [(told.message, told.count) for told in combined] == [
        (f"{COMBINED}Created pod a-{DIFFERENT_MAX + 4}", 5)
    ]
    other = folder.fold(notice("Deleted pod a-1", reason="SuccessfulDelete"), NOW)
    assert not other.combined


def test_after_a_quiet_time_lines_are_begun_again() -> None:
    """What was combined long ago does not hide what happens now."""
    folder = EventFolder()
    for number in range(DIFFERENT_MAX + 1):
        folder.fold(notice(f"pod {number}"), NOW)
    still = folder.fold(notice("new", last_ms=NOW + QUIET_MS), NOW)
    later = folder.fold(notice("newer", last_ms=NOW + 2 * QUIET_MS + 1), NOW)
    assert (still.combined, later.combined) == (True, False)


def test_a_notice_without_times_has_those_of_the_log() -> None:
    """A notice that does not say when it happened did when the log took it in."""
    told = EventFolder().fold(notice(first_ms=0, last_ms=0), NOW + 1)
    assert (told.first_ms, told.last_ms) == (NOW + 1, NOW + 1)


def test_an_event_as_an_object() -> None:
    """A line is a v1 Event about the set, and names the pod that it is related to."""
    told = EventFolder().fold(notice(node="n1", pod="a-1"), NOW)
    document = event_object(told)
    name = document["metadata"].pop("name")
    assert name.startswith("fluentd.")
    assert document == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"namespace": "logging"},
        "involvedObject": {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "namespace": "logging",
            "name": "fluentd",
            "uid": "u1",
        },
        "type": "Normal",
        "reason": "SuccessfulCreate",
        "message": "Created pod a-1",
        "related": {"kind": "Pod", "namespace": "logging", "name": "a-1"},
        "count": 1,
        "firstTimestamp": "2023-11-14T22:13:20Z",
        "lastTimestamp": "2023-11-14T22:13:20Z",
        "source": {"component": "everynode"},
    }
    other = event_object(EventFolder().fold(notice("other", node="n1"), NOW))
    assert other["metadata"]["name"] != name
    assert other["related"] == {"kind": "Node", "name": "n1"}


@pytest.mark.parametrize("output", list(EventsOutput))
def test_every_output_shows_it(output: EventsOutput, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the output, an event shows its reason and its message, on one line."""
    folder = EventFolder()
    folder.fold(notice("two\nlines", node="n1"), NOW)
    EventScreen(output, with_namespace=True).show(folder.lines(), listed=True)
    shown = capsys.readouterr().out
    assert "SuccessfulCreate" in shown
    assert ("two lines" in shown) == (output in {EventsOutput.TABLE, EventsOutput.WIDE})
    assert ("n1" in shown) == (output is not EventsOutput.TABLE)


def test_a_description_has_the_last_events() -> None:
    """B1: `describe` shows only the last events, and says it if there are none."""
    folder = EventFolder()
    for number in range(EVENTS_MAX + 3):
        told_ms = NOW + number * (QUIET_MS + 1)
        folder.fold(notice(f"number {number}", last_ms=told_ms), told_ms)
    lines = event_lines(folder.lines(), NOW)
    assert len(lines) == EVENTS_MAX + 2
    assert "number 3" in lines[2]
    assert event_lines([], NOW) == ["Events:  <none>"]


def test_which_notices_are_wanted() -> None:
    """Notices are chosen by namespace, set and type; empty means all."""
    told = notice()
    assert NoticeWish("", "").wants(told)
    assert NoticeWish("logging", "fluentd", frozenset({"Normal"})).wants(told)
    assert not NoticeWish("default", "").wants(told)
    assert not NoticeWish("", "other").wants(told)
    assert not NoticeWish("", "", frozenset({"Warning"})).wants(told)
