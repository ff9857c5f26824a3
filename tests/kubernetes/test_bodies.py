"""A real API server takes what the adapter writes, and means by it what is meant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec import structs
from tests.kubernetes.support_control_plane import ControlPlane

from everynode.core.commands import CreatePod
from everynode.core.identity import revision_hash
from everynode.core.values import Condition, DaemonSet, Notice, Owner, Revision, Status
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.bodies import (
    MERGE_PATCH,
    adoption_patch,
    controller_revision_for,
    controller_revision_name,
    delete_options,
    event_for,
    label_patch,
    pod_for,
    release_patch,
    revision_number_patch,
    status_body,
    status_shown,
)
from everynode_kubernetes.client import Access, ApiServer
from everynode_kubernetes.objects import (
    ApiControllerRevision,
    ApiDaemonSet,
    ApiPod,
    parse_controller_revision,
    parse_daemonset,
    parse_pod,
)
from everynode_kubernetes.translate import controller_of, daemonset_of, pod_of, revision_of

NAME = "agent"
MANIFEST = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": NAME, "annotations": {"kubernetes.io/change-cause": "the first one"}},
    "spec": {
        "selector": {"matchLabels": {"app": NAME}},
        "template": {
            "metadata": {
                "labels": {"app": NAME},
                "annotations": {"text": "<&>\u2028"},
                "finalizers": ["example.com/kept"],
            },
            "spec": {
                "containers": [{"name": "main", "image": "registry.k8s.io/pause:3.9"}],
                "tolerations": [{"key": "dedicated", "operator": "Exists"}],
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "os", "operator": "Exists"}]}
                            ]
                        }
                    }
                },
            },
        },
    },
}


class Place:
    """A namespace with a set in it that no controller looks after.

    Args:
        server: The API server.
        plane: Its control plane.
        namespace: The namespace.
    """

    def __init__(self, server: ApiServer, plane: ControlPlane, namespace: str) -> None:
        self.server = server
        self.plane = plane
        self.namespace = namespace

    @property
    def pods(self) -> str:
        """The path of the pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def apps(self, resource: str) -> str:
        """The path of what is of the group apps."""
        return f"/apis/apps/v1/namespaces/{self.namespace}/{resource}"

    async def kubectl(self, *args: str) -> str:
        """What kubectl says in this namespace."""
        return await self.plane.kubectl("-n", self.namespace, *args)

    async def read(self) -> tuple[ApiDaemonSet, DaemonSet]:
        """The set as it is now."""
        api = parse_daemonset(await self.server.get(self.apps(f"daemonsets/{NAME}")))
        daemonset = daemonset_of(api, "east")
        assert isinstance(daemonset, DaemonSet)
        return api, daemonset

    async def owner(self) -> Owner:
        """The set as an owner."""
        api, _ = await self.read()
        return Owner(name=NAME, uid=api.uid)

    async def make_pod(self, name: str = "agent-1", node: str = "node-1") -> ApiPod:
        """Make a pod of the set."""
        _, daemonset = await self.read()
        command = CreatePod(
            id="c",
            backend="east",
            node=node,
            node_uid="node-uid",
            namespace=self.namespace,
            daemonset=NAME,
            daemonset_uid=daemonset.uid,
            generation=daemonset.generation,
            pod=name,
            revision=revision_hash(daemonset.template),
            expires_ms=1,
            failures=3,
            template=daemonset.template,
        )
        body = pod_for(
            command, await self.owner(), revision_label="label", template_generation="12"
        )
        return parse_pod(await self.server.create(self.pods, body))

    async def pod(self, name: str = "agent-1") -> ApiPod:
        """A pod as it is now."""
        return parse_pod(await self.server.get(f"{self.pods}/{name}"))

    async def patch_pod(self, body: bytes, name: str = "agent-1") -> None:
        """Change a pod."""
        await self.server.patch(f"{self.pods}/{name}", body, MERGE_PATCH)

    async def make_revision(self, number: int = 1) -> ApiControllerRevision:
        """Record the template that the set has now."""
        _, daemonset = await self.read()
        hash_ = revision_hash(daemonset.template)
        revision = Revision(
            namespace=self.namespace,
            daemonset=NAME,
            daemonset_uid=daemonset.uid,
            hash=hash_,
            number=number,
            template=daemonset.template,
            change_cause=daemonset.annotations["kubernetes.io/change-cause"],
        )
        body = controller_revision_for(
            revision,
            await self.owner(),
            name=controller_revision_name(NAME, hash_),
            label=hash_,
            annotations=daemonset.annotations,
        )
        answer = await self.server.create(self.apps("controllerrevisions"), body)
        return parse_controller_revision(answer)


