"""How to reach the server: from options and the environment, and never a secret in what is shown."""

from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped] # it has no types, and no stubs exist
import pytest
from structlog.testing import capture_logs

from everynode.errors import ConfigurationError
from everynode.runtime.credentials import client_options, warn_of_open_files
from everynode.runtime.link import check_server_version
from everynode.runtime.settings import SERVER_DEFAULT, Connection, StreamSettings

SECRET = "not-to-be-seen"  # noqa: S105 - it opens nothing


class TestConnection:
    """What a connection is made of."""

    def test_default(self) -> None:
        """Without anything said it is the server on this machine."""
        assert Connection.from_environment(environment={}) == Connection()
        assert Connection().servers == (SERVER_DEFAULT,)

    def test_environment(self, tmp_path: Path) -> None:
        """Each variable fills in its field."""
        file = tmp_path / "file"
        file.write_text("", encoding="utf-8")
        common = {
            "EVERYNODE_NATS": "nats://a:1, nats://b:2",
            "EVERYNODE_NATS_CA": str(file),
            "EVERYNODE_NATS_CERT": str(file),
            "EVERYNODE_NATS_KEY": str(file),
            "EVERYNODE_NATS_INBOX_PREFIX": "_INBOX_x",
            "EVERYNODE_NATS_API_PREFIX": "$JS.hub.API",
        }
        ways: list[tuple[dict[str, str], dict[str, Any]]] = [
            (
                {"EVERYNODE_NATS_USER": "u", "EVERYNODE_NATS_PASSWORD": SECRET},
                {"user": "u", "password": SECRET},
            ),
            ({"EVERYNODE_NATS_TOKEN": SECRET}, {"token": SECRET}),
            ({"EVERYNODE_NATS_CREDS": str(file)}, {"creds": file}),
            ({"EVERYNODE_NATS_NKEY": str(file)}, {"nkey_seed": file}),
        ]
        for variables, fields in ways:
            assert Connection(
                servers=("nats://a:1", "nats://b:2"),
                tls_ca=file,
                tls_cert=file,
                tls_key=file,
                inbox_prefix="_INBOX_x",
                api_prefix="$JS.hub.API",
                **fields,
            ) == Connection.from_environment(environment=common | variables)

    def test_overrides(self) -> None:
        """What is given by option goes before the environment; what is not given does not."""
        environment = {"EVERYNODE_NATS": "nats://a:1", "EVERYNODE_NATS_USER": "u"}
        overrides: dict[str, Any] = {
            "servers": ["nats://b:2"],
            "user": None,
            "name": "x",
            "creds": "",
        }
        expected = Connection(servers=("nats://b:2",), user="u", name="x")
        assert Connection.from_environment(overrides, environment) == expected
        overrides["servers"] = "nats://c:3,nats://d:4"
        servers = Connection.from_environment(overrides, environment).servers
        assert servers == ("nats://c:3", "nats://d:4")

    def test_refused(self, tmp_path: Path) -> None:
        """What cannot work is refused, by the name of the setting."""
        file = tmp_path / "file"
        file.write_text("", encoding="utf-8")
        with pytest.raises(ConfigurationError, match="servers"):
            Connection(servers=())
        with pytest.raises(ConfigurationError, match="tls_cert and tls_key go together"):
            Connection(tls_cert=file)
        with pytest.raises(ConfigurationError, match="password goes with user"):
            Connection(password=SECRET)
        with pytest.raises(ConfigurationError, match=r"creds and user and token: .* one of them"):
            Connection(creds=file, user="u", token=SECRET)
        for name in ("inbox_prefix", "api_prefix"):
            for prefix in ("", "a b", "a.", ".a", "a..b", "a.*", ">", "a\r\nPUB"):
                odd: dict[str, Any] = {name: prefix}
                with pytest.raises(ConfigurationError, match=f"{name} is"):
                    Connection(**odd)
        for name in ("creds", "nkey_seed", "tls_ca"):
            wrong: dict[str, Any] = {name: tmp_path / "absent"}
            with pytest.raises(ConfigurationError, match=f"{name}: there is no file .*absent"):
                Connection(**wrong)

    @pytest.mark.parametrize(
        "server",
        [
            *(
                "",
                "some text",
                "nats://",
                "http://host",
                "ws://host",
                "nats://host:99999",
                "nats://host:0",
            ),
            *(
                "nats://host:x",
                "nats://a:b:c",
                "nats://[::1",
                "nats://host/path",
                f"nats://{SECRET}@a b",
                f"nats://u:{SECRET}",
                f"nats://u:{SECRET}://x@host",
            ),
            *(f"nats://u:{SECRET}{odd}@host:1" for odd in "/?#[]"),  # of a URL these end the host
            f"ws://u:{SECRET}@host:1",
        ],
    )
    def test_impossible_server(self, server: str) -> None:
        """What is no server's URL is refused by itself, whatever stands before it, and shows no secret."""
        with pytest.raises(ConfigurationError, match=r"servers: '.*' is not the URL") as refused:
            Connection(servers=("nats://host:4222", server))
        assert SECRET not in str(refused.value)

    @pytest.mark.parametrize(
        "server",
        ["host", "host:1", "nats://h-1.example.org:65535/", "tls://[::1]:4222", "nats://a:b@h"],
    )
    def test_possible_server(self, server: str) -> None:
        """A URL may leave out what has a default."""
        assert (server,) == Connection(servers=(server,)).servers

    @pytest.mark.parametrize(
        ("server", "shown"),
        [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            (f"nats://user:{SECRET}@host:1", "nats://host:1"),
            (f"tls://{SECRET}@host", "tls://host"),
            (f"user:{SECRET}@host:1", "host:1"),
            (f"nats://user:{SECRET}@{SECRET}@host:1", "nats://host:1"),
        ],
    )
    def test_shown(self, server: str, shown: str) -> None:
        """Neither what is shown to people nor what Python prints has a secret in it."""
        for who in ({"user": "u", "password": SECRET}, {"token": SECRET}):
            connection = Connection(servers=(server,), **who)  # type: ignore[arg-type] # both are texts
            assert shown == connection.shown
            assert SECRET not in f"{connection!r} {connection}"


