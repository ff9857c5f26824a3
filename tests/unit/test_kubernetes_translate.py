"""API objects as they come from a server, and what the engine makes of them."""

import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.support_kubernetes_objects import T_MS, T, api_node, api_pod, encoded, ready

from everynode.core.values import Node, Owner, Pod, Taint
from everynode_kubernetes.objects import (
    ApiPod,
    OwnerReference,
    parse_controller_revision,
    parse_daemonset,
    parse_node,
    parse_object,
    parse_pod,
)
from everynode_kubernetes.translate import (
    controller_of,
    is_daemonset_controller,
    micro_timestamp,
    node_name_of,
    node_of,
    pod_of,
    time_ms,
    timestamp,
)

YEAR_9999_MS = 253_402_300_799_000


class TestParsing:
    """Bytes to objects."""

    @pytest.mark.parametrize("parse", [parse_object, parse_node, parse_pod, parse_daemonset])
    def test_nothing_but_a_name_and_a_uid(self, parse: Any) -> None:
        """What is absent is empty."""
        api = parse(encoded())
        assert ("x", "u", 0) == (api.metadata.name, api.uid, api.resource_version)
        assert ("", "") == (api.metadata.annotation("a"), api.metadata.label("a"))

    @pytest.mark.parametrize("parse", [parse_node, parse_pod, parse_daemonset])
    def test_null_is_absent(self, parse: Any) -> None:
        """A server may write null where there is nothing."""
        nulls = dict.fromkeys(["labels", "annotations", "ownerReferences", "creationTimestamp"])
        assert parse(encoded()) == msgspec.structs.replace(
            parse(encoded(metadata=nulls, status=None, spec=None)),
            **({"raw": encoded()} if parse is parse_daemonset else {}),
        )
        assert ((), ()) == (
            node_of(api_node(spec={"taints": None}, status={"conditions": None}), "b").taints,
            parse_pod(encoded(status={"conditions": None})).metadata.owner_references or (),
        )

    @pytest.mark.parametrize(("text", "number"), [("", 0), ("41", 41), ("x", 0), ("٣", 0)])
    def test_resource_version(self, text: str, number: int) -> None:
        """It is a number, or as if there were none."""
        assert number == api_node(metadata={"resourceVersion": text}).resource_version

    @pytest.mark.parametrize(
        "raw", [b"[]", b'{"metadata":{"name":"x"}}', b'{"metadata":{"name":1,"uid":"u"}}']
    )
    def test_what_is_no_object(self, raw: bytes) -> None:
        """It is refused, for whoever reads to pass over (L3)."""
        with pytest.raises(msgspec.ValidationError):
            parse_node(raw)

    def test_what_is_no_json(self) -> None:
        """It is refused, too (L3)."""
        with pytest.raises(msgspec.DecodeError):
            parse_pod(b"{")

    def test_nested_too_deep(self) -> None:
        """A ControllerRevision may hold anything, and one that cannot be read costs nobody else (L3)."""
        deep = b'{"metadata":{"name":"x","uid":"u"},"data":' + b"[" * 9_000 + b"]" * 9_000 + b"}"
        with pytest.raises(msgspec.ValidationError, match="too deep"):
            parse_controller_revision(deep)

    @pytest.mark.parametrize("parse", [parse_daemonset, parse_controller_revision])
    def test_copies_are_kept(self, parse: Any) -> None:
        """What is kept of a list does not keep the list."""
        body = b"[" + encoded(data={"a": 1}) + b"]"
        references = sys.getrefcount(body)
        (listed,) = msgspec.json.decode(body, type=list[msgspec.Raw])
        kept = parse(listed)
        del listed
        assert references == sys.getrefcount(body)
        assert "x" == kept.metadata.name

    def test_what_is_kept_raw(self) -> None:
        """Of a set everything, of a ControllerRevision its data, as the server wrote it."""
        body = encoded(data={"a": 1})
        assert body == parse_daemonset(msgspec.Raw(body)).raw
        assert b'{"a": 1}' == bytes(parse_controller_revision(msgspec.Raw(body)).data)