@pytest.fixture
async def place(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Place]:
    """A set without pods, and without a controller."""
    server = await ApiServer.connect(Access(kubeconfig=control_plane.kubeconfig))
    found = Place(server, control_plane, namespace)
    await server.create(found.apps("daemonsets"), json.dumps(MANIFEST).encode())
    yield found
    for pod in json.loads(await server.get(found.pods))["items"]:
        nothing = b'{"metadata": {"finalizers": null}}'
        await found.patch_pod(nothing, pod["metadata"]["name"])
    await server.close()


async def refusal(request: Any) -> Refusal:
    """What a request is refused with."""
    with pytest.raises(Refusal) as caught:
        await request
    return caught.value


def has_another_uid(refused: Refusal) -> bool:
    """Whether the server refused a patch because the object of that name is another one than was meant."""
    return refused.is_invalid and "metadata.uid" in {cause.field for cause in refused.causes}


class TestPods:
    """Pods."""

    async def test_one_is_made(self, place: Place) -> None:
        """It is taken as it is written, and read back as what was meant."""
        made = await place.make_pod()
        _, daemonset = await place.read()
        pod = pod_of(made, "east", owner=None, revision="", labels=None)
        assert (place.namespace, "agent-1", "node-1", daemonset.generation, 3) == (
            pod.namespace,
            pod.name,
            pod.node,
            pod.generation,
            pod.failures,
        )
        controller = controller_of(made.metadata)
        assert controller is not None
        assert (NAME, daemonset.uid) == (controller.name, controller.uid)
        assert ("label", "12") == (
            made.metadata.label("controller-revision-hash"),
            made.metadata.label("pod-template-generation"),
        )
        assert ("example.com/kept",) == made.metadata.finalizers
        assert (await refusal(place.make_pod())).already_exists

    async def test_the_node_is_the_only_one(self, place: Place) -> None:
        """The scheduler brings it to its node, and to no other."""
        async with place.plane.own_nodes(2) as nodes:
            await place.make_pod(node=nodes.names[1])
            jsonpath = "--for=jsonpath={.spec.nodeName}=" + nodes.names[1]
            await place.kubectl("wait", "pod/agent-1", jsonpath, "--timeout=30s")

    async def test_hands_are_changed(self, place: Place) -> None:
        """It is released, and adopted again, by its uid alone; what is so already is no mistake."""
        made, owner = await place.make_pod(), await place.owner()
        release, adopt = release_patch(made.uid, owner.uid), adoption_patch(made.uid, owner)
        await place.patch_pod(release)
        assert controller_of((await place.pod()).metadata) is None
        await place.patch_pod(adopt)
        await place.patch_pod(adopt)
        assert made.metadata.owner_references == (await place.pod()).metadata.owner_references
        await place.patch_pod(release_patch(made.uid, "another"))
        assert made.metadata.owner_references == (await place.pod()).metadata.owner_references

    async def test_another_pod_of_that_name(self, place: Place) -> None:
        """It is not met by what was meant for the one before (S5)."""
        await place.make_pod()
        owner = await place.owner()
        for body in (
            release_patch("another", owner.uid),
            adoption_patch("another", owner),
            label_patch("another", {"a": "b"}),
        ):
            assert has_another_uid(await refusal(place.patch_pod(body)))
        for options in (delete_options("another"), delete_options("x", grace_period_seconds=0)):
            found = await refusal(place.server.delete(f"{place.pods}/agent-1", options))
            assert found.is_conflict

    async def test_somebody_elses_pod(self, place: Place) -> None:
        """It cannot be adopted: the server knows that there is only one controller."""
        made = await place.make_pod()
        other = Owner(name="other", uid="8a5b2f4e-0000-4000-8000-000000000000")
        assert (await refusal(place.patch_pod(adoption_patch(made.uid, other)))).is_invalid

    async def test_labels(self, place: Place) -> None:
        """One is changed, the others stay."""
        made = await place.make_pod()
        await place.patch_pod(label_patch(made.uid, {"controller-revision-hash": "new"}))
        expected = {**(made.metadata.labels or {}), "controller-revision-hash": "new"}
        assert expected == (await place.pod()).metadata.labels

    async def test_a_deletion(self, place: Place) -> None:
        """Only the version that was looked at goes, at once if there is no grace."""
        made = await place.make_pod()
        path = f"{place.pods}/agent-1"
        await place.patch_pod(b'{"metadata": {"finalizers": null}}')
        old = delete_options(made.uid, resource_version=made.metadata.resource_version)
        assert (await refusal(place.server.delete(path, old))).is_conflict
        now = await place.pod()
        exact = delete_options(
            now.uid, grace_period_seconds=0, resource_version=now.metadata.resource_version
        )
        await place.server.delete(path, exact)
        assert (await refusal(place.pod())).is_not_found


