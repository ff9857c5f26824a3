"""How many nodes may a rollout touch at a time: the arithmetic of maxUnavailable, maxSurge and partition.

Used by ``setstate``, ``rollout`` and ``status``. It knows numbers only, no nodes. Source:
pkg/controller/daemon/update.go (updatedDesiredNodeCounts) and util/daemonset_util.go (AllowsSurge, UnavailableCount,
SurgeCount).
"""

from __future__ import annotations

import re
from typing import NamedTuple

from everynode.core.values import ROLLING_UPDATE, DaemonSet, UpdateStrategy
from everynode.errors import InvalidObjectError, Problem

_PERCENT = re.compile(r"0{0,2}(100|[0-9]{1,2})%")


class Budget(NamedTuple):
    """What a rollout over a number of eligible nodes may do; numbers of nodes.

    Attributes:
        max_unavailable: So many may be without an available pod before the rollout takes down one more.
        max_surge: On so many a new pod may become available beside the old one.
        partition: So many stay on the old revision.
    """

    max_unavailable: int
    max_surge: int
    partition: int


def budget_of(strategy: UpdateStrategy, desired: int) -> Budget:
    """Work out the budget for a number of eligible nodes, as it is now.

    Percentages are rounded up. If both limits come out as 0 although there are nodes, one may be unavailable: else the
    rollout could never begin.
    """
    max_unavailable = _scaled(strategy.max_unavailable, desired)
    max_surge = _scaled(strategy.max_surge, desired)
    if desired and not max_unavailable and not max_surge:
        max_unavailable = 1
    return Budget(max_unavailable, max_surge, _scaled(strategy.partition, desired))


def allows_surge(strategy: UpdateStrategy) -> bool:
    """Say whether a node may have an old and a new pod at the same time."""
    return strategy.type == ROLLING_UPDATE and _scaled(strategy.max_surge, 1) > 0


def check_strategy(daemonset: DaemonSet) -> None:
    """Make sure that the limits can be worked out.

    Raises:
        InvalidObjectError: One is neither a whole number nor a percentage up to 100.
    """
    strategy = daemonset.update_strategy
    limits = {
        "maxUnavailable": strategy.max_unavailable,
        "maxSurge": strategy.max_surge,
        "partition": strategy.partition,
    }
    problems = tuple(
        Problem(
            f"spec.updateStrategy.rollingUpdate.{name}",
            f"is {value!r}: write a whole number, or 0% to 100%",
        )
        for name, value in limits.items()
        if not (_PERCENT.fullmatch(value) if isinstance(value, str) else value >= 0)
    )
    if problems:
        raise InvalidObjectError(f"DaemonSet {daemonset.key}", problems)


def _scaled(value: int | str, total: int) -> int:
    if isinstance(value, int):
        return value
    percent = int(value.removesuffix("%"))
    return -(-percent * total // 100)
