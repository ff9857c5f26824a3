"""Label selectors: what they select, and sets whose pods would not be their own."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import structs

from everynode.core.selectors import check_selector, selects
from everynode.core.values import DaemonSet, Requirement, Selector
from everynode.errors import InvalidObjectError
from everynode.testing.builders import daemonset

LABELS = {"app": "agent", "tier": "node"}


def requiring(operator: str, *values: str, key: str = "app") -> Selector:
    """Make a selector with one expression."""
    return Selector(match_expressions=(Requirement(key=key, operator=operator, values=values),))


def templated(template: bytes, selector: Selector | None = None) -> DaemonSet:
    """Make a set with this template; its selector asks for the label app=agent unless another is given."""
    wanted = daemonset()
    return structs.replace(
        wanted, template=msgspec.Raw(template), selector=selector or wanted.selector
    )


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        pytest.param(Selector(), True, id="an empty one"),
        pytest.param(Selector(match_labels={"app": "agent"}), True, id="a label"),
        pytest.param(Selector(match_labels={"app": "other"}), False, id="another value"),
        pytest.param(Selector(match_labels={"zone": "a"}), False, id="another label"),
        pytest.param(Selector(match_labels=LABELS), True, id="all labels"),
        pytest.param(
            Selector(match_labels=LABELS | {"zone": "a"}), False, id="one label more than there is"
        ),
        pytest.param(requiring("In", "agent", "other"), True, id="In"),
        pytest.param(requiring("NotIn", "agent"), False, id="NotIn"),
        pytest.param(requiring("NotIn", "a", key="zone"), True, id="NotIn, no such label"),
        pytest.param(requiring("Exists"), True, id="Exists"),
        pytest.param(requiring("DoesNotExist"), False, id="DoesNotExist"),
        pytest.param(
            Selector(
                match_labels={"app": "agent"},
                match_expressions=(Requirement(key="tier", operator="DoesNotExist"),),
            ),
            False,
            id="a label that it has and an expression that it does not meet",
        ),
        pytest.param(requiring("In"), False, id="In without values"),
        pytest.param(requiring("Exists", "agent"), False, id="Exists with a value"),
        pytest.param(requiring("Gt", "1"), False, id="an operator of nodes, not of labels"),
        pytest.param(requiring("Gt", "1", key="zone"), False, id="the same on no label"),
        pytest.param(requiring("Nope"), False, id="an unknown operator"),
    ],
)
def test_what_a_selector_selects(selector: Selector, wanted: bool) -> None:
    """An empty selector selects everything, an invalid one nothing, all others what meets all that they ask for."""
    assert wanted == selects(selector, LABELS)


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param(templated(b'{"metadata":{"labels":{"app":"agent","x":"y"}}}'), id="selected"),
        pytest.param(templated(b'{"metadata":{"labels":{}}}', Selector()), id="empty selector"),
        pytest.param(templated(b"{}"), id="no metadata: the backend may add labels"),
        pytest.param(templated(b'{"metadata":{}}'), id="no labels"),
        pytest.param(templated(b'{"metadata":{"labels":null}}'), id="null labels"),
        pytest.param(templated(b'{"metadata":null}'), id="null metadata"),
    ],
)
def test_sets_whose_pods_are_their_own(wanted: DaemonSet) -> None:
    """A set is taken if its selector selects the labels of its template, or the template says nothing of labels."""
    check_selector(wanted)


@pytest.mark.parametrize(
    ("wanted", "field", "message"),
    [
        pytest.param(
            templated(b'{"metadata":{"labels":{"app":"other"}}}'),
            "spec.template.metadata.labels",
            "are not selected by spec.selector: give the pods the labels that it asks for",
            id="labels of others",
        ),
        pytest.param(
            templated(b'{"metadata":{"labels":{}}}'),
            "spec.template.metadata.labels",
            "are not selected by spec.selector: give the pods the labels that it asks for",
            id="an empty set of labels",
        ),
        pytest.param(
            templated(b"{}", requiring("Nope")),
            "spec.selector",
            "has a requirement that is invalid: correct its operator or values",
            id="a selector that is invalid",
        ),
    ],
)
def test_sets_that_would_make_pods_for_ever(wanted: DaemonSet, field: str, message: str) -> None:
    """L2, S8: a set that would let go of each pod as soon as it is made is refused, and the message says why."""
    with pytest.raises(InvalidObjectError, match="DaemonSet default/agent") as caught:
        check_selector(wanted)

    assert [(field, message)] == [(found.field, found.message) for found in caught.value.problems]


@pytest.mark.parametrize(
    "template",
    [
        pytest.param(b'{"metadata":{"labels":["app"]}}', id="labels that are a list"),
        pytest.param(b'{"metadata":{"labels":{"app":1}}}', id="a label that is a number"),
        pytest.param(b'{"metadata":', id="no JSON"),
        pytest.param(b'{"metadata":{"labels":{"app":"\xff"}}}', id="no text"),
        pytest.param(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="too deep"),
    ],
)
def test_templates_whose_labels_cannot_be_read(template: bytes) -> None:
    """S8: a template that cannot be read is an error about that set, with the place where it is wrong."""
    with pytest.raises(InvalidObjectError, match="DaemonSet default/agent") as caught:
        check_selector(templated(template))

    (problem,) = caught.value.problems
    assert "spec.template.metadata" == problem.field
    assert problem.message.startswith("cannot be read: ")
