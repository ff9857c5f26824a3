"""Answers whoever watches a worker or an adapter: metrics, and whether it is alive and ready.

Started by the command line if asked to. It speaks as much HTTP as monitoring and kubelets do: one GET, one answer, and
the connection ends. It runs in the loop of what it watches, so that an answer shows that the loop goes round. It knows
nothing of what it shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

import structlog

from everynode.errors import ConfigurationError
from everynode.runtime.failures import traceback_of

REQUEST_BYTES_MAX = 8 * 1024
REQUEST_SECONDS_MAX = 5.0
CONNECTIONS_MAX = 32
"""At once; who comes then is turned away without an answer."""

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TEXT_TYPE = "text/plain; charset=utf-8"

_HOST = re.compile(r"[A-Za-z0-9_.:-]+")
_PORT_MAX = 65_535

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Watched:
    """What is shown.

    Attributes:
        metrics: Writes them.
        unready: Says why it is not ready; empty if it is.
    """

    metrics: Callable[[], bytes]
    unready: Callable[[], str]


@asynccontextmanager
async def monitored(address: str, watched: Watched) -> AsyncIterator[str]:
    """Answer at an address, such as ``127.0.0.1:9464``, until the body ends.

    Returns:
        Where it answers: if the port was 0, another one.

    Raises:
        ConfigurationError: It is no address, or cannot be listened at.
    """
    host, port = _parsed(address)
    responder = _Responder(watched)
    try:
        server = await asyncio.start_server(
            responder.respond, host, port, limit=REQUEST_BYTES_MAX, backlog=CONNECTIONS_MAX
        )
    except OSError as error:
        text = f"metrics address {address}: cannot be listened at: {error.strerror or error}"
        raise ConfigurationError(text) from error
    bound = server.sockets[0].getsockname()
    shown = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
    log.info("metrics are shown", address=shown)
    try:
        yield shown
    finally:
        server.close()
        await responder.end()


def _parsed(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):  # an address of IPv6, which has colons itself
        host = host[1:-1]
    if not (_HOST.fullmatch(host) and port.isdecimal() and int(port) <= _PORT_MAX):
        text = f"metrics address {address!r}: write HOST:PORT, such as 127.0.0.1:9464"
        raise ConfigurationError(text)
    return host, int(port)


class _Responder:
    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._connections: set[asyncio.Task[None]] = set()

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; whatever is wrong with it ends with the connection."""
        task = asyncio.current_task()
        if task is None or len(self._connections) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            with contextlib.suppress(
                OSError,
                TimeoutError,
                asyncio.IncompleteReadError,
                asyncio.LimitOverrunError,
                asyncio.CancelledError,  # only `end` cancels; asyncio would report it
            ):
                async with asyncio.timeout(REQUEST_SECONDS_MAX):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        finally:
            self._connections.discard(task)
            writer.close()

    async def end(self) -> None:
        """Let go of everybody."""
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        method, target = (words[0], words[1]) if len(words) > 1 else ("", "")
        if method not in {"GET", "HEAD"}:
            return _written(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET is answered\n")
        try:
            answer = self._body(target.partition("?")[0])
        except Exception as error:  # noqa: BLE001 - what is shown must not stop what it is about
            log.error("metrics not shown", traceback=traceback_of(error))  # noqa: TRY400 - see failures
            answer = _written(HTTPStatus.INTERNAL_SERVER_ERROR, b"see the log\n")
        return answer if method == "GET" else answer[: answer.index(b"\r\n\r\n") + 4]

    def _body(self, path: str) -> bytes:
        match path:
            case "/metrics":
                return _written(HTTPStatus.OK, self._watched.metrics(), METRICS_TYPE)
            case "/healthz":
                return _written(HTTPStatus.OK, b"alive\n")
            case "/readyz":
                why = self._watched.unready()
                status = HTTPStatus.SERVICE_UNAVAILABLE if why else HTTPStatus.OK
                return _written(status, f"{why or 'ready'}\n".encode())
            case _:
                text = b"there are /metrics, /healthz and /readyz\n"
                return _written(HTTPStatus.NOT_FOUND, text)


def _written(status: HTTPStatus, body: bytes, content_type: str = TEXT_TYPE) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
