"""Traces of machines that come and go, in CSV: the source ``csv`` of ``everynode replay``.

Used by ``cli.recordings``. Each row says when a machine was added, removed or changed; the machine becomes a node, and
the columns that nothing else is made of become its labels. The file ``machine_events`` of Google's cluster data of 2011
is such a trace. Memory is that of the machines that were ever there, not of the rows. A row that cannot be used hides
no other.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from everynode.core.events import NodeGone, NodeObserved
from everynode.core.identity import derived_uid
from everynode.core.values import WHOLE_MAX, Node
from everynode.errors import RecordingError
from everynode.manifest.names import (
    label_value_problem,
    qualified_name_problem,
    quoted,
    subdomain_problem,
)
from everynode.ports import Happened, PassedOver, RecordedFile

TIME, MACHINE, EVENT = "time", "machine", "event"

UNITS: Mapping[str, int] = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
"""Nanoseconds in each unit of time."""

_ADD, _REMOVE, _UPDATE = "add", "remove", "update"
_EVENTS = {
    "0": _ADD,
    "1": _REMOVE,
    "2": _UPDATE,
    **{name: name for name in (_ADD, _REMOVE, _UPDATE)},
}
_NS_PER_MS = 1_000_000
_TIME_MAX = Decimal(10) ** 21  # in any unit that is longer than there are dates
_BYTE_ORDER_MARK = "\ufeff"  # some spreadsheets begin a file with it
_HOSTNAME = "kubernetes.io/hostname"
_OS = "kubernetes.io/os"
_NOT_IN_NAMES = re.compile(r"[^a-z0-9.-]")
_NOT_IN_VALUES = re.compile(r"[^A-Za-z0-9_.-]")


class Columns(NamedTuple):
    """Which column says what: its number from 0, or its name in the first line.

    Attributes:
        labels: By the label's key.
    """

    time: str
    machine: str
    event: str
    labels: Mapping[str, str]

    @property
    def all(self) -> list[str]:
        """Every column that is read."""
        return [self.time, self.machine, self.event, *self.labels.values()]


class Trace(NamedTuple):
    """How a trace is to be read.

    Attributes:
        columns: What its columns say.
        unit_ns: What its time counts, in ns.
        epoch_ms: When its time was 0, in ms since 1970.
    """

    columns: Columns
    unit_ns: int
    epoch_ms: int


def columns_of(text: str) -> Columns:
    """Read which column says what: ``time=0,machine=1,event=2,platform=3``.

    Raises:
        ValueError: It cannot be read, or something is missing; the message says what.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        what, _, column = (each.strip() for each in part.partition("="))
        if not what or not column:
            raise ValueError(
                f"{part!r}: write what a column is and which one, as in time=0 or cpu=CPUs"
            )
        if what in found:
            raise ValueError(f"{what} is there twice")
        if what not in {TIME, MACHINE, EVENT} and (problem := qualified_name_problem(what)):
            raise ValueError(f"a label cannot be called so: {problem}")
        found[what] = column
    missing = [what for what in (TIME, MACHINE, EVENT) if what not in found]
    if missing:
        raise ValueError(f"{missing[0]} is missing: say which column it is, as in {missing[0]}=0")
    return Columns(found.pop(TIME), found.pop(MACHINE), found.pop(EVENT), found)


def read_trace(
    files: Sequence[RecordedFile], backend: str, trace: Trace
) -> Iterator[Happened | PassedOver]:
    """Say what happened to machines, in the order of the files and their rows.

    Args:
        files: The parts of a trace.
        backend: Name of the backend.
        trace: How it is to be read.

    Raises:
        RecordingError: A file has not the columns, or cannot be read to its end.
    """
    machines = _Machines(backend, trace)
    for file in files:
        places: dict[str, int] | None = None
        for number, line in enumerate(file.lines, 1):
            text = line.decode("utf-8", "replace").removeprefix(_BYTE_ORDER_MARK)
            try:
                row = next(csv.reader((text,)), [])  # one line: a stray quote hides no other row
                if places is None:
                    places = _places(file.name, trace.columns, row)
                    if not all(map(_is_number, trace.columns.all)):
                        continue
                if row:
                    yield machines.take(_Row(row, places))
            except (_RowError, csv.Error) as error:
                yield PassedOver(f"{file.name}: line {number}", str(error))


class _RowError(Exception):
    """A row cannot be used; the message names the column."""


class _Row(NamedTuple):
    """One row, by what its columns are called in ``Columns``."""

    values: Sequence[str]
    places: Mapping[str, int]

    def value(self, what: str, column: str) -> str:
        """Return what a column says.

        Raises:
            _RowError: There is no such column.
        """
        place = self.places[column]
        if place >= len(self.values):
            raise _RowError(
                f"column {column} ({what}) is not there: the row has {len(self.values)} columns"
            )
        return self.values[place].strip()


