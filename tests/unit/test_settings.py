"""How to reach the server: from options and the environment, and never a secret in what is shown."""

from pathlib import Path
from typing import Any

import pytest

from everynode.errors import ConfigurationError
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
        connection = Connection.from_environment(
            environment={
                "EVERYNODE_NATS": "nats://a:1, nats://b:2",
                "EVERYNODE_NATS_USER": "u",
                "EVERYNODE_NATS_PASSWORD": SECRET,
                "EVERYNODE_NATS_CREDS": str(file),
                "EVERYNODE_NATS_NKEY": str(file),
                "EVERYNODE_NATS_CA": str(file),
                "EVERYNODE_NATS_CERT": str(file),
                "EVERYNODE_NATS_KEY": str(file),
            }
        )
        assert connection == Connection(
            servers=("nats://a:1", "nats://b:2"),
            user="u",
            password=SECRET,
            creds=file,
            nkey_seed=file,
            tls_ca=file,
            tls_cert=file,
            tls_key=file,
        )

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
            ),
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
        connection = Connection(servers=(server,), user="u", password=SECRET)
        assert connection.shown == shown
        assert SECRET not in f"{connection!r} {connection}"


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
