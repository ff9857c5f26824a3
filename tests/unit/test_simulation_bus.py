"""The simulated log keeps JetStream's promises, as the real one does in tests/integration: writing and reading."""

import asyncio
from contextlib import aclosing

import pytest
from tests.unit.support_simulation import Simulation, simulation, take

from everynode.errors import (
    ConfigurationError,
    InvariantError,
    MalformedMessageError,
    OutcomeUnknownError,
    StaleError,
    UnavailableError,
)
from everynode.ports import Outgoing, Received
from everynode.runtime.bus import FleetBus
from everynode.runtime.link import API_TIMEOUT_MS
from everynode.runtime.publishing import PUBLISH_TIMEOUT_MS
from everynode.testing.simulation.faults import BusFaults
from everynode.testing.simulation.streams import matcher


class TestPublish:
    """What `publish` and `publish_fenced` promise."""

    def test_is_the_protocol(self) -> None:
        """The simulated bus can stand wherever a fleet's log is asked for (mypy checks this line)."""
        with simulation() as sim:
            bus: FleetBus = sim.bus
            assert sim.run(bus.publish([])) == 0

    def test_order(self) -> None:
        """More messages than a batch takes are stored in their order, and the last sequence is returned."""
        with simulation() as sim:
            messages = sim.nodes(2_500)
            assert sim.run(sim.bus.publish(messages)) == 2_500
            stored = [(one.subject, one.payload) for one in sim.server.history]
            assert stored == [(one.subject, one.payload) for one in messages]
            assert [one.sequence for one in sim.server.history] == list(range(1, 2_501))

    @pytest.mark.parametrize("count", [1, 2, 1_000])
    def test_fence_holds(self, count: int) -> None:
        """A decision made on a stale view is refused whole, and the last sequence is named (S6)."""
        with simulation() as sim:
            messages = [Outgoing(sim.decision(), b"x"), *sim.commands(count - 1)]
            assert sim.run(sim.bus.publish_fenced(messages, 0)) == count
            with pytest.raises(StaleError) as stale:
                sim.run(sim.bus.publish_fenced(messages, 0))
            assert stale.value.last_sequence == 1
            assert len(sim.server.history) == count
            assert sim.run(sim.bus.publish_fenced(messages, 1)) == 2 * count

    def test_fence_is_of_the_first_subject(self) -> None:
        """What others write to other subjects does not make a decision stale."""
        with simulation() as sim:
            one, other = Outgoing(sim.decision("a"), b""), Outgoing(sim.decision("b"), b"")
            assert sim.run(sim.bus.publish_fenced([one], 0)) == 1
            assert sim.run(sim.bus.publish_fenced([other, *sim.commands(1)], 0)) == 3
            assert sim.run(sim.bus.publish_fenced([one], 1)) == 4

    @pytest.mark.parametrize("seed", range(5))
    def test_one_of_many_racing_wins(self, seed: int) -> None:
        """Of batches that race with one expectation exactly one is stored (S6)."""
        with simulation(seed, BusFaults(race_unnamed=0.5)) as sim:
            message = Outgoing(sim.decision(), b"")
            tasks = []
            for number in range(20):
                process, bus = sim.another(f"p{number}")
                fenced = bus.publish_fenced([message, *sim.commands(1, start=number)], 0)
                tasks.append(process.spawn(fenced))
            sim.wait(lambda: all(task.done() for task in tasks))
            errors = [task.exception() for task in tasks]
            assert errors.count(None) == 1
            stale = [error for error in errors if isinstance(error, StaleError)]
            assert len(stale) == 19
            assert {error.last_sequence for error in stale} == {1, None}
            assert len(sim.server.history) == 2

    def test_too_large(self) -> None:
        """A message that is too large for the server is refused before it is sent."""
        with simulation() as sim:
            too_large = Outgoing(sim.decision(), b"x" * (1024 * 1024 - 100))
            with pytest.raises(MalformedMessageError, match=r"decision.*at most"):
                sim.run(sim.bus.publish([too_large]))
            with pytest.raises(MalformedMessageError, match=r"decision.*at most"):
                sim.run(sim.bus.publish_fenced([too_large], 0))

    @pytest.mark.parametrize("count", [0, 1_001])
    def test_fenced_count(self, count: int) -> None:
        """A fenced batch that cannot be whole is a bug of the caller's (B1)."""
        with simulation() as sim:
            with pytest.raises(InvariantError, match="1000 messages"):
                sim.run(sim.bus.publish_fenced(sim.commands(count), 0))
            assert sim.server.history == []

    def test_nobody_listens(self) -> None:
        """A message that no stream takes is not stored, nor is anything in its batch."""
        with simulation() as sim:
            elsewhere = Outgoing("everynode.elsewhere.node.b.n", b"")
            with pytest.raises(UnavailableError):
                sim.run(sim.bus.publish([*sim.nodes(1), elsewhere]))
            assert sim.server.history == []


