"""A worker as a state machine: messages of the log in, things to write to the log out.

``runtime.worker`` drives it with the real log, the simulator with a simulated one. It performs nothing itself and holds
nothing that cannot be read again: what it decided counts only when it comes back on the log. One proposal per set is on
its way at a time.
"""

from __future__ import annotations

from everynode.core.decision import Proposal, propose
from everynode.core.events import StatusReported
from everynode.core.identity import shard_of
from everynode.core.pacing import Limits
from everynode.core.state import Due, FleetState, Record
from everynode.core.status import compute_status
from everynode.core.values import SetKey, Status


class WorkerMachine:
    """Decides for the sets of some shards.

    Args:
        name: Who this is; recorded in its decisions.
        shards: How many shards the fleet has.
        limits: What the worker allows itself.
    """

    def __init__(self, name: str, shards: int, limits: Limits) -> None:
        """Start before the first message."""
        self.name = name
        self.shards = shards
        self.fleet = FleetState(limits)
        self._in_flight: set[SetKey] = set()
        self._to_report: set[SetKey] = set()
        self._reported: dict[SetKey, Status] = {}

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
        self.fleet.fold(record)
        if isinstance(record.message, StatusReported):
            self._status_heard(record.message.status)

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
        for key in sorted(self.fleet.dirty - self._in_flight):
            if len(found) >= count_max:
                break
            state = self.fleet.sets.get(key)
            if state is not None:
                proposal = propose(self.fleet, key, self.name)
                self._to_report.add(key)
                if proposal is None and state.blocked_until > self.fleet.sequence:
                    continue  # stays dirty: its batch is still on its way in
                if proposal is not None:
                    self._in_flight.add(key)
                    found.append(proposal)
            self.fleet.dirty.discard(key)
        return found

    def accepted(self, key: SetKey, last_sequence: int) -> None:
        """A proposal was taken; its messages will come back on the log, the last with this sequence."""
        self._in_flight.discard(key)
        self._block(key, last_sequence)

    def refused(self, key: SetKey, last_decision: int | None) -> None:
        """A proposal was not taken: look again when more of the log has been folded.

        Args:
            key: The set.
            last_decision: The sequence that the server named as the last decision; ``None`` if it named none.
        """
        self._in_flight.discard(key)
        self.fleet.dirty.add(key)
        state = self.fleet.sets.get(key)
        if state is None or last_decision is None:
            return
        if last_decision <= self.fleet.sequence:
            # The log has been folded past it, so its commands have been heard, have expired, or left with it.
            state.fence = last_decision
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
        for key in sorted(self._to_report):
            state = self.fleet.sets.get(key)
            status = None if state is None else compute_status(state)
            if state is None or status is None:
                self._reported.pop(key, None)
            elif status != self._reported.get(key, state.status):
                self._reported[key] = status
                found.append(status)
        self._to_report.clear()
        return found

    def unreported(self, status: Status) -> None:
        """A status could not be written: it will be reported again."""
        self._reported.pop(status.set_key, None)
        self._to_report.add(status.set_key)

    def due(self) -> Due | None:
        """Return what, in log time, time alone will ask for first."""
        return self.fleet.due()

    def shard(self, key: SetKey) -> int:
        """Return the shard of a set."""
        return shard_of(key, self.shards)

    @property
    def settled(self) -> bool:
        """Nothing is to be decided or reported, and no command is waiting for its effect."""
        if self.fleet.dirty or self._in_flight or self._to_report:
            return False
        return not any(state.pending for state in self.fleet.sets.values())
