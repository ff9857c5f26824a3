"""What the values say about themselves, and the limits that their fields have."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from everynode.core.commands import CreatePod, Decision, DeletePod, Outcome, outcome_of
from everynode.core.events import (
    DaemonSetGone,
    NodeGone,
    PodGone,
    RevisionGone,
    StatusGone,
)
from everynode.core.values import (
    NAME_LENGTH_MAX,
    DaemonSet,
    Node,
    NodeKey,
    Owner,
    Pod,
    PodKey,
    Revision,
    SetKey,
    Status,
)
from everynode.testing.builders import daemonset, node, pod

SET = SetKey("default", "agent")
NODE = NodeKey("east", "node-1")
POD = PodKey("east", "default", "pod-1")
ABOUT_SET: dict[str, Any] = {"namespace": "default", "daemonset": "agent"}
COMMAND: dict[str, Any] = {
    **ABOUT_SET,
    "id": "id-1",
    "backend": "east",
    "node": "node-1",
    "daemonset_uid": "uid-agent",
    "generation": 1,
    "pod": "pod-1",
    "expires_ms": 9,
}
CREATE = CreatePod(**COMMAND, node_uid="uid-1", revision="rev")
DELETE = DeletePod(**COMMAND, pod_uid="uid-pod-1")


@pytest.mark.parametrize(
    ("about", "wanted"),
    [
        (node().key, NODE),
        (pod(daemonset(), node()).key, POD),
        (pod(daemonset(), node()).set_key, SET),
        (pod(daemonset(), node()).node_key, NODE),
        (daemonset().key, SET),
        (
            Revision(
                **ABOUT_SET, daemonset_uid="u", hash="h", number=1, template=msgspec.Raw(b"{}")
            ).set_key,
            SET,
        ),
        (Status(**ABOUT_SET, daemonset_uid="u", observed_generation=1).set_key, SET),
        (NodeGone(backend="east", name="node-1").key, NODE),
        (DaemonSetGone(namespace="default", name="agent", uid="u").key, SET),
        (RevisionGone(**ABOUT_SET, hash="h").set_key, SET),
        (StatusGone(**ABOUT_SET, daemonset_uid="u").set_key, SET),
        (CREATE.set_key, SET),
        (CREATE.node_key, NODE),
        (CREATE.pod_key, POD),
        (DELETE.set_key, SET),
        (DELETE.node_key, NODE),
        (DELETE.pod_key, POD),
        (outcome_of(CREATE, "done").set_key, SET),
    ],
)
def test_what_a_message_is_about(about: object, wanted: object) -> None:
    """Each value names the set, node or pod that it is about."""
    assert wanted == about


def test_a_pod_that_went_names_its_place() -> None:
    """A tombstone says where the pod was, so that nothing has to be looked up."""
    gone = PodGone(
        backend="east",
        namespace="default",
        name="pod-1",
        uid="u",
        node="node-1",
        owner=Owner(name="agent", uid="uid-agent"),
    )

    assert (POD, SET, NODE) == (gone.key, gone.set_key, gone.node_key)


def test_a_set_reads_as_kubectl_writes_it() -> None:
    """Messages to people name a set as namespace/name."""
    assert str(SET) == "default/agent"


@pytest.mark.parametrize(
    ("phase", "deleting", "finished", "live"),
    [
        ("Pending", False, False, True),
        ("Running", False, False, True),
        ("Unknown", False, False, True),
        ("Running", True, False, False),
        ("Succeeded", False, True, False),
        ("Failed", False, True, False),
        ("Failed", True, True, False),
    ],
)
def test_live_and_finished(phase: str, deleting: bool, finished: bool, live: bool) -> None:
    """A pod counts as its node's pod until it has ended or is on its way out."""
    found = pod(daemonset(), node(), phase=phase, deleting=deleting)

    assert (finished, live) == (found.finished, found.live)


def test_an_outcome_says_what_was_asked_for() -> None:
    """The verb comes from the command."""
    assert outcome_of(CREATE, "done", "made", pod_uid="u") == Outcome(
        **ABOUT_SET,
        id="id-1",
        backend="east",
        verb="create",
        result="done",
        message="made",
        pod_uid="u",
    )
    assert outcome_of(DELETE, "refused", "no").verb == "delete"


@pytest.mark.parametrize("name", ["", "n" * (NAME_LENGTH_MAX + 1)])
def test_names_have_limits(name: str) -> None:
    """S8, B1: an empty or endless name is refused where a message is read."""
    body = msgspec.json.encode({"backend": "east", "name": name, "uid": "u"})

    with pytest.raises(msgspec.ValidationError, match="name"):
        msgspec.json.decode(body, type=Node)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (DaemonSet, {"minReadySeconds": -1}),
        (DaemonSet, {"generation": "1"}),
        (DaemonSet, {"updateStrategy": {"type": "Recreate"}}),
        (Pod, {"phase": "Lost"}),
        (Pod, {"readySinceMs": -1}),
        (Decision, {"size": 1000}),
        (Outcome, {"result": "maybe"}),
    ],
)
def test_fields_out_of_range_are_refused(kind: type, body: dict[str, object]) -> None:
    """S8: a number or word outside its range never reaches the core."""
    field = next(iter(body))

    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{field}"):
        msgspec.json.decode(msgspec.json.encode(body), type=kind)


def test_defaults_are_left_out_on_the_wire() -> None:
    """Names are camelCase, and what is not said is not written."""
    assert msgspec.json.encode(Node(backend="east", name="n", uid="u", unschedulable=True)) == (
        b'{"backend":"east","name":"n","uid":"u","unschedulable":true}'
    )
