"""The event loop of simulations: virtual time, order from a seed, processes that die and stand still."""

import asyncio
import gc
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from everynode.errors import InvariantError
from everynode.testing.simulation import marks
from everynode.testing.simulation.loop import Ended, Process, VirtualLoop

STEPS_MAX = 100_000


def make(seed: int = 1) -> VirtualLoop:
    """A loop whose choices come from a seed."""
    return VirtualLoop(random.Random(seed))


def exhaust(loop: VirtualLoop) -> Ended:
    """Run until nothing happens any more."""
    return loop.run_until(lambda: False, steps_max=STEPS_MAX)


def turns(seed: int) -> list[tuple[str, int]]:
    """Let three processes take five turns each; returns who took which."""
    taken: list[tuple[str, int]] = []

    async def take(name: str) -> None:
        for turn in range(5):
            taken.append((name, turn))
            await asyncio.sleep(0)

    with make(seed) as loop:
        for name in ("a", "b", "c"):
            loop.process(name).spawn(take(name))
        assert exhaust(loop) == "idle"
    return taken


class TestOrder:
    """Who runs when."""

    def test_equal_seeds(self) -> None:
        """Equal seeds give equal orders, and other seeds others."""
        orders = {tuple(turns(seed)) for seed in range(10)}
        assert turns(3) == turns(3)
        assert len(orders) > 5

    def test_within_a_process(self) -> None:
        """Callbacks of one process keep their order, whatever the seed."""
        for seed in range(10):
            order: list[int] = []
            with make(seed) as loop:
                first, other = loop.process("first"), loop.process("other")
                other.spawn(asyncio.sleep(0))
                for number in range(20):
                    first.context.copy().run(loop.call_soon, order.append, number)
                exhaust(loop)
            assert order == list(range(20))

    def test_children_belong_to_the_process(self) -> None:
        """What a task starts belongs to the process of that task."""
        with make() as loop:
            process = loop.process("p")

            async def grandchild() -> None:
                await asyncio.sleep(0.1)

            async def child() -> None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(grandchild())

            process.spawn(child())
            exhaust(loop)
            assert process.steps == loop.steps > 3

    def test_digest(self) -> None:
        """The digest is that of the run: equal for equal seeds."""

        def digest(seed: int) -> int:
            with make(seed) as loop:
                for name in "abc":
                    loop.process(name).spawn(asyncio.sleep(0.5))
                    loop.process(name).spawn(asyncio.sleep(0))
                exhaust(loop)
                return loop.digest

        assert digest(1) == digest(1)
        assert len({digest(seed) for seed in range(20)}) > 10

    def test_sets_of_tasks(self) -> None:
        """A group keeps its tasks in a set: their hashes are those of their numbers, in each run the same."""

        def hashes() -> list[int]:
            with make() as loop:
                tasks = [loop.process("p").spawn(asyncio.sleep(0)) for _ in range(5)]
                exhaust(loop)
                return [hash(task) for task in tasks]

        before = hashes()
        _in_the_way = [object() for _ in range(1_000)]
        assert before == hashes()
        assert len(set(before)) == 5

    def test_module_random(self) -> None:
        """The module's own random numbers come from the seed meanwhile, and go on as before afterwards."""
        random.seed(99)
        expected = random.random()
        random.seed(99)
        drawn = []
        for _ in range(2):
            with make(5):
                drawn.append(random.random())
        assert drawn[0] == drawn[1]
        assert random.random() == expected


