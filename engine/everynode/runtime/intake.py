"""Messages as they come off the connection, handed over at once: for who reads very many of them.

``link`` connects with this client, ``following`` reads through it. The library takes each message through its headers,
a queue and a task, which is nearly half of what reading one costs, and few readers look at headers. If some version of
the library does not ask ``_process_msg`` any more, messages come as they do for everybody else, only slower.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.protocol import parser

SOURCE = "Nats-Stream-Source"
_SOURCE_IS = f"{SOURCE}: ".encode()

# What the protocol separates by: a subject may have all other bytes in it. The library takes every white space for a
# separator, so one message with a vertical tab in its subject would end each connection that reads it (S8).
parser.MSG_RE = re.compile(
    rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n"
)
parser.HMSG_RE = re.compile(
    rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)


class Message(Protocol):
    """What a reader sees of a message, whichever way it came."""

    @property
    def subject(self) -> str:
        """Where it was sent."""
        ...

    @property
    def reply(self) -> str:
        """Where an answer is expected; empty for none."""
        ...

    @property
    def data(self) -> bytes:
        """Its body."""
        ...

    @property
    def headers(self) -> dict[str, str] | None:
        """Its headers; a status line is ``Status`` and ``Description``."""
        ...


class _Taken:
    """A message whose headers are read when somebody asks for them."""

    __slots__ = ("data", "head", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, head: bytes | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self.head = head

    @property
    def headers(self) -> dict[str, str] | None:
        return read_headers(self.head) if self.head else None


def read_headers(head: bytes) -> dict[str, str]:
    """Read the headers of a message, from the line ``NATS/1.0`` on."""
    first, *lines = head.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    status, _, description = first.partition(" ")[2].partition(" ")
    if status:
        headers["Status"] = status
    if description:
        headers["Description"] = description
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return headers


def source_of(message: Message) -> str:
    """Say where in LOG a message of STATE came from: ``<stream> <sequence> ...``; empty if it does not say so.

    The server appends that, even to a line which the publisher left open: what stands last is true, and who starts from
    STATE knows what all others know (S7).
    """
    if not isinstance(message, _Taken):
        return (message.headers or {}).get(SOURCE, "")
    _, found, rest = (message.head or b"").rpartition(_SOURCE_IS)
    return rest.partition(b"\r\n")[0].decode("utf-8", "replace") if found else ""


Take = Callable[[Message], None]


class Intake:
    """Messages that are handed over, until ``end``. Made by ``IntakeClient.take_in``.

    Attributes:
        take: Is given them.
        taken: How many were handed over at once.
    """

    def __init__(self, client: IntakeClient, subscription: Subscription, take: Take) -> None:
        """Nothing has come yet."""
        self.take = take
        self.taken = 0
        self._client = client
        self._subscription = subscription

    async def end(self) -> None:
        """Hear no more of it.

        Raises:
            nats.errors.Error: The connection, and with it this, is gone.
        """
        self._client.intakes.pop(number_of(self._subscription), None)
        await self._subscription.unsubscribe()


class IntakeClient(Client):
    """A connection that hands messages over at once to those who want that.

    Attributes:
        intakes: By the number of the subscription.
    """

    def __init__(self) -> None:
        """Hear nothing yet."""
        super().__init__()
        self.intakes: dict[int, Intake] = {}

    async def take_in(self, subject: str, take: Take, messages_max: int, bytes_max: int) -> Intake:
        """Hand over what comes on a subject.

        Args:
            subject: Where to listen.
            take: Is given each message, in order; must be quick.
            messages_max: How many the library holds if it does not hand them over.
            bytes_max: Likewise, of how many bytes.

        Raises:
            nats.errors.Error: There is no connection.
        """

        async def receive(message: Message) -> None:
            take(message)

        subscription = await self.subscribe(
            subject, cb=receive, pending_msgs_limit=messages_max, pending_bytes_limit=bytes_max
        )
        intake = Intake(self, subscription, take)
        self.intakes[number_of(subscription)] = intake
        return intake

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        intake = self.intakes.get(sid)
        try:
            if intake is None:
                await super()._process_msg(sid, subject, reply, data, headers)
            else:
                intake.taken += 1
                intake.take(_Taken(_text(subject), _text(reply), data, headers))
        except Exception as error:  # noqa: BLE001 - whatever one message does: who stops reading hears no other one
            await self._error_cb(error)


def _text(name: bytes) -> str:
    """Read a subject; one that is no text is changed, and so belongs to no message of ours."""
    return name.decode("utf-8", "replace")


def number_of(subscription: Subscription) -> int:
    """Say how client and server call a subscription."""
    return subscription._id  # noqa: SLF001 - there is no other way to see it