class TestCredentials:
    """Files with secrets in them."""

    @pytest.fixture
    def seed(self) -> str:
        """A user's seed."""
        made: bytes = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER)
        return made.decode()

    @staticmethod
    def creds(seed: str, jwt: str = "a.b.c") -> str:
        """A credentials file."""
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )

    def test_options(self, tmp_path: Path, seed: str) -> None:
        """The library is told one way in, and where answers go."""
        file = tmp_path / "file"
        ways: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
            ("", {}, {}),
            ("", {"token": SECRET}, {"token": SECRET}),
            ("", {"user": "u"}, {"user": "u", "password": ""}),
            (seed, {"nkey_seed": file}, {"nkeys_seed": str(file)}),
            (f"{seed}\n", {"nkey_seed": file}, {"nkeys_seed": str(file)}),
            (self.creds(seed), {"creds": file}, {"user_credentials": str(file)}),
            ("", {"tls_first": True}, {"tls_handshake_first": True}),
        ]
        for content, fields, expected in ways:
            file.write_text(content, encoding="utf-8")
            options = client_options(Connection(inbox_prefix="_I", **fields))
            assert {"inbox_prefix": "_I"} | expected == options

    def test_wrong_file(self, tmp_path: Path, seed: str) -> None:
        """A file that is none is named, whatever is in it: the library would wait for ever, or show it."""
        file = tmp_path / "file"
        account: bytes = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_ACCOUNT)
        wrong = ["", "SU", SECRET, seed[:-1], seed.lower(), account.decode(), "x" * 70_000]
        contents = [("nkey_seed", text) for text in wrong]
        contents += [("creds", text) for text in (*wrong, seed, self.creds(account.decode()))]
        contents += [("creds", self.creds(seed).replace("USER JWT", "JWT"))]
        contents += [("creds", self.creds(seed, jwt=""))]
        for name, content in contents:
            file.write_text(content, encoding="utf-8")
            fields: dict[str, Any] = {name: file}
            with pytest.raises(ConfigurationError, match=f"{name}: .*file") as refused:
                client_options(Connection(**fields))
            assert not [text for text in (SECRET, seed[:-1]) if text in str(refused.value)]

    def test_read_anew(self, tmp_path: Path, seed: str) -> None:
        """A file that was removed since is named when it is needed again."""
        file = tmp_path / "file"
        file.write_text(seed, encoding="utf-8")
        connection = Connection(nkey_seed=file)
        client_options(connection)
        file.unlink()
        with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
            client_options(connection)

    @pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o604, 1)])
    def test_open_to_others(self, tmp_path: Path, mode: int, warned: int) -> None:
        """A file with a secret that everybody here can read is warned of, by name; a certificate is no secret."""
        secret, certificate = tmp_path / "secret", tmp_path / "certificate"
        secret.touch()
        secret.chmod(mode)
        certificate.touch(mode=0o644)
        with capture_logs() as entries:
            for name in ("creds", "nkey_seed", "context_file"):
                fields: dict[str, Any] = {name: secret, "tls_ca": certificate}
                warn_of_open_files(Connection(**fields))
            warn_of_open_files(Connection(tls_cert=certificate, tls_key=secret))
        assert 4 * warned == len(entries)
        assert {str(secret)} >= {entry["file"] for entry in entries}


class TestStreamSettings:
    """What a person may choose."""

    def test_nothing_chosen(self) -> None:
        """By default nothing is chosen."""
        chosen = StreamSettings()
        assert {
            chosen.log_max_age_seconds,
            chosen.log_max_bytes,
            chosen.replicas,
            chosen.shards,
        } == {None}

    @pytest.mark.parametrize("name", ["log_max_age_seconds", "log_max_bytes", "replicas", "shards"])
    def test_refused(self, name: str) -> None:
        """Nothing may be zero."""
        wrong: dict[str, Any] = {name: 0}
        with pytest.raises(ConfigurationError, match=f"{name} is 0"):
            StreamSettings(**wrong)

    @pytest.mark.parametrize(("name", "identity"), [("", "x"), ("x", ""), ("x" * 254, "x")])
    def test_backends(self, name: str, identity: str) -> None:
        """A backend has a name and an identity."""
        with pytest.raises(ConfigurationError, match="backends"):
            StreamSettings(backends={name: identity})

    def test_shards(self) -> None:
        """There is a limit to shards (B1)."""
        assert StreamSettings(shards=1_024).shards == 1_024
        with pytest.raises(ConfigurationError, match="at most 1024"):
            StreamSettings(shards=1_025)


class TestServerVersion:
    """Which servers are new enough."""

    @pytest.mark.parametrize(
        "version", ["2.12.0", "2.12.0-RC.1", "v2.12.3", "2.15.1", "3.0.0", "10.1"]
    )
    def test_accepted(self, version: str) -> None:
        """2.12 and what came after it."""
        check_server_version(version)

    @pytest.mark.parametrize("version", ["2.11.9", "2.9.0", "1.99.0", "0.0.0", "", "two", "2"])
    def test_refused(self, version: str) -> None:
        """What is older, and what does not say; both versions are named."""
        with pytest.raises(ConfigurationError, match=rf"{version}.*2\.12"):
            check_server_version(version)
