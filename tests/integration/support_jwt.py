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
_SERVICE = re.compile(
    r'service: \{ account: EVERYNODE, subject: "([^"]+)" \}(?: *\}?, to: "([^"]+)")?'
)
_STREAM = re.compile(r'stream: \{ account: EVERYNODE, subject: "([^"]+)" \}')


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


def _exchanged(account: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Read what the readers' account imports, and what the other one exports for that."""
    imports, exports = [], []
    text = (support.DEPLOY / "imports.conf").read_text("utf-8")
    for subject, here in _SERVICE.findall(text):
        about = {"name": subject, "subject": subject, "type": "service"}
        exports.append(about)
        imports.append(about | {"account": account, "local_subject": here or subject})
    for subject in _STREAM.findall(text):
        about = {"name": subject, "subject": subject, "type": "stream"}
        exports.append(about)
        imports.append(about | {"account": account})
    return imports, exports


def server_config(directory: Path) -> str:
    """Write credentials for each role into a directory; what the server has to know is returned."""
    operator = Key(nkeys.PREFIX_BYTE_OPERATOR, "operator")
    fleet = Key(nkeys.PREFIX_BYTE_ACCOUNT, "fleet")
    readers = Key(nkeys.PREFIX_BYTE_ACCOUNT, "readers")
    system = Key(nkeys.PREFIX_BYTE_ACCOUNT, "system")
    imports, exports = _exchanged(fleet.public)
    of_fleet = {"limits": _LIMITS | _JETSTREAM, "exports": exports}
    of_readers = {"limits": _LIMITS, "imports": imports}
    for role in support.ROLES:
        account = readers if role == support.READER else fleet
        write_credentials(directory / f"{role}.creds", account, role, support.permissions(role))
    return (
        f"operator: {operator.sign(operator, 'operator', 'operator', {})}\n"
        f"system_account: {system.public}\nresolver: MEMORY\nresolver_preload: {{\n"
        f"  {system.public}: {operator.sign(system, 'system', 'account', {'limits': _LIMITS})}\n"
        f"  {fleet.public}: {operator.sign(fleet, 'fleet', 'account', of_fleet)}\n"
        f"  {readers.public}: {operator.sign(readers, 'readers', 'account', of_readers)}\n}}\n"
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
