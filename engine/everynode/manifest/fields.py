"""Reading the fields of an object: each of its type, and every problem found on the way.

Used by the rules of this package. A field knows its path, so that a problem names it as kubectl does. A field of the
wrong type is reported once and then reads as if it were absent, so that the rest can still be examined; what was
read counts only if there are no problems at the end. Null is absent, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from everynode.errors import Problem
from everynode.manifest.names import quoted
from everynode.manifest.yamltext import PROBLEMS_MAX, child_path

INT32_MAX = 2**31 - 1

NO_MAPPING: Mapping[str, Any] = MappingProxyType({})
"""Stands for a mapping that is absent or is no mapping."""


@dataclass
class Findings:
    """What is wrong with an object, and what is odd about it, in the order in which it was found."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def reject(self, path: str, message: str) -> None:
        """Note a problem; of very many, only the first ``PROBLEMS_MAX`` are kept."""
        _note(self.problems, path, message)

    def warn(self, path: str, message: str) -> None:
        """Note an oddity; of very many, only the first ``PROBLEMS_MAX`` are kept."""
        _note(self.warnings, path, message)


def _note(notes: list[Problem], path: str, message: str) -> None:
    note = Problem(path, message)
    if len(notes) < PROBLEMS_MAX:
        if note not in notes:  # two rules may come upon the same mistake
            notes.append(note)
    elif len(notes) == PROBLEMS_MAX:
        notes.append(Problem("", f"there are more than {PROBLEMS_MAX}: correct these first"))


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an object.

    Attributes:
        path: As kubectl writes it; empty for the object itself.
        value: What stands there, in the types that JSON has; ``None`` if nothing does.
        findings: Where problems go.
    """

    path: str
    value: Any
    findings: Findings

    @property
    def absent(self) -> bool:
        """Nothing stands there."""
        return self.value is None

    def reject(self, message: str) -> None:
        """Note that this field is wrong."""
        self.findings.reject(self.path, message)

    def reject_if(self, message: str | None) -> None:
        """Note that this field is wrong if there is something to say."""
        if message is not None:
            self.reject(message)

    def warn(self, message: str) -> None:
        """Note that this field is odd."""
        self.findings.warn(self.path, message)

    def child(self, key: str) -> Field:
        """Return a field of this mapping; it is absent if this is no mapping."""
        value = self.value.get(key) if isinstance(self.value, dict) else None
        return Field(child_path(self.path, key), value, self.findings)

    def mapping(self, known: AbstractSet[str] | None = None) -> Field:
        """Read this field as a mapping; it is empty if nothing stands there.

        Args:
            known: The keys that mean something here; others are warned about. ``None``: any.
        """
        if not isinstance(self.value, dict):
            if not self.absent:
                self.reject(f"{described(self.value)}; it must be a mapping")
            return Field(self.path, NO_MAPPING, self.findings)
        for key in self.value:
            if known is not None and key not in known:
                self.child(key).warn("is not known here and has no effect: correct or remove it")
        return self

    def items(self) -> list[Field]:
        """Read this field as a list and return its items that are not null."""
        if not isinstance(self.value, list):
            if not self.absent:
                self.reject(f"{described(self.value)}; it must be a list")
            return []
        fields = [
            Field(f"{self.path}[{position}]", value, self.findings)
            for position, value in enumerate(self.value)
        ]
        for item in fields:
            if item.absent:
                item.reject("is null: write a value or remove the item")
        return [item for item in fields if not item.absent]

    def mappings(self, known: AbstractSet[str] | None = None) -> list[Field]:
        """Read this field as a list of mappings and return its items that are such."""
        items = [item.mapping(known) for item in self.items()]
        return [item for item in items if item.value is not NO_MAPPING]

    def text(self) -> str:
        """Read this field as text; empty if nothing stands there."""
        if isinstance(self.value, str):
            return self.value
        if isinstance(self.value, bool | int | float):
            self.reject(f"{described(self.value)}; it must be text: put it in quotes")
        elif not self.absent:
            self.reject(f"{described(self.value)}; it must be text")
        return ""

    def needed_text(self, advice: str = "write it") -> str:
        """Read this field as text that has to be there; empty, and a problem, if it is not."""
        if self.absent or self.value == "":
            self.reject(f"is missing: {advice}")
        return self.text()

    def flag(self) -> bool:
        """Read this field as true or false; false if nothing stands there."""
        if isinstance(self.value, bool):
            return self.value
        if not self.absent:
            self.reject(f"{described(self.value)}; it must be true or false")
        return False

    def integer(self, minimum: int, maximum: int) -> int | None:
        """Read this field as a whole number in a range; ``None`` if nothing, or something else, stands there."""
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            if minimum <= self.value <= maximum:
                return self.value
            self.reject(f"is {self.value}; it must be from {minimum} to {maximum}")
        elif not self.absent:
            self.reject(f"{described(self.value)}; it must be a whole number")
        return None

    def text_map(self) -> dict[str, str]:
        """Read this field as a mapping of text to text; a value that is null is the empty text, as in Kubernetes."""
        result = {}
        for key in self.mapping().value:
            value = self.value[key]
            if value is None or isinstance(value, str):
                result[key] = value or ""
            elif isinstance(value, bool | int | float):
                self.reject(f"the value of {quoted(key)} {described(value)}: put it in quotes")
            else:
                self.reject(f"the value of {quoted(key)} {described(value)}; it must be text")
        return result


def described(value: object) -> str:
    """Say what a value is, for a message: ``is a number (3)``."""
    if value is None:
        return "is null"
    if isinstance(value, bool):
        return f"is {'true' if value else 'false'} (y, n, yes, no, on and off are read so)"
    if isinstance(value, int | float):
        return f"is a number ({value})"
    if isinstance(value, str):
        return f"is text ({quoted(value)})"
    return "is a list" if isinstance(value, list) else "is a mapping"
