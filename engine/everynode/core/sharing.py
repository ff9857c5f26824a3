"""Who decides for which shards: rendezvous hashing over the workers that are heard of.

``runtime.roster`` feeds it what workers say of themselves and when that was heard; ``runtime.worker`` does what it
says. It knows neither a clock nor a connection: points in time come in, by the hearer's own clock. It only saves work.
Two workers that believe to own the same shard contradict each other on the log, and the fence takes one of them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from everynode.core.values import Name, Whole

BEAT_INTERVAL_MS = 300
DEAD_AFTER_MS = 1_200
"""A worker that was not heard of for so long is dead: three beats lost, and the fourth late."""

PEERS_MAX = 256
"""Other workers that are listened to; what more of them say is passed over."""
NUMBERS_MAX = 1_024
"""Workers, living and gone, of which is remembered what they said last, so that an older word is known for one."""
DEAD_MAX = 16
"""Dead workers that are told of."""
DEAD_TOLD_MS = 600_000
ID_LENGTH_MAX = 64
SHARDS_NAMED_MAX = 65_536

_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_LENGTH_MAX)]
_Shards = Annotated[tuple[Whole, ...], msgspec.Meta(max_length=SHARDS_NAMED_MAX)]


class DeadWorker(msgspec.Struct, frozen=True, rename="camel"):
    """A worker that went silent without a goodbye.

    Attributes:
        ago_ms: For how long, when this was said.
    """

    worker: Name
    id: _Id
    ago_ms: Whole


class Beat(
    msgspec.Struct, frozen=True, rename="camel", tag_field="kind", tag="WorkerBeat", kw_only=True
):
    """What a worker says of itself, beside the log, several times a second.

    Attributes:
        worker: Its name; several may have one name.
        id: Which process it is.
        number: Grows with each beat of a process, so that one that comes late is known for old.
        since_ms: When it started, by its own clock; for people.
        ready: It has read what there is to read, and decides.
        leaving: This is the last that will be heard of it.
        shards: For which it decides, or has decisions on their way.
        holds: Of which it knows everything, so that it can decide for them at once.
        sequence: The last message of the log that it has folded.
        behind: How many messages of the log it should have read and has not.
        dead: Workers that it has not heard of for too long.
    """

    worker: Name
    id: _Id
    number: Whole
    v: int = 1
    since_ms: Whole = 0
    ready: bool = False
    leaving: bool = False
    shards: _Shards = ()
    holds: _Shards = ()
    sequence: Whole = 0
    behind: Whole = 0
    dead: Annotated[tuple[DeadWorker, ...], msgspec.Meta(max_length=DEAD_MAX)] = ()


@functools.lru_cache(maxsize=65_536)
def weight(worker: str, shard: int) -> int:
    """Say how much a worker is meant for a shard: the same number in every process for ever."""
    digest = hashlib.blake2b(f"{worker}\x00{shard}".encode(), digest_size=8).digest()
    return int.from_bytes(digest)


def owner(workers: Iterable[str], shard: int) -> str:
    """Say which of some workers a shard belongs to: if one joins or leaves, only its own shards move.

    Args:
        workers: Ids, at least one; their order means nothing.
        shard: The shard.
    """
    return max(workers, key=lambda worker: (weight(worker, shard), worker))


def share(worker: str, others: Collection[str], shards: int) -> frozenset[int]:
    """Return the shards, of so many, that belong to a worker among others."""
    workers = {worker, *others}
    return frozenset(shard for shard in range(shards) if owner(workers, shard) == worker)


@dataclass(slots=True)
class _Heard:
    beat: Beat
    shards: frozenset[int]
    holds: frozenset[int]
    at_ms: int


@dataclass(frozen=True, slots=True)
class _Dead:
    beat: Beat
    at_ms: int


class Peers:
    """The other workers of a fleet, as far as one of them has heard.

    Args:
        own_id: Which process is asking.
        shards: How many shards the fleet has.
    """

    def __init__(self, own_id: str, shards: int) -> None:
        """Start with nobody: then everything is one's own."""
        self.own_id = own_id
        self.shards = shards
        self._heard: dict[str, _Heard] = {}
        self._dead: dict[str, _Dead] = {}
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        """How many are alive."""
        return len(self._heard)

    def knows(self, worker: str) -> bool:
        """A worker, by its id, is alive."""
        return worker in self._heard

    def hear(self, beat: Beat, now_ms: int) -> bool:
        """Take in what a worker says; whether that changes who owns what.

        Nothing of one's own, nothing that is older than what was heard before, and no more workers than ``PEERS_MAX``.
        """
        if beat.id == self.own_id or beat.number <= self._numbers.get(beat.id, -1):
            return False
        before = self._heard.get(beat.id)
        if before is None and (beat.leaving or len(self._heard) >= PEERS_MAX):
            return False
        self._remember_number(beat)
        self._dead.pop(beat.id, None)
        if beat.leaving:
            del self._heard[beat.id]
            return True
        shards, holds = frozenset(beat.shards), frozenset(beat.holds)
        self._heard[beat.id] = _Heard(beat, shards, holds, now_ms)
        return before is None or (before.beat.ready, before.shards, before.holds) != (
            beat.ready,
            shards,
            holds,
        )

    def _remember_number(self, beat: Beat) -> None:
        self._numbers.pop(beat.id, None)
        self._numbers[beat.id] = beat.number
        while len(self._numbers) > NUMBERS_MAX:
            del self._numbers[next(iter(self._numbers))]

    def expire(self, now_ms: int) -> bool:
        """Give up whoever was not heard of for too long; whether there was one."""
        silent = [
            heard.beat for heard in self._heard.values() if now_ms - heard.at_ms >= DEAD_AFTER_MS
        ]
        for beat in silent:
            heard = self._heard.pop(beat.id)
            self._dead[beat.id] = _Dead(beat, heard.at_ms)
        while len(self._dead) > DEAD_MAX:
            del self._dead[next(iter(self._dead))]
        return bool(silent)

    def forgive(self, duration_ms: int, now_ms: int) -> None:
        """For so long nobody could be heard, and that was one's own fault: it does not count as their silence."""
        for heard in self._heard.values():
            heard.at_ms = min(heard.at_ms + max(duration_ms, 0), now_ms)

    def expires_at_ms(self) -> int | None:
        """Say when the next one is dead if nothing is heard of it; ``None`` if there is nobody."""
        heard = [heard.at_ms for heard in self._heard.values()]
        return min(heard) + DEAD_AFTER_MS if heard else None

    def dead(self, now_ms: int) -> tuple[DeadWorker, ...]:
        """Return who died lately, the last one first."""
        found = sorted(
            (now_ms - dead.at_ms, dead.beat.worker, dead.beat.id)
            for dead in self._dead.values()
            if now_ms - dead.at_ms < DEAD_TOLD_MS
        )
        return tuple(DeadWorker(worker, worker_id, ago_ms) for ago_ms, worker, worker_id in found)

    # Who owns what

    def first_share(self) -> frozenset[int]:
        """Return what a worker that starts should read first: others that start too will have the rest."""
        return share(self.own_id, self._heard.keys(), self.shards)

    def wanted(self) -> frozenset[int]:
        """Return what this worker should be able to decide for, given who is at work."""
        ready = [worker for worker, heard in self._heard.items() if heard.beat.ready]
        return share(self.own_id, ready, self.shards)

    def owned(self, held: frozenset[int]) -> frozenset[int]:
        """Return those of the shards that it holds for which this worker decides.

        One is let go of only to a worker that holds it as well, so that nobody has to wait while it reads.
        """
        return frozenset(
            shard
            for shard in held
            if owner((self.own_id, *self._holders(shard)), shard) == self.own_id
        )

    def _holders(self, shard: int) -> list[str]:
        return [worker for worker, heard in self._heard.items() if shard in heard.holds]

    def claimed(self) -> frozenset[int]:
        """Return the shards for which others decide, or still have decisions on their way."""
        return frozenset().union(*(heard.shards for heard in self._heard.values()))
