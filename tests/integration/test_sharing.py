"""Several workers of one fleet: who decides for what, and who takes over.

``Voices`` hears what workers say of themselves, over a connection of its own; a ``Puppet`` says what a test wants.
Waiting is for what was heard, never for time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from tests.integration.support_world import World, make_set

from everynode.core.commands import Decision
from everynode.core.identity import shard_of
from everynode.core.sharing import Beat, share
from everynode.core.values import SetKey
from everynode.errors import MalformedMessageError, UnavailableError
from everynode.runtime import worker as worker_module
from everynode.runtime.clock import SystemClock
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.roster import BEAT_BYTES_MAX, beat_subject, listen, read_beat
from everynode.runtime.settings import Connection
from everynode.runtime.worker import Worker

SHARDS = 16
EVERYTHING = frozenset(range(SHARDS))
WAIT_SECONDS = 40
NODES = 6
SETS = 12


class Voices:
    """What workers say, in the order in which it was heard."""

    def __init__(self, bus: JetStreamBus) -> None:
        """Hear nothing yet."""
        self.bus = bus
        self.said: list[Beat] = []
        self._news = asyncio.Event()

    async def hear(self, payload: bytes) -> bytes:
        """Take in a message."""
        with contextlib.suppress(MalformedMessageError):
            self.said.append(read_beat(payload, SHARDS))
            self._news.set()
        return b""

    def last(self, name: str) -> Beat:
        """What was last said by a worker of this name; nothing at all if it was not heard."""
        nothing = Beat(worker=name, id="nobody", number=0)
        return next((beat for beat in reversed(self.said) if beat.worker == name), nothing)

    def decides(self, name: str) -> frozenset[int]:
        """The shards that a worker says it decides for."""
        return frozenset(self.last(name).shards)

    def divided(self, *names: str) -> bool:
        """All are there, and each decides for its share among them."""
        last = [self.last(name) for name in names]
        ids = {beat.id for beat in last}
        return all(
            beat.ready and share(beat.id, ids - {beat.id}, SHARDS) == frozenset(beat.shards)
            for beat in last
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so; asked again after whatever anybody says."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            names = sorted({beat.worker for beat in self.said})
            raise AssertionError([self.last(name) for name in names]) from None


class Puppet:
    """A worker that says what it is told to say, and decides nothing."""

    def __init__(self, bus: JetStreamBus, worker_id: str = "puppet") -> None:
        """Say nothing yet."""
        self.id = worker_id
        self._bus = bus
        self._numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None

    async def say(self, **fields: Any) -> None:
        """Say something once; a goodbye is the last word."""
        if fields.get("leaving"):
            self.stop()
        beat = Beat(worker="puppet", id=self.id, number=next(self._numbers), ready=True)
        beat = msgspec.structs.replace(beat, **fields)
        await self._bus.announce(beat_subject(self._bus.subjects), msgspec.json.encode(beat))

    async def keep_saying(self, **fields: Any) -> None:
        """Say it again and again."""
        self.stop()
        self._task = asyncio.create_task(self._repeat(fields))

    async def _repeat(self, fields: dict[str, Any]) -> None:
        while True:
            await self.say(**fields)
            await asyncio.sleep(0.1)  # a heart beats by the clock

    def stop(self) -> None:
        """Fall silent."""
        if self._task is not None:
            self._task.cancel()


@pytest_asyncio.fixture
async def voices(connection: Connection, bus: JetStreamBus) -> AsyncIterator[Voices]:
    """What the workers of the test's fleet say."""
    async with await connect(connection, bus.subjects.fleet) as own:
        made = Voices(own)
        await own.serve(beat_subject(own.subjects), made.hear)
        yield made


@pytest_asyncio.fixture
async def puppet(bus: JetStreamBus) -> AsyncIterator[Puppet]:
    """A worker that is none."""
    made = Puppet(bus)
    yield made
    made.stop()


