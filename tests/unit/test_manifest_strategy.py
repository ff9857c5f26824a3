"""Update strategies: how a rollout is controlled in a manifest, by fields and by annotations."""

import copy
import json
from typing import Any

import pytest

from everynode.core.selectors import selects
from everynode.core.values import Requirement, Selector, UpdateStrategy
from everynode.manifest import Accepted, Rejected, read_daemonsets, read_update_strategy
from everynode.manifest.annotations import BACKEND_ANNOTATION, KNOWN_ANNOTATIONS

ROLLING = "spec.updateStrategy.rollingUpdate"
BASE: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "agent"},
    "spec": {
        "selector": {"matchLabels": {"app": "agent"}},
        "template": {
            "metadata": {"labels": {"app": "agent"}},
            "spec": {"containers": [{"name": "agent", "image": "agent:1"}]},
        },
    },
}


def annotated(**said: str) -> dict[str, str]:
    """Annotations of ours, by their names in Python."""
    return {f"everynode.dev/{name.replace('_', '-')}": text for name, text in said.items()}


def read(
    fields: Any = None,
    annotations: dict[str, Any] | None = None,
    *,
    kind: str = "RollingUpdate",
    min_ready_seconds: Any = 0,
) -> Accepted | Rejected:
    """Read a manifest with these fields of rollingUpdate and these annotations."""
    document = copy.deepcopy(BASE)
    document["metadata"]["annotations"] = annotations
    document["spec"]["minReadySeconds"] = min_ready_seconds
    document["spec"]["updateStrategy"] = {"type": kind, "rollingUpdate": fields}
    found = read_daemonsets("a.yaml", json.dumps(document).encode())
    entries: list[Accepted | Rejected] = [*found.accepted, *found.rejected]
    (entry,) = entries
    return entry


def strategy(*args: Any, **kwargs: Any) -> UpdateStrategy:
    """Read a manifest that is right and about which there is nothing to say, and return its strategy."""
    entry = read(*args, **kwargs)
    assert isinstance(entry, Accepted), entry
    assert (entry.warnings, entry.notes) == ((), ())
    return entry.daemonset.update_strategy


def problems(*args: Any, **kwargs: Any) -> list[tuple[str, str]]:
    """Read a manifest that is refused, and return what is wrong with it."""
    entry = read(*args, **kwargs)
    assert isinstance(entry, Rejected), entry
    return [(problem.field, problem.message) for problem in entry.errors]


def warnings(*args: Any, **kwargs: Any) -> list[tuple[str, str]]:
    """Read a manifest that is accepted, and return what it is warned about."""
    entry = read(*args, **kwargs)
    assert isinstance(entry, Accepted), entry
    return [(warning.field, warning.message) for warning in entry.warnings]


# --- what is read ---------------------------------------------------------------------------------

ZONE_A = Selector(match_expressions=(Requirement(key="zone", operator="In", values=("a",)),))
SAYINGS: list[tuple[dict[str, Any], dict[str, str], dict[str, Any]]] = [
    ({"paused": True}, annotated(paused="true"), {"paused": True}),
    ({"paused": False}, annotated(paused="false"), {"paused": False}),
    ({"partition": 3}, annotated(partition="3"), {"partition": 3}),
    ({"partition": 0}, annotated(partition="0"), {"partition": 0}),
    ({"partition": "20%"}, annotated(partition="20%"), {"partition": "20%"}),
    ({"partition": 2**31 - 1}, annotated(partition="2147483647"), {"partition": 2**31 - 1}),
    (
        {
            "selector": {
                "matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}],
            }
        },
        annotated(selector="zone=a"),
        {"selector": ZONE_A},
    ),
    (
        {"progressDeadlineSeconds": 300},
        annotated(progress_deadline_seconds="300"),
        {"progress_deadline_seconds": 300},
    ),
    (
        {"progressDeadlineSeconds": 0},
        annotated(progress_deadline_seconds="0"),
        {"progress_deadline_seconds": 0},
    ),
    (
        {"unreachableNodes": "Skip"},
        annotated(unreachable_nodes="Skip"),
        {"unreachable_nodes": "Skip"},
    ),
    (
        {"unreachableNodes": "Count"},
        annotated(unreachable_nodes="Count"),
        {"unreachable_nodes": "Count"},
    ),
]


