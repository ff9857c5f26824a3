"""Bytes to messages and back, and which subject a message belongs on.

Used by everything that reads or writes the log. What comes from the bus is not trusted: a message is decoded into
one of the known kinds, within its limits, and must stand on the subject that it names itself; anything else is
a ``MalformedMessageError`` and changes nothing. docs/wire.md describes the same format for other languages.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple, assert_never
from urllib.parse import quote

import msgspec

from everynode.core.commands import (
    AdoptPod,
    CreatePod,
    Decision,
    DeletePod,
    Outcome,
    ReleasePod,
)
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    NoticeReported,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
    Tick,
)
from everynode.core.identity import shard_of
from everynode.core.values import NodeKey, Pod, SetKey
from everynode.errors import ConfigurationError, MalformedMessageError

SCHEMA_VERSION = 1
PAYLOAD_BYTES_MAX = (
    1024 * 1024 - 1024
)  # nats-server's default max_payload, less the room for headers

_OtherMessage = (
    NodeGone
    | DaemonSetObserved
    | DaemonSetGone
    | RevisionRecorded
    | RevisionGone
    | Decision
    | CreatePod
    | DeletePod
    | AdoptPod
    | ReleasePod
    | StatusReported
    | StatusGone
    | NoticeReported
    | Tick
)
AnyMessage = NodeObserved | PodObserved | PodGone | Outcome | _OtherMessage

ORPHANS = "orphan"
"""Stands in the place of the shard for pods that no set controls: every worker reads them."""

TOMBSTONES = (NodeGone, PodGone, DaemonSetGone, RevisionGone, StatusGone)

_FLEET = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")


class _Header(msgspec.Struct):
    v: int
    kind: str


_header_decoder = msgspec.json.Decoder(_Header)
_decoder: msgspec.json.Decoder[AnyMessage] = msgspec.json.Decoder(AnyMessage)
_encoder = msgspec.json.Encoder()
_PREFIX = f'{{"v":{SCHEMA_VERSION},'.encode()


class KindOfSubject(NamedTuple):
    """A kind of subject below the fleet's prefix, and whether STATE keeps its last message."""

    name: str
    kept_in_state: bool


KINDS = (
    KindOfSubject("node", kept_in_state=True),
    KindOfSubject("pod", kept_in_state=True),
    KindOfSubject("daemonset", kept_in_state=True),
    KindOfSubject("revision", kept_in_state=True),
    KindOfSubject("decision", kept_in_state=False),
    KindOfSubject("command", kept_in_state=False),
    KindOfSubject("outcome", kept_in_state=False),
    KindOfSubject("status", kept_in_state=True),
    KindOfSubject("notice", kept_in_state=False),
    KindOfSubject("tick", kept_in_state=False),
)


def token(text: str) -> str:
    """Write text as one token of a subject: everything but letters, digits, ``-`` and ``_`` percent-encoded."""
    if text.isascii() and text.replace("-", "").replace("_", "").isalnum():
        return text
    return _encoded(text)


@functools.lru_cache(maxsize=65_536)
def _encoded(text: str) -> str:
    return quote(text, safe="").replace(".", "%2E").replace("~", "%7E")


