"""The two streams of a simulated fleet as data: LOG, which can lose its end or let go of its beginning, and STATE.

Used by ``server``, which says when something is stored and when STATE takes it over. Nothing here waits or fails.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import structs

from everynode.errors import StaleError
from everynode.ports import Received
from everynode.runtime.bus import LogPosition

MATCHERS_REMEMBERED_MAX = 1_024

_END = ""

Matches = Callable[[str], bool]


@functools.lru_cache(maxsize=MATCHERS_REMEMBERED_MAX)
def matcher(patterns: tuple[str, ...]) -> Matches:
    """Return what says whether a subject matches any of these, which may have ``*`` and ``>``."""
    tree: dict[str, Any] = {}
    for pattern in patterns:
        branch = tree
        for token in pattern.split("."):
            branch = branch.setdefault(token, {})
        branch[_END] = {}

    def matches(subject: str) -> bool:
        return _found(tree, subject.split("."), 0)

    return matches


def _found(branch: dict[str, Any], tokens: list[str], depth: int) -> bool:
    while depth < len(tokens):
        if ">" in branch:
            return True
        any_token = branch.get("*")
        literal = branch.get(tokens[depth])
        depth += 1
        if literal is None:
            if any_token is None:
                return False
            branch = any_token
        else:
            if any_token is not None and _found(any_token, tokens, depth):
                return True
            branch = literal
    return _END in branch


class SimulatedLog:
    """LOG.

    Attributes:
        history: Every message that it ever took in, in that order: where a sequence is not the next one after the
            one before, what had that sequence or a later one until then had been lost.
        first_sequence: The first message that it still has; one more than the last if it has none.
        last_sequence: The last message that it has, or had before it let go of it.
        last_time_ms: When it took that in.
        created: Tells it from one that was made before.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.history: list[Received] = []
        self.first_sequence = 1
        self.last_sequence = 0
        self.last_time_ms = 0
        self.created = 1
        self._messages: list[Received] = []  # from ``first_sequence`` on
        self._last: dict[str, Received] = {}

    def append(self, subject: str, payload: bytes, time_ms: int) -> Received:
        """Take a message in."""
        self.last_sequence += 1
        received = Received(self.last_sequence, time_ms, subject, payload)
        self.history.append(received)
        self._messages.append(received)
        self._last[subject] = received
        self.last_time_ms = time_ms
        return received

    def get(self, sequence: int) -> Received | None:
        """Return the message with this sequence; ``None`` if it does not have it."""
        if self.first_sequence <= sequence <= self.last_sequence:
            return self._messages[sequence - self.first_sequence]
        return None

    def last(self, subject: str) -> Received | None:
        """Return the last message on a subject; ``None`` if it has none."""
        found = self._last.get(subject)
        return found if found is not None and found.sequence >= self.first_sequence else None

    def since(self, sequence: int) -> list[Received]:
        """Return the messages from a sequence on."""
        return self._messages[max(sequence - self.first_sequence, 0) :]

    def read(
        self, matches: Matches, position: int, messages_max: int
    ) -> tuple[list[Received], int, bool]:
        """Read on after a sequence.

        Returns:
            The messages, up to where that was, and whether there are more.

        Raises:
            StaleError: It ends before that.
        """
        self.check(None, position)
        chunk: list[Received] = []
        for received in self.since(position + 1):
            if not matches(received.subject):
                continue
            if len(chunk) == messages_max:
                return chunk, chunk[-1].sequence, True
            chunk.append(received)
        return chunk, self.last_sequence, False

    def position(self) -> LogPosition:
        """Say where it begins and ends."""
        return LogPosition(self.first_sequence, self.last_sequence, self.last_time_ms)

    def sequence_at(self, time_ms: int) -> int:
        """Name the first message as old as this or younger."""
        place = bisect_left(self._messages, time_ms, key=lambda received: received.time_ms)
        return self.first_sequence + place

    def truncate(self, count: int) -> int:
        """Lose so many messages at the end; returns how many there were to lose."""
        count = min(count, len(self._messages))
        if count:
            del self._messages[-count:]
            self.last_sequence -= count
            self._last = {received.subject: received for received in self._messages}
            self.last_time_ms = self._messages[-1].time_ms if self._messages else 0
        return count

    def age_out(self, first_sequence: int) -> None:
        """Let go of what comes before a sequence."""
        first_sequence = min(first_sequence, self.last_sequence + 1)
        if first_sequence > self.first_sequence:
            del self._messages[: first_sequence - self.first_sequence]
            self.first_sequence = first_sequence

    def make_anew(self) -> None:
        """Be another, empty log."""
        self._messages.clear()
        self._last.clear()
        self.first_sequence, self.last_sequence, self.last_time_ms = 1, 0, 0
        self.created += 1

    def check(self, created: int | None, sequence: int) -> None:
        """Refuse who has read another log, or more than there is.

        Raises:
            StaleError: As ``Bus.follow``.
        """
        if created not in {None, self.created}:
            raise StaleError("LOG was made anew", self.last_sequence)
        if self.last_sequence < sequence:
            message = (
                f"LOG ends at {self.last_sequence}, and {sequence} was already read: it is an older "
                "copy, or another stream"
            )
            raise StaleError(message, self.last_sequence)

    def check_last_read(self, last_read: Received | None) -> None:
        """Refuse who has read something else at that place.

        Raises:
            StaleError: The log lost its end, and has grown past that again.
        """
        if last_read is None:
            return
        found = self.get(last_read.sequence)
        if found is not None and found.time_ms != last_read.time_ms:
            message = f"LOG has another message at {last_read.sequence} than was read"
            raise StaleError(message)

    def overtaken(self, sequence: int) -> StaleError:
        """Say that what came after a sequence is no longer there."""
        message = f"LOG begins at {self.first_sequence}; what stood after {sequence} may be lost"
        return StaleError(message, self.last_sequence)


