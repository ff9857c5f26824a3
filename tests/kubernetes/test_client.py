"""The connection to an API server: what each way of failing means, and who we say we are.

Against a scripted server: a healthy API server does few of these things. What a real one does is in
``test_client_control_plane.py``.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.kubernetes.support_scripted_server import (
    Answer,
    ScriptedServer,
    answer,
    connected,
    cut_off,
    cut_off_in_body,
    keep_all,
    page,
    refused,
    scripted_server,
)

from everynode.errors import EverynodeError, OutcomeUnknownError, UnavailableError
from everynode_kubernetes import client
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.client import ApiServer

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A server with an empty script."""
    async with scripted_server() as running:
        yield running


@pytest.fixture
async def api(server: ScriptedServer, tmp_path: Path) -> AsyncIterator[ApiServer]:
    """A connection to it."""
    async with connected(server, tmp_path) as connection:
        yield connection


Request = Callable[[ApiServer], Awaitable[bytes]]


async def read(api: ApiServer) -> bytes:
    """A request that changes nothing."""
    return await api.get(PODS)


async def create(api: ApiServer) -> bytes:
    """A write."""
    return await api.create(PODS, b"{}")


async def patch(api: ApiServer) -> bytes:
    """A write."""
    return await api.patch(f"{PODS}/a", b"{}", "application/merge-patch+json")


async def delete(api: ApiServer) -> bytes:
    """A write."""
    return await api.delete(f"{PODS}/a", b"{}")


WRITES = (create, patch, delete)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TestRequests:
    """What goes over the wire."""

    async def test_each_verb(self, server: ScriptedServer, api: ApiServer) -> None:
        """Each method sends its verb, path, query and body as they were given, and returns the body as it came."""
        server.then(*[answer(200, b'{"raw": [1,2]}')] * 4)
        body = b'{"spec" : "\xc3\xa4"}'
        strategic = "application/strategic-merge-patch+json"

        got = await api.get(PODS, {"fieldSelector": "spec.nodeName=a+b"})
        made = await api.create(PODS, body, {"dryRun": "All"})
        patched = await api.patch(f"{PODS}/a", body, strategic, {"fieldManager": "everynode"})
        deleted = await api.delete(f"{PODS}/a", body)

        assert [b'{"raw": [1,2]}'] * 4 == [got, made, patched, deleted]
        assert [
            ("GET", PODS, {"fieldSelector": "spec.nodeName=a+b"}, b"", None),
            ("POST", PODS, {"dryRun": "All"}, body, "application/json"),
            ("PATCH", f"{PODS}/a", {"fieldManager": "everynode"}, body, strategic),
            ("DELETE", f"{PODS}/a", {}, body, "application/json"),
        ] == [
            (asked.verb, asked.path, asked.params, asked.body, asked.headers.get("Content-Type"))
            for asked in server.asked
        ]

    async def test_headers(self, server: ScriptedServer, api: ApiServer) -> None:
        """We say who we are, want JSON, and no compression."""
        server.then(answer(200))

        await api.get(PODS)

        headers = server.asked[0].headers
        assert "application/json" == headers["Accept"]
        assert "identity" == headers["Accept-Encoding"]
        assert headers["User-Agent"].startswith("everynode/")
        assert "Authorization" not in headers

    async def test_a_server_below_a_path(self, server: ScriptedServer, tmp_path: Path) -> None:
        """A cluster behind a gateway has a path of its own in front of each request's path."""
        server.address += "/k8s/clusters/one"
        server.then(answer(200))

        async with connected(server, tmp_path) as api:
            await api.get("/version")

        assert "/k8s/clusters/one/version" == server.asked[0].path

    async def test_no_redirect_is_followed(self, server: ScriptedServer, api: ApiServer) -> None:
        """A redirect is refused: a token does not travel to where a server points."""
        server.then(answer(302, headers={"Location": f"{server.address}/elsewhere"}))

        with pytest.raises(Refusal) as caught:
            await api.get(PODS)

        assert 302 == caught.value.code
        assert 1 == len(server.asked)

    async def test_the_pace_is_kept(self, server: ScriptedServer, tmp_path: Path) -> None:
        """B1: with --qps no more requests are begun than twice that at once, and then that many in a second."""
        server.then(*[answer(200)] * 15)

        async with connected(server, tmp_path, qps=5) as api:
            begun_s = time.monotonic()
            await asyncio.gather(*(api.get(PODS) for _ in range(15)))
            took_s = time.monotonic() - begun_s

        # Never less than that; how much more depends on the machine.
        assert took_s >= 1.0
        assert 15 == len(server.asked)

    async def test_connections_are_limited(self, server: ScriptedServer, tmp_path: Path) -> None:
        """B1: no more connections than agreed; what waits in vain for a free one has not been sent."""
        async with connected(server, tmp_path, connections_max=1, connect_timeout_ms=100) as api:
            first = asyncio.create_task(create(api))
            await server.idle.wait()

            with pytest.raises(UnavailableError, match="cannot connect"):
                await create(api)

            assert 1 == len(server.asked)
            first.cancel()
            await asyncio.wait({first})


