"""Nodes that come, go, change and are made again under their names, and pods that people delete: from a seed.

Used by the tests of faults. What fails because a fault is on is tried another time: nobody minds which of it happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncGenerator

import aiohttp
from tests.kubernetes.support_api import Api, ApiError
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_history import PodHistory

LABEL = "test.everynode.dev/agent"
SELECTOR = {LABEL: "yes"}
"""Nodes that are to have a pod."""

PAUSE_SECONDS = (0.05, 0.4)
ATTEMPT_SECONDS_MAX = 10
CARE_SECONDS = 2
TOUCHED = "test.everynode.dev/touched"
NODES_MORE_MAX = 8
NODES_LESS_MAX = 5


class Churn:
    """What happens to a cluster while ``run`` runs.

    Args:
        plane: The control plane, which has no other nodes.
        history: The pods that people delete.
        seed: Decides everything that happens here.
    """

    def __init__(self, plane: ControlPlane, history: PodHistory, seed: int) -> None:
        """Do nothing yet."""
        self.deleted_pods: set[str] = set()
        """Uids of the pods that somebody deleted, or tried to."""
        self.removed_nodes: set[str] = set()
        """Names of the nodes that were removed, if only to be made again."""
        self.done = 0
        self._plane = plane
        self._history = history
        self._random = random.Random(seed)
        self._prefix = "churn"
        self._count_usual = 0
        self._next = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Let it go on during the block."""
        going = asyncio.create_task(self._run())
        try:
            yield
        finally:
            going.cancel()
            await asyncio.gather(going, return_exceptions=True)

    async def add_nodes(self, count: int) -> list[str]:
        """Add nodes that are to have a pod."""
        start, self._next = self._next, self._next + count
        return await self._plane.add_nodes(count, self._prefix, SELECTOR, start=start)

    async def remove_nodes(self, *names: str) -> None:
        """Remove nodes."""
        self.removed_nodes.update(names)
        await self._plane.remove_node(*names)

    async def make_again(self, name: str) -> None:
        """Put another node of the same name in a node's place, at once."""
        await self.remove_nodes(name)
        number = int(name.rpartition("-")[2])
        await self._plane.add_nodes(1, self._prefix, SELECTOR, start=number)

    async def delete_pod(self, name: str) -> None:
        """Delete a pod as people do."""
        pod = self._history.pods[name]
        self.deleted_pods.add(pod.uid)
        async with self._plane.api() as api:
            await api.delete(f"/api/v1/namespaces/{pod.namespace}/pods/{name}")

    @contextlib.asynccontextmanager
    async def kubelets_awake(self) -> AsyncGenerator[None]:
        """During the block do what kubelets and PodGC would do, and kwok does not, or not so soon.

        What kwok failed to do, as the API server answered with an error, it tries again when the object changes. Pods
        that were on their way out when their node went are left to PodGC, which takes a minute.
        """
        caring = asyncio.create_task(self._care())
        try:
            yield
        finally:
            caring.cancel()
            await asyncio.gather(caring, return_exceptions=True)

    async def _care(self) -> None:
        for number in itertools.count():
            await asyncio.sleep(CARE_SECONDS)
            with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError, OSError):
                async with self._plane.api() as api:
                    await self._wake(api, f"{number}")

    async def _wake(self, api: Api, number: str) -> None:
        nodes = await self._nodes(api)
        touch = {"metadata": {"annotations": {TOUCHED: number}}}
        for pod in [pod for pod in self._history.pods.values() if not pod.ready or pod.deleting]:
            path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
            with contextlib.suppress(ApiError):  # it has gone just now
                if pod.node in nodes:
                    await api.patch(path, touch)
                elif pod.deleting:
                    await api.delete(path, {"gracePeriodSeconds": 0})

    async def nodes(self) -> dict[str, bool]:
        """Which nodes there are, and whether they are to have a pod."""
        async with self._plane.api() as api:
            return await self._nodes(api)

    async def _nodes(self, api: Api) -> dict[str, bool]:
        listed = await api.get("/api/v1/nodes")
        metadata = [item["metadata"] for item in listed["items"]]
        return {one["name"]: one["labels"].get(LABEL) == "yes" for one in metadata}

    async def _run(self) -> None:
        self._count_usual = len(await self.nodes())
        while True:
            await asyncio.sleep(self._random.uniform(*PAUSE_SECONDS))
            happening = self._random.choice(
                (self._add, self._remove, self._make_again, self._relabel, self._delete_pod)
            )
            with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError, OSError):
                async with asyncio.timeout(ATTEMPT_SECONDS_MAX), self._plane.api() as api:
                    await happening(api)
                self.done += 1

    async def _add(self, api: Api) -> None:
        if len(await self._nodes(api)) < self._count_usual + NODES_MORE_MAX:
            await self.add_nodes(1)

    async def _remove(self, api: Api) -> None:
        nodes = await self._nodes(api)
        if len(nodes) > self._count_usual - NODES_LESS_MAX:
            await self.remove_nodes(self._random.choice(sorted(nodes)))

    async def _make_again(self, api: Api) -> None:
        await self.make_again(self._random.choice(sorted(await self._nodes(api))))

    async def _relabel(self, api: Api) -> None:
        """A node that is to have no pod any more, or is to have one again."""
        nodes = await self._nodes(api)
        name = self._random.choice(sorted(nodes))
        label = None if nodes[name] else "yes"
        await api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": {LABEL: label}}})

    async def _delete_pod(self, _: Api) -> None:
        live = sorted(pod.name for pod in self._history.live())
        if live:
            await self.delete_pod(self._random.choice(live))
