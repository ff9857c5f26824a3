"""The survivors that ``docs/mutants.md`` explains.

Used by ``run``. There, a mutant is a hunk in a ``diff`` block below the heading of its module, as ``make mutate``
prints it: ``@@`` and the function, the lines that are gone, the lines that stand there instead. Line numbers are no
part of it, so that an explanation holds as long as the code that it is about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.mutation.planning import Mutant

_HEADING = re.compile(r"## `?([a-z_]+)`?$")
_BLOCK = "```diff"
_BLOCK_END = "```"


class Hunk(NamedTuple):
    """One mutant, as it is written down; its lines are without white space, which cosmic-ray adds here and there."""

    module: str
    where: str
    removed: tuple[str, ...]
    added: tuple[str, ...]

    def __str__(self) -> str:
        """Read as ``place: the lines after the change``."""
        return f"{self.where or 'module'}: {' '.join(self.added) or 'nothing'}"


@dataclass
class Explanations:
    """All that is explained, and which of it was needed."""

    hunks: frozenset[Hunk]
    _used: set[Hunk] = field(default_factory=set)

    def explain(self, module: str, mutant: Mutant) -> bool:
        """Say whether this survivor is explained."""
        removed, added = (tuple(map(_dense, lines)) for lines in (mutant.removed, mutant.added))
        hunk = Hunk(module, mutant.where, removed, added)
        if hunk in self.hunks:
            self._used.add(hunk)
        return hunk in self.hunks

    def unused(self, module: str) -> list[Hunk]:
        """Return what is explained of a module and was not asked for."""
        return sorted(hunk for hunk in self.hunks - self._used if hunk.module == module)


def read_explanations(text: str) -> Explanations:
    """Read ``docs/mutants.md``."""
    return Explanations(frozenset(_hunks(text)))


def _hunks(text: str) -> Iterator[Hunk]:
    module, in_block = "", False
    hunk: Hunk | None = None
    for line in text.splitlines():
        if found := _HEADING.fullmatch(line):
            module = found[1]
        starts = in_block and line.startswith("@@")
        if hunk is not None and (starts or line == _BLOCK_END):
            yield hunk
            hunk = None
        if starts:
            where = line.removeprefix("@@").strip()
            hunk = Hunk(module, "" if where == "module" else where, (), ())
        elif hunk is not None and line.startswith("-"):
            hunk = hunk._replace(removed=(*hunk.removed, _dense(line[1:])))
        elif hunk is not None and line.startswith("+"):
            hunk = hunk._replace(added=(*hunk.added, _dense(line[1:])))
        if line in {_BLOCK, _BLOCK_END}:
            in_block = line == _BLOCK


def _dense(line: str) -> str:
    return "".join(line.split())
