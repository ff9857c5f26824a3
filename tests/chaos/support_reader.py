"""The log as somebody outside sees it: read over a connection of its own and written down, line by line.

Used by ``support_rig``. It asks no worker and no adapter anything. When the log is another one than before (an older
copy of its store was put back), it says so with a line and reads from the beginning again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing
from pathlib import Path

import msgspec
from tests.chaos.churn import is_open
from tests.chaos.lines import (
    AnyLogLine,
    Commanded,
    Cut,
    Decided,
    Garbage,
    SaidNode,
    SaidPod,
    Settled,
)

from everynode import wire
from everynode.core.commands import COMMANDS, Decision, Outcome
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved, StatusReported
from everynode.core.values import SetKey, Status
from everynode.errors import MalformedMessageError, StaleError, UnavailableError
from everynode.ports import Received
from everynode.runtime.jetstream import JetStreamBus


class LogReader:
    """Reads LOG for as long as it runs.

    Args:
        bus: Its own connection.
        path: Where the lines go.
    """

    def __init__(self, bus: JetStreamBus, path: Path) -> None:
        """Read nothing yet."""
        self.open_commands: dict[str, int] = {}
        """Commands without an outcome, as the log has it now, and where they stand."""
        self.statuses: dict[SetKey, Status] = {}
        self.kinds: Counter[str] = Counter()
        self.sequence = 0
        self.generation = 0
        self.actions = 0
        """Decisions and commands that were read: what stands still in silence."""
        self.changed = asyncio.Event()
        self._bus = bus
        self._file = path.open("ab", buffering=0)
        self._encode = msgspec.json.Encoder().encode
        self._workers: dict[SetKey, str] = {}

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            try:
                async with aclosing(
                    self._bus.follow([self._bus.subjects.everything()], 1)
                ) as chunks:
                    async for chunk in chunks:
                        self._take(chunk)
            except (StaleError, UnavailableError) as error:
                self._begin_again(str(error))
                await asyncio.sleep(0.1)

    def _begin_again(self, why: str) -> None:
        self.generation += 1
        self.open_commands.clear()
        self.statuses.clear()
        now_ms = time.time_ns() // 1_000_000
        self._write(Cut(time_ms=now_ms, generation=self.generation, sequence=0, why=why))

    def _write(self, *lines: AnyLogLine) -> None:
        self._file.write(b"".join(self._encode(line) + b"\n" for line in lines))

    def _take(self, chunk: list[Received]) -> None:
        lines = [line for received in chunk if (line := self._line_of(received)) is not None]
        if lines:
            self._write(*lines)
        if chunk:
            self.sequence = chunk[-1].sequence
        self.changed.set()
        self.changed = asyncio.Event()

    def _line_of(self, received: Received) -> AnyLogLine | None:
        place: dict[str, int] = {
            "time_ms": received.time_ms,
            "generation": self.generation,
            "sequence": received.sequence,
        }
        try:
            message = wire.decode_from(self._bus.subjects, received.subject, received.payload)
        except MalformedMessageError:
            self.kinds["(garbage)"] += 1
            return Garbage(**place)
        self.kinds[type(message).__name__] += 1
        match message:
            case Decision():
                self.actions += 1
                self._workers[message.set_key] = message.worker
                return Decided(
                    **place,
                    set_uid=message.daemonset_uid,
                    worker=message.worker,
                    basis=message.basis,
                    eligible=message.counts.eligible,
                )
            case Outcome():
                self.open_commands.pop(message.id, None)
                return Settled(**place, command=message.id, result=message.result)
            case PodObserved(pod=pod):
                return SaidPod(**place, uid=pod.uid, available=pod.live and pod.ready)
            case PodGone():
                return SaidPod(**place, uid=message.uid, available=False)
            case NodeObserved(node=node):
                return SaidNode(**place, uid=node.uid, open=is_open(node))
            case NodeGone():
                return SaidNode(**place, uid=message.uid, open=False)
            case StatusReported(status=status):
                self.statuses[status.set_key] = status
            case _ if isinstance(message, COMMANDS):
                self.actions += 1
                self.open_commands[message.id] = received.sequence
                return Commanded(
                    **place,
                    command=message.id,
                    verb=message.verb,
                    set_uid=message.daemonset_uid,
                    reason=message.reason,
                    worker=self._workers.get(message.set_key, ""),
                    pod_uid=getattr(message, "pod_uid", ""),
                )
            case _:
                pass
        return None