class TestFaults:
    """What writers are told when something goes wrong: what is true, as far as it is known."""

    def test_server_away(self) -> None:
        """Without a server everything says so at once, and works again when it is back."""
        with simulation() as sim:
            bus = sim.bus
            sim.run(bus.publish(sim.nodes(3)))
            sim.server.outage(1_000)
            before_ms = sim.loop.now_ms
            for call in (
                bus.publish(sim.nodes(3)),
                bus.publish_fenced(sim.nodes(2), 0),
                bus.last(sim.decision()),
                bus.announce("everynode.x", b""),
                bus.request("everynode.x", b"", 100),
                bus.log_position(),
            ):
                with pytest.raises(UnavailableError):
                    sim.run(call)
            assert before_ms == sim.loop.now_ms
            sim.wait(lambda: bus.connected)
            assert sim.loop.now_ms >= before_ms + 1_000
            assert sim.run(bus.publish(sim.nodes(3))) == 6

    def test_server_dies_before_it_answers(self) -> None:
        """Who waits for an answer from a server that dies is told at once that the outcome is unknown."""
        with simulation() as sim:
            task = sim.process.spawn(sim.bus.publish(sim.nodes(1)))
            sim.wait(lambda: sim.process.steps == 1)
            sim.server.outage(0)
            before_ms = sim.loop.now_ms
            sim.wait(task.done)
            assert before_ms == sim.loop.now_ms
            assert isinstance(task.exception(), OutcomeUnknownError)
            sim.let_pass(1_000)  # the server is back at once; what was on its way is lost
            assert sim.server.history == []

    @pytest.mark.parametrize(
        ("faults", "stored_before", "stored_after"),
        [
            (BusFaults(answer_lost=1), 1, 1),
            (BusFaults(request_lost=1), 0, 0),
            (BusFaults(request_late=1), 0, 1),
        ],
    )
    def test_no_answer(self, faults: BusFaults, stored_before: int, stored_after: int) -> None:
        """Without an answer the outcome is unknown: it was stored, or not, or it will be."""
        with simulation(faults=faults) as sim:
            before_ms = sim.loop.now_ms
            with pytest.raises(OutcomeUnknownError):
                sim.run(sim.bus.publish(sim.nodes(1)))
            assert sim.loop.now_ms - before_ms == PUBLISH_TIMEOUT_MS
            assert len(sim.server.history) == stored_before
            sim.let_pass(60_000)
            assert len(sim.server.history) == stored_after

    def test_not_sent(self) -> None:
        """What could not be sent is not stored, and that is known."""
        with simulation(faults=BusFaults(request_refused=1)) as sim:
            with pytest.raises(UnavailableError):
                sim.run(sim.bus.publish(sim.nodes(1)))
            sim.let_pass(60_000)
            assert sim.server.history == []

    def test_a_cut_keeps_the_order(self) -> None:
        """What was on its way at the cut comes before what was sent during it, as over any one connection."""
        with simulation(faults=BusFaults(latency_ms_min=5, latency_ms_max=5)) as sim:
            connection, arrived = sim.bus.connection, list[str]()
            connection.to_server(lambda: arrived.append("before"))
            sim.server.cut(sim.process, 100, "to")
            connection.to_server(lambda: arrived.append("during"))
            connection.tell(lambda: arrived.append("told"))
            sim.let_pass(1_000)
            assert ["before", "during", "told"] == arrived

    @pytest.mark.parametrize("is_lost", [False, True])
    def test_late_does_not_overtake(self, is_lost: bool) -> None:
        """A request that was given up comes to nothing if a later one was heard, unless over another connection."""
        with simulation(faults=BusFaults(request_late=1, late_ms_max=600_000)) as sim:
            with pytest.raises(OutcomeUnknownError):
                sim.run(sim.bus.publish(sim.nodes(1)))
            sim.server.faults = sim.bus.connection._network.faults = BusFaults()
            if is_lost:
                sim.bus.connection.lose()
                sim.let_pass(1_000)
            assert 1 == sim.run(sim.bus.publish(sim.nodes(1)))
            sim.let_pass(700_000)
            assert (2 if is_lost else 1) == len(sim.server.history)

    @pytest.mark.parametrize(
        ("direction", "duration_ms", "stored"),
        [("to", 10_000, 1), ("to", 60_000, 0), ("from", 10_000, 1), ("both", 60_000, 0)],
    )
    def test_cut(self, direction: str, duration_ms: int, stored: int) -> None:
        """A cut holds back what is sent; it comes late, or never if the connection is given up meanwhile."""
        with simulation() as sim:
            sim.server.cut(sim.process, duration_ms, direction)  # type: ignore[arg-type]
            with pytest.raises(OutcomeUnknownError):
                sim.run(sim.bus.publish(sim.nodes(1)))
            sim.let_pass(2 * duration_ms)
            assert len(sim.server.history) == stored
            assert sim.run(sim.bus.publish(sim.nodes(1))) == stored + 1

    def test_reading_without_an_answer(self) -> None:
        """A question that may be asked again is only unavailable."""
        with simulation(faults=BusFaults(answer_lost=1)) as sim:
            before_ms = sim.loop.now_ms
            with pytest.raises(UnavailableError):
                sim.run(sim.bus.log_position())
            assert sim.loop.now_ms - before_ms == API_TIMEOUT_MS

    def test_killed(self) -> None:
        """What a process had sent when it was killed is stored; its bus does nothing any more (S4)."""
        with simulation() as sim:
            victim, bus = sim.another()
            sent = victim.spawn(bus.publish(sim.nodes(1)))
            sim.wait(lambda: victim.steps == 1)
            victim.kill()
            sim.let_pass(1_000)
            assert len(sim.server.history) == 1
            assert not sent.done()
            with pytest.raises(UnavailableError):
                sim.run(bus.publish(sim.nodes(1)))
            assert len(sim.server.history) == 1

    def test_standstill(self) -> None:
        """A process that stood still too long may not know what it would have been told in time."""
        outcomes = set()
        for seed in range(10):
            with simulation(seed) as sim:
                task = sim.process.spawn(sim.bus.publish(sim.nodes(1)))
                sim.wait(lambda sim=sim: sim.process.steps == 1)  # type: ignore[misc]
                sim.process.pause()
                sim.let_pass(PUBLISH_TIMEOUT_MS + 1_000)
                assert not task.done()
                sim.process.resume()
                sim.wait(task.done)
                outcomes.add(type(task.exception()))
                assert len(sim.server.history) == 1
        assert outcomes == {OutcomeUnknownError, type(None)}

    def test_disk_full(self) -> None:
        """A server without space stores nothing and says so (S4)."""
        with simulation() as sim:
            sim.server.fill_disk(1_000)
            with pytest.raises(UnavailableError, match="no space"):
                sim.run(sim.bus.publish(sim.nodes(2)))
            assert sim.server.history == []
            sim.let_pass(1_000)
            assert sim.run(sim.bus.publish(sim.nodes(2))) == 2


