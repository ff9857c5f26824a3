"""What `describe` says about the updates of a set: strategy, conditions, nodes by reason, events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from everynode.cli.event_folding import Told
from everynode.cli.listing import selector_text
from everynode.cli.quantities import show_seconds
from everynode.cli.tables import NONE, Columns, Row, age
from everynode.core.values import ROLLING_UPDATE, DaemonSet, Revision, Status
from everynode.runtime.byhand import PAUSED_AT

EVENTS_MAX = 20
"""So many of the last events are shown; `everynode events` has them all."""

Field = tuple[str, str]


def strategy_fields(daemonset: DaemonSet) -> list[Field]:
    """Write the update strategy."""
    strategy = daemonset.update_strategy
    if strategy.type != ROLLING_UPDATE:
        return [("Update Strategy", f"{strategy.type} (a pod is replaced when it is deleted)")]
    unavailable, surge = strategy.max_unavailable, strategy.max_surge
    deadline = strategy.progress_deadline_seconds
    nodes = "every node" if strategy.selector is None else selector_text(strategy.selector)
    skip = strategy.unreachable_nodes == "Skip"
    return [
        (
            "Update Strategy",
            f"{strategy.type} (max unavailable {unavailable}, max surge {surge})",
        ),
        ("  Paused", _pause(daemonset)),
        ("  Partition", _partition(strategy.partition)),
        ("  Node Selector", nodes),
        ("  Progress Deadline", show_seconds(deadline) if deadline else NONE),
        (
            "  Unreachable Nodes",
            "skipped" if skip else "count as unavailable",
        ),
    ]


def _partition(partition: int | str) -> str:
    many = f"{partition} of the" if isinstance(partition, str) else str(partition)
    return f"{many} nodes stay on their old revision"


def _pause(daemonset: DaemonSet) -> str:
    if not daemonset.update_strategy.paused:
        return "no"
    by_hand = daemonset.annotations.get(PAUSED_AT)
    return f"yes, by hand since {by_hand}" if by_hand else "yes"


def revision_field(status: Status, revisions: Iterable[Revision]) -> Field:
    """Write the revision that is wanted, with its number if it is on record."""
    number = next((each.number for each in revisions if each.hash == status.revision), None)
    text = status.revision or NONE
    return ("Revision", text if number is None else f"{number} ({text})")


def reason_fields(status: Status) -> list[Field]:
    """Write the nodes by reason: those that should have no pod, and those whose pod is not as it should be."""
    return [
        ("Excluded Nodes", _counts(status.excluded_nodes)),
        ("Waiting Nodes", _counts(status.waiting_nodes)),
    ]


def _counts(nodes: Mapping[str, int]) -> str:
    found = sorted(nodes.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in found) or NONE


def condition_lines(status: Status, now_ms: int) -> list[str]:
    """Write the conditions as a table."""
    if not status.conditions:
        return []
    rows: list[Row] = [
        [
            condition.type,
            condition.status,
            condition.reason,
            age(condition.last_transition_ms, now_ms),
            condition.message,
        ]
        for condition in status.conditions
    ]
    columns = Columns(["TYPE", "STATUS", "REASON", "SINCE", "MESSAGE"], rows)
    return ["Conditions:", *(f"  {line}" for line in columns.lines())]


def event_lines(events: Sequence[Told], now_ms: int) -> list[str]:
    """Write the last events as a table."""
    if not events:
        return [f"Events:  {NONE}"]
    rows: list[Row] = [
        [
            age(told.last_ms, now_ms),
            str(told.count),
            told.notice.type,
            told.notice.reason,
            " ".join(told.message.split()),
        ]
        for told in events[-EVENTS_MAX:]
    ]
    columns = Columns(["LAST SEEN", "COUNT", "TYPE", "REASON", "MESSAGE"], rows)
    return ["Events:", *(f"  {line}" for line in columns.lines())]