class Subjects:
    """The subjects of one fleet.

    Args:
        fleet: Name of the fleet: lower-case letters, digits and ``-``, at most 32 characters.
        shards: How many shards the fleet was created with.

    Raises:
        ConfigurationError: The name is not allowed, or there is no shard.
    """

    def __init__(self, fleet: str, shards: int) -> None:
        """Check the name once, so that every subject made from it is valid."""
        if not _FLEET.fullmatch(fleet):
            message = (
                f"fleet {fleet!r}: the name must be lower-case letters, digits and '-', "
                "start and end with a letter or digit, and have at most 32 characters"
            )
            raise ConfigurationError(message)
        if shards < 1:
            message = f"fleet {fleet}: shards is {shards}; it must be at least 1"
            raise ConfigurationError(message)
        self.fleet = fleet
        self.shards = shards
        self.prefix = f"everynode.{fleet}"
        # There are few of them, and the subject of each node and pod begins with one.
        self._nodes_of = functools.lru_cache(maxsize=4_096)(self._name_nodes_of)
        self._pods_of = functools.lru_cache(maxsize=4_096)(self._name_pods_of)

    def of_set(self, kind: str, key: SetKey) -> str:
        """Name the subject of this kind (``daemonset``, ``decision``, ``status``, ...) for one set."""
        shard = shard_of(key, self.shards)
        return f"{self.prefix}.{kind}.{shard}.{token(key.namespace)}.{token(key.name)}"

    def of_revision(self, key: SetKey, revision: str) -> str:
        """Name the subject of one revision of one set."""
        return f"{self.of_set('revision', key)}.{token(revision)}"

    def of_node(self, key: NodeKey) -> str:
        """Name the subject of one node."""
        return self._of_node(key.backend, key.name)

    def _of_node(self, backend: str, name: str) -> str:
        return self._nodes_of(backend) + token(name)

    def _name_nodes_of(self, backend: str) -> str:
        return f"{self.prefix}.node.{token(backend)}."

    def _of_pod(self, pod: Pod | PodGone) -> str:
        owner = None if pod.owner is None else pod.owner.name
        return self._pods_of(pod.backend, pod.namespace, owner) + token(pod.name)

    def _name_pods_of(self, backend: str, namespace: str, owner: str | None) -> str:
        shard = ORPHANS if owner is None else shard_of(SetKey(namespace, owner), self.shards)
        return f"{self.prefix}.pod.{shard}.{token(backend)}.{token(namespace)}."

    def of(self, message: AnyMessage) -> str:
        """Name the one subject that this message belongs on."""
        # A class that it is not is told five times as fast as by a case, so the frequent kinds come before those.
        if type(message) is PodObserved:
            return self._of_pod(message.pod)
        if type(message) is NodeObserved:
            return self._of_node(message.node.backend, message.node.name)
        if type(message) is Outcome:
            shard = shard_of(message.set_key, self.shards)
            return f"{self.prefix}.outcome.{shard}.{token(message.id)}"
        if type(message) is PodGone:
            return self._of_pod(message)
        return self._of_other(message)

    def _of_other(self, message: _OtherMessage) -> str:
        match message:
            case CreatePod() | DeletePod() | AdoptPod() | ReleasePod():
                shard = shard_of(message.set_key, self.shards)
                tail = f"{token(message.backend)}.{token(message.node)}.{shard}.{token(message.id)}"
                return f"{self.prefix}.command.{tail}"
            case NodeGone():
                return self._of_node(message.backend, message.name)
            case Decision():
                return self.of_set("decision", message.set_key)
            case StatusReported(status=status):
                return self.of_set("status", status.set_key)
            case DaemonSetObserved(daemonset=daemonset):
                return self.of_set("daemonset", daemonset.key)
            case DaemonSetGone():
                return self.of_set("daemonset", message.key)
            case RevisionRecorded(revision=revision):
                return self.of_revision(revision.set_key, revision.hash)
            case RevisionGone():
                return self.of_revision(message.set_key, message.hash)
            case StatusGone():
                return self.of_set("status", message.set_key)
            case NoticeReported(notice=notice):
                return self.of_set("notice", notice.set_key)
            case Tick():
                return f"{self.prefix}.tick.{message.shard}"
            case _:
                assert_never(message)

    def parts(self, subject: str) -> tuple[str, str]:
        """Take a subject of this fleet apart.

        Returns:
            Its kind, and the token that says which shard it belongs to: empty for nodes, ``ORPHANS`` for pods that
            nobody controls.
        """
        tokens = subject.split(".", 6)
        kind = tokens[2] if len(tokens) > 2 else ""  # noqa: PLR2004 - a fleet's prefix has two
        place = 5 if kind == "command" else 3
        return kind, "" if kind == "node" or len(tokens) <= place else tokens[place]

    def of_kind(self, kind: str) -> str:
        """Name all subjects of a kind: ``everynode.<fleet>.<kind>.>``."""
        return f"{self.prefix}.{kind}.>"

    def everything(self) -> str:
        """Name all of them at once: nats-server finds 65,000 messages a second for one filter, 7,000 for several."""
        return f"{self.prefix}.>"

    def stored(self) -> list[str]:
        """Name the subjects that the stream LOG takes in."""
        return [self.of_kind(kind.name) for kind in KINDS]

    def kept(self) -> list[str]:
        """Name the subjects whose last message the stream STATE keeps."""
        return [self.of_kind(kind.name) for kind in KINDS if kind.kept_in_state]

    def read_by_worker(self, shards: list[int]) -> list[str]:
        """Name what a worker that has these shards reads when it starts, each to be read by itself.

        That is quick for few shards, where all in one would be slow. Some of what is found may concern other shards:
        a backend may be called as a shard is.
        """
        if 2 * len(shards) > self.shards:
            return [self.everything()]
        subjects = [self.of_kind("node"), f"{self.prefix}.pod.{ORPHANS}.>"]
        for shard in shards:
            subjects.append(f"{self.prefix}.*.{shard}.>")
            subjects.append(f"{self.prefix}.command.*.*.{shard}.*")
            subjects.append(f"{self.prefix}.tick.{shard}")
        return subjects

    def followed_by_worker(self, shards: list[int]) -> list[str]:
        """Name what a worker that has these shards reads from the log."""
        if len(shards) == self.shards:
            return [self.of_kind(kind.name) for kind in KINDS if kind.name != "notice"]
        subjects = [self.of_kind("node"), f"{self.prefix}.pod.{ORPHANS}.>"]
        for shard in shards:
            kinds = ("pod", "daemonset", "revision", "decision", "outcome", "status")
            subjects.extend(f"{self.prefix}.{kind}.{shard}.>" for kind in kinds)
            subjects.append(f"{self.prefix}.command.*.*.{shard}.*")
            subjects.append(f"{self.prefix}.tick.{shard}")
        return subjects

    def commands_for(self, backend: str) -> str:
        """Name the commands for one backend's adapter."""
        return f"{self.prefix}.command.{token(backend)}.>"


