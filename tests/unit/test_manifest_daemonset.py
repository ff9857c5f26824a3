"""DaemonSet manifests to values: what is read, what is refused and how, and what is said about it."""

import copy
import json
from typing import Any

import msgspec
import pytest
import yaml

from everynode.core.values import DaemonSet, Requirement, Selector, UpdateStrategy
from everynode.errors import InvalidObjectError
from everynode.manifest import (
    BACKEND_ANNOTATION,
    DOCUMENT_BYTES_MAX,
    UNASSIGNED_UID,
    Accepted,
    Manifests,
    Rejected,
    read_daemonsets,
)

BASE: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "agent"},
    "spec": {
        "selector": {"matchLabels": {"app": "agent"}},
        "updateStrategy": {"type": "OnDelete"},
        "template": {
            "metadata": {"labels": {"app": "agent", "tier": "node"}},
            "spec": {"containers": [{"name": "agent", "image": "agent:1"}]},
        },
    },
}
GONE = object()
"""Stands for a field that is taken away."""


def changed(path: str, value: Any) -> dict[str, Any]:
    """The base manifest with one field changed; the path's parts are separated by spaces."""
    document = copy.deepcopy(BASE)
    *parents, last = path.split()
    place: Any = document
    for parent in parents:
        place = place[int(parent)] if isinstance(place, list) else place.setdefault(parent, {})
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return document


def read(document: Any, namespace: str = "default") -> Manifests:
    """Read one document that is given as a value."""
    return read_daemonsets("a.yaml", json.dumps(document).encode(), namespace)


def accepted(document: Any) -> Accepted:
    """Read one document that has to be accepted."""
    manifests = read(document)
    assert manifests.rejected == ()
    (entry,) = manifests.accepted
    return entry


def daemonset(document: Any) -> DaemonSet:
    """Read one document that has to be accepted, and return the value."""
    return accepted(document).daemonset


def problems(document: Any) -> list[tuple[str, str]]:
    """Read one document that has to be refused, and return what is wrong with it."""
    (entry,) = read(document).rejected
    return [(problem.field, problem.message) for problem in entry.errors]


# --- what is read ---------------------------------------------------------------------------------


def test_a_plain_manifest_becomes_a_daemonset() -> None:
    """Every field of the value comes from the manifest, or is Kubernetes' default."""
    expected = DaemonSet(
        namespace="default",
        name="agent",
        uid=UNASSIGNED_UID,
        generation=1,
        selector=Selector(match_labels={"app": "agent"}),
        template=msgspec.Raw(
            b'{"metadata":{"labels":{"app":"agent","tier":"node"}},'
            b'"spec":{"containers":[{"image":"agent:1","name":"agent"}]}}'
        ),
    )

    found = daemonset(BASE)
    assert bytes(found.template) == bytes(expected.template)
    assert msgspec.structs.replace(found, template=expected.template) == expected


def test_all_that_can_be_written_is_read() -> None:
    """Namespace, labels, annotations, backend, numbers and strategy are taken over."""
    document = copy.deepcopy(BASE)
    document["metadata"] |= {
        "namespace": "logging",
        "labels": {"team": "a", "empty": None},
        "annotations": {BACKEND_ANNOTATION: "east", "note": "a b\n"},
    }
    document["spec"] |= {
        "minReadySeconds": 5,
        "revisionHistoryLimit": 0,
        "updateStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": "0%", "maxSurge": "30%"},
        },
        "selector": {
            "matchExpressions": [
                {"key": "app", "operator": "In", "values": ["agent", "other"]},
                {"key": "tier", "operator": "NotIn", "values": ["pod"]},
                {"key": "absent", "operator": "NotIn", "values": ["x"]},
                {"key": "app", "operator": "Exists"},
                {"key": "absent", "operator": "DoesNotExist", "values": None},
            ]
        },
    }

    entry = accepted(document)
    found = entry.daemonset

    assert entry.warnings == ()
    assert str(found.key) == "logging/agent"
    assert found.labels == {"team": "a", "empty": ""}
    assert found.annotations == {BACKEND_ANNOTATION: "east", "note": "a b\n"}
    assert found.backend == "east"
    assert (found.min_ready_seconds, found.revision_history_limit) == (5, 0)
    assert found.update_strategy == UpdateStrategy(
        type="RollingUpdate", max_unavailable="0%", max_surge="30%"
    )
    assert found.selector.match_expressions[0] == Requirement(
        key="app", operator="In", values=("agent", "other")
    )


