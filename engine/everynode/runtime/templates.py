"""Pod templates by revision, for commands that say only which one.

Used by ``runtime.execution``. A revision is named by its content and never changes, so what was read once is kept; what
does not have the content that its name says is not used, and what was said before it is.
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
from everynode.ports import Received
from everynode.runtime.bus import FleetBus
from everynode.runtime.view import last_good

TEMPLATES_REMEMBERED_MAX = 256
LOOKS_BACK_MAX = 8  # messages of a revision that can be read, the last ones


class Templates:
    """Reads templates from the log, each one once.

    Args:
        bus: The log.
        subjects: The fleet's subjects.
        remembered_max: How many are kept.
    """

    def __init__(
        self,
        bus: FleetBus,
        subjects: wire.Subjects,
        remembered_max: int = TEMPLATES_REMEMBERED_MAX,
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
        """Read it from the last message that has it; what others put in its place does not count."""
        what = f"revision {command.revision} of {command.set_key}"
        received = await self._bus.last(subject)
        reason = "the log does not have it"
        for _ in range(LOOKS_BACK_MAX):
            if received is None:
                break
            try:
                return self._template_in(received, command)
            except (
                MalformedMessageError,
                msgspec.DecodeError,
                UnicodeError,
                RecursionError,
            ) as error:
                reason = str(error)
            received = await last_good(self._bus, received)
        raise UnavailableError(f"{what}: {reason}")

    def _template_in(self, received: Received, command: CreatePod) -> msgspec.Raw:
        message = wire.decode_from(self._subjects, received.subject, received.payload)
        if not isinstance(message, RevisionRecorded):
            raise UnavailableError(f"revision {command.revision} of {command.set_key} was removed")
        template = message.revision.template
        if revision_hash(template) != command.revision:
            raise MalformedMessageError("its template is not what its name says")
        return template
