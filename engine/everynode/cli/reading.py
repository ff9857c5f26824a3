"""What the log says, read for people: who reads is also told what could not be read.

Used by `get`, `describe`, `explain` and `fleet show`.
"""

from __future__ import annotations

from collections.abc import Sequence

from everynode.cli.terminal import warning_line
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.view import FleetView, read_view


async def read_fleet(bus: JetStreamBus, kinds: Sequence[str]) -> FleetView:
    """Read what there is now, and warn of messages that cannot be read.

    Raises:
        UnavailableError: The server did not answer.
    """
    view = await read_view(bus, kinds)
    if view.malformed:
        first = view.malformed[0]
        warning_line(
            f"messages in the log that cannot be read: {view.malformed_count}; what was known before "
            f"them is shown; the first: {first.sequence} on {first.subject}: {first.error}"
        )
    return view
