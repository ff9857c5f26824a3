"""The server of deploy/nats/server.conf, as it stands there: encrypted both ways, and closed."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from tests.integration import support_security as support
from tests.integration.support_tls import make_certificates

from everynode.errors import ConfigurationError, UnavailableError
from everynode.runtime.embedded import server_binary
from everynode.runtime.jetstream import connect
from everynode.runtime.settings import Connection, StreamSettings

SMALL = StreamSettings(log_max_bytes=2**20)
START_SECONDS_MAX = 20


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates for the server and its clients."""
    directory = tmp_path_factory.mktemp("tls")
    make_certificates(directory)
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[int]:
    """Where the server listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = int(probe.getsockname()[1])
    variables = {
        "NATS_STORE_DIR": str(tmp_path_factory.mktemp("store")),
        "NATS_TLS_CERT": str(certificates / "server.pem"),
        "NATS_TLS_KEY": str(certificates / "server.key"),
        "NATS_TLS_CA": str(certificates / "ca.pem"),
    }
    with support.server_variables(), support.variables_set(variables):
        server = await asyncio.create_subprocess_exec(
            *(str(server_binary()), "-c", str(support.DEPLOY / "server.conf"), "-p", str(free)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    try:
        async with asyncio.timeout(START_SECONDS_MAX):
            while not await _greets(free):
                assert server.returncode is None, "it refuses its configuration"
                await asyncio.sleep(0.01)
        yield free
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.terminate()
        await server.wait()


async def _greets(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    greeting = await reader.readline()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return greeting.startswith(b"INFO")


@pytest.fixture
def operator(port: int, certificates: Path) -> Connection:
    """How an operator connects: with a certificate and a password."""
    return Connection(
        servers=(f"tls://127.0.0.1:{port}",),
        user="operator",
        password=support.password("operator"),
        inbox_prefix=support.inbox("operator"),
        api_prefix=support.API,
        tls_ca=certificates / "ca.pem",
        tls_cert=certificates / "client.pem",
        tls_key=certificates / "client.key",
    )


async def test_let_in(operator: Connection) -> None:
    """Who has both a certificate and a password can work, encrypted."""
    async with await connect(operator, support.FLEET, create=SMALL) as bus:
        assert support.FLEET == (await bus.describe()).fleet


async def test_password_alone(operator: Connection) -> None:
    """A password without a certificate opens nothing."""
    alone = replace(operator, tls_cert=None, tls_key=None)
    with pytest.raises((ConfigurationError, UnavailableError)):
        await connect(alone, support.FLEET, create=SMALL)  # so that nothing else is in the way


async def test_certificate_alone(operator: Connection) -> None:
    """Nor does a certificate without a password."""
    with pytest.raises(ConfigurationError, match="refuses who we are"):
        await connect(replace(operator, user=None, password=None), support.FLEET)


async def test_strange_server(operator: Connection, certificates: Path) -> None:
    """A server whose certificate is by somebody else gets no password."""
    strange = replace(operator, tls_ca=certificates / "stranger.pem")
    with pytest.raises(ConfigurationError, match=r"TLS.*tls_ca"):
        await connect(strange, support.FLEET)


async def test_in_the_clear(port: int) -> None:
    """Who goes on without encryption is cut off, whatever they say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert b'"tls_required":true' in await reader.readline()
    who = f'"user":"operator","pass":"{support.password("operator")}"'
    writer.write(f"CONNECT {{{who}}}\r\nPING\r\n".encode())
    said = b""
    with contextlib.suppress(ConnectionError):
        said = await reader.read()
    assert b"PONG" not in said
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
