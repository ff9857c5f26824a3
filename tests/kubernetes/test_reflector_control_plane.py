"""The reflector and a real API server, which is killed, cut off and compacted behind its back.

However it went, what it said adds up to what is there, and no object ever went back.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from tests.kubernetes.conftest import StartControlPlane
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_proxy import TcpProxy

from everynode.errors import EverynodeError
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.client import Access, ApiServer
from everynode_kubernetes.reflector import (
    Begun,
    Changed,
    Ended,
    Present,
    ReflectLimits,
    Resource,
    Unreadable,
    reflect,
)

LIMITS = ReflectLimits(page_items_max=3, retry_first_ms=10, retry_last_ms=200)
WAIT_SECONDS_MAX = 30
NAMES = [f"object-{number}" for number in range(8)]
MERGE = "application/merge-patch+json"


class Item(NamedTuple):
    """What is kept of an object."""

    name: str
    uid: str
    resource_version: int
    data: dict[str, str]


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    uid: str
    resource_version: str


class _Document(msgspec.Struct):
    metadata: _Metadata
    data: dict[str, str] = {}


def parse(raw: bytes | msgspec.Raw) -> Item:
    """Read a ConfigMap."""
    document = msgspec.json.decode(raw, type=_Document)
    metadata = document.metadata
    return Item(metadata.name, metadata.uid, int(metadata.resource_version), document.data)


class Mirror:
    """What is there, by what the reflector says; it notices when an object goes back."""

    def __init__(self) -> None:
        """Nothing was said yet."""
        self.items: dict[str, Item] = {}
        self.lists = 0
        self.unreadable: list[Unreadable] = []
        self._listed: dict[str, Item] = {}
        self._newest: dict[str, int] = {}
        self._heard = asyncio.Event()

    async def follow(self, server: ApiServer, resource: Resource[Item]) -> None:
        """Listen for ever."""
        async with aclosing(reflect(server, resource, LIMITS)) as said:
            async for one in said:
                self._take(one)
                self._heard.set()

    def _take(self, one: object) -> None:
        match one:
            case Begun():
                self._listed = {}
            case Present(item):
                self._listed[item.name] = self._newer(item)
            case Ended():
                self.items = self._listed
                self.lists += 1
            case Changed("DELETED", item):
                del self.items[self._newer(item).name]
            case Changed(_, item):
                self.items[item.name] = self._newer(item)
            case Unreadable():
                self.unreadable.append(one)

    def _newer(self, item: Item) -> Item:
        """An object of one identity never goes back."""
        assert item.resource_version >= self._newest.get(item.uid, 0)
        self._newest[item.uid] = item.resource_version
        return item

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until what was said adds up."""
        async with asyncio.timeout(WAIT_SECONDS_MAX):
            while not holds():
                self._heard.clear()
                await self._heard.wait()


@asynccontextmanager
async def mirrored(
    kubeconfig: Path, resource: Resource[Item], **access: Any
) -> AsyncIterator[Mirror]:
    """A mirror that follows a resource."""
    server = await ApiServer.connect(Access(kubeconfig=kubeconfig, **access))
    mirror = Mirror()
    following = asyncio.create_task(mirror.follow(server, resource))
    try:
        waiting = asyncio.create_task(mirror.until(lambda: mirror.lists > 0))
        await asyncio.wait({following, waiting}, return_when=asyncio.FIRST_COMPLETED)
        yield mirror
        assert not following.done() or following.exception()
    finally:
        following.cancel()
        await asyncio.wait({following})
        await server.close()
    if not following.cancelled():
        following.result()