class TestRevisions:
    """ControllerRevisions."""

    async def test_one_is_made(self, place: Place) -> None:
        """It is read back as what it was."""
        made = await place.make_revision()
        _, daemonset = await place.read()
        found = revision_of(made, NAME, daemonset.uid)
        assert found is not None
        assert (revision_hash(daemonset.template), 1, "the first one") == (
            found.hash,
            found.number,
            found.change_cause,
        )
        assert bytes(daemonset.template) == bytes(found.template)

    async def test_kubectl_knows_them(self, place: Place) -> None:
        """``rollout history`` shows them with their reasons, ``rollout undo`` goes back, and the number goes up."""
        first = await place.make_revision()
        await place.kubectl("set", "image", f"ds/{NAME}", "main=registry.k8s.io/pause:3.10")
        await place.kubectl("annotate", "--overwrite", f"ds/{NAME}", "kubernetes.io/change-cause=x")
        second = await place.make_revision(2)
        history = await place.kubectl("rollout", "history", f"ds/{NAME}")
        assert ["1 the first one", "2 x"] == [
            " ".join(line.split()) for line in history.splitlines() if line[:1].isdigit()
        ]
        await place.kubectl("rollout", "undo", f"ds/{NAME}")
        _, daemonset = await place.read()
        assert revision_hash(daemonset.template) == first.metadata.label("controller-revision-hash")
        path = place.apps(f"controllerrevisions/{first.metadata.name}")
        await place.server.patch(path, revision_number_patch(first.uid, 3), MERGE_PATCH)
        assert 3 == parse_controller_revision(await place.server.get(path)).revision
        wrong = place.server.patch(path, revision_number_patch(second.uid, 4), MERGE_PATCH)
        assert has_another_uid(await refusal(wrong))
        await place.server.delete(path, delete_options(first.uid))
        assert (await refusal(place.server.get(path))).is_not_found


def available(message: str = "m", *, is_so: bool = True) -> Condition:
    """A condition of a set."""
    return Condition(
        type="Available",
        status="True" if is_so else "False",
        reason="Because",
        message=message,
        last_transition_ms=1_714_979_289_123,
    )


