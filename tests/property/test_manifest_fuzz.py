"""Whatever is in a file, reading it ends with results: accepted values that are sound, or problems with a message."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import event, given
from hypothesis import strategies as st

from everynode.core.eligibility import compile_constraints
from everynode.core.identity import canonical
from everynode.core.values import DaemonSet, Node
from everynode.errors import InvalidObjectError
from everynode.manifest import (
    DOCUMENT_BYTES_MAX,
    Manifests,
    Nodes,
    Rejected,
    read_daemonsets,
    read_nodes,
)

AGENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {
        "name": "agent",
        "namespace": "logging",
        "labels": {"team": "a"},
        "annotations": {
            "everynode.dev/backend": "east",
            "everynode.dev/partition": "20%",
            "everynode.dev/selector": " !gpu",
            "everynode.dev/unreachable-nodes": "Skip",
            "note": "x y",
        },
    },
    "spec": {
        "minReadySeconds": 5,
        "revisionHistoryLimit": 3,
        "selector": {
            "matchLabels": {"app": "agent"},
            "matchExpressions": [{"key": "app", "operator": "In", "values": ["agent"]}],
        },
        "updateStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {
                "maxUnavailable": "10%",
                "maxSurge": 0,
                "paused": True,
                "partition": "20%",
                "selector": {"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]},
                "progressDeadlineSeconds": 60,
            },
        },
        "template": {
            "metadata": {"labels": {"app": "agent"}},
            "spec": {
                "hostNetwork": True,
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "tolerations": [
                    {"operator": "Exists"},
                    {"key": "a", "value": "b", "effect": "NoExecute", "tolerationSeconds": 5},
                    {"key": "a", "operator": "Gt", "value": "5"},
                ],
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {
                                    "matchExpressions": [
                                        {"key": "zone", "operator": "NotIn", "values": ["a", "b"]},
                                        {"key": "cores", "operator": "Gt", "values": ["4"]},
                                    ],
                                    "matchFields": [
                                        {
                                            "key": "metadata.name",
                                            "operator": "In",
                                            "values": ["node-1"],
                                        }
                                    ],
                                }
                            ]
                        }
                    }
                },
                "containers": [{"name": "agent", "image": "agent:1", "args": ["--x=1"]}],
            },
        },
    },
}
NODE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "node-1", "uid": "u-1", "labels": {"zone": "a"}},
    "spec": {"unschedulable": True, "taints": [{"key": "a", "value": "b", "effect": "NoExecute"}]},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}
LIST = {"apiVersion": "v1", "kind": "List", "items": [AGENT, NODE, {"kind": "Pod"}]}

FRAGMENTS = [
    *("kind: DaemonSet\n", "apiVersion: apps/v1\n", "kind: List\n", "items:\n", "- ", "  ", "\n"),
    *("---\n", "...\n", "--- ", "%YAML 1.1\n", "%", "# x\n", "\t", "\r\n", "\r", "\x00", "\x85"),
    *("{", "}", "[", "]", ",", ": ", "? ", "&a ", "*a", "<<: ", "!!str ", "!x ", "|\n", ">-\n"),
    *('"', "'", "\\", "\\ud83d", '"kind":', '{"kind": "List", "items": [', "null", "~", ".inf"),
    *("1e999", "9" * 30, "0x1", "0o9", "2020-01-01", "yes", "a", "\u2028", "\ufeff", "😀"),
    *("metadata: {name: a}\n", "a: 1\n", "a: 2\n"),
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-3, max_value=3)
    | st.sampled_from([2**31, 2**63 - 1, -(2**63), 1.5, 1e300, -0.0, "", "a", "A b", "10%", "101%"])
    | st.sampled_from(["In", "Exists", "Gt", "NoExecute", "List", "Node", "1", "y", "null", "<<"])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
)
VALUES = st.recursive(
    SCALARS,
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text("ab./-", max_size=3), children)
    ),
    max_leaves=5,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Find every place in a value: its container, and its key there."""
    if isinstance(value, dict | list):
        keys: Any = value.keys() if isinstance(value, dict) else range(len(value))
        for key in list(keys):
            yield value, key
            yield from places(value[key])


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid manifest in which up to three places hold something else, or nothing."""
    document = copy.deepcopy(draw(st.sampled_from([AGENT, NODE, LIST])))
    for _ in range(draw(st.integers(0, 3))):
        container, key = draw(st.sampled_from(list(places(document))))
        what = draw(st.sampled_from(["replace", "remove", "add"]))
        if what == "replace":
            container[key] = draw(VALUES)
        elif what == "remove":
            del container[key]
        elif isinstance(container, list):
            container.insert(key, draw(VALUES))
        else:
            container[draw(st.text("abkey/.", max_size=5))] = draw(VALUES)
        if not list(places(document)):
            break
    return document


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """The text of a valid manifest with a few pieces cut out or put in."""
    document = draw(st.sampled_from([AGENT, NODE, LIST]))
    as_json = draw(st.booleans())
    text = json.dumps(document, indent=1) if as_json else yaml.safe_dump(document)
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(text)))
        length = draw(st.sampled_from([0, 0, 1, 1, 2, 10, 100]))
        text = text[:begin] + draw(st.sampled_from(["", *FRAGMENTS])) + text[begin + length :]
    return text.encode()


def check(content: bytes) -> tuple[Manifests, Nodes]:
    """Read a file in both ways, and examine everything that comes of it."""
    manifests = read_daemonsets("f", content)
    nodes = read_nodes([("f", content)], "local")
    for accepted in manifests.accepted:
        check_daemonset(accepted.daemonset)
        assert str(accepted.daemonset.key) in accepted.subject
    for accepted_node in nodes.accepted:
        encoded = msgspec.json.encode(accepted_node.node)
        assert msgspec.json.decode(encoded, type=Node) == accepted_node.node
    for rejected in (*manifests.rejected, *nodes.rejected):
        check_rejected(rejected)
    for found in (manifests, nodes):
        for entries in (found.accepted, found.rejected, found.skipped):
            assert [each.document for each in entries] == sorted(each.document for each in entries)
    return manifests, nodes


def check_daemonset(daemonset: DaemonSet) -> None:
    """What is accepted fits the log, comes back from it the same, and the core can work with it."""
    encoded = msgspec.json.encode(daemonset)
    assert len(encoded) <= DOCUMENT_BYTES_MAX
    assert msgspec.json.encode(msgspec.json.decode(encoded, type=DaemonSet)) == encoded
    assert canonical(daemonset.template) == bytes(daemonset.template)
    constraints = compile_constraints(daemonset)
    for term in constraints.terms or ():
        assert term.usable or not (term.labels or term.fields)


def check_rejected(rejected: Rejected) -> None:
    """What is refused says why, in words that can be printed."""
    assert rejected.errors
    assert all(problem.message for problem in rejected.errors)
    assert isinstance(rejected.error(), InvalidObjectError)
    str(rejected.error()).encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """Bytes that have no meaning at all end in results, never in an exception (L3, S8)."""
    check(content)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=30))
def test_any_pieces_of_manifests_are_read_or_refused(fragments: list[str]) -> None:
    """Pieces of YAML and JSON in any order end in results, never in an exception (L3, S8)."""
    manifests, _ = check("".join(fragments).encode())
    event("readable" if manifests.skipped or manifests.accepted else "unreadable")


@given(damaged())
def test_damaged_manifests_are_read_or_refused(content: bytes) -> None:
    """The text of a good manifest with pieces cut out or put in ends in results (L3, S8)."""
    manifests, _ = check(content)
    event("accepted" if manifests.accepted else "not accepted")


@given(mutated())
def test_a_manifest_reads_the_same_as_yaml_and_as_json(document: Any) -> None:
    """A manifest with wrong values in it has the same results in either language, problem for problem."""
    as_json = check(json.dumps(document).encode())
    as_yaml = check(yaml.safe_dump(document, default_style='"', sort_keys=False).encode())

    event("accepted" if as_json[0].accepted or as_json[1].accepted else "not accepted")
    assert [without_place(found) for found in as_json] == [
        without_place(found) for found in as_yaml
    ]


def without_place(found: Manifests | Nodes) -> list[list[Any]]:
    """Results as values that can be compared."""
    accepted: list[Any] = []
    for entry in found.accepted:
        value = entry.daemonset if hasattr(entry, "daemonset") else entry.node
        accepted.append((msgspec.json.encode(value), entry.warnings))
    rejected = [(entry.item, entry.subject, entry.errors) for entry in found.rejected]
    return [accepted, rejected, [(entry.item, entry.subject) for entry in found.skipped]]


@pytest.mark.parametrize("document", [AGENT, NODE, LIST])
def test_the_manifests_that_are_mutated_are_valid(document: Any) -> None:
    """What the mutations start from is accepted, so that they reach beyond the first check."""
    manifests, nodes = check(json.dumps(document).encode())

    assert (manifests.rejected, nodes.rejected) == ((), ())
    assert manifests.accepted or nodes.accepted