class TestReading:
    """What `last`, `read_state`, `read_log` and the measures promise."""

    @staticmethod
    async def state(sim: Simulation, subjects: list[str]) -> list[Received]:
        """Read STATE."""
        return [one async for chunk in sim.bus.read_state(subjects) for one in chunk]

    def test_last(self) -> None:
        """What was just written is read; what LOG has let go of is read from STATE, and a fence expects 0."""
        with simulation() as sim:
            subject = f"{sim.server.subjects.prefix}.daemonset.1.ns.a"
            assert sim.run(sim.bus.last(subject)) is None
            for number in (1, 2, 3):
                sim.run(sim.bus.publish([Outgoing(subject, b"%d" % number)]))
                last = sim.run(sim.bus.last(subject))
                assert (last.sequence, last.payload) == (number, b"%d" % number)
                assert last.time_ms == sim.run(sim.bus.time_of(number))
            sim.let_pass(60_000)
            sim.server.age_out(older_than_ms=1_000)
            assert sim.run(sim.bus.log_position()).first_sequence == 4
            last = sim.run(sim.bus.last(subject))
            assert (last.sequence, last.payload) == (0, b"3")
            assert sim.run(sim.bus.publish_fenced([Outgoing(subject, b"4")], 0)) == 4

    def test_state(self) -> None:
        """Each subject comes once, with its last message and that one's place in LOG, in LOG's order."""
        with simulation(faults=BusFaults(chunk_cut=0.5)) as sim:
            sim.run(sim.bus.publish([Outgoing(sim.decision(), b"not kept")]))
            sim.run(sim.bus.publish(sim.nodes(3_000)))
            sim.run(sim.bus.publish(sim.nodes(1_000)))
            sim.let_pass(1_000)
            messages = sim.run(self.state(sim, sim.node_subjects))
            assert [m.sequence for m in messages] == [*range(1_002, 3_002), *range(3_002, 4_002)]
            assert len({m.subject for m in messages}) == 3_000
            assert sim.run(self.state(sim, [f"{sim.server.subjects.prefix}.pod.>"])) == []

    def test_state_lags(self) -> None:
        """STATE is behind LOG, for as long as it stands still."""
        with simulation() as sim:
            sim.server.stop_state(10_000)
            sim.run(sim.bus.publish(sim.nodes(2)))
            sim.let_pass(9_000)
            assert sim.run(self.state(sim, sim.node_subjects)) == []
            sim.let_pass(2_000)
            assert [m.sequence for m in sim.run(self.state(sim, sim.node_subjects))] == [1, 2]

    def test_state_while_the_server_goes(self) -> None:
        """An outage in the middle only makes reading STATE take longer (L1)."""
        with simulation(faults=BusFaults(chunk_cut=1)) as sim:
            sim.run(sim.bus.publish(sim.nodes(500)))
            sim.let_pass(1_000)

            async def read() -> set[str]:
                subjects: set[str] = set()
                async for chunk in sim.bus.read_state(sim.node_subjects):
                    if not subjects:
                        sim.server.outage(2_000)
                    subjects |= {m.subject for m in chunk}
                return subjects

            assert len(sim.run(read())) == 500

    def test_log(self) -> None:
        """LOG is read from a sequence on to its end."""
        with simulation(faults=BusFaults(chunk_cut=0.5)) as sim:
            sim.run(sim.bus.publish([*sim.nodes(1_500), *sim.commands(5)]))

            async def read() -> list[int]:
                chunks = sim.bus.read_log(sim.node_subjects, 100)
                return [one.sequence async for chunk in chunks for one in chunk]

            assert sim.run(read()) == list(range(100, 1_501))

    def test_position(self) -> None:
        """Where LOG begins and ends is known, and which message was the first at a time."""
        with simulation() as sim:
            assert sim.run(sim.bus.log_position()) == (1, 0, 0)
            assert sim.run(sim.bus.sequence_at(0)) == 1
            assert sim.run(sim.bus.time_of(1)) is None
            times = []
            for number in range(5):
                sim.let_pass(1_000)
                sim.run(sim.bus.publish(sim.nodes(1, start=number)))
                times.append(sim.server.history[-1].time_ms)
            assert sim.run(sim.bus.log_position()) == (1, 5, times[-1])
            assert [sim.run(sim.bus.sequence_at(time)) for time in times] == [1, 2, 3, 4, 5]
            assert sim.run(sim.bus.sequence_at(times[1] + 1)) == 3
            assert sim.run(sim.bus.sequence_at(times[-1] + 1)) == 6

    def test_backend_recorded(self) -> None:
        """A name is recorded once; the same backend is welcome again, another one is refused."""
        with simulation() as sim:
            sim.run(sim.bus.record_backend("b", "cluster-1"))
            sim.run(sim.bus.record_backend("b", "cluster-1"))
            with pytest.raises(ConfigurationError, match=r"is cluster-1.* cluster-2"):
                sim.run(sim.bus.record_backend("b", "cluster-2"))

    @pytest.mark.parametrize(
        ("pattern", "subject", "expected"),
        [
            ("a.b.>", "a.b.c", True),
            ("a.b.>", "a.b.c.d", True),
            ("a.b.>", "a.b", False),
            ("a.*.c", "a.b.c", True),
            ("a.*.c", "a.b.c.d", False),
            ("a.*.c", "a.c", False),
            ("a.b", "a.b", True),
            ("a.b", "a.b.c", False),
        ],
    )
    def test_subjects(self, pattern: str, subject: str, expected: bool) -> None:
        """Wildcards match as the server's do."""
        assert matcher((pattern,))(subject) is expected
        assert matcher(("x.y", pattern, "a.x.>"))(subject) is expected


