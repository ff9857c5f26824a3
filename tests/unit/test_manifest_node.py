"""Node manifests to values: what is read, what is refused, and what is kept though it is odd."""

import json
from typing import Any

import pytest

from everynode.core.identity import derived_uid
from everynode.core.values import Node, Taint
from everynode.manifest import AcceptedNode, Nodes, read_nodes

CORDONED = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")


def read(*documents: Any) -> Nodes:
    """Read one file for each of some documents that are given as values."""
    files = [(f"{number}.json", json.dumps(each)) for number, each in enumerate(documents)]
    return read_nodes([(name, text.encode()) for name, text in files], "local")


def manifest(name: Any = "n1", **parts: Any) -> dict[str, Any]:
    """A node's manifest."""
    metadata = {"name": name} | parts.pop("metadata", {})
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, **parts}


def accepted(document: Any) -> AcceptedNode:
    """Read one document that has to be accepted."""
    nodes = read(document)
    assert nodes.rejected == ()
    (entry,) = nodes.accepted
    return entry


def test_a_node_by_name_alone_is_read() -> None:
    """A node that says nothing but its name is ready, has no taints, and a uid made of backend and name."""
    assert accepted(manifest()).node == Node(
        backend="local", name="n1", uid=derived_uid("local", "n1")
    )


def test_all_that_the_engine_needs_of_a_node_is_read() -> None:
    """Labels, taints, uid and the Ready condition are taken over; the rest is left, without warnings."""
    document = manifest(
        "node-1.example",
        metadata={"uid": "u-1", "labels": {"a/b": "c", "empty": None}, "annotations": {"x": 1}},
        spec={
            "podCIDR": "10.0.0.0/24",
            "providerID": "x",
            "taints": [
                {"key": "a", "effect": "NoExecute", "timeAdded": "2020-01-01T00:00:00Z"},
                {"key": "a", "value": "b", "effect": "PreferNoSchedule"},
            ],
        },
        status={
            "capacity": {"cpu": "4"},
            "conditions": [
                {"type": "MemoryPressure", "status": "False"},
                {"type": "Ready", "status": "Unknown"},
            ],
        },
    )

    entry = accepted(document)

    assert entry.node == Node(
        backend="local",
        name="node-1.example",
        uid="u-1",
        labels={"a/b": "c", "empty": ""},
        taints=(
            Taint(key="a", effect="NoExecute"),
            Taint(key="a", value="b", effect="PreferNoSchedule"),
        ),
        ready=False,
    )
    assert entry.warnings == ()


@pytest.mark.parametrize(
    ("status", "ready"),
    [
        (None, True),
        ({"conditions": None}, True),
        ({"conditions": [{"type": "DiskPressure", "status": "True"}]}, True),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, True),
        ({"conditions": [{"type": "Ready", "status": "False"}]}, False),
        ({"conditions": [{"type": "Ready"}]}, False),
    ],
)
def test_a_node_is_ready_unless_it_says_otherwise(status: Any, ready: bool) -> None:
    """Only a condition Ready that is not True makes a node not ready."""
    assert accepted(manifest(status=status)).node.ready is ready


@pytest.mark.parametrize(
    ("taints", "expected"),
    [
        (None, (CORDONED,)),
        ([{"key": CORDONED.key, "effect": "NoSchedule"}], (CORDONED,)),
        (
            [{"key": "a", "effect": "NoExecute"}],
            (Taint(key="a", effect="NoExecute"), CORDONED),
        ),
        (
            [{"key": CORDONED.key, "effect": "NoExecute"}],
            (Taint(key=CORDONED.key, effect="NoExecute"), CORDONED),
        ),
    ],
)
def test_a_cordoned_node_has_the_taint(taints: Any, expected: tuple[Taint, ...]) -> None:
    """A cordoned node has the taint that Kubernetes gives it, once."""
    node = accepted(manifest(spec={"unschedulable": True, "taints": taints})).node

    assert node.unschedulable
    assert node.taints == expected