class Truth:
    """What is really there, changed and read without a detour."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        """ConfigMaps of one namespace."""
        self.server = server
        self.path = f"/api/v1/namespaces/{namespace}/configmaps"
        self.resource = Resource(self.path, parse, {"labelSelector": "mirrored=yes"})

    async def put(self, name: str, **data: str) -> None:
        """Make one, or change it."""
        metadata = {"name": name, "labels": {"mirrored": "yes"}}
        body = json.dumps({"metadata": metadata, "data": data}).encode()
        try:
            await self.server.create(self.path, body)
        except Refusal:
            await self.server.patch(f"{self.path}/{name}", body, MERGE)

    async def remove(self, name: str) -> None:
        """Delete one, if it is there."""
        try:
            await self.server.delete(f"{self.path}/{name}", b"{}")
        except Refusal as refusal:
            if not refusal.is_not_found:
                raise

    async def items(self) -> Mapping[str, Item]:
        """What is there."""
        body = await self.server.get(self.path, {"labelSelector": "mirrored=yes"})
        read = [parse(raw) for raw in msgspec.json.decode(body, type=_List).items]
        return {item.name: item for item in read}

    async def change_something(self, choice: random.Random, number: int) -> None:
        """Make, change or delete one of a few."""
        name = choice.choice(NAMES)
        if choice.random() < 0.3:
            await self.remove(name)
        else:
            await self.put(name, number=str(number))


class _List(msgspec.Struct):
    items: list[msgspec.Raw]


@asynccontextmanager
async def truth_of(plane: ControlPlane, namespace: str) -> AsyncIterator[Truth]:
    """What is really there."""
    server = await ApiServer.connect(Access(kubeconfig=plane.kubeconfig))
    try:
        yield Truth(server, namespace)
    finally:
        await server.close()


@pytest.fixture
async def truth(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Truth]:
    """What is really there in the test's namespace."""
    async with truth_of(control_plane, namespace) as one:
        yield one


async def test_a_list_and_what_follows(control_plane: ControlPlane, truth: Truth) -> None:
    """What is there, in pages, then what is made, changed and deleted."""
    for name in NAMES:
        await truth.put(name)

    async with mirrored(control_plane.kubeconfig, truth.resource) as mirror:
        assert await truth.items() == mirror.items
        for number in range(100):
            await truth.change_something(random.Random(number), number)
        actual = await truth.items()
        await mirror.until(lambda: mirror.items == actual)

    assert 1 == mirror.lists


async def test_cut_at_random_moments(control_plane: ControlPlane, truth: Truth) -> None:
    """S8, L1: connections that are cut at any moment lose no change, repeat none, and take nothing back."""
    choice = random.Random(7)
    async with TcpProxy(control_plane.server_url) as proxy:
        kubeconfig = control_plane.kubeconfig_for("me", ["system:masters"], server=proxy.url)
        async with mirrored(kubeconfig, truth.resource) as mirror:
            cuts = 0
            for number in range(300):
                await truth.change_something(choice, number)
                if choice.random() < 0.1:
                    cuts += await proxy.cut()
            actual = await truth.items()
            await mirror.until(lambda: mirror.items == actual)

    assert cuts > 5
    assert 1 == mirror.lists


async def test_silence(control_plane: ControlPlane, truth: Truth) -> None:
    """A connection that died without a word is noticed, and what happened meanwhile is heard."""
    async with TcpProxy(control_plane.server_url) as proxy:
        kubeconfig = control_plane.kubeconfig_for("me", ["system:masters"], server=proxy.url)
        patience = {"watch_silence_ms": 300, "request_timeout_ms": 300, "connect_timeout_ms": 300}
        async with mirrored(kubeconfig, truth.resource, **patience) as mirror:
            proxy.fall_silent()
            await truth.put("unheard")
            await proxy.cut()  # those who come back are met with silence
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                while proxy.accepted_count < 4:  # noqa: ASYNC110 - the proxy has no event for it
                    await asyncio.sleep(0.05)
            assert {} == mirror.items
            proxy.speak()
            await mirror.until(lambda: "unheard" in mirror.items)


