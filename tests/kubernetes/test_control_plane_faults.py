"""The faults that tests of the adapter provoke, shown on the control plane alone: what they look like to a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import aiohttp
import pytest
import pytest_asyncio
from tests.kubernetes.conftest import StartControlPlane
from tests.kubernetes.support_api import Api, ApiError, Json
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_proxy import TcpProxy
from tests.kubernetes.support_storm import StormProxy

NO_WATCH_CACHE = ("--watch-cache=false",)
EVENT_SECONDS_MAX = 30


class Secrets:
    """The objects that these tests write, because no controller makes or minds any."""

    def __init__(self, api: Api, namespace: str) -> None:
        """Write nothing yet."""
        self._api = api
        self.path = f"/api/v1/namespaces/{namespace}/secrets"

    async def write(self, *names: str) -> None:
        """Create some."""
        for name in names:
            await self._api.create(self.path, {"metadata": {"name": name}})

    async def version(self) -> str:
        """The resourceVersion of now."""
        version: str = (await self._api.get(self.path))["metadata"]["resourceVersion"]
        return version

    async def page(self, token: str = "") -> Json:
        """A page of one."""
        return await self._api.get(self.path, limit=1, **({"continue": token} if token else {}))

    async def first_event(self, version: str) -> Json:
        """The first event of a watch from some resourceVersion on."""
        async with (
            asyncio.timeout(EVENT_SECONDS_MAX),
            aclosing(self._api.watch(self.path, resourceVersion=version)) as events,
        ):
            return await anext(events)


@pytest_asyncio.fixture
async def storm(control_plane: ControlPlane) -> AsyncIterator[StormProxy]:
    """A proxy in front of the shared control plane that answers itself when it is told to."""
    async with StormProxy(control_plane) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def stormy(
    control_plane: ControlPlane, namespace: str, storm: StormProxy
) -> AsyncIterator[Secrets]:
    """Secrets that are written through that proxy, by somebody with a token who may do so."""
    allow = ("create", "rolebinding", "editor", "-n", namespace, "--clusterrole=edit")
    await control_plane.kubectl(*allow, f"--serviceaccount={namespace}:default")
    token = await control_plane.token_for("default", namespace)
    identity = control_plane.identity("", server=storm.url, token=token)
    async with control_plane.api(identity) as api:
        yield Secrets(api, namespace)


# --- 410 ------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_410_by_restart(start_control_plane: StartControlPlane) -> None:
    """A watch from before is served in spite of a compaction, and 410 when the API server was restarted."""
    async with start_control_plane(kwok=False) as plane, plane.api() as api:
        secrets = Secrets(api, "default")
        before = await secrets.version()
        await secrets.write("a", "b")
        token = (await secrets.page())["metadata"]["continue"]
        await secrets.write("c")
        await plane.compact_etcd()
        assert "a" == (await secrets.first_event(before))["object"]["metadata"]["name"]
        assert "b" == (await secrets.page(token))["items"][0]["metadata"]["name"]
        await plane.stop_api_server()
        await plane.start_api_server()
        gone = await secrets.first_event(before)
        assert ("ERROR", 410) == (gone["type"], gone["object"]["code"])
        with pytest.raises(ApiError) as expired:
            await secrets.page(token)
        assert 410 == expired.value.status


@pytest.mark.slow
async def test_410_by_compaction(start_control_plane: StartControlPlane) -> None:
    """Without a watch cache, a compaction alone makes old watches and old continue tokens 410."""
    async with (
        start_control_plane(kwok=False, apiserver_args=NO_WATCH_CACHE) as plane,
        plane.api() as api,
    ):
        secrets = Secrets(api, "default")
        before = await secrets.version()
        await secrets.write("a", "b")
        token = (await secrets.page())["metadata"]["continue"]
        await secrets.write("c")
        assert "a" == (await secrets.first_event(before))["object"]["metadata"]["name"]
        await plane.compact_etcd()
        gone = await secrets.first_event(before)
        assert ("ERROR", 410) == (gone["type"], gone["object"]["code"])
        with pytest.raises(ApiError) as expired:
            await secrets.page(token)
        assert 410 == expired.value.status


# --- servers that come and go ---------------------------------------------------------------------


@pytest.mark.slow
async def test_the_plane_works_again_after_its_servers_were_killed(
    start_control_plane: StartControlPlane,
) -> None:
    """Nothing is lost when etcd and the API server are killed, and the other programs find them again."""
    async with (
        start_control_plane(nodes=3) as plane,
        plane.namespace() as namespace,
        plane.api() as api,
    ):
        secrets = Secrets(api, namespace)
        await secrets.write("before")
        await plane.restart_etcd()
        await plane.stop_api_server()
        with pytest.raises(aiohttp.ClientError):
            await secrets.version()
        await plane.start_api_server()
        assert "before" in await plane.kubectl("get", "secrets", "-n", namespace)
        image = "--image=example.invalid/agent:1"
        await plane.kubectl("create", "deployment", "agent", "-n", namespace, image)
        await plane.kubectl("rollout", "status", "-n", namespace, "deployment/agent")


# --- the TCP proxy --------------------------------------------------------------------------------


async def test_a_cut_ends_a_watch_and_refusal_keeps_it_out(
    control_plane: ControlPlane, namespace: str
) -> None:
    """A watch through the proxy works, breaks when it is cut, and works again when the proxy accepts again."""
    async with TcpProxy(control_plane.server_url) as proxy:
        me = control_plane.identity("proxied", ["system:masters"], server=proxy.url)
        async with control_plane.api(me) as api:
            secrets = Secrets(api, namespace)
            version = await secrets.version()
            async with aclosing(api.watch(secrets.path, resourceVersion=version)) as events:
                await secrets.write("one")
                assert "one" == (await anext(events))["object"]["metadata"]["name"]
                proxy.refuse()
                assert 0 < await proxy.cut()
                with pytest.raises(aiohttp.ClientError):
                    await anext(events)
            assert 0 == proxy.open_count
            with pytest.raises(aiohttp.ClientError):
                await secrets.version()
            await proxy.accept()
            assert "one" == (await secrets.first_event(version))["object"]["metadata"]["name"]


async def test_a_silent_proxy_holds_back_and_loses_nothing(
    control_plane: ControlPlane, namespace: str
) -> None:
    """While the proxy is silent a watch hears nothing, and everything afterwards; kubectl goes through it, too."""
    async with TcpProxy(control_plane.server_url) as proxy, control_plane.api() as direct:
        kubeconfig = control_plane.kubeconfig_for("proxied", ["system:masters"], server=proxy.url)
        get = ("get", "secrets", "-n", namespace, "-o", "name")
        proxy.delay_ms = 1
        assert "" == await control_plane.kubectl(*get, kubeconfig=kubeconfig)
        me = control_plane.identity("proxied", ["system:masters"], server=proxy.url)
        async with control_plane.api(me) as api:
            secrets = Secrets(api, namespace)
            version = await secrets.version()
            async with aclosing(api.watch(secrets.path, resourceVersion=version)) as events:
                await secrets.write("one")
                assert "one" == (await anext(events))["object"]["metadata"]["name"]
                proxy.fall_silent()
                await Secrets(direct, namespace).write("two")
                following = asyncio.ensure_future(anext(events))
                await until_held(proxy)
                assert not following.done()
                proxy.speak()
                assert "two" == (await following)["object"]["metadata"]["name"]


async def until_held(proxy: TcpProxy) -> None:
    """Wait until the proxy has something that it holds back."""
    async with asyncio.timeout(EVENT_SECONDS_MAX):
        while not proxy.held_count:  # noqa: ASYNC110 - a counter sets no event
            await asyncio.sleep(0.01)


# --- the HTTP proxy -------------------------------------------------------------------------------


async def test_a_storm_refuses_what_it_is_told_to(storm: StormProxy, stormy: Secrets) -> None:
    """So many writes are refused with 429 and Retry-After, reads are not, and nothing of them was done."""
    storm.refuse(429, retry_after_seconds=7, methods=["POST"], path_part="/secrets", count=2)
    for name in ("one", "two"):
        with pytest.raises(ApiError) as refused:
            await stormy.write(name)
        assert (429, "7") == (refused.value.status, refused.value.headers["Retry-After"])
        await stormy.version()
    await stormy.write("one", "two")
    fates = [request.fate for request in storm.received if request.method == "POST"]
    assert ["refused", "refused", "passed", "passed"] == fates
    storm.refuse(503, retry_after_seconds=None)
    with pytest.raises(ApiError) as unavailable:
        await stormy.version()
    assert 503 == unavailable.value.status
    storm.calm()
    await stormy.version()


async def test_a_lost_answer_leaves_the_outcome_unknown(storm: StormProxy, stormy: Secrets) -> None:
    """The client sees a broken connection, although the API server did what it was asked to."""
    storm.lose_answers(methods=["POST"], count=1)
    with pytest.raises(aiohttp.ClientError):
        await stormy.write("one")
    with pytest.raises(ApiError) as exists:
        await stormy.write("one")
    assert 409 == exists.value.status


async def test_a_watch_goes_through_the_http_proxy(storm: StormProxy, stormy: Secrets) -> None:
    """Events come as they happen, and the proxy does not wait for a watch when it goes."""
    version = await stormy.version()
    following = asyncio.ensure_future(stormy.first_event(version))
    await stormy.write("one")
    assert "one" == (await following)["object"]["metadata"]["name"]
    assert {"passed"} == {request.fate for request in storm.received}
