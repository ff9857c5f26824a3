"""Credentials of the connection to an API server: where they come from, and what becomes of them when they are refused.

A scripted server sees what is sent; exec plugins are real programs.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests.kubernetes.support_scripted_server import (
    ScriptedServer,
    answer,
    connected,
    refused,
    scripted_server,
)

from everynode.errors import ConfigurationError, UnavailableError
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.client import Access, ApiServer

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A server with an empty script."""
    async with scripted_server() as running:
        yield running


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the person who runs the tests: neither a kubeconfig nor a proxy."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("KUBE"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


async def read(api: ApiServer) -> bytes:
    """A request that changes nothing."""
    return await api.get(PODS)


async def create(api: ApiServer) -> bytes:
    """A write."""
    return await api.create(PODS, b"{}")


def exec_user(command: str, *arguments: str) -> dict[str, object]:
    """A user whose credentials come from a program."""
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": command,
            "args": list(arguments),
            "interactiveMode": "Never",
        }
    }


def counting_plugin(directory: Path) -> Path:
    """An exec plugin that gives another token each time: token-1, token-2, ..."""
    program = directory / "plugin.py"
    program.write_text(
        "import json, pathlib\n"
        f"count = pathlib.Path({str(directory / 'count')!r})\n"
        "number = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(number))\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1',\n"
        "    'kind': 'ExecCredential', 'status': {'token': f'token-{number}'}}))\n"
    )
    return program


