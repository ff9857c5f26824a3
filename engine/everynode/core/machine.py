"""A worker as a state machine: messages of the log in, things to write to the log out.

``runtime.worker`` drives it with the real log, the simulator with a simulated one. It performs nothing itself and holds
nothing that cannot be read again: what it decided counts only when it comes back on the log. One proposal per set is on
its way at a time.
"""

from __future__ import annotations

from typing import NamedTuple

from everynode.core.commands import Command, Outcome
from everynode.core.decision import Proposal, propose, selects_everything
from everynode.core.events import StatusReported
from everynode.core.identity import RevisionOf, shard_of
from everynode.core.notices import NoticeBoard
from everynode.core.pacing import Limits
from everynode.core.rollout import rollout_of
from everynode.core.setstate import SetState
from everynode.core.state import Due, FleetState, Record
from everynode.core.status import compute_status
from everynode.core.values import Notice, SetKey, Status
from everynode.errors import StaleError

AWAITED_COMMANDS_MAX = 20_000
"""Commands of whose outcomes people are told; of the oldest ones beyond they are not."""


class Told(NamedTuple):
    """What a worker has to tell people, and has told them; kept from one of its machines to the next."""

    board: NoticeBoard
    awaited: dict[str, Command]
    skipped: dict[SetKey, frozenset[str]]