class TestTime:
    """Points in time."""

    @pytest.mark.parametrize(
        ("text", "time"),
        [
            (None, 0),
            ("", 0),
            (T, T_MS),
            ("2024-05-06T07:08:09.123456Z", T_MS + 123),
            ("2024-05-06T07:08:09.123456789Z", T_MS + 123),
            ("2024-05-06T09:08:09+02:00", T_MS),
            ("2024-05-06T07:08:09", T_MS),
            ("0001-01-01T00:00:00Z", 0),
            ("yesterday", 0),
        ],
    )
    def test_reading(self, text: str | None, time: int) -> None:
        """Whole milliseconds; 0 for what nobody can read."""
        assert time == time_ms(text)

    @given(st.integers(min_value=0, max_value=YEAR_9999_MS))
    def test_there_and_back(self, time: int) -> None:
        """What is written is read as it was, in seconds or in milliseconds."""
        assert time // 1_000 * 1_000 == time_ms(timestamp(time))
        assert time == time_ms(micro_timestamp(time))

    def test_writing(self) -> None:
        """As an API server does; what is beyond the last year that can be written is that year's end."""
        assert (T, "2024-05-06T07:08:09.007000Z") == (timestamp(T_MS), micro_timestamp(T_MS + 7))
        assert "9999-12-31T23:59:59Z" == timestamp(10**18)
        assert datetime.fromisoformat(T) == datetime.fromtimestamp(T_MS / 1_000, UTC)


class TestOwners:
    """Who an object belongs to."""

    @pytest.mark.parametrize(
        ("owners", "expected"),
        [
            (None, None),
            ([], None),
            ([{"kind": "A"}], None),
            ([{"kind": "A", "controller": False}], None),
            ([{"kind": "A"}, {"kind": "B", "controller": True}], "B"),
        ],
    )
    def test_controller(self, owners: list[dict[str, Any]] | None, expected: str | None) -> None:
        """The one that says that it controls the object."""
        if owners is not None:
            owners = [{"apiVersion": "v1", "name": "n", "uid": "o", **owner} for owner in owners]
        found = controller_of(api_pod(metadata={"ownerReferences": owners}).metadata)
        assert expected == (found and found.kind)

    @pytest.mark.parametrize(
        ("version", "kind", "expected"),
        [
            ("apps/v1", "DaemonSet", True),
            ("apps/v2", "DaemonSet", True),
            ("apps.kruise.io/v1alpha1", "DaemonSet", False),
            ("v1", "DaemonSet", False),
            ("apps/v1", "ReplicaSet", False),
        ],
    )
    def test_daemonsets(self, version: str, kind: str, *, expected: bool) -> None:
        """Of the group apps, in whatever version."""
        reference = OwnerReference(api_version=version, kind=kind, name="n", uid="o")
        assert expected is is_daemonset_controller(reference)


class TestNodes:
    """Nodes."""

    def test_everything(self) -> None:
        """Labels, taints, cordon and readiness; nothing else."""
        taints = [{"key": "k", "effect": "NoSchedule", "timeAdded": T}, {"key": "l", "value": "v"}]
        api = api_node(
            metadata={"labels": {"zone": "a"}, "creationTimestamp": T},
            spec={"taints": taints, "unschedulable": True, "podCIDR": "10.0.0.0/24"},
            status=ready("True") | {"capacity": {"cpu": "1"}},
        )
        expected = Node(
            backend="east",
            name="x",
            uid="u",
            labels={"zone": "a"},
            taints=(
                Taint(key="k", effect="NoSchedule"),
                Taint(key="l", effect="", value="v"),
            ),
            unschedulable=True,
        )
        assert expected == node_of(api, "east")

    @pytest.mark.parametrize(
        ("status", "is_ready", "since_ms"),
        [
            (ready("True"), True, 0),
            (ready("False"), False, T_MS),
            (ready("Unknown"), False, T_MS),
            (ready("False", None), False, 0),
            ({}, False, T_MS - 1_000),
            (None, False, T_MS - 1_000),
        ],
    )
    def test_readiness(
        self, status: dict[str, Any] | None, *, is_ready: bool, since_ms: int
    ) -> None:
        """As the condition says; a node that says nothing never was ready."""
        api = api_node(metadata={"creationTimestamp": "2024-05-06T07:08:08Z"}, status=status)
        node = node_of(api, "east")
        assert (is_ready, since_ms) == (node.ready, node.unready_since_ms)

    @pytest.mark.parametrize("status", ["True", "False"])
    def test_a_heartbeat_changes_nothing(self, status: str) -> None:
        """A kubelet reports every few minutes; that must not reach the log (L2)."""
        before, after = ready(status), ready(status)
        after["conditions"][1] |= {"lastHeartbeatTime": "2025-01-01T00:00:00Z", "message": "fine"}
        first = api_node(status=before, metadata={"resourceVersion": "1"})
        second = api_node(status=after, metadata={"resourceVersion": "2"})
        assert node_of(first, "east") == node_of(second, "east")


