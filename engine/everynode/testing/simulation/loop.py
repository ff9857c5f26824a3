"""An event loop on virtual time: several processes in one thread, in an order that comes from a seed.

Whatever is written for asyncio runs on it unchanged: tasks, groups, timeouts, queues, events. One step runs one
callback. Callbacks of one process keep their order, as asyncio promises; which process is next is random. Time passes
only when nothing can run, and a little with each step. There are no threads, no sockets and no real waiting.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import random as random_module
import sys
from asyncio import events
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from everynode.testing.simulation.process import Call, Process, SimulatedTask, current

__all__ = ["Ended", "Process", "VirtualLoop"]

T = TypeVar("T")

Ended = Literal["done", "steps", "time", "idle"]
"""Why ``run_until`` came back: it is so; too many steps; the time is over; nothing happens any more until then."""

START_MS = 1_700_000_000_000
STEP_US = 10
"""How much virtual time a step takes."""
CANCELLED_TIMERS_MAX = 512
"""From so many on, if they are most of all, timers that were cancelled are taken out."""
CLOSE_TRIES_MAX = 100
"""How often a coroutine that waits while it is closed is closed again."""

_get_running: Callable[[], Any] = events._get_running_loop  # noqa: SLF001 - there is no other way to
_set_running: Callable[[Any], None] = events._set_running_loop  # noqa: SLF001 - be the running loop

_US_PER_SECOND = 1_000_000
_US_PER_MS = 1_000
_DIGEST_MASK = (1 << 64) - 1
_DIGEST_FACTOR = 1_000_003


if (
    TYPE_CHECKING
):  # to a type checker a loop is abstract as long as it lacks sockets, signals and processes
    _Loop = object
else:
    _Loop = asyncio.AbstractEventLoop


class VirtualLoop(_Loop):
    """Runs processes on virtual time.

    As a context manager it also keeps garbage collection from choosing the order of things, gives the module
    ``random`` a state from its own, and cleans up at the end.

    Args:
        random: Where every choice comes from.
        start_ms: When the run begins, in ms since 1970.
        step_us: How much virtual time a step takes.

    Attributes:
        random: Where every choice comes from.
        start_ms: When the run began.
        now_us: How long ago that was, in microseconds of virtual time.
        steps: How many callbacks have run.
        digest: Equal for equal runs so far.
        world: The process of what is outside of all others: servers, backends, misfortune.
        errors: Exceptions that nobody caught.
    """

    def __init__(
        self, random: random_module.Random, start_ms: int = START_MS, step_us: int = STEP_US
    ) -> None:
        """Begin with the world alone."""
        self.random = random
        self.start_ms = start_ms
        self.step_us = step_us
        self.now_us = 0
        self.steps = 0
        self.digest = 0
        self.errors: list[BaseException] = []
        self._timers: list[tuple[int, int, Call]] = []
        self._timers_cancelled = 0
        self._numbers = 0
        self._processes: list[Process] = []
        self._runnable: list[Process] = []
        self._closed = False
        self._running = False
        self._random_state: tuple[Any, ...] | None = None
        self._collected = False
        self.world = self.process("world")

    # --- processes ----------------------------------------------------------------------------------------------------

    def process(self, name: str) -> Process:
        """Start a process; it does nothing before something is spawned in it."""
        process = Process(self, name, len(self._processes), self._runnable)
        self._processes.append(process)
        return process

    def next_number(self) -> int:
        """Return the next number of this run."""
        self._numbers += 1
        return self._numbers

    # --- running ------------------------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        """True time, in ms since 1970."""
        return self.start_ms + self.now_us // _US_PER_MS

    def run_until(
        self,
        is_done: Callable[[], bool],
        *,
        steps_max: int,
        until_ms: int | None = None,
    ) -> Ended:
        """Run until something is so; it is asked after each step.

        Args:
            is_done: What is waited for.
            steps_max: How many steps to make at most.
            until_ms: Until what time at most, in ms since 1970.
        """
        before = _get_running()
        hooks = sys.get_asyncgen_hooks()
        _set_running(self)
        sys.set_asyncgen_hooks(finalizer=self._close_generator)
        self._running = True
        try:
            until_us = sys.maxsize if until_ms is None else (until_ms - self.start_ms) * _US_PER_MS
            return self._run(is_done, self.steps + steps_max, until_us)
        finally:
            self._running = False
            sys.set_asyncgen_hooks(*hooks)
            _set_running(before)

    def _run(self, is_done: Callable[[], bool], steps_end: int, until_us: int) -> Ended:
        runnable, draw, step_us = self._runnable, self.random.random, self.step_us
        while not is_done():
            while True:  # until a callback has run
                timers = self._timers
                if timers and timers[0][0] <= self.now_us:
                    self._fire()
                count = len(runnable)
                if not count:
                    if not timers:
                        if until_us != sys.maxsize:
                            self.now_us = max(self.now_us, until_us)
                        return "idle"
                    if timers[0][0] > until_us:
                        self.now_us = max(self.now_us, until_us)
                        return "time"
                    self.now_us = timers[0][0]
                    continue
                if self.steps >= steps_end:
                    return "steps"
                if self.now_us > until_us:
                    return "time"
                place = int(draw() * count) if count > 1 else 0
                process = runnable[place]
                call = process.ready.popleft()
                if not process.ready:
                    process.is_queued = False
                    runnable[place] = runnable[-1]
                    runnable.pop()
                if not call._cancelled:  # noqa: SLF001 - a call for each step would cost too much
                    break
            self.steps += 1
            process.steps += 1
            self.now_us += step_us
            self.digest = (
                self.digest * _DIGEST_FACTOR + self.now_us * 64 + process.number
            ) & _DIGEST_MASK
            try:
                call._context.run(call._callback, *call._args)  # noqa: SLF001 - as above
            except Exception as error:  # noqa: BLE001 - it is kept, and fails the run
                self.errors.append(error)
        return "done"

    def _fire(self) -> None:
        """Hand timers that are due to their processes."""
        timers = self._timers
        while timers and timers[0][0] <= self.now_us:
            call = heapq.heappop(timers)[2]
            call._scheduled = False  # noqa: SLF001 - see above
            if call._cancelled:  # noqa: SLF001 - see above
                self._timers_cancelled -= 1
            else:
                call.process.enqueue(call)

    # --- for the simulation's own parts -------------------------------------------------------------------------------

    def after_us(self, delay_us: int, callback: Callable[..., object], *args: Any) -> Call:
        """Have the world do something later."""
        world = self.world
        call = Call(callback, args, self, world.context, world)
        self._push(self.now_us + max(delay_us, 0), call)
        return call

    def after_ms(self, delay_ms: int, callback: Callable[..., object], *args: Any) -> Call:
        """Have the world do something later."""
        return self.after_us(delay_ms * _US_PER_MS, callback, *args)

    def _push(self, when_us: int, call: Call) -> None:
        if self._closed:
            return
        call._scheduled = True  # noqa: SLF001 - see above
        self._numbers += 1
        heapq.heappush(self._timers, (when_us, self._numbers, call))

    def timer_cancelled(self) -> None:
        """Count it; when most timers were cancelled, take them out."""
        self._timers_cancelled += 1
        cancelled = self._timers_cancelled
        if cancelled > CANCELLED_TIMERS_MAX and 2 * cancelled > len(self._timers):
            self._timers = [timer for timer in self._timers if not timer[2].cancelled()]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    # --- what asyncio asks of a loop ----------------------------------------------------------------------------------

    def time(self) -> float:
        """Return virtual time in seconds since the run began."""
        return self.now_us / _US_PER_SECOND

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Call:
        """Run a callback after those of its process that wait."""
        if context is None:
            context = copy_context()
        process = context.get(current) or self.world
        call = Call(callback, args, self, context, process)
        if not self._closed:
            process.enqueue(call)
        return call

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Call:
        """Run a callback soon; there is one thread only."""
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Call:
        """Run a callback after so many seconds."""
        return self._call_at_us(
            self.now_us + round(delay * _US_PER_SECOND), callback, args, context
        )

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> Call:
        """Run a callback at a time."""
        return self._call_at_us(round(when * _US_PER_SECOND), callback, args, context)

    def _call_at_us(
        self,
        when_us: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> Call:
        if context is None:
            context = copy_context()
        call = Call(callback, args, self, context, context.get(current) or self.world)
        call._when = when_us / _US_PER_SECOND  # noqa: SLF001 - see above
        self._push(when_us, call)
        return call

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future."""
        loop: Any = self
        return asyncio.Future(loop=loop)

    def create_task(
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[T]:
        """Make a task of the process that is running, or of the context's."""
        if self._closed:
            coro.close()
            raise RuntimeError("the run is over")
        task: asyncio.Task[T] = SimulatedTask(coro, loop=self, name=name or "", context=context)
        process = (current.get(None) if context is None else context.get(current)) or self.world
        process.keep(task)
        return task

    def get_debug(self) -> bool:
        """It does not debug."""
        return False

    def is_running(self) -> bool:
        """Whether it is in ``run_until``."""
        return self._running

    def is_closed(self) -> bool:
        """Whether the run is over."""
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Keep an exception that nobody caught; it fails the run."""
        if self._closed:
            return
        error = context.get("exception")
        if not isinstance(error, BaseException):
            error = RuntimeError(str(context.get("message")))
        self.errors.append(error)

    def _close_generator(self, generator: AsyncGenerator[Any]) -> None:
        """Close a generator that was dropped before its end, as asyncio does."""
        if not self._closed and (current.get(None) or self.world).alive:
            self.call_soon(self.create_task, generator.aclose())

    # --- the end ------------------------------------------------------------------------------------------------------

    def failures(self, *, steps_min: int = 1) -> list[BaseException]:
        """Return the exceptions that nobody caught, also those of tasks that nobody asked about.

        Args:
            steps_min: Look only at processes that have taken so many steps since they were looked at: for those who
                ask often.
        """
        for process in self._processes:
            if process.alive:
                self.errors.extend(process.unnoticed(steps_min))
        return self.errors

    def close(self) -> None:
        """End the run: what is left undone is let go of, and whatever it does then has no effect."""
        if self._closed:
            return
        self.failures()
        self._closed = True
        self._timers.clear()
        self._runnable.clear()
        before = _get_running()
        _set_running(self)
        try:
            for process in self._processes:
                process.alive = False
            for process in self._processes:
                for task in process.forget():
                    _close_coroutine(task.get_coro())
        finally:
            _set_running(before)

    def __enter__(self) -> Self:
        """Begin a run."""
        self._random_state = random_module.getstate()
        random_module.seed(self.random.getrandbits(64))
        self._collected = gc.isenabled()
        gc.disable()
        gc.freeze()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the run."""
        self.close()
        gc.collect()
        gc.unfreeze()
        if self._collected:
            gc.enable()
        if self._random_state is not None:
            random_module.setstate(self._random_state)


def _close_coroutine(coroutine: Any) -> None:
    """Close a coroutine, however often it waits for something on its way out."""
    for _ in range(CLOSE_TRIES_MAX):
        try:
            coroutine.close()
        except RuntimeError as error:
            if "ignored GeneratorExit" in str(error):
                continue
            return
        except BaseException:  # noqa: BLE001 - it has ended, and that is all
            return
        else:
            return
