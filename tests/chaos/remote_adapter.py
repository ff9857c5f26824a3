"""An adapter of the backend that runs as a process of its own: what several adapter processes of one backend share.

``everynode adapter run chaos --option address=HOST:PORT`` finds it by an entry point that the run writes. It only
carries messages; that a connection may end at any moment, and what is known then, is all that it decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from everynode import wire
from everynode.core.commands import Command, CreatePod, Outcome
from everynode.errors import ConfigurationError, OutcomeUnknownError, UnavailableError
from everynode.ports import ListBegun, ListEnded, Observation, View

LINE_BYTES_MAX = 4 * 1024**2
CONNECT_TIMEOUT_SECONDS = 2


class RemoteAdapter:
    """Speaks to ``tests.chaos.backend``.

    Args:
        backend: Name of the backend in the fleet.
        host: Where it listens.
        port: As well.
    """

    def __init__(self, backend: str, host: str, port: int) -> None:
        """Connect to nothing yet."""
        self.backend = backend
        self.identity = f"chaos/{backend}"
        self._address = host, port
        self._numbers = itertools.count()
        self._answers: dict[int, asyncio.Future[tuple[str, Any]]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._connecting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None

    @classmethod
    def from_options(cls, backend: str, options: Mapping[str, str]) -> RemoteAdapter:
        """Make one from ``address=HOST:PORT``.

        Raises:
            ConfigurationError: There is no such option.
        """
        host, _, port = options.get("address", "").partition(":")
        if not port.isdecimal():
            raise ConfigurationError(f"backend {backend}: address is missing; write HOST:PORT")
        return cls(backend, host, int(port))

    async def close(self) -> None:
        """End the connection."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._forget("closed")

    async def observe(self, known: View) -> AsyncGenerator[Observation]:  # noqa: ARG002 - it lists everything
        """List everything, then say each change.

        Raises:
            UnavailableError: The connection ended.
        """
        reader, writer = await self._connect("observe")
        try:
            while line := await reader.readline():
                yield _observation(line)
        except (OSError, ValueError) as error:
            raise UnavailableError(f"backend {self.backend}: {error}") from error
        finally:
            writer.close()
        raise UnavailableError(f"backend {self.backend}: the connection ended")

    async def apply(self, command: Command) -> Outcome:
        """Have a command carried out.

        Raises:
            UnavailableError: Nothing was sent, or the backend says that nothing happened.
            OutcomeUnknownError: The connection ended, or the backend does not know.
        """
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await self._connect("apply")
                self._reading = asyncio.create_task(self._read(reader))
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(_request(number, command))
            kind, said = await answer
        finally:
            self._answers.pop(number, None)
        match kind:
            case "outcome":
                outcome = wire.decode(said.encode())
                if isinstance(outcome, Outcome):
                    return outcome
            case "unavailable":
                text, retry_after_ms = said
                raise UnavailableError(text, retry_after_ms)
            case _:
                pass
        raise OutcomeUnknownError(f"backend {self.backend}: {said}")

    async def _connect(self, role: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(*self._address, limit=LINE_BYTES_MAX)
        except (OSError, TimeoutError) as error:
            raise UnavailableError(f"backend {self.backend}: {error!r}") from error
        writer.write(f"{role} {os.getpid()}\n".encode())
        return reader, writer

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(OSError, ValueError):
                while line := await reader.readline():
                    number, kind, said = msgspec.json.decode(line)
                    answer = self._answers.get(number)
                    if answer is not None and not answer.done():
                        answer.set_result((kind, said))
        finally:
            self._forget("the connection ended")

    def _forget(self, reason: str) -> None:
        """Let go of the connection: what was asked for over it may or may not happen."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_result(("unknown", reason))


def _request(number: int, command: Command) -> bytes:
    """Write a call; a template is no part of a command as the log has it, so it goes beside it."""
    template = b""
    if isinstance(command, CreatePod):
        template = bytes(command.template or b"")
        command = msgspec.structs.replace(command, template=None)
    parts = [number, wire.encode(command).decode(), template.decode()]
    return msgspec.json.encode(parts) + b"\n"


def _observation(line: bytes) -> Observation:
    if line.startswith(b"+"):
        return ListBegun(line[1:].decode().strip())  # type: ignore[arg-type] # the backend names the kinds
    if line.startswith(b"-"):
        return ListEnded(line[1:].decode().strip())  # type: ignore[arg-type] # as above
    return wire.decode(line)  # type: ignore[return-value] # the backend observes, and does nothing else