def test_a_set_without_namespace_is_in_the_callers() -> None:
    """The namespace of a set that names none is the caller's; an empty one is none."""
    (first,) = read(BASE, "mine").accepted
    (second,) = read(changed("metadata namespace", ""), "mine").accepted

    assert [first.subject, second.subject] == ["DaemonSet mine/agent", "DaemonSet mine/agent"]


@pytest.mark.parametrize(
    ("strategy", "expected", "notes"),
    [
        (GONE, UpdateStrategy(), 1),
        (None, UpdateStrategy(), 1),
        ({}, UpdateStrategy(), 1),
        ({"type": "", "rollingUpdate": None}, UpdateStrategy(), 1),
        ({"type": "OnDelete"}, UpdateStrategy(), 0),
        ({"type": "RollingUpdate"}, UpdateStrategy(type="RollingUpdate"), 0),
        ({"rollingUpdate": {}}, UpdateStrategy(type="RollingUpdate"), 0),
        (
            {"rollingUpdate": {"maxUnavailable": "100%"}},
            UpdateStrategy(type="RollingUpdate", max_unavailable="100%"),
            0,
        ),
        (
            {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}},
            UpdateStrategy(type="RollingUpdate", max_unavailable=0, max_surge=2),
            0,
        ),
    ],
)
def test_the_update_strategy_has_its_defaults(
    strategy: Any, expected: UpdateStrategy, notes: int
) -> None:
    """A strategy that is not set is OnDelete, with a note; any part of one that is set means RollingUpdate."""
    entry = accepted(changed("spec updateStrategy", strategy))

    assert entry.daemonset.update_strategy == expected
    assert len(entry.notes) == notes


def test_the_note_says_what_no_strategy_means() -> None:
    """The note about a missing strategy is the sentence that `apply` prints."""
    assert accepted(changed("spec updateStrategy", GONE)).notes == (
        "update strategy not set: OnDelete; pods keep their template until they are deleted",
    )


# --- what is refused ------------------------------------------------------------------------------