@pytest.mark.parametrize(
    ("document", "field", "message"),
    [
        (manifest(None), "metadata.name", "is missing: write a name"),
        ({"apiVersion": "v1", "kind": "Node"}, "metadata.name", "is missing: write a name"),
        (manifest("N1"), "metadata.name", '"N1" is not a name'),
        (manifest(5), "metadata.name", "is a number (5)"),
        (manifest(apiVersion="v2"), "apiVersion", '"v2" has no Node: write v1'),
        (manifest(metadata={"uid": 5}), "metadata.uid", "is a number (5)"),
        (manifest(metadata={"uid": "u" * 254}), "metadata.uid", "is longer than 253 characters"),
        (manifest(metadata={"labels": {"a": 5}}), "metadata.labels", "is a number (5): put it in"),
        (manifest(spec=[]), "spec", "is a list; it must be a mapping"),
        (manifest(spec={"unschedulable": "yes"}), "spec.unschedulable", "it must be true or false"),
        (manifest(spec={"taints": {}}), "spec.taints", "is a mapping; it must be a list"),
        (manifest(spec={"taints": [None]}), "spec.taints[0]", "is null"),
        (manifest(spec={"taints": ["x"]}), "spec.taints[0]", "it must be a mapping"),
        (
            manifest(spec={"taints": [{"effect": "NoSchedule"}]}),
            "spec.taints[0].key",
            "is missing: write the taint's key",
        ),
        (
            manifest(spec={"taints": [{"key": "a b", "effect": "NoSchedule"}]}),
            "spec.taints[0].key",
            '"a b" is not a key',
        ),
        (
            manifest(spec={"taints": [{"key": "a", "value": "b c", "effect": "NoSchedule"}]}),
            "spec.taints[0].value",
            '"b c" is not a label value',
        ),
        (
            manifest(spec={"taints": [{"key": "a"}]}),
            "spec.taints[0].effect",
            "is missing: write one of NoSchedule, PreferNoSchedule, NoExecute",
        ),
        (
            manifest(spec={"taints": [{"key": "a", "effect": "Odd"}]}),
            "spec.taints[0].effect",
            '"Odd" is not an effect: write one of',
        ),
        (
            manifest(spec={"taints": [{"key": "a", "effect": "NoExecute"}] * 2}),
            "spec.taints[1]",
            '"a" with this effect is there already',
        ),
        (manifest(status=5), "status", "is a number (5); it must be a mapping"),
        (manifest(status={"conditions": [5]}), "status.conditions[0]", "it must be a mapping"),
    ],
)
def test_a_wrong_node_is_refused(document: Any, field: str, message: str) -> None:
    """One wrong field is one problem, under its path, and says what to do."""
    (entry,) = read(document).rejected
    (problem,) = entry.errors

    assert problem.field == field
    assert message in problem.message


def test_odd_labels_are_kept_and_warned_about() -> None:
    """Labels that Kubernetes would refuse, and unknown fields, are warned about; the node is read."""
    document = manifest(metadata={"labels": {"a b": "c d"}}, spec={"odd": 1}, odd=1)

    entry = accepted(document)

    assert entry.node.labels == {"a b": "c d"}
    assert [warning.field for warning in entry.warnings] == [
        "odd",
        "spec.odd",
        "metadata.labels",
        "metadata.labels",
    ]
    assert entry.warnings[3].message.endswith("kept as it is")


def test_two_nodes_of_one_name_are_one_too_many() -> None:
    """The second node of a name, in any of the files, is refused with the place of the first."""
    listed = {"kind": "NodeList", "apiVersion": "v1", "items": [{"metadata": {"name": "n2"}}]}

    nodes = read(manifest("n1"), listed, manifest("n2"), manifest("n1"), {"kind": "Pod"})

    assert [entry.node.name for entry in nodes.accepted] == ["n1", "n2"]
    assert [str(entry.error()) for entry in nodes.rejected] == [
        (
            '2.json, document 1 (line 1): Node n2: metadata.name: "n2" is there already, in '
            "1.json, document 1 (line 1), items[0]"
        ),
        (
            '3.json, document 1 (line 1): Node n1: metadata.name: "n1" is there already, in '
            "0.json, document 1 (line 1)"
        ),
    ]
    assert [entry.subject for entry in nodes.skipped] == ["Pod"]


def test_an_unreadable_file_leaves_the_others() -> None:
    """A file that is no YAML is refused by its name, and the other files are read (L3)."""
    nodes = read_nodes(
        [("bad.yaml", b"\xff"), ("good.yaml", b"apiVersion: v1\nkind: Node\nmetadata: {name: a}")],
        "x",
    )

    assert [entry.place for entry in nodes.rejected] == ["bad.yaml, document 1 (line 1)"]
    assert [entry.subject for entry in nodes.accepted] == ["Node a"]
