"""A fleet in one thread, on the time of a stream: what happens by itself comes in, a log of what follows comes out.

The worker is the real one (``core.machine``), its backends are ``pods``, and how long all of it takes says
``durations``. Used by ``planning``, by ``what_if``, and to replay what somebody else recorded. It needs no server,
waits for nothing, and the same stream gives the same log.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from everynode.core.commands import Command
from everynode.core.decision import Proposal
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved, StatusReported, Tick
from everynode.core.identity import RevisionOf
from everynode.core.machine import WorkerMachine
from everynode.core.pacing import Limits
from everynode.core.state import Due, Record
from everynode.core.values import Message, SetKey
from everynode.errors import RefusedError
from everynode.replay.durations import Durations
from everynode.replay.pods import RehearsedPods

WORKER = "rehearsal"
PROPOSALS_MAX = 64
READ_MS = 1
"""What happens at one time is read together, before anything is decided."""
STATUS_INTERVAL_MS = 200
TICK_INTERVAL_MS = 100
"""How often a worker looks at what is due, as that of ``runtime.session``; what comes due meanwhile is one tick."""
SETTLE_MS_MAX = 3_600_000
"""How long after the last thing that happened by itself a fleet is watched: some never come to rest."""


def _tick_ms(due: Due) -> int:
    """Say when a worker notices that something is due."""
    return -(-due.time_ms // TICK_INTERVAL_MS) * TICK_INTERVAL_MS


class Rehearsal:
    """One fleet.

    First it is told what was so (``load``, ``follow``); from ``begin`` on it decides for itself.

    Args:
        shards: How many shards the fleet has.
        durations: How long its pods take.
        naming: Says what a set's template is called; by its content, if nobody says otherwise.

    Attributes:
        machine: The worker.
        pods: The backends.
        sequence: The last message of its log.
        now_ms: The time there.
    """

    def __init__(
        self,
        shards: int,
        durations: Durations | None = None,
        naming: RevisionOf | None = None,
    ) -> None:
        """Start before the first message."""
        self.machine = WorkerMachine(WORKER, shards, Limits(), naming=naming, tells=False)
        self._durations = durations or Durations()
        self.pods = RehearsedPods(self._durations)
        self.sequence = 0
        self.now_ms = 0
        self._report_ms: int | None = None
        self._look_ms: int | None = None  # when the worker looks at what has happened
        self._decided: deque[tuple[int, Proposal]] = (
            deque()
        )  # with the time at which each is stored

    # --- what was so --------------------------------------------------------------------------------------------------

    def load(self, record: Record) -> None:
        """Take in a message that STATE kept."""
        try:
            self.machine.load(record)
        except RefusedError:
            pass  # nobody could use it then either
        else:
            self.pods.mirror(record.message)
        self.sequence = max(self.sequence, record.sequence)

    def follow(self, record: Record) -> None:
        """Take in a message of the log, as it was decided then."""
        try:
            self.machine.fold(record)
        except RefusedError:
            pass
        else:
            self.pods.mirror(record.message)
        self._moved(record.sequence, record.time_ms)

    def begin(self, now_ms: int) -> None:
        """Decide from here on; what was on its way goes on its way.

        Args:
            now_ms: What time it is, if it is later than the last message.
        """
        self._moved(self.sequence, now_ms)
        self.machine.caught_up(self.sequence)
        states = [state for _, state in sorted(self.machine.fleet.sets.items())]
        waiting = [each for state in states for each in state.pending.values()]
        pending_ms = self.machine.fleet.limits.pending_ms
        pending: list[tuple[int, Command]] = [
            (each.command.expires_ms - pending_ms, each.command)
            for each in sorted(waiting, key=lambda each: each.sequence)
        ]
        self.pods.begin(pending, self.now_ms)
        self._look_ms = self.now_ms + READ_MS

    # --- what happens -------------------------------------------------------------------------------------------------

    def happen(self, time_ms: int, message: Message) -> Iterator[Record]:
        """Let time pass up to something that happens by itself, and let it happen.

        Returns:
            What stands on the log from then on, in its order; it must be read to its end, here and below.
        """
        yield from self.pass_time(time_ms)
        now_ms = max(time_ms, self.now_ms)
        yield from self._write(now_ms, self._effects_of(message, now_ms))
        self._look_ms = self.now_ms + READ_MS

    def pass_time(self, until_ms: int) -> Iterator[Record]:
        """Let happen what is due up to a time."""
        while (due_ms := self._due_ms()) is not None and due_ms <= until_ms:
            yield from self._at(max(due_ms, self.now_ms))

    def settle(self) -> Iterator[Record]:
        """Let time pass until nothing is due any more, at most for an hour."""
        yield from self.pass_time(self.now_ms + SETTLE_MS_MAX)

    @property
    def settled(self) -> bool:
        """Nothing is due: whatever time passes, nothing will happen by itself."""
        return self._due_ms() is None

    def _effects_of(self, message: Message, now_ms: int) -> Sequence[Message]:
        match message:  # there are few: most follow from commands
            case PodObserved(pod=pod):
                return self.pods.pod_observed(pod, joins=not self._decides_for(pod.set_key))
            case PodGone():
                return self.pods.pod_gone(message)
            case NodeObserved(node=node):
                return (message, *self.pods.node_observed(node, now_ms))
            case NodeGone():
                return (message, *self.pods.node_gone(message.key))
            case _:
                return (message,)

    def _decides_for(self, key: SetKey | None) -> bool:
        """Say whether a set is wanted here: all its pods are known then."""
        state = None if key is None else self.machine.fleet.sets.get(key)
        return state is not None and state.daemonset is not None

    def _at(self, now_ms: int) -> list[Record]:
        """Let happen what is due at one moment; returns what is written to the log."""
        written: list[Record] = []
        while self._decided and self._decided[0][0] <= now_ms:
            written += self._store(self._decided.popleft()[1], now_ms)
        written += self._write(now_ms, self.pods.advance(now_ms))
        due = self.machine.due()
        if due is not None and _tick_ms(due) <= now_ms:
            tick = Tick(shard=self.machine.shard(due.set_key), due_ms=due.time_ms)
            written += self._write(now_ms, (tick,))
        if self._look_ms is not None and self._look_ms <= now_ms:
            self._look_ms = None
        self._decide()
        if self._report_ms is not None and self._report_ms <= now_ms:
            self._report_ms = None
            statuses = self.machine.reports()
            self.machine.notices()  # nobody is told
            written += self._write(now_ms, [StatusReported(status=status) for status in statuses])
        return written

    def _due_ms(self) -> int | None:
        due, pods_ms = self.machine.due(), self.pods.next_due_ms
        found = [each for each in (pods_ms, self._report_ms, self._look_ms) if each is not None]
        if self._decided:
            found.append(self._decided[0][0])
        if due is not None:
            found.append(_tick_ms(due))
        return min(found, default=None)

    # --- deciding -----------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Let the worker decide until it has nothing to decide; what it decides is on its way for a moment."""
        if self._report_ms is None and self.machine.fleet.dirty:
            self._report_ms = self.now_ms + STATUS_INTERVAL_MS
        known_ms = self.machine.fleet.now_ms
        stored_ms = max(known_ms + self._durations.decide_ms, self.now_ms)
        while proposals := self.machine.proposals(PROPOSALS_MAX):
            self._decided.extend((stored_ms, proposal) for proposal in proposals)

    def _store(self, proposal: Proposal, now_ms: int) -> list[Record]:
        messages = (proposal.decision, *proposal.others)
        self.machine.accepted(proposal.key, self.sequence + len(messages))
        written = self._write(now_ms, messages)
        self.pods.send(proposal.commands, now_ms)
        return written

    # --- the log ------------------------------------------------------------------------------------------------------

    def _write(self, time_ms: int, messages: Iterable[Message]) -> list[Record]:
        first = self.sequence + 1
        written = [Record(place, time_ms, each) for place, each in enumerate(messages, first)]
        for record in written:
            try:  # noqa: SIM105 - for each message, and suppress() takes as long as the half of fold()
                self.machine.fold(record)
            except RefusedError:
                pass
        if written:
            self._moved(written[-1].sequence, time_ms)
        return written

    def _moved(self, sequence: int, time_ms: int) -> None:
        if sequence > self.sequence:  # noqa: PLR1730 - for each message, and max() takes three times as long
            self.sequence = sequence
        if time_ms > self.now_ms:  # noqa: PLR1730 - likewise
            self.now_ms = time_ms
