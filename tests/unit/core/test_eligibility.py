"""Each rule of placement, case by case: the predicate for one node, its reasons, and the algebra."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import msgspec
import pytest
from msgspec import structs

from everynode.core import eligibility
from everynode.core.eligibility import (
    AUTOMATIC_TOLERATIONS,
    KNOWN_TAINTS_MAX,
    Toleration,
    Verdict,
    as_int64,
    compile_constraints,
    tolerates,
    verdict,
)
from everynode.core.index import NodeIndex
from everynode.core.placement import place
from everynode.core.values import DaemonSet, Node, Taint
from everynode.errors import InvalidObjectError
from everynode.testing.builders import daemonset, node, taint

Spec = dict[str, Any]

HUGE = str(2**63 - 1)
TOO_HUGE = str(2**63)


def asked(wanted: DaemonSet, on: Node) -> Verdict:
    """Ask the predicate, and make sure that the algebra answers the same."""
    constraints = compile_constraints(wanted)
    found = verdict(constraints, on)
    index = NodeIndex()
    node_id = index.put(on).id
    for placed in (place(constraints, index), place(constraints, index, index.everything)):
        assert found.should_run == (node_id in placed.eligible)
        assert found.may_stay == (node_id in placed.tolerated)
    return found


def codes(found: Verdict) -> list[str]:
    """Name the reasons by their codes."""
    return [reason.code for reason in found.reasons]


def affinity(*terms: Spec | None) -> Spec:
    """Require node affinity."""
    required = {"nodeSelectorTerms": list(terms)}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    }


def expression(key: str, operator: str, *values: str) -> Spec:
    """Make a term of one requirement on labels."""
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


def field(operator: str, *values: str, key: str = "metadata.name") -> Spec:
    """Make a term of one requirement on fields."""
    return {"matchFields": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({}, []),
        ({"nodeName": None, "nodeSelector": None, "affinity": None, "tolerations": None}, []),
        ({"nodeName": "node-1"}, []),
        ({"nodeName": ""}, []),
        ({"nodeName": "node-2"}, ["NodeNameMismatch"]),
        ({"nodeSelector": {}}, []),
        ({"nodeSelector": {"zone": "a"}}, []),
        ({"nodeSelector": {"zone": "a", "size": "7"}}, []),
        ({"nodeSelector": {"zone": "b"}}, ["NodeSelectorMismatch"]),
        ({"nodeSelector": {"arch": ""}}, ["NodeSelectorMismatch"]),
        ({"nodeSelector": {"empty": ""}}, []),
        ({"nodeSelector": {"zone": "b", "arch": "x"}}, ["NodeSelectorMismatch"] * 2),
        ({"nodeSelector": {"zone": "a"}, "nodeName": "node-1"}, []),
        (
            {"nodeSelector": {"zone": "b"}, "nodeName": "node-2"},
            ["NodeNameMismatch", "NodeSelectorMismatch"],
        ),
        (
            {"nodeSelector": {"zone": "b"}} | affinity(expression("zone", "In", "a")),
            ["NodeSelectorMismatch"],
        ),
        (
            {"nodeSelector": {"zone": "a"}} | affinity(expression("zone", "In", "b")),
            ["NodeAffinityMismatch"],
        ),
        (
            {"resources": {"limits": {"cpu": "9999"}}, "hostPID": True, "containers": [1]},
            [],
        ),
    ],
)
def test_names_and_selectors(spec: Spec, wanted: list[str]) -> None:
    """S2: nodeName and every pair of nodeSelector must match; each that does not is named."""
    on = node(zone="a", size="7", empty="")

    found = asked(daemonset(spec), on)

    assert wanted == codes(found)
    assert (not wanted, not wanted) == (found.should_run, found.may_stay)


@pytest.mark.parametrize(
    ("term", "matches"),
    [
        (expression("zone", "In", "a"), True),
        (expression("zone", "In", "b", "a"), True),
        (expression("zone", "In", "b"), False),
        (expression("arch", "In", "a"), False),
        (expression("empty", "In", ""), True),
        (expression("zone", "In"), False),
        (expression("zone", "NotIn", "b"), True),
        (expression("zone", "NotIn", "b", "a"), False),
        (expression("arch", "NotIn", "a"), True),
        (expression("arch", "NotIn"), False),
        (expression("zone", "Exists"), True),
        (expression("empty", "Exists"), True),
        (expression("arch", "Exists"), False),
        (expression("zone", "Exists", "a"), False),
        (expression("arch", "DoesNotExist"), True),
        (expression("zone", "DoesNotExist"), False),
        (expression("arch", "DoesNotExist", "a"), False),
        (expression("size", "Gt", "6"), True),
        (expression("size", "Gt", "7"), False),
        (expression("size", "Gt", "-9"), True),
        (expression("size", "Gt", "+6"), True),
        (expression("size", "Gt", "six"), False),
        (expression("size", "Gt", "6", "5"), False),
        (expression("size", "Gt"), False),
        (expression("size", "Gt", TOO_HUGE), False),
        (expression("size", "Lt", HUGE), True),
        (expression("size", "Lt", TOO_HUGE), False),
        (expression("size", "Lt", "8"), True),
        (expression("size", "Lt", "7"), False),
        (expression("size", "Lt", "six"), False),
        (expression("negative", "Lt", "-1"), True),
        (expression("negative", "Gt", "-3"), True),
        (expression("plus", "Gt", "4"), True),
        (expression("huge", "Gt", "1"), True),
        (expression("overflow", "Gt", "1"), False),
        (expression("zone", "Gt", "1"), False),
        (expression("zone", "Lt", "1"), False),
        (expression("arch", "Gt", "1"), False),
        (expression("arch", "Lt", "1"), False),
        (expression("zone", "Equals", "a"), False),
        (expression("zone", "", "a"), False),
        (expression("zone", "in", "a"), False),
        (field("In", "node-1"), True),
        (field("In", "node-2"), False),
        (field("NotIn", "node-2"), True),
        (field("NotIn", "node-1"), False),
        (field("In"), False),
        (field("In", "node-1", "node-2"), False),
        (field("Exists"), False),
        (field("In", "node-1", key="metadata.namespace"), False),
        (field("In", "node-1", key="metadata.labels"), False),
        (expression("zone", "In", "a") | field("In", "node-1"), True),
        (expression("zone", "In", "a") | field("In", "node-2"), False),
        (expression("zone", "In", "b") | field("In", "node-1"), False),
        ({}, False),
        ({"matchExpressions": None, "matchFields": None}, False),
        ({"matchExpressions": []}, False),
        ({"matchExpressions": [{}]}, False),
        ({"matchExpressions": [{"key": "arch", "operator": "DoesNotExist", "values": None}]}, True),
    ],
)
def test_operators_of_required_affinity(term: Spec, matches: bool) -> None:
    """Each operator means what it means to Kubernetes; a term that cannot be parsed never matches."""
    labels = {
        "zone": "a",
        "size": "7",
        "empty": "",
        "negative": "-2",
        "plus": "+5",
        "huge": HUGE,
        "overflow": TOO_HUGE,
    }

    found = asked(daemonset(affinity(term)), structs.replace(node(), labels=labels))

    assert ([] if matches else ["NodeAffinityMismatch"]) == codes(found)
    assert (matches, matches) == (found.should_run, found.may_stay)


@pytest.mark.parametrize(
    ("terms", "wanted"),
    [
        ([expression("zone", "In", "b"), expression("zone", "In", "a")], 0),
        ([expression("zone", "Nonsense"), expression("zone", "In", "a")], 0),
        ([{}, expression("zone", "In", "a")], 0),
        ([expression("zone", "In", "b"), expression("zone", "In", "c")], 2),
        ([{}, expression("zone", "In", "b")], 2),
        ([], 1),
    ],
)
def test_terms_are_alternatives(terms: list[Spec], wanted: int) -> None:
    """One matching term is enough, whatever is wrong with the others; with none, each is named."""
    found = asked(daemonset(affinity(*terms)), node(zone="a"))

    assert ["NodeAffinityMismatch"] * wanted == codes(found)


def test_requirements_of_a_term_must_all_hold() -> None:
    """Requirements within a term are joined by and; the reason names those that fail."""
    term = {
        "matchExpressions": [
            {"key": "zone", "operator": "In", "values": ["a"]},
            {"key": "arch", "operator": "Exists"},
            {"key": "size", "operator": "Gt", "values": ["9"]},
        ]
    }

    found = asked(daemonset(affinity(term)), node(zone="a", size="7"))

    message = "required node affinity: term 0 wants arch Exists and size Gt (9)"
    assert [("NodeAffinityMismatch", message)] == list(found.reasons)


@pytest.mark.parametrize(
    "spec",
    [
        {"affinity": {}},
        {"affinity": {"nodeAffinity": None}},
        {"affinity": {"nodeAffinity": {}}},
        {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}},
        {
            "affinity": {
                "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}
            }
        },
    ],
)
def test_other_affinity_does_not_count(spec: Spec) -> None:
    """Preferred affinity and affinity between pods are the scheduler's."""
    assert asked(daemonset(spec), node()).should_run


