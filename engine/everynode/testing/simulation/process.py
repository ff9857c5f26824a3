"""Processes of a simulation: what of the loop's work belongs to whom, and who can be killed or stopped.

Used by ``loop``, which runs them. A callback belongs to the process in whose context it was scheduled; tasks inherit
that. This module knows nothing of logs or backends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from everynode.testing.simulation.clock import SimulatedClock

if TYPE_CHECKING:
    from everynode.testing.simulation.loop import VirtualLoop

T = TypeVar("T")

PRUNED_TASKS_MIN = 64
"""From so many tasks on those that have ended are looked for, and let go of."""

current: ContextVar[Process] = ContextVar("current")


def _nothing() -> None:
    """Do nothing: what a cancelled call would do."""


class Call(asyncio.TimerHandle):
    """A callback that the loop is to run."""

    __slots__ = ("process",)

    def __init__(
        self,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: VirtualLoop,
        context: Context,
        process: Process,
    ) -> None:
        """Keep what to call; the base class would ask for much more, for each step."""
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._scheduled = False
        self._repr = None
        self._source_traceback = None
        self._when = 0.0
        self.process = process

    def cancel(self) -> None:
        """Have the loop not run it."""
        if not self._cancelled:
            self._cancelled = True
            self._callback = _nothing
            self._args = ()
            if self._scheduled:
                self._loop.timer_cancelled()


class SimulatedTask(asyncio.Task[T]):
    """A task whose hash is the same in each run: groups keep their tasks in sets, and cancel them in that order."""

    def __init__(self, coro: Coroutine[Any, Any, T], **options: Any) -> None:
        """Number it before anybody puts it into a set."""
        self.number = options["loop"].next_number()
        super().__init__(coro, **options)
        self._log_destroy_pending = False

    def __hash__(self) -> int:
        """Return its number."""
        number: int = self.number
        return number

    def __eq__(self, other: object) -> bool:
        """It is only itself."""
        return self is other


class Process:
    """One process: its callbacks run in their order, or never again once it is killed.

    Attributes:
        alive: It was not killed.
        paused: It stands still.
        steps: How many of its callbacks have run.
        clock: What it takes for the time.
    """

    def __init__(self, loop: VirtualLoop, name: str, number: int, runnable: list[Process]) -> None:
        """Begin alive; made by ``VirtualLoop.process``, which keeps those that have something to do in a list."""
        self.name = name
        self.number = number
        self.alive = True
        self.paused = False
        self.steps = 0
        self.ready: deque[Call] = deque()
        self.is_queued = False
        self.clock = SimulatedClock(loop)
        self.context = copy_context()
        self.context.run(current.set, self)
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.on_kill: list[Callable[[], None]] = []
        self.on_resume: list[Callable[[], None]] = []
        self._loop = loop
        self._runnable = runnable
        self._prune_at = PRUNED_TASKS_MIN
        self._looked_at_step = 0
        self._buried: list[Call] = []

    def __repr__(self) -> str:
        """Name it."""
        return f"<Process {self.name}>"

    def spawn(self, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task that belongs to this process."""
        if not self.alive:
            coro.close()
            raise RuntimeError(f"process {self.name} is dead: start another one")
        return self.context.run(self._loop.create_task, coro)

    def kill(self) -> None:
        """End it as SIGKILL does: none of its callbacks runs again, not even what cleans up."""
        if not self.alive:
            return
        self.alive = False
        self._stop_running()
        self._buried.extend(self.ready)  # what they refer to must not be cleaned up either
        self.ready.clear()
        for told in self.on_kill:
            told()

    def pause(self) -> None:
        """Let it stand still, as SIGSTOP does."""
        self.paused = True
        self._stop_running()

    def resume(self) -> None:
        """Let it go on, as SIGCONT does."""
        if not self.paused:
            return
        self.paused = False
        if self.ready and not self.is_queued:
            self.is_queued = True
            self._runnable.append(self)
        for told in self.on_resume:
            told()

    def set_clock(self, offset_ms: int, rate: float = 1.0) -> None:
        """Make its clock jump to so far from true time, and run so fast from then on."""
        self.clock.set(offset_ms, rate)

    def _stop_running(self) -> None:
        if self.is_queued:
            self.is_queued = False
            self._runnable.remove(self)

    # For the loop

    def enqueue(self, call: Call) -> None:
        """Have a callback run after those that wait."""
        if not self.alive:
            self._buried.append(call)
            return
        self.ready.append(call)
        if not self.is_queued and not self.paused:
            self.is_queued = True
            self._runnable.append(self)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Hold on to a task: were it dropped, what it has in hand would be cleaned up."""
        tasks = self.tasks
        tasks[task] = None
        if len(tasks) >= self._prune_at:
            # One that failed stays until it is known whether anybody asks why.
            self.tasks = {
                one: None
                for one in tasks
                if not one.done() or getattr(one, "_log_traceback", False)
            }
            self._prune_at = max(2 * len(self.tasks), PRUNED_TASKS_MIN)

    def unnoticed(self, steps_min: int) -> list[BaseException]:
        """Return the exceptions of its tasks that nobody has asked for, if it is alive and has nothing to do."""
        if not self.alive or self.ready or self.steps - self._looked_at_step < steps_min:
            return []
        self._looked_at_step = self.steps
        found: list[BaseException] = []
        for task in self.tasks:
            if task.done() and not task.cancelled() and getattr(task, "_log_traceback", False):
                error = task.exception()
                if error is not None:
                    found.append(error)
        return found

    def forget(self) -> list[asyncio.Task[Any]]:
        """Let go of everything; returns the tasks that have not ended."""
        left = [task for task in self.tasks if not task.done()]
        self.alive = False
        self.tasks.clear()
        self.ready.clear()
        self._buried.clear()
        return left
