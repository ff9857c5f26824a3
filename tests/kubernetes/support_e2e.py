"""A place for each end-to-end test: a namespace and nodes of its own on the shared control plane, all watched.

Used by test_e2e.py and test_e2e_surge.py, which drive sets as a user would, and ask the API server what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from tests.kubernetes.support_api import Api, Json
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_fleet import (
    POLL_S,
    PodObserver,
    SeenPod,
    daemonset_manifest,
    pods_of,
    until_covered,
)

T = TypeVar("T")

WAIT_S = 60.0
AGENT = "agent"
REVISION_LABEL = "controller-revision-hash"
OLD, NEW = "registry.k8s.io/pause:3.8", "registry.k8s.io/pause:3.9"


class Site:
    """Where one test is.

    Args:
        plane: The control plane.
        api: The API server.
        namespace: A namespace of the test's own.
        nodes: Its nodes; there are no others.
        observer: What has been seen of all pods.
    """

    def __init__(
        self,
        plane: ControlPlane,
        api: Api,
        namespace: str,
        nodes: tuple[str, ...],
        observer: PodObserver,
    ) -> None:
        """Take all that as it is."""
        self.plane = plane
        self.api = api
        self.namespace = namespace
        self.nodes = nodes
        self.observer = observer

    # --- doing --------------------------------------------------------------------------------------------------------

    async def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl in the namespace."""
        return await self.plane.kubectl("-n", self.namespace, *args, stdin=stdin)

    async def apply(self, name: str = AGENT, *, image: str = OLD, **parts: Any) -> None:
        """Apply a set with kubectl; `parts` are those of `daemonset_manifest`."""
        manifest = daemonset_manifest(name, self.namespace, image=image, **parts)
        await self.kubectl("apply", "-f", "-", stdin=manifest)

    async def label(self, nodes: Iterable[str], label: str) -> None:
        """Label nodes: `key=value`, or `key-` to take it away."""
        await self.kubectl("label", "--overwrite", "node", *nodes, label)

    # --- looking ------------------------------------------------------------------------------------------------------

    async def covered(
        self, nodes: Iterable[str] | None = None, *, name: str = AGENT, image: str = ""
    ) -> list[SeenPod]:
        """Wait until each of these nodes, all unless given, has one pod of a set, ready; and no other node."""
        wanted = self.nodes if nodes is None else nodes
        return await until_covered(self.plane, self.namespace, name, wanted, image=image)

    async def pods(self, name: str = "") -> list[SeenPod]:
        """The pods of the namespace that sets control; those of one set, if it is named."""
        return await pods_of(self.plane, self.namespace, name)

    async def read(self, resource: str, name: str = "") -> Json:
        """Read an object, or a list of them, from apps/v1."""
        path = f"/apis/apps/v1/namespaces/{self.namespace}/{resource}"
        return await self.api.get(f"{path}/{name}" if name else path)

    async def status(self, name: str = AGENT) -> Json:
        """The status of a set, once it is about what the set asks for now."""

        async def seen() -> Json | None:
            found = await self.read("daemonsets", name)
            status: Json = found.get("status", {})
            generation = found["metadata"]["generation"]
            return status if status.get("observedGeneration") == generation else None

        return await self.until("the set is observed", seen)

    async def until_status(self, name: str = AGENT, **counters: int) -> Json:
        """Wait until the status of a set shows these counters."""

        async def shown() -> Json | None:
            status = await self.status(name)
            return status if counters == {key: status.get(key, 0) for key in counters} else None

        return await self.until(f"the status of {name} is {counters}", shown)

    async def until(self, what: str, look: Callable[[], Awaitable[T | None]]) -> T:
        """Look until there is something to be seen, and return it."""
        try:
            async with asyncio.timeout(WAIT_S):
                while not (found := await look()):  # noqa: ASYNC110 - it is in another process
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise AssertionError(f"in {WAIT_S:.0f} s it did not come about that {what}") from None
        return found

    async def until_gone(self, name: str = "") -> None:
        """Wait until there are no pods, of any set or of one."""

        async def gone() -> bool:
            return not await self.pods(name)

        await self.until("there are no pods", gone)

    async def revisions(self) -> dict[int, str]:
        """The ControllerRevisions of the namespace: the label of their pods, by number."""
        listed = await self.read("controllerrevisions")
        return {
            int(each["revision"]): each["metadata"]["labels"][REVISION_LABEL]
            for each in listed["items"]
        }

    async def status_patch(self, pod: SeenPod, status: Mapping[str, Any]) -> None:
        """Write the status of a pod, as its kubelet would."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod.name}/status"
        await self.api.patch(path, {"status": status})


@contextlib.asynccontextmanager
async def site(plane: ControlPlane, nodes: int, *, surge: bool = False) -> AsyncIterator[Site]:
    """A namespace and nodes of one's own, watched; at the end it is judged that no promise was broken (S1)."""
    async with (
        plane.api() as api,
        plane.own_nodes(nodes) as own,
        plane.namespace("e2e") as namespace,
        PodObserver(plane, surge=surge) as observer,
    ):
        yield Site(plane, api, namespace, own.names, observer)
        assert [] == observer.breaches


def by_node(pods: Iterable[SeenPod]) -> dict[str, str]:
    """The uids of pods, by node."""
    return {pod.node: pod.uid for pod in pods}


def hashes(pods: Iterable[SeenPod]) -> set[str]:
    """Which revisions pods are of, by their label."""
    return {pod.labels[REVISION_LABEL] for pod in pods}


def merge_patch(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments with which `kubectl patch` makes these changes."""
    return ("--type=merge", "-p", json.dumps(changes))
