"""What in a plan is probably not what was meant: a rollout that stands still, pods that are on no node, and the like.

Used by ``planning``. Each warning has a code for programs and a sentence for people. It looks at what was worked out
already, and at the pod template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from everynode.core.eligibility import (
    UNTOLERATED_TAINT,
    Constraints,
    compile_constraints,
    describe_taint,
    verdict,
)
from everynode.core.index import NodeIndex
from everynode.core.setstate import SetState
from everynode.core.values import ON_DELETE, ROLLING_UPDATE, DaemonSet, Node
from everynode.replay.planning_waves import PAUSED, STALLED, Waves

NO_NODES_OF_BACKEND = "NoNodesOfBackend"
SELECTS_NOTHING = "SelectsNothing"
CONTROL_PLANE_LEFT_OUT = "ControlPlaneLeftOut"
IMAGE_NOT_FIXED = "ImageNotFixed"
HOST_PORTS_WITH_SURGE = "HostPortsWithSurge"
ALL_AT_ONCE = "AllAtOnce"
ROLLOUT_STALLS = "RolloutStalls"
BUDGET_USED_UP = "BudgetUsedUp"
REPLACES_NOTHING = "ReplacesNothing"
ROLLOUT_PAUSED = "RolloutPaused"

_CONTROL_PLANE = frozenset(
    {"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"}
)


class Warned(NamedTuple):
    """Something that a person should look at."""

    code: str
    message: str


def warnings_of(state: SetState, index: NodeIndex, waves: Waves) -> list[Warned]:
    """Say what is probably not meant; the set is wanted, its bitmaps are up to date."""
    daemonset = state.daemonset
    if daemonset is None:
        return []
    spec = _pod_spec(daemonset)
    return [
        *_about_nodes(daemonset, state, index),
        *_about_images(spec),
        *_about_ports(spec, surges=state.surges),
        *_about_rollout(state, waves),
    ]


def _pod_spec(daemonset: DaemonSet) -> dict[str, Any]:
    template = msgspec.json.decode(daemonset.template)
    spec = template.get("spec") if isinstance(template, dict) else None
    return spec if isinstance(spec, dict) else {}


def _about_nodes(daemonset: DaemonSet, state: SetState, index: NodeIndex) -> Iterator[Warned]:
    eligible = state.coverage.eligible
    if daemonset.backend and daemonset.backend not in index.by_backend:
        text = f"the fleet has no nodes of backend {daemonset.backend}"
        yield Warned(NO_NODES_OF_BACKEND, text)
    elif not eligible:
        yield Warned(SELECTS_NOTHING, "no node is eligible: no pod will run anywhere")
    if not eligible:
        return
    constraints = compile_constraints(daemonset)
    for taint, nodes in sorted(index.by_taint.items(), key=lambda item: describe_taint(item[0])):
        if taint.key not in _CONTROL_PLANE or constraints.tolerates(taint):
            continue
        count = sum(_only_tainted(constraints, index.node(node_id)) for node_id in nodes)
        if count:
            text = f"taint {describe_taint(taint)} is not tolerated"
            yield Warned(
                CONTROL_PLANE_LEFT_OUT, f"{count} nodes of the control plane are left out: {text}"
            )


def _only_tainted(constraints: Constraints, node: Node) -> bool:
    """Say whether a node would be eligible, were it not for taints."""
    return all(each.code == UNTOLERATED_TAINT for each in verdict(constraints, node).reasons)


def _about_images(spec: dict[str, Any]) -> Iterator[Warned]:
    for container in _containers(spec):
        image = container.get("image")
        if isinstance(image, str) and image and not _is_fixed(image):
            text = f"container {container.get('name', '?')}: image {image} names no version"
            yield Warned(IMAGE_NOT_FIXED, f"{text}: pods may get different ones")


def _is_fixed(image: str) -> bool:
    if "@" in image:
        return True
    _, _, tag = image.rpartition("/")[2].partition(":")
    return tag not in {"", "latest"}


def _about_ports(spec: dict[str, Any], *, surges: bool) -> Iterator[Warned]:
    if not surges:
        return
    on_host = spec.get("hostNetwork") is True
    ports = [
        str(port.get("hostPort") or port.get("containerPort"))
        for container in _containers(spec)
        for port in _objects(container.get("ports"))
        if port.get("hostPort") or (on_host and port.get("containerPort"))
    ]
    if ports:
        text = f"an old and a new pod cannot both have ports {', '.join(dict.fromkeys(ports))} of the node"
        yield Warned(HOST_PORTS_WITH_SURGE, f"{text}: with maxSurge the rollout may stand still")


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [*_objects(spec.get("initContainers")), *_objects(spec.get("containers"))]


def _objects(items: Any) -> list[dict[str, Any]]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _about_rollout(state: SetState, waves: Waves) -> Iterator[Warned]:
    strategy, eligible = state.strategy, len(state.coverage.eligible)
    held = Counter(waves.held.values())
    is_rolling = strategy.type == ROLLING_UPDATE and not state.surges
    if is_rolling and 1 < eligible <= waves.budget.max_unavailable:
        text = f"maxUnavailable {strategy.max_unavailable} is all {eligible} nodes: they may all be down at once"
        yield Warned(ALL_AT_ONCE, text)
    if held[STALLED]:
        text = f"the rollout stops before {held[STALLED]} nodes"
        yield Warned(ROLLOUT_STALLS, f"{text}: {_used_up(waves, surges=state.surges)}")
    elif is_rolling and waves.stuck and waves.waves:
        yield Warned(BUDGET_USED_UP, _used_up(waves, surges=False))
    if held[ON_DELETE]:
        text = f"OnDelete: {held[ON_DELETE]} pods keep their old template until they are deleted"
        yield Warned(REPLACES_NOTHING, text)
    if held[PAUSED]:
        text = f"the rollout is paused: {held[PAUSED]} pods keep their old template until it is resumed"
        yield Warned(ROLLOUT_PAUSED, text)


def _used_up(waves: Waves, *, surges: bool) -> str:
    if surges:
        return f"new pods that do not get ready use up maxSurge, which is {waves.budget.max_surge}"
    limit = waves.budget.max_unavailable
    return (
        f"{waves.stuck} nodes have no available pod in the end, and maxUnavailable allows {limit}"
    )
