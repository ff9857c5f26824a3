"""How a plan is written: as text for people, and as a document for programs.

Used by `plan`. It knows nothing of how a plan comes about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from everynode.cli.listing import selector_text
from everynode.cli.quantities import show_seconds
from everynode.cli.resources import DAEMONSETS
from everynode.cli.tables import BAD, GOOD, WAITING, Cell, Columns, Row
from everynode.cli.terminal import harmless
from everynode.core.budget import allows_surge
from everynode.core.values import ON_DELETE, NodeKey, UpdateStrategy
from everynode.replay.planning import Group, PlannedSet
from everynode.replay.planning_nodes import Happening

NAMES_SHOWN_MAX = 10
WAVES_SHOWN_MAX = 5

_STYLES = {
    Happening.GAIN: GOOD,
    Happening.ADOPT: GOOD,
    Happening.REPLACE: WAITING,
    Happening.LOSE: BAD,
    Happening.RELEASE: BAD,
    Happening.TRIM: WAITING,
}


def print_plan(
    plans: Sequence[PlannedSet], on_their_way: int, refused: int, *, everything: bool
) -> None:
    """Print a plan.

    Args:
        plans: What would become of each set.
        on_their_way: How many commands are on their way.
        refused: How many documents are refused.
        everything: Name every node and show every wave.
    """
    for planned in plans:
        _print_set(planned, everything=everything)
        print()
    if on_their_way:
        print(f"Taken as done: {on_their_way} commands that are on their way.")
    counts = Counter(planned.action for planned in plans)
    parts = [
        f"{counts['created']} to create",
        f"{counts['configured']} to change",
        f"{counts['unchanged']} unchanged",
        *([f"{refused} refused"] if refused else []),
    ]
    print(f"Plan: {', '.join(parts)}.", flush=True)


def _print_set(planned: PlannedSet, *, everything: bool) -> None:
    daemonset = planned.daemonset
    generation = f"generation {daemonset.generation}"
    name = f"{DAEMONSETS.qualified}/{daemonset.name}"
    print(f"{name} {planned.action} (namespace {daemonset.namespace}, {generation})")
    for change in planned.changes:
        print(harmless(f"  {change.field}: {change.was} -> {change.is_now}"))
    print(f"Nodes: {planned.eligible} of {planned.nodes} are eligible")
    shown = [group for group in planned.groups if group.nodes]
    rows: list[Row] = [
        [
            Cell(group.happening, _STYLES.get(group.happening, "")),
            str(len(group.nodes)),
            _reasons(group.reasons),
            _names(group.nodes, everything=everything),
        ]
        for group in shown
    ]
    if rows:
        Columns(["NODES", "COUNT", "REASONS", "NAMES"], rows).print()
    if planned.excluded:
        print("Not eligible (a node counts for each of its reasons):")
        excluded: list[Row] = [
            [str(count), reason.code, harmless(reason.message)]
            for reason, count in planned.excluded
        ]
        Columns(["COUNT", "REASON", "MESSAGE"], excluded).print()
    _print_rollout(planned, everything=everything)
    for warning in planned.warnings:
        print(f"Warning: {warning.code}: {harmless(warning.message)}")


def _reasons(reasons: Mapping[str, int]) -> str:
    if len(reasons) == 1:
        return next(iter(reasons))
    return ", ".join(f"{reason} {number}" for reason, number in reasons.items())


def _names(nodes: Sequence[NodeKey], *, everything: bool) -> str:
    shown = nodes if everything else nodes[:NAMES_SHOWN_MAX]
    text = ", ".join(harmless(key.name) for key in shown)
    left = len(nodes) - len(shown)
    return f"{text} and {left} more" if left else text


# --- the rollout ------------------------------------------------------------------------------------------------------


def _print_rollout(planned: PlannedSet, *, everything: bool) -> None:
    waves = planned.waves.waves
    print(f"Rollout: {'; '.join(_rollout_parts(planned))}")
    if waves:
        _print_waves(waves, everything=everything)


def _rollout_parts(planned: PlannedSet) -> Iterator[str]:
    strategy, budget = planned.daemonset.update_strategy, planned.waves.budget
    if strategy.type == ON_DELETE:
        yield "OnDelete replaces nothing by itself"
    elif allows_surge(strategy):
        yield f"on at most {budget.max_surge} of {planned.eligible} nodes at a time a new pod beside the old one"
    else:
        yield f"at most {budget.max_unavailable} of {planned.eligible} nodes without an available pod at a time"
    if strategy.type != ON_DELETE:
        yield from _holds(strategy, budget.partition)
    count = len(planned.waves.waves)
    if count:
        nodes = sum(map(len, planned.waves.waves))
        yield f"{nodes} nodes in {count} waves" if count > 1 else f"{nodes} nodes in 1 wave"
    if planned.waves.broken:
        yield f"first {planned.waves.broken} whose pod is not ready"
    seconds = planned.daemonset.min_ready_seconds
    if count and seconds:
        yield f"a wave takes at least {show_seconds(seconds)}, all of them {show_seconds(count * seconds)}"


def _holds(strategy: UpdateStrategy, partition: int) -> Iterator[str]:
    if strategy.paused:
        yield "paused"
    if partition:
        yield f"{partition} stay on their old revision"
    if strategy.selector is not None:
        yield f"only nodes with {selector_text(strategy.selector)}"


def _print_waves(waves: Sequence[Sequence[NodeKey]], *, everything: bool) -> None:
    shown = waves if everything else waves[:WAVES_SHOWN_MAX]
    rows: list[Row] = []
    total = 0
    for number, wave in enumerate(shown, 1):
        total += len(wave)
        names = _names(wave, everything=everything)
        rows.append([str(number), str(len(wave)), str(total), names])
    left = waves[len(shown) :]
    if left:
        sizes = sorted({len(wave) for wave in left})
        size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]}-{sizes[-1]}"
        total += sum(map(len, left))
        last = f"... {harmless(left[-1][-1].name)}"
        rows.append([f"{len(shown) + 1}-{len(waves)}", size, str(total), last])
    Columns(["WAVE", "COUNT", "TOTAL", "NAMES"], rows).print()


# --- for programs -----------------------------------------------------------------------------------------------------


def plan_document(
    plans: Sequence[PlannedSet], on_their_way: int, refused: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write a plan for `-o json`; every node is named, every wave is there."""
    return {
        "changes": any(planned.action != "unchanged" for planned in plans),
        "commandsOnTheirWay": on_their_way,
        "daemonsets": [_set_document(planned) for planned in plans],
        "refused": list(refused),
    }