@pytest.mark.parametrize(("fields", "annotations", "expected"), SAYINGS)
def test_a_field_and_its_annotation_mean_the_same(
    fields: dict[str, Any], annotations: dict[str, str], expected: dict[str, Any]
) -> None:
    """Each thing can be said by a field, by an annotation, or by both if they agree."""
    wanted = UpdateStrategy(type="RollingUpdate", **expected)

    assert wanted == strategy(fields)
    assert wanted == strategy(None, annotations)
    assert wanted == strategy(fields, annotations)


def test_what_is_not_said_has_its_default() -> None:
    """A rolling update without more is not paused, for all nodes, counts all, and has ten minutes to progress."""
    expected = UpdateStrategy(
        type="RollingUpdate",
        max_unavailable=1,
        max_surge=0,
        paused=False,
        partition=0,
        selector=None,
        progress_deadline_seconds=600,
        unreachable_nodes="Count",
    )

    assert expected == strategy()
    assert expected == strategy({"paused": None, "selector": None, "partition": None})


def test_several_things_can_be_said_in_both_places() -> None:
    """Fields and annotations complete each other."""
    expected = UpdateStrategy(type="RollingUpdate", max_unavailable="10%", partition=2, paused=True)

    assert expected == strategy({"maxUnavailable": "10%", "partition": 2}, annotated(paused="true"))


@pytest.mark.parametrize(
    ("min_ready_seconds", "deadline"), [(None, 600), (599, 600), (600, 1200), (700, 1300)]
)
def test_a_long_time_to_be_ready_moves_the_default_deadline(
    min_ready_seconds: int | None, deadline: int
) -> None:
    """A set that is right in apps/v1 is right here: its deadline, if it says none, leaves time to get ready."""
    found = strategy(min_ready_seconds=min_ready_seconds)

    assert deadline == found.progress_deadline_seconds


def test_a_node_selector_is_a_label_selector() -> None:
    """Labels and expressions are both taken, with the operators of a label selector."""
    found = strategy(
        {
            "selector": {
                "matchLabels": {"zone": "a"},
                "matchExpressions": [
                    {"key": "tier", "operator": "NotIn", "values": ["x", "y"]},
                    {"key": "gpu", "operator": "DoesNotExist"},
                ],
            }
        },
        # The same in other words and in another order.
        annotated(selector="!gpu, zone in (a), tier notin (y,x)"),
    )

    assert found.selector == Selector(
        match_labels={"zone": "a"},
        match_expressions=(
            Requirement(key="tier", operator="NotIn", values=("x", "y")),
            Requirement(key="gpu", operator="DoesNotExist"),
        ),
    )