class TestTime:
    """Virtual time."""

    def test_sleep(self) -> None:
        """Sleepers wake up in the order of their times, and nobody waits in earnest."""
        woken: list[str] = []

        async def sleep(name: str, seconds: float) -> None:
            await asyncio.sleep(seconds)
            woken.append(name)

        with make() as loop:
            for name, seconds in (("day", 86_400.0), ("second", 1.0), ("hour", 3_600.0)):
                loop.process(name).spawn(sleep(name, seconds))
            exhaust(loop)
            assert 86_400 <= loop.time() < 86_401
        assert woken == ["second", "hour", "day"]

    def test_timeout(self) -> None:
        """Timeouts, groups, queues and events of asyncio work unchanged."""
        seen: list[object] = []

        async def put(queue: asyncio.Queue[int]) -> None:
            await asyncio.sleep(1)
            await queue.put(7)

        async def main() -> None:
            queue: asyncio.Queue[int] = asyncio.Queue()
            async with asyncio.TaskGroup() as group:
                group.create_task(put(queue))
                seen.append(await queue.get())
            try:
                async with asyncio.timeout(2):
                    await asyncio.Event().wait()
            except TimeoutError:
                seen.append(round(asyncio.get_running_loop().time()))

        with make() as loop:
            loop.process("p").spawn(main())
            exhaust(loop)
            assert loop.failures() == []
        assert seen == [7, 3]

    def test_how_it_ends(self) -> None:
        """It says why it came back."""

        async def tick() -> None:
            while True:  # noqa: ASYNC110 - nothing is waited for
                await asyncio.sleep(1)

        with make() as loop:
            process = loop.process("p")
            assert exhaust(loop) == "idle"
            process.spawn(tick())
            assert loop.run_until(lambda: process.steps >= 7, steps_max=100) == "done"
            assert process.steps == 7
            assert loop.run_until(lambda: False, steps_max=10) == "steps"
            end_ms = loop.now_ms + 10_000
            assert loop.run_until(lambda: False, steps_max=1_000, until_ms=end_ms) == "time"
            assert loop.now_ms == end_ms

    def test_cancelled_timers(self) -> None:
        """Timers that were cancelled do not pile up (B1)."""

        async def hurry() -> None:
            for _ in range(5_000):
                async with asyncio.timeout(3_600):
                    await asyncio.sleep(0)

        with make() as loop:
            loop.process("p").spawn(hurry())
            exhaust(loop)
            assert len(loop._timers) < 2_000

    def test_clock(self) -> None:
        """Each process has a clock of its own, which can be wrong, jump, and run too fast."""
        with make() as loop:
            right, wrong = loop.process("right"), loop.process("wrong")
            wrong.set_clock(-5_000)
            start_ms = loop.now_ms
            assert (right.clock.now_ms(), wrong.clock.now_ms()) == (start_ms, start_ms - 5_000)
            wrong.set_clock(0, rate=2.0)
            right.spawn(right.clock.sleep_ms(1_000))
            exhaust(loop)
            passed_ms = loop.now_ms - start_ms
            assert passed_ms >= 1_000
            assert abs(right.clock.now_ms() - start_ms - passed_ms) <= 1
            assert abs(wrong.clock.now_ms() - start_ms - 2 * passed_ms) <= 1


class TestKilled:
    """Processes that are killed or stopped."""

    @staticmethod
    def victim(steps: list[str]) -> Callable[[], Any]:
        """Something with a lot to clean up."""

        async def generate() -> AsyncGenerator[int]:
            try:
                while True:
                    await asyncio.sleep(1)
                    yield 1
            finally:
                steps.append("generator")

        async def child() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                steps.append("child")

        async def main() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(child())
                    async for number in generate():
                        assert number == 1
                        steps.append("step")
            finally:
                await asyncio.sleep(1)
                steps.append("main")

        return main

    def test_nothing_runs_again(self) -> None:
        """After SIGKILL no callback of the process runs, not even what cleans up; others go on."""
        steps: list[str] = []
        others: list[float] = []
        with make() as loop:
            process = loop.process("victim")
            process.spawn(self.victim(steps)())

            async def other() -> None:
                await asyncio.sleep(60)
                others.append(loop.time())

            loop.process("other").spawn(other())
            loop.run_until(lambda: len(steps) == 2, steps_max=1_000)
            process.kill()
            assert exhaust(loop) == "idle"
            gc.collect()
            assert steps == ["step", "step"]
            assert len(others) == 1
            assert not process.alive
            assert loop.failures() == []
            with pytest.raises(RuntimeError, match="dead"):
                process.spawn(other())

    def test_killed_with_work_waiting(self) -> None:
        """What was ready to run when the process was killed does not run."""
        steps: list[str] = []

        async def work() -> None:
            steps.append("ran")

        with make() as loop:
            process = loop.process("victim")
            process.spawn(work())
            process.pause()
            process.kill()
            process.kill()
            process.resume()
            assert exhaust(loop) == "idle"
        assert steps == []

    def test_the_end_is_quiet(self) -> None:
        """The end of a run has no effect, and leaves no warning behind, whatever was going on."""
        steps: list[str] = []
        with make() as loop:
            dead, living = loop.process("dead"), loop.process("living")
            for process in (dead, living):
                process.spawn(self.victim(steps)())
            loop.run_until(lambda: len(steps) == 4, steps_max=1_000)
            dead.kill()
            living.spawn(self.victim(steps)())  # was never begun
            before = loop.steps
        assert loop.steps == before
        assert loop.is_closed()

    def test_paused(self) -> None:
        """A process that stands still does nothing while time goes on, and has its timers when it goes on."""
        times: list[float] = []

        async def sleep() -> None:
            await asyncio.sleep(1)
            times.append(asyncio.get_running_loop().time())

        with make() as loop:
            process = loop.process("p")
            process.spawn(sleep())
            loop.run_until(lambda: process.steps == 1, steps_max=10)
            process.pause()
            loop.process("other").spawn(asyncio.sleep(10))
            assert exhaust(loop) == "idle"
            assert times == []
            process.resume()
            exhaust(loop)
            assert 10 <= times[0] < 11


