"""How to reach the log's server, and how large a new fleet's log is.

The command line fills these in from options and the environment; ``runtime.jetstream`` uses them. Nothing here
opens a connection, and nothing here may show a secret in its text form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everynode.errors import ConfigurationError
from everynode.runtime.contexts import context_path, read_context, selected_context

SERVER_DEFAULT = "nats://127.0.0.1:4222"
CONNECT_TIMEOUT_MS = 5_000
INBOX_PREFIX_DEFAULT = "_INBOX"
API_PREFIX_DEFAULT = "$JS.API"

LOG_MAX_AGE_SECONDS = 7 * 86_400
LOG_MAX_BYTES = 10 * 1024**3
REPLICAS = 1
SHARDS = 16
SHARDS_MAX = 1_024
BACKEND_LENGTH_MAX = 253
IDENTITY_LENGTH_MAX = 1_024

_SERVER = re.compile(
    r"((nats|tls)://)?([^\s/?#\[\]]*@)?([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+(%\w+)?\])(:(?P<port>[0-9]{1,5}))?/?"
)
_PORT_MAX = 65_535
_SUBJECT = re.compile(r"[^\s.*>\x00-\x1f]+(\.[^\s.*>\x00-\x1f]+)*")

CONTEXT_VARIABLE = "EVERYNODE_NATS_CONTEXT"
_TEXT_VARIABLES = {
    "user": "EVERYNODE_NATS_USER",
    "password": "EVERYNODE_NATS_PASSWORD",  # the name of a variable, not a password
    "token": "EVERYNODE_NATS_TOKEN",  # likewise
    "inbox_prefix": "EVERYNODE_NATS_INBOX_PREFIX",
    "api_prefix": "EVERYNODE_NATS_API_PREFIX",
}
_PATH_VARIABLES = {
    "creds": "EVERYNODE_NATS_CREDS",
    "nkey_seed": "EVERYNODE_NATS_NKEY",
    "tls_ca": "EVERYNODE_NATS_CA",
    "tls_cert": "EVERYNODE_NATS_CERT",
    "tls_key": "EVERYNODE_NATS_KEY",
}
SECRET_FILES = ("creds", "nkey_seed", "tls_key", "context_file")
"""Fields that name a file with a secret in it."""

_WAYS_IN = ("creds", "nkey_seed", "user", "token")
_SAID_TOGETHER = ((*_WAYS_IN, "password"), ("tls_cert", "tls_key"))
"""Fields that make sense only as they were said by one and the same: options, environment or context."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where the server is and who we are to it.

    Attributes:
        servers: URLs, tried in any order: ``nats://host:4222`` or ``tls://host:4222``.
        creds: File with a user's JWT and seed, as ``nsc`` writes it.
        nkey_seed: File with an nkey seed, for servers that know users by their public nkey.
        user: Name, for servers with passwords; only from the environment or a context.
        password: Goes with ``user``.
        token: For servers that know one token for everybody; only from the environment or a context.
        tls_ca: File with the certificates to trust, instead of the system's.
        tls_cert: Our own certificate, for servers that verify clients; goes with ``tls_key``.
        tls_key: Its private key.
        tls_first: The server speaks TLS from the first byte on.
        inbox_prefix: With what the subjects begin on which answers reach us; a role that has one of its own cannot
            hear other roles' answers.
        api_prefix: With what the subjects of JetStream's API begin, where an account imports it under another name.
        context_file: The NATS context that some of this is from.
        name: What the server's monitoring calls this connection.
        connect_timeout_ms: How long one attempt may take.
    """

    servers: tuple[str, ...] = field(default=(SERVER_DEFAULT,), repr=False)
    creds: Path | None = None
    nkey_seed: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str | None = field(default=None, repr=False)
    tls_first: bool = False
    inbox_prefix: str = INBOX_PREFIX_DEFAULT
    api_prefix: str = API_PREFIX_DEFAULT
    context_file: Path | None = None
    name: str = "everynode"
    connect_timeout_ms: int = CONNECT_TIMEOUT_MS

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything tries it."""
        if not self.servers:
            raise ConfigurationError(
                "servers: name at least one NATS server, such as " + SERVER_DEFAULT
            )
        for server in self.servers:
            match = _SERVER.fullmatch(server)
            if match is None or not 1 <= int(match["port"] or 1) <= _PORT_MAX:
                message = (
                    f"servers: {_without_user(server)!r} is not the URL of a NATS server; "
                    f"write nats://HOST:PORT or tls://HOST:PORT, such as {SERVER_DEFAULT}"
                )
                raise ConfigurationError(message)
        self._check_who()
        for name in ("inbox_prefix", "api_prefix"):
            if not _SUBJECT.fullmatch(getattr(self, name)):
                message = f"{name} is {getattr(self, name)!r}; write tokens with dots between them, without * and >"
                raise ConfigurationError(message)
        for name in _PATH_VARIABLES:
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                message = f"{name}: there is no file {path}; name one that this user can read"
                raise ConfigurationError(message)

    def _check_who(self) -> None:
        ways = [name for name in _WAYS_IN if getattr(self, name) is not None]
        if len(ways) > 1:
            message = f"{' and '.join(ways)}: the server takes one of them; leave the others out"
            raise ConfigurationError(message)
        if self.password is not None and self.user is None:
            raise ConfigurationError("password goes with user: name both or neither")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError("tls_cert and tls_key go together: name both or neither")

    @property
    def shown(self) -> str:
        """The servers as they may be shown: without what stands before an ``@``."""
        return ", ".join(_without_user(server) for server in self.servers)

    @classmethod
    def from_environment(
        cls,
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Connection:
        """Put a connection together: what was given, then ``EVERYNODE_NATS...``, then a NATS context.

        The context is the one that was named, by ``overrides`` or ``EVERYNODE_NATS_CONTEXT``. If none was, and nothing
        else says where the server is, it is the one that was selected: its secrets are for its own server only.

        Args:
            overrides: Fields of this class that were given in another way, such as a command's options, and
                ``context``, the name of one; those that are ``None`` or empty leave the environment's value.
            environment: The variables.

        Raises:
            ConfigurationError: A URL is none, a file does not exist, only half of a pair is given, or the context
                cannot be used.
        """
        given = {name: value for name, value in (overrides or {}).items() if value}
        named = given.pop("context", None) or environment.get(CONTEXT_VARIABLE)
        variables = _from_variables(environment)
        if not named and "servers" not in given and "servers" not in variables:
            named = selected_context(environment)
        found: dict[str, Any] = {}
        if named:
            found = read_context(named, environment)
            found["context_file"] = context_path(named, environment)
        for said in (variables, given):
            found = _put_over(found, said)
        if "servers" in found:
            found["servers"] = tuple(server.strip() for server in _listed(found["servers"]))
        for name in found.keys() & _PATH_VARIABLES.keys():
            found[name] = Path(found[name]).expanduser()
        return cls(**found)


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """What a person may choose about a fleet's log when it is created.

    ``None`` is the default when the fleet is created, and "as it is" when it exists: only what was chosen is
    compared with what is there.

    Attributes:
        log_max_age_seconds: How long LOG keeps a message. Default: 7 days.
        log_max_bytes: How much LOG keeps. Default: 10 GiB.
        replicas: On how many servers of a cluster both streams are kept. Default: 1.
        shards: In how many parts the sets are shared out to workers; fixed for the fleet's life. Default: 16.
        backends: Which backends the fleet is to know, by name, and which each of them really is: for adapters that may
            not change a stream, and so cannot write it down themselves. Others that it knows stay.
    """

    log_max_age_seconds: int | None = None
    log_max_bytes: int | None = None
    replicas: int | None = None
    shards: int | None = None
    backends: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no server would take."""
        for name in ("log_max_age_seconds", "log_max_bytes", "replicas", "shards"):
            value: int | None = getattr(self, name)
            if value is not None and value < 1:
                message = f"{name} is {value}; it must be at least 1"
                raise ConfigurationError(message)
        if self.shards is not None and self.shards > SHARDS_MAX:
            message = f"shards is {self.shards}; at most {SHARDS_MAX} are possible"
            raise ConfigurationError(message)
        for name, identity in self.backends.items():
            if (
                not 1 <= len(name) <= BACKEND_LENGTH_MAX
                or not 1 <= len(identity) <= IDENTITY_LENGTH_MAX
            ):
                message = (
                    f"backends: {name!r}={identity!r}: both have a text, and neither a long one"
                )
                raise ConfigurationError(message)


def _without_user(server: str) -> str:
    """Leave out what stands before an ``@``, and what is no port: it may be a password whose ``@`` was forgotten."""
    scheme = "".join(re.findall(r"^\w*://", server))
    host = server[len(scheme) :].rpartition("@")[2]
    return scheme + re.sub(r":(?![0-9]{1,5}/?$)[^\]]*$", ":...", host)


def _from_variables(environment: Mapping[str, str]) -> dict[str, Any]:
    variables = {"servers": "EVERYNODE_NATS"} | _TEXT_VARIABLES | _PATH_VARIABLES
    return {
        name: environment[variable]
        for name, variable in variables.items()
        if environment.get(variable)
    }


def _put_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Let what was said above count; who we are there is nothing to add to by what was said below."""
    left = dict(below)
    is_in_url = any("@" in server for server in _listed(above.get("servers", ())))
    for together in _SAID_TOGETHER:
        if above.keys() & set(together) or (is_in_url and "user" in together):
            left = {name: value for name, value in left.items() if name not in together}
    return left | dict(above)


def _listed(servers: str | Iterable[str]) -> list[str]:
    return servers.split(",") if isinstance(servers, str) else list(servers)