def test_required_affinity_without_terms_matches_nothing() -> None:
    """A required selector that is there but has no list of terms matches no node."""
    required: Spec = {"requiredDuringSchedulingIgnoredDuringExecution": {}}

    found = asked(daemonset({"affinity": {"nodeAffinity": required}}), node())

    assert ["NodeAffinityMismatch"] == codes(found)
    assert "has no term" in found.reasons[0].message


@pytest.mark.parametrize(
    ("toleration", "given", "wanted"),
    [
        ({}, "k:NoSchedule", True),  # any key, operator Equal, value empty
        ({}, "k=v:NoSchedule", False),
        ({"operator": "Exists"}, "k=v:NoExecute", True),
        ({"key": "", "operator": "Exists", "effect": ""}, "k=v:NoExecute", True),
        ({"key": "k"}, "k:NoSchedule", True),
        ({"key": "k", "value": "v"}, "k=v:NoSchedule", True),
        ({"key": "k", "operator": "", "value": "v"}, "k=v:NoSchedule", True),
        ({"key": "k", "operator": "Equal", "value": "v"}, "k=w:NoSchedule", False),
        ({"key": "other", "operator": "Equal", "value": "v"}, "k=v:NoSchedule", False),
        ({"key": "k", "operator": "Exists"}, "k=v:NoSchedule", True),
        ({"key": "other", "operator": "Exists"}, "k=v:NoSchedule", False),
        ({"key": "k", "operator": "Exists", "effect": "NoSchedule"}, "k:NoSchedule", True),
        ({"key": "k", "operator": "Exists", "effect": "NoSchedule"}, "k:NoExecute", False),
        ({"key": "k", "operator": "Lt", "value": "5"}, "k=4:NoSchedule", True),
        ({"key": "k", "operator": "Lt", "value": "5"}, "k=5:NoSchedule", False),
        ({"key": "k", "operator": "Lt", "value": "5"}, "k=6:NoSchedule", False),
        ({"key": "k", "operator": "Gt", "value": "5"}, "k=6:NoSchedule", True),
        ({"key": "k", "operator": "Gt", "value": "5"}, "k=4:NoSchedule", False),
        ({"key": "k", "operator": "Gt", "value": "5"}, "k=5:NoSchedule", False),
        ({"key": "k", "operator": "Gt", "value": "5"}, "k=high:NoSchedule", False),
        ({"key": "k", "operator": "Gt", "value": "low"}, "k=5:NoSchedule", False),
        ({"key": "k", "operator": "Lt"}, "k=5:NoSchedule", False),
        ({"key": "k", "operator": "exists"}, "k:NoSchedule", False),
        ({"key": None, "operator": None, "value": None, "effect": None}, "k:NoExecute", True),
    ],
)
def test_tolerations(toleration: Spec, given: str, wanted: bool) -> None:
    """Each operator, an empty key and an empty effect mean what they mean to Kubernetes."""
    assert wanted == tolerates(msgspec.convert(toleration, Toleration), taint(given))

    found = asked(daemonset({"tolerations": [toleration]}), node("node-1", given))

    assert ([] if wanted else ["UntoleratedTaint"]) == codes(found)