class TestFailures:
    """Exceptions that nobody caught."""

    @staticmethod
    async def fail() -> None:
        """Fail."""
        await asyncio.sleep(0)
        raise ValueError("on purpose")

    def test_nobody_asked(self) -> None:
        """An exception in a task that nobody awaited is kept."""
        with make() as loop:
            loop.process("p").spawn(self.fail())
            exhaust(loop)
        assert [str(error) for error in loop.failures()] == ["on purpose"]

    def test_somebody_asked(self) -> None:
        """One that was caught is nobody's business."""

        async def main() -> None:
            try:
                await asyncio.create_task(self.fail())
            except ValueError:
                await asyncio.sleep(1)

        with make() as loop:
            loop.process("p").spawn(main())
            exhaust(loop)
        assert loop.failures() == []

    def test_in_a_callback(self) -> None:
        """One that a callback raises is kept, and the loop goes on."""

        def fail() -> None:
            raise ValueError("on purpose")

        with make() as loop:
            loop.after_ms(1, fail)
            task = loop.process("p").spawn(asyncio.sleep(1, "done"))
            exhaust(loop)
            assert task.result() == "done"
        assert [str(error) for error in loop.failures()] == ["on purpose"]

    def test_dropped_generator(self) -> None:
        """A generator that is dropped in the middle is closed soon after, as asyncio does."""
        closed: list[str] = []

        async def generate() -> AsyncGenerator[int]:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(0.1)
                closed.append("closed")

        async def main() -> None:
            async for _ in generate():
                break
            await asyncio.sleep(1)
            closed.append("main")

        with make() as loop:
            loop.process("p").spawn(main())
            exhaust(loop)
        assert closed == ["closed", "main"]

    def test_many_tasks(self) -> None:
        """Tasks that have ended are let go of (B1)."""

        async def main(process: Process) -> None:
            for _ in range(1_000):
                process.spawn(asyncio.sleep(0))
                await asyncio.sleep(0)

        with make() as loop:
            process = loop.process("p")
            process.spawn(main(process))
            exhaust(loop)
            assert len(process.tasks) < 200


class TestMarks:
    """Marks that must be hit."""

    def test_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Marks are counted while somebody collects, and what was not hit is known."""
        monkeypatch.setattr(marks, "_registered", set())
        monkeypatch.setattr(marks, "_rare", set())
        marks.register("test: one", "test: two")
        marks.register("test: rare", is_rare=True)
        with marks.collecting() as first:
            marks.mark("test: one")
            marks.mark("test: one")
            with marks.collecting() as inner:
                marks.mark("test: rare")
        assert first.counts["test: one"] == 2
        assert first.missed() == ["test: two"]
        first.merge(inner)
        assert first.counts["test: rare"] == 1
        assert marks.registered() == {"test: one", "test: two", "test: rare"}

    def test_unknown(self) -> None:
        """A mark that nobody registered is a mistake: a run would not miss it."""
        with pytest.raises(InvariantError, match="not registered"):
            marks.mark("test: nobody knows this")
