"""NATS contexts: found where other NATS tools keep them, read with their words, and never shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from everynode.errors import ConfigurationError
from everynode.runtime.contexts import CONTEXT_BYTES_MAX, read_context, selected_context
from everynode.runtime.settings import Connection

SECRET = "not-to-be-seen"  # noqa: S105 - it opens nothing


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing but the home is set."""
    return {"HOME": str(tmp_path)}


def write(home: dict[str, str], name: str, fields: dict[str, Any] | str | bytes) -> Path:
    """Write a context."""
    path = Path(home["HOME"], ".config", "nats", "context", f"{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(fields) if isinstance(fields, dict) else fields
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def select(home: dict[str, str], name: str) -> None:
    """Make a context the selected one."""
    Path(home["HOME"], ".config", "nats", "context.txt").write_text(f"{name}\n", encoding="utf-8")


class TestRead:
    """One file."""

    def test_fields(self, home: dict[str, str], tmp_path: Path) -> None:
        """Each field fills in that of a connection, those that are empty or about something else none."""
        for name in ("u.creds", "c.pem", "c.key", "ca.pem"):
            (tmp_path / name).touch()
        path = write(
            home,
            "prod",
            {
                "description": "ours",
                "url": "nats://a:1,nats://b:2",
                "token": "",
                "creds": "~/u.creds",
                "cert": str(tmp_path / "c.pem"),
                "key": str(tmp_path / "c.key"),
                "ca": str(tmp_path / "ca.pem"),
                "tls_first": True,
                "inbox_prefix": "_INBOX_me",
                "jetstream_domain": "hub",
                "color_scheme": "cyan",
            },
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HOME", home["HOME"])
            found = Connection.from_environment({"context": "prod"}, home)
        assert found == Connection(
            servers=("nats://a:1", "nats://b:2"),
            creds=tmp_path / "u.creds",
            tls_cert=tmp_path / "c.pem",
            tls_key=tmp_path / "c.key",
            tls_ca=tmp_path / "ca.pem",
            tls_first=True,
            inbox_prefix="_INBOX_me",
            api_prefix="$JS.hub.API",
            context_file=path,
        )

    def test_directory(self, home: dict[str, str], tmp_path: Path) -> None:
        """XDG_CONFIG_HOME goes before the home."""
        other = {"HOME": str(tmp_path / "other")}
        write(home, "here", {"url": "nats://home:1"})
        write(other, "here", {"url": "nats://other:1"})
        moved = other | {"XDG_CONFIG_HOME": str(tmp_path / ".config")}
        assert {"servers": "nats://other:1"} == read_context("here", other)
        assert {"servers": "nats://home:1"} == read_context("here", moved)

    def test_several_ways_in(self, home: dict[str, str]) -> None:
        """Of several ways to say who we are the first counts, as it does for other tools."""
        fields = {"user": "u", "password": "p", "creds": "c", "nkey": "n", "token": "t"}
        expected = {"user": "u", "creds": "c", "nkey_seed": "n", "token": "t"}
        for given, name in zip(("user", "creds", "nkey", "token"), expected, strict=True):
            write(home, "many", fields)
            found = read_context("many", home)
            found.pop("password", None)
            assert {name: expected[name]} == found
            del fields[given]
            fields.pop("password", None)

    @pytest.mark.parametrize("name", ["", "..", "a/b", "../a", "x" * 256, "a\0b", "absent"])
    def test_no_context(self, home: dict[str, str], name: str) -> None:
        """What cannot be a name, and what there is not, is refused; no other file is ever read."""
        write(home, "there", {})
        with pytest.raises(ConfigurationError, match="NATS context"):
            read_context(name, home)

    def test_no_home(self) -> None:
        """Without a home there are no contexts."""
        assert not selected_context({})
        with pytest.raises(ConfigurationError, match="HOME"):
            read_context("any", {})

    @pytest.mark.parametrize(
        "content",
        [
            *(
                "",
                "[]",
                "null",
                f'"{SECRET}"',
                f'{{"password": "{SECRET}"',
                f'{{"token": {SECRET}}}',
            ),
            *("[" * 10_000, b"\xff\xfe", '{"password": "' + "x" * CONTEXT_BYTES_MAX),
            f'{{"password": ["{SECRET}"]}}',
            f'{{"nsc": "nsc://o/a/u", "token": "{SECRET}"}}',
            f'{{"user_seed": "{SECRET}"}}',
            f'{{"windows_cert_store": "user", "token": "{SECRET}"}}',
            f'{{"token": "{SECRET}", "tls_first": "yes"}}',
        ],
    )
    def test_refused(self, home: dict[str, str], content: str | bytes) -> None:
        """What is no context is refused by its name, and without a word of what is in it."""
        write(home, "odd", content)
        with pytest.raises(ConfigurationError, match="NATS context odd") as refused:
            read_context("odd", home)
        assert SECRET not in f"{refused.value} {refused.value.__cause__!r}"

    def test_secret(self, home: dict[str, str]) -> None:
        """A connection does not show what it has from a context."""
        write(home, "prod", {"url": f"nats://{SECRET}@h", "user": "u", "password": SECRET})
        write(home, "token", {"url": f"nats://u:{SECRET}@h", "token": SECRET})
        for name in ("prod", "token"):
            found = Connection.from_environment({"context": name}, home)
            assert SECRET in {found.password, found.token}
            assert SECRET not in f"{found!r} {found} {found.shown}"


class TestChosen:
    """Which of them counts, and for what."""

    def test_selected(self, home: dict[str, str]) -> None:
        """Where nothing says where the server is, the selected context does; where nothing is selected, the default."""
        path = write(home, "prod", {"url": "nats://prod:1", "token": SECRET})
        assert Connection() == Connection.from_environment({}, home)
        select(home, "prod")
        expected = Connection(servers=("nats://prod:1",), token=SECRET, context_file=path)
        assert expected == Connection.from_environment({}, home)

    def test_secrets_stay_with_their_server(self, home: dict[str, str]) -> None:
        """The secrets of the selected context do not go to a server that was named otherwise."""
        write(home, "prod", {"url": "nats://prod:1", "token": SECRET})
        select(home, "prod")
        elsewhere = Connection(servers=("nats://else:1",))
        assert elsewhere == Connection.from_environment({"servers": ["nats://else:1"]}, home)
        variables = home | {"EVERYNODE_NATS": "nats://else:1"}
        assert elsewhere == Connection.from_environment({}, variables)

    def test_order(self, home: dict[str, str]) -> None:
        """An option goes before the environment, and that before a context; a named one before the selected one."""
        for name in ("selected", "variable", "option"):
            write(home, name, {"url": f"nats://{name}:1", "inbox_prefix": f"_{name}"})
        select(home, "selected")
        variables = home | {"EVERYNODE_NATS_CONTEXT": "variable"}

        def found(given: dict[str, Any], variables: dict[str, str]) -> tuple[str, str]:
            connection = Connection.from_environment(given, variables)
            return connection.servers[0], connection.inbox_prefix

        assert ("nats://selected:1", "_selected") == found({}, home)
        assert ("nats://variable:1", "_variable") == found({}, variables)
        assert ("nats://option:1", "_option") == found({"context": "option"}, variables)
        variables |= {"EVERYNODE_NATS_INBOX_PREFIX": "_more"}
        assert ("nats://option:1", "_more") == found({"context": "option"}, variables)
        variables |= {"EVERYNODE_NATS": "nats://more:1"}
        assert ("nats://more:1", "_more") == found({"context": "option"}, variables)
        given = {"context": "option", "servers": ["nats://most:1"]}
        assert ("nats://most:1", "_more") == found(given, variables)

    def test_who_is_said_as_a_whole(self, home: dict[str, str], tmp_path: Path) -> None:
        """Who says who we are says it alone: nothing of another way, or of another user, is added."""
        (tmp_path / "u.creds").touch()
        write(home, "prod", {"url": "nats://prod:1", "user": "u", "password": SECRET})
        variables = home | {"EVERYNODE_NATS_CONTEXT": "prod"}
        creds = Connection.from_environment({"creds": tmp_path / "u.creds"}, variables)
        assert (None, None) == (creds.user, creds.password)
        other = Connection.from_environment({}, variables | {"EVERYNODE_NATS_USER": "other"})
        assert ("other", None) == (other.user, other.password)
        in_url = Connection.from_environment({"servers": ["nats://t@prod:1"]}, variables)
        assert (None, None) == (in_url.user, in_url.password)
        same = Connection.from_environment({"servers": ["nats://prod:2"]}, variables)
        assert ("u", SECRET) == (same.user, same.password)

    def test_selected_is_gone(self, home: dict[str, str]) -> None:
        """A selection of what is not there is an error: the default might be the wrong fleet."""
        write(home, "prod", {})
        select(home, "gone")
        with pytest.raises(ConfigurationError, match="NATS context gone"):
            Connection.from_environment({}, home)
