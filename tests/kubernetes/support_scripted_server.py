"""An HTTP server that answers what a test tells it to: for what a healthy API server does not do.

Each request takes the next answer of the script. When the script is at its end, requests stay unanswered until the
server is closed, as those of a quiet watch do.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from aiohttp import web

from everynode_kubernetes.client import Access, ApiServer

Json = dict[str, Any]
T = TypeVar("T")
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Asked(NamedTuple):
    """A request that came in."""

    verb: str
    path: str
    params: dict[str, str]
    headers: Mapping[str, str]
    body: bytes


class ScriptedServer:
    """Answers as scripted, and keeps what it was asked."""

    def __init__(self) -> None:
        """Begin with an empty script."""
        self.address = ""
        self.script: deque[Answer] = deque()
        self.asked: list[Asked] = []
        self.closing = asyncio.Event()
        self.idle = asyncio.Event()
        """Set when a request has found the script at its end."""

    def then(self, *answers: Answer) -> None:
        """Add to the script."""
        self.script.extend(answers)

    def kubeconfig(self, directory: Path, user: Json | None = None) -> Path:
        """Write a kubeconfig that leads here."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "clusters": [{"name": "here", "cluster": {"server": self.address}}],
            "users": [{"name": "me", "user": user or {}}],
        }
        path = directory / "kubeconfig.yaml"
        path.write_text(json.dumps(document))
        return path

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Give the next answer."""
        asked = Asked(
            request.method,
            request.path,
            dict(request.query),
            dict(request.headers),
            await request.read(),
        )
        self.asked.append(asked)
        if not self.script:
            self.idle.set()
            await self.closing.wait()
            return web.Response(status=503)
        return await self.script.popleft()(request)

    def hang(self) -> Answer:
        """No answer, until the server is closed."""

        async def answer(_: web.BaseRequest) -> web.StreamResponse:
            await self.closing.wait()
            return web.Response(status=503)

        return answer

    def hangs_quietly(self) -> Answer:
        """A watch that is open, and silent, until the server is closed."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            await self.closing.wait()
            return response

        return answer

    def watch(self, *pieces: bytes, then: str = "end") -> Answer:
        """A watch that says these bytes; then it ends, hangs in silence, or is cut off in the middle."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            response.enable_chunked_encoding()
            await response.prepare(request)
            for piece in pieces:
                await response.write(piece)
            if then == "hang":
                await self.closing.wait()
            if then == "cut" and request.transport is not None:
                request.transport.abort()
            return response

        return answer


@asynccontextmanager
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    """Serve on a free port of the loopback interface."""
    server = ScriptedServer()
    runner = web.ServerRunner(web.Server(server.handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        server.closing.set()
        await runner.cleanup()


@asynccontextmanager
async def connected(
    server: ScriptedServer, directory: Path, user: Json | None = None, **access: Any
) -> AsyncIterator[ApiServer]:
    """A connection to a scripted server."""
    kubeconfig = server.kubeconfig(directory, user)
    api_server = await ApiServer.connect(Access(kubeconfig=kubeconfig, **access))
    try:
        yield api_server
    finally:
        await api_server.close()


async def keep_all(items: AsyncIterator[T], kept: list[T]) -> None:
    """Keep what comes, also if it then ends with an error."""
    async for item in items:
        kept.append(item)  # noqa: PERF401 - what came before an error counts


# --- answers ----------------------------------------------------------------------------------------


def answer(
    code: int, body: bytes | Json = b"{}", headers: Mapping[str, str] | None = None
) -> Answer:
    """An answer with this code and body."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def give(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(
            status=code, body=content, headers=headers, content_type="application/json"
        )

    return give


def refused(code: int, reason: str, message: str = "", **details: Any) -> Answer:
    """An answer with a Status."""
    return answer(code, status(code, reason, message, **details))


def cut_off(request_seen: asyncio.Event | None = None) -> Answer:
    """The connection is cut once the request has come in."""

    async def give(request: web.BaseRequest) -> web.StreamResponse:
        if request_seen is not None:
            request_seen.set()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return give


def cut_off_in_body() -> Answer:
    """The connection is cut in the middle of the body of a success."""

    async def give(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"half":')
        assert request.transport is not None
        request.transport.close()
        return response

    return give


def page(version: int, *items: Json | bytes, more: str = "") -> Answer:
    """One page of a list; ``more`` is the token for the next one."""
    metadata = {"resourceVersion": str(version)} | ({"continue": more} if more else {})
    written = b",".join(
        item if isinstance(item, bytes) else json.dumps(item).encode() for item in items
    )
    head = json.dumps({"kind": "List", "metadata": metadata}).encode()
    return answer(200, head[:-1] + b', "items": [' + written + b"]}")


# --- documents --------------------------------------------------------------------------------------


def status(code: int, reason: str, message: str = "", **details: Any) -> Json:
    """A Status (meta/v1)."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


def thing(name: str, version: int, **more: Any) -> Json:
    """An object of the kind that the tests follow."""
    metadata = {
        "name": name,
        "namespace": "default",
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
    }
    return {"metadata": metadata, "size": 1, **more}


def event(kind: str, content: Json) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    """A bookmark."""
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})
