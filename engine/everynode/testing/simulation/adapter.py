"""The adapter of a simulated cluster: keeps the promises of ``ports.Adapter`` while its backend breaks all others.

One instance belongs to one adapter host and dies with it. Requests travel: one that was sent takes effect even if its
sender does not live to see the answer. Lists may be old and late, watches lag, end and lose events; what a list shows
that is older than what this instance has seen is passed over, as every adapter must. It knows nothing of the log.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import msgspec

from everynode.core.commands import Command, CreatePod, Outcome
from everynode.core.events import NodeGone, NodeObserved, PodObserved
from everynode.errors import OutcomeUnknownError, UnavailableError
from everynode.ports import ListBegun, ListEnded, Observation, View
from everynode.testing.simulation.backend import Range, SimulatedCluster, Snapshot, Timers
from everynode.testing.simulation.marks import mark, register

OLDER_LISTS_MAX = 10
"""After so many lists in a row that are too old, the adapter says that the backend is not available."""

MS_PER_SECOND = 1_000

register(
    "adapter broke",
    "call hung",
    "command carried out without an answer",
    "command lost without an answer",
    "command turned away",
    "command while cut off",
    "create met its pod",
    "event missed by watch",
    "late command turned away",
    "list failed",
    "list while cut off",
    "name taken by someone else",
    "older list passed over",
    "watch ended",
    "watch expired",
    "watch while cut off",
)


@dataclass(frozen=True, kw_only=True)
class AdapterFaults:
    """What goes wrong between an adapter and its backend; probabilities, and ranges of milliseconds.

    Attributes:
        latency_ms: How long a request or an answer travels.
        lag_ms: How late a watch is.
        list_fails: A list cannot be read.
        list_is_older: A list shows an older state.
        watch_ends: For each batch of changes, that the watch ends with it.
        watch_expires: Likewise, that everything has to be listed again.
        event_missed: For each change, that the watch does not tell of it.
        unavailable: A command is turned away.
        unknown_done: A command gets no answer, and is carried out, at once or later.
        unknown_undone: A command gets no answer, and is not carried out.
        hangs: A call does not return; what it asked for happens later, or not.
        breaks: The adapter has a bug that this call meets.
        name_taken: Somebody else has taken the name of a pod before it is made.
        late_ms: How late what got no answer is carried out.
    """

    latency_ms: Range = (1, 20)
    lag_ms: Range = (0, 20)
    list_fails: float = 0.0
    list_is_older: float = 0.0
    watch_ends: float = 0.0
    watch_expires: float = 0.0
    event_missed: float = 0.0
    unavailable: float = 0.0
    unknown_done: float = 0.0
    unknown_undone: float = 0.0
    hangs: float = 0.0
    breaks: float = 0.0
    name_taken: float = 0.0
    late_ms: Range = (0, 5_000)


class ClusterAdapter:
    """One adapter host's way to a simulated cluster.

    Args:
        cluster: The backend.
        timers: Time.
        random_: Where chance comes from.
        faults: What goes wrong; may be replaced while it runs.

    Attributes:
        cut_until_ms: Until when the backend cannot be reached.
        calls: How many commands are being carried out now.
        calls_max: The most that there ever were at once.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        timers: Timers,
        random_: random.Random,
        faults: AdapterFaults,
    ) -> None:
        """Have seen nothing yet."""
        self.backend = cluster.backend
        self.identity = f"cluster-{cluster.backend}"
        self.faults = faults
        self.cut_until_ms = 0
        self.calls = 0
        self.calls_max = 0
        self._cluster = cluster
        self._timers = timers
        self._random = random_
        self._seen_version = 0

    def _happens(self, probability: float) -> bool:
        return probability > 0 and self._random.random() < probability

    async def _travel(self) -> None:
        await asyncio.sleep(self._random.randint(*self.faults.latency_ms) / MS_PER_SECOND)

    @property
    def _cut_for_ms(self) -> int:
        return max(0, self.cut_until_ms - self._timers.now_ms)

    # --- observing ----------------------------------------------------------------------------------------------------

    async def observe(self, known: View) -> AsyncGenerator[Observation]:  # noqa: ARG002 - lists everything anyway
        """List, then watch; list again when the watch has expired."""
        while True:
            yield ListBegun(
                "nodes"
            )  # before it is asked for: what comes to be meanwhile may be missing in it
            nodes = await self._list()
            for node in nodes.nodes:
                yield NodeObserved(node=node)
            yield ListEnded("nodes")
            yield ListBegun("pods")
            pods = await self._list()
            for pod in pods.pods:
                yield PodObserved(pod=pod)
            yield ListEnded("pods")
            position = nodes.version
            while True:
                await self._wait_for_change(position)
                if self._happens(self.faults.watch_ends):
                    mark("watch ended")
                    return
                if self._happens(self.faults.watch_expires):
                    mark("watch expired")
                    break
                for change in self._cluster.changes[position:]:
                    position += 1
                    is_node = isinstance(change, NodeObserved | NodeGone)
                    if not is_node and position <= pods.version:
                        continue
                    self._seen_version = max(self._seen_version, position)
                    if self._happens(self.faults.event_missed):
                        mark("event missed by watch")
                    else:
                        yield change

    async def _list(self) -> Snapshot:
        for _ in range(OLDER_LISTS_MAX):
            await self._travel()
            if self._cut_for_ms:
                mark("list while cut off")
                await asyncio.sleep(min(self._cut_for_ms, 5_000) / MS_PER_SECOND)
                raise UnavailableError("the backend cannot be reached")
            if self._happens(self.faults.list_fails):
                mark("list failed")
                retry_after_ms = self._random.choice((None, 50, 3_000))
                raise UnavailableError("the backend is busy", retry_after_ms)
            ago = self._random.randint(1, 20) if self._happens(self.faults.list_is_older) else 0
            # What nobody has shown to this instance yet is a list like any other only if it is the newest.
            snapshot = self._cluster.snapshot(ago if self._seen_version else 0)
            await self._travel()
            if snapshot.version >= self._seen_version:
                self._seen_version = snapshot.version
                return snapshot
            mark("older list passed over")
        raise UnavailableError("the backend's lists are older than what it has shown before")

    async def _wait_for_change(self, position: int) -> None:
        """Wait until there is something that the watch has not told, and tells."""
        while position >= self._cluster.version or self._cut_for_ms:
            if self._cut_for_ms:
                mark("watch while cut off")
                await asyncio.sleep(self._cut_for_ms / MS_PER_SECOND)
                continue
            changed = asyncio.Event()
            self._cluster.waiting.append(changed.set)
            await changed.wait()
        await asyncio.sleep(self._random.randint(*self.faults.lag_ms) / MS_PER_SECOND)

    # --- commands -----------------------------------------------------------------------------------------------------

    async def apply(self, command: Command) -> Outcome:
        """Carry out a command, if nothing goes wrong."""
        self.calls += 1
        self.calls_max = max(self.calls_max, self.calls)
        try:
            return await self._apply(command)
        finally:
            self.calls -= 1

    async def _apply(self, command: Command) -> Outcome:
        await self._travel()
        # As they are now: they may have ended on the way.
        faults, happens = self.faults, self._happens
        if self._cut_for_ms:
            mark("command while cut off")
            if happens(0.5):
                await asyncio.sleep(self._cut_for_ms / MS_PER_SECOND)
            raise UnavailableError("the backend cannot be reached")
        if happens(faults.unavailable):
            mark("command turned away")
            raise UnavailableError("too many requests", self._random.choice((None, 50, 2_000)))
        if happens(faults.breaks):
            mark("adapter broke")
            raise ValueError("a bug in the adapter")
        if happens(faults.unknown_undone):
            mark("command lost without an answer")
            raise OutcomeUnknownError("no answer")
        if happens(faults.unknown_done):
            mark("command carried out without an answer")
            self._later(lambda: self._carry_out_unheard(command))
            raise OutcomeUnknownError("no answer")
        if happens(faults.hangs):
            mark("call hung")
            if happens(0.5):
                self._later(lambda: self._carry_out_unheard(command))
            await asyncio.get_running_loop().create_future()
        if isinstance(command, CreatePod) and happens(faults.name_taken):
            self._take_name(command)
        answer: asyncio.Future[Outcome | UnavailableError]
        answer = asyncio.get_running_loop().create_future()
        delay_ms = self._random.randint(*faults.latency_ms)
        self._timers.after_ms(delay_ms, lambda: self._answer(answer, command))
        said = await answer
        await self._travel()
        if isinstance(said, UnavailableError):
            raise said
        return said

    def _answer(self, answer: asyncio.Future[Outcome | UnavailableError], command: Command) -> None:
        """Carry out a command, and tell whoever still waits for it."""
        said: Outcome | UnavailableError
        try:
            said = self._carry_out(command)
        except UnavailableError as error:
            said = error
        else:
            self._seen_version = max(self._seen_version, self._cluster.version)
        if not answer.done():
            answer.set_result(said)

    def _take_name(self, command: CreatePod) -> None:
        if command.pod_key not in self._cluster.pods:
            mark("name taken by someone else")
            self._cluster.foreign.add(command.pod_key)

    def _later(self, callback: Callable[[], None]) -> None:
        self._timers.after_ms(self._random.randint(*self.faults.late_ms), callback)

    def _carry_out(self, command: Command) -> Outcome:
        if isinstance(command, CreatePod) and command.pod_key in self._cluster.pods:
            mark("create met its pod")
        return self._cluster.carry_out(command, _labels_of(command))

    def _carry_out_unheard(self, command: Command) -> None:
        try:
            self._carry_out(command)
        except UnavailableError:
            mark("late command turned away")


def _labels_of(command: Command) -> dict[str, str]:
    """Return the labels in the template of a create, which a host has filled in."""
    if not isinstance(command, CreatePod) or command.template is None:
        return {}
    labels: dict[str, str] = msgspec.json.decode(command.template)["metadata"]["labels"]
    return labels