@pytest.mark.parametrize(
    ("taints", "should_run", "may_stay"),
    [
        (["k:NoSchedule"], False, True),
        (["k:NoExecute"], False, False),
        (["k:PreferNoSchedule"], True, True),
        (["k:Unheard"], True, True),
        (["k:NoSchedule", "l:NoExecute"], False, False),
        (["known:NoExecute", "l:NoSchedule"], False, True),
        (["node.kubernetes.io/not-ready:NoExecute"], True, True),
        (["node.kubernetes.io/unreachable:NoExecute"], True, True),
        (["node.kubernetes.io/disk-pressure:NoSchedule"], True, True),
        (["node.kubernetes.io/memory-pressure:NoSchedule"], True, True),
        (["node.kubernetes.io/pid-pressure:NoSchedule"], True, True),
        (["node.kubernetes.io/unschedulable:NoSchedule"], True, True),
        (["node.kubernetes.io/not-ready:NoSchedule"], False, True),
        (["node.kubernetes.io/unreachable:NoSchedule"], False, True),
        (["node.kubernetes.io/disk-pressure:NoExecute"], False, False),
        (["node.kubernetes.io/network-unavailable:NoSchedule"], False, True),
        (["node.kubernetes.io/out-of-disk:NoSchedule"], False, True),
    ],
)
def test_taints(taints: list[str], should_run: bool, may_stay: bool) -> None:
    """NoSchedule keeps new pods away, NoExecute evicts too, others do nothing; some are tolerated by all."""
    spec = {"tolerations": [{"key": "known", "operator": "Exists"}]}

    found = asked(daemonset(spec), node("node-1", *taints))

    assert (should_run, may_stay) == (found.should_run, found.may_stay)