class TestCredentials:
    """Who we say we are, and what happens when that is not believed any more."""

    @pytest.mark.parametrize(
        ("user", "expected"),
        [
            ({"token": "secret"}, "Bearer secret"),
            (
                {"username": "me", "password": "secret"},
                "Basic " + base64.b64encode(b"me:secret").decode(),
            ),
        ],
    )
    async def test_a_static_secret(
        self, user: dict[str, str], expected: str, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """A token or a password of the kubeconfig goes with each request."""
        server.then(answer(200))

        async with connected(server, tmp_path, user) as api:
            await read(api)

        assert expected == server.asked[0].headers["Authorization"]

    async def test_a_token_file_that_was_renewed(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """A refused token is read again, and the request is sent once more, even a write."""
        token = tmp_path / "token"
        token.write_text("old\n")
        server.then(answer(200), refused(401, "Unauthorized"), answer(201, b"made"))

        async with connected(server, tmp_path, {"tokenFile": str(token)}) as api:
            await read(api)
            token.write_text("new\n")
            assert b"made" == await create(api)

        assert ["Bearer old", "Bearer old", "Bearer new"] == [
            asked.headers["Authorization"] for asked in server.asked
        ]

    async def test_an_exec_plugin_is_asked_again(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """When its token is refused the plugin gives a new one, once for all requests that were refused."""
        user = exec_user(sys.executable, str(counting_plugin(tmp_path)))
        both_came = asyncio.Barrier(2)

        async def refuse_both(request: web.BaseRequest) -> web.StreamResponse:
            await both_came.wait()
            return await refused(401, "Unauthorized")(request)

        server.then(refuse_both, refuse_both, answer(200), answer(200))

        async with connected(server, tmp_path, user) as api:
            await asyncio.gather(read(api), read(api))

        assert ["Bearer token-1"] * 2 + ["Bearer token-2"] * 2 == [
            asked.headers["Authorization"] for asked in server.asked
        ]

    async def test_a_watch_is_begun_with_new_credentials(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """A watch whose token is refused is begun once more with a new one."""
        user = exec_user(sys.executable, str(counting_plugin(tmp_path)))
        server.then(refused(401, "Unauthorized"), server.watch(b"one\n"))

        async with connected(server, tmp_path, user) as api:
            assert [b"one"] == [line async for line in api.watch(PODS, 1)]

        assert "Bearer token-2" == server.asked[1].headers["Authorization"]

    async def test_refused_again(self, server: ScriptedServer, tmp_path: Path) -> None:
        """Credentials that stay refused are renewed once, not for ever; the message says what it is about."""
        user = exec_user(sys.executable, str(counting_plugin(tmp_path)))
        server.then(*[refused(401, "Unauthorized", "Unauthorized")] * 3)

        async with connected(server, tmp_path, user) as api:
            for _ in range(2):
                with pytest.raises(UnavailableError, match=r"401 Unauthorized.*credentials"):
                    await create(api)

        assert ["Bearer token-1", "Bearer token-2", "Bearer token-2"] == [
            asked.headers["Authorization"] for asked in server.asked
        ]

    async def test_others_go_on_while_credentials_are_renewed(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """A watch that was begun with the old credentials is not cut off by their renewal."""
        user = exec_user(sys.executable, str(counting_plugin(tmp_path)))
        begun, renewed = asyncio.Event(), asyncio.Event()

        async def patient(request: web.BaseRequest) -> web.StreamResponse:
            begun.set()
            await renewed.wait()
            return await server.watch(b"still here\n")(request)

        server.then(patient, refused(401, "Unauthorized"), answer(200))

        async with connected(server, tmp_path, user) as api:
            watch = api.watch(PODS, 1)
            first = asyncio.create_task(anext(watch))
            await begun.wait()
            old = api._session
            await read(api)
            assert not old.http.closed
            renewed.set()

            assert b"still here" == await first
            await watch.aclose()
            assert old.http.closed

    @pytest.mark.parametrize("renewing", [True, False])
    async def test_closed_while_old_and_new_are_in_use(
        self, server: ScriptedServer, tmp_path: Path, *, renewing: bool
    ) -> None:
        """Closing closes what older credentials still use, and what comes of a renewal that is under way."""
        user = exec_user(sys.executable, str(counting_plugin(tmp_path)))
        server.then(server.hang(), refused(401, "Unauthorized"))

        async with connected(server, tmp_path, user) as api:
            sessions = [api._session]
            under_way = [asyncio.create_task(read(api))]
            while not server.asked:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
            under_way.append(asyncio.create_task(read(api)))
            if renewing:
                while not api._renewing.locked():  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
            else:
                await server.idle.wait()
            await api.close()
            answers = await asyncio.gather(*under_way, return_exceptions=True)
            sessions.append(api._session)
            assert [True, True] == [session.http.closed for session in sessions]

        assert [UnavailableError] * 2 == [type(answered) for answered in answers]
        assert sessions[0] is not sessions[1]

    async def test_a_token_that_cannot_be_read_again(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """In a pod the token is read again now and then; if that fails nothing is sent, and it may pass."""

        def read_again(_: object) -> None:
            raise FileNotFoundError("token")

        async with connected(server, tmp_path, {"token": "old"}) as api:
            api._session.configuration.refresh_api_key_hook = read_again

            with pytest.raises(UnavailableError, match="cannot read the token"):
                await create(api)

        assert [] == server.asked

    async def test_a_plugin_that_fails_later(self, server: ScriptedServer, tmp_path: Path) -> None:
        """If new credentials cannot be had, the refusal stands, and passes when they can."""
        program = counting_plugin(tmp_path)
        server.then(refused(401, "Unauthorized"))

        async with connected(server, tmp_path, exec_user(sys.executable, str(program))) as api:
            program.write_text("raise SystemExit('the identity provider is away')")

            with pytest.raises(UnavailableError, match="401"):
                await read(api)


def document(**changes: Any) -> dict[str, Any]:
    """A kubeconfig that is right, but for the changes."""
    return {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [{"name": "here", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "me", "user": {"token": "s3cr3t"}}],
        **changes,
    }


def cluster(**content: Any) -> dict[str, Any]:
    """A kubeconfig whose cluster is this."""
    return document(clusters=[{"name": "here", "cluster": content}])


def user(**content: Any) -> dict[str, Any]:
    """A kubeconfig whose user is this."""
    return document(users=[{"name": "me", "user": content}])


async def opened(directory: Path, content: dict[str, Any], context: str = "") -> ApiServer:
    """A connection by this kubeconfig."""
    path = directory / "kubeconfig.yaml"
    path.write_text(json.dumps(content))
    return await ApiServer.connect(Access(kubeconfig=path, context=context))


SECURE = "https://127.0.0.1:1"

WRONG = {
    "empty": ("", ""),
    "no YAML": ("a: [", ""),
    "no mapping": ("[1, 2]", ""),
    "a page of HTML": ("<html></html>", ""),
    "no such context": (document(), "there"),
    "no current context": (document(**{"current-context": ""}), ""),
    "a current context that is not there": (document(**{"current-context": "there"}), ""),
    "no contexts": (document(contexts=None), ""),
    "contexts that are no list": (document(contexts={"here": {}}), ""),
    "a context without a cluster": (
        document(contexts=[{"name": "here", "context": {"cluster": "there"}}]),
        "",
    ),
    "a cluster without a server": (cluster(), ""),
    "a server that is no URL": (cluster(server="example.com:6443"), ""),
    "a server without a host": (cluster(server="https://"), ""),
    "a server of another kind": (cluster(server="ftp://example.com"), ""),
    "no such CA": (cluster(server=SECURE, **{"certificate-authority": "/none/ca.crt"}), ""),
    "a CA that is none": (cluster(server=SECURE, **{"certificate-authority-data": "aGVsbG8="}), ""),
    "no base64": (cluster(server=SECURE, **{"certificate-authority-data": "%%%%x"}), ""),
    "no such plugin": (user(exec={"apiVersion": "v1", "command": "/none/plugin"}), ""),
    "a plugin that fails": (user(exec={"apiVersion": "v1", "command": "false"}), ""),
    "a plugin that says nothing": (user(exec={"apiVersion": "v1", "command": "true"}), ""),
    "a plugin without a command": (user(exec={"apiVersion": "v1", "token": "s3cr3t"}), ""),
    "a user without its level": (document(users=[{"name": "me", "token": "s3cr3t"}]), ""),
    "users without a name": (document(users=[{"user": {"token": "s3cr3t"}}]), ""),
    "an unknown login": (user(**{"auth-provider": {"name": "oidc", "token": "s3cr3t"}}), ""),
}


class TestKubeconfig:
    """Which file, which context, and what is said if it cannot be used."""

    @pytest.mark.parametrize(("content", "context"), WRONG.values(), ids=WRONG.keys())
    async def test_a_wrong_file_is_named(
        self, content: str | dict[str, Any], context: str, tmp_path: Path
    ) -> None:
        """Whatever is wrong with a kubeconfig, the error names the file and the context, and tells no secret."""
        path = tmp_path / "kubeconfig.yaml"
        path.write_text(content if isinstance(content, str) else json.dumps(content))

        with pytest.raises(ConfigurationError) as caught:
            await ApiServer.connect(Access(kubeconfig=path, context=context))

        assert str(path) in str(caught.value)
        assert context in str(caught.value)
        assert "s3cr3t" not in str(caught.value)

    async def test_something_else_than_a_kubeconfig(self, tmp_path: Path) -> None:
        """What the library cannot make sense of is not explained in its terms."""
        path = tmp_path / "kubeconfig.yaml"
        path.write_text("<html></html>")

        with pytest.raises(
            ConfigurationError, match="it is no kubeconfig, or something is missing"
        ):
            await ApiServer.connect(Access(kubeconfig=path))

    async def test_no_such_file(self, tmp_path: Path) -> None:
        """A file that is not there is named, with what else could be done."""
        path = tmp_path / "none.yaml"

        with pytest.raises(ConfigurationError, match=f"{path}: there is no such file.*in-cluster"):
            await ApiServer.connect(Access(kubeconfig=path))

    async def test_the_context_decides(self, server: ScriptedServer, tmp_path: Path) -> None:
        """A context that is named is used instead of the current one."""
        contents = document(
            contexts=[
                {"name": "here", "context": {"cluster": "here", "user": "me"}},
                {"name": "there", "context": {"cluster": "there", "user": "me"}},
            ],
            clusters=[
                {"name": "here", "cluster": {"server": "http://127.0.0.1:1"}},
                {"name": "there", "cluster": {"server": server.address}},
            ],
        )
        api = await opened(tmp_path, contents, "there")

        assert server.address == api.address
        await api.close()

    async def test_the_default_places(
        self, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without a file it is those that KUBECONFIG names, merged; else ~/.kube/config; as with kubectl."""
        home = tmp_path / "home" / ".kube" / "config"
        home.parent.mkdir(parents=True)
        home.write_text(json.dumps(cluster(server="http://127.0.0.1:2")))
        from_home = await ApiServer.connect(Access())
        first, second = tmp_path / "first", tmp_path / "second"
        first.write_text(json.dumps(document(clusters=[])))
        second.write_text(json.dumps(cluster(server=server.address)))
        monkeypatch.setenv("KUBECONFIG", f"{first}:{tmp_path / 'none'}:{second}")
        from_environment = await ApiServer.connect(Access())

        addresses = [from_home.address, from_environment.address]

        assert ["http://127.0.0.1:2", server.address] == addresses
        await from_home.close()
        await from_environment.close()

    async def test_the_address_tells_no_secret(self, tmp_path: Path) -> None:
        """Credentials in the URL of a server are not shown."""
        api = await opened(tmp_path, cluster(server="http://me:s3cr3t@127.0.0.1:1/below"))

        assert "http://127.0.0.1:1/below" == api.address
        await api.close()

    async def test_outside_of_a_cluster(self) -> None:
        """In-cluster credentials are only to be had in a pod, and the error says that they were asked for."""
        with pytest.raises(ConfigurationError, match="in-cluster credentials cannot be used"):
            await ApiServer.connect(Access(in_cluster=True))

    @pytest.mark.parametrize(
        "settings",
        [
            {"in_cluster": True, "context": "here"},
            {"in_cluster": True, "kubeconfig": Path("here")},
            {"qps": -1},
            {"request_timeout_ms": 0},
            {"connect_timeout_ms": 0},
            {"watch_silence_ms": -5},
            {"connections_max": 0},
        ],
    )
    def test_settings_that_cannot_be_meant(self, settings: dict[str, Any]) -> None:
        """Settings that contradict each other, or are out of range, are refused by name."""
        with pytest.raises(ConfigurationError) as caught:
            Access(**settings)

        assert any(name.split("_", maxsplit=1)[0] in str(caught.value) for name in settings)


class TestProxy:
    """The way to the API server."""

    @pytest.mark.parametrize("where", ["kubeconfig", "environment"])
    async def test_through_a_proxy(
        self, where: str, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A proxy that the kubeconfig or the environment names is used."""
        settings = {"server": "http://kubernetes.invalid"}
        if where == "kubeconfig":
            settings["proxy-url"] = server.address
        else:
            monkeypatch.setenv("http_proxy", server.address)
        server.then(answer(200, b"through"))
        api = await opened(tmp_path, cluster(**settings))

        assert b"through" == await read(api)

        assert "kubernetes.invalid" == server.asked[0].headers["Host"]
        await api.close()

    async def test_not_through_a_proxy(
        self, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An address that NO_PROXY names is reached directly."""
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        server.then(answer(200, b"directly"))

        async with connected(server, tmp_path) as api:
            assert b"directly" == await read(api)

    @pytest.mark.parametrize("scheme", ["http", "https"])
    async def test_a_proxy_that_wants_to_know_who_asks(
        self, scheme: str, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """Credentials in the URL of a proxy are for the proxy, and shown nowhere else."""
        proxy = server.address.replace("//", "//me:s3cr3t@")
        settings = {"server": f"{scheme}://kubernetes.invalid", "proxy-url": proxy}
        server.then(answer(407))
        api = await opened(tmp_path, cluster(**settings))

        with pytest.raises(UnavailableError if scheme == "https" else Refusal) as caught:
            await create(api)

        login = "Basic " + base64.b64encode(b"me:s3cr3t").decode()
        assert login == server.asked[0].headers["Proxy-Authorization"]
        assert "s3cr3t" not in str(caught.value)
        await api.close()

    async def test_a_proxy_that_does_not_answer(self, tmp_path: Path) -> None:
        """A proxy that is away is no connection, and its credentials are not shown."""
        proxy = "http://me:s3cr3t@127.0.0.1:1"
        settings = {"server": "https://kubernetes.invalid", "proxy-url": proxy}
        api = await opened(tmp_path, cluster(**settings))

        with pytest.raises(UnavailableError, match="cannot connect") as caught:
            await create(api)

        assert "s3cr3t" not in str(caught.value)
        await api.close()
