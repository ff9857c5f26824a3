"""What everything that runs on a fleet's log needs of it: ``ports.Bus``, and the log's own measures.

Implemented by ``runtime.jetstream`` on a real server and by ``testing.simulation`` on virtual time. Workers, adapter
hosts and readers are written against this, so that both can run them. It knows nothing of NATS.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol

from everynode.ports import Bus, Delivery, Received
from everynode.wire import Subjects


class LogPosition(NamedTuple):
    """Where LOG begins and ends.

    Attributes:
        first_sequence: The first message that it still has; one more than the last if it has none.
        last_sequence: The last message that it took in; 0 if there was none.
        last_time_ms: When that was; 0 if there was none.
    """

    first_sequence: int
    last_sequence: int
    last_time_ms: int


class FleetBus(Bus, Protocol):
    """The log of one fleet, whose iterators can be closed, with its measures."""

    @property
    def subjects(self) -> Subjects:
        """The fleet's subjects."""
        ...

    @property
    def tombstone_ttl_seconds(self) -> int | None:
        """The TTL for tombstones: they leave LOG no earlier than what they end; ``None``: none."""
        ...

    def read_state(self, subjects: Sequence[str]) -> AsyncGenerator[list[Received]]:
        """Read STATE once; see ``ports.Bus``."""
        ...

    def read_log(
        self, subjects: Sequence[str], from_sequence: int
    ) -> AsyncGenerator[list[Received]]:
        """Read LOG once, from a sequence on to what was its last message when reading began."""
        ...

    def follow(self, subjects: Sequence[str], from_sequence: int) -> AsyncGenerator[list[Received]]:
        """Read LOG from a sequence on, for ever; see ``ports.Bus``."""
        ...

    def commands(self, backend: str, in_flight_max: int) -> AsyncGenerator[Delivery]:
        """Hand out the commands for one backend; see ``ports.Bus``."""
        ...

    async def log_position(self) -> LogPosition:
        """Say where LOG begins and ends now.

        Raises:
            UnavailableError: The server did not answer.
        """
        ...

    async def sequence_at(self, time_ms: int) -> int:
        """Name the first message of LOG that is as old as this or younger; one more than the last if all are older.

        Raises:
            UnavailableError: The server did not answer.
        """
        ...

    async def time_of(self, sequence: int) -> int | None:
        """Say when LOG took a message in, in ms since 1970; ``None`` if it does not have that message.

        Raises:
            UnavailableError: The server did not answer.
        """
        ...

    async def record_backend(self, backend: str, identity: str) -> None:
        """Write down in the fleet which backend a name stands for, the first time.

        Raises:
            ConfigurationError: The fleet knows another one under this name.
            UnavailableError: The server did not answer.
        """
        ...
