"""How to reach the log's server, and how large a new fleet's log is.

The command line fills these in from options and the environment; ``runtime.jetstream`` uses them. Nothing here
opens a connection, and nothing here may show a secret in its text form.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everynode.errors import ConfigurationError

SERVER_DEFAULT = "nats://127.0.0.1:4222"
CONNECT_TIMEOUT_MS = 5_000

LOG_MAX_AGE_SECONDS = 7 * 86_400
LOG_MAX_BYTES = 10 * 1024**3
REPLICAS = 1
SHARDS = 16
SHARDS_MAX = 1_024

_SERVER = re.compile(
    r"((nats|tls)://)?(\S*@)?([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+(%\w+)?\])(:(?P<port>[0-9]{1,5}))?/?"
)
_PORT_MAX = 65_535

_TEXT_VARIABLES = {
    "user": "EVERYNODE_NATS_USER",
    "password": "EVERYNODE_NATS_PASSWORD",  # the name of a variable, not a password
}
_PATH_VARIABLES = {
    "creds": "EVERYNODE_NATS_CREDS",
    "nkey_seed": "EVERYNODE_NATS_NKEY",
    "tls_ca": "EVERYNODE_NATS_CA",
    "tls_cert": "EVERYNODE_NATS_CERT",
    "tls_key": "EVERYNODE_NATS_KEY",
}


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where the server is and who we are to it.

    Attributes:
        servers: URLs, tried in any order: ``nats://host:4222`` or ``tls://host:4222``.
        creds: File with a user's JWT and seed, as ``nsc`` writes it.
        nkey_seed: File with an nkey seed, for servers that know users by their public nkey.
        user: Name, for servers with passwords; only from the environment.
        password: Goes with ``user``.
        tls_ca: File with the certificates to trust, instead of the system's.
        tls_cert: Our own certificate, for servers that verify clients; goes with ``tls_key``.
        tls_key: Its private key.
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
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigurationError("tls_cert and tls_key go together: name both or neither")
        for name in _PATH_VARIABLES:
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                message = f"{name}: there is no file {path}; name one that this user can read"
                raise ConfigurationError(message)

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
        """Read ``EVERYNODE_NATS`` (servers, separated by commas) and ``EVERYNODE_NATS_...``.

        Args:
            overrides: Fields of this class that were given in another way, such as a command's options; those
                that are ``None`` or empty leave the environment's value.
            environment: The variables.

        Raises:
            ConfigurationError: A URL is none, a file does not exist, or only half of a pair is given.
        """
        found: dict[str, Any] = {}
        if environment.get("EVERYNODE_NATS"):
            found["servers"] = environment["EVERYNODE_NATS"]
        for name, variable in (_TEXT_VARIABLES | _PATH_VARIABLES).items():
            if environment.get(variable):
                found[name] = environment[variable]
        found |= {name: value for name, value in (overrides or {}).items() if value}
        if isinstance(found.get("servers"), str):
            found["servers"] = found["servers"].split(",")
        if "servers" in found:
            found["servers"] = tuple(server.strip() for server in found["servers"])
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
    """

    log_max_age_seconds: int | None = None
    log_max_bytes: int | None = None
    replicas: int | None = None
    shards: int | None = None

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


def _without_user(server: str) -> str:
    scheme, separator, rest = server.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
