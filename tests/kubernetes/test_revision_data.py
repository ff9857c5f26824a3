"""What the built-in controller makes is what we make: its ControllerRevisions byte for byte, and its pods.

So it takes what it finds of ours for its own when a cluster is given back, and restarts nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.kubernetes.conftest import StartControlPlane
from tests.kubernetes.support_api import Api
from tests.kubernetes.support_control_plane import ControlPlane

from everynode.core.commands import CreatePod
from everynode.core.identity import revision_hash
from everynode.core.values import DaemonSet, Owner, Revision
from everynode_kubernetes.bodies import (
    controller_revision_for,
    controller_revision_name,
    pod_for,
    revision_data,
)
from everynode_kubernetes.client import Access, ApiServer
from everynode_kubernetes.objects import (
    TEMPLATE_GENERATION_ANNOTATION,
    ApiControllerRevision,
    ApiDaemonSet,
    parse_controller_revision,
    parse_daemonset,
)
from everynode_kubernetes.translate import controller_of, daemonset_of, template_in

MANIFESTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "manifests"
SETS = "/apis/apps/v1/daemonsets"
REVISIONS = "/apis/apps/v1/controllerrevisions"
SECONDS_MAX = 60

# Whatever is written in one way only, and what a server writes that nobody would.
ODD: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "odd", "namespace": "default"},
    "spec": {
        "selector": {"matchLabels": {"app": "odd"}},
        "template": {
            "metadata": {
                "labels": {"app": "odd"},
                "annotations": {"text": "<b> & 'c' \" \\ / \u2028\u2029 \b\f\t\x01\x7f é 😀 \n"},
            },
            "spec": {
                "containers": [
                    {
                        "name": "main",
                        "image": "registry.k8s.io/pause:3.9",
                        "command": ["sh", "-c", "a && b > /dev/null < c"],
                        "resources": {"limits": {"cpu": "1500m", "memory": "0.5Gi"}},
                        "livenessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 7},
                        "ports": [{"name": "http", "containerPort": 8080}],
                    }
                ],
                "securityContext": {"runAsUser": 1_000_000},
                "tolerations": [
                    {"key": "a", "effect": "NoExecute", "tolerationSeconds": 2**63 - 1}
                    | {"operator": "Exists"},
                    {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}
                    | {"operator": "Exists", "tolerationSeconds": 5},
                ],
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}
                            ]
                        },
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {
                                "weight": 3,
                                "preference": {
                                    "matchExpressions": [{"key": "x", "operator": "Exists"}]
                                },
                            }
                        ],
                    }
                },
                "volumes": [
                    {"name": "null", "projected": {}},
                    {"name": "empty", "emptyDir": {}},
                ],
            },
        },
    },
}


class _Listed(msgspec.Struct):
    items: list[msgspec.Raw]


class Cluster:
    """What is in the cluster.

    Args:
        plane: The control plane.
        api: A connection to it.
        server: Another one, which sends bytes as they are.
    """

    def __init__(self, plane: ControlPlane, api: Api, server: ApiServer) -> None:
        self.plane = plane
        self.api = api
        self.server = server

    async def apply_all(self) -> None:
        """Apply our manifest and the published ones; those that the server refuses are none of ours."""
        await self.plane.kubectl("apply", "-f", "-", stdin=json.dumps(ODD))
        await self.plane.kubectl("create", "namespace", "monitoring")
        await self.plane.kubectl("-n", "monitoring", "create", "serviceaccount", "node-exporter")
        for file in sorted(MANIFESTS.glob("*.yaml")):  # several are of one name: versions of a set
            await self.plane.kubectl("apply", "-f", str(file), check=False)
            await self.until("the controller has seen every set", self.all_are_seen)

    async def sets(self) -> list[ApiDaemonSet]:
        """All sets."""
        items = (await self.api.get(SETS))["items"]
        return [parse_daemonset(json.dumps(item).encode()) for item in items]

    async def revisions(self) -> list[ApiControllerRevision]:
        """All ControllerRevisions, with their data as the server writes it."""
        raw = msgspec.json.decode(await self.api.raw("GET", REVISIONS), type=_Listed)
        return [parse_controller_revision(item) for item in raw.items]

    async def pods(self, of: ApiDaemonSet) -> list[dict[str, Any]]:
        """The pods of a set that are not on their way out."""
        items = (await self.api.get(f"/api/v1/namespaces/{of.metadata.namespace}/pods"))["items"]
        return [
            item
            for item in items
            if any(each["uid"] == of.uid for each in item["metadata"].get("ownerReferences", []))
            and "deletionTimestamp" not in item["metadata"]
        ]

    async def all_are_seen(self) -> bool:
        """The built-in controller has looked at the latest generation of every set."""
        return all(
            api.status is not None and api.status.observed_generation == api.metadata.generation
            for api in await self.sets()
        )

    async def all_are_done(self) -> bool:
        """Every set has the pod that it should have, of its latest version."""
        statuses = [api.status for api in await self.sets()]
        return await self.all_are_seen() and all(
            status is not None
            and status.desired_number_scheduled == 1
            and status.updated_number_scheduled == status.number_available == 1
            for status in statuses
        )

    async def until(self, what: str, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait for something that other processes do."""
        try:
            async with asyncio.timeout(SECONDS_MAX):
                while not await condition():  # noqa: ASYNC110 - other processes set no event
                    await asyncio.sleep(0.1)
        except TimeoutError:
            pytest.fail(f"not within {SECONDS_MAX} s: {what}")