class TestBeside:
    """What is said beside the log."""

    def test_request(self) -> None:
        """A request is answered by who serves its subject; nobody, and nobody in time, are the same."""
        with simulation() as sim:
            _, other = sim.another()

            async def twice(payload: bytes) -> bytes:
                return payload * 2

            async def never(_: bytes) -> bytes:
                await asyncio.Event().wait()
                return b""

            sim.run(other.serve("x.twice", twice))
            sim.run(other.serve("x.never", never))
            sim.let_pass(10)
            assert sim.run(sim.bus.request("x.twice", b"ab", 2_000)) == b"abab"
            for subject in ("x.never", "x.nobody"):
                with pytest.raises(UnavailableError):
                    sim.run(sim.bus.request(subject, b"", 500))
            sim.run(other.stop_serving("x.twice"))
            sim.run(other.stop_serving("x.twice"))
            sim.let_pass(10)
            with pytest.raises(UnavailableError, match="nobody"):
                sim.run(sim.bus.request("x.twice", b"", 500))

    def test_announce(self) -> None:
        """Who serves a subject hears what is announced there, in the process that serves it."""
        with simulation() as sim:
            heard: list[bytes] = []
            at_once: list[bytes] = []
            other, bus = sim.another()

            async def hear(payload: bytes) -> bytes:
                at_once.append(payload)
                assert at_once == [payload]
                await asyncio.sleep(0.01)
                at_once.clear()
                heard.append(payload)
                if payload == b"1":
                    raise UnavailableError("no answer")
                return b""

            sim.run(bus.serve("x", hear))
            sim.let_pass(10)
            steps = other.steps
            for payload in (b"1", b"2", b"3"):
                sim.run(sim.bus.announce("x", payload))
            sim.wait(lambda: len(heard) == 3)
            assert heard == [b"1", b"2", b"3"]
            assert other.steps >= steps + 3
            other.kill()
            sim.run(sim.bus.announce("x", b"4"))
            sim.let_pass(1_000)
            assert heard == [b"1", b"2", b"3"]

    def test_after_an_outage(self) -> None:
        """Who serves goes on when the server is back."""
        with simulation() as sim:

            async def echo(payload: bytes) -> bytes:
                return payload

            sim.run(sim.bus.serve("x", echo))
            sim.server.outage(1_000)
            sim.wait(lambda: sim.bus.connected)
            sim.let_pass(10)
            assert sim.run(sim.bus.request("x", b"1", 500)) == b"1"