LONG = "a" * 64
INVALID = [
    ("metadata name", GONE, "metadata.name", "is missing: write a name"),
    ("metadata name", "", "metadata.name", "is missing: write a name"),
    ("metadata name", "Agent", "metadata.name", '"Agent" is not a name'),
    ("metadata name", "a" * 254, "metadata.name", "at most 253 characters"),
    ("metadata name", "a..b", "metadata.name", "is not a name"),
    ("metadata name", "a\n", "metadata.name", '"a\\n" is not a name'),
    ("metadata name", 7, "metadata.name", "is a number (7); it must be text: put it in quotes"),
    ("metadata name", ["a"], "metadata.name", "is a list; it must be text"),
    ("metadata namespace", "a.b", "metadata.namespace", '"a.b" is not a name'),
    ("metadata namespace", LONG, "metadata.namespace", "at most 63 characters"),
    ("metadata namespace", True, "metadata.namespace", "is true (y, n, yes, no, on and off are"),
    ("metadata labels", [], "metadata.labels", "is a list; it must be a mapping"),
    ("metadata labels", {"a b": "c"}, "metadata.labels", '"a b" is not a key'),
    ("metadata labels", {"A.b/": "c"}, "metadata.labels", '"A.b/" is not a key'),
    ("metadata labels", {"a": "b c"}, "metadata.labels", 'the value of "a": "b c" is not a label'),
    ("metadata labels", {"a": LONG}, "metadata.labels", "at most 63 characters"),
    ("metadata labels", {"a": 1}, "metadata.labels", 'the value of "a" is a number (1): put it in'),
    ("metadata labels", {"a": {}}, "metadata.labels", "is a mapping; it must be text"),
    ("metadata annotations", {"/a": "b"}, "metadata.annotations", '"/a" is not a key'),
    ("metadata annotations", {"a": False}, "metadata.annotations", "is false (y, n"),
    (
        "metadata annotations",
        {"a": "x" * 262_144},
        "metadata.annotations",
        "have 262145 bytes; at most 262144",
    ),
    (
        "metadata annotations",
        {BACKEND_ANNOTATION: ""},
        "metadata.annotations",
        f'{BACKEND_ANNOTATION} is "": name one backend',
    ),
    (
        "metadata annotations",
        {BACKEND_ANNOTATION: "a b"},
        "metadata.annotations",
        'is "a b": name one',
    ),
    ("metadata annotations", {BACKEND_ANNOTATION: "a\0"}, "metadata.annotations", "name one"),
    ("metadata annotations", {BACKEND_ANNOTATION: "a" * 254}, "metadata.annotations", "name one"),
    ("spec selector", GONE, "spec.selector", "is missing: write matchLabels"),
    ("spec selector", None, "spec.selector", "is missing: write matchLabels"),
    ("spec selector", {}, "spec.selector", "is empty and would select every pod"),
    ("spec selector", {"matchLabels": {}}, "spec.selector", "is empty and would select"),
    ("spec selector", [], "spec.selector", "is a list; it must be a mapping"),
    (
        "spec selector",
        {"matchLabels": {"app": "other"}},
        "spec.template.metadata.labels",
        "do not match spec.selector",
    ),
    (
        "spec template metadata",
        GONE,
        "spec.template.metadata.labels",
        "do not match spec.selector",
    ),
    ("spec template", GONE, "spec.template", "is missing"),
    ("spec template", None, "spec.template", "is missing"),
    ("spec minReadySeconds", -1, "spec.minReadySeconds", "is -1; it must be from 0 to 2147483647"),
    ("spec minReadySeconds", 2**31, "spec.minReadySeconds", "it must be from 0 to 2147483647"),
    ("spec minReadySeconds", "5", "spec.minReadySeconds", 'is text ("5"); it must be a whole'),
    ("spec minReadySeconds", True, "spec.minReadySeconds", "is true"),
    ("spec minReadySeconds", 1.5, "spec.minReadySeconds", "is a number (1.5); it must be a whole"),
    ("spec revisionHistoryLimit", -1, "spec.revisionHistoryLimit", "is -1"),
    ("spec updateStrategy type", "Recreate", "spec.updateStrategy.type", "write RollingUpdate or"),
    ("spec updateStrategy type", 1, "spec.updateStrategy.type", "is a number (1)"),
    ("spec updateStrategy", "OnDelete", "spec.updateStrategy", "it must be a mapping"),
]


@pytest.mark.parametrize(("path", "value", "field", "message"), INVALID)
def test_what_the_api_server_refuses_is_refused(
    path: str, value: Any, field: str, message: str
) -> None:
    """One wrong field is one problem, under the path that kubectl would write, and says what to do."""
    ((found_field, found_message),) = problems(changed(path, value))

    assert found_field == field
    assert message in found_message


@pytest.mark.parametrize(
    ("operator", "values", "field", "message"),
    [
        ("In", [], "values", "is empty; In needs at least one value"),
        ("NotIn", None, "values", "is empty; NotIn needs at least one value"),
        ("Exists", ["x"], "values", "has 1; Exists takes none"),
        ("DoesNotExist", ["x", "y"], "values", "has 2; DoesNotExist takes none"),
        ("Gt", ["1"], "operator", '"Gt" is not an operator here: write one of DoesNotExist'),
        ("", ["1"], "operator", "is missing: write one of DoesNotExist, Exists, In, NotIn"),
        (["In"], ["1"], "operator", "is a list; it must be text"),
        ("In", "x", "values", 'is text ("x"); it must be a list'),
        ("In", [1], "values[0]", "is a number (1); it must be text: put it in quotes"),
        ("In", ["a", None], "values[1]", "is null: write a value or remove the item"),
        ("In", ["a", "b c"], "values[1]", '"b c" is not a label value'),
    ],
)
def test_a_selectors_expressions_are_examined(
    operator: Any, values: Any, field: str, message: str
) -> None:
    """Each operator of a selector takes the values that it takes in Kubernetes."""
    expression = {"key": "app", "operator": operator, "values": values}
    document = changed("spec selector matchExpressions", [expression])

    ((found_field, found_message),) = problems(document)

    assert found_field == f"spec.selector.matchExpressions[0].{field}"
    assert message in found_message