class WorkerMachine:
    """Decides for the sets of some shards.

    Args:
        name: Who this is; recorded in its decisions.
        shards: How many shards the fleet has.
        limits: What the worker allows itself.
        predecessor: The machine of the same worker that this one takes the place of: what that one had still to tell
            people is told by this one, and of its commands' outcomes the one that hears them first.
        naming: Says what a set's template is called; by its content, if nobody says otherwise.
        tells: People are to hear of the outcomes of its commands.

    Attributes:
        owned: The shards that it decides for and reports on; it may know of others. All, unless ``own`` says else.
        told: What it has to tell people.
    """

    def __init__(
        self,
        name: str,
        shards: int,
        limits: Limits,
        predecessor: WorkerMachine | None = None,
        naming: RevisionOf | None = None,
        *,
        tells: bool = True,
    ) -> None:
        """Start before the first message."""
        self.name = name
        self.shards = shards
        self.owned = frozenset(range(shards))
        self.fleet = FleetState(limits, naming)
        self._in_flight: dict[SetKey, Proposal] = {}
        self._to_report: set[SetKey] = set()
        self._reported: dict[SetKey, Status] = {}
        self.told: Told = Told(NoticeBoard(), {}, {}) if predecessor is None else predecessor.told
        self._board, self._awaited, self._skipped = self.told
        self._tells = tells
        self._faults: dict[SetKey, Exception] = {}

    def own(self, shards: frozenset[int]) -> None:
        """Decide for these shards from now on, and for no others. What is on its way goes on its way.

        A set that is gained is looked at afresh; it must have been followed for as long as the others.
        """
        gained, lost = shards - self.owned, self.owned - shards
        self.owned = shards
        for key in self.fleet.sets:
            shard = self.shard(key)
            if shard in gained:
                self.fleet.dirty.add(key)
            elif shard in lost:
                self._reported.pop(key, None)
                self._to_report.discard(key)

    def owns(self, key: SetKey) -> bool:
        """Say whether this worker decides for a set."""
        return self.shard(key) in self.owned

    @property
    def engaged(self) -> frozenset[int]:
        """The shards that it decides for, and those for which a proposal of its own is still on its way."""
        return self.owned.union(map(self.shard, self._in_flight))

    def load(self, record: Record) -> None:
        """Take in a message that STATE kept.

        Raises:
            RefusedError: It cannot be used; nothing has changed.
        """
        self.fleet.load(record)

    def fold(self, record: Record) -> None:
        """Take in the next message of the log.

        Raises:
            RefusedError: It cannot be used; nothing has changed but the clock.
        """
        message = record.message
        if type(message) is Outcome:  # told five times as fast as by isinstance(), for each message
            self._outcome_heard(message, record.time_ms)
        self.fleet.fold(record)
        if type(message) is StatusReported:
            self._status_heard(message.status)

    def _outcome_heard(self, outcome: Outcome, time_ms: int) -> None:
        """Tell people what became of a command, if it was this worker who decided it."""
        command = self._awaited.pop(outcome.id, None)
        if command is not None:
            self._board.command_settled(command, outcome, time_ms)

    def _status_heard(self, status: Status) -> None:
        """Look again at a set of which another worker has said something else than this one did last."""
        key = status.set_key
        if status != self._reported.get(key):
            self._reported.pop(key, None)
            self.fleet.dirty.add(key)

    def passed(self, sequence: int) -> None:
        """The log was read up to here; what was not folded on the way does not concern this worker."""
        self.fleet.sequence = max(self.fleet.sequence, sequence)

    def caught_up(self, sequence: int) -> None:
        """The log was read to its end, which is here: no batch that was begun is still on its way in."""
        self.passed(sequence)
        for key, state in self.fleet.sets.items():
            if state.blocked_until > sequence:
                state.blocked_until = sequence
                self.fleet.dirty.add(key)

    def proposals(self, count_max: int) -> list[Proposal]:
        """Decide for sets that something has happened to, at most ``count_max`` of them, in order.

        Each must be answered by ``accepted`` or ``refused`` before there is another for the same set.
        """
        found: list[Proposal] = []
        for key in sorted(self.fleet.dirty - self._in_flight.keys()):
            if len(found) >= count_max:
                break
            state = self.fleet.sets.get(key)
            if state is not None and self.owns(key):
                proposal = self._propose(key, state)
                self._to_report.add(key)
                if proposal is not None:
                    self._in_flight[key] = proposal
                    if self._tells:
                        self._await_outcomes(proposal)
                    found.append(proposal)
                elif state.blocked_until > self.fleet.sequence:
                    continue  # stays dirty: its batch is still on its way in
            self.fleet.dirty.discard(key)
        return found

    def _propose(self, key: SetKey, state: SetState) -> Proposal | None:
        """Decide for one set; a bug that it meets is its own, and is kept for ``faults``."""
        try:
            proposal = propose(self.fleet, key, self.name)
        except Exception as error:  # noqa: BLE001 - the other sets must go on (L3)
            self._faults[key] = error
            return None
        if proposal is None and state.blocked_until <= self.fleet.sequence:
            state.looked_at(state.uid, state.generation)
        return proposal

    def faults(self) -> dict[SetKey, Exception]:
        """Return what has gone wrong within this program, by set, since this was last asked."""
        faults, self._faults = self._faults, {}
        return faults

    def _await_outcomes(self, proposal: Proposal) -> None:
        """Remember what people are to hear of; an outcome may come before this worker knows that it was accepted."""
        self._awaited.update((command.id, command) for command in proposal.commands)
        while len(self._awaited) > AWAITED_COMMANDS_MAX:
            del self._awaited[next(iter(self._awaited))]

    def accepted(self, key: SetKey, last_sequence: int) -> None:
        """A proposal was taken; its messages will come back on the log, the last with this sequence."""
        proposal = self._in_flight.pop(key, None)
        for command in () if proposal is None else proposal.commands:
            self._board.command_decided(command, self.fleet.now_ms)
        self._block(key, last_sequence)

    def refused(self, key: SetKey, last_decision: int | None) -> None:
        """A proposal was not taken: look again when more of the log has been folded.

        Args:
            key: The set.
            last_decision: The sequence that the server named as the last decision; ``None`` if it named none, 0 if
                there is none: all have left the log.

        Raises:
            StaleError: The proposal knew a later decision than the log has now: the log has lost its end (S6).
        """
        proposal = self._in_flight.pop(key, None)
        if proposal is not None and 0 < (last_decision or 0) < proposal.fence:
            lost = f"is {last_decision} now, and was {proposal.fence}: the log lost its end"
            message = f"the last decision about {key} {lost}"
            raise StaleError(message, last_decision)
        for command in () if proposal is None else proposal.commands:
            self._awaited.pop(command.id, None)
        self.fleet.dirty.add(key)
        state = self.fleet.sets.get(key)
        if state is None or last_decision is None:
            return
        if last_decision <= self.fleet.sequence:
            # The log has been folded past it, so its commands have been heard, have expired, or left with it.
            state.fence = last_decision and max(state.fence, last_decision)
        else:
            self._block(key, last_decision)

    def _block(self, key: SetKey, sequence: int) -> None:
        state = self.fleet.sets.get(key)
        if state is not None:
            state.blocked_until = max(state.blocked_until, sequence)
        self.fleet.dirty.add(key)

    def reports(self) -> list[Status]:
        """Return the statuses that differ from what was last reported; call it no more often than wanted."""
        found = []
        for key in sorted(filter(self.owns, self._to_report)):
            state = self.fleet.sets.get(key)
            before = None if state is None else self._reported.get(key, state.status)
            status = None if state is None else self._status(key, before)
            if state is None or status is None:
                self._reported.pop(key, None)
                self._skipped.pop(key, None)
                self._tell_why_nothing(key, state)
            elif status != before:
                self._reported[key] = status
                self._board.status_changed(before, status, self.fleet.now_ms)
                self._tell_skipped(state)
                found.append(status)
        self._to_report.clear()
        return found

    def _status(self, key: SetKey, before: Status | None) -> Status | None:
        try:
            return compute_status(self.fleet, key, before)
        except Exception as error:  # noqa: BLE001 - the other sets must go on (L3)
            self._faults[key] = error
            return before

    def _tell_why_nothing(self, key: SetKey, state: SetState | None) -> None:
        wanted = None if state is None else state.daemonset
        if wanted is not None and selects_everything(wanted):
            self._board.selects_all(key, wanted.uid, self.fleet.now_ms)
        else:
            self._board.forget(key)

    def _tell_skipped(self, state: SetState) -> None:
        """Name the nodes that a rollout passes over, once each for as long as it does."""
        skipped = rollout_of(state, self.fleet.index).skipped - state.coverage.replaced
        names = frozenset(self.fleet.index.key(node_id).name for node_id in skipped)
        new = names - self._skipped.get(state.key, frozenset())
        self._board.nodes_skipped(state.key, state.uid, sorted(new), self.fleet.now_ms)
        self._skipped[state.key] = names

    def notices(self) -> list[Notice]:
        """Return what people are to be told; call it as often as ``reports``, after it."""
        return self._board.take()

    def untold(self, notice: Notice) -> None:
        """A notice could not be written: it will be told again."""
        self._board.put_back(notice)

    def unreported(self, status: Status) -> None:
        """A status could not be written: it will be reported again."""
        self._reported.pop(status.set_key, None)
        self._to_report.add(status.set_key)

    def due(self) -> Due | None:
        """Return what, in log time, time alone will ask for first.

        ``None`` also if that concerns a set of another worker, which will say that the time has come.
        """
        due = self.fleet.due()
        return due if due is not None and self.owns(due.set_key) else None

    def shard(self, key: SetKey) -> int:
        """Return the shard of a set."""
        return shard_of(key, self.shards)

    @property
    def settled(self) -> bool:
        """Nothing that it owns is to be decided or reported, and no command is waiting for its effect."""
        if (
            self._in_flight
            or self._to_report
            or self._board
            or any(map(self.owns, self.fleet.dirty))
        ):
            return False
        return not any(state.pending for key, state in self.fleet.sets.items() if self.owns(key))
