"""What a role must not ask of JetStream, it cannot have asked by JetStream's own answers and deliveries either."""

import contextlib
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from nats import errors
from nats.aio.client import Client
from tests.integration import support_security as support
from tests.integration.support_security import FLEET, LOG, PREFIX, ROLES, STATE
from tests.integration.test_security_roles import (
    ADAPTERS,
    BACKENDS,
    SMALL,
    Refusals,
    closed,
    connection_of,
    raw,
)

from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import connect

__all__ = ["closed"]  # pytest finds the fixture here, too

ANSWER_SECONDS_MAX = 2
WRITERS = [role for role in ROLES if role != support.READER]
OWN = {
    "worker": f"{PREFIX}.tick.3",
    "operator": f"{PREFIX}.daemonset.3.default.detour",
    "adapter-kubernetes": f"{PREFIX}.node.kubernetes.detour",
    "adapter-simulated": f"{PREFIX}.node.simulated.detour",
}
"""A subject of the log on which each role may write."""

KEPT = f"{PREFIX}.node.simulated.kept"
DESTRUCTIVE = (
    *(f"CONSUMER.DELETE.{LOG}.adapter-{backend}" for backend in BACKENDS),
    *(f"STREAM.{verb}.{stream}" for verb in ("PURGE", "DELETE") for stream in (STATE, LOG)),
)
_batches = itertools.count(1)


class Somebody:
    """A role's connection with the bare library."""

    def __init__(self, server: EmbeddedServer, role: str, client: Client) -> None:
        """Keep how this role calls JetStream's API."""
        self.role, self.client = role, client
        self.api = connection_of(server, role).api_prefix

    async def call(self, operation: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream."""
        payload = json.dumps(body).encode() if body else b""
        subject = f"{self.api}.{operation}"
        answer = await self.client.request(subject, payload, timeout=ANSWER_SECONDS_MAX)
        said: dict[str, Any] = json.loads(answer.data)
        return said

    async def make_consumer(self) -> None:
        """Make an adapter's consumer of commands."""
        backend = self.role.removeprefix("adapter-")
        commands = f"{PREFIX}.command.{backend}.>"
        config = {"durable_name": self.role, "ack_policy": "explicit", "filter_subject": commands}
        said = await self.call(
            f"CONSUMER.CREATE.{LOG}.{self.role}.{commands}",
            {"stream_name": LOG, "config": config},
        )
        assert self.role == said.get("name"), said

    async def write(self, reply: str) -> None:
        """Write a message; JetStream acknowledges it with where it is, which it takes for no request anywhere."""
        await self.client.publish(OWN[self.role], b"{}", reply=reply)
        await self.client.request(OWN[self.role], b"{}", timeout=ANSWER_SECONDS_MAX)

    async def begin_batch(self, reply: str) -> None:
        """Write the first message of a batch; JetStream acknowledges it with nothing."""
        number = f"{self.role}-{next(_batches)}"
        for sequence, commit in (("1", {}), ("2", {"Nats-Batch-Commit": "1"})):
            headers = {"Nats-Batch-Id": number, "Nats-Batch-Sequence": sequence} | commit
            if not commit:
                await self.client.publish(OWN[self.role], b"{}", reply=reply, headers=headers)
                continue
            await self.client.request(
                OWN[self.role], b"{}", timeout=ANSWER_SECONDS_MAX, headers=headers
            )

    async def take_commands(self, reply: str) -> None:
        """Ask for commands where there are none; JetStream says so with an empty message."""
        subject = f"{self.api}.CONSUMER.MSG.NEXT.{LOG}.{self.role}"
        inbox = self.client.new_inbox()
        heard = await self.client.subscribe(inbox)
        for answer_to in (reply, inbox):
            await self.client.publish(subject, b'{"batch":1,"no_wait":true}', reply=answer_to)
        await heard.next_msg(ANSWER_SECONDS_MAX)
        await heard.unsubscribe()


WAYS: dict[str, Callable[[Somebody, str], Awaitable[None]]] = {
    "write": Somebody.write,
    "batch": Somebody.begin_batch,
    "next": Somebody.take_commands,
}
"""Each sends an answer somewhere and ends when a later one of the same kind has come, unless the log is gone."""


async def missing(operator: Somebody) -> list[str]:
    """Name what is no longer there."""
    gone = []
    for stream in (LOG, STATE):
        found = await operator.call(f"STREAM.MSG.GET.{stream}", {"last_by_subj": KEPT})
        gone += [] if "message" in found else [stream]
    for name in ADAPTERS:
        found = await operator.call(f"CONSUMER.INFO.{LOG}.{name}")
        gone += [] if "config" in found else [name]
    return gone


@pytest.mark.parametrize(
    ("role", "way"),
    [(role, way) for role in WRITERS for way in WAYS if way != "next" or role in ADAPTERS],
)
async def test_deleting(
    closed: EmbeddedServer, role: str, way: str, until: Callable[..., Awaitable[None]]
) -> None:
    """An answer that is sent to an operation of JetStream's does not carry it out."""
    async with contextlib.AsyncExitStack() as stack:
        people = {}
        for each in WRITERS:
            client = await raw(closed, each, Refusals())
            stack.push_async_callback(client.close)
            people[each] = Somebody(closed, each, client)

        async def whole() -> bool:
            return [] == await missing(people["operator"])

        async def make_whole() -> None:
            async with await connect(connection_of(closed, "operator"), FLEET, create=SMALL):
                pass
            for adapter in ADAPTERS:
                await people[adapter].make_consumer()
            simulated = people["adapter-simulated"].client
            await simulated.request(KEPT, b"{}", timeout=ANSWER_SECONDS_MAX)
            await until(whole)

        await make_whole()
        carried_out = {}
        for prefix, operation in itertools.product(("$JS.API", support.API), DESTRUCTIVE):
            with contextlib.suppress(errors.Error, TimeoutError):  # where the log is gone
                await WAYS[way](people[role], f"{prefix}.{operation}")
            gone = await missing(people["operator"])
            if gone:
                carried_out[f"{prefix}.{operation}"] = gone
                if LOG in gone and "DELETE" in operation:
                    break  # a fleet is not made again without its log: this server is done with
                await make_whole()
        assert {} == carried_out


@pytest.mark.parametrize("role", ROLES)
async def test_delivering(closed: EmbeddedServer, role: str) -> None:
    """A consumer brings nothing to those who listen beside the log, nor to JetStream itself."""
    subjects = [f"{PREFIX}.worker", *(f"{PREFIX}.host.{backend}" for backend in BACKENDS)]
    subjects += [f"{PREFIX}.control.simulated"]
    subjects += [f"{prefix}.STREAM.DELETE.{LOG}" for prefix in ("$JS.API", support.API)]
    async with contextlib.AsyncExitStack() as stack:
        people = {}
        for each in ROLES:
            client = await raw(closed, each, Refusals())
            stack.push_async_callback(client.close)
            people[each] = Somebody(closed, each, client)
            for subject in support.permissions(each)["subscribe"]["allow"]:
                await client.subscribe(subject)
            await client.flush()
        bound = []
        for number, subject in enumerate(subjects):
            name = f"detour-{role}-{number}"
            config = {"name": name, "ack_policy": "none", "deliver_subject": subject}
            body = {"stream_name": LOG, "config": config}
            said = await people[role].call(f"CONSUMER.CREATE.{LOG}.{name}", body)
            assert name == said.get("name"), said
            about = await people[role].call(f"CONSUMER.INFO.{LOG}.{name}")
            bound += [subject] if about.get("push_bound") else []
        assert [] == bound
