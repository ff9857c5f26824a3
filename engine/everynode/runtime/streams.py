"""The two streams of a fleet: what they must be like, making them, and checking them.

Used by ``runtime.jetstream`` when it connects. LOG keeps everything for a while; STATE keeps the last message of
what lasts, and the server itself fills it from LOG. Nothing here deletes a stream or changes how it is set up:
a difference is reported, and a person decides.
"""

from __future__ import annotations

import asyncio
import base64
import random
import re
from typing import Any

import structlog

from everynode.errors import ConfigurationError, UnavailableError
from everynode.runtime.link import ApiRefusal, Link
from everynode.runtime.settings import (
    LOG_MAX_AGE_SECONDS,
    LOG_MAX_BYTES,
    REPLICAS,
    SHARDS,
    StreamSettings,
)
from everynode.wire import SCHEMA_VERSION, Subjects

STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
MESSAGE_NOT_FOUND = 10037
STORAGE_INSUFFICIENT = frozenset({10023, 10047, 10028, 10104})
JETSTREAM_DISABLED = frozenset({10039, 10076})

DUPLICATE_WINDOW_SECONDS = 1  # we send no message ids: what is repeated is harmless by its content
METADATA_ATTEMPTS_MAX = 10
METADATA_SETTLE_MS = 100

SCHEMA = "everynode.dev/schema"
SHARD_COUNT = "everynode.dev/shards"
BACKEND = "everynode.dev/backend."

_NANOSECONDS = 1_000_000_000

log = structlog.get_logger(__name__)


def log_name(fleet: str) -> str:
    """Name a fleet's stream LOG."""
    return f"everynode-{fleet}-LOG"


def state_name(fleet: str) -> str:
    """Name a fleet's stream STATE."""
    return f"everynode-{fleet}-STATE"


def log_config(subjects: Subjects, settings: StreamSettings) -> dict[str, Any]:
    """Describe LOG as JetStream's API takes it."""
    return {
        "name": log_name(subjects.fleet),
        "description": "everynode: every event, decision, command and outcome, in one order",
        "subjects": subjects.stored(),
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": settings.replicas or REPLICAS,
        "max_age": (settings.log_max_age_seconds or LOG_MAX_AGE_SECONDS) * _NANOSECONDS,
        "max_bytes": settings.log_max_bytes or LOG_MAX_BYTES,
        "duplicate_window": DUPLICATE_WINDOW_SECONDS * _NANOSECONDS,
        "allow_atomic": True,
        "allow_msg_ttl": True,
        "allow_direct": True,
        "metadata": {SCHEMA: str(SCHEMA_VERSION), SHARD_COUNT: str(subjects.shards)},
    }


def state_config(subjects: Subjects, settings: StreamSettings) -> dict[str, Any]:
    """Describe STATE as JetStream's API takes it."""
    kept = [{"src": subject, "dest": subject} for subject in subjects.kept()]
    return {
        "name": state_name(subjects.fleet),
        "description": "everynode: the last message of each node, set, revision, pod and status",
        "sources": [{"name": log_name(subjects.fleet), "subject_transforms": kept}],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "num_replicas": settings.replicas or REPLICAS,
        "max_msgs_per_subject": 1,
        "allow_msg_ttl": True,
        "allow_direct": True,
    }


async def open_streams(
    link: Link, fleet: str, create: StreamSettings | None
) -> tuple[Subjects, dict[str, Any]]:
    """Find a fleet's streams, or make them, and check that they are what this program needs.

    Args:
        link: Where.
        fleet: Which fleet.
        create: Make what is absent like this, and compare what was chosen; ``None``: make nothing.

    Returns:
        The fleet's subjects, and LOG's settings as the server has them.

    Raises:
        ConfigurationError: The fleet does not exist, a stream differs from what is needed, or, with ``create``,
            STATE was filled from another LOG.
        UnavailableError: The server did not answer.
    """
    chosen = create or StreamSettings()
    # STATE first: LOG is made before it, so a STATE without LOG is never one that someone makes right now.
    state = await stream_config(link, state_name(fleet))
    found = await stream_config(link, log_name(fleet))
    if found is None and create is None:
        message = f"fleet {fleet} does not exist on this server: `everynode fleet create {fleet}` makes it"
        raise ConfigurationError(message)
    subjects = Subjects(fleet, _shards_of(fleet, found) if found else chosen.shards or SHARDS)
    if found is None:
        if state is not None:
            raise _left_behind(fleet, "LOG does not exist any more")
        found = await _create(link, log_config(subjects, chosen))
    if chosen.shards is not None and chosen.shards != subjects.shards:
        raise _difference(log_name(fleet), "shards", chosen.shards, subjects.shards)
    compare(log_config(subjects, chosen), found, _left_open(chosen, with_limits=True))
    await _open_state(link, subjects, chosen, make=create is not None)
    if create is not None:
        await _check_origin(link, fleet)
        for backend, identity in sorted(create.backends.items()):
            await record_backend(link, fleet, backend, identity)
    return subjects, found


