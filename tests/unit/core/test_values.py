"""What the values say about themselves, and the limits that their fields have."""

from __future__ import annotations

import gc
from typing import Any

import msgspec
import pytest
from msgspec import structs

from everynode.core import commands, events, values
from everynode.core.commands import (
    COMMANDS,
    AdoptPod,
    CreatePod,
    Decision,
    DeletePod,
    Outcome,
    outcome_of,
)
from everynode.core.events import (
    DaemonSetGone,
    NodeGone,
    PodGone,
    RevisionGone,
    StatusGone,
    Tick,
)
from everynode.core.values import (
    NAME_LENGTH_MAX,
    Condition,
    DaemonSet,
    Node,
    NodeKey,
    Notice,
    Owner,
    Pod,
    PodKey,
    Revision,
    SetKey,
    Status,
    UpdateStrategy,
    Value,
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
GONE = PodGone(backend="east", namespace="default", name="pod-1", uid="u", node="node-1")
NOTICE = Notice(
    **ABOUT_SET, daemonset_uid="u", type="Normal", reason="SuccessfulCreate", message="made"
)
STATUS = Status(**ABOUT_SET, daemonset_uid="u", observed_generation=1)


def all_kinds() -> list[type[Value]]:
    """Return every kind of value that the core defines, by name."""
    found = [item for module in (values, commands, events) for item in vars(module).values()]
    kinds = {item for item in found if isinstance(item, type) and issubclass(item, Value)}
    return sorted(kinds, key=lambda kind: str(kind.__name__))


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
        (structs.replace(pod(daemonset(), node()), owner=None).set_key, None),
        (STATUS.set_key, SET),
        (NOTICE.set_key, SET),
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
    """A tombstone says where the pod was and whose, so that nothing has to be looked up."""
    owned = structs.replace(GONE, owner=Owner(name="agent", uid="uid-agent"))

    assert (POD, SET, NODE) == (owned.key, owned.set_key, owned.node_key)
    assert (POD, None, NODE) == (GONE.key, GONE.set_key, GONE.node_key)


def test_a_status_is_asked_for_its_conditions() -> None:
    """Each condition is found by its type, whichever others there are."""
    found = tuple(
        Condition(type=name, status="True") for name in ("Progressing", "Available", "Degraded")
    )
    status = structs.replace(STATUS, conditions=found)

    assert found == tuple(status.condition(each.type) for each in found)
    assert status.condition("Ready") is None
    assert STATUS.condition("Available") is None


@pytest.mark.parametrize("kind", all_kinds())
def test_nothing_that_is_told_can_be_changed(kind: type[Value]) -> None:
    """A value is as it was written, whoever holds it: what was decided or observed is not touched again."""
    assert kind.__struct_config__.frozen


@pytest.mark.parametrize(
    "value",
    [node("n", "k:NoSchedule", zone="a"), pod(daemonset(), node(), labels={}), daemonset(), CREATE],
)
def test_values_cost_the_garbage_collector_nothing(value: Value) -> None:
    """A fleet has hundreds of thousands of them; none can be part of a cycle, so none is looked at for one."""
    assert not gc.is_tracked(value)


SAID_FOR_YOU = {
    (Node, "ready"): True,
    (Pod, "phase"): "Pending",
    (UpdateStrategy, "type"): "OnDelete",
    (UpdateStrategy, "max_unavailable"): 1,
    (UpdateStrategy, "progress_deadline_seconds"): 600,
    (UpdateStrategy, "unreachable_nodes"): "Count",
    (DaemonSet, "update_strategy"): UpdateStrategy(),
    (DaemonSet, "revision_history_limit"): 10,
    (Notice, "count"): 1,
    (DaemonSetGone, "cascade"): "background",
    (Decision, "counts"): commands.Counts(),
}
"""The fields that mean something when they are left out; those of apps/v1 as there."""


@pytest.mark.parametrize("kind", all_kinds())
def test_what_is_not_said_is_nothing(kind: type[Value]) -> None:
    """S8: a field that a message leaves out is 0, empty or not so, but for the few that are listed."""
    for field in structs.fields(kind):
        if not field.required:
            factory = field.default_factory
            found = field.default if factory is msgspec.NODEFAULT else factory()
            wanted = SAID_FOR_YOU.get((kind, field.name))
            if wanted is not None:
                assert (field.name, wanted) == (field.name, found)
            else:
                assert found in (0, "", None, {}, ()), field.name


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


def test_every_command_names_what_it_is_about() -> None:
    """Commands are told apart by their verb, and each is for one set, one node and one pod."""
    about = {**COMMAND, "pod_uid": "uid-pod-1"}
    all_of_them = (CREATE, *(kind(**about) for kind in COMMANDS if kind is not CreatePod))

    assert ["create", "delete", "adopt", "release"] == [each.verb for each in all_of_them]
    for each in all_of_them:
        assert (SET, NODE, POD) == (each.set_key, each.node_key, each.pod_key)


@pytest.mark.parametrize("name", ["", "n" * (NAME_LENGTH_MAX + 1)])
def test_names_have_limits(name: str) -> None:
    """S8, B1: an empty or endless name is refused where a message is read."""
    body = msgspec.json.encode({"backend": "east", "name": name, "uid": "u"})

    with pytest.raises(msgspec.ValidationError, match="name"):
        msgspec.json.decode(body, type=Node)


LONGEST = "n" * 253


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        (Owner(name="n", uid=LONGEST), Owner(name=LONGEST + "n", uid="u")),
        (CREATE, structs.replace(CREATE, expires_ms=-1)),
        (structs.replace(CREATE, expires_ms=0), structs.replace(CREATE, generation=-1)),
        (
            structs.replace(daemonset(), predecessor_uids=("u",) * 16),
            structs.replace(daemonset(), predecessor_uids=("u",) * 17),
        ),
        (
            DaemonSetGone(namespace="n", name="n", uid="u", predecessor_uids=("u",) * 16),
            DaemonSetGone(namespace="n", name="n", uid="u", predecessor_uids=("u",) * 17),
        ),
        (NOTICE, structs.replace(NOTICE, count=0)),
    ],
)
def test_what_fits_is_taken_and_nothing_beyond(value: Value, refused: Value) -> None:
    """S8, B1: the last value within a limit is read back as it was, the first beyond is refused."""
    assert value == msgspec.json.decode(msgspec.json.encode(value), type=type(value))

    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(refused), type=type(refused))


@pytest.mark.parametrize(
    ("windows", "size", "fits"),
    [
        ({"east": 1}, 0, True),
        ({"east": 1_000}, 999, True),
        ({"east": 0}, 1, False),
        ({"east": 1_001}, 1, False),
        ({}, 1_000, False),
    ],
)
def test_a_decision_fits_into_a_batch(windows: dict[str, int], size: int, fits: bool) -> None:
    """B1: nats-server takes a thousand messages at once: the decision itself and what follows it."""
    decision = Decision(
        **ABOUT_SET, daemonset_uid="u", generation=1, revision="r", basis=0, at_ms=0, worker="w",
        size=size, windows=windows,
    )  # fmt: skip
    body = msgspec.json.encode(decision)

    if fits:
        assert decision == msgspec.json.decode(body, type=Decision)
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(body, type=Decision)


def test_a_message_says_what_kind_it_is() -> None:
    """S8: what is read from the log is told apart by its kind, not by guessing from its fields."""
    body = msgspec.json.encode(Tick(shard=0, due_ms=9))

    assert body == b'{"kind":"Tick","shard":0,"dueMs":9}'
    with pytest.raises(msgspec.ValidationError, match="kind"):
        msgspec.json.decode(body, type=AdoptPod)


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