def test_each_untolerated_taint_is_named() -> None:
    """A node with three taints that keep pods away has three reasons, written as kubectl writes taints."""
    found = asked(daemonset(), node("node-1", "k=v:NoSchedule", "l:NoExecute", "m:NoSchedule"))

    assert [
        ("UntoleratedTaint", "taint k=v:NoSchedule is not tolerated"),
        ("UntoleratedTaint", "taint l:NoExecute is not tolerated"),
        ("UntoleratedTaint", "taint m:NoSchedule is not tolerated"),
    ] == list(found.reasons)


@pytest.mark.parametrize("host_network", [True, False, None])
def test_host_network_tolerates_a_network_that_is_not_there(host_network: bool | None) -> None:
    """Only pods on the host's network may run where the pod network is missing."""
    lacking = node("node-1", "node.kubernetes.io/network-unavailable:NoSchedule")

    assert bool(host_network) == asked(daemonset({"hostNetwork": host_network}), lacking).should_run


def test_a_cordoned_or_unready_node_runs_its_pod() -> None:
    """Neither ``unschedulable`` nor the Ready condition counts; taints do."""
    cordoned = node(
        "node-1", "node.kubernetes.io/unschedulable:NoSchedule", unschedulable=True, ready=False
    )

    assert Verdict(should_run=True, may_stay=True, reasons=()) == asked(daemonset(), cordoned)


@pytest.mark.parametrize(
    ("backend", "wanted"), [("", []), ("east", []), ("west", ["OtherBackend"])]
)
def test_backend(backend: str, wanted: list[str]) -> None:
    """A set that names a backend is for the nodes of that one only."""
    assert wanted == codes(asked(daemonset(backend=backend), node(backend="east")))


def test_everything_that_speaks_against_a_node_is_named() -> None:
    """All rules are asked, not only up to the first that says no."""
    spec = {"nodeName": "other", "nodeSelector": {"zone": "b", "arch": "x"}}
    spec |= affinity(expression("zone", "In", "c"), expression("zone", "In", "d"))

    found = asked(daemonset(spec, backend="west"), node("node-1", "k:NoExecute", zone="a"))

    assert [
        "OtherBackend",
        "NodeNameMismatch",
        "NodeSelectorMismatch",
        "NodeSelectorMismatch",
        "NodeAffinityMismatch",
        "NodeAffinityMismatch",
        "UntoleratedTaint",
    ] == codes(found)
    assert "nodeSelector wants label arch=x; it is not there" == found.reasons[2].message
    assert "nodeSelector wants label zone=b; it is 'a'" == found.reasons[3].message


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("0", 0), ("-0", 0), ("+7", 7), ("-7", -7), ("007", 7), ("0" * 5000 + "1", 1)),
        *((HUGE, 2**63 - 1), (TOO_HUGE, None), (str(-(2**63)), -(2**63))),
        *((str(-(2**63) - 1), None), ("9" * 5000, None)),
        *(("", None), ("+", None), ("1.0", None), (" 1", None), ("1\n", None), ("1_0", None)),
        *(("0x1", None), ("\u0661", None), ("--1", None)),
    ],
)
def test_numbers_are_read_as_go_reads_them(text: str, number: int | None) -> None:
    """Signs and leading zeros are allowed; words, spaces, other digits and more than 64 bits are not."""
    assert number == as_int64(text)


