"""What people do to a rollout: pause, resume, restart and undo it.

The command line calls these. Each writes the set anew and nothing else; what follows from that is up to the workers.
The words of the refusals are kubectl's.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import structs

from everynode.core.values import ROLLING_UPDATE, DaemonSet, Revision, SetKey
from everynode.errors import RefusedError
from everynode.ports import Clock
from everynode.runtime import byhand
from everynode.runtime.applying import Applied, amend
from everynode.runtime.bus import FleetBus
from everynode.runtime.clock import SystemClock, timestamp
from everynode.runtime.revisions import PREVIOUS, current_hash, find_revision, history_of
from everynode.runtime.view import read_view


class Undone(NamedTuple):
    """What became of an ``undo``; ``applied`` is unchanged if the set has that template already."""

    applied: Applied
    revision: Revision


async def pause(bus: FleetBus, key: SetKey, *, clock: Clock | None = None) -> Applied:
    """Keep a set's rollout from replacing pods, until ``resume``, whatever its manifest says.

    Raises:
        RefusedError: There is no such set, it is paused already, or it has no rollouts.
        EverynodeError: As ``amend``.
    """
    at = timestamp((clock or SystemClock()).now_ms())

    def change(daemonset: DaemonSet) -> DaemonSet:
        _check_has_rollouts(daemonset)
        if daemonset.update_strategy.paused:
            raise RefusedError(f"{_named(key)} is already paused")
        return byhand.paused(daemonset, at)

    return await amend(bus, key, change)


async def resume(bus: FleetBus, key: SetKey) -> Applied:
    """Let a paused rollout go on.

    Raises:
        RefusedError: There is no such set, it is not paused, or it has no rollouts.
        EverynodeError: As ``amend``.
    """

    def change(daemonset: DaemonSet) -> DaemonSet:
        _check_has_rollouts(daemonset)
        if not daemonset.update_strategy.paused:
            raise RefusedError(f"{_named(key)} is not paused")
        return byhand.resumed(daemonset)

    return await amend(bus, key, change)


async def restart(bus: FleetBus, key: SetKey, *, clock: Clock | None = None) -> Applied:
    """Have all pods of a set made anew, by a rollout.

    Raises:
        RefusedError: There is no such set, or its rollout is paused.
        EverynodeError: As ``amend``.
    """
    at = timestamp((clock or SystemClock()).now_ms())

    def change(daemonset: DaemonSet) -> DaemonSet:
        if is_paused(daemonset):
            raise RefusedError(
                f"{_named(key)} can't restart paused daemonset (run rollout resume first)"
            )
        return byhand.restarted(daemonset, at)

    return await amend(bus, key, change)


async def undo(
    bus: FleetBus, key: SetKey, to_revision: int = PREVIOUS, *, dry_run: bool = False
) -> Undone:
    """Give a set back a template that it had.

    Args:
        bus: The fleet's log.
        key: Which set.
        to_revision: Number of the revision to return to, or ``PREVIOUS``.
        dry_run: Publish nothing.

    Raises:
        RefusedError: There is no such set or no such revision.
        EverynodeError: As ``amend``.
    """
    view = await read_view(bus, ("revision",), key)
    chosen: list[Revision] = []

    def change(daemonset: DaemonSet) -> DaemonSet:
        revision = find_revision(history_of(key, view.revisions.values()), daemonset, to_revision)
        chosen[:] = [revision]
        if revision.hash == current_hash(daemonset):
            return daemonset
        return structs.replace(daemonset, template=revision.template)

    applied = await amend(bus, key, change, dry_run=dry_run)
    return Undone(applied, chosen[0])


def is_paused(daemonset: DaemonSet) -> bool:
    """Say whether a set has rollouts and they are paused."""
    strategy = daemonset.update_strategy
    return strategy.type == ROLLING_UPDATE and strategy.paused


def _check_has_rollouts(daemonset: DaemonSet) -> None:
    if daemonset.update_strategy.type != ROLLING_UPDATE:
        message = (
            f"{_named(daemonset.key)} has no rollout to pause or resume: its update strategy is "
            f"{daemonset.update_strategy.type}, and pods are replaced when somebody deletes them; "
            f"write spec.updateStrategy.type: {ROLLING_UPDATE} and apply it"
        )
        raise RefusedError(message)


def _named(key: SetKey) -> str:
    return f'daemonsets.apps "{key.name}"'
