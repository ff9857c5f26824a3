"""The Kubernetes adapter passes the conformance kit, on a real control plane."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.kubernetes.support_api import Api
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_fleet import BACKEND, seen_pod
from tests.kubernetes.support_programs import Programs

from everynode.core.identity import canonical
from everynode.core.values import Owner
from everynode.testing.conformance import AdapterConformance, Harness, SeenPod
from everynode_kubernetes import KubernetesAdapter
from everynode_kubernetes.access import Access
from everynode_kubernetes.adapter import identity_of
from everynode_kubernetes.client import ApiServer

NODES = 3


class KubernetesHarness(Harness):
    """A namespace of a control plane, with a set in it that the commands are about.

    Its pods take no time to stop. kwok removes a pod that has stopped by its name alone, and would now and then take
    the next one of that name with it; a kubelet goes by the uid.
    """

    template = canonical(
        b'{"metadata":{"labels":{"app":"conformance"}},"spec":{"terminationGracePeriodSeconds":0,'
        b'"containers":[{"name":"main","image":"registry.k8s.io/pause:3.10"}]}}'
    )

    def __init__(self, plane: ControlPlane, api: Api) -> None:
        """Make nothing yet."""
        self._plane = plane
        self._api = api
        self._adapters: list[KubernetesAdapter] = []
        self._nodes_before: set[str] = set()
        self._stack = contextlib.AsyncExitStack()

    async def open(self) -> None:
        """Make the namespace and the set."""
        self.namespace = await self._stack.enter_async_context(self._plane.namespace("kit"))
        self._nodes_before = set(await self.node_names())
        labels = {"app": "conformance"}
        container = {"name": "main", "image": "registry.k8s.io/pause:3.10"}
        spec = {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        }
        body = {"metadata": {"name": "conformance"}, "spec": spec}
        path = f"/apis/apps/v1/namespaces/{self.namespace}/daemonsets"
        made = await self._api.create(path, body)
        self.daemonset = Owner(name="conformance", uid=made["metadata"]["uid"])

    async def make_adapter(self) -> KubernetesAdapter:
        """Connect once more."""
        server = await ApiServer.connect(Access(kubeconfig=self._plane.kubeconfig))
        adapter = KubernetesAdapter(BACKEND, server, await identity_of(server))
        self._adapters.append(adapter)
        return adapter

    async def node_names(self) -> list[str]:
        """Ask the API server."""
        listed = await self._api.get("/api/v1/nodes")
        return [item["metadata"]["name"] for item in listed["items"]]

    async def pods(self) -> list[SeenPod]:
        """Ask the API server."""
        listed = await self._api.get(f"/api/v1/namespaces/{self.namespace}/pods")
        seen = [seen_pod(item) for item in listed["items"]]
        return [
            SeenPod(pod.namespace, pod.name, pod.uid, pod.node) for pod in seen if not pod.deleting
        ]

    async def add_node(self, name: str) -> None:
        """Register one; kwok is its kubelet."""
        await self._plane.add_named_nodes([name])

    async def remove_node(self, name: str) -> None:
        """Remove the object."""
        await self._plane.remove_node(name)

    async def remove_pod(self, namespace: str, name: str) -> None:
        """Delete it as `kubectl delete --now` does."""
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        await self._api.delete(path, {"gracePeriodSeconds": 0})

    async def add_foreign_pod(self, namespace: str, name: str, node: str) -> None:
        """Make one that something else controls, which has to exist: else the garbage collector takes it."""
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        owner = await self._api.create(path, {"metadata": {"name": f"of-{name}"}})
        reference = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
        }
        await self._add_pod(namespace, name, node, {"ownerReferences": [reference]})

    async def add_orphan(
        self, namespace: str, name: str, node: str, labels: dict[str, str]
    ) -> None:
        """Make one that nobody controls; the set's selector selects it."""
        await self._add_pod(namespace, name, node, {"labels": labels})

    async def _add_pod(
        self, namespace: str, name: str, node: str, metadata: dict[str, object]
    ) -> None:
        container = {"name": "main", "image": "registry.k8s.io/pause:3.10"}
        body = {
            "metadata": {"name": name, **metadata},
            "spec": {"nodeName": node, "containers": [container]},
        }
        await self._api.create(f"/api/v1/namespaces/{namespace}/pods", body)

    async def close(self) -> None:
        """Remove the namespace, and have the nodes as they were."""
        for adapter in self._adapters:
            await adapter.close()
        await self._stack.aclose()
        now = set(await self.node_names())
        for name in now - self._nodes_before:
            await self._plane.remove_node(name)
        for name in self._nodes_before - now:
            await self.add_node(name)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plane(
    programs: Programs,  # noqa: ARG001 - skips
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ControlPlane]:
    """A control plane whose nodes are this module's alone: the kit lists all there are."""
    async with ControlPlane.start(tmp_path_factory.mktemp("kit"), nodes=NODES) as started:
        yield started


class TestKubernetes(AdapterConformance):
    """On a cluster with three nodes."""

    @pytest_asyncio.fixture(autouse=True)
    async def connected(self, plane: ControlPlane) -> AsyncIterator[None]:
        """Have the control plane at hand."""
        self.plane = plane
        async with plane.api() as self.api:
            yield

    async def make_harness(self) -> Harness:
        """Make a namespace and a set."""
        harness = KubernetesHarness(self.plane, self.api)
        await harness.open()
        return harness
