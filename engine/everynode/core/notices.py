"""What people are told: commands that worked or did not, and how a rollout goes. Repeats are told as one.

Kept by ``machine``, which hands it what happens and takes from it what is to be written, as often as statuses are.
Reasons are Kubernetes' own where it has one (pkg/controller/controller_utils.go, daemon_controller.go); it has none
for a rollout. Nothing is decided here, and what is lost with a worker is lost: as in Kubernetes, this is for people.
"""

from __future__ import annotations

from typing import Literal

from msgspec import structs

from everynode.core.claims import POD_FAILED, POD_SUCCEEDED
from everynode.core.commands import Command, Outcome
from everynode.core.conditions import (
    PROGRESS_DEADLINE_EXCEEDED,
    ROLLOUT_COMPLETE,
    ROLLOUT_HELD,
    ROLLOUT_PAUSED,
)
from everynode.core.setstate import PROGRESSING, ROLLOUT_PROGRESSING
from everynode.core.values import Condition, Notice, SetKey, Status

SELECTING_ALL = "SelectingAll"
FAILED_DAEMON_POD = "FailedDaemonPod"
SUCCEEDED_DAEMON_POD = "SucceededDaemonPod"
ROLLOUT_STARTED = "RolloutStarted"
ROLLOUT_STALLED = "RolloutStalled"
NODE_SKIPPED = "NodeSkipped"

PROGRESS_INTERVAL_MS = 10_000
"""How often a rollout is said to go on."""

MESSAGE_LENGTH_MAX = 1_024
NODES_NAMED_MAX = 5

Type = Literal["Normal", "Warning"]

_ENDED: dict[str, tuple[str, Type, str]] = {
    POD_FAILED: (FAILED_DAEMON_POD, "Warning", "failed"),
    POD_SUCCEEDED: (SUCCEEDED_DAEMON_POD, "Normal", "ended"),
}
_TURNS: dict[str, tuple[str, Type]] = {
    ROLLOUT_COMPLETE: (ROLLOUT_COMPLETE, "Normal"),
    ROLLOUT_HELD: (ROLLOUT_HELD, "Normal"),
    ROLLOUT_PAUSED: (ROLLOUT_PAUSED, "Normal"),
    PROGRESS_DEADLINE_EXCEEDED: (ROLLOUT_STALLED, "Warning"),
}
_DONE = {
    "create": "Created",
    "delete": "Deleted",
    "adopt": "Adopted",
    "release": "Released",
}