@pytest.mark.parametrize(
    ("key", "operator", "values"),
    [
        ("app", "In", ["other"]),
        ("absent", "In", ["x"]),
        ("app", "NotIn", ["x", "agent"]),
        ("absent", "Exists", []),
        ("app", "DoesNotExist", []),
    ],
)
def test_a_selector_must_select_the_pods(key: str, operator: str, values: list[str]) -> None:
    """A selector with an expression that the template's labels do not meet is refused."""
    expression = {"key": key, "operator": operator, "values": values}

    found = problems(changed("spec selector matchExpressions", [expression]))

    assert [field for field, _ in found] == ["spec.template.metadata.labels"]


@pytest.mark.parametrize(
    ("rolling_update", "field", "message"),
    [
        ({"maxSurge": 1}, "maxSurge", "not 0 (it is 1 if it is not set): write maxUnavailable: 0"),
        ({"maxSurge": "1%", "maxUnavailable": "1%"}, "maxSurge", "may not be set when"),
        ({"maxUnavailable": 0}, "maxUnavailable", "cannot be 0 when maxSurge is 0"),
        ({"maxUnavailable": "00%", "maxSurge": "0%"}, "maxUnavailable", "cannot be 0 when"),
        ({"maxUnavailable": -1}, "maxUnavailable", "is -1; it must be from 0"),
        ({"maxUnavailable": True}, "maxUnavailable", "is true"),
        ({"maxUnavailable": "1"}, "maxUnavailable", "write a whole number without quotes, or 0%"),
        ({"maxUnavailable": "101%"}, "maxUnavailable", '"101%": write a whole number'),
        ({"maxUnavailable": "-1%"}, "maxUnavailable", '"-1%"'),
        ({"maxUnavailable": "1%\n"}, "maxUnavailable", "write a whole number"),
        ({"maxUnavailable": "9" * 5000 + "%"}, "maxUnavailable", "write a whole number"),
        ({"maxUnavailable": 1, "maxSurge": "x"}, "maxSurge", '"x": write a whole number'),
        ({"maxUnavailable": "x", "maxSurge": 1}, "maxUnavailable", '"x": write a whole number'),
        ({"maxUnavailable": 0, "maxSurge": 1.5}, "maxSurge", "is a number (1.5)"),
        ({"maxUnavailable": 0, "maxSurge": {}}, "maxSurge", "is a mapping"),
    ],
)
def test_a_rolling_updates_numbers_are_examined(
    rolling_update: Any, field: str, message: str
) -> None:
    """Exactly one of maxUnavailable and maxSurge is not 0, and both are numbers or percentages."""
    document = changed("spec updateStrategy", {"rollingUpdate": rolling_update})

    ((found_field, found_message),) = problems(document)

    assert found_field == f"spec.updateStrategy.rollingUpdate.{field}"
    assert message in found_message


def test_every_problem_is_reported_at_once() -> None:
    """One reading names all that is wrong with a document, in the order of the fields."""
    text = """
apiVersion: extensions/v1beta1
kind: DaemonSet
metadata: {generateName: agent-, namespace: Bad}
spec:
  minReadySeconds: -1
  minReadySeconds: 1
  template:
    spec:
      hostNetwork: "yes"
      restartPolicy: Never
      tolerations: [{operator: Odd}, ~]
"""
    (entry,) = read_daemonsets("a.yaml", text.encode()).rejected

    assert [problem.field for problem in entry.errors] == [
        "spec.minReadySeconds",
        "apiVersion",
        "metadata.name",
        "metadata.namespace",
        "spec.selector",
        "spec.template.spec.containers",
        "spec.template.spec.hostNetwork",
        "spec.template.spec.tolerations[1]",
        "spec.template.spec.tolerations[0].operator",
        "spec.template.spec.restartPolicy",
        "spec.minReadySeconds",
    ]
    assert "generateName is not enough" in entry.errors[2].message