@pytest.mark.parametrize(
    "template",
    [
        b'{"spec": 1}',
        b'{"spec": {"nodeSelector": {"a": 1}}}',
        b'{"spec": {"tolerations": {"key": "k"}}}',
        b'{"spec": {"nodeName": ["a"]}}',
        b'{"spec": {"nodeName": "\xff"}}',
        b'{"spec": ',
        b"null",
    ],
)
def test_a_template_that_cannot_be_read_is_refused(template: bytes) -> None:
    """S8: the error names the set and the field."""
    wanted = structs.replace(daemonset(), template=msgspec.Raw(template))

    with pytest.raises(
        InvalidObjectError, match=r"DaemonSet default/agent: spec\.template: "
    ) as caught:
        compile_constraints(wanted)

    assert ["spec.template"] == [problem.field for problem in caught.value.problems]


def test_a_template_without_spec_is_for_every_node() -> None:
    """Null and absent are the same."""
    for template in (b"{}", b'{"spec": null}'):
        wanted = structs.replace(daemonset(), template=msgspec.Raw(template))

        assert asked(wanted, node()).should_run


def test_label_keys_are_those_that_the_answer_depends_on() -> None:
    """A set is looked at again only when a label changes that it mentions."""
    spec = {"nodeSelector": {"zone": "a"}, "nodeName": "node-1"}
    spec |= affinity(expression("arch", "Exists"), field("In", "node-1"))

    assert {"zone", "arch"} == compile_constraints(daemonset(spec)).label_keys()
    assert set() == compile_constraints(daemonset()).label_keys()


def test_answers_about_taints_are_remembered_within_a_limit() -> None:
    """B1: however many taints a fleet has, a set remembers a bounded number, and still answers right."""
    constraints = compile_constraints(daemonset({"tolerations": [{"key": "k", "value": "5"}]}))
    for number in range(KNOWN_TAINTS_MAX + 10):
        given = Taint(key="k", value=str(number), effect="NoSchedule")

        assert (number == 5) == constraints.tolerates(given)
        assert (number == 5) == constraints.tolerates(given)
        assert len(constraints._known) <= KNOWN_TAINTS_MAX


def test_answers_about_taints_are_remembered() -> None:
    """As many answers as may be remembered are; with one more, remembering starts anew."""
    constraints = compile_constraints(daemonset())
    remembered = []
    for number in range(4_097):
        constraints.tolerates(Taint(key="k", value=str(number), effect="NoSchedule"))
        remembered.append(len(constraints._known))

    assert [*range(1, 4_097), 1] == remembered


def test_what_a_set_remembers_is_no_part_of_what_it_asks() -> None:
    """Two sets that ask for the same are equal and read the same, whatever either has answered before."""
    asked_already, fresh = compile_constraints(daemonset()), compile_constraints(daemonset())
    asked_already.tolerates(taint("k:NoSchedule"))

    assert asked_already == fresh
    assert repr(asked_already) == repr(fresh)


def test_what_a_set_asks_cannot_be_changed() -> None:
    """Constraints, and all values that they are read from, are immutable."""
    values = [
        each
        for each in vars(eligibility).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct)
    ]
    constraints: Any = compile_constraints(daemonset())

    assert [True] * len(values) == [each.__struct_config__.frozen for each in values]
    with pytest.raises(FrozenInstanceError):
        constraints.backend = "west"


def test_automatic_tolerations_are_kubernetes_own() -> None:
    """They stand as API objects in docs and adapters: key, operator Exists, effect."""
    assert {"Exists"} == {toleration.operator for toleration in AUTOMATIC_TOLERATIONS}
    assert eligibility.HOST_NETWORK_TOLERATION not in AUTOMATIC_TOLERATIONS
