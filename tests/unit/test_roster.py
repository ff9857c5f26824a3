"""What workers say of themselves: what is read, what is refused, and who is called dead."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from everynode.core import sharing
from everynode.core.sharing import DEAD_AFTER_MS, DEAD_MAX, Beat, weight
from everynode.errors import ConfigurationError, MalformedMessageError, UnavailableError
from everynode.runtime import roster as roster_module
from everynode.runtime.bus import FleetBus
from everynode.runtime.clock import SystemClock
from everynode.runtime.roster import BEAT_BYTES_MAX, Roster, Standing, read_beat
from everynode.runtime.session import Session
from everynode.runtime.worker import Worker
from everynode.wire import Subjects

SHARDS = 4
WIRE = (Path(__file__).parents[2] / "docs" / "wire.md").read_text(encoding="utf-8")
BEAT = Beat(worker="a", id="a", number=1)
GOOD: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(BEAT))
DEAD = {"worker": "x", "id": "x", "agoMs": 1}


class Air:
    """A bus on which nothing but announcements is heard, and of which the test holds the switch."""

    def __init__(self) -> None:
        """Nobody listens."""
        self.subjects = Subjects("air", SHARDS)
        self.connected = True
        self.said: asyncio.Queue[Beat] = asyncio.Queue()
        self.hear: Callable[[bytes], Awaitable[bytes]] | None = None

    async def request(self, _subject: str, _payload: bytes, _timeout_ms: int) -> bytes:
        """Nobody answers."""
        raise UnavailableError("nobody listens")

    async def serve(self, _subject: str, handler: Callable[[bytes], Awaitable[bytes]]) -> None:
        """Remember who listens."""
        self.hear = handler

    async def stop_serving(self, _subject: str) -> None:
        """Forget it."""
        self.hear = None

    async def announce(self, _subject: str, payload: bytes) -> None:
        """Keep what is said."""
        if not self.connected:
            raise UnavailableError("no connection")
        self.said.put_nowait(read_beat(payload, SHARDS))


class Told:
    """A roster on the air, and what it says."""

    def __init__(self) -> None:
        """Make it."""
        self.air = Air()
        self.standing = Standing()
        self.changes = 0
        bus = cast("FleetBus", self.air)
        self.roster = Roster(bus, SystemClock(), "me", lambda: self.standing, self._change)

    def _change(self) -> None:
        self.changes += 1

    async def hear(self, beat: Beat) -> bytes:
        """Let it hear something."""
        assert self.air.hear is not None
        return await self.air.hear(msgspec.json.encode(beat))

    async def until(self, condition: Callable[[Beat], bool]) -> Beat:
        """Wait until it says something like this."""
        async with asyncio.timeout(20):
            while True:
                beat = await self.air.said.get()
                if condition(beat):
                    return beat


@pytest.mark.parametrize("name", ["", "x" * 254, "\udcff"], ids=["none", "long", "not text"])
def test_a_name_that_nobody_could_read(name: str) -> None:
    """S8: a worker does not start with a name that would make its decisions unreadable."""
    with pytest.raises(ConfigurationError, match="worker: name is"):
        Worker(cast("FleetBus", Air()), name)
    assert "x" * 253 == Worker(cast("FleetBus", Air()), "x" * 253).name


@pytest.fixture
def told() -> Told:
    """A roster that does not run yet."""
    return Told()


def test_the_example_of_the_documentation() -> None:
    """docs/wire.md shows a beat as it is read, with every field, and says how shards are weighed."""
    (example,) = re.findall(r"```beat\n(.*?)```", WIRE, re.DOTALL)
    beat = read_beat(example.encode(), SHARDS)
    fields = set(msgspec.json.decode(example)) - {"kind"}
    assert {field.encode_name for field in msgspec.structs.fields(Beat)} == fields
    assert (("node-4", 8_200),) == tuple((dead.worker, dead.ago_ms) for dead in beat.dead)
    assert 0 <= weight(beat.id, 0) < 2**64


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"kind": "Decision"},
        {"worker": ""},
        {"worker": "x" * 254},
        {"id": ""},
        {"id": "x" * 65},
        {"number": -1},
        {"number": "1"},
        {"shards": [SHARDS]},
        {"shards": [-1]},
        {"holds": [*range(SHARDS), 0]},
        {"sinceMs": 0.5},
        {"dead": [DEAD] * (DEAD_MAX + 1)},
    ],
    ids=str,
)
def test_what_is_no_beat(changes: dict[str, Any]) -> None:
    """S8: each value has its bounds."""
    assert BEAT == read_beat(msgspec.json.encode(GOOD), SHARDS)
    with pytest.raises(MalformedMessageError, match=r"^beat: "):
        read_beat(msgspec.json.encode(GOOD | changes), SHARDS)


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"\xff", b"[" * 50_000, b" " * (BEAT_BYTES_MAX + 1)]
)
def test_what_is_not_even_json(payload: bytes) -> None:
    """S8: whatever comes is refused with an error of ours."""
    with pytest.raises(MalformedMessageError, match=r"^beat: "):
        read_beat(payload, SHARDS)


class TestRoster:
    """The driver, on a bus that the test controls."""

    async def test_who_starts_alone_does_not_wait(self, told: Told) -> None:
        """Nobody answers, so everything is its own at once."""
        task = asyncio.create_task(told.roster.run())
        await told.roster.greeted.wait()
        assert 0 == len(told.roster.peers)
        task.cancel()

    async def test_a_stranger_is_answered_at_once(
        self, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A newcomer need not wait for the next beat to hear who is there."""
        monkeypatch.setattr(roster_module, "BEAT_INTERVAL_MS", 3_600_000)
        task = asyncio.create_task(told.roster.run())
        first = await told.until(lambda _: True)
        await told.hear(BEAT)
        second = await told.until(lambda _: True)
        assert first.number + 1 == second.number
        task.cancel()

    async def test_nobody_makes_it_chatter(
        self, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """B1: however many strangers there are, there is a pause between two beats."""
        for name in ("BEAT_INTERVAL_MS", "BEAT_PAUSE_MS"):
            monkeypatch.setattr(roster_module, name, 3_600_000)
        task = asyncio.create_task(told.roster.run())
        await told.until(lambda _: True)
        for number in range(100):
            await told.hear(msgspec.structs.replace(BEAT, id=f"{number}"))
            await asyncio.sleep(0)
        assert (100, 0) == (told.changes, told.air.said.qsize())
        task.cancel()

    async def test_a_change_is_said_at_once(
        self, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Others wait for it."""
        monkeypatch.setattr(roster_module, "BEAT_INTERVAL_MS", 3_600_000)
        task = asyncio.create_task(told.roster.run())
        await told.until(lambda beat: not beat.ready)
        told.standing = Standing(ready=True, holds=frozenset({1}))
        told.roster.nudge()
        beat = await told.until(lambda beat: beat.ready)
        assert (1,) == beat.holds
        task.cancel()

    async def test_who_falls_silent_is_dead(self, told: Told) -> None:
        """It is told to everybody, and whoever shares the work hears of the change."""
        task = asyncio.create_task(told.roster.run())
        await told.until(lambda _: True)
        await told.hear(BEAT)
        beat = await told.until(lambda beat: bool(beat.dead))
        assert ["a"] == [dead.worker for dead in beat.dead]
        assert DEAD_AFTER_MS <= beat.dead[0].ago_ms
        assert 2 == told.changes
        task.cancel()

    async def test_who_has_no_connection_calls_nobody_dead(
        self, told: Told, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It hears nobody, and that is not their fault."""
        monkeypatch.setattr(roster_module, "BEAT_INTERVAL_MS", 10)
        task = asyncio.create_task(told.roster.run())
        await told.until(lambda _: True)
        await told.hear(BEAT)
        told.air.connected = False
        await asyncio.sleep(DEAD_AFTER_MS * 1.5 / 1000)  # the silence is what the test is about
        assert told.roster.peers.knows("a")
        told.air.connected = True
        await told.until(lambda beat: bool(beat.dead))
        task.cancel()

    async def test_a_request_is_answered(self, told: Told) -> None:
        """Whoever asks hears the last thing that it said."""
        task = asyncio.create_task(told.roster.run())
        said = await told.until(lambda _: True)
        assert said == read_beat(await told.hear(BEAT), SHARDS)
        task.cancel()

    async def test_the_last_word(self, told: Told) -> None:
        """A goodbye owns nothing, and is followed by silence; without a connection it is not waited for."""
        task = asyncio.create_task(told.roster.run())
        await told.until(lambda _: True)
        task.cancel()
        told.standing = Standing(ready=True, shards=frozenset({1}), holds=frozenset({1}))
        await told.roster.leave()
        beat = await told.until(lambda beat: beat.leaving)
        assert (False, (), ()) == (beat.ready, beat.shards, beat.holds)
        assert told.air.hear is None
        told.air.connected = False
        await told.roster.leave()


async def test_one_too_many_is_not_answered_again_and_again(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1: who is passed over is no reason to speak more often; a newcomer is answered at once."""
    monkeypatch.setattr(sharing, "PEERS_MAX", 1)
    task = asyncio.create_task(told.roster.run())
    await told.roster.greeted.wait()
    await told.until(lambda _: True)
    await told.hear(Beat(worker="first", id="first", number=1))
    assert told.roster._nudged.is_set()
    await told.until(lambda _: True)
    for number in range(3):
        await told.hear(Beat(worker="second", id="second", number=number))
        await told.hear(Beat(worker="gone", id="gone", number=number, leaving=True))
    assert not told.roster._nudged.is_set()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_reading_that_was_given_up_fails() -> None:
    """L1: that is no reason to give up the one that has taken its place."""

    class Failing(Session):
        async def run(self) -> None:
            raise UnavailableError("not now")

    worker = Worker(cast("FleetBus", Air()), "me")
    given_up, present = (Failing(worker._means, frozenset({number})) for number in range(2))
    worker._next = present
    await worker._run_next(given_up)
    assert present is worker._next
    await worker._run_next(present)
    assert worker._next is None
