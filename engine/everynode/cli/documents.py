"""The DaemonSets in files that a person named, and what is said about those that are refused or skipped.

Used by every command that reads manifests. `files` reads, `manifest` understands; this module puts their answers
together and words them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from everynode.cli.files import Source, read_sources
from everynode.cli.terminal import error_line, note_line, warning_line
from everynode.core.values import SetKey
from everynode.errors import EverynodeError, InvalidObjectError, Problem
from everynode.manifest import Accepted, Rejected, Skipped, read_daemonsets

NAMED_MAX = 10
"""How many sets with the same note one line names; it counts the others."""


class Refused(NamedTuple):
    """A document, or a whole file, that cannot be used.

    Attributes:
        document: Which document of the file, from 1; 0: the file itself.
        name: `namespace/name`, as far as it is known.
    """

    file: str
    document: int
    kind: str
    name: str
    where: str
    errors: tuple[Problem, ...]

    def as_document(self) -> dict[str, Any]:
        """Write it for `-o json`."""
        return {
            "file": self.file,
            "document": self.document,
            "name": plain_name(self.name),
            "errors": [str(each) for each in self.errors],
        }

    def report(self) -> None:
        """Say everything that is wrong with it."""
        if len(self.errors) == 1:
            error_line(f"{self.where}: {self.errors[0]}")
            return
        lines = [f"{self.where}: {len(self.errors)} problems", *(str(each) for each in self.errors)]
        error_line("\n  ".join(lines))


@dataclass
class Documents:
    """What came of all documents of all files, in their order."""

    accepted: list[Accepted] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """There was no document at all, not even one that is refused or skipped."""
        return not (self.accepted or self.refused or self.skipped)

    def keep_last(self) -> None:
        """Of a set that is there several times keep only the last: files say what should be, not how to get there."""
        last = {accepted.daemonset.key: accepted for accepted in self.accepted}
        self.accepted = [each for each in self.accepted if last[each.daemonset.key] is each]

    def report(self) -> None:
        """Say on stderr what a person should know: problems, warnings, notes, what was skipped."""
        for refused in self.refused:
            refused.report()
        for accepted in self.accepted:
            for warning in accepted.warnings:
                warning_line(f"{accepted.place}: {accepted.subject}: {warning}")
        _report_repeated(self.accepted)
        _report_notes(self.accepted)
        _report_skipped(self.skipped)


def read_documents(
    paths: Sequence[str], *, default_namespace: str = "default", recursive: bool = False
) -> Documents:
    """Read all files; nothing that is wrong with one keeps the others from being read.

    Args:
        paths: Files, directories, or `-` for standard input.
        default_namespace: The namespace of sets that name none.
        recursive: Read the directories in a directory too.
    """
    documents = Documents()
    for source in read_sources(paths, recursive=recursive):
        if isinstance(source, Source):
            found = read_daemonsets(source.name, source.content, default_namespace)
            documents.accepted += found.accepted
            documents.refused += [refused_document(rejected) for rejected in found.rejected]
            documents.skipped += found.skipped
        else:
            documents.refused.append(refused_file(source))
    return documents


def plain_name(subject: str) -> str:
    """Return an object's own name, without its namespace: file and document tell which one it is."""
    return subject.rpartition("/")[2]


def refused_document(rejected: Rejected) -> Refused:
    """Take over what the manifest's reader says."""
    return Refused(
        file=rejected.file,
        document=rejected.document,
        kind=rejected.kind,
        name=rejected.name,
        where=rejected.title,
        errors=rejected.errors,
    )


def refused_file(error: InvalidObjectError) -> Refused:
    """Take over what kept a file from being read."""
    return Refused(error.subject, 0, "", "", error.subject, error.problems)


def refused_by_fleet(accepted: Accepted, error: EverynodeError) -> Refused:
    """Take over why a document that is right in itself cannot be applied to this fleet."""
    return Refused(
        file=accepted.file,
        document=accepted.document,
        kind="DaemonSet",
        name=str(accepted.daemonset.key),
        where=f"{accepted.place}: {accepted.subject}",
        errors=_problems_of(error),
    )


def _problems_of(error: EverynodeError) -> tuple[Problem, ...]:
    return error.problems if isinstance(error, InvalidObjectError) else (Problem("", str(error)),)


def _report_repeated(accepted: Iterable[Accepted]) -> None:
    places: dict[SetKey, list[str]] = defaultdict(list)
    for each in accepted:
        places[each.daemonset.key].append(each.place)
    for key, found in places.items():
        if len(found) > 1:
            warning_line(f"DaemonSet {key} is there {len(found)} times; the last wins: {found[-1]}")


def _report_notes(accepted: Iterable[Accepted]) -> None:
    subjects: dict[str, list[str]] = defaultdict(list)
    for each in accepted:
        for note in each.notes:
            subjects[note].append(str(each.daemonset.key))
    for note, found in subjects.items():
        note_line(f"{_some(dict.fromkeys(found))}: {note}")


def _report_skipped(skipped: Sequence[Skipped]) -> None:
    if skipped:
        subjects = ", ".join(
            each.subject for each in skipped
        )  # all of them: nobody else names them
        note_line(f"skipped {len(skipped)}, not a DaemonSet: {subjects}")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    text = ", ".join(names[:NAMED_MAX])
    return text if len(names) <= NAMED_MAX else f"{text} and {len(names) - NAMED_MAX} more"