class TestFailures:
    """What a failure means: whether it may have happened."""

    @pytest.mark.parametrize("request_", [read, *WRITES])
    async def test_nobody_listens(self, request_: Request, tmp_path: Path) -> None:
        """No connection, so nothing happened, whatever it was."""
        server = ScriptedServer()
        server.address = f"http://127.0.0.1:{free_port()}"

        async with connected(server, tmp_path) as api:
            with pytest.raises(UnavailableError, match=f"cannot connect to {server.address}"):
                await request_(api)

    async def test_no_such_host(self, tmp_path: Path) -> None:
        """A name that does not resolve is an address that does not answer."""
        server = ScriptedServer()
        server.address = "http://nobody.invalid:1"

        async with connected(server, tmp_path) as api:
            with pytest.raises(UnavailableError, match=r"cannot connect to http://nobody\.invalid"):
                await create(api)

    @pytest.mark.parametrize("broken", [cut_off, cut_off_in_body], ids=["head", "body"])
    async def test_the_connection_breaks(
        self, broken: Callable[[], Answer], server: ScriptedServer, api: ApiServer
    ) -> None:
        """A write whose answer is lost may have happened; what was only to be read can be read again."""
        for request in WRITES:
            # A delete is sent once more by the HTTP library if the connection is cut at once.
            server.then(broken(), broken())
            with pytest.raises(OutcomeUnknownError, match="may have been carried out"):
                await request(api)
            server.script.clear()
        server.then(broken(), broken())

        with pytest.raises(UnavailableError, match=f"GET {PODS}"):
            await read(api)

    @pytest.mark.parametrize("request_", [read, create])
    async def test_no_answer_in_time(
        self, request_: Request, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """B1: no request waits for ever; a write that was not answered may have happened."""
        expected = UnavailableError if request_ is read else OutcomeUnknownError
        server.then(server.hang())

        async with connected(server, tmp_path, request_timeout_ms=100) as api:
            with pytest.raises(EverynodeError, match="took too long") as caught:
                await request_(api)

        assert expected is type(caught.value)

    @pytest.mark.parametrize("request_", [read, create])
    async def test_half_an_answer_in_time(
        self, request_: Request, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """A body that stops in the middle is no answer either."""
        expected = UnavailableError if request_ is read else OutcomeUnknownError
        server.then(server.watch(b'{"half', then="hang"))

        async with connected(server, tmp_path, request_timeout_ms=100) as api:
            with pytest.raises(EverynodeError, match="took too long") as caught:
                await request_(api)

        assert expected is type(caught.value)

    async def test_an_answer_without_end(
        self, server: ScriptedServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """B1: an answer that is longer than any list is not taken in."""
        monkeypatch.setattr(client, "ANSWER_BYTES_MAX", 1000)
        server.then(answer(200, b"x" * 1001))

        with pytest.raises(UnavailableError, match="longer than 1000 bytes"):
            await read(api)

    async def test_the_answer_is_no_http(self, tmp_path: Path) -> None:
        """Something else listens there: no usable answer."""

        async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail.example.com ESMTP\r\n\r\n")
            writer.close()

        other = await asyncio.start_server(talk, "127.0.0.1", 0)
        server = ScriptedServer()
        server.address = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"

        async with other, connected(server, tmp_path) as api:
            with pytest.raises(UnavailableError, match="no complete answer"):
                await read(api)

    async def test_refusals_and_waits(self, server: ScriptedServer, api: ApiServer) -> None:
        """Codes are translated, with the verb and path that they answer; Retry-After is kept."""
        server.then(
            refused(409, "AlreadyExists", "pods a exists"),
            answer(429, b"slow down", {"Retry-After": "3"}),
            refused(500, "InternalError", "etcd is away"),
        )

        with pytest.raises(Refusal, match=f"POST {PODS}: refused with 409 AlreadyExists: pods a"):
            await create(api)
        with pytest.raises(UnavailableError, match="429: slow down") as caught:
            await create(api)
        with pytest.raises(OutcomeUnknownError, match="etcd is away"):
            await create(api)

        assert 3_000 == caught.value.retry_after_ms

    async def test_closed_here(self, server: ScriptedServer, tmp_path: Path) -> None:
        """After close nothing is sent; closing twice is harmless."""
        async with connected(server, tmp_path) as api:
            await api.close()

            with pytest.raises(UnavailableError, match="is closed here"):
                await create(api)

        assert [] == server.asked

    async def test_closed_in_the_middle(self, server: ScriptedServer, tmp_path: Path) -> None:
        """A write that is under way when the connection is closed may have happened."""
        async with connected(server, tmp_path) as api:
            under_way = asyncio.create_task(create(api))
            await server.idle.wait()

        with pytest.raises(OutcomeUnknownError):
            await under_way


class TestPages:
    """Lists in pages."""

    async def test_all_pages(self, server: ScriptedServer, api: ApiServer) -> None:
        """Pages are asked for one after the other, with the token of the one before, until one has none."""
        server.then(page(7, more="a+/="), page(7, more="b"), page(7))

        pages = [body async for body in api.list_pages(PODS, {"labelSelector": "x"}, 2)]

        assert ["a+/=", "b", None] == [
            json.loads(body)["metadata"].get("continue") for body in pages
        ]
        shared = {"labelSelector": "x", "limit": "2"}
        assert [shared, shared | {"continue": "a+/="}, shared | {"continue": "b"}] == [
            asked.params for asked in server.asked
        ]

    async def test_an_expired_token(self, server: ScriptedServer, api: ApiServer) -> None:
        """A token that is too old is told as such, so that the list can be begun anew."""
        server.then(page(7, more="a"), refused(410, "Expired"))
        seen: list[bytes] = []

        with pytest.raises(Refusal) as caught:
            await keep_all(api.list_pages(PODS), seen)

        assert caught.value.is_expired
        assert 1 == len(seen)

    async def test_no_list(self, server: ScriptedServer, api: ApiServer) -> None:
        """A page of HTML with code 200 is no list."""
        server.then(answer(200, b"<html>log in first</html>"))

        with pytest.raises(UnavailableError, match=r"no list.*25 bytes"):
            _ = [body async for body in api.list_pages(PODS)]


class TestWatch:
    """Watches, line by line."""

    async def test_what_is_asked(self, server: ScriptedServer, api: ApiServer) -> None:
        """A watch starts where the list was, with bookmarks; what else is wanted is added."""
        server.then(server.watch())

        assert [] == [line async for line in api.watch(PODS, 42, {"timeoutSeconds": "300"})]

        expected = {"watch": "true", "allowWatchBookmarks": "true", "resourceVersion": "42"}
        assert expected | {"timeoutSeconds": "300"} == server.asked[0].params

    async def test_lines_of_any_length_and_cut(
        self, server: ScriptedServer, api: ApiServer
    ) -> None:
        """Documents are put together again however they were cut; half a line at the end is no document."""
        large = b"x" * 3_000_000
        server.then(server.watch(b"one\ntw", b"o\n\nthree\n", large, b"\nhalf"))

        lines = [line async for line in api.watch(PODS, 1)]

        assert [b"one", b"two", b"three", large] == lines

    async def test_silence_ends_it(self, server: ScriptedServer, tmp_path: Path) -> None:
        """A watch that says nothing for too long is over: the connection may have died unnoticed."""
        server.then(server.watch(b"one\n", then="hang"))

        async with connected(server, tmp_path, watch_silence_ms=100) as api:
            lines = [line async for line in api.watch(PODS, 1)]

        assert [b"one"] == lines

    async def test_it_outlives_the_time_for_requests(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """The time that an answer may take is not the time that a watch may last."""
        server.then(server.watch(b"one\n", then="hang"))

        async with connected(server, tmp_path, request_timeout_ms=50, watch_silence_ms=300) as api:
            lines = [line async for line in api.watch(PODS, 1)]

        assert [b"one"] == lines

    async def test_a_break(self, server: ScriptedServer, api: ApiServer) -> None:
        """What came before the break is said; then it breaks."""
        server.then(server.watch(b"one\n", b"tw", then="cut"))
        lines: list[bytes] = []

        with pytest.raises(UnavailableError):
            await keep_all(api.watch(PODS, 1), lines)

        assert [b"one"] == lines

    @pytest.mark.parametrize(
        ("code", "reason", "expected"),
        [(410, "Expired", Refusal), (403, "Forbidden", Refusal), (429, "", UnavailableError)],
    )
    async def test_refused(
        self,
        code: int,
        reason: str,
        expected: type[Exception],
        server: ScriptedServer,
        api: ApiServer,
    ) -> None:
        """A watch that is not even begun fails like any other request."""
        server.then(refused(code, reason))

        with pytest.raises(expected):
            _ = [line async for line in api.watch(PODS, 1)]

    async def test_ending_it_early_frees_the_connection(
        self, server: ScriptedServer, tmp_path: Path
    ) -> None:
        """Closing the iterator closes the connection, so that the next request may have its place."""
        server.then(server.watch(b"one\n", then="hang"), answer(200))

        async with connected(server, tmp_path, connections_max=1) as api:
            async with aclosing(api.watch(PODS, 1)) as lines:
                assert b"one" == await anext(lines)
            assert b"{}" == await read(api)