async def _open_state(
    link: Link, subjects: Subjects, chosen: StreamSettings, *, make: bool
) -> None:
    wanted = state_config(subjects, chosen)
    found = await stream_config(link, wanted["name"])
    if found is None and not make:
        message = (
            f"stream {wanted['name']} is missing: "
            f"`everynode fleet create {subjects.fleet}` makes it anew from LOG"
        )
        raise ConfigurationError(message)
    if found is None:
        found = await _create(link, wanted)
    compare(wanted, found, _left_open(chosen, with_limits=False))


async def _check_origin(link: Link, fleet: str) -> None:
    """Refuse a STATE that came out of another LOG: it would take in nothing until this one has grown past that."""
    kept = await _last_origin(link, state_name(fleet))
    last = (await link.call(f"STREAM.INFO.{log_name(fleet)}"))["state"]["last_seq"]
    if kept > last:
        raise _left_behind(fleet, f"it is filled up to {kept}, and LOG ends at {last}")


async def _last_origin(link: Link, state: str) -> int:
    """Say where in LOG STATE's last message came from; 0 if it has none."""
    try:
        stored = (await link.call(f"STREAM.MSG.GET.{state}", {"last_by_subj": ">"}))["message"]
    except ApiRefusal as refusal:
        if refusal.code == MESSAGE_NOT_FOUND:
            return 0
        raise _refused(state, refusal) from refusal
    headers = base64.b64decode(stored.get("hdrs") or "").decode(errors="replace")
    source = re.search(r"^Nats-Stream-Source: *\S+ (\d+)", headers, flags=re.MULTILINE)
    return int(source[1]) if source else 0


def _left_behind(fleet: str, reason: str) -> ConfigurationError:
    state = state_name(fleet)
    return ConfigurationError(
        f"stream {state} was filled from an earlier LOG ({reason}) and would take in nothing from a new one: "
        "nothing was changed; put back the LOG that belongs to it, or use another fleet name or data directory, "
        f"or remove it too (`nats stream rm {state}`), create the fleet again and apply its DaemonSets anew"
    )


async def stream_config(link: Link, name: str) -> dict[str, Any] | None:
    """Read how a stream is set up; ``None`` if there is no such stream.

    Raises:
        ConfigurationError: JetStream is not on.
    """
    try:
        config: dict[str, Any] = (await link.call(f"STREAM.INFO.{name}"))["config"]
    except ApiRefusal as refusal:
        if refusal.code == STREAM_NOT_FOUND:
            return None
        raise _refused(name, refusal) from refusal
    return config


async def _create(link: Link, config: dict[str, Any]) -> dict[str, Any]:
    name = config["name"]
    try:
        created: dict[str, Any] = (await link.call(f"STREAM.CREATE.{name}", config))["config"]
    except ApiRefusal as refusal:
        if refusal.code == STREAM_NAME_IN_USE:  # someone else made it just now, another way
            found = await stream_config(link, name)
            if found is not None:
                return found
        if refusal.code in STORAGE_INSUFFICIENT:
            raise _too_large(config, refusal) from refusal
        raise _refused(name, refusal) from refusal
    log.info("stream created", stream=name)
    return created


def _too_large(config: dict[str, Any], refusal: ApiRefusal) -> ConfigurationError:
    asked = f"{config['max_bytes']} bytes" if "max_bytes" in config else "no limit"
    return ConfigurationError(
        f"stream {config['name']}: the server has not enough storage for it (asked: {asked}, "
        f"{config['num_replicas']} replicas; {refusal.description}): choose a smaller log_max_bytes or "
        "fewer replicas, or raise max_file_store in the server's jetstream settings"
    )


def _refused(name: str, refusal: ApiRefusal) -> ConfigurationError:
    if refusal.code in JETSTREAM_DISABLED:
        return ConfigurationError(
            f"stream {name}: JetStream is not on for this account: "
            "start nats-server with `jetstream {}` in its configuration"
        )
    return ConfigurationError(f"stream {name}: {refusal}")


