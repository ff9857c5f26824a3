"""Fleets that are rehearsed, and their logs as recordings have them."""

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any

from everynode import wire
from everynode.core.commands import AdoptPod, CreatePod, DeletePod
from everynode.core.events import DaemonSetObserved, NodeObserved, PodGone
from everynode.core.state import Record
from everynode.core.values import DaemonSet, Message, Pod, UpdateStrategy
from everynode.replay.durations import Durations
from everynode.replay.recording import Entry
from everynode.replay.rehearsal import Rehearsal
from everynode.replay.streams import Stream, entry_of
from everynode.replay.what_if import Rehearsed, Survey, rehearse, wanted_instead
from everynode.replay.what_if_course import Courses
from everynode.runtime.ledger import pod_gone
from everynode.testing.builders import daemonset, node

SHARDS = 4
SUBJECTS = wire.Subjects("rehearsed", SHARDS)
BEGIN_MS = 1_000_000
ROLLING = UpdateStrategy(type="RollingUpdate", max_unavailable=2)


def wanted(
    image: str = "1", generation: int = 1, strategy: UpdateStrategy = ROLLING, **spec: object
) -> DaemonSet:
    """The set that is rehearsed."""
    return daemonset(
        {"containers": [{"name": "main", "image": image}], **spec},
        generation=generation,
        update_strategy=strategy,
    )


SET = wanted()


def _about(pod: Pod) -> dict[str, Any]:
    """Fill in what each command of ``SET`` about a pod has."""
    return {
        "id": f"about {pod.name}",
        "backend": pod.backend,
        "node": pod.node,
        "namespace": pod.namespace,
        "daemonset": SET.name,
        "daemonset_uid": SET.uid,
        "generation": 1,
        "pod": pod.name,
        "expires_ms": BEGIN_MS + 300_000,
    }


def create(pod: Pod) -> CreatePod:
    """Make the command that makes a pod."""
    return CreatePod(**_about(pod), node_uid=pod.node_uid, revision=pod.revision)


def delete(pod: Pod) -> DeletePod:
    """Make the command that deletes a pod."""
    return DeletePod(**_about(pod), pod_uid=pod.uid)


def adopt(pod: Pod) -> AdoptPod:
    """Make the command that gives a pod to ``SET``."""
    return AdoptPod(**_about(pod), pod_uid=pod.uid)


def gone(pod: Pod) -> PodGone:
    """Say that a pod is gone."""
    return pod_gone(pod, "it went")


class Fleet:
    """A rehearsal, and all that stands on its log."""

    def __init__(self, nodes: int = 0, durations: Durations | None = None) -> None:
        """Nodes are there; nothing is wanted."""
        self.rehearsal = Rehearsal(SHARDS, durations)
        self.log: list[Record] = []
        self.rehearsal.begin(BEGIN_MS)
        for number in range(nodes):
            self.happens(NodeObserved(node=node(f"node-{number}")))

    def _take(self, records: Iterable[Record]) -> None:
        self.log += records

    def happens(self, message: Message, after_ms: int = 0) -> None:
        """Something happens by itself."""
        self._take(self.rehearsal.happen(self.rehearsal.now_ms + after_ms, message))

    def applied(self, daemonset: DaemonSet, after_ms: int = 0) -> None:
        """A set is applied."""
        self.happens(DaemonSetObserved(daemonset=daemonset), after_ms)

    def settles(self) -> None:
        """Time passes until nothing is due."""
        self._take(self.rehearsal.settle())
        assert self.rehearsal.settled

    def passes(self, duration_ms: int) -> None:
        """Time passes."""
        self._take(self.rehearsal.pass_time(self.rehearsal.now_ms + duration_ms))

    @property
    def pods(self) -> list[Pod]:
        """The pods that there are, by node."""
        return sorted(self.rehearsal.pods.pods.values(), key=lambda pod: pod.node)

    def messages(self, kind: type) -> list[Message]:
        """All messages of a kind."""
        return [record.message for record in self.log if isinstance(record.message, kind)]


def stream_of_records(
    records: Iterable[Record], *, is_decided: bool = True, from_sequence: int = 1
) -> Stream:
    """Take a log as a stream."""

    def entries() -> Iterator[Entry]:
        for record in records:
            yield entry_of(SUBJECTS, record.sequence, record.time_ms, record.message)  # type: ignore[arg-type]

    return Stream("the log", SUBJECTS, entries(), from_sequence, 0, {}, is_decided)


def what_if(
    records: list[Record], *instead: DaemonSet, is_decided: bool = True
) -> tuple[Survey, Courses, Rehearsed]:
    """Ask what would have been."""
    survey = Survey(each.key for each in instead)
    survey.read(stream_of_records(records, is_decided=is_decided))
    changes = {each.key: wanted_instead(each, survey.changes[each.key]) for each in instead}
    again = stream_of_records(records, is_decided=is_decided)
    was, run = rehearse(survey, changes, again.entries)
    for courses in (was, run.courses):
        for course in courses.of.values():
            course.timeline.finish(run.ends_ms)
    return survey, was, run


def renumbered(messages: Iterable[tuple[int, Message]]) -> list[Record]:
    """Put messages on a log; each with its time after the beginning, in ms."""
    numbers = count(1)
    return [Record(next(numbers), BEGIN_MS + after_ms, message) for after_ms, message in messages]
