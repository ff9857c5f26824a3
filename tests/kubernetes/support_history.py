"""What really happened to the pods of a namespace: every change of them, in order, read from etcd.

Used by the tests of faults. `PodObserver` watches the API server, as users do, and cannot know what came and went while
the API server was away. etcd keeps every revision until it is compacted, so this one misses nothing: its watch goes on
where it ended. The API server must store JSON (`STORES_JSON`).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Self

import aiohttp
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_fleet import SeenPod, seen_pod

STORES_JSON = ("--storage-media-type=application/json",)
RETRY_SECONDS = 0.1
LINE_BYTES_MAX = 16 * 1024**2


class PodHistory:
    """All that happens to the pods of one namespace while it is entered; an async context manager.

    Args:
        plane: The control plane; its API server stores JSON.
        namespace: Whose pods.
    """

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        """Know nothing yet."""
        self.pods: dict[str, SeenPod] = {}
        """The pods that there are, by name."""
        self.made: list[SeenPod] = []
        """Every pod that somebody controls, as it was when it was made, in order."""
        self.ended: dict[str, SeenPod] = {}
        """Every such pod that is gone or on its way out, by uid."""
        self.breaches: list[str] = []
        """Each moment at which a node had two live pods of a set (S1)."""
        self.failure: BaseException | None = None
        self._etcd_url = plane.etcd_url
        self._prefix = f"/registry/pods/{namespace}/"
        self._next_revision = 0
        self._begun = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin; the namespace has no pods yet."""
        self._task = asyncio.create_task(self._follow())
        await self._begun.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def live(self, image: str = "") -> list[SeenPod]:
        """The live pods that somebody controls; those of one image, if it is given."""
        pods = self.pods.values()
        return [pod for pod in pods if pod.live and pod.owner and image in {"", pod.image}]

    async def _follow(self) -> None:
        """Watch etcd, and go on where that ended."""
        while True:
            try:
                async with aclosing(self._answers()) as answers:
                    async for answer in answers:
                        self._take(answer)
            except (aiohttp.ClientError, OSError):
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:
                self.failure = error
                raise

    async def _answers(self) -> AsyncGenerator[dict[str, Any]]:
        """What etcd answers to a watch, through its HTTP gateway: one JSON document in each line."""
        prefix = self._prefix.encode()
        request = {
            "key": base64.b64encode(prefix).decode(),
            "range_end": base64.b64encode(prefix[:-1] + bytes([prefix[-1] + 1])).decode(),
            "start_revision": self._next_revision,
        }
        timeout = aiohttp.ClientTimeout(total=None)
        async with (
            aiohttp.ClientSession(
                self._etcd_url, timeout=timeout, read_bufsize=LINE_BYTES_MAX
            ) as session,
            session.post("/v3/watch", json={"create_request": request}) as response,
        ):
            response.raise_for_status()
            async for line in response.content:
                answer = json.loads(line)
                if "error" in answer:
                    raise aiohttp.ClientError(str(answer["error"]))
                yield answer["result"]

    def _take(self, answer: dict[str, Any]) -> None:
        if answer.get("compact_revision"):
            raise RuntimeError(f"etcd was compacted past revision {self._next_revision}")
        if answer.get("created"):
            self._next_revision = self._next_revision or int(answer["header"]["revision"]) + 1
            self._begun.set()
        for event in answer.get("events", ()):
            self._take_event(event)

    def _take_event(self, event: dict[str, Any]) -> None:
        """Take in one revision of one pod."""
        entry = event["kv"]
        self._next_revision = int(entry["mod_revision"]) + 1
        name = base64.b64decode(entry["key"]).decode().removeprefix(self._prefix)
        before = self.pods.get(name)
        if event.get("type") == "DELETE":
            if before is not None:
                self.ended.setdefault(before.uid, before)
                del self.pods[name]
            return
        pod = self.pods[name] = seen_pod(json.loads(base64.b64decode(entry["value"])))
        if not pod.owner:
            return
        if before is None:
            self.made.append(pod)
        if pod.deleting:
            self.ended.setdefault(pod.uid, pod)
        self._judge(pod)

    def _judge(self, pod: SeenPod) -> None:
        """Find two live pods of one set on one node."""
        place = (pod.owner_uid, pod.node)
        live = [each.name for each in self.live() if (each.owner_uid, each.node) == place]
        if pod.live and len(live) > 1:
            names = " and ".join(sorted(live))
            revision = self._next_revision - 1
            self.breaches.append(f"S1: {names} are both live on {pod.node}, revision {revision}")
