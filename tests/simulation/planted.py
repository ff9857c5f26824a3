"""Bugs, planted on purpose: each changes one thing in the program for as long as it is in force.

The simulator has to find each of them (see ``test_planted``); if it did not, that it finds nothing else would mean
little. Each is a mistake that somebody could make.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import everynode.core.decision
import everynode.core.rollout
from everynode.core.budget import Budget, budget_of
from everynode.core.setstate import SetState
from everynode.core.state import Due, FleetState
from everynode.core.values import Pod, UpdateStrategy
from everynode.testing.simulation.server import SimulatedServer

Planted = Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def random_pod_names() -> contextlib.AbstractContextManager[None]:
    """A pod's name is drawn, so that a repeat does not meet itself."""

    def pod_name(daemonset: str, *_: object) -> str:
        return f"{daemonset}-{random.getrandbits(40):010x}"

    return _replaced(everynode.core.decision, "pod_name", pod_name)


def no_fence() -> contextlib.AbstractContextManager[None]:
    """The log takes whatever it is given."""

    def check_fence(_: SimulatedServer, subject: str, expected: int) -> None:
        """Refuse nothing."""

    return _replaced(SimulatedServer, "check_fence", check_fence)


def fold_not_idempotent() -> contextlib.AbstractContextManager[None]:
    """A pod that is heard of twice is put on its node twice."""
    put_pod = SetState.put_pod

    def put_twice(self: SetState, pod: Pod, sequence: int) -> None:
        known = self.pods.get(pod.key)
        put_pod(self, pod, sequence)
        if known is not None and known.sequence >= sequence:
            self.pods_on[pod.node_key] = (*self.pods_on.get(pod.node_key, ()), pod.key)
            self.touched.add(pod.node_key)

    return _replaced(SetState, "put_pod", put_twice)


def budget_off_by_one() -> contextlib.AbstractContextManager[None]:
    """A rollout takes one pod more than it may."""

    def one_more(strategy: UpdateStrategy, desired: int) -> Budget:
        budget = budget_of(strategy, desired)
        return budget._replace(max_unavailable=budget.max_unavailable + 1)

    return _replaced(everynode.core.rollout, "budget_of", one_more)


def pending_never_expires() -> contextlib.AbstractContextManager[None]:
    """A command of which nothing is heard is waited for for ever."""
    await_due = FleetState._await

    def await_others(self: FleetState, due: Due) -> None:
        if not due.command_id:
            await_due(self, due)

    return _replaced(FleetState, "_await", await_others)


PLANTED: dict[str, tuple[Planted, frozenset[str]]] = {
    "random pod names": (random_pod_names, frozenset({"S1"})),
    "no fence": (no_fence, frozenset({"S6", "S1"})),
    "fold not idempotent": (fold_not_idempotent, frozenset({"S3", "L1", "L2", "S1"})),
    "budget off by one": (budget_off_by_one, frozenset({"S3"})),
    "pending never expires": (pending_never_expires, frozenset({"L1"})),
}
"""Each bug, and the promises of which one is broken by it."""
