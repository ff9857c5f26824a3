"""A proxy between a client and the API server that speaks HTTP: it can answer itself, or lose an answer.

It ends TLS with a certificate of the run's own authority, so its clients bring a bearer token (a client certificate
would end here): `plane.identity("", server=storm.url, token=await plane.token_for(...))`.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_processes import free_port
from yarl import URL

from everynode_kubernetes.connections import Connections

FOREVER = 1 << 62
OF_ONE_CONNECTION = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
"""Headers that are no business of the other connection; content-length is worked out anew."""


@dataclass(frozen=True)
class Received:
    """One request that arrived: when (monotonic), what, and what became of it: passed, refused or lost."""

    at_ms: int
    method: str
    path: str
    fate: str


@dataclass
class Trouble:
    """What happens to which requests; `left` counts how many more it happens to."""

    fate: str
    methods: Collection[str]
    path_part: str
    left: int
    status: int = 429
    retry_after_seconds: int | None = None

    def concerns(self, request: web.BaseRequest) -> bool:
        """Whether it happens to this request."""
        method_is_meant = not self.methods or request.method in self.methods
        return bool(self.left) and method_is_meant and self.path_part in request.path


class StormProxy:
    """A proxy in front of a control plane's API server; an async context manager.

    Args:
        plane: The control plane.
    """

    def __init__(self, plane: ControlPlane) -> None:
        """Listen to nothing yet."""
        self.port = free_port()
        self.received: list[Received] = []
        """Every request since the start, oldest first."""
        self._plane = plane
        self._troubles: list[Trouble] = []
        self._open = contextlib.AsyncExitStack()
        self._upstream: aiohttp.ClientSession

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"https://127.0.0.1:{self.port}"

    def refuse(
        self,
        status: int = 429,
        *,
        retry_after_seconds: int | None = 1,
        methods: Collection[str] = (),
        path_part: str = "",
        count: int = FOREVER,
    ) -> None:
        """From now on answer requests with an error that asks to come again later.

        Args:
            status: The HTTP status: 429, 503, 500, ...
            retry_after_seconds: The header Retry-After; ``None``: without it.
            methods: Which methods are meant; none given means all.
            path_part: A part of the path of the requests that are meant.
            count: How many requests are refused.
        """
        trouble = Trouble("refused", methods, path_part, count, status, retry_after_seconds)
        self._troubles.append(trouble)

    def lose_answers(
        self, *, methods: Collection[str] = (), path_part: str = "", count: int = FOREVER
    ) -> None:
        """From now on pass requests on and drop the connection instead of answering: the outcome is unknown."""
        self._troubles.append(Trouble("lost", methods, path_part, count))

    def calm(self) -> None:
        """From now on pass on everything."""
        self._troubles.clear()

    async def __aenter__(self) -> Self:
        """Start to listen."""
        authority = self._plane.authority
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*authority.server(f"storm-{self.port}"))
        upstream_tls = ssl.create_default_context(cafile=str(authority.certificate))
        connections = Connections(0, upstream_tls)
        self._open.push_async_callback(connections.close)
        self._upstream = await self._open.enter_async_context(
            aiohttp.ClientSession(
                connector=connections.connector,
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
            )
        )
        # A watch has no end: it goes when its client goes, and nobody waits for it when the proxy goes.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        runner = web.ServerRunner(server, shutdown_timeout=0)
        self._open.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=tls).start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cut everything and go."""
        await self._open.aclose()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        trouble = next((each for each in self._troubles if each.concerns(request)), None)
        fate = "passed" if trouble is None else trouble.fate
        now_ms = time.monotonic_ns() // 1_000_000
        self.received.append(Received(now_ms, request.method, request.path_qs, fate))
        if trouble is not None:
            trouble.left -= 1
            if trouble.fate == "refused":
                return _refusal(trouble)
        try:
            return await self._pass_on(request, lost=fate == "lost")
        except aiohttp.ClientError:  # the API server went away, and so do we, as a dumb proxy would
            return _dropped(request)

    async def _pass_on(self, request: web.BaseRequest, *, lost: bool) -> web.StreamResponse:
        """Ask the API server, and stream what it answers."""
        async with self._upstream.request(
            request.method,
            URL(self._plane.server_url + request.raw_path, encoded=True),
            headers=_passing(request.headers),
            data=await request.read(),
        ) as answer:
            if lost:
                await answer.read()  # now it is done
                return _dropped(request)
            response = web.StreamResponse(status=answer.status, headers=_passing(answer.headers))
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response


def _passing(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers that concern the other end."""
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in OF_ONE_CONNECTION
    )


def _refusal(trouble: Trouble) -> web.Response:
    """The answer of an API server that has too much to do."""
    status = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": "the test asked for it",
        "reason": "TooManyRequests"
        if trouble.status == web.HTTPTooManyRequests.status_code
        else "",
        "code": trouble.status,
    }
    headers = {}
    if trouble.retry_after_seconds is not None:
        headers["Retry-After"] = str(trouble.retry_after_seconds)
    return web.json_response(status, status=trouble.status, headers=headers)


def _dropped(request: web.BaseRequest) -> web.Response:
    """End the connection; the answer that is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