def _set_document(planned: PlannedSet) -> dict[str, Any]:
    daemonset = planned.daemonset
    uid = {} if planned.action == "created" else {"uid": daemonset.uid}
    return {
        "namespace": daemonset.namespace,
        "name": daemonset.name,
        **uid,
        "generation": daemonset.generation,
        "action": planned.action,
        "changes": [
            {"field": change.field, "was": change.was, "isNow": change.is_now}
            for change in planned.changes
        ],
        "nodes": {
            "total": planned.nodes,
            "eligible": planned.eligible,
            **{group.happening.value: _group_document(group) for group in planned.groups},
            "excluded": [
                {"code": reason.code, "message": reason.message, "nodes": count}
                for reason, count in planned.excluded
            ],
        },
        "rollout": _rollout_document(planned),
        "warnings": [warning._asdict() for warning in planned.warnings],
    }


def _group_document(group: Group) -> dict[str, Any]:
    return {
        "count": len(group.nodes),
        "reasons": group.reasons,
        "nodes": [key._asdict() for key in group.nodes],
    }


def _rollout_document(planned: PlannedSet) -> dict[str, Any]:
    daemonset, waves = planned.daemonset, planned.waves
    strategy = daemonset.update_strategy
    selector = {} if strategy.selector is None else {"selector": selector_text(strategy.selector)}
    return {
        "type": strategy.type,
        "maxUnavailable": waves.budget.max_unavailable,
        "maxSurge": waves.budget.max_surge,
        "partition": waves.budget.partition,
        "paused": strategy.paused,
        **selector,
        "minReadySeconds": daemonset.min_ready_seconds,
        "notReadyFirst": waves.broken,
        "usingUpTheBudget": waves.stuck,
        "held": dict(sorted(Counter(waves.held.values()).items())),
        "waves": [[key._asdict() for key in wave] for wave in waves.waves],
    }
