"""Values with everything filled in, so that a test names only what it is about.

For tests of the core and of adapters. What is built here is valid and deterministic; ``strategies`` draws at random.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec
from msgspec import structs

from everynode.core.identity import canonical, revision_hash
from everynode.core.values import DaemonSet, Node, Owner, Pod, Selector, Taint, UpdateStrategy

BACKEND = "east"


def taint(text: str) -> Taint:
    """Read a taint as kubectl writes it: ``key=value:Effect`` or ``key:Effect``."""
    pair, _, effect = text.rpartition(":")
    key, _, value = pair.partition("=")
    return Taint(key=key, value=value, effect=effect)


def node(
    name: str = "node-1",
    *taints: str,
    backend: str = BACKEND,
    uid: str = "",
    unschedulable: bool = False,
    ready: bool = True,
    **labels: str,
) -> Node:
    """Make a node; its uid follows from its name unless it is given."""
    return Node(
        backend=backend,
        name=name,
        uid=uid or f"uid-{backend}-{name}",
        labels=labels,
        taints=tuple(taint(text) for text in taints),
        unschedulable=unschedulable,
        ready=ready,
    )


def daemonset(
    spec: Mapping[str, object] | None = None,
    *,
    name: str = "agent",
    uid: str = "",
    generation: int = 1,
    backend: str = "",
    min_ready_seconds: int = 0,
    update_strategy: UpdateStrategy | None = None,
) -> DaemonSet:
    """Make a set from the spec of its pods; without one it is for every node."""
    return DaemonSet(
        namespace="default",
        name=name,
        uid=uid or f"uid-{name}",
        generation=generation,
        selector=Selector(match_labels={"app": name}),
        template=msgspec.Raw(canonical(json.dumps({"spec": spec or {}}).encode())),
        backend=backend,
        min_ready_seconds=min_ready_seconds,
        update_strategy=update_strategy or UpdateStrategy(),
    )


def pod(owner: DaemonSet, on: Node, name: str = "pod-1", **changes: object) -> Pod:
    """Make a pod of a set that runs on a node and is ready since 1 ms."""
    running = Pod(
        backend=on.backend,
        namespace=owner.namespace,
        name=name,
        uid=f"uid-{name}",
        node=on.name,
        node_uid=on.uid,
        owner=Owner(name=owner.name, uid=owner.uid),
        revision=revision_hash(owner.template),
        phase="Running",
        ready=True,
        ready_since_ms=1,
    )
    return structs.replace(running, **changes)
