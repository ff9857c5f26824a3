"""Pod templates: the fields that decide where pods go are held to the API server's rules."""

import json
from typing import Any

import msgspec
import pytest

from everynode.core.eligibility import compile_constraints
from everynode.manifest import Manifests, read_daemonsets

LABELS = {"app": "agent"}
CONTAINER = {"name": "agent", "image": "agent:1"}
LONG = "a" * 64


def read(template: Any) -> Manifests:
    """Read a DaemonSet with this pod template."""
    document = {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "agent"},
        "spec": {
            "selector": {"matchLabels": LABELS},
            "updateStrategy": {"type": "OnDelete"},
            "template": template,
        },
    }
    return read_daemonsets("a.json", json.dumps(document).encode())


def with_spec(**fields: Any) -> Manifests:
    """Read a DaemonSet whose pods have these fields besides a container."""
    return read({"metadata": {"labels": LABELS}, "spec": {"containers": [CONTAINER], **fields}})


def problems(manifests: Manifests) -> list[tuple[str, str]]:
    """Return what is wrong with the only document, the paths shortened by `spec.template.`."""
    (entry,) = manifests.rejected
    return [(each.field.removeprefix("spec.template."), each.message) for each in entry.errors]


# --- what is kept ---------------------------------------------------------------------------------


def test_the_template_is_kept_whole_but_for_nulls() -> None:
    """Unknown fields, numbers and dates stay as they are; null is absent, or the empty text among labels."""
    text = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    odd: {z: 1, a: [1.5, 2, true, "x", {deep: ~}]}
    metadata:
      creationTimestamp:
      labels: {app: agent, empty: }
      annotations: {when: 2020-01-01, none: ~}
    spec:
      tolerations:
      nodeSelector: {disk: }
      containers:
      - {name: agent, image: "agent:1", since: 2020-01-01T10:00:00Z, mode: 0644, lifecycle: ~}
"""
    (entry,) = read_daemonsets("a.yaml", text.encode()).accepted

    assert msgspec.json.decode(entry.daemonset.template) == {
        "odd": {"z": 1, "a": [1.5, 2, True, "x", {}]},
        "metadata": {
            "labels": {"app": "agent", "empty": ""},
            "annotations": {"when": "2020-01-01", "none": ""},
        },
        "spec": {
            "nodeSelector": {"disk": ""},
            "containers": [
                {"name": "agent", "image": "agent:1", "since": "2020-01-01T10:00:00Z", "mode": 420}
            ],
        },
    }
    assert entry.warnings == ()


def test_the_order_of_keys_does_not_change_the_template() -> None:
    """Two manifests that differ in the order of keys, or write a null, have the same template."""
    spec = {"containers": [dict(reversed(CONTAINER.items()))], "tolerations": None}

    (first,) = with_spec().accepted
    (second,) = read({"spec": spec, "metadata": {"labels": LABELS}}).accepted

    assert bytes(first.daemonset.template) == bytes(second.daemonset.template)


VALID_TEMPLATE_FIELDS = [
    ("nodeSelector", {"kubernetes.io/os": "linux", "empty": ""}),
    ("nodeName", "node-1.example"),
    ("hostNetwork", True),
    ("restartPolicy", "Always"),
    ("activeDeadlineSeconds", None),
    ("initContainers", [{"name": "first", "image": "agent:1"}]),
    ("tolerations", []),
    ("tolerations", [{"operator": "Exists"}]),
    ("tolerations", [{"key": "", "operator": "Exists", "effect": "", "value": ""}]),
    ("tolerations", [{"key": "a/b", "value": "c", "effect": "NoSchedule"}]),
    ("tolerations", [{"key": "a", "operator": "Equal", "effect": "PreferNoSchedule"}]),
    ("tolerations", [{"key": "a", "effect": "NoExecute", "tolerationSeconds": -1}]),
    ("tolerations", [{"key": "a", "operator": "Lt", "value": "-5"}]),
    ("tolerations", [{"key": "a", "operator": "Gt", "value": "9223372036854775807"}]),
    ("affinity", {}),
    ("affinity", {"podAffinity": {}, "podAntiAffinity": {"odd": [1]}}),
    (
        "affinity",
        {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}},
    ),
]


@pytest.mark.parametrize(("field", "value"), VALID_TEMPLATE_FIELDS)
def test_valid_fields_of_a_template_are_taken(field: str, value: Any) -> None:
    """What Kubernetes takes is taken, without warnings, and the core can read it."""
    (entry,) = with_spec(**{field: value}).accepted

    assert entry.warnings == ()
    compile_constraints(entry.daemonset)


# --- what is refused ------------------------------------------------------------------------------


NESTED_LIST_YAML = "".join(f"x{n}: &x{n} [*x{n - 1}]\n" for n in range(1, 1200))
NESTED_MAP_YAML = "".join(f"x{n}: &x{n} {{a: *x{n - 1}}}\n" for n in range(1, 500))


@pytest.mark.parametrize(
    ("anchors", "alias", "field"),
    [(NESTED_LIST_YAML, "*x1199", "deep[0][0]"), (NESTED_MAP_YAML, "*x499", "deep.a.a")],
)
def test_nesting_that_aliases_hide_is_refused(anchors: str, alias: str, field: str) -> None:
    """A template that nests too deep by way of aliases is refused, and nothing recurses into it (B1)."""
    text = f"""x0: &x0 [1]
{anchors}
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template:
    deep: {alias}
    metadata: {{labels: {{app: agent}}}}
    spec: {{containers: [{{name: agent, image: "agent:1"}}]}}
