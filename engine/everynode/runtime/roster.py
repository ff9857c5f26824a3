"""Which workers of a fleet are alive: each says so several times a second, on a subject beside the log.

Used by ``worker``, which asks it who owns what, and by the command line, which only listens (``listen``). Whether
somebody is dead is judged by the hearer's own clock alone, and only while the hearer itself could hear. Nothing is
stored and nobody leads. What is heard is not trusted: garbage is counted and passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import structlog

from everynode.core.sharing import BEAT_INTERVAL_MS, Beat, Peers
from everynode.errors import MalformedMessageError, OutcomeUnknownError, UnavailableError
from everynode.ports import Clock
from everynode.runtime.bus import FleetBus
from everynode.runtime.clock import monotonic_ms
from everynode.wire import SCHEMA_VERSION, Subjects

log = structlog.get_logger(__name__)

BEAT_BYTES_MAX = 512 * 1024
BEAT_PAUSE_MS = 50
"""Two beats are so far apart, whatever there is to say."""
ANSWER_TIMEOUT_MS = 300
"""How long a worker that starts waits for a first sign of others; if nobody listens, it is told so at once."""
LISTEN_FIRST_MS = BEAT_INTERVAL_MS + 100
"""How long it listens, if there are others, before it decides what to read: each of them beats once meanwhile."""
LATE_MS_MAX = 200
"""Who wakes up later than this was itself not there to listen."""
GOODBYE_TIMEOUT_MS = 500
SERVE_RETRY_MS = 500

_ID_BITS = 64
_decoder = msgspec.json.Decoder(Beat)
_encoder = msgspec.json.Encoder()


class Standing(NamedTuple):
    """How a worker stands; what it says of itself."""

    ready: bool = False
    shards: frozenset[int] = frozenset()
    holds: frozenset[int] = frozenset()
    sequence: int = 0
    behind: int = 0


def beat_subject(subjects: Subjects) -> str:
    """Name the subject on which workers say that they are there."""
    return f"{subjects.prefix}.worker"


def read_beat(payload: bytes, shards: int) -> Beat:
    """Read what a worker says of itself.

    Args:
        payload: What came; not trusted.
        shards: How many shards the fleet has.

    Raises:
        MalformedMessageError: It is too long, no beat, of another version, or names shards that there are not.
    """
    if len(payload) > BEAT_BYTES_MAX:
        message = f"beat: {len(payload)} bytes; at most {BEAT_BYTES_MAX} are read"
        raise MalformedMessageError(message)
    try:
        beat = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        message = f"beat: {error}"
        raise MalformedMessageError(message) from error
    if beat.v != SCHEMA_VERSION:
        message = f"beat: v is {beat.v}; this program reads {SCHEMA_VERSION}"
        raise MalformedMessageError(message)
    for field, named in (("shards", beat.shards), ("holds", beat.holds)):
        if len(named) > shards or any(shard >= shards for shard in named):
            message = f"beat: {field} has shards that are not among the fleet's {shards}"
            raise MalformedMessageError(message)
    return beat


async def listen(bus: FleetBus, clock: Clock, duration_ms: int) -> list[Beat]:
    """Return the last word of each worker that is heard for a while, by name.

    Raises:
        UnavailableError: There is no connection.
    """
    peers: dict[str, Beat] = {}

    async def hear(payload: bytes) -> bytes:
        with contextlib.suppress(MalformedMessageError):
            beat = read_beat(payload, bus.subjects.shards)
            known = peers.get(beat.id)
            if known is None or beat.number > known.number:
                peers[beat.id] = beat
        return b""

    subject = beat_subject(bus.subjects)
    await bus.serve(subject, hear)
    try:
        await clock.sleep_ms(duration_ms)
    finally:
        await bus.stop_serving(subject)
    heard = (beat for beat in peers.values() if not beat.leaving)
    return sorted(heard, key=lambda beat: (beat.worker, beat.since_ms, beat.id))


class Roster:
    """One worker's side of it: says that it is there, and hears of the others.

    Args:
        bus: The fleet's log.
        clock: For what people are told; whether somebody is dead is not judged by it.
        name: The worker's name.
        standing: Asked for what it says of itself.
        changed: Called when who owns what may have changed.
    """

    def __init__(
        self,
        bus: FleetBus,
        clock: Clock,
        name: str,
        standing: Callable[[], Standing],
        changed: Callable[[], None],
    ) -> None:
        """Say nothing yet."""
        self.id = f"{random.getrandbits(_ID_BITS):016x}"
        self.peers = Peers(self.id, bus.subjects.shards)
        self.greeted = asyncio.Event()
        """It has heard who else is there, or that there is nobody."""
        self.ignored = 0
        """How many messages on the subject were not understood."""
        self._bus = bus
        self._clock = clock
        self._name = name
        self._standing = standing
        self._changed = changed
        self._subject = beat_subject(bus.subjects)
        self._since_ms = 0
        self._number = 0
        self._said = b""
        self._nudged = asyncio.Event()
        self._beat_at_ms = 0
        self._heard_until_ms = 0  # there was a connection then

    def nudge(self) -> None:
        """Say soon how things stand: something has changed that others wait for."""
        self._nudged.set()

    async def run(self) -> None:
        """Say that it is there and hear of the others, until cancelled."""
        self._since_ms = self._clock.now_ms()
        self._heard_until_ms = monotonic_ms()
        await self._greet()
        self.greeted.set()
        while True:
            await self._beat()
            await self._listen()

    async def leave(self) -> None:
        """Say goodbye, so that others need not find out. Best done when nothing is decided any more."""
        with contextlib.suppress(UnavailableError, TimeoutError):
            async with asyncio.timeout(GOODBYE_TIMEOUT_MS / 1000):
                await self._bus.announce(self._subject, self._say(leaving=True))
                await self._bus.stop_serving(self._subject)

    async def _greet(self) -> None:
        """Find out whether there is anybody; if so, hear who."""
        alone = False
        try:
            await self._bus.request(self._subject, self._say(), ANSWER_TIMEOUT_MS)
        except (UnavailableError, OutcomeUnknownError):
            alone = True
        while True:
            try:
                await self._bus.serve(self._subject, self._hear)
            except UnavailableError as error:
                log.warning("cannot hear other workers yet", reason=str(error))
                await self._clock.sleep_ms(SERVE_RETRY_MS)
            else:
                break
        if not alone:
            await self._beat()
            await asyncio.sleep(LISTEN_FIRST_MS / 1000)

    async def _beat(self) -> None:
        self._nudged.clear()
        self._beat_at_ms = now_ms = monotonic_ms()
        try:
            await self._bus.announce(self._subject, self._say())
        except (
            UnavailableError
        ):  # who has no connection hears nobody, and that says nothing about them
            self.peers.forgive(now_ms - self._heard_until_ms, now_ms)
        self._heard_until_ms = now_ms

    async def _listen(self) -> None:
        """Wait until the next beat is due, or there is something to say; look who is dead meanwhile."""
        while True:
            now_ms = monotonic_ms()
            pause = BEAT_PAUSE_MS if self._nudged.is_set() else BEAT_INTERVAL_MS
            beat_ms = self._beat_at_ms + pause
            if beat_ms <= now_ms:
                return
            expires_ms = self.peers.expires_at_ms()
            wake_ms = beat_ms if expires_ms is None else min(beat_ms, expires_ms)
            await self._sleep_until(max(wake_ms, now_ms + 1))
            if self.peers.expire(monotonic_ms()):
                log.info(
                    "worker is dead", dead=[d.worker for d in self.peers.dead(monotonic_ms())][:1]
                )
                self.nudge()
                self._changed()

    async def _sleep_until(self, wake_ms: int) -> None:
        """Sleep, or until nudged; whoever oversleeps has not listened either."""
        delay_s = max(wake_ms - monotonic_ms(), 0) / 1000
        if self._nudged.is_set():
            await asyncio.sleep(delay_s)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._nudged.wait()
        now_ms = monotonic_ms()
        if now_ms - wake_ms > LATE_MS_MAX:
            self.peers.forgive(now_ms - wake_ms, now_ms)

    def _say(self, *, leaving: bool = False) -> bytes:
        """Write down how things stand."""
        self._number += 1
        standing = Standing() if leaving else self._standing()
        beat = Beat(
            worker=self._name,
            id=self.id,
            number=self._number,
            since_ms=self._since_ms,
            ready=standing.ready,
            leaving=leaving,
            shards=tuple(sorted(standing.shards)),
            holds=tuple(sorted(standing.holds)),
            sequence=standing.sequence,
            behind=standing.behind,
            dead=self.peers.dead(monotonic_ms()),
        )
        self._said = _encoder.encode(beat)
        return self._said

    async def _hear(self, payload: bytes) -> bytes:
        """Take in what somebody says; a request is answered with the last beat."""
        try:
            beat = read_beat(payload, self.peers.shards)
        except MalformedMessageError as error:
            self.ignored += 1
            if self.ignored == 1:  # whoever sends garbage does not fill the disk with it, too
                log.warning("beat not understood", subject=self._subject, reason=str(error))
            return b""
        knew = self.peers.knows(beat.id)
        if self.peers.hear(beat, monotonic_ms()):
            self._changed()
        if not knew and self.peers.knows(beat.id):
            self.nudge()  # it does not know of us either
        return self._said
