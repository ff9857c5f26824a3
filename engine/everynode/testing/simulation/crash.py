"""Kills a program at each step of its run, every time in a small fleet of its own, and compares what comes of it.

Two nodes are covered, then their pods are replaced by a new version. Whether the worker or the adapter host dies, and
at whichever step: the one that is started after it must bring about the same world, with no pod made twice on the way.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from everynode import wire
from everynode.core.events import DaemonSetObserved, PodObserved
from everynode.core.identity import canonical
from everynode.core.values import DaemonSet, Selector, SetKey, UpdateStrategy
from everynode.ports import Outgoing
from everynode.runtime import applying
from everynode.testing.simulation.checks import Violation
from everynode.testing.simulation.config import Configuration
from everynode.testing.simulation.loop import VirtualLoop
from everynode.testing.simulation.people import NAMESPACE, Habits
from everynode.testing.simulation.roles import Role
from everynode.testing.simulation.run import silent
from everynode.testing.simulation.stage import Stage

NAME = "agent"
CHANGED_AFTER_S = 4
REST_MS_MAX = 900_000
QUIET_MS = 20_000
STEPS_MAX = 500_000

Victim = Literal["worker", "host"]


class World(NamedTuple):
    """What came of a run.

    Attributes:
        pods: Node, revision, phase and readiness of each pod in the end.
        made: On which node a pod of which revision was ever made, each as often as it was.
        steps: How many steps the first process of the victim made until all was done.
        violations: What was wrong.
    """

    pods: tuple[tuple[str, str, str, bool], ...]
    made: tuple[tuple[str, str], ...]
    steps: int
    violations: tuple[Violation, ...]


class Difference(NamedTuple):
    """A death that was not made good."""

    victim: Victim
    step: int
    text: str


def _version(image: str) -> msgspec.Raw:
    template = {"metadata": {"labels": {"app": NAME}}, "spec": {"image": image}}
    return msgspec.Raw(canonical(json.dumps(template).encode()))


async def _want(stage: Stage) -> None:
    """Want a set, then another version of it."""
    bus = stage.server.bus(stage.outside)
    daemonset = DaemonSet(
        namespace=NAMESPACE,
        name=NAME,
        uid="set-agent",
        generation=1,
        selector=Selector(match_labels={"app": NAME}),
        template=_version("v1"),
        update_strategy=UpdateStrategy(type="RollingUpdate"),
    )
    message = DaemonSetObserved(daemonset=daemonset)
    await bus.publish_fenced([Outgoing(bus.subjects.of(message), wire.encode(message))], 0)
    await asyncio.sleep(CHANGED_AFTER_S)
    await applying.amend(
        bus, SetKey(NAMESPACE, NAME), lambda before: replace(before, template=_version("v2"))
    )


def play(victim: Victim, death: int | None, seed: int = 1) -> World:
    """Run the small fleet.

    Args:
        victim: Who dies.
        death: After how many of its steps; ``None``: not at all.
        seed: What chance there is comes from.
    """
    configuration = Configuration(nodes=2, habits=Habits(people_ms=0, outside_ms=0))
    with silent(), VirtualLoop(random.Random(seed)) as loop:
        stage = Stage(loop, configuration)
        for outsiders in stage.outsiders:
            outsiders.begin(configuration.nodes)
        stage.outside.spawn(_want(stage))
        for role in stage.roles:
            role.start()
        doomed: Role = stage.workers[0] if victim == "worker" else stage.hosts[0]
        process = doomed.process
        if death is not None:
            loop.run_until(lambda: process.steps >= death, steps_max=STEPS_MAX)
            doomed.kill(restart_after_ms=0)
        steps = _steps_until_done(stage, doomed) if death is None else death
        stage.run_to_rest(REST_MS_MAX, STEPS_MAX, QUIET_MS)
        (cluster,) = stage.clusters
        pods = sorted(
            (pod.node, pod.revision, pod.phase, pod.ready) for pod in cluster.pods.values()
        )
        born = {
            change.pod.uid: (change.pod.node, change.pod.revision)
            for change in cluster.changes
            if isinstance(change, PodObserved)
        }
        return World(
            tuple(pods), tuple(sorted(born.values())), steps, tuple(dict.fromkeys(stage.violations))
        )


def _steps_until_done(stage: Stage, role: Role) -> int:
    """Run until the new version is everywhere; returns how many steps a program made until then."""
    stage.run_for(CHANGED_AFTER_S * 1_000 + 500, STEPS_MAX)
    while not stage.violations and stage.wrong():
        stage.run_for(50, STEPS_MAX)
    return role.process.steps


def sweep(victim: Victim, *, every: int = 1, seed: int = 1) -> Iterator[Difference | None]:
    """Kill a program at each of its steps, or some of them; yields ``None`` for each death that was made good."""
    expected = play(victim, None, seed)
    for step in range(1, expected.steps + 1, every):
        found = play(victim, step, seed)
        if found.violations:
            yield Difference(victim, step, str(found.violations[0]))
        elif found.pods != expected.pods:
            yield Difference(victim, step, f"{found.pods}, not {expected.pods}")
        elif len(found.made) != len(set(found.made)) or not set(found.made) <= set(expected.made):
            yield Difference(victim, step, f"made: {found.made}, not {expected.made}")
        else:
            yield None
