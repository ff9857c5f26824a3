"""Pod templates by revision, for commands that say only which one.

Used by ``runtime.execution``. A revision is named by its content and never changes, so what was read once is kept; what
does not have the content that its name says is not used.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

import msgspec

from everynode import wire
from everynode.core.commands import CreatePod
from everynode.core.events import RevisionRecorded
from everynode.core.identity import revision_hash
from everynode.errors import MalformedMessageError, UnavailableError
from everynode.ports import Bus

TEMPLATES_REMEMBERED_MAX = 256


class Templates:
    """Reads templates from the log, each one once.

    Args:
        bus: The log.
        subjects: The fleet's subjects.
        remembered_max: How many are kept.
    """

    def __init__(
        self, bus: Bus, subjects: wire.Subjects, remembered_max: int = TEMPLATES_REMEMBERED_MAX
    ) -> None:
        """Begin empty."""
        self._bus = bus
        self._subjects = subjects
        self._remembered_max = remembered_max
        self._known: OrderedDict[str, msgspec.Raw] = OrderedDict()
        self._reading = asyncio.Lock()

    async def of(self, command: CreatePod) -> msgspec.Raw:
        """Return the template that a pod is to be made from.

        Raises:
            UnavailableError: The log does not have it now, or has something else in its place.
        """
        subject = self._subjects.of_revision(command.set_key, command.revision)
        known = self._known.get(subject)
        if known is not None:
            return known
        async with self._reading:  # those who wait for the same one find it when it is their turn
            known = self._known.get(subject)
            if known is None:
                known = await self._read(subject, command)
                self._known[subject] = known
                if len(self._known) > self._remembered_max:
                    self._known.popitem(last=False)
            return known

    async def _read(self, subject: str, command: CreatePod) -> msgspec.Raw:
        what = f"revision {command.revision} of {command.set_key}"
        received = await self._bus.last(subject)
        if received is None:
            raise UnavailableError(f"{what}: the log does not have it")
        try:
            message = wire.decode_from(self._subjects, subject, received.payload)
            if not isinstance(message, RevisionRecorded):
                raise UnavailableError(f"{what}: it has been removed")
            template = message.revision.template
            sound = revision_hash(template) == command.revision
        except (MalformedMessageError, msgspec.DecodeError) as error:
            raise UnavailableError(f"{what}: it cannot be read: {error}") from error
        if not sound:
            raise UnavailableError(f"{what}: its template is not what its name says")
        return template
