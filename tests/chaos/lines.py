"""The lines of a history: what is written down at a backend and at the log, one fact each, as JSON.

Written by ``backend`` and ``support_reader``, judged by ``histories``. Values only.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Line(msgspec.Struct, frozen=True, tag_field="line", kw_only=True):
    """One fact of a history; each file is in the order in which its only writer saw things."""

    time_ms: int


# --- at the backend -----------------------------------------------------------------------------------------------


class Call(Line, frozen=True, tag="call"):
    """A command on its way through the backend.

    Attributes:
        phase: ``invoke``: it came. ``effect``: it made or ended something just now. ``ok``: it was answered. ``info``:
            it was not, or with "perhaps".
        pod_uid: What it made or ended; for ``effect`` only.
    """

    phase: Literal["invoke", "effect", "ok", "info"]
    process: str
    command: str
    verb: str
    pod_uid: str = ""


class PodLine(Line, frozen=True, tag="pod"):
    """How a pod is from now on; ``exists`` is false once, when it is gone."""

    uid: str
    name: str
    set_uid: str
    node_uid: str
    live: bool
    available: bool
    exists: bool = True


class NodeLine(Line, frozen=True, tag="node"):
    """How a node is from now on: whether it takes pods, and whether it exists."""

    uid: str
    open: bool
    exists: bool = True


class Outsider(Line, frozen=True, tag="outsider"):
    """Somebody else ended a pod: with the whole node, by hand, or because the pod ended by itself."""

    pod_uid: str


BackendLine = Call | PodLine | NodeLine | Outsider


# --- at the log ---------------------------------------------------------------------------------------------------


class LogLine(Line, frozen=True):
    """Something on the log, and in which generation of the log it was read."""

    generation: int
    sequence: int


class Decided(LogLine, frozen=True, tag="decision"):
    """A decision that the log took."""

    set_uid: str
    worker: str
    basis: int
    eligible: int


class Commanded(LogLine, frozen=True, tag="command"):
    """A command, behind its decision."""

    command: str
    verb: str
    set_uid: str
    reason: str
    worker: str
    pod_uid: str = ""


class SaidPod(LogLine, frozen=True, tag="pod"):
    """Whether the log says that a pod is available."""

    uid: str
    available: bool


class SaidNode(LogLine, frozen=True, tag="node"):
    """Whether the log says that a node takes pods."""

    uid: str
    open: bool


class Settled(LogLine, frozen=True, tag="outcome"):
    """What became of a command."""

    command: str
    result: str


class Garbage(LogLine, frozen=True, tag="garbage"):
    """Something that cannot be read."""


class Cut(LogLine, frozen=True, tag="cut"):
    """From here on the log is another one, or an older copy of itself."""

    why: str


AnyLogLine = Decided | Commanded | Settled | SaidPod | SaidNode | Garbage | Cut
