"""A server that lets in only the roles of deploy/nats, by the very files that are there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped] # it has no types, and no stubs exist

from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.settings import Connection

DEPLOY = Path(__file__).resolve().parents[2] / "deploy" / "nats"
FLEET = "default"
PREFIX = f"everynode.{FLEET}"
LOG = f"everynode-{FLEET}-LOG"
STATE = f"everynode-{FLEET}-STATE"

READER = "reader"
ROLES = ("worker", "adapter-kubernetes", "adapter-simulated", "operator", READER)
API = "$JS.everynode.API"
"""How the roles call JetStream's API: it is in an account without users, and theirs import it."""


def password(role: str) -> str:
    """The password of a role on the test's server."""
    return f"secret-of-{role}"


def seed(role: str) -> bytes:
    """The nkey seed of a role on the test's server."""
    made: bytes = nkeys.encode_seed(role.ljust(32).encode(), nkeys.PREFIX_BYTE_USER)
    return made


def public(role: str) -> str:
    """The public half of a role's nkey."""
    text: str = nkeys.from_seed(bytearray(seed(role))).public_key.decode()
    return text


def permissions(role: str) -> dict[str, Any]:
    """What the files allow a role."""
    read: dict[str, Any] = json.loads((DEPLOY / "roles" / f"{role}.json").read_text("utf-8"))
    return read


def inbox(role: str) -> str:
    """The prefix of a role's inboxes."""
    return f"_INBOX_{role.replace('-', '_')}"


def as_role(server: EmbeddedServer, role: str, **fields: Any) -> Connection:
    """How a role connects; without other fields, with its password."""
    who = fields or {"user": role, "password": password(role)}
    return Connection(servers=(server.url,), inbox_prefix=inbox(role), api_prefix=API, **who)


@contextmanager
def server_variables() -> Iterator[None]:
    """Set the variables that the server's files refer to."""
    names = {role: f"EVERYNODE_{role.upper().replace('-', '_')}" for role in ROLES}
    variables = {f"{name}_PASSWORD": password(role) for role, name in names.items()}
    variables |= {f"{name}_NKEY": public(role) for role, name in names.items()}
    with variables_set(variables):
        yield


@contextmanager
def variables_set(variables: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def including(data_dir: Path, name: str) -> str:
    """What a server with this data directory includes to have a file of deploy/nats; it takes no absolute path."""
    return f'include "{os.path.relpath(DEPLOY / name, data_dir)}"\n'


def violations(server: EmbeddedServer) -> list[str]:
    """What the server did not let anybody do so far, by its own log."""
    lines = (server.data_dir / "nats-server.log").read_text("utf-8").splitlines()
    return [line for line in lines if "Violation" in line]