async def test_an_object_that_is_too_deep(control_plane: ControlPlane, namespace: str) -> None:
    """S8, L3: somebody's document that is nested 5,000 deep hides neither the list nor the watch."""
    path = f"/apis/apps/v1/namespaces/{namespace}/controllerrevisions"
    async with truth_of(control_plane, namespace) as truth:

        async def create(name: str, depth: int) -> None:
            data = msgspec.Raw(b'{"a":' * depth + b"1" + b"}" * depth)
            body = {"metadata": {"name": name}, "revision": 1, "data": data}
            await truth.server.create(path, msgspec.json.encode(body))

        await create("deep-listed", 5_000)
        await create("plain-listed", 1)
        resource = Resource(path, parse_without_data)
        async with mirrored(control_plane.kubeconfig, resource) as mirror:
            await create("deep-watched", 5_000)
            await create("plain-watched", 1)
            await mirror.until(lambda: "plain-watched" in mirror.items)

    assert {"plain-listed", "plain-watched"} == set(mirror.items)
    assert ["deep-listed", "deep-watched"] == [one.name for one in mirror.unreadable]


def parse_without_data(raw: msgspec.Raw) -> Item:
    """Read a ControllerRevision; reading its data takes recursion."""
    document = msgspec.json.decode(raw, type=_Revision)
    metadata = document.metadata
    return Item(metadata.name, metadata.uid, int(metadata.resource_version), {})


class _Revision(msgspec.Struct):
    metadata: _Metadata
    data: msgspec.Raw


async def test_the_first_list_fails(control_plane: ControlPlane, truth: Truth) -> None:
    """Who may not list is told so."""
    kubeconfig = control_plane.kubeconfig_for("nobody-in-particular")
    server = await ApiServer.connect(Access(kubeconfig=kubeconfig))

    with pytest.raises(Refusal) as caught:
        await anext(reflect(server, truth.resource))

    assert caught.value.is_forbidden
    await server.close()


@pytest.mark.slow
async def test_the_api_server_is_killed(start_control_plane: StartControlPlane) -> None:
    """L1: an API server that is killed again and again, and etcd too: the end is what is there."""
    async with (
        start_control_plane(kwok=False) as plane,
        truth_of(plane, "default") as truth,
        mirrored(plane.kubeconfig, truth.resource) as mirror,
    ):
        for round_ in range(3):
            writing = asyncio.create_task(write_blindly(truth, round_))
            await mirror.until(lambda: bool(mirror.items))
            await plane.stop_api_server()
            if round_ == 1:
                await plane.restart_etcd()
            await plane.start_api_server()
            await writing
            await truth.put(f"after-{round_}")
            actual = await truth.items()
            await mirror.until(lambda expected=actual: mirror.items == expected)  # type: ignore[misc] # bound now


async def write_blindly(truth: Truth, seed: int) -> None:
    """Change things whether or not anybody is there."""
    choice = random.Random(seed)
    for number in range(100):
        try:
            await truth.change_something(choice, number)
        except EverynodeError:
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_compacted_while_cut_off(start_control_plane: StartControlPlane) -> None:
    """L1: what happened while it was cut off is compacted away (410): a new list says what is there."""
    async with (
        start_control_plane(kwok=False, apiserver_args=("--watch-cache=false",)) as plane,
        truth_of(plane, "default") as truth,
        TcpProxy(plane.server_url) as proxy,
    ):
        for name in NAMES:
            await truth.put(name)
        kubeconfig = plane.kubeconfig_for("me", ["system:masters"], server=proxy.url)
        async with mirrored(kubeconfig, truth.resource) as mirror:
            proxy.refuse()
            await proxy.cut()
            await truth.remove(NAMES[0])
            await truth.put(NAMES[1], changed="yes")
            await plane.compact_etcd()
            await truth.put("new")
            await proxy.accept()
            actual = await truth.items()
            await mirror.until(lambda: mirror.items == actual)

    assert 2 == mirror.lists
