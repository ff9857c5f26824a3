"""A resource that only tests have, and what a reflector says of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import msgspec
from tests.kubernetes.support_scripted_server import ScriptedServer, event, keep_all, thing

from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.reflector import (
    Begun,
    Changed,
    Ended,
    Present,
    ReflectLimits,
    Resource,
    Said,
    Unreadable,
    reflect,
)

THINGS = "/apis/example.com/v1/things"
LIMITS = ReflectLimits(retry_first_ms=100, retry_last_ms=1_000, stale_lists_max=3)


class ThingMetadata(msgspec.Struct, rename="camel"):
    """Its metadata."""

    name: str
    uid: str
    resource_version: str


class Thing(msgspec.Struct):
    """An object whose size must be a number."""

    metadata: ThingMetadata
    size: int

    @property
    def resource_version(self) -> int:
        """As a number."""
        return int(self.metadata.resource_version)

    @property
    def uid(self) -> str:
        """The identity."""
        return self.metadata.uid


def parse(raw: msgspec.Raw) -> Thing:
    """Read one."""
    return msgspec.json.decode(raw, type=Thing)


RESOURCE = Resource(THINGS, parse, {"labelSelector": "a=b"})


class Waits:
    """Keeps how long was to be waited, and does not wait."""

    def __init__(self) -> None:
        """Nothing was waited for yet."""
        self.ms: list[int] = []

    async def __call__(self, duration_ms: int) -> None:
        """Wait not at all, but let others run."""
        self.ms.append(duration_ms)
        await asyncio.sleep(0)


def brief(said: Said[Thing]) -> str:
    """What was said, in a word."""
    match said:
        case Begun():
            return "begun"
        case Ended():
            return "ended"
        case Present(item):
            return f"has {item.metadata.name}@{item.resource_version}"
        case Changed(kind, item):
            return f"{kind} {item.metadata.name}@{item.resource_version}"
        case Unreadable(namespace, name, uid):
            return f"unreadable {namespace}/{name} {uid}"


async def heard(
    server: ScriptedServer, api: ApiServer, waits: Waits, limits: ReflectLimits = LIMITS
) -> list[str]:
    """Everything that is said until the script is at its end and a request stays unanswered."""
    said: list[Said[Thing]] = []
    ended = asyncio.create_task(server.idle.wait())

    async def listen() -> None:
        async with aclosing(reflect(api, RESOURCE, limits, waits)) as saying:
            await keep_all(saying, said)

    listening = asyncio.create_task(listen())
    await asyncio.wait({ended, listening}, return_when=asyncio.FIRST_COMPLETED, timeout=30)
    assert listening.done() or ended.done(), said
    if not listening.done():
        listening.cancel()
        await asyncio.wait({listening})
    else:
        ended.cancel()
        await listening
    return [brief(one) for one in said]


def added(name: str, version: int, **more: Any) -> bytes:
    """A line of a watch."""
    return event("ADDED", thing(name, version, **more))


def modified(name: str, version: int, **more: Any) -> bytes:
    """A line of a watch."""
    return event("MODIFIED", thing(name, version, **more))


def deleted(name: str, version: int, **more: Any) -> bytes:
    """A line of a watch."""
    return event("DELETED", thing(name, version, **more))


def watched_from(server: ScriptedServer) -> list[str]:
    """From which versions watches were asked for; ``list`` where it was a list."""
    return [
        asked.params["resourceVersion"] if "watch" in asked.params else "list"
        for asked in server.asked
    ]