def _is_number(column: str) -> bool:
    return column.isascii() and column.isdigit()


def _places(name: str, columns: Columns, first: Sequence[str]) -> dict[str, int]:
    """Find the columns; those that are called by name stand in the first line."""
    header = {title.strip(): place for place, title in enumerate(first)}
    places: dict[str, int] = {}
    for column in columns.all:
        if column in header and not all(map(_is_number, columns.all)):
            places[column] = header[column]
        elif _is_number(column):
            places[column] = int(column)
        else:
            there = ", ".join(header)
            raise RecordingError(
                f"{name}: the first line has no column {column!r}; there are: {there}"
            )
    return places


class _Machines:
    """The machines that are there.

    Args:
        backend: Name of the backend.
        trace: How rows are to be read.
    """

    def __init__(self, backend: str, trace: Trace) -> None:
        """There are none."""
        self._backend = backend
        self._trace = trace
        self._there: dict[str, Node] = {}  # by machine
        self._added: dict[str, int] = {}  # how often, by machine
        self._names: dict[str, str] = {}  # machines by the names of their nodes
        self._clock_ms = 0

    def take(self, row: _Row) -> Happened:
        """Say what a row means.

        Raises:
            _RowError: It cannot be used; nothing has changed.
        """
        columns = self._trace.columns
        time_ms = self._time_ms(row.value(TIME, columns.time))
        machine = row.value(MACHINE, columns.machine)
        said = row.value(EVENT, columns.event)
        event = _EVENTS.get(said.lower())
        if event is None:
            raise _RowError(
                f"column {columns.event} (event): {quoted(said)} is none: add, remove, update or 0, 1, 2"
            )
        known = self._there.get(machine)
        if (known is not None) is (event == _ADD):
            state = "there already" if known is not None else "not there"
            raise _RowError(
                f"column {columns.event} (event): {event}, but machine {quoted(machine)} is {state}"
            )
        if known is not None and event == _REMOVE:
            del self._there[machine]
            self._clock_ms = time_ms
            gone = NodeGone(
                backend=known.backend, name=known.name, uid=known.uid, why="removed in the trace"
            )
            return Happened(time_ms, gone)
        node = self._node(row, machine, known)
        self._there[machine] = node
        self._clock_ms = time_ms
        return Happened(time_ms, NodeObserved(node=node))

    def _time_ms(self, text: str) -> int:
        column = self._trace.columns.time
        try:
            time = Decimal(text)
            is_near = -_TIME_MAX < time < _TIME_MAX
        except InvalidOperation:
            hint = "; if the first line names the columns, call them by their names"
            raise _RowError(f"column {column} (time): {quoted(text)} is no number{hint}") from None
        time_ms = -1
        if is_near:
            time_ms = self._trace.epoch_ms + int(time * self._trace.unit_ns) // _NS_PER_MS
        if not 0 <= time_ms <= WHOLE_MAX:
            raise _RowError(
                f"column {column} (time): {quoted(text)} is not between the years 1970 and 9999"
            )
        if time_ms < self._clock_ms:
            raise _RowError(
                f"column {column} (time): {quoted(text)} is earlier than a row before it: sort the rows"
            )
        return time_ms

    def _node(self, row: _Row, machine: str, known: Node | None) -> Node:
        """Make the node of a machine as a row has it."""
        columns = self._trace.columns
        if known is not None:
            name, uid = known.name, known.uid
        else:
            name = self._name(machine)
            uid = derived_uid("machine", machine, str(self._added.get(machine, 0) + 1))
        labels = {_HOSTNAME: name[:63].rstrip("-."), _OS: "linux"}
        for label, column in columns.labels.items():
            said = row.value(label, column)
            value = _NOT_IN_VALUES.sub("_", said).strip("_.-")
            problem = label_value_problem(value)
            if problem or (said and not value):
                text = problem or f"{quoted(said)} has nothing that a label value may have"
                raise _RowError(f"column {column} ({label}): {text}")
            if value:
                labels[label] = value
        if known is None:
            self._names[name] = machine
            self._added[machine] = self._added.get(machine, 0) + 1
        return Node(backend=self._backend, name=name, uid=uid, labels=labels)

    def _name(self, machine: str) -> str:
        """Name the node of a machine: by the machine, with what a name may not have written as ``-``."""
        name = _NOT_IN_NAMES.sub("-", machine.lower()).strip("-.")
        problem = subdomain_problem(name)
        if problem:
            raise _RowError(f"column {self._trace.columns.machine} (machine): {problem}")
        other = self._names.get(name, machine)
        if other != machine:
            text = f"{quoted(machine)} and {quoted(other)} would be nodes of one name, {name}"
            raise _RowError(f"column {self._trace.columns.machine} (machine): {text}")
        return name