class NoticeBoard:
    """Notices that are waiting to be written: at most one for each set and reason."""

    def __init__(self) -> None:
        """Start with nothing to say."""
        self._waiting: dict[tuple[SetKey, str], Notice] = {}
        self._progress_told_ms: dict[SetKey, int] = {}
        self._all_selecting: dict[SetKey, str] = {}

    def __bool__(self) -> bool:
        """There is something to say."""
        return bool(self._waiting)

    def take(self) -> list[Notice]:
        """Return what is to be written, set by set, in the order in which it happened; it is not waiting any more."""
        waiting, self._waiting = self._waiting, {}
        return sorted(waiting.values(), key=lambda notice: (notice.set_key, notice.first_ms))

    def put_back(self, notice: Notice) -> None:
        """Say this later, as it could not be written; what came meanwhile is added."""
        key = (notice.set_key, notice.reason)
        later = self._waiting.get(key)
        self._waiting[key] = notice if later is None else joined(notice, later)

    def _tell(
        self,
        key: SetKey,
        uid: str,
        kind: Type,
        reason: str,
        message: str,
        now_ms: int,
        node: str = "",
        pod: str = "",
    ) -> None:
        notice = Notice(
            namespace=key.namespace,
            daemonset=key.name,
            daemonset_uid=uid,
            type=kind,
            reason=reason,
            message=message[:MESSAGE_LENGTH_MAX],
            node=node,
            pod=pod,
            first_ms=now_ms,
            last_ms=now_ms,
        )
        earlier = self._waiting.get((key, reason))
        self._waiting[key, reason] = notice if earlier is None else joined(earlier, notice)

    def command_settled(self, command: Command, outcome: Outcome, now_ms: int) -> None:
        """A command was carried out, or was not; one that was no longer wanted is not worth a word."""
        if outcome.result == "superseded":
            return
        good = outcome.result == "done"
        verb = command.verb
        text = f"pod {command.pod} on node {command.node}"
        message = f"{_DONE[verb]} {text}" if good else f"Could not {verb} {text}: {outcome.message}"
        reason = f"{'Successful' if good else 'Failed'}{verb.capitalize()}"
        kind: Type = "Normal" if good else "Warning"
        where = (command.node, command.pod)
        self._tell(command.set_key, command.daemonset_uid, kind, reason, message, now_ms, *where)

    def command_decided(self, command: Command, now_ms: int) -> None:
        """A command was decided; that a pod has ended is worth a word."""
        if command.reason not in _ENDED:
            return
        reason, kind, ended = _ENDED[command.reason]
        message = f"Pod {command.pod} on node {command.node} has {ended} and is replaced"
        where = (command.node, command.pod)
        self._tell(command.set_key, command.daemonset_uid, kind, reason, message, now_ms, *where)

    def selects_all(self, key: SetKey, uid: str, now_ms: int) -> None:
        """A set's selector is empty; it is told once."""
        if self._all_selecting.get(key) == uid:
            return
        self._all_selecting[key] = uid
        message = "The selector selects every pod; nothing is done until it names labels"
        self._tell(key, uid, "Warning", SELECTING_ALL, message, now_ms)

    def status_changed(self, before: Status | None, after: Status, now_ms: int) -> None:
        """A status is reported that differs from the one before."""
        was = None if before is None else before.condition(PROGRESSING)
        now = after.condition(PROGRESSING)
        if now is None:
            return
        key, uid = after.set_key, after.daemonset_uid
        began = before is None or before.revision != after.revision
        now = structs.replace(now, message=f"Revision {after.revision}: {now.message}")
        if began:
            self._progress_told_ms[key] = now_ms
            self._tell(key, uid, "Normal", ROLLOUT_STARTED, now.message, now_ms)
        if began or was is None or was.reason != now.reason:
            self._rollout_turned(key, uid, now, now_ms, began=began)
        elif now.reason == ROLLOUT_PROGRESSING and now.last_update_ms != was.last_update_ms:
            self._rollout_goes_on(key, uid, now, now_ms)

    def _rollout_turned(
        self, key: SetKey, uid: str, now: Condition, now_ms: int, *, began: bool
    ) -> None:
        if now.reason in _TURNS:
            reason, kind = _TURNS[now.reason]
            self._tell(key, uid, kind, reason, now.message, now_ms)
        elif now.reason == ROLLOUT_PROGRESSING and not began:
            self._rollout_goes_on(key, uid, now, now_ms)

    def _rollout_goes_on(self, key: SetKey, uid: str, now: Condition, now_ms: int) -> None:
        told_ms = self._progress_told_ms.get(key)
        if told_ms is None or now_ms - told_ms >= PROGRESS_INTERVAL_MS:
            self._progress_told_ms[key] = now_ms
            self._tell(key, uid, "Normal", ROLLOUT_PROGRESSING, now.message, now_ms)

    def nodes_skipped(self, key: SetKey, uid: str, names: list[str], now_ms: int) -> None:
        """A rollout passes over these nodes, in order."""
        if not names:
            return
        shown = ", ".join(names[:NODES_NAMED_MAX])
        others = f" and {len(names) - NODES_NAMED_MAX} more" if names[NODES_NAMED_MAX:] else ""
        message = (
            f"Skipped, as they were not ready before they got the new revision: {shown}{others}"
        )
        self._tell(key, uid, "Normal", NODE_SKIPPED, message, now_ms, names[0])

    def forget(self, key: SetKey) -> None:
        """A set is gone."""
        self._progress_told_ms.pop(key, None)
        self._all_selecting.pop(key, None)


def joined(earlier: Notice, later: Notice) -> Notice:
    """Make one of two notices with the same reason about the same set: it says what the later one says."""
    return structs.replace(
        later,
        count=earlier.count + later.count,
        first_ms=min(earlier.first_ms, later.first_ms),
        last_ms=max(earlier.last_ms, later.last_ms),
    )
