"""What a cluster is told of a set: its status and its events."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from tests.unit.support_kubernetes_objects import encoded

from everynode.core.values import Condition, Notice, Status
from everynode_kubernetes.bodies import event_for, status_body, status_shown
from everynode_kubernetes.objects import ApiDaemonSet, parse_daemonset

T_MS = 1_714_979_289_123
T = "2024-05-06T07:08:09Z"

AVAILABLE = Condition(
    type="Available", status="True", reason="All", message="m", last_transition_ms=T_MS
)
STATUS = Status(
    namespace="ns",
    daemonset="x",
    daemonset_uid="u",
    observed_generation=3,
    desired_number_scheduled=7,
    current_number_scheduled=6,
    number_misscheduled=0,
    number_ready=5,
    number_available=4,
    number_unavailable=3,
    updated_number_scheduled=2,
    conditions=(AVAILABLE,),
)
SHOWN: dict[str, Any] = {
    "observedGeneration": 3,
    "desiredNumberScheduled": 7,
    "currentNumberScheduled": 6,
    "numberMisscheduled": 0,
    "numberReady": 5,
    "numberAvailable": 4,
    "numberUnavailable": 3,
    "updatedNumberScheduled": 2,
    "conditions": [
        {
            "type": "Available",
            "status": "True",
            "reason": "All",
            "message": "m",
            "lastTransitionTime": T,
        }
    ],
}


def showing(status: dict[str, Any] | None) -> ApiDaemonSet:
    """A set of generation 9 with a status."""
    return parse_daemonset(encoded(status=status, metadata={"generation": 9}))


class TestStatus:
    """How far a set has come."""

    def test_everything(self) -> None:
        """All counters are written, also zeros, for the very set that was counted."""
        body = json.loads(status_body(STATUS, None))
        assert {"metadata": {"uid": "u"}, "status": SHOWN} == body

    def test_what_others_wrote(self) -> None:
        """It is no part of the patch, so it stays; a generation that was seen stays seen."""
        status = {
            "observedGeneration": 9,
            "collisionCount": 2,
            "conditions": [{"type": "A", "status": "True"}],
        }
        body = json.loads(status_body(STATUS, showing(status).status))
        assert {"metadata": {"uid": "u"}, "status": {**SHOWN, "observedGeneration": 9}} == body

    def test_what_is_shown_already(self) -> None:
        """Then there is nothing to write (L2)."""
        assert status_shown(showing(SHOWN), STATUS)
        other = {"type": "Other", "status": "True"}
        more = {**SHOWN, "observedGeneration": 4, "conditions": [other, *SHOWN["conditions"]]}
        assert status_shown(showing(more), STATUS)
        assert not status_shown(showing(None), STATUS)

    def test_a_generation_that_there_never_was(self) -> None:
        """Somebody has written a number that is of no generation yet: it is put right."""
        assert status_shown(showing({**SHOWN, "observedGeneration": 9}), STATUS)
        assert not status_shown(showing({**SHOWN, "observedGeneration": 10}), STATUS)

    @pytest.mark.parametrize("field", [key for key in SHOWN if key != "conditions"])
    def test_another_number(self, field: str) -> None:
        """Each of them counts."""
        assert not status_shown(showing({**SHOWN, field: SHOWN[field] - 1}), STATUS)

    @pytest.mark.parametrize(
        "change",
        [
            {"type": "Other"},
            {"status": "False"},
            {"reason": ""},
            {"message": "n"},
            {"lastTransitionTime": "2024-05-06T07:08:10Z"},
            {"lastTransitionTime": None},
        ],
    )
    def test_another_condition(self, change: dict[str, Any]) -> None:
        """So does each part of a condition."""
        conditions = [{**SHOWN["conditions"][0], **change}]
        assert not status_shown(showing({**SHOWN, "conditions": conditions}), STATUS)

    counts = st.integers(0, 2**31 - 1)
    statuses = st.builds(
        Status,
        namespace=st.just("ns"),
        daemonset=st.just("x"),
        daemonset_uid=st.just("u"),
        observed_generation=counts,
        desired_number_scheduled=counts,
        number_ready=counts,
        number_misscheduled=counts,
        conditions=st.lists(
            st.builds(
                Condition,
                type=st.sampled_from(["Available", "Progressing"]),
                status=st.sampled_from(["True", "False", "Unknown"]),
                reason=st.sampled_from(["", "A"]),
                message=st.text(st.characters(exclude_categories=["Cs"])),
                last_transition_ms=st.integers(0, 2**42),
            ),
            unique_by=lambda condition: condition.type,
        ).map(tuple),
    )

    @given(statuses)
    def test_what_is_written_is_shown(self, status: Status) -> None:
        """A report that was written is not written again (L2)."""
        assert status_shown(showing(json.loads(status_body(status, None))["status"]), status)


NOTICE = Notice(
    namespace="ns",
    daemonset="agent",
    daemonset_uid="u",
    type="Warning",
    reason="FailedCreate",
    message="it did not work",
    first_ms=T_MS,
    last_ms=T_MS + 1_000,
)


def event(notice: Notice, mark: str = "1", instance: str = "host-1") -> dict[str, Any]:
    """The event for a notice."""
    made: dict[str, Any] = json.loads(event_for(notice, mark=mark, instance=instance))
    return made


class TestEvents:
    """What people are told."""

    def test_everything(self) -> None:
        """It is about the set, and says who says it."""
        made = event(NOTICE)
        name = made["metadata"].pop("name")
        assert name.startswith("agent.")
        assert made == {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": "ns"},
            "eventTime": "2024-05-06T07:08:09.123000Z",
            "type": "Warning",
            "reason": "FailedCreate",
            "action": "Reconcile",
            "note": "it did not work",
            "reportingController": "everynode.dev/daemonset-controller",
            "reportingInstance": "host-1",
            "regarding": {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "namespace": "ns",
                "name": "agent",
                "uid": "u",
            },
        }

    def test_several(self) -> None:
        """They are a series, which has two at least."""
        last = "2024-05-06T07:08:10.123000Z"
        series = event(structs.replace(NOTICE, count=2))["series"]
        assert {"count": 2, "lastObservedTime": last} == series
        many = event(structs.replace(NOTICE, count=2**40))["series"]
        assert 2**31 - 1 == many["count"]

    def test_what_else_it_is_about(self) -> None:
        """The pod, or else the node."""
        pod = {"apiVersion": "v1", "kind": "Pod", "namespace": "ns", "name": "p"}
        node = {"apiVersion": "v1", "kind": "Node", "name": "n"}
        assert pod == event(structs.replace(NOTICE, pod="p", node="n"))["related"]
        assert node == event(structs.replace(NOTICE, node="n"))["related"]

    def test_names(self) -> None:
        """A repeat has the same name, anything else another one; it is a name whatever the set is called."""
        name = event(NOTICE)["metadata"]["name"]
        again = structs.replace(NOTICE, message="other words")
        assert name == event(again)["metadata"]["name"]
        others = [
            event(NOTICE, mark="2"),
            event(structs.replace(NOTICE, reason="FailedDelete")),
            event(structs.replace(NOTICE, daemonset_uid="v")),
        ]
        assert 4 == len({name, *(each["metadata"]["name"] for each in others)})
        long = structs.replace(NOTICE, daemonset="a" * 231 + "-" + "b" * 21)
        found = event(long)["metadata"]["name"]
        assert (252, "a" * 231 + ".") == (len(found), found[:232])

    def test_limits(self) -> None:
        """A note has 1,024 bytes, a reason and an instance 128 (B1); no character is cut in two."""
        long = structs.replace(NOTICE, message="é" * 1_000 + "x", reason="R" * 200)
        made = event(long, instance="ü" * 100)
        assert "é" * 512 == made["note"]
        assert ("R" * 128, "ü" * 64) == (made["reason"], made["reportingInstance"])
        assert "é" * 512 == event(structs.replace(NOTICE, message="é" * 512))["note"]