"""
    ((found_field, message),) = problems(read_daemonsets("a.yaml", text.encode()))

    assert found_field.startswith(field)
    assert "is nested deeper than 100 mappings and lists" in message


@pytest.mark.parametrize(("depth", "taken"), [(98, True), (99, False)])
def test_a_template_nests_as_deep_as_a_document_may(depth: int, taken: bool) -> None:
    """A template may hold a hundred mappings and lists inside each other, itself counted (B1)."""
    deep = "[" * depth + "]" * depth
    text = f"""x: &x {deep}
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template:
    deep: [*x]
    metadata: {{labels: {{app: agent}}}}
    spec: {{containers: [{{name: agent, image: "agent:1"}}]}}
"""
    assert bool(read_daemonsets("a.yaml", text.encode()).accepted) is taken


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("x", [("spec.template", 'is text ("x"); it must be a mapping'), ("containers", "")]),
        ({"metadata": {"labels": LABELS}}, [("containers", "is missing or empty")]),
        (
            {"metadata": {"labels": LABELS}, "spec": []},
            [("spec", "is a list; it must be a mapping"), ("containers", "is missing or empty")],
        ),
        (
            {"metadata": {"labels": LABELS | {"b": "c d"}}, "spec": {"containers": [CONTAINER]}},
            [("metadata.labels", 'the value of "b": "c d" is not a label value')],
        ),
        (
            {
                "metadata": {"labels": LABELS, "annotations": {"a": 1}},
                "spec": {"containers": [CONTAINER]},
            },
            [("metadata.annotations", 'the value of "a" is a number (1): put it in quotes')],
        ),
    ],
)
def test_a_template_has_labels_and_containers(
    template: Any, expected: list[tuple[str, str]]
) -> None:
    """A template without containers, or with metadata of wrong types, is refused."""
    found = problems(read(template))

    for field, message in expected:
        assert [field_found for field_found, _ in found if field_found.endswith(field)]
        assert [text for _, text in found if text.startswith(message)]


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"containers": []}, "containers", "is missing or empty: write at least one container"),
        ({"containers": None}, "containers", "is missing or empty"),
        ({"containers": {}}, "containers", "is a mapping; it must be a list"),
        ({"containers": [None, CONTAINER]}, "containers[0]", "is null: write a value or remove"),
        ({"containers": ["x"]}, "containers[0]", 'is text ("x"); it must be a mapping'),
        ({"containers": [{"image": "x"}]}, "containers[0].name", "is missing: write a name"),
        ({"containers": [{"name": "a"}]}, "containers[0].image", "is missing: write an image"),
        (
            {"containers": [{"name": "A", "image": "x"}]},
            "containers[0].name",
            '"A" is not a name',
        ),
        (
            {"containers": [{"name": LONG, "image": "x"}]},
            "containers[0].name",
            "at most 63 characters",
        ),
        ({"containers": [{"name": 1, "image": "x"}]}, "containers[0].name", "is a number (1)"),
        ({"containers": [{"name": "a", "image": 1}]}, "containers[0].image", "is a number (1)"),
        (
            {"containers": [{"name": "a", "image": " x"}]},
            "containers[0].image",
            '" x" has white space around it',
        ),
        (
            {"containers": [CONTAINER, CONTAINER]},
            "containers[1].name",
            '"agent" is the name of another container',
        ),
        ({"initContainers": [CONTAINER]}, "containers[0].name", "is the name of another container"),
        ({"initContainers": [{"name": "b"}]}, "initContainers[0].image", "is missing"),
        ({"nodeSelector": {"a": 1}}, "nodeSelector", 'the value of "a" is a number (1): put it in'),
        ({"nodeSelector": {"a": True}}, "nodeSelector", 'the value of "a" is true (y, n'),
        ({"nodeSelector": {"a b": ""}}, "nodeSelector", '"a b" is not a key'),
        ({"nodeSelector": {"a": "b c"}}, "nodeSelector", '"b c" is not a label value'),
        ({"nodeSelector": ["a"]}, "nodeSelector", "is a list; it must be a mapping"),
        ({"nodeName": "A"}, "nodeName", '"A" is not a name'),
        ({"nodeName": 1}, "nodeName", "is a number (1)"),
        ({"hostNetwork": "true"}, "hostNetwork", 'is text ("true"); it must be true or false'),
        ({"hostNetwork": 1}, "hostNetwork", "is a number (1); it must be true or false"),
        ({"restartPolicy": "Never"}, "restartPolicy", '"Never": a DaemonSet\'s pods restart'),
        ({"restartPolicy": True}, "restartPolicy", "is true"),
        ({"activeDeadlineSeconds": 5}, "activeDeadlineSeconds", "have no deadline: remove it"),
        ({"tolerations": {}}, "tolerations", "is a mapping; it must be a list"),
        ({"affinity": []}, "affinity", "is a list; it must be a mapping"),
        ({"affinity": {"nodeAffinity": 1}}, "affinity.nodeAffinity", "is a number (1)"),
        ({"odd": {"args": ["a", None]}}, "odd.args[1]", "is null: write a value or remove the"),
    ],
)
def test_what_the_engine_reads_of_a_pod_is_examined(fields: Any, field: str, message: str) -> None:
    """One wrong field is one problem, under the path that kubectl would write."""
    ((found_field, found_message),) = problems(with_spec(**fields))

    assert found_field == f"spec.{field}"
    assert message in found_message


@pytest.mark.parametrize(
    ("toleration", "field", "message"),
    [
        (None, "", "is null: write a value or remove the item"),
        ("x", "", 'is text ("x"); it must be a mapping'),
        ({}, ".operator", "must be Exists if the key is empty"),
        ({"operator": "Equal", "value": "a"}, ".operator", "must be Exists if the key is empty"),
        ({"key": "a", "operator": "In"}, ".operator", '"In": write one of Equal, Exists, Lt, Gt'),
        ({"key": "a", "operator": "exists"}, ".operator", '"exists": write one of'),
        ({"key": "a", "operator": 1}, ".operator", "is a number (1)"),
        ({"key": "a", "operator": "Exists", "value": "b"}, ".operator", "Exists takes no value"),
        ({"key": "a b", "operator": "Exists"}, ".key", '"a b" is not a key'),
        ({"key": 1, "operator": "Equal"}, ".key", "is a number (1)"),
        ({"key": "a", "value": "b c"}, ".value", '"b c" is not a label value'),
        ({"key": "a", "value": True}, ".value", "is true"),
        ({"key": "a", "operator": "Lt", "value": "x"}, ".value", '"x" is not a whole number'),
        ({"key": "a", "operator": "Lt", "value": 5}, ".value", "is a number (5); it must be text"),
        ({"key": "a", "operator": "Gt"}, ".value", '"" is not a whole number of 64 bits'),
        ({"key": "a", "operator": "Gt", "value": "05"}, ".value", "no leading zero"),
        ({"key": "a", "operator": "Gt", "value": "9223372036854775808"}, ".value", "of 64 bits"),
        ({"key": "a", "operator": "Gt", "value": "9" * 5000}, ".value", "of 64 bits"),
        ({"key": "a", "effect": "noSchedule"}, ".effect", '"noSchedule" is not an effect: write'),
        ({"key": "a", "effect": 1}, ".effect", "is a number (1)"),
        ({"key": "a", "tolerationSeconds": 5}, ".effect", "must be NoExecute if"),
        (
            {"key": "a", "effect": "NoSchedule", "tolerationSeconds": 0},
            ".effect",
            "must be NoExecute if tolerationSeconds is set",
        ),
        (
            {"key": "a", "effect": "NoExecute", "tolerationSeconds": "5"},
            ".tolerationSeconds",
            'is text ("5"); it must be a whole number',
        ),
    ],
)
def test_tolerations_are_examined(toleration: Any, field: str, message: str) -> None:
    """A toleration that Kubernetes refuses is refused, one problem for one mistake."""
    ((found_field, found_message),) = problems(with_spec(tolerations=[toleration]))

    assert found_field == f"spec.tolerations[0]{field}"
    assert message in found_message


def affinity(required: Any) -> dict[str, Any]:
    """Required node affinity."""
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}


def expression(key: Any, operator: Any, values: Any = None) -> dict[str, Any]:
    """Required node affinity of one expression."""
    requirement = {"key": key, "operator": operator, "values": values}
    return affinity({"nodeSelectorTerms": [{"matchExpressions": [requirement]}]})


def node_field(key: Any, operator: Any, values: Any = None) -> dict[str, Any]:
    """Required node affinity of one requirement on a field."""
    requirement = {"key": key, "operator": operator, "values": values}
    return affinity({"nodeSelectorTerms": [{"matchFields": [requirement]}]})


@pytest.mark.parametrize(
    "value",
    [
        expression("a", "In", ["b"]),
        expression("a/b", "NotIn", ["b", ""]),
        expression("a", "Exists"),
        expression("a", "DoesNotExist", []),
        expression("a", "Gt", ["-5"]),
        expression("a", "Lt", ["0"]),
        node_field("metadata.name", "In", ["node-1.example"]),
        node_field("metadata.name", "NotIn", ["node-1"]),
    ],
)
def test_valid_node_affinity_is_taken(value: Any) -> None:
    """What Kubernetes takes is taken without a warning."""
    (entry,) = with_spec(affinity=value).accepted

    assert entry.warnings == ()


TERM = "nodeSelectorTerms[0]"
EXPRESSION = f"{TERM}.matchExpressions[0]"
FIELD = f"{TERM}.matchFields[0]"


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        (affinity({}), "nodeSelectorTerms", "is missing or empty: write at least one term"),
        (affinity({"nodeSelectorTerms": []}), "nodeSelectorTerms", "is missing or empty"),
        (affinity({"nodeSelectorTerms": {}}), "nodeSelectorTerms", "is a mapping; it must be a"),
        (affinity({"nodeSelectorTerms": [None]}), TERM, "is null"),
        (affinity({"nodeSelectorTerms": [1]}), TERM, "is a number (1); it must be a mapping"),
        (expression("", "Exists"), f"{EXPRESSION}.key", "is missing: write it"),
        (expression("a b", "Exists"), f"{EXPRESSION}.key", '"a b" is not a key'),
        (expression(1, "Exists"), f"{EXPRESSION}.key", "is a number (1)"),
        (expression("a", None), f"{EXPRESSION}.operator", "is missing: write one of DoesNotExist"),
        (expression("a", "Is"), f"{EXPRESSION}.operator", '"Is" is not an operator here'),
        (expression("a", {}, ["b"]), f"{EXPRESSION}.operator", "is a mapping; it must be text"),
        (expression("a", "In"), f"{EXPRESSION}.values", "is empty; In needs at least one value"),
        (expression("a", "NotIn", []), f"{EXPRESSION}.values", "is empty; NotIn needs"),
        (expression("a", "Exists", ["b"]), f"{EXPRESSION}.values", "has 1; Exists takes none"),
        (expression("a", "In", "b"), f"{EXPRESSION}.values", "it must be a list"),
        (expression("a", "In", [1]), f"{EXPRESSION}.values[0]", "is a number (1); it must be text"),
        (expression("a", "In", ["b c"]), f"{EXPRESSION}.values[0]", "is not a label value"),
        (expression("a", "Gt"), f"{EXPRESSION}.values", "has 0; Gt needs exactly one whole number"),
        (expression("a", "Lt", ["1", "2"]), f"{EXPRESSION}.values", "has 2; Lt needs exactly one"),
        (expression("a", "Lt", ["x"]), f"{EXPRESSION}.values[0]", '"x" is not a whole number'),
        (expression("a", "Gt", [5]), f"{EXPRESSION}.values[0]", "put it in quotes"),
        (node_field("", "In", ["a"]), f"{FIELD}.key", "is missing"),
        (node_field("metadata.uid", "In", ["a"]), f"{FIELD}.key", "the only field is metadata.n"),
        (node_field("metadata.name", "Exists"), f"{FIELD}.operator", "write one of In, NotIn"),
        (node_field("metadata.name", "In", []), f"{FIELD}.values", "has 0; metadata.name needs"),
        (node_field("metadata.name", "In", ["a", "b"]), f"{FIELD}.values", "has 2; metadata.name"),
        (node_field("metadata.name", "In", ["A"]), f"{FIELD}.values[0]", '"A" is not a name'),
        (node_field("metadata.name", "In", [1]), f"{FIELD}.values[0]", "is a number (1)"),
    ],
)
def test_node_affinity_is_examined(value: Any, field: str, message: str) -> None:
    """Each operator takes the values that it takes in Kubernetes, and fields only the node's name."""
    found = problems(with_spec(affinity=value))
    prefix = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution."

    assert (prefix + field) in [path for path, _ in found]
    assert [text for path, text in found if path == prefix + field and message in text]
    if message != "write one of In, NotIn":
        assert len(found) == 1


@pytest.mark.parametrize("term", [{}, {"matchExpressions": [], "matchFields": None}])
def test_an_empty_term_is_warned_about(term: Any) -> None:
    """A term without requirements is taken, as in Kubernetes, with a warning that it matches nothing."""
    (entry,) = with_spec(affinity=affinity({"nodeSelectorTerms": [term]})).accepted
    (warning,) = entry.warnings

    assert warning.field.endswith(".nodeSelectorTerms[0]")
    assert "an empty term matches no node" in warning.message


def test_misspelt_fields_of_an_affinity_are_warned_about() -> None:
    """A misspelt field where the engine knows all that there are is warned about, and kept."""
    value = affinity({"nodeSelectorTerms": [{"matchExpression": []}]})
    value["nodeAffinity"]["required"] = {}

    (entry,) = with_spec(affinity=value).accepted

    assert [warning.field.rpartition(".")[2] for warning in entry.warnings] == [
        "required",
        "matchExpression",
        "nodeSelectorTerms[0]",
    ]
    assert b'"matchExpression":[]' in bytes(entry.daemonset.template)
