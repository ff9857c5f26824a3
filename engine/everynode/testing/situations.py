"""Situations to decide in: a world with these nodes, this set and these pods, and what one decision asks for.

For tests of the core; nothing here checks anything.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import structs

from everynode.core.commands import CreatePod, DeletePod, Outcome
from everynode.core.pacing import Limits
from everynode.core.values import DaemonSet, Node, Pod, SetKey
from everynode.testing.builders import BACKEND, daemonset, node, pod
from everynode.testing.world import World

SET = SetKey("default", "agent")
AGENT = daemonset()


def warmed(limits: Limits | None = None, creates_count: int = 300) -> World:
    """Make a world in which creates of the set have gone well, so that slow start does not hold it back."""
    world = World(limits)
    for number in range(creates_count):
        world.write(
            Outcome(
                id=f"earlier-{number}",
                backend=BACKEND,
                namespace=SET.namespace,
                daemonset=SET.name,
                verb="create",
                result="done",
            )
        )
    return world


class Asked(NamedTuple):
    """What one decision asks for: the nodes of its creates, and pods with the reasons of its deletes."""

    creates: list[str]
    deletes: list[tuple[str, str]]


NOTHING = Asked([], [])


def asked(world: World) -> Asked:
    """Let the worker decide once."""
    others = [message for proposal in world.decide() for message in proposal.others]
    return Asked(
        [item.node for item in others if isinstance(item, CreatePod)],
        [(item.pod, item.reason) for item in others if isinstance(item, DeletePod)],
    )


def situation(
    wanted: DaemonSet | None, nodes: list[Node], pods: list[Pod], limits: Limits | None = None
) -> World:
    """Make a world with these nodes, this set and these pods."""
    world = warmed(limits)
    for item in nodes:
        world.put_node(item)
    if wanted is not None:
        world.apply(wanted)
    for running in pods:
        world.put_pod(running)
    return world


def alike(count: int, *taints: str, **labels: str) -> list[Node]:
    """Make nodes that are alike."""
    return [
        structs.replace(node(f"node-{number}", *taints), labels=labels) for number in range(count)
    ]


def pods_on(on: Node, count: int, owner: DaemonSet = AGENT, **changes: Any) -> list[Pod]:
    """Make pods of a set on one node, the oldest first."""
    return [
        pod(owner, on, f"{on.name}-{age}", created_ms=age + 1, **changes) for age in range(count)
    ]
