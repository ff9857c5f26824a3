"""A TCP proxy between a client and an API server, in the test's own loop: it cuts, refuses, falls silent, delays.

It sees bytes only, so TLS goes through it untouched. For answers such as 429 see support_storm.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.kubernetes.support_processes import free_port

CHUNK_BYTES_MAX = 64 * 1024


class TcpProxy:
    """A proxy in front of one server; an async context manager.

    Args:
        server_url: The server, such as `https://127.0.0.1:20001`.
    """

    def __init__(self, server_url: str) -> None:
        """Listen to nothing yet."""
        parts = urlsplit(server_url)
        self.port = free_port()
        self.url = f"{parts.scheme}://127.0.0.1:{self.port}"
        self.delay_ms = 0
        """How much later each chunk arrives, in both directions."""
        self.accepted_count = 0
        """How many connections there have been so far."""
        self.held_count = 0
        """How many chunks wait here while the proxy is silent: one for each direction that has something to say."""
        self._target = parts.hostname, parts.port
        self._listening: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._passing = asyncio.Event()
        self._passing.set()

    async def __aenter__(self) -> Self:
        """Start to listen."""
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cut everything and go."""
        self.refuse()
        await self.cut()

    @property
    def open_count(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    async def cut(self) -> int:
        """End all connections, without a word, and return how many there were; new ones are welcome."""
        cut = list(self._connections)
        for connection in cut:
            connection.cancel()
        await asyncio.gather(*cut, return_exceptions=True)
        return len(cut)

    def refuse(self) -> None:
        """From now on refuse new connections; those that are open stay."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    async def accept(self) -> None:
        """Take new connections, as in the beginning."""
        if self._listening is None:
            host = "127.0.0.1"
            self._listening = await asyncio.start_server(self._accepted, host, self.port)

    def fall_silent(self) -> None:
        """From now on pass nothing, on old and new connections: no error, no end, just silence."""
        self._passing.clear()

    def speak(self) -> None:
        """Pass on what was held back, and everything that follows."""
        self._passing.set()

    def abandon(self) -> None:
        """From now on pass nothing on the connections that there are, and never again; new ones work."""
        self._passing.clear()
        self._passing = asyncio.Event()
        self._passing.set()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted_count += 1
        task = asyncio.current_task()
        if task is None:  # asyncio runs this in a task of its own
            raise RuntimeError("no task")
        self._connections.add(task)
        try:
            # Cancelled by `cut`; returning then keeps asyncio from reporting it as an error.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect the client with the server, until either end has nothing more to say."""
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        ways = [
            asyncio.ensure_future(self._pass(reader, server_writer)),
            asyncio.ensure_future(self._pass(server_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            server_writer.transport.abort()  # first: whoever waits may be cancelled once more
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes one way, as they come; at most one chunk is held back here, the rest in the kernel."""
        passing = self._passing
        while chunk := await reader.read(CHUNK_BYTES_MAX):
            if self.delay_ms:
                await asyncio.sleep(self.delay_ms / 1000)
            self.held_count += 1
            try:
                await passing.wait()
            finally:
                self.held_count -= 1
            writer.write(chunk)
            await writer.drain()
