"""Storing messages on the log: one by one, or many as one batch that the server takes whole or not at all.

Used by ``runtime.jetstream``. The library has no batches; on the wire they are three headers and one request at the
end. What an error means is decided here: nothing stored (``UnavailableError``), stored by someone else first
(``StaleError``), or not known (``OutcomeUnknownError``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence

from everynode.core.commands import BATCH_MESSAGES_MAX
from everynode.errors import (
    InvariantError,
    MalformedMessageError,
    OutcomeUnknownError,
    StaleError,
    UnavailableError,
)
from everynode.ports import Outgoing
from everynode.runtime.link import ApiRefusal, Link, read_answer

BATCH_BYTES_MAX = 8 * 1024**2
BATCHES_IN_FLIGHT_MAX = 16  # per process; the server allows 50 for a stream
PUBLISH_TIMEOUT_MS = 5_000

_WRONG_LAST_SEQUENCE = 10071
_WRONG_LAST_SEQUENCE_IN_RACE = 10164
_SEQUENCE = re.compile(r"wrong last sequence: (\d+)")


class Publisher:
    """Stores messages over one link.

    Args:
        link: The connection.
        batch_prefix: Starts each batch's id; nobody else may use it.
    """

    def __init__(self, link: Link, batch_prefix: str) -> None:
        """Nothing is in flight yet."""
        self._link = link
        self._batch_prefix = batch_prefix
        self._batches = 0
        self._in_flight = asyncio.Semaphore(BATCHES_IN_FLIGHT_MAX)

    async def publish(self, messages: Sequence[Outgoing]) -> int:
        """Store messages in runs; see ``ports.Bus.publish``."""
        self._check_sizes(messages)
        sequence = 0
        for run in runs(messages):
            sequence = await self._store(run, None)
        return sequence

    async def publish_fenced(
        self, messages: Sequence[Outgoing], expected_sequence: int, epoch: int | None = None
    ) -> int:
        """Store messages under a condition; see ``ports.Bus.publish_fenced``."""
        self._check_sizes(messages)
        if len(list(runs(messages))) != 1:
            message = (
                f"a fenced batch of {len(messages)} messages, {_bytes_of(messages)} bytes: at least 1 and at "
                f"most {BATCH_MESSAGES_MAX} messages and {BATCH_BYTES_MAX} bytes are possible"
            )
            raise InvariantError(message)
        return await self._store(messages, expected_sequence, epoch)

    def _check_sizes(self, messages: Sequence[Outgoing]) -> None:
        """Refuse what would make the server close the connection."""
        bytes_max = self._link.payload_bytes_max
        for message in messages:
            if len(message.payload) > bytes_max:
                text = (
                    f"{message.subject}: {len(message.payload)} bytes, and this server takes at most "
                    f"{bytes_max} (max_payload less room for headers): make the object smaller"
                )
                raise MalformedMessageError(text)

    async def _store(
        self, run: Sequence[Outgoing], expected: int | None, epoch: int | None = None
    ) -> int:
        subject = run[0].subject
        first_headers: dict[str, str] = {}
        if expected is not None:
            first_headers["Nats-Expected-Last-Subject-Sequence"] = str(expected)
        try:
            if len(run) == 1:
                headers = _with_ttl(first_headers, run[0])
                self._check_epoch(subject, epoch)
                return await self._commit(run[0], headers)
            async with self._in_flight:
                self._check_epoch(subject, epoch)
                return await self._store_batch(run, first_headers)
        except ApiRefusal as refusal:
            raise _translated(subject, expected, refusal) from refusal

    def _check_epoch(self, subject: str, epoch: int | None) -> None:
        """Send nothing over another connection than the writer thinks of.

        If that is lost while a batch is sent, the rest finds the server that has the beginning, or is refused.
        """
        if epoch not in {None, self._link.epoch}:
            text = f"{subject}: nothing was stored: the connection is another one than it was meant for"
            raise UnavailableError(text)

    async def _store_batch(self, run: Sequence[Outgoing], first_headers: dict[str, str]) -> int:
        self._batches += 1
        batch = f"{self._batch_prefix}{self._batches}"
        try:
            async with asyncio.timeout(PUBLISH_TIMEOUT_MS / 1000):
                for number, message in enumerate(run[:-1], start=1):
                    headers = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)}
                    if number == 1:
                        headers |= first_headers
                    await self._link.publish(
                        message.subject, message.payload, _with_ttl(headers, message)
                    )
        except TimeoutError as error:  # it was not committed, so nothing of it is stored
            text = (
                f"a batch of {len(run)} messages could not be sent within {PUBLISH_TIMEOUT_MS} ms"
            )
            raise UnavailableError(text) from error
        headers = {
            "Nats-Batch-Id": batch,
            "Nats-Batch-Sequence": str(len(run)),
            "Nats-Batch-Commit": "1",
        }
        return await self._commit(run[-1], _with_ttl(headers, run[-1]))

    async def _commit(self, message: Outgoing, headers: dict[str, str]) -> int:
        answer = await self._link.request(
            message.subject, message.payload, PUBLISH_TIMEOUT_MS, headers or None
        )
        sequence = read_answer(answer).get("seq")
        if not isinstance(sequence, int):
            text = f"{message.subject}: the server's acknowledgement names no sequence"
            raise OutcomeUnknownError(text)
        return sequence


def runs(messages: Sequence[Outgoing]) -> Iterator[Sequence[Outgoing]]:
    """Cut messages into runs that one batch may carry, by number and by size, in order."""
    start, size = 0, 0
    for index, message in enumerate(messages):
        added = len(message.payload) + len(message.subject)
        full = index - start == BATCH_MESSAGES_MAX or size + added > BATCH_BYTES_MAX
        if full and index > start:
            yield messages[start:index]
            start, size = index, 0
        size += added
    if start < len(messages):
        yield messages[start:]


def _with_ttl(headers: dict[str, str], message: Outgoing) -> dict[str, str]:
    if message.ttl_seconds is not None:
        headers["Nats-TTL"] = f"{message.ttl_seconds}s"
    return headers


def _bytes_of(messages: Sequence[Outgoing]) -> int:
    return sum(len(message.payload) + len(message.subject) for message in messages)


def _translated(
    subject: str, expected: int | None, refusal: ApiRefusal
) -> StaleError | UnavailableError:
    """Say what a refusal means. Whatever the server answers with an error, it has not stored."""
    if refusal.code in {_WRONG_LAST_SEQUENCE, _WRONG_LAST_SEQUENCE_IN_RACE}:
        match = _SEQUENCE.search(refusal.description)
        last = int(match[1]) if match else None
        text = f"{subject}: expected {expected} as its last sequence: {refusal}"
        return StaleError(text, last)
    return UnavailableError(f"{subject}: nothing was stored: {refusal}")