class TestPods:
    """Pods."""

    def pod(self, api: ApiPod) -> Pod:
        """An orphan of nobody knows what."""
        return pod_of(api, "east", owner=None, revision="", labels=None)

    def test_everything(self) -> None:
        """What the cluster says of it, what we wrote on it, and what the caller knows of it."""
        metadata = {
            "namespace": "ns",
            "creationTimestamp": T,
            "annotations": {"everynode.dev/generation": "7", "everynode.dev/failures": "2"},
            "labels": {"app": "a"},
        }
        api = api_pod(
            metadata=metadata, spec={"nodeName": "n"}, status={"phase": "Running", **ready("True")}
        )
        expected = Pod(
            backend="east",
            namespace="ns",
            name="x",
            uid="u",
            node="n",
            owner=Owner(name="s", uid="o"),
            revision="r",
            labels={"a": "b"},
            generation=7,
            failures=2,
            phase="Running",
            ready=True,
            ready_since_ms=T_MS,
            created_ms=T_MS,
        )
        owner = Owner(name="s", uid="o")
        assert expected == pod_of(api, "east", owner=owner, revision="r", labels={"a": "b"})

    @pytest.mark.parametrize(
        "text", ["", "-1", "1.5", "x", "1 ", "²", "9" * 16, "1" * 100_000, "0x1", "1_0"]
    )
    def test_garbage_in_our_annotations(self, text: str) -> None:
        """Anybody may write there; what cannot be ours is as if it were not there (S8)."""
        annotations = {"everynode.dev/generation": text, "everynode.dev/failures": text}
        pod = self.pod(api_pod(metadata={"annotations": annotations}))
        assert (0, 0) == (pod.generation, pod.failures)

    @pytest.mark.parametrize(
        ("phase", "expected"),
        [
            ("", "Pending"),
            ("Pending", "Pending"),
            ("Running", "Running"),
            ("Succeeded", "Succeeded"),
            ("Failed", "Failed"),
            ("Unknown", "Unknown"),
            ("Paused", "Unknown"),
        ],
    )
    def test_phase(self, phase: str, expected: str) -> None:
        """One that we have never heard of is Unknown."""
        assert expected == self.pod(api_pod(status={"phase": phase})).phase

    def test_readiness(self) -> None:
        """A pod that is not ready has not been so since any time."""
        pod = self.pod(api_pod(status=ready("False")))
        assert (False, 0) == (pod.ready, pod.ready_since_ms)
        assert self.pod(api_pod(status=ready("True", None))).ready_since_ms == 0

    def test_deletion(self) -> None:
        """It began before its time stamp, by the grace that was granted."""
        metadata = {"deletionTimestamp": T, "deletionGracePeriodSeconds": 30}
        pod = self.pod(api_pod(metadata=metadata))
        assert (True, T_MS - 30_000) == (pod.deleting, pod.deleting_since_ms)
        assert T_MS == self.pod(api_pod(metadata={"deletionTimestamp": T})).deleting_since_ms
        early = {"deletionTimestamp": "1970-01-01T00:00:01Z", "deletionGracePeriodSeconds": 30}
        assert self.pod(api_pod(metadata=early)).deleting_since_ms == 0

    @pytest.mark.parametrize(
        ("terms", "expected"),
        [
            (None, ""),
            ([], ""),
            ([{}], ""),
            ([{"matchFields": [("metadata.name", "In", ["n"])]}], "n"),
            ([{"matchFields": [("metadata.name", "In", ["n", "m"])]}], ""),
            ([{"matchFields": [("metadata.name", "In", None)]}], ""),
            ([{"matchFields": [("metadata.name", "NotIn", ["n"])]}], ""),
            ([{"matchFields": [("spec.x", "In", ["n"])]}], ""),
            ([{"matchFields": None}, {"matchFields": [("metadata.name", "In", ["n"])]}], "n"),
        ],
    )
    def test_where_it_is_bound_for(self, terms: list[dict[str, Any]] | None, expected: str) -> None:
        """Before it is scheduled, the name that its affinity asks for; none if there could be two."""
        names = ("key", "operator", "values")
        for term in terms or []:
            fields = term.get("matchFields")
            if fields:
                term["matchFields"] = [dict(zip(names, each, strict=True)) for each in fields]
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        spec = {"affinity": {"nodeAffinity": required}}
        assert expected == node_name_of(api_pod(spec=spec))
        assert "here" == node_name_of(api_pod(spec=spec | {"nodeName": "here"}))

    @pytest.mark.parametrize(
        "spec", [None, {}, {"affinity": None}, {"affinity": {}}, {"affinity": {"nodeAffinity": {}}}]
    )
    def test_bound_for_nowhere(self, spec: dict[str, Any] | None) -> None:
        """It may go anywhere."""
        assert "" == node_name_of(api_pod(spec=spec))
