"""Takes the values of environment variables out of recorded templates.

Used by ``recorder``. Equal values stay equal and different ones different, so that what was decided can be repeated:
each becomes a keyed hash of itself, and the key is thrown away with the recorder. Whatever cannot be read is replaced
whole, since nobody knows what is in it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any

import msgspec
from msgspec import structs
from msgspec.structs import replace

from everynode import wire
from everynode.core.commands import CreatePod
from everynode.core.events import DaemonSetObserved, RevisionRecorded
from everynode.core.identity import canonical, revision_hash
from everynode.errors import MalformedMessageError
from everynode.ports import Received
from everynode.replay.recording import Renamed

UNREADABLE = b"redacted: it could not be read"
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_HASH_LENGTH = 16


class EnvRedaction:
    """Redacts one recording."""

    def __init__(self) -> None:
        """Draw a key of its own."""
        self._key = secrets.token_bytes(32)
        self._told: set[str] = set()

    def redacted(
        self, subjects: wire.Subjects, received: Received
    ) -> tuple[Received, Renamed | None]:
        """Take the values out of a message.

        Returns:
            The message, and what its template is called in the rest of the recording if that was not said yet.
        """
        try:
            message = wire.decode_from(subjects, received.subject, received.payload)
        except MalformedMessageError:
            return structs.replace(received, payload=UNREADABLE), None
        match message:
            case DaemonSetObserved(daemonset=daemonset):
                template, renamed = self._template(daemonset.template)
                changed: wire.AnyMessage = replace(
                    message, daemonset=replace(daemonset, template=template)
                )
            case RevisionRecorded(revision=revision):
                template, renamed = self._template(revision.template)
                changed = replace(message, revision=replace(revision, template=template))
            case CreatePod(template=msgspec.Raw() as whole):
                template, renamed = self._template(whole)
                changed = replace(message, template=template)
            case _:
                return received, None
        return structs.replace(received, payload=wire.encode(changed)), renamed

    def _template(self, template: msgspec.Raw) -> tuple[msgspec.Raw, Renamed | None]:
        """Take the values out of a template."""
        try:
            was = revision_hash(template)
            content = msgspec.json.decode(template)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return msgspec.Raw(b"null"), None
        self.redact(content)
        text = canonical(msgspec.json.encode(content))
        now = revision_hash(text)
        is_told = now in self._told
        self._told.add(now)
        return msgspec.Raw(text), None if is_told else Renamed(now=now, was=was)

    def redact(self, template: Any) -> None:
        """Take the values out of a template, as JSON has it; it is changed in place."""
        spec = template.get("spec") if isinstance(template, dict) else None
        if not isinstance(spec, dict):
            return
        for name in _CONTAINERS:
            for container in _dicts(spec.get(name)):
                for variable in _dicts(container.get("env")):
                    if "value" in variable:
                        variable["value"] = self._hidden(variable["value"])

    def _hidden(self, value: object) -> str:
        text = msgspec.json.encode(value)
        return f"redacted-{hmac.new(self._key, text, hashlib.sha256).hexdigest()[:_HASH_LENGTH]}"


def _dicts(items: Any) -> list[dict[str, Any]]:
    """Return what is an object of what should be a list of objects."""
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []
