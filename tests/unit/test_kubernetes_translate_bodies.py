"""The bodies of requests to an API server: what is asked for, to the letter."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everynode.core.commands import CreatePod
from everynode.core.identity import canonical
from everynode.core.values import Owner, Revision
from everynode.errors import InvariantError
from everynode_kubernetes.bodies import (
    adoption_patch,
    automatic_tolerations,
    controller_revision_for,
    controller_revision_name,
    delete_options,
    label_patch,
    merged_tolerations,
    pod_for,
    release_patch,
    revision_data,
    revision_number_patch,
)
from everynode_kubernetes.objects import parse_controller_revision, parse_pod
from everynode_kubernetes.translate import controller_of, node_name_of, pod_of, template_in

OWNER = Owner(name="agent", uid="set-uid")
REFERENCE = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "name": "agent",
    "uid": "set-uid",
    "controller": True,
    "blockOwnerDeletion": True,
}
SIX = [
    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/disk-pressure", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/pid-pressure", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
]
SEVENTH = {
    "key": "node.kubernetes.io/network-unavailable",
    "operator": "Exists",
    "effect": "NoSchedule",
}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
HERE = {
    "nodeSelectorTerms": [
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-1"]}]}
    ]
}


def command(template: dict[str, Any] | None, **changes: Any) -> CreatePod:
    """A command to make a pod from a template."""
    given = CreatePod(
        id="c",
        backend="east",
        node="node-1",
        node_uid="node-uid",
        namespace="ns",
        daemonset="agent",
        daemonset_uid="set-uid",
        generation=7,
        pod="agent-123",
        revision="r",
        expires_ms=1,
        failures=2,
        template=None if template is None else msgspec.Raw(json.dumps(template).encode()),
    )
    return msgspec.structs.replace(given, **changes)


def made(template: dict[str, Any], *, generation: str | None = None) -> dict[str, Any]:
    """The pod that a template makes."""
    body = pod_for(command(template), OWNER, revision_label="label", template_generation=generation)
    pod: dict[str, Any] = json.loads(body)
    return pod


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=10,
)


class TestTolerations:
    """What pods tolerate without being asked."""

    def test_automatic(self) -> None:
        """Six taints, and a seventh on the host's network."""
        assert SIX == automatic_tolerations(host_network=False)
        assert [*SIX, SEVENTH] == automatic_tolerations(host_network=True)

    def test_one_that_is_there_already(self) -> None:
        """It keeps its place, but not its limit; one that differs in anything else stays beside it."""
        limited = {**SIX[0], "tolerationSeconds": 5}
        other = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}
        assert [other, *SIX] == merged_tolerations([other, limited], host_network=False)[:7]
        assert 7 == len(merged_tolerations([other, limited], host_network=False))

    tolerations = st.builds(
        lambda given, seconds: {**given, **({"tolerationSeconds": seconds} if seconds else {})},
        st.fixed_dictionaries(
            {},
            optional={
                "key": st.sampled_from(["node.kubernetes.io/not-ready", "a"]),
                "operator": st.sampled_from(["Exists", "Equal"]),
                "effect": st.sampled_from(["NoExecute", "NoSchedule"]),
                "value": st.sampled_from(["", "x"]),
            },
        ),
        st.integers(0, 2),
    )

    @given(own=st.lists(tolerations, max_size=8), host_network=st.booleans())
    def test_merging(self, own: list[dict[str, Any]], *, host_network: bool) -> None:
        """The template's own keep their order, then what was missing; merging twice is merging once."""
        merged = merged_tolerations(own, host_network=host_network)
        automatic = automatic_tolerations(host_network=host_network)

        def without_limit(each: dict[str, Any]) -> tuple[str, ...]:
            return tuple(each.get(key) or "" for key in ("key", "operator", "effect", "value"))

        wanted = {without_limit(each) for each in automatic}
        assert list(map(without_limit, own)) == list(map(without_limit, merged[: len(own)]))
        assert all(any(each == one for one in merged) for each in automatic)
        assert merged == merged_tolerations(merged, host_network=host_network)
        for before, after in zip(own, merged, strict=False):
            kept = without_limit(before) not in wanted
            assert after == (before if kept else after)
            assert kept or "tolerationSeconds" not in after


class TestPods:
    """Pods that are to be made."""

    def test_everything(self) -> None:
        """As Kubernetes' controller makes it, but with the name that the command gives it."""
        container = {"name": "c", "image": "i"}
        pod = made(
            {
                "metadata": {
                    "name": "ignored",
                    "labels": {"app": "a"},
                    "annotations": {"note": "n"},
                    "finalizers": ["example.com/f"],
                },
                "spec": {"containers": [container], "hostNetwork": True},
            },
            generation="4",
        )
        assert {"apiVersion": "v1", "kind": "Pod"} == {
            key: pod[key] for key in ("apiVersion", "kind")
        }
        assert pod["metadata"] == {
            "name": "agent-123",
            "generateName": "agent-",
            "namespace": "ns",
            "labels": {
                "app": "a",
                "controller-revision-hash": "label",
                "pod-template-generation": "4",
            },
            "annotations": {
                "note": "n",
                "everynode.dev/generation": "7",
                "everynode.dev/failures": "2",
            },
            "finalizers": ["example.com/f"],
            "ownerReferences": [REFERENCE],
        }
        assert pod["spec"] == {
            "containers": [container],
            "hostNetwork": True,
            "affinity": {"nodeAffinity": {REQUIRED: HERE}},
            "tolerations": [*SIX, SEVENTH],
        }

    @pytest.mark.parametrize("template", [{}, {"metadata": None, "spec": None}])
    def test_an_empty_template(self, template: dict[str, Any]) -> None:
        """Whatever is missing, the pod is marked and bound as any other."""
        pod = made(template)
        assert {"controller-revision-hash": "label"} == pod["metadata"]["labels"]
        assert "finalizers" not in pod["metadata"]
        assert SIX == pod["spec"]["tolerations"]

    @pytest.mark.parametrize(
        ("affinity", "expected"),
        [
            (None, {"nodeAffinity": {REQUIRED: HERE}}),
            ({"nodeAffinity": None}, {"nodeAffinity": {REQUIRED: HERE}}),
            ({"nodeAffinity": {REQUIRED: {"old": 1}}}, {"nodeAffinity": {REQUIRED: HERE}}),
            (
                {"podAffinity": {"x": 1}, "nodeAffinity": {PREFERRED: [1]}},
                {"podAffinity": {"x": 1}, "nodeAffinity": {PREFERRED: [1], REQUIRED: HERE}},
            ),
        ],
    )
    def test_affinity(self, affinity: dict[str, Any] | None, expected: dict[str, Any]) -> None:
        """It goes to its node and nowhere else; what it prefers, and other pods, still count."""
        spec = made({"spec": {"affinity": affinity, "nodeSelector": {"a": "b"}}})["spec"]
        assert expected == spec["affinity"]
        assert {"a": "b"} == spec["nodeSelector"]
        assert "nodeName" not in spec

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            (None, None),
            ("", None),
            ("x", None),
            ("1.0", None),
            ("1_0", None),
            (" 1", None),
            ("٣", None),
            ("9" * 19, None),
            ("9" * 5_000, None),
            ("007", "7"),
            ("+7", "7"),
            ("-7", "-7"),
        ],
    )
    def test_template_generation(self, text: str | None, expected: str | None) -> None:
        """A number of 64 bits, or no label."""
        labels = made({}, generation=text)["metadata"]["labels"]
        assert expected == labels.get("pod-template-generation")

    def test_ours_win(self) -> None:
        """A template cannot say of its pods what we say of them."""
        ours = {"everynode.dev/generation": "9", "everynode.dev/failures": "9"}
        labels = {"controller-revision-hash": "mine", "pod-template-generation": "mine"}
        metadata = made({"metadata": {"annotations": ours, "labels": labels}}, generation="1")[
            "metadata"
        ]
        assert {"everynode.dev/generation": "7", "everynode.dev/failures": "2"} == metadata[
            "annotations"
        ]
        assert {"controller-revision-hash": "label", "pod-template-generation": "1"} == metadata[
            "labels"
        ]

    def test_without_a_template(self) -> None:
        """The host fills it in; if it did not, that is a mistake of this program."""
        with pytest.raises(InvariantError, match="agent-123"):
            pod_for(command(None), OWNER, revision_label="l", template_generation=None)

    def test_it_is_read_back(self) -> None:
        """What the command says of the pod is what is seen of it (S2)."""
        body: dict[str, Any] = made({"metadata": {"labels": {"app": "a"}}, "spec": {}})
        body["metadata"]["uid"] = "pod-uid"
        api = parse_pod(json.dumps(body).encode())
        pod = pod_of(api, "east", owner=OWNER, revision="r", labels=None)
        assert ("ns", "agent-123", "node-1", 7, 2) == (
            pod.namespace,
            pod.name,
            pod.node,
            pod.generation,
            pod.failures,
        )
        assert "node-1" == node_name_of(api)
        controller = controller_of(api.metadata)
        assert controller is not None
        assert OWNER.uid == controller.uid