def encode(message: AnyMessage) -> bytes:
    """Write a message as the bytes that go on the log.

    Raises:
        MalformedMessageError: It would be larger than the log takes.
    """
    payload = _PREFIX + _encoder.encode(message)[1:]
    if len(payload) > PAYLOAD_BYTES_MAX:
        text = (
            f"{type(message).__name__} has {len(payload)} bytes; the log takes at most "
            f"{PAYLOAD_BYTES_MAX}: make the object smaller"
        )
        raise MalformedMessageError(text)
    return payload


def _check_version(payload: bytes) -> None:
    header = _header_decoder.decode(payload)
    if header.v != SCHEMA_VERSION:
        text = (
            f"schema version {header.v} of {header.kind}; this program reads version "
            f"{SCHEMA_VERSION}: use one program version for the whole fleet"
        )
        raise MalformedMessageError(text)


def decode(payload: bytes) -> AnyMessage:
    """Read a message.

    Raises:
        MalformedMessageError: It is too large, not JSON, of another schema version or an unknown kind,
            or a field is missing, of the wrong type or out of its range.
    """
    if len(payload) > PAYLOAD_BYTES_MAX:
        text = f"{len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} are read"
        raise MalformedMessageError(text)
    try:
        if not payload.startswith(
            _PREFIX
        ):  # as `encode` writes it; others may order fields as they like
            _check_version(payload)
        return _decoder.decode(payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise MalformedMessageError(f"not a message: {error}") from error


def decode_from(subjects: Subjects, subject: str, payload: bytes) -> AnyMessage:
    """Read a message and check that it stands on its own subject.

    Raises:
        MalformedMessageError: As ``decode``; or the subject belongs to something else than what the body names.
    """
    message = decode(payload)
    expected = subjects.of(message)
    if subject != expected:
        text = f"{type(message).__name__} belongs on {expected}"
        raise MalformedMessageError(text)
    return message
