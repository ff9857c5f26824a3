"""Fleets and DaemonSets to measure with, all from a seed.

The nodes are those of the simulated adapter with two labels more, so that there is a number to compare (Gt, Lt) and a
label of many values. The sets are those of a large cluster: most of them run everywhere but where a taint
keeps them away, others on one zone, one kind of machine or one rack.
"""

from __future__ import annotations

import random

import msgspec

from everynode.core.values import NO_EXECUTE, DaemonSet, Node, Selector, Taint
from everynode_simulated.generator import CONTROL_PLANE, generate_nodes

BACKEND = "simulated"
ZONE = "topology.kubernetes.io/zone"
RACK = "example.com/rack"
CPUS = "example.com/cpus"
RACKS = 200
SEED = 7

_ZONES = ("eu-central-a", "eu-central-b", "eu-north-a", "us-east-a", "us-east-b", "us-east-c")
_CPUS = ("2", "4", "8", "16", "32", "64")
_DRAINED = Taint(key="example.com/drained", effect=NO_EXECUTE)
_DRAINED_SHARE = 0.01

_Json = dict[str, object]


def make_nodes(count: int) -> list[Node]:
    """Make a fleet of this size."""
    draw = random.Random(f"{SEED}/nodes")
    nodes = []
    for node in generate_nodes(count, SEED, BACKEND):
        labels = {**node.labels, RACK: f"r{draw.randrange(RACKS)}", CPUS: draw.choice(_CPUS)}
        drained = draw.random() < _DRAINED_SHARE
        taints = (*node.taints, _DRAINED) if drained else node.taints
        nodes.append(msgspec.structs.replace(node, labels=labels, taints=taints))
    return nodes


def make_sets(count: int) -> list[DaemonSet]:
    """Make sets with selectors, affinity and tolerations; the same for a fleet of any size."""
    draw = random.Random(f"{SEED}/sets")
    return [_make_set(index, draw) for index in range(count)]


def make_set(name: str, spec: _Json) -> DaemonSet:
    """Make one set from the spec of its pods."""
    return DaemonSet(
        namespace="bench",
        name=name,
        uid=f"uid-{name}",
        generation=1,
        selector=Selector(match_labels={"app": name}),
        template=msgspec.Raw(msgspec.json.encode({"spec": spec}, order="sorted")),
    )


def make_set_for_all(name: str) -> DaemonSet:
    """Make a set whose pods run on every node."""
    return make_set(name, {"tolerations": [{"operator": "Exists"}]})


def _make_set(index: int, draw: random.Random) -> DaemonSet:
    spec: _Json = {"tolerations": _tolerations(draw)}
    selector: _Json = {}
    if draw.random() < 0.6:
        selector["kubernetes.io/os"] = "linux"
    if draw.random() < 0.3:
        selector[ZONE] = draw.choice(_ZONES)
    if selector:
        spec["nodeSelector"] = selector
    if draw.random() < 0.6:
        terms = [_term(draw) for _ in range(draw.choice((1, 1, 2)))]
        required = {"nodeSelectorTerms": terms}
        spec["affinity"] = {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}
        }
    return make_set(f"set-{index:04}", spec)


def _tolerations(draw: random.Random) -> list[_Json]:
    if draw.random() < 0.3:
        return [{"operator": "Exists"}]
    possible: list[_Json] = [
        {"key": CONTROL_PLANE, "operator": "Exists", "effect": "NoSchedule"},
        {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
        {"key": _DRAINED.key, "operator": "Exists"},
    ]
    return [toleration for toleration in possible if draw.random() < 0.5]


def _term(draw: random.Random) -> _Json:
    possible: list[_Json] = [
        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
        {
            "key": "node.kubernetes.io/instance-type",
            "operator": "NotIn",
            "values": ["gpu-1", "gpu-4", "arm-4"],
        },
        {"key": RACK, "operator": "NotIn", "values": [f"r{draw.randrange(RACKS)}"]},
        {"key": CPUS, "operator": draw.choice(("Gt", "Lt")), "values": [draw.choice(_CPUS)]},
        {"key": "nvidia.com/gpu.present", "operator": "DoesNotExist"},
    ]
    return {"matchExpressions": draw.sample(possible, draw.choice((1, 2, 3)))}
