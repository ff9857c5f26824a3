"""What the log says, read for people: who reads is also told what could not be read.

Used by `get`, `describe`, `explain`, `events`, `rollout` and `fleet show`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from everynode.cli.event_folding import EventFolder
from everynode.cli.terminal import warning_line
from everynode.core.events import NoticeReported
from everynode.core.values import Notice, SetKey
from everynode.errors import MalformedMessageError
from everynode.ports import Received
from everynode.runtime.bus import FleetBus
from everynode.runtime.view import FleetView, read_view
from everynode.wire import decode_from, token


async def read_fleet(
    bus: FleetBus, kinds: Sequence[str], key: SetKey | None = None, node: str = ""
) -> FleetView:
    """Read what there is now, and warn of messages that cannot be read.

    Args:
        bus: The fleet's log.
        kinds: As for `view.read_view`.
        key: Likewise.
        node: Likewise.

    Raises:
        UnavailableError: The server did not answer.
    """
    view = await read_view(bus, kinds, key, node)
    if view.malformed:
        first = view.malformed[0]
        warning_line(
            f"messages in the log that cannot be read: {view.malformed_count}; what was known before "
            f"them is shown; the first: {first.sequence} on {first.subject}: {first.error}"
        )
    return view


class NoticeWish(NamedTuple):
    """Which notices are wanted.

    Attributes:
        namespace: Empty for all of them.
        name: Of the set that they are about; empty for all of them.
        types: `Normal`, `Warning`; empty for both.
    """

    namespace: str
    name: str
    types: frozenset[str] = frozenset()

    def subject(self, bus: FleetBus) -> str:
        """Name the narrowest subject on which all of them stand."""
        if self.namespace and self.name:
            return bus.subjects.of_set("notice", SetKey(self.namespace, self.name))
        if self.namespace:
            return f"{bus.subjects.prefix}.notice.*.{token(self.namespace)}.*"
        return bus.subjects.of_kind("notice")

    def wants(self, notice: Notice) -> bool:
        """Say whether a notice is among them."""
        return (
            self.namespace in {"", notice.namespace}
            and self.name in {"", notice.daemonset}
            and (not self.types or notice.type in self.types)
        )

    def found_in(self, bus: FleetBus, chunk: Iterable[Received]) -> Iterator[tuple[Notice, int]]:
        """Find them among messages, each with the time at which the log took it in; what cannot be read is left out."""
        for received in chunk:
            try:
                message = decode_from(bus.subjects, received.subject, received.payload)
            except MalformedMessageError:
                continue  # nothing depends on it: it was for people, and they could not read it either
            if isinstance(message, NoticeReported) and self.wants(message.notice):
                yield message.notice, received.time_ms


async def read_notices(bus: FleetBus, wish: NoticeWish, since_ms: int, folder: EventFolder) -> int:
    """Fold what people were told until now.

    Args:
        bus: The fleet's log.
        wish: Which notices.
        since_ms: From when on; 0 for all that the log still has.
        folder: Takes them in.

    Returns:
        The sequence up to which they were read.

    Raises:
        UnavailableError: The server did not answer.
    """
    start = await bus.sequence_at(since_ms) if since_ms > 0 else 0
    end = (await bus.log_position()).last_sequence
    async with aclosing(bus.read_log([wish.subject(bus)], start)) as chunks:
        async for chunk in chunks:
            end = max(end, chunk[-1].sequence)
            for notice, at_ms in wish.found_in(bus, chunk):
                folder.fold(notice, at_ms)
    return end