class TestChanges:
    """What happens to objects that are there."""

    def test_deletions(self) -> None:
        """Only the very object that was meant goes."""
        kind = {"apiVersion": "v1", "kind": "DeleteOptions"}
        assert {**kind, "preconditions": {"uid": "u"}} == json.loads(delete_options("u"))
        full = delete_options("u", grace_period_seconds=0, resource_version="9")
        preconditions = {"uid": "u", "resourceVersion": "9"}
        assert {**kind, "preconditions": preconditions, "gracePeriodSeconds": 0} == json.loads(full)

    def test_patches(self) -> None:
        """Each names the uid of what it changes."""
        assert json.loads(adoption_patch("u", OWNER)) == {
            "metadata": {"uid": "u", "ownerReferences": [REFERENCE]}
        }
        assert json.loads(release_patch("u", "o")) == {
            "metadata": {"uid": "u", "ownerReferences": [{"$patch": "delete", "uid": "o"}]}
        }
        assert json.loads(label_patch("u", {"a": "b"})) == {
            "metadata": {"uid": "u", "labels": {"a": "b"}}
        }
        assert {"metadata": {"uid": "u"}, "revision": 3} == json.loads(
            revision_number_patch("u", 3)
        )


class TestRevisions:
    """ControllerRevisions that are to be made."""

    def revision(self, template: dict[str, Any], **changes: Any) -> Revision:
        """A version of a set."""
        content = msgspec.Raw(canonical(json.dumps(template).encode()))
        given = Revision(
            namespace="ns",
            daemonset="agent",
            daemonset_uid="set-uid",
            hash="h",
            number=3,
            template=content,
        )
        return msgspec.structs.replace(given, **changes)

    def test_everything(self) -> None:
        """As Kubernetes' controller makes it, but with the name and the label that the caller gives it."""
        template = {"metadata": {"labels": {"app": "a"}}, "spec": {"x": 1}}
        body = controller_revision_for(
            self.revision(template, change_cause="because"),
            OWNER,
            name="n",
            label="l",
            annotations={"note": "n", "kubernetes.io/change-cause": "of today"},
        )
        assert json.loads(body) == {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": "n",
                "namespace": "ns",
                "labels": {"app": "a", "controller-revision-hash": "l"},
                "annotations": {"note": "n", "kubernetes.io/change-cause": "because"},
                "ownerReferences": [REFERENCE],
            },
            "data": {"spec": {"template": {"$patch": "replace", **template}}},
            "revision": 3,
        }

    @pytest.mark.parametrize("template", [{}, {"metadata": None}, {"metadata": {"labels": None}}])
    def test_an_empty_template(self, template: dict[str, Any]) -> None:
        """It has the one label that pods are told apart by."""
        body = controller_revision_for(
            self.revision(template), OWNER, name="n", label="l", annotations={}
        )
        metadata = json.loads(body)["metadata"]
        assert ({"controller-revision-hash": "l"}, {}) == (
            metadata["labels"],
            metadata["annotations"],
        )

    def test_as_go_writes_it(self) -> None:
        """Five characters are escaped that JSON need not escape, and keys are sorted through all levels."""
        template = {"b": {"z": "<&>", "a": ["\u2028\u2029é😀\x7f\b\f\x01"]}, "a": None}
        assert revision_data(json.dumps(template).encode()) == (
            b'{"spec":{"template":{"$patch":"replace","a":null,"b":'
            b'{"a":["\\u2028\\u2029\xc3\xa9\xf0\x9f\x98\x80\x7f\\b\\f\\u0001"],'
            b'"z":"\\u003c\\u0026\\u003e"}}}}'
        )

    @given(st.dictionaries(TEXTS.filter(lambda key: key not in {"$patch", "metadata"}), VALUES))
    def test_there_and_back(self, template: dict[str, Any]) -> None:
        """Nothing of a template is lost on the way, so that its hash stays (take-over, give-back)."""
        content = canonical(json.dumps(template).encode())
        body = controller_revision_for(
            self.revision(template), OWNER, name="n", label="l", annotations={}
        )
        raw: dict[str, Any] = json.loads(body)
        raw["metadata"]["uid"] = "u"
        api = parse_controller_revision(json.dumps(raw).encode())
        assert content == template_in(api)
        assert revision_data(content) == bytes(msgspec.json.decode(body, type=_WithData).data)

    def test_names(self) -> None:
        """The set and the label; a long set gives way, so that the name stays one."""
        assert "agent-abc" == controller_revision_name("agent", "abc")
        long = controller_revision_name("a" * 248 + "-.b", "abc")
        assert f"{'a' * 248}-abc" == long
        assert 253 == len(controller_revision_name("a" * 253, "abc"))


class _WithData(msgspec.Struct):
    data: msgspec.Raw
