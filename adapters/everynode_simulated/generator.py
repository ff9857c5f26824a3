"""Nodes that look like those of a real fleet, from a seed.

Used by the command line (``everynode up --nodes``), by benchmarks and by tests. The same seed gives the same nodes,
uids included, on any machine and any version of Python.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from everynode.core.identity import derived_uid
from everynode.core.values import NO_SCHEDULE, PREFER_NO_SCHEDULE, Node, Taint

UNSCHEDULABLE_TAINT = Taint(key="node.kubernetes.io/unschedulable", effect=NO_SCHEDULE)
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"

_ZONES = {"eu-central": "abc", "eu-north": "ab", "us-east": "abcd"}
_NAME_DIGITS_MIN = 4


class _Pool(NamedTuple):
    """One kind of machine.

    Attributes:
        share: Its weight among all machines but those of the control plane.
    """

    name: str
    share: int
    instance_types: tuple[str, ...]
    arch: str = "amd64"
    os: str = "linux"
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[Taint, ...] = ()


_POOLS = (
    _Pool("general", 52, ("standard-4", "standard-8", "standard-16")),
    _Pool("arm", 20, ("arm-4", "arm-8"), arch="arm64"),
    _Pool("memory", 10, ("highmem-8", "highmem-16"), labels=(("example.com/pool", "memory"),)),
    _Pool(
        name="spot",
        share=10,
        instance_types=("standard-8", "standard-16"),
        labels=(("example.com/capacity", "spot"),),
        taints=(Taint(key="example.com/spot", value="true", effect=PREFER_NO_SCHEDULE),),
    ),
    _Pool(
        name="gpu",
        share=6,
        instance_types=("gpu-1", "gpu-4"),
        labels=(("nvidia.com/gpu.present", "true"),),
        taints=(Taint(key="nvidia.com/gpu", value="present", effect=NO_SCHEDULE),),
    ),
    _Pool(
        name="windows",
        share=2,
        instance_types=("standard-8",),
        os="windows",
        taints=(Taint(key="os", value="windows", effect=NO_SCHEDULE),),
    ),
)
_CONTROL_PLANE_POOL = _Pool(
    name="control",
    share=0,
    instance_types=("standard-4",),
    labels=((CONTROL_PLANE, ""),),
    taints=(Taint(key=CONTROL_PLANE, effect=NO_SCHEDULE),),
)
_SHARES = tuple(pool.share for pool in _POOLS)
_CORDONED_SHARE = 0.02


def generate_node(index: int, seed: int, backend: str, name: str = "") -> Node:
    """Make one worker node; which kind it is comes from the seed and the index.

    Args:
        index: Which of the seed's nodes, from 0.
        seed: Where everything else comes from.
        backend: The backend that it belongs to.
        name: Its name; empty for one made of its pool and the index.
    """
    draw = random.Random(f"{seed}/{index}")
    (pool,) = draw.choices(_POOLS, _SHARES)
    name = name or _name_of(pool, index)
    return _node_of(pool, draw, backend, name, derived_uid("node", backend, name, str(seed)))


def generate_nodes(count: int, seed: int, backend: str) -> list[Node]:
    """Make a fleet: a control plane if it is large enough for one, and workers of several kinds."""
    nodes = []
    for index in range(_control_plane_size(count)):
        name = _name_of(_CONTROL_PLANE_POOL, index)
        draw = random.Random(f"{seed}/control/{index}")
        uid = derived_uid("node", backend, name, str(seed))
        nodes.append(_node_of(_CONTROL_PLANE_POOL, draw, backend, name, uid))
    nodes += [generate_node(index, seed, backend) for index in range(len(nodes), count)]
    return nodes


def _name_of(pool: _Pool, index: int) -> str:
    return f"{pool.name}-{index:0{_NAME_DIGITS_MIN}}"


def _control_plane_size(count: int) -> int:
    if count < 3:  # noqa: PLR2004 - a fleet this small has no machine to spare
        return 0
    return 3 if count >= 10 else 1  # noqa: PLR2004 - three survive the loss of one


def _node_of(pool: _Pool, draw: random.Random, backend: str, name: str, uid: str) -> Node:
    region = draw.choice(sorted(_ZONES))
    zone = draw.choice(_ZONES[region])
    instance_type = draw.choice(pool.instance_types)
    cordoned = pool is not _CONTROL_PLANE_POOL and draw.random() < _CORDONED_SHARE
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": pool.arch,
        "kubernetes.io/os": pool.os,
        "node.kubernetes.io/instance-type": instance_type,
        "topology.kubernetes.io/region": region,
        "topology.kubernetes.io/zone": f"{region}-{zone}",
        **dict(pool.labels),
    }
    return Node(
        backend=backend,
        name=name,
        uid=uid,
        labels=labels,
        taints=(*pool.taints, UNSCHEDULABLE_TAINT) if cordoned else pool.taints,
        unschedulable=cordoned,
    )