def translated(api: ApiDaemonSet) -> DaemonSet:
    """The set that the engine gets."""
    result = daemonset_of(api, "east")
    assert isinstance(result, DaemonSet), result
    return result


def belongs_to(revision: ApiControllerRevision, api: ApiDaemonSet) -> bool:
    """Whether a set controls a ControllerRevision."""
    controller = controller_of(revision.metadata)
    return controller is not None and controller.uid == api.uid


def comparable(pod: dict[str, Any]) -> dict[str, Any]:
    """A pod without what differs between any two pods, and without what only ours have."""
    metadata = pod["metadata"]
    annotations = metadata.get("annotations", {})
    text = json.dumps(
        {
            "labels": metadata["labels"],
            "ownerReferences": metadata["ownerReferences"],
            "finalizers": metadata.get("finalizers"),
            "annotations": {
                key: annotations[key] for key in annotations if "everynode.dev/" not in key
            },
            "spec": {key: value for key, value in pod["spec"].items() if key != "nodeName"},
        }
    )
    compared: dict[str, Any] = json.loads(re.sub("kube-api-access-[a-z0-9]+", "access", text))
    return compared


def command_for(daemonset: DaemonSet, node: str) -> CreatePod:
    """A command to make a pod of a set."""
    return CreatePod(
        id="c",
        backend="east",
        node=node,
        node_uid="node-uid",
        namespace=daemonset.namespace,
        daemonset=daemonset.name,
        daemonset_uid=daemonset.uid,
        generation=daemonset.generation,
        pod="ours",
        revision=revision_hash(daemonset.template),
        expires_ms=1,
        template=daemonset.template,
    )


async def compare_data(cluster: Cluster) -> None:
    """Every ControllerRevision holds what we would have written, and one of each set the template that it has now."""
    revisions = await cluster.revisions()
    assert revisions
    for revision in revisions:
        template = template_in(revision)
        assert template is not None
        assert bytes(revision.data) == revision_data(template)
    for api in await cluster.sets():
        data = [bytes(each.data) for each in revisions if belongs_to(each, api)]
        assert revision_data(translated(api).template) in data


async def compare_pods(cluster: Cluster) -> None:
    """Every pod of the built-in controller is the one that we would have made, as the server completes it."""
    compared = 0
    for api in await cluster.sets():
        for pod in await cluster.pods(api):
            body = pod_for(
                command_for(translated(api), "node-0"),
                Owner(name=api.metadata.name, uid=api.uid),
                revision_label=pod["metadata"]["labels"]["controller-revision-hash"],
                template_generation=api.metadata.annotation(TEMPLATE_GENERATION_ANNOTATION),
            )
            path = f"/api/v1/namespaces/{api.metadata.namespace}/pods"
            ours = await cluster.api.create(path, json.loads(body), dryRun="All")
            assert comparable(pod) == comparable(ours)
            compared += 1
    assert compared


async def give_back(cluster: Cluster) -> None:
    """A version that we recorded is the one that the built-in controller goes on with; it makes none of its own."""
    text = {"text": "new: <&> \u2028 é"}
    patch = {"spec": {"template": {"metadata": {"annotations": text}}}}
    path = "/apis/apps/v1/namespaces/default"
    await cluster.api.patch(f"{path}/daemonsets/odd", patch)
    (api,) = [each for each in await cluster.sets() if each.metadata.name == "odd"]
    daemonset = translated(api)
    hash_ = revision_hash(daemonset.template)
    name = controller_revision_name("odd", hash_)
    revision = Revision(
        namespace="default",
        daemonset="odd",
        daemonset_uid=api.uid,
        hash=hash_,
        number=2,
        template=daemonset.template,
    )
    owner = Owner(name="odd", uid=api.uid)
    body = controller_revision_for(revision, owner, name=name, label=hash_, annotations={})
    await cluster.server.create(f"{path}/controllerrevisions", body)  # these very bytes are kept
    cluster.plane.start_controller("daemonset")

    async def replaced() -> bool:
        pods = await cluster.pods(api)
        labels = {pod["metadata"]["labels"]["controller-revision-hash"] for pod in pods}
        return labels == {hash_}

    await cluster.until("the built-in controller makes pods of our revision", replaced)
    versions = [
        (each.revision, each.metadata.name == name)
        for each in await cluster.revisions()
        if belongs_to(each, api)
    ]
    assert [(1, False), (2, True)] == sorted(versions)


@asynccontextmanager
async def connected(plane: ControlPlane) -> AsyncIterator[ApiServer]:
    """A connection as the administrator."""
    server = await ApiServer.connect(Access(kubeconfig=plane.kubeconfig))
    try:
        yield server
    finally:
        await server.close()


@pytest.mark.slow
async def test_the_built_in_controller_would_have_done_the_same(
    start_control_plane: StartControlPlane,
) -> None:
    """Its revisions and pods are those that we would have made, and it takes a revision of ours for its own."""
    async with (
        start_control_plane(daemonset_controller=True, nodes=1) as plane,
        plane.api() as api,
        connected(plane) as server,
    ):
        cluster = Cluster(plane, api, server)
        await cluster.apply_all()
        await cluster.until("every set has its pod", cluster.all_are_done)
        await compare_data(cluster)
        await compare_pods(cluster)
        await plane.stop_controller("daemonset")
        await give_back(cluster)
