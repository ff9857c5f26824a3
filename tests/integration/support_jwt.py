"""A server whose accounts and users are JWTs: an operator signs accounts, accounts sign users.

It makes by hand what ``nsc`` makes, out of the same files of deploy/nats that servers with passwords use, and the
credentials files that go with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped] # it has no types, and no stubs exist
from tests.integration import support_security as support

_LIMITS = {
    "subs": -1,
    "data": -1,
    "payload": -1,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": -1,
}
_JETSTREAM = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
_EXPORT = re.compile(
    r'\{ (service|stream): "([^"]+)", accounts: \[[^\]]+\]'
    r'(?:, response_type: (\w+), response_threshold: "(\d+)m")? \}'
)
_IMPORT = re.compile(
    r'\{ (service|stream): \{ account: (\w+), subject: "([^"]+)" \}(?:, to: "([^"]+)")? \}'
)
_NANOSECONDS_PER_MINUTE = 60 * 10**9
_FILES = {
    "EVERYNODE": "exports.conf",
    "EVERYNODE_WRITERS": "writers.conf",
    "EVERYNODE_READERS": "readers.conf",
}


class Key:
    """A pair of keys that signs JWTs. The same name gives the same pair."""

    def __init__(self, kind: int, name: str) -> None:
        """Derive it."""
        self.seed: bytes = nkeys.encode_seed(hashlib.sha256(name.encode()).digest(), kind)
        self._pair = nkeys.from_seed(bytearray(self.seed))
        self.public: str = self._pair.public_key.decode()

    def sign(self, subject: Key, name: str, kind: str, about: dict[str, Any]) -> str:
        """Say something about a subject."""
        claims = {
            "jti": hashlib.sha256(name.encode()).hexdigest(),
            "iat": 1_700_000_000,
            "iss": self.public,
            "sub": subject.public,
            "name": name,
            "nats": about | {"type": kind, "version": 2},
        }
        head = _text({"typ": "JWT", "alg": "ed25519-nkey"})
        body = f"{head}.{_text(claims)}"
        return f"{body}.{_base64(self._pair.sign(body.encode()))}"


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _text(fields: dict[str, Any]) -> str:
    return _base64(json.dumps(fields).encode())


def _exchanged(text: str, keys: dict[str, Key]) -> dict[str, list[dict[str, Any]]]:
    """Read what an account exports and imports."""
    exports: list[dict[str, Any]] = []
    imports: list[dict[str, Any]] = []
    for kind, subject, response, minutes in _EXPORT.findall(text):
        about: dict[str, Any] = {"name": subject, "subject": subject, "type": kind}
        if response:
            about |= {
                "response_type": response.title(),
                "response_threshold": int(minutes) * _NANOSECONDS_PER_MINUTE,
            }
        exports.append(about)
    for kind, account, subject, here in _IMPORT.findall(text):
        about = {"name": subject, "subject": subject, "type": kind, "account": keys[account].public}
        local = {"local_subject": here or subject} if kind == "service" else {}
        imports.append(about | local)
    # A line that was not understood must not go unnoticed: a test would pass for want of what it is about.
    assert text.count("  { ") == len(exports) + len(imports)
    return {"exports": exports, "imports": imports}


def server_config(directory: Path) -> str:
    """Write credentials for each role into a directory; what the server has to know is returned."""
    operator = Key(nkeys.PREFIX_BYTE_OPERATOR, "operator")
    system = Key(nkeys.PREFIX_BYTE_ACCOUNT, "system")
    keys = {name: Key(nkeys.PREFIX_BYTE_ACCOUNT, name) for name in _FILES}
    for role in support.ROLES:
        account = keys["EVERYNODE_READERS" if role == support.READER else "EVERYNODE_WRITERS"]
        write_credentials(directory / f"{role}.creds", account, role, support.permissions(role))
    accounts = {system: operator.sign(system, "system", "account", {"limits": _LIMITS})}
    for name, key in keys.items():
        about = _exchanged((support.DEPLOY / _FILES[name]).read_text("utf-8"), keys)
        limits = _LIMITS | (_JETSTREAM if name == "EVERYNODE" else {})
        accounts[key] = operator.sign(key, name, "account", about | {"limits": limits})
    preloaded = "".join(f"  {key.public}: {signed}\n" for key, signed in accounts.items())
    return (
        f"operator: {operator.sign(operator, 'operator', 'operator', {})}\n"
        f"system_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{\n{preloaded}}}\n"
    )


def write_credentials(path: Path, account: Key, name: str, allowed: dict[str, Any]) -> None:
    """Write a file as `nsc generate creds` does."""
    user = Key(nkeys.PREFIX_BYTE_USER, name)
    about = {"pub": allowed["publish"], "sub": allowed["subscribe"]}
    about |= {"subs": -1, "data": -1, "payload": -1}
    signed = account.sign(user, name, "user", about)
    path.touch(mode=0o600)
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{signed}\n------END NATS USER JWT------\n\n"
        "-----BEGIN USER NKEY SEED-----\n"
        f"{user.seed.decode()}\n------END USER NKEY SEED------\n",
        encoding="utf-8",
    )


def stranger_credentials(path: Path) -> None:
    """Write credentials that an account signed which the server does not know."""
    account = Key(nkeys.PREFIX_BYTE_ACCOUNT, "stranger")
    write_credentials(path, account, "operator", support.permissions("operator"))