class TestHistory:
    """What checkers read of the log."""

    def test_what_was_lost(self) -> None:
        """What the log lost stays in its history; a sequence that goes back says so."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.nodes(5)))
            sim.let_pass(100)
            assert sim.server.truncate(2) == 2
            sim.wait(lambda: sim.bus.connected)
            assert sim.run(sim.bus.log_position()).last_sequence == 3
            assert sim.run(sim.bus.publish(sim.nodes(1, start=9))) == 4
            assert [one.sequence for one in sim.server.history] == [1, 2, 3, 4, 5, 4]
            sim.let_pass(100)
            kept = sim.run(TestReading.state(sim, sim.node_subjects))
            assert [one.payload for one in kept] == [b"0", b"1", b"2", b"9"]

    def test_state_may_keep_what_the_log_lost(self) -> None:
        """Without its own loss STATE takes over nothing until LOG has grown past it."""
        with simulation() as sim:
            sim.run(sim.bus.publish(sim.nodes(5)))
            sim.let_pass(100)
            sim.server.truncate(3, state_too=False)
            sim.wait(lambda: sim.bus.connected)
            sim.run(sim.bus.publish(sim.nodes(3, start=10)))
            sim.let_pass(100)
            kept = sim.run(TestReading.state(sim, sim.node_subjects))
            assert [one.sequence for one in kept] == [1, 2, 3, 4, 5]
            sim.run(sim.bus.publish(sim.nodes(1, start=20)))
            sim.let_pass(100)
            kept = sim.run(TestReading.state(sim, sim.node_subjects))
            assert [one.sequence for one in kept] == [1, 2, 3, 4, 5, 6]
            assert kept[-1].payload == b"20"

    @pytest.mark.parametrize("seed", range(5))
    def test_garbage(self, seed: int) -> None:
        """What somebody else publishes is on the log like everything else, and goes to whoever reads (S8)."""
        with simulation(seed) as sim:
            sim.run(sim.bus.publish([*sim.nodes(3), *sim.commands(3)]))
            spoiled = sim.server.garbage()
            assert sim.server.log.last(spoiled.subject) == spoiled

            async def follow() -> list[int]:
                async with aclosing(sim.bus.follow(["everynode.>"], 1)) as chunks:
                    return await take(chunks, 7)

            assert sim.run(follow()) == [1, 2, 3, 4, 5, 6, 7]