def test_very_many_problems_are_cut() -> None:
    """Of thousands of problems the first hundred are reported, and that there are more (B1)."""
    document = changed("spec template spec tolerations", [{"operator": "Odd"}] * 1000)

    found = problems(document)

    assert len(found) == 101
    assert found[-1] == ("", "there are more than 100: correct these first")


def test_a_set_that_is_too_large_for_the_log_is_refused() -> None:
    """A set that is larger as JSON than a document may be is refused, though its YAML was not (B1)."""
    control_characters = (
        '"' + "\\x01" * (200 * 1024) + '"'
    )  # JSON takes six bytes for each, YAML four
    text = yaml.safe_dump(changed("spec template odd", 1)).replace(
        "odd: 1", f"odd: {control_characters}"
    )
    assert len(text) < DOCUMENT_BYTES_MAX

    (entry,) = read_daemonsets("a.yaml", text.encode()).rejected

    assert "bytes; at most 921600 are taken: make it smaller" in entry.errors[0].message


# --- warnings, and how results read ---------------------------------------------------------------


def test_unknown_fields_outside_of_the_template_are_warned_about() -> None:
    """A field that means nothing is named with its path; what a server writes is not."""
    document = copy.deepcopy(BASE)
    document |= {"status": {"numberReady": 1}, "spek": {}}
    document["metadata"] |= dict.fromkeys(
        (
            *("creationTimestamp", "deletionTimestamp", "generation", "managedFields", "uid"),
            *("ownerReferences", "resourceVersion", "selfLink", "finalizers", "generateName"),
        ),
        "x",
    )
    document["metadata"]["anotations"] = {}
    document["spec"]["replicas"] = 3
    document["spec"]["selector"]["matchLabel"] = {}
    document["spec"]["selector"]["matchExpressions"] = [
        {"key": "app", "operator": "Exists", "value": "x"}
    ]
    document["spec"]["updateStrategy"] = {"rollingUpdate": {"partitions": 1}, "odd": 1}
    document["spec"]["template"]["odd"] = 1
    document["spec"]["template"]["spec"]["tolerations"] = [{"operator": "Exists", "effects": "x"}]

    assert [warning.field for warning in accepted(document).warnings] == [
        "spek",
        "metadata.anotations",
        "spec.replicas",
        "spec.selector.matchLabel",
        "spec.selector.matchExpressions[0].value",
        "spec.template.spec.tolerations[0].effects",
        "spec.updateStrategy.odd",
        "spec.updateStrategy.rollingUpdate.partitions",
    ]


def test_numbers_of_a_rolling_update_that_is_none_are_warned_about() -> None:
    """OnDelete with rollingUpdate is taken, as in Kubernetes, and said to have no effect."""
    strategy = {"type": "OnDelete", "rollingUpdate": {"maxUnavailable": 5}}

    entry = accepted(changed("spec updateStrategy", strategy))

    assert entry.daemonset.update_strategy == UpdateStrategy()
    assert [warning.field for warning in entry.warnings] == ["spec.updateStrategy.rollingUpdate"]


def test_a_rejected_document_can_be_raised() -> None:
    """The error of a rejected document names file, document, line, object, field and what to do."""
    (entry,) = read(changed("spec selector", GONE), "mine").rejected

    assert isinstance(entry, Rejected)
    assert isinstance(entry.error(), InvalidObjectError)
    assert str(entry.error()) == (
        "a.yaml, document 1 (line 1): DaemonSet mine/agent: spec.selector: is missing: write "
        "matchLabels, with labels of spec.template.metadata.labels"
    )


def test_an_unreadable_document_is_named_by_its_place() -> None:
    """The error of a document that cannot be read names file, document and line."""
    (entry,) = read_daemonsets("a.yaml", b"a: [").rejected

    assert entry.subject == "document 1"
    assert str(entry.error()).startswith("a.yaml, document 1 (line 1): line 2, column 1: ")

    (entry,) = read_daemonsets("a.yaml", b"kind: Odd\na: [").rejected

    assert entry.title == "a.yaml, document 1 (line 1): Odd"
