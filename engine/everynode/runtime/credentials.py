"""Who we are to the server, as the NATS library takes it: user, token, nkey or credentials file.

``runtime.link`` asks for it each time it connects, so that a file that was replaced is read anew. What is in the files
is looked at before the library gets them: it waits for ever for the end of a credentials file that is none. Nothing
that is said here shows what a file has in it.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import structlog

from everynode.errors import ConfigurationError
from everynode.runtime.contexts import read_bounded
from everynode.runtime.settings import SECRET_FILES, Connection

CREDENTIALS_BYTES_MAX = 64 * 1024

_JWT = re.compile(rb"^-+BEGIN NATS USER JWT-+\r?\n([A-Za-z0-9_.=-]+)\r?\n", re.MULTILINE)
_SEED = re.compile(rb"^-+BEGIN USER NKEY SEED-+\r?\n([A-Z2-7]+)\r?\n", re.MULTILINE)

log = structlog.get_logger(__name__)


def client_options(connection: Connection) -> dict[str, Any]:
    """Say who we are and on which subjects answers reach us, in the words of ``Client.connect``.

    Raises:
        ConfigurationError: A file cannot be read, or is not what it should be.
    """
    options: dict[str, Any] = {"inbox_prefix": connection.inbox_prefix}
    if connection.tls_first:
        options["tls_handshake_first"] = True
    if connection.creds is not None:
        _check_credentials(connection.creds)
        options["user_credentials"] = str(connection.creds)
    elif connection.nkey_seed is not None:
        seed = read_bounded(connection.nkey_seed, "nkey_seed", CREDENTIALS_BYTES_MAX)
        _check_seed(seed.strip(), connection.nkey_seed)
        options["nkeys_seed"] = str(connection.nkey_seed)
    elif connection.user is not None:
        options |= {"user": connection.user, "password": connection.password or ""}
    elif connection.token is not None:
        options["token"] = connection.token
    return options


def warn_of_open_files(connection: Connection) -> None:
    """Log a warning for each file with a secret in it that every user of this machine can read."""
    for name in SECRET_FILES:
        path: Path | None = getattr(connection, name)
        if path is not None and is_open_to_others(path):
            log.warning(
                "every user of this machine can read this file: chmod o= it",
                setting=name,
                file=str(path),
            )


def is_open_to_others(path: Path) -> bool:
    """Whether users who neither own a file nor are in its group can read it."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _check_credentials(path: Path) -> None:
    content = read_bounded(path, "creds", CREDENTIALS_BYTES_MAX)
    seed = _SEED.search(content)
    if _JWT.search(content) is None or seed is None:
        message = f"creds: {path} is no credentials file with a user's JWT and seed, as `nsc generate creds` writes it"
        raise ConfigurationError(message)
    _check_seed(seed[1], path, "creds")


def _check_seed(seed: bytes, path: Path, name: str = "nkey_seed") -> None:
    import nkeys  # type: ignore[import-untyped] # noqa: PLC0415 - it has no types; takes long, and most have no seed

    try:
        pair = nkeys.from_seed(bytearray(seed))
        is_user = pair.public_key.startswith(b"U")
        pair.wipe()
    except Exception:  # noqa: BLE001 - the library raises what it meets, and might show the seed
        is_user = False
    if not is_user:
        message = f"{name}: the seed in {path} is no user's seed; it begins with SU, and is alone on its line"
        raise ConfigurationError(message)
