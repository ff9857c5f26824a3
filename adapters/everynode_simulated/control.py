"""What people may do to a simulated fleet from outside: the requests, and carrying them out.

``everynode sim ...`` sends them, the adapter hands them to ``execute``. They come over the network: each one is
decoded into one of the structs below, within its limits, or refused with what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec.structs import replace

from everynode.core.identity import derived_uid
from everynode.core.values import Name, PodKey, Taint
from everynode.errors import RefusedError
from everynode_simulated.fleet import SimulatedFleet
from everynode_simulated.generator import generate_node

NODES_PER_REQUEST_MAX = 10_000
ENTRIES_PER_REQUEST_MAX = 100
"""Labels or taints that one request may name."""

_PART = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_HOST = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"

NodeName = Annotated[str, msgspec.Meta(pattern=f"^{_HOST}$")]
Key = Annotated[str, msgspec.Meta(pattern=f"^({_HOST}/)?{_PART}$")]
LabelValue = Annotated[str, msgspec.Meta(pattern=f"^({_PART})?$")]
Effect = Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]
Labels = Annotated[dict[Key, LabelValue], msgspec.Meta(max_length=ENTRIES_PER_REQUEST_MAX)]


class _Request(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="verb"
):
    """Base of all requests; ``verb`` says which."""


class NewTaint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A taint to set."""

    key: Key
    effect: Effect
    value: LabelValue = ""

    def as_taint(self) -> Taint:
        """The engine's own value."""
        return Taint(key=self.key, effect=self.effect, value=self.value)


class OldTaint(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A taint to remove; without an effect, those of every effect."""

    key: Key
    effect: Effect | Literal[""] = ""


NewTaints = Annotated[tuple[NewTaint, ...], msgspec.Meta(max_length=ENTRIES_PER_REQUEST_MAX)]
OldTaints = Annotated[tuple[OldTaint, ...], msgspec.Meta(max_length=ENTRIES_PER_REQUEST_MAX)]


class LabelNode(_Request, frozen=True, tag="label-node"):
    """Set and remove labels of a node."""

    node: Name
    put: Labels = {}
    remove: Annotated[tuple[Key, ...], msgspec.Meta(max_length=ENTRIES_PER_REQUEST_MAX)] = ()


class TaintNode(_Request, frozen=True, tag="taint-node"):
    """Set and remove taints of a node; a taint of the same key and effect is replaced."""

    node: Name
    put: NewTaints = ()
    remove: OldTaints = ()


class Cordon(_Request, frozen=True, tag="cordon"):
    """Mark a node as unschedulable."""

    node: Name


class Uncordon(_Request, frozen=True, tag="uncordon"):
    """Take that back."""

    node: Name


class StopNode(_Request, frozen=True, tag="stop-node"):
    """Let a node become not ready, with its pods, as if its power were cut."""

    node: Name


class StartNode(_Request, frozen=True, tag="start-node"):
    """Take that back."""

    node: Name


class AddNode(_Request, frozen=True, tag="add-node"):
    """Let nodes join: one of this name, or as many as ``count`` with names made for them.

    Attributes:
        labels: Added to those that the generator gives it.
        taints: In place of those that the generator gives it.
    """

    name: NodeName | Literal[""] = ""
    count: Annotated[int, msgspec.Meta(ge=1, le=NODES_PER_REQUEST_MAX)] = 1
    labels: Labels = {}
    taints: NewTaints | None = None


class DeleteNode(_Request, frozen=True, tag="delete-node"):
    """Let a node leave."""

    node: Name


class _PodRequest(_Request, frozen=True):
    namespace: Name
    name: Name


class DeletePodRequest(_PodRequest, frozen=True, tag="delete-pod"):
    """Delete a pod behind the engine's back."""


class FailPod(_PodRequest, frozen=True, tag="fail-pod"):
    """Let a pod fail."""


class FinishPod(_PodRequest, frozen=True, tag="finish-pod"):
    """Let a pod end well."""


class LabelPod(_PodRequest, frozen=True, tag="label-pod"):
    """Set and remove labels of a pod."""

    put: Labels = {}
    remove: Annotated[tuple[Key, ...], msgspec.Meta(max_length=ENTRIES_PER_REQUEST_MAX)] = ()


Request = (
    LabelNode
    | TaintNode
    | Cordon
    | Uncordon
    | StopNode
    | StartNode
    | AddNode
    | DeleteNode
    | DeletePodRequest
    | FailPod
    | FinishPod
    | LabelPod
)


def parse(request: Mapping[str, object]) -> Request:
    """Read a request.

    Raises:
        RefusedError: It is none of those above, or a field is missing or wrong.
    """
    try:
        parsed: Request = msgspec.convert(dict(request), Request)
    except msgspec.ValidationError as error:
        raise RefusedError(f"request to the simulated fleet: {error}") from error
    return parsed


def execute(fleet: SimulatedFleet, backend: str, request: Request) -> dict[str, object]:
    """Carry a request out and say what is so now.

    Raises:
        RefusedError: The node or pod is not there, or a name is taken.
    """
    match request:
        case LabelNode():
            changed = fleet.update_labels(request.node, request.put, request.remove)
        case TaintNode():
            put = [taint.as_taint() for taint in request.put]
            remove = [Taint(key=taint.key, effect=taint.effect) for taint in request.remove]
            changed = fleet.update_taints(request.node, put, remove)
        case Cordon():
            changed = fleet.cordon(request.node)
        case Uncordon():
            changed = fleet.cordon(request.node, unschedulable=False)
        case StopNode():
            changed = fleet.set_node_ready(request.node, ready=False)
        case StartNode():
            changed = fleet.set_node_ready(request.node, ready=True)
        case AddNode():
            return {"nodes": _add_nodes(fleet, backend, request)}
        case DeleteNode():
            fleet.remove_node(request.node, why="deleted by a request")
            return {"nodes": [request.node]}
        case _PodRequest():
            return _execute_on_pod(fleet, backend, request)
    return {"node": msgspec.to_builtins(changed)}


def _execute_on_pod(fleet: SimulatedFleet, backend: str, request: _PodRequest) -> dict[str, object]:
    key = PodKey(backend, request.namespace, request.name)
    match request:
        case FailPod():
            fleet.fail_pod(key)
        case FinishPod():
            fleet.finish_pod(key)
        case LabelPod():
            fleet.label_pod(key, request.put, request.remove)
        case _:
            fleet.delete_pod(key, why="deleted by a request")
    pod = fleet.pod(key)
    return {"pod": msgspec.to_builtins(pod) if pod else None}


def _add_nodes(fleet: SimulatedFleet, backend: str, request: AddNode) -> list[str]:
    """Let new nodes join; each gets a uid that no node before it had."""
    if request.name and request.count != 1:
        raise RefusedError(f"add-node {request.name}: give a name or a count, not both")
    names: list[str] = []
    seed = fleet.behaviour.seed
    while len(names) < request.count:
        index = fleet.next_node_index()
        node = generate_node(index, seed, backend, request.name)
        if not request.name and fleet.node(node.name) is not None:
            continue
        taints = node.taints
        if request.taints is not None:
            taints = tuple(taint.as_taint() for taint in request.taints)
        uid = derived_uid("added", node.uid, str(fleet.clock.now_ms()), str(index))
        labels = {**node.labels, **request.labels}
        fleet.add_node(replace(node, uid=uid, labels=labels, taints=taints))
        names.append(node.name)
    return names