@pytest.mark.parametrize(
    ("fields", "annotations", "field"),
    [
        ({"selector": {}}, None, f"{ROLLING}.selector"),
        ({"selector": {"matchLabels": {}}}, None, f"{ROLLING}.selector"),
        (None, annotated(selector=" "), "metadata.annotations[everynode.dev/selector]"),
    ],
)
def test_an_empty_node_selector_is_warned_about(
    fields: Any, annotations: dict[str, str] | None, field: str
) -> None:
    """A selector with nothing in it means all nodes, as everywhere in Kubernetes, and that is said."""
    entry = read(fields, annotations)
    assert isinstance(entry, Accepted)

    assert entry.daemonset.update_strategy == UpdateStrategy(type="RollingUpdate")
    assert [(warning.field, warning.message) for warning in entry.warnings] == [
        (field, "is empty and selects every node: remove it, or say which nodes to update")
    ]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"paused": "true"}, "paused", 'is text ("true"); it must be true or false'),
        ({"paused": 1}, "paused", "is a number (1); it must be true or false"),
        ({"partition": -1}, "partition", "is -1; it must be from 0 to 2147483647"),
        ({"partition": 2**31}, "partition", "is 2147483648; it must be from 0"),
        ({"partition": "3"}, "partition", '"3": write a whole number without quotes, or 0% to'),
        ({"partition": "101%"}, "partition", '"101%": write a whole number'),
        ({"partition": True}, "partition", "is true"),
        ({"selector": "a=b"}, "selector", 'is text ("a=b"); it must be a mapping'),
        (
            {"selector": {"matchLabels": {"a b": "c"}}},
            "selector.matchLabels",
            '"a b" is not a key',
        ),
        (
            {"selector": {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}},
            "selector.matchExpressions[0].operator",
            '"Gt" is not an operator here',
        ),
        ({"progressDeadlineSeconds": -1}, "progressDeadlineSeconds", "is -1; it must be from 0"),
        ({"progressDeadlineSeconds": "5"}, "progressDeadlineSeconds", "it must be a whole number"),
        (
            {"progressDeadlineSeconds": 30},
            "progressDeadlineSeconds",
            "is 30; it must be greater than minReadySeconds (30), or 0 for no deadline",
        ),
        ({"unreachableNodes": "skip"}, "unreachableNodes", '"skip": write Count or Skip'),
        ({"unreachableNodes": ""}, "unreachableNodes", '"": write Count or Skip'),
        ({"unreachableNodes": 1}, "unreachableNodes", "is a number (1); it must be text"),
    ],
)
def test_a_wrong_field_of_a_rollout_is_refused(fields: Any, field: str, message: str) -> None:
    """One wrong field is one problem, under its path, and says what to do."""
    ((found_field, found_message),) = problems(fields, min_ready_seconds=30)

    assert f"{ROLLING}.{field}" == found_field
    assert message in found_message


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (annotated(paused="True"), '"True": write "true" or "false"'),
        (annotated(paused=""), '"": write "true" or "false"'),
        (annotated(partition="a"), '"a": write a whole number such as "3", or "0%" to "100%"'),
        (annotated(partition="-1"), '"-1": write a whole number'),
        (annotated(partition="3.0"), '"3.0": write a whole number'),
        (annotated(partition="1" * 11), "write a whole number such as"),
        (annotated(partition="2147483648"), "is 2147483648; it must be from 0 to 2147483647"),
        (annotated(partition="101%"), '"101%": write a whole number'),
        (annotated(progress_deadline_seconds="10m"), '"10m": write a whole number of seconds'),
        (annotated(progress_deadline_seconds="5"), "is 5; it must be greater than minReadySeconds"),
        (annotated(unreachable_nodes="Ignore"), '"Ignore": write Count or Skip'),
        (annotated(selector="a=b=c"), '"a=b=c" is no requirement on a label; write key=value'),
        (annotated(selector="a>1"), '"a>1" is no requirement on a label'),
        (annotated(selector="a=" + "x" * 64), "is not a label value"),
    ],
)
def test_a_wrong_annotation_is_refused(annotations: dict[str, str], message: str) -> None:
    """One wrong annotation is one problem, under its path, and says what an annotation has to be."""
    (name,) = annotations

    ((field, found_message),) = problems(None, annotations, min_ready_seconds=30)

    assert f"metadata.annotations[{name}]" == field
    assert message in found_message


def test_an_annotation_that_is_no_text_is_one_problem() -> None:
    """An annotation without quotes is reported by the rule for annotations, and not again."""
    found = problems(None, {"everynode.dev/partition": 3})

    assert [
        (
            "metadata.annotations",
            'the value of "everynode.dev/partition" is a number (3): put it in quotes',
        )
    ] == found


@pytest.mark.parametrize(
    ("fields", "annotations"),
    [
        ({"paused": False}, annotated(paused="true")),
        ({"paused": True}, annotated(paused="false")),
        ({"partition": 0}, annotated(partition="1")),
        ({"partition": 3}, annotated(partition="3%")),
        ({"selector": {"matchLabels": {"zone": "a"}}}, annotated(selector="zone=b")),
        ({"selector": {"matchLabels": {"zone": "a"}}}, annotated(selector="zone!=a")),
        ({"selector": {"matchLabels": {"zone": "a"}}}, annotated(selector="zone=a,gpu")),
        ({"progressDeadlineSeconds": 0}, annotated(progress_deadline_seconds="1")),
        ({"unreachableNodes": "Count"}, annotated(unreachable_nodes="Skip")),
    ],
)
def test_fields_and_annotations_that_differ_are_refused(
    fields: dict[str, Any], annotations: dict[str, str]
) -> None:
    """What is said twice and differently is refused, and the problem names both places."""
    ((name, text),) = annotations.items()
    (field,) = fields

    assert [
        (
            f"{ROLLING}.{field}",
            (
                f'and metadata.annotations[{name}], which is "{text}", say different things: '
                "remove one of them"
            ),
        )
    ] == problems(fields, annotations)


@pytest.mark.parametrize(
    ("fields", "annotations"),
    [
        ({"paused": 1}, annotated(paused="true")),
        ({"paused": True}, annotated(paused="yes")),
        ({"progressDeadlineSeconds": 5}, annotated(progress_deadline_seconds="60")),
    ],
)
def test_what_is_wrong_is_not_compared(fields: dict[str, Any], annotations: dict[str, str]) -> None:
    """A field or an annotation that is wrong is reported once, and not also as different from the other."""
    assert len(problems(fields, annotations, min_ready_seconds=30)) == 1


# --- warnings -------------------------------------------------------------------------------------

