"""NATS contexts: how other NATS tools keep, under a name, where a server is and who we are to it.

``runtime.settings`` asks for one when it puts a connection together. A context is a JSON file of a person's own; one of
them may be the selected one. This module knows the files and their words, and neither options nor servers; what a file
has as a secret is never part of what is said about the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from everynode.errors import ConfigurationError

CONTEXT_BYTES_MAX = 64 * 1024
NAME_LENGTH_MAX = 255

FIELDS = {
    "url": "servers",
    "user": "user",
    "password": "password",
    "token": "token",
    "creds": "creds",
    "nkey": "nkey_seed",
    "cert": "tls_cert",
    "key": "tls_key",
    "ca": "tls_ca",
    "tls_first": "tls_first",
    "inbox_prefix": "inbox_prefix",
    "jetstream_api_prefix": "api_prefix",
}
"""A context's fields, and what a connection calls them. Others say nothing about a connection."""

NOT_SUPPORTED = ("nsc", "user_jwt", "user_seed", "socks_proxy", "windows_cert_store")
"""Fields without which the context would mean another connection than the one that we would make."""

_ONE_OF = ("user", "creds", "nkey", "token")  # the first that is there counts, as in other tools


def context_directory(environment: Mapping[str, str]) -> Path | None:
    """Name the directory where contexts are; ``None`` if the environment has no home."""
    if environment.get("XDG_CONFIG_HOME"):
        return Path(environment["XDG_CONFIG_HOME"]) / "nats"
    if environment.get("HOME"):
        return Path(environment["HOME"]) / ".config" / "nats"
    return None


def selected_context(environment: Mapping[str, str]) -> str:
    """Name the context that was selected (``nats context select``); empty if none was.

    Raises:
        ConfigurationError: The file that says so cannot be read.
    """
    directory = context_directory(environment)
    if directory is None or not (directory / "context.txt").is_file():
        return ""
    return (
        read_bounded(directory / "context.txt", "the selected NATS context")
        .decode(errors="replace")
        .strip()
    )


def context_path(name: str, environment: Mapping[str, str]) -> Path:
    """Name the file of a context.

    Raises:
        ConfigurationError: No context can be called so, or there is none of that name.
    """
    if not name or len(name) > NAME_LENGTH_MAX or ".." in name or "/" in name or "\0" in name:
        message = (
            f"NATS context {name!r}: that is no name of a context; `nats context ls` lists them"
        )
        raise ConfigurationError(message)
    directory = context_directory(environment)
    if directory is None:
        message = f"NATS context {name}: neither HOME nor XDG_CONFIG_HOME says where contexts are"
        raise ConfigurationError(message)
    path = directory / "context" / f"{name}.json"
    if not path.is_file():
        message = (
            f"NATS context {name}: there is no file {path}; `nats context ls` lists what there is"
        )
        raise ConfigurationError(message)
    return path


def read_context(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Read a context into fields of ``settings.Connection``; what it leaves empty is left out.

    Raises:
        ConfigurationError: There is none of that name, or it cannot be used.
    """
    path = context_path(name, environment)
    content = read_bounded(path, f"NATS context {name}")
    try:
        fields = msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Without what the decoder said, and not chained: that may quote the file.
        message = (
            f"NATS context {name}: {path} is not a JSON object; `nats context edit {name}` mends it"
        )
        raise ConfigurationError(message) from None
    for field in NOT_SUPPORTED:
        if fields.get(field):
            message = f"NATS context {name}: {field} is not supported here; use creds, nkey, user or token"
            raise ConfigurationError(message)
    for field in (*FIELDS, "jetstream_domain"):
        wanted = bool if field == "tls_first" else str
        if not isinstance(fields.get(field, wanted()), wanted):
            message = f"NATS context {name}: {field} must be {'true or false' if wanted is bool else 'a text'}"
            raise ConfigurationError(message)
    return _translated(fields)


def _translated(fields: dict[str, Any]) -> dict[str, Any]:
    chosen = next((field for field in _ONE_OF if fields.get(field)), None)
    left_out = {field for field in _ONE_OF if field != chosen}
    if chosen != "user":
        left_out.add("password")
    if not fields.get("jetstream_api_prefix") and fields.get("jetstream_domain"):
        fields["jetstream_api_prefix"] = f"$JS.{fields['jetstream_domain']}.API"
    return {
        name: fields[field]
        for field, name in FIELDS.items()
        if fields.get(field) and field not in left_out
    }


def read_bounded(path: Path, what: str, bytes_max: int = CONTEXT_BYTES_MAX) -> bytes:
    """Read a file that somebody named, if it is as small as such files are.

    Args:
        path: The file.
        what: What it should be; for errors.
        bytes_max: How large it may be.

    Raises:
        ConfigurationError: It cannot be read, or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        message = f"{what}: {path} cannot be read: {error.strerror}"
        raise ConfigurationError(message) from error
    if len(content) > bytes_max:
        message = f"{what}: {path} has more than {bytes_max} bytes; name the right file"
        raise ConfigurationError(message)
    return content
