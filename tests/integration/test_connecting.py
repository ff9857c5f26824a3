"""Getting a connection: who we are, encryption, servers that are too old or not there, and no secret in sight."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nkeys  # type: ignore[import-untyped] # it has no types, and no stubs exist
import pytest
from structlog.testing import capture_logs

from everynode.errors import ConfigurationError, UnavailableError
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import connect
from everynode.runtime.settings import Connection, StreamSettings

SMALL = StreamSettings(log_max_bytes=2**20)
SECRET = "not-to-be-seen"  # noqa: S105 - it opens only the server that this test starts


class TestWho:
    """Servers that know their users."""

    @pytest.fixture
    async def closed_server(self) -> AsyncIterator[EmbeddedServer]:
        """A server with one user."""
        users = f'authorization {{ users: [{{user: "everynode", password: "{SECRET}"}}] }}\n'
        async with EmbeddedServer(None, 0, extra=users) as server:
            yield server

    async def test_password(self, closed_server: EmbeddedServer, fleet: str) -> None:
        """A user with a password is let in, given apart or in the URL."""
        apart = Connection(servers=(closed_server.url,), user="everynode", password=SECRET)
        inside = Connection(servers=(f"nats://everynode:{SECRET}@127.0.0.1:{closed_server.port}",))
        for connection in (apart, inside):
            async with await connect(connection, fleet, create=SMALL) as bus:
                assert (await bus.describe()).fleet == fleet

    async def test_refused(self, closed_server: EmbeddedServer, fleet: str) -> None:
        """Who is not let in is told so, and nothing that is said or logged shows what was tried."""
        tried = [
            Connection(servers=(closed_server.url,)),
            Connection(servers=(closed_server.url,), user="everynode", password=f"x{SECRET}"),
            Connection(servers=(f"nats://everynode:x{SECRET}@127.0.0.1:{closed_server.port}",)),
        ]
        for connection in tried:
            with capture_logs() as logs, pytest.raises(ConfigurationError) as refused:
                await connect(connection, fleet)
            said = f"{refused.value} {refused.value.__cause__!r} {logs} {connection!r}"
            assert "user and password" in said
            assert SECRET not in said

    async def test_nkey(self, tmp_path: Path, fleet: str) -> None:
        """A user known by an nkey is let in with its seed."""
        seed = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
        public = nkeys.from_seed(seed).public_key.decode()
        path = tmp_path / "user.nk"
        path.write_bytes(seed)
        users = f"authorization {{ users: [{{nkey: {public}}}] }}\n"
        async with EmbeddedServer(None, 0, extra=users) as server:
            with pytest.raises(ConfigurationError, match="nkey_seed"):
                await connect(Connection(servers=(server.url,)), fleet)
            connection = Connection(servers=(server.url,), nkey_seed=path)
            async with await connect(connection, fleet, create=SMALL) as bus:
                assert bus.connected


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority, and certificates by it for a server and a client."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificates for this test, is not installed")
    directory = tmp_path_factory.mktemp("tls")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for authority in ("ca", "stranger"):
        run(
            *("req", "-x509", *key, "-keyout", f"{authority}.key", "-out", f"{authority}.pem"),
            *("-subj", f"/CN={authority}", "-addext", "keyUsage=critical,keyCertSign"),
        )
    for name in ("server", "client"):
        run(
            *("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem"),
            *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"),
            *(
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
            ),
        )
    return directory


class TestEncrypted:
    """Servers that speak TLS."""

    @asynccontextmanager
    async def server(self, certificates: Path, more: str = "") -> AsyncIterator[EmbeddedServer]:
        """A server with the certificate."""
        tls = f'tls {{ cert_file: "{certificates}/server.pem", key_file: "{certificates}/server.key" {more} }}\n'
        async with EmbeddedServer(None, 0, extra=tls) as server:
            yield server

    async def test_trusted(self, certificates: Path, fleet: str) -> None:
        """A server with a certificate by an authority that we trust is good; others are refused."""
        async with self.server(certificates) as server:
            good = Connection(servers=(server.url,), tls_ca=certificates / "ca.pem")
            async with await connect(good, fleet, create=SMALL) as bus:
                assert bus.connected
            strange = Connection(servers=(server.url,), tls_ca=certificates / "stranger.pem")
            for connection in (strange, Connection(servers=(server.url,))):
                with pytest.raises(ConfigurationError, match=r"TLS.*tls_ca"):
                    await connect(connection, fleet)

    async def test_client_certificate(self, certificates: Path, fleet: str) -> None:
        """A server that verifies clients lets us in with our certificate only."""
        more = f', ca_file: "{certificates}/ca.pem", verify: true'
        async with self.server(certificates, more) as server:
            ca = certificates / "ca.pem"
            good = Connection(
                servers=(server.url,),
                tls_ca=ca,
                tls_cert=certificates / "client.pem",
                tls_key=certificates / "client.key",
            )
            async with await connect(good, fleet, create=SMALL) as bus:
                assert bus.connected
            with pytest.raises((ConfigurationError, UnavailableError)):
                await connect(Connection(servers=(server.url,), tls_ca=ca), fleet)

    async def test_wrong_files(self, certificates: Path, fleet: str) -> None:
        """Files that do not belong together are named."""
        wrong = Connection(
            tls_ca=certificates / "ca.pem",
            tls_cert=certificates / "client.pem",
            tls_key=certificates / "server.key",
        )
        with pytest.raises(ConfigurationError, match="tls_cert"):
            await connect(wrong, fleet)
        with pytest.raises(ConfigurationError, match="tls_ca"):
            await connect(Connection(tls_ca=certificates / "ca.key"), fleet)


class TestServers:
    """Servers that are not what we need."""

    async def test_nobody_there(self, fleet: str) -> None:
        """Without a server the error says where none was found."""
        for host in ("127.0.0.1", "localhost"):  # the latter may have more than one address
            url = f"nats://{host}:1"
            with capture_logs() as entries, pytest.raises(UnavailableError) as unreachable:
                await connect(Connection(servers=(url,)), fleet)
            expected = f"NATS at {url} cannot be reached: Connection refused: is nats-server running there?"
            assert expected == str(unreachable.value)
            assert {"debug"} >= {entry["log_level"] for entry in entries}

    async def test_one_of_several(self, server: EmbeddedServer, fleet: str) -> None:
        """One server of several is enough."""
        connection = Connection(servers=("nats://127.0.0.1:1", server.url, "nats://127.0.0.1:2"))
        with pytest.raises(ConfigurationError, match="does not exist"):
            await connect(connection, fleet)

    async def test_impossible_fleet(self) -> None:
        """A name that no fleet can have is refused before anybody is asked."""
        with pytest.raises(ConfigurationError, match="Not A Fleet"):
            await connect(Connection(servers=("nats://127.0.0.1:1",)), "Not A Fleet")

    async def test_without_jetstream(self, tmp_path: Path, fleet: str) -> None:
        """A server without JetStream says so, and what to do."""
        async with EmbeddedServer(
            tmp_path,
            0,
            extra=f'accounts {{ A {{ users: [{{user: a, password: "{SECRET}"}}] }} }}\n',
        ) as server:
            connection = Connection(servers=(server.url,), user="a", password=SECRET)
            with pytest.raises(ConfigurationError, match=r"JetStream is not on.*jetstream \{\}"):
                await connect(connection, fleet)

    @pytest.mark.parametrize("version", ["2.10.27", "1.4.1", "unknown"])
    async def test_too_old(self, fleet: str, version: str) -> None:
        """A server that has no atomic batches is refused by its version, and both versions are named."""

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(
                b'INFO {"server_id":"x","version":"%b","max_payload":1048576,"headers":true,'
                b'"jetstream":true}\r\n' % version.encode()
            )
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
            writer.close()

        old = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = old.sockets[0].getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"{version}.*2\.12"):
            await connect(Connection(servers=(f"nats://127.0.0.1:{port}",)), fleet)
        old.close()
        await old.wait_closed()

    async def test_silent(self, fleet: str) -> None:
        """A server that takes the connection and says nothing is given up in time."""

        async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        silent = await asyncio.start_server(nothing, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        connection = Connection(servers=(f"nats://127.0.0.1:{port}",), connect_timeout_ms=100)
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port}"):
            await connect(connection, fleet)
        silent.close()
        await silent.wait_closed()