EVERYTHING = annotated(
    paused="true",
    partition="3",
    selector="zone=a",
    progress_deadline_seconds="5",
    unreachable_nodes="Skip",
)


@pytest.mark.parametrize(
    ("kind", "shown"), [("OnDelete", "OnDelete:"), ("", "OnDelete, which it is if none is set:")]
)
def test_annotations_of_a_rollout_that_is_none_are_warned_about(kind: str, shown: str) -> None:
    """With OnDelete, written or not, each of them is said to have no effect, and has none."""
    entry = read(None, {**EVERYTHING, BACKEND_ANNOTATION: "east"}, kind=kind)
    assert isinstance(entry, Accepted)

    assert entry.daemonset.update_strategy == UpdateStrategy()
    assert [
        (
            f"metadata.annotations[{name}]",
            (
                f"has no effect with update strategy {shown} remove it, or write "
                "spec.updateStrategy.type: RollingUpdate"
            ),
        )
        for name in EVERYTHING
    ] == [(warning.field, warning.message) for warning in entry.warnings]


@pytest.mark.parametrize("name", ["pause", "Paused", "progressDeadlineSeconds", "backends", "x"])
def test_an_unknown_annotation_of_ours_is_warned_about(name: str) -> None:
    """A mistyped annotation is named, and so are those that there are."""
    ((field, message),) = warnings(None, {f"everynode.dev/{name}": "x", "note": "y"})

    assert f"metadata.annotations[everynode.dev/{name}]" == field
    assert message == (
        f"is not known and has no effect: write one of {', '.join(KNOWN_ANNOTATIONS)}, or remove it"
    )
    assert {*EVERYTHING, BACKEND_ANNOTATION} == set(KNOWN_ANNOTATIONS)


# --- without a manifest ---------------------------------------------------------------------------


def test_a_set_of_a_cluster_is_read_by_the_same_rules() -> None:
    """Annotations and the spec of an apps/v1 object, as values, give what a manifest gives."""
    spec = {
        "updateStrategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": "10%", "maxSurge": 0},
        },
        "minReadySeconds": 10,
        "template": {},
    }
    found = read_update_strategy({**annotated(partition="20%", pause="true"), "note": "x"}, spec)

    assert found.strategy == UpdateStrategy(
        type="RollingUpdate", max_unavailable="10%", partition="20%"
    )
    assert found.problems == ()
    assert ["metadata.annotations[everynode.dev/pause]"] == [each.field for each in found.warnings]


def test_a_set_of_a_cluster_that_says_nothing_keeps_its_pods() -> None:
    """Without annotations and without a strategy there is the default, and nothing to complain about."""
    assert (UpdateStrategy(), (), ()) == read_update_strategy({}, {})


def test_a_rollout_that_cannot_be_read_is_paused() -> None:
    """A wrong annotation in a cluster, where nobody refuses it, begins no rollout that goes too far."""
    spec = {"updateStrategy": {"type": "RollingUpdate"}}
    found = read_update_strategy(annotated(partition="20 %"), spec)

    assert found.strategy == UpdateStrategy(type="RollingUpdate", paused=True)
    assert ["metadata.annotations[everynode.dev/partition]"] == [
        each.field for each in found.problems
    ]


def test_a_selectors_text_selects_what_it_says() -> None:
    """A selector that comes from an annotation is one that the core can evaluate."""
    selector = strategy(None, annotated(selector="zone in (a,b),!gpu")).selector
    assert selector is not None

    assert selects(selector, {"zone": "b"})
    assert not selects(selector, {"zone": "b", "gpu": ""})
    assert not selects(selector, {"zone": "c"})


@pytest.mark.parametrize(
    ("port", "surge", "ports"),
    [
        ({"hostPort": 9100, "containerPort": 9100}, 1, [9100]),
        ({"hostPort": 9100, "containerPort": 9100}, 0, []),
        ({"containerPort": 9100}, "10%", []),
        ("no port", 1, []),
    ],
)
def test_a_host_port_does_not_go_with_a_surge(
    port: Any, surge: int | str, ports: list[int]
) -> None:
    """Two pods cannot have one port of their node: the rollout would stand still (kubernetes#106417)."""
    manifest = copy.deepcopy(BASE)
    manifest["spec"]["template"]["spec"]["containers"][0]["ports"] = [port]
    manifest["spec"]["updateStrategy"] = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": 0 if surge else 1},
    }
    (entry,) = read_daemonsets("f.yaml", json.dumps(manifest).encode()).accepted
    assert ports == [
        int(warning.message.split()[1])
        for warning in entry.warnings
        if "hostPort" in warning.message
    ]