async def populate(world: World, sets: int = SETS) -> None:
    """Let there be nodes, a host and sets in many shards."""
    world.add_nodes(NODES)
    await world.start_host()
    await apply_more(world, "set", sets)


async def apply_more(world: World, stem: str, count: int = SETS) -> None:
    """Apply sets."""
    for number in range(count):
        await world.apply(make_set(f"{stem}-{number}"))


def deciders(world: World) -> dict[SetKey, set[str]]:
    """By which workers there are decisions about each set."""
    found: dict[SetKey, set[str]] = {}
    for _, decision in world.log.of(Decision):
        found.setdefault(decision.set_key, set()).add(decision.worker)
    return found


def assert_no_work_twice(world: World) -> None:
    """S1, S4, S5: each create was decided once, and everything is accounted for."""
    ids = [command.id for command in world.log.creates()]
    assert len(ids) == len(set(ids))
    world.assert_accounted_for()


class TestSteadyState:
    """Nobody comes, nobody goes."""

    async def test_two_workers_share(self, world: World, voices: Voices) -> None:
        """L1, L2, S6: each set has one who decides for it, and nothing is decided twice."""
        first, second = await world.start_worker("first"), await world.start_worker("second")
        await voices.until(lambda: voices.divided("first", "second"))
        await populate(world)
        await world.covered()

        assert (0, 0) == (first.worker.counts.refused, second.worker.counts.refused)
        owners = {"first": first.worker.owned, "second": second.worker.owned}
        for key, names in deciders(world).items():
            assert {
                name for name, owned in owners.items() if shard_of(key, SHARDS) in owned
            } == names
        assert_no_work_twice(world)
        await world.silent()

    async def test_a_worker_reads_only_its_own(self, world: World, voices: Voices) -> None:
        """What concerns other shards does not come to a worker at all."""
        parts = [await world.start_worker(f"worker-{number}") for number in range(3)]
        names = [part.worker.name for part in parts]
        await voices.until(lambda: voices.divided(*names))
        await voices.until(
            lambda: all(voices.last(it).holds == voices.last(it).shards for it in names)
        )
        await populate(world)
        await world.covered()
        for part in parts:
            machine = part.worker._session.machine  # type: ignore[union-attr] # it has one
            shards = {shard_of(key, SHARDS) for key in machine.fleet.sets}
            assert shards <= part.worker.owned
        folded = [part.worker.counts.folded for part in parts]
        # Nodes come to everybody; tombstones and notices to nobody or all.
        assert sum(folded) <= len(world.log.received) + 3 * NODES

    async def test_two_workers_of_one_name(self, world: World) -> None:
        """They are two all the same."""
        one, two = await world.start_worker("twin"), await world.start_worker("twin")
        await populate(world)
        await world.covered()
        assert one.worker.roster.id != two.worker.roster.id
        await world.until(
            lambda: (
                one.worker.owned | two.worker.owned == EVERYTHING
                and not one.worker.owned & two.worker.owned
            ),
            "the shards are divided",
        )
        assert_no_work_twice(world)

    async def test_one_that_is_to_show_everything(
        self, world: World, voices: Voices, connection: Connection
    ) -> None:
        """It knows the statuses of all sets, and decides only for its share."""
        await world.start_worker("other")
        async with await connect(connection, world.name) as own:
            watcher = Worker(own, "watcher", follow_all=True)
            task = asyncio.create_task(watcher.run())
            await voices.until(lambda: voices.divided("other", "watcher"))
            await populate(world)
            await world.covered()
            async with asyncio.timeout(WAIT_SECONDS):
                while not (watcher.settled and SETS == len(watcher.statuses())):
                    await watcher.wait_changed()
            assert {"other", "watcher"} == set().union(*deciders(world).values())
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class TestTakingOver:
    """Somebody goes."""

    async def test_one_is_killed(
        self, world: World, voices: Voices, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """L1, S1, S4, S5: another one reads what it decided for and goes on, and people hear that it is dead."""
        monkeypatch.setattr(worker_module, "SHED_AFTER_MS", 100)
        process = await world.start_worker_process("doomed")
        survivor = await world.start_worker("survivor")
        await voices.until(lambda: voices.divided("doomed", "survivor"))
        await voices.until(lambda: voices.last("survivor").holds == voices.last("survivor").shards)
        handovers = survivor.worker.counts.handovers
        await populate(world)
        await world.covered()
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await apply_more(world, "later")
        await world.covered()

        assert EVERYTHING == survivor.worker.owned
        await voices.until(lambda: bool(voices.last("survivor").dead))
        assert ["doomed"] == [dead.worker for dead in voices.last("survivor").dead]
        assert handovers < survivor.worker.counts.handovers
        assert_no_work_twice(world)
        await world.silent()

    async def test_one_says_goodbye(self, world: World, voices: Voices) -> None:
        """A worker that is stopped in order is no dead one."""
        process = await world.start_worker_process("leaver")
        await world.start_worker("heir")
        await voices.until(lambda: voices.divided("leaver", "heir"))
        process.terminate()
        await process.wait()
        await voices.until(lambda: voices.decides("heir") == EVERYTHING)

        assert voices.last("leaver").leaving
        assert () == voices.last("heir").dead
        await populate(world)
        await world.covered()

    async def test_one_stands_still_and_goes_on(self, world: World, voices: Voices) -> None:
        """S1, S6, L1: it believes in its shards when it wakes; nothing is done twice, and they are divided again."""
        process = await world.start_worker_process("sleeper")
        await world.start_worker("awake")
        await voices.until(lambda: voices.divided("sleeper", "awake"))
        await populate(world)
        await world.covered()
        process.send_signal(signal.SIGSTOP)
        await voices.until(lambda: voices.decides("awake") == EVERYTHING)
        await apply_more(world, "meanwhile")
        await world.covered()
        process.send_signal(signal.SIGCONT)
        await voices.until(lambda: voices.divided("sleeper", "awake"))

        await apply_more(world, "afterwards")
        await world.covered()
        assert () == voices.last("awake").dead
        assert_no_work_twice(world)

    async def test_what_was_on_its_way_is_decided_once(self, world: World) -> None:
        """S1, S4, S5, L1: workers come and go in the middle of the work."""
        world.behave(apply_ms=(5, 25))
        world.add_nodes(60)
        await world.start_host()
        await apply_more(world, "set", 8)
        await world.start_worker("steady")
        for number, pods in enumerate((50, 150, 300)):
            process = await world.start_worker_process(f"guest-{number}")
            await world.until(
                lambda pods=pods: len(world.witness.created) >= pods,  # type: ignore[misc] # bound now
                f"{pods} pods were made",
            )
            process.kill()
            await process.wait()
        await world.covered()
        assert 60 * 8 == len(world.witness.created)
        assert_no_work_twice(world)
        await world.silent()


class TestJoining:
    """Somebody comes."""

    async def test_nobody_waits_while_a_newcomer_reads(self, world: World, voices: Voices) -> None:
        """L1: at every moment each shard is somebody's, and the newcomer gets its share when it has read it."""
        await world.start_worker("old")
        await populate(world)
        await world.covered()
        await voices.until(lambda: voices.decides("old") == EVERYTHING)
        begin = len(voices.said)
        new = await world.start_worker("new")
        await voices.until(lambda: voices.divided("old", "new"))

        for beat in voices.said[begin:]:
            if beat.worker == "new" and not beat.ready:
                assert () == beat.shards == beat.holds
        lost = [beat for beat in voices.said[begin:] if beat.worker == "old"]
        its = frozenset(voices.last("new").holds)
        assert all(EVERYTHING - frozenset(beat.shards) <= its for beat in lost)
        assert its == share(new.worker.roster.id, [voices.last("old").id], SHARDS)
        assert 0 == new.worker.counts.refused

    async def test_what_is_another_ones_is_dropped_later(
        self, world: World, voices: Voices, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a while the old owner does not even read any more what the newcomer decides for."""
        monkeypatch.setattr(worker_module, "SHED_AFTER_MS", 100)
        await world.start_worker("old")
        await voices.until(lambda: voices.decides("old") == EVERYTHING)
        await world.start_worker("new")
        await voices.until(lambda: voices.divided("old", "new"))
        await voices.until(lambda: voices.last("old").holds == voices.last("old").shards)
        await populate(world)
        await world.covered()
        assert_no_work_twice(world)

    async def test_one_that_comes_back_in_time_costs_nothing(
        self, world: World, voices: Voices, puppet: Puppet
    ) -> None:
        """Shards that were lost and come back soon are decided for at once; nothing is read for that."""
        part = await world.start_worker("steady")
        await voices.until(lambda: voices.decides("steady") == EVERYTHING)
        for _ in range(3):
            its = tuple(sorted(share(puppet.id, [part.worker.roster.id], SHARDS)))
            await puppet.say(holds=its)
            await voices.until(lambda its=its: voices.decides("steady") == EVERYTHING - set(its))  # type: ignore[misc] # bound now
            await puppet.say(leaving=True)
            await voices.until(lambda: voices.decides("steady") == EVERYTHING)
        assert 0 == part.worker.counts.handovers


class TestOthers:
    """What is heard is not trusted, and what is not heard is not waited for."""

    async def test_garbage(self, world: World, bus: JetStreamBus, voices: Voices) -> None:
        """S8, L3: what is no beat is counted and passed over."""
        part = await world.start_worker("steady")
        await voices.until(lambda: voices.decides("steady") == EVERYTHING)
        good = msgspec.json.encode(Beat(worker="x", id="x", number=1))
        garbage = [
            b"",
            b"\xff\xfe",
            b"{}",
            b"[" * 100_000,
            good.replace(b'"v":1', b'"v":2'),
            good.replace(b'"shards":[]', b'"shards":[16]'),
            good.replace(b'"holds":[]', b'"holds":[-1]'),
            good.replace(b'"worker":"x"', b'"worker":""'),
            good.replace(b'"number":1', b'"number":"1"'),
            good.replace(b'"WorkerBeat"', b'"Decision"'),
            good + b" " * BEAT_BYTES_MAX,
        ]
        assert good not in garbage
        for payload in garbage:
            await bus.announce(beat_subject(bus.subjects), payload)
        await world.until(
            lambda: part.worker.roster.ignored == len(garbage), "all garbage was counted"
        )
        assert EVERYTHING == part.worker.owned
        await populate(world)
        await world.covered()

    async def test_one_that_does_not_let_go(
        self, world: World, voices: Voices, puppet: Puppet
    ) -> None:
        """L1: a worker that goes on saying that it decides for what is not its own is waited for only briefly."""
        await puppet.keep_saying(shards=tuple(range(SHARDS)))
        part = await world.start_worker("patient")
        mine = share(part.worker.roster.id, [puppet.id], SHARDS)
        assert mine
        await voices.until(lambda: voices.decides("patient") >= mine)

    async def test_one_that_never_reads_what_is_its_own(
        self, world: World, voices: Voices, puppet: Puppet
    ) -> None:
        """L1: who only says that it is ready takes nothing away; once it is silent, nobody counts on it."""
        part = await world.start_worker("steady")
        await voices.until(lambda: voices.decides("steady") == EVERYTHING)
        await puppet.keep_saying()
        await voices.until(lambda: voices.last("puppet").ready)
        assert EVERYTHING == part.worker.owned
        puppet.stop()
        await voices.until(lambda: bool(voices.last("steady").dead))
        assert EVERYTHING == part.worker.owned

    async def test_one_that_is_slow_to_read_what_is_its_own(
        self, world: World, voices: Voices, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """L1: what is meant for it is kept by who has it until it holds that itself, however long that takes."""
        monkeypatch.setattr(worker_module, "SHED_AFTER_MS", 0)
        part = await world.start_worker("steady")
        await voices.until(lambda: voices.decides("steady") == EVERYTHING)
        its = share(puppet.id, [part.worker.roster.id], SHARDS)
        await puppet.keep_saying(holds=(min(its),))
        await voices.until(lambda: len(voices.last("steady").holds) < SHARDS)
        assert EVERYTHING - {min(its)} == part.worker.owned

    async def test_shards_come_back_while_it_reads_for_others(
        self, world: World, voices: Voices, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """L1: what it has and is its own again is not lost for shards that it does not have yet."""
        monkeypatch.setattr(worker_module, "SHED_AFTER_MS", 0)
        part = await world.start_worker("steady")
        own_id = part.worker.roster.id
        await voices.until(lambda: voices.decides("steady") == EVERYTHING)
        await puppet.keep_saying(holds=tuple(its := share(puppet.id, [own_id], SHARDS)))
        await voices.until(lambda: frozenset(voices.last("steady").holds) == EVERYTHING - its)
        monkeypatch.setattr(worker_module, "SHED_AFTER_MS", 60_000)
        guest = Puppet(puppet._bus, "guest")
        await guest.keep_saying(holds=tuple(share(guest.id, [own_id], SHARDS)))
        left = share(own_id, [puppet.id, guest.id], SHARDS)
        await voices.until(lambda: voices.decides("steady") == left)
        read_state, begun, go_on = part.bus.read_state, asyncio.Semaphore(0), asyncio.Semaphore(0)

        async def slow(subjects: list[str]) -> AsyncIterator[Any]:
            begun.release()
            await go_on.acquire()
            async for chunk in read_state(subjects):
                yield chunk

        monkeypatch.setattr(part.bus, "read_state", slow)
        await puppet.say(leaving=True)
        await begun.acquire()
        await guest.say(leaving=True)
        go_on.release()
        await begun.acquire()  # for all that is its own now
        assert EVERYTHING - its == part.worker.owned
        go_on.release()
        await voices.until(lambda: voices.decides("steady") == EVERYTHING)
        assert 2 == part.worker.counts.handovers

    async def test_reading_for_others_fails_for_a_while(
        self, world: World, voices: Voices, puppet: Puppet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """L1: it is tried again, and what the worker has already goes on meanwhile."""
        its = tuple(range(SHARDS))[::2]
        await puppet.keep_saying(holds=its, shards=its)
        part = await world.start_worker("heir")
        read_state, tries = part.bus.read_state, itertools.count(1)
        await voices.until(lambda: bool(voices.decides("heir")))
        session = part.worker._session

        def unavailable_twice(subjects: list[str]) -> Any:
            if next(tries) <= 2:
                assert part.worker._session is session
                raise UnavailableError("not now")
            return read_state(subjects)

        monkeypatch.setattr(worker_module, "RESTART_DELAY_MS", 50)
        monkeypatch.setattr(part.bus, "read_state", unavailable_twice)
        puppet.stop()
        await voices.until(lambda: voices.decides("heir") == EVERYTHING)
        assert next(tries) >= 4
        assert 0 == part.worker.counts.restarts

    async def test_who_only_listens(self, world: World, bus: JetStreamBus) -> None:
        """People see who is there without being taken for a worker."""
        part = await world.start_worker("steady")
        await world.until(lambda: part.worker.owned == EVERYTHING, "it has started")
        (beat,) = await listen(bus, SystemClock(), 700)
        assert ("steady", True, list(range(SHARDS))) == (beat.worker, beat.ready, list(beat.shards))
        assert EVERYTHING == part.worker.owned