class TestStatus:
    """The status of a set."""

    def status(self, place: Place, uid: str, **changes: Any) -> Status:
        """How far the set has come."""
        given = Status(
            namespace=place.namespace,
            daemonset=NAME,
            daemonset_uid=uid,
            observed_generation=1,
            desired_number_scheduled=7,
            current_number_scheduled=6,
            number_misscheduled=1,
            number_ready=5,
            number_available=4,
            number_unavailable=3,
            updated_number_scheduled=2,
            conditions=(available(),),
        )
        return structs.replace(given, **changes)

    async def write(self, place: Place, status: Status) -> ApiDaemonSet:
        """Write it, and read the set."""
        api, _ = await place.read()
        path = place.apps(f"daemonsets/{NAME}/status")
        await place.server.patch(path, status_body(status, api.status), MERGE_PATCH)
        api, _ = await place.read()
        return api

    async def test_it_is_written(self, place: Place) -> None:
        """The object shows it, counters that fall to zero too, and what others wrote stays."""
        api, _ = await place.read()
        theirs = {"collisionCount": 2, "conditions": [{"type": "Theirs", "status": "Unknown"}]}
        path = place.apps(f"daemonsets/{NAME}/status")
        await place.server.patch(path, json.dumps({"status": theirs}).encode(), MERGE_PATCH)
        status = self.status(place, api.uid)
        assert not status_shown(api, status)
        assert status_shown(await self.write(place, status), status)
        none = Status(
            namespace=place.namespace,
            daemonset=NAME,
            daemonset_uid=api.uid,
            observed_generation=1,
            conditions=(available("", is_so=False),),
        )
        after = await self.write(place, none)
        assert status_shown(after, none)
        assert after.status is not None
        assert 2 == after.status.collision_count
        assert {"Theirs", "Available"} == {each.type for each in after.status.conditions or ()}
        wide = await place.kubectl("get", "ds", NAME, "--no-headers")
        assert [NAME, "0", "0", "0", "0", "0"] == wide.split()[:6]

    async def test_an_old_generation(self, place: Place) -> None:
        """What was seen stays seen."""
        api, _ = await place.read()
        await self.write(place, self.status(place, api.uid, observed_generation=5))
        after = await self.write(place, self.status(place, api.uid))
        assert after.status is not None
        assert 5 == after.status.observed_generation

    async def test_another_set_of_that_name(self, place: Place) -> None:
        """It is not met by what was counted for the one before (S5)."""
        status = self.status(place, "8a5b2f4e-0000-4000-8000-000000000000")
        assert has_another_uid(await refusal(self.write(place, status)))


class TestEvents:
    """What people are told."""

    async def test_they_are_shown(self, place: Place) -> None:
        """``kubectl describe`` shows them with the set, one alone and many as one, however long they are."""
        notice = Notice(
            namespace=place.namespace,
            daemonset=NAME,
            daemonset_uid=(await place.owner()).uid,
            type="Warning",
            reason="FailedCreate",
            message="it did not work",
            node="node-1",
            first_ms=1_714_979_289_123,
            last_ms=1_714_979_299_123,
        )
        path = f"/apis/events.k8s.io/v1/namespaces/{place.namespace}/events"
        bodies = [
            event_for(notice, mark="1", instance="host-1"),
            event_for(
                structs.replace(notice, count=9, pod="p", type="Normal"), mark="2", instance="h"
            ),
            event_for(structs.replace(notice, message="é" * 2_000), mark="3", instance="ü" * 200),
            event_for(
                structs.replace(notice, reason="R" * 200, message=""), mark="4", instance="h"
            ),
        ]
        for body in bodies:
            await place.server.create(path, body)
        assert (await refusal(place.server.create(path, bodies[0]))).already_exists
        described = await place.kubectl("describe", "ds", NAME)
        assert "everynode.dev/daemonset-controller" in described
        assert "it did not work" in described
        assert "(x9 over" in described
        assert msgspec.json.decode(await place.server.get(path))["items"][0]["regarding"]["uid"]