class SimulatedState:
    """STATE: the last message of each subject that lasts, in the order in which it took them over.

    Args:
        patterns: The subjects that it keeps.

    Attributes:
        position: Up to where in LOG it has taken over.
        last_sequence: Its own last sequence.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        """Begin empty."""
        self.position = 0
        self.last_sequence = 0
        self._keeps = matcher(tuple(patterns))
        self._copied: list[Received] = []
        self._kept: dict[str, int] = {}  # its own sequence, by subject, rising

    def take_over(self, log: SimulatedLog, up_to: int, time_ms: int) -> None:
        """Take over what LOG has, up to a sequence."""
        for received in log.since(self.position + 1):
            if received.sequence > up_to:
                break
            if self._keeps(received.subject):
                self._copied.append(structs.replace(received, time_ms=time_ms))
                self.last_sequence += 1
                self._kept.pop(received.subject, None)
                self._kept[received.subject] = self.last_sequence
        self.position = max(self.position, up_to)

    def last(self, subject: str) -> Received | None:
        """Return the last message on a subject, with its sequence in LOG."""
        found = self._kept.get(subject)
        return self._copied[found - 1] if found else None

    def read(
        self, matches: Matches, position: int, messages_max: int
    ) -> tuple[list[Received], int, bool]:
        """Read on after one of its own sequences.

        Returns:
            The messages, the sequence of the last of them, and whether there are more.

        Raises:
            StaleError: It ends before that.
        """
        if position > self.last_sequence:
            message = f"STATE ends at {self.last_sequence}, and {position} was already read"
            raise StaleError(message, self.last_sequence)
        chunk: list[Received] = []
        position_of_last = position
        for subject, sequence in self._kept.items():
            if sequence <= position or not matches(subject):
                continue
            if len(chunk) == messages_max:
                return chunk, position_of_last, True
            chunk.append(self._copied[sequence - 1])
            position_of_last = sequence
        return chunk, self.last_sequence, False

    def truncate(self, log_sequence: int) -> None:
        """Lose what it took over from beyond a sequence of LOG."""
        while self._copied and self._copied[-1].sequence > log_sequence:
            self._copied.pop()
        self.last_sequence = len(self._copied)
        self.position = min(self.position, log_sequence)
        self._kept = {}
        for sequence, received in enumerate(self._copied, start=1):
            self._kept.pop(received.subject, None)
            self._kept[received.subject] = sequence

    def make_anew(self) -> None:
        """Be another, empty stream."""
        self.truncate(0)