def _shards_of(fleet: str, config: dict[str, Any]) -> int:
    metadata: dict[str, str] = config.get("metadata") or {}
    schema = metadata.get(SCHEMA)
    if schema != str(SCHEMA_VERSION):
        raise _difference(config["name"], SCHEMA, SCHEMA_VERSION, schema)
    shards = metadata.get(SHARD_COUNT, "")
    if not shards.isdecimal():
        message = (
            f"stream {config['name']}: metadata {SHARD_COUNT} is {shards!r}; "
            f"it is written by `everynode fleet create {fleet}` and must be a number"
        )
        raise ConfigurationError(message)
    return int(shards)


def _left_open(chosen: StreamSettings, *, with_limits: bool) -> set[str]:
    """Name the fields that a person may choose and did not."""
    left_open = {"num_replicas"} if chosen.replicas is None else set()
    if with_limits:
        left_open |= {"max_age"} if chosen.log_max_age_seconds is None else set()
        left_open |= {"max_bytes"} if chosen.log_max_bytes is None else set()
    return left_open


_NOT_COMPARED = {"description", "metadata", "duplicate_window"}
_NOT_WANTED = {
    "max_age": 0,
    "max_bytes": -1,
    "max_msgs": -1,
    "max_msgs_per_subject": -1,
    "sealed": False,
}
"""Limits that a stream has only if it is said so; the server leaves some of them out if they are not set."""


def compare(wanted: dict[str, Any], found: dict[str, Any], left_open: set[str]) -> None:
    """Check each field that matters.

    Args:
        wanted: As ``log_config`` or ``state_config`` describe it.
        found: As the server has it.
        left_open: Fields that may be anything.

    Raises:
        ConfigurationError: A field differs; names the stream, the field, both values.
    """
    for name, value in (_NOT_WANTED | wanted).items():
        if name in _NOT_COMPARED or name in left_open:
            continue
        actual = found.get(name, _NOT_WANTED.get(name))
        if _normal(name, value) != _normal(name, actual):
            raise _difference(wanted["name"], name, value, actual)


def _normal(name: str, value: Any) -> Any:
    """Write a field so that equal settings are equal values, in whatever order the server keeps them."""
    if name == "subjects":
        return sorted(value or ())
    if name == "sources":
        return [
            (
                source["name"],
                sorted((t["src"], t["dest"]) for t in source.get("subject_transforms") or ()),
            )
            for source in value or ()
        ]
    return value


def _difference(stream: str, name: str, wanted: object, found: object) -> ConfigurationError:
    return ConfigurationError(
        f"stream {stream}: {name} is {found!r}, wanted {wanted!r}: nothing was changed; use the setting "
        "that is there, or change the stream by hand"
    )


def backends_of(config: dict[str, Any]) -> dict[str, str]:
    """Read which backends a fleet knows, by name, and which each of them really is."""
    metadata: dict[str, str] = config.get("metadata") or {}
    return {
        key.removeprefix(BACKEND): identity
        for key, identity in metadata.items()
        if key.startswith(BACKEND)
    }


async def record_backend(link: Link, fleet: str, backend: str, identity: str) -> None:
    """Write down which backend a name stands for, once and for all.

    JetStream has no compare-and-set for this: two writers at once may take each other's entry away. So it is read again
    after a while, until it is there, and whoever starts with a backend records it each time.

    Raises:
        ConfigurationError: Another backend is known by this name.
        UnavailableError: The server did not answer, or the entry did not last.
    """
    name = log_name(fleet)
    for attempt in range(METADATA_ATTEMPTS_MAX):
        if attempt:  # others may be about to write what they have read before: let them pass
            await asyncio.sleep(METADATA_SETTLE_MS * (1 + random.random()) / 1000)  # noqa: S311 - jitter
        config = await stream_config(link, name)
        if config is None:
            message = f"fleet {fleet} does not exist any more"
            raise ConfigurationError(message)
        known = backends_of(config).get(backend)
        if known == identity:
            return
        if known is not None:
            message = (
                f"backend {backend} of fleet {fleet} is {known}, and this one is {identity}: "
                "use another backend name, or another fleet"
            )
            raise ConfigurationError(message)
        config["metadata"] = (config.get("metadata") or {}) | {f"{BACKEND}{backend}": identity}
        try:
            await link.call(f"STREAM.UPDATE.{name}", config)
        except ApiRefusal as refusal:
            raise _refused(name, refusal) from refusal
        except UnavailableError as error:  # a server gives no answer to what it does not let us ask
            message = (
                f"backend {backend} could not be recorded in fleet {fleet}: {error}; if this user may not change "
                f"streams, an operator does it: `everynode fleet create {fleet} --backend {backend}={identity}`"
            )
            raise UnavailableError(message) from error
    message = (
        f"stream {name}: backend {backend} could not be recorded {METADATA_ATTEMPTS_MAX} times"
    )
    raise UnavailableError(message)
