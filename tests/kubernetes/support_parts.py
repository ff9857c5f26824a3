"""The adapter's parts against a real API server, one at a time: objects to try them on, and a server to look over.

Used by test_executing and test_showing. Pods are undying: one that is deleted stays until somebody really removes it,
so that its grace can be seen.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import msgspec
from tests.kubernetes.support_api import Api, ApiError, Json
from tests.kubernetes.support_control_plane import ControlPlane

from everynode_kubernetes.access import Access
from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.cluster import Cluster
from everynode_kubernetes.objects import (
    parse_controller_revision,
    parse_daemonset,
    parse_node,
    parse_pod,
)
from everynode_kubernetes.paths import (
    daemonsets_path,
    node_path,
    pod_path,
    pods_path,
    revisions_path,
)
from everynode_kubernetes.reflector import Begun, Ended, Present, Resource

BACKEND = "cluster"
DEADLINE_S = 30.0
POLL_S = 0.05
UNDYING = {"test.everynode.dev/pod": "undying"}
FINALIZER = "everynode.dev/test"
IMAGE = "registry.k8s.io/pause:3.9"

Hook = Callable[[], Awaitable[object]]

_numbers = itertools.count(1)


class Overseen(ApiServer):
    """A connection that notes what is asked, and lets a test do something just before."""

    def __init__(self, *args: Any) -> None:
        """Nothing was asked."""
        super().__init__(*args)
        self.requests: list[str] = []
        self._hooks: dict[str, Hook] = {}

    def before(self, request: str, hook: Hook) -> None:
        """Do something before the next request of this verb, or of this verb and path, is sent."""
        self._hooks[request] = hook

    async def _note(self, verb: str, path: str) -> None:
        request = f"{verb} {path}"
        self.requests.append(request)
        for asked in (verb, request):
            if asked in self._hooks:
                await self._hooks.pop(asked)()

    def verbs(self) -> list[str]:
        """What was asked since the last time: verb and kind of object."""
        asked = [request.split("/") for request in self.requests]
        self.requests.clear()
        return [f"{parts[0].strip()} {_kind(parts)}" for parts in asked]

    async def get(self, path: str, *args: Any, **params: Any) -> bytes:
        """Read."""
        await self._note("GET", path)
        return await super().get(path, *args, **params)

    async def create(self, path: str, *args: Any, **params: Any) -> bytes:
        """Make."""
        await self._note("POST", path)
        return await super().create(path, *args, **params)

    async def patch(self, path: str, *args: Any, **params: Any) -> bytes:
        """Change."""
        await self._note("PATCH", path)
        return await super().patch(path, *args, **params)

    async def delete(self, path: str, *args: Any) -> bytes:
        """Delete."""
        await self._note("DELETE", path)
        return await super().delete(path, *args)


def _kind(parts: list[str]) -> str:
    if "namespaces" in parts:
        rest = parts[parts.index("namespaces") + 2 :]
        return "/".join(rest[::2]) if rest else "namespaces"
    return "nodes"


class Place:
    """A namespace, what is made there, and the adapter's parts that look at it.

    Args:
        plane: The control plane.
        api: Requests past the adapter.
        server: The adapter's connection.
        namespace: A namespace of the test's own.
    """

    def __init__(self, plane: ControlPlane, api: Api, server: Overseen, namespace: str) -> None:
        """Nothing was seen."""
        self.plane = plane
        self.api = api
        self.server = server
        self.namespace = namespace
        self.cluster = Cluster(BACKEND)
        self.nodes: list[str] = []

    async def see(self) -> None:
        """Let the cluster know what is there now: nodes, and what is in the namespace."""
        cluster, namespace = self.cluster, self.namespace
        cluster.begin_anew(_Nothing())
        sources: tuple[tuple[Resource[Any], Any], ...] = (
            (
                Resource(revisions_path(namespace), parse_controller_revision),
                cluster.take_revision,
            ),
            (Resource(daemonsets_path(namespace), parse_daemonset), cluster.take_set),
            (Resource("/api/v1/nodes", parse_node), cluster.take_node),
            (Resource(pods_path(namespace), parse_pod), cluster.take_pod),
        )
        for resource, take in sources:
            body = json.loads(await ApiServer.get(self.server, resource.path))
            take(Begun())
            for item in body["items"]:
                take(Present(resource.parse(msgspec.Raw(json.dumps(item).encode()))))
            take(Ended())

    # --- objects ---------------------------------------------------------------------------------

    async def node(self) -> Json:
        """A node; it is removed at the end of the test."""
        name = f"bare-{next(_numbers)}"
        self.nodes.append(name)
        return await self.api.create("/api/v1/nodes", {"metadata": {"name": name}})

    async def daemonset(self, name: str = "agent", **metadata: Any) -> Json:
        """A set that selects ``app=<its name>``."""
        labels = {"app": name}
        body = {
            "metadata": {"name": name, **metadata},
            "spec": {"selector": {"matchLabels": labels}, "template": template(name)},
        }
        return await self.api.create(daemonsets_path(self.namespace), body)

    async def pod(self, node: str, *, name: str = "agent-1", owner: Json | None = None) -> Json:
        """A pod that is bound to a node, of a set, or nobody's."""
        metadata: Json = {"name": name, "labels": {"app": "agent"}, "annotations": UNDYING}
        if owner is not None:
            metadata["ownerReferences"] = [owner_reference(owner)]
        spec = {**template("agent")["spec"], "nodeName": node}
        pod = {"metadata": metadata, "spec": spec}
        return await self.api.create(pods_path(self.namespace), pod)

    async def _phase(self, name: str) -> str:
        pod = await self.api.get(pod_path(self.namespace, name))
        phase: str = pod["status"]["phase"]
        return phase

    async def until_running(self, name: str = "agent-1") -> None:
        """Wait until a pod runs: from then on nobody changes it but the test."""
        async with asyncio.timeout(DEADLINE_S):
            while await self._phase(name) != "Running":  # noqa: ASYNC110 - another process
                await asyncio.sleep(POLL_S)

    async def change(self, path: str, **metadata: Any) -> Json:
        """Change an object's metadata."""
        return await self.api.patch(path, {"metadata": metadata})

    async def remove(self, path: str) -> None:
        """Remove an object at once."""
        now = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        await self.api.delete(path, now)

    async def found(self, path: str) -> Json | None:
        """An object as it is now; ``None`` if it is gone."""
        try:
            return await self.api.get(path)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise


class _Nothing:
    """A log that has nothing."""

    def __init__(self) -> None:
        """Nothing at all."""
        self.nodes: dict[Any, Any] = {}
        self.pods: dict[Any, Any] = {}


def template(app: str, image: str = IMAGE) -> Json:
    """The template of a pod."""
    return {
        "metadata": {"labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "image": image}]},
    }


def owner_reference(owner: Json) -> Json:
    """An object as the controller of another one."""
    metadata = owner["metadata"]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }


async def some_role(place: Place, user: str, rules: list[Json]) -> Overseen:
    """A connection as somebody who may do only this, in the namespace."""
    base = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{place.namespace}"
    group = "rbac.authorization.k8s.io"
    await place.api.create(f"{base}/roles", {"metadata": {"name": user}, "rules": rules})
    binding = {
        "metadata": {"name": user},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": user},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    await place.api.create(f"{base}/rolebindings", binding)
    connected = await Overseen.connect(Access(kubeconfig=place.plane.kubeconfig_for(user)))
    assert isinstance(connected, Overseen)
    return connected


@asynccontextmanager
async def a_place(plane: ControlPlane, namespace: str) -> AsyncIterator[Place]:
    """A place to try parts of the adapter at; bare nodes go at the end."""
    server = await Overseen.connect(Access(kubeconfig=plane.kubeconfig))
    assert isinstance(server, Overseen)
    async with plane.api() as api:
        place = Place(plane, api, server, namespace)
        try:
            yield place
        finally:
            for name in place.nodes:
                if await place.found(node_path(name)) is not None:
                    await place.remove(node_path(name))
            await server.close()
