"""What it takes to test an adapter host on a real log: an adapter that does as told, commands, and reading the log.

Used by our own tests of the host, and by adapter authors who want to see their adapter work behind it. It needs
a running nats-server, such as ``everynode.runtime.embedded.EmbeddedServer``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec

from everynode import wire
from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    DeletePod,
    Outcome,
    ReleasePod,
    outcome_of,
)
from everynode.core.events import NodeObserved, RevisionRecorded
from everynode.core.identity import canonical, command_id, pod_name, revision_hash
from everynode.core.values import WHOLE_MAX, Node, Owner, Revision
from everynode.errors import MalformedMessageError
from everynode.ports import Adapter, ListBegun, ListEnded, Observation, Outgoing, View
from everynode.runtime.execution import ExecutionLimits
from everynode.runtime.host import AdapterHost, HostSettings
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.observing import ObserveLimits
from everynode.runtime.streams import log_name

NAMESPACE = "ns"
OWNER = Owner(name="set", uid="set-uid")
TEMPLATE = canonical(b'{"spec":{"containers":[]}}')
REVISION = revision_hash(TEMPLATE)
NEVER_MS = WHOLE_MAX
DEADLINE_S = 30
POLL_S = 0.005

_OnPod = TypeVar("_OnPod", DeletePod, AdoptPod, ReleasePod)


class ScriptedAdapter:
    """An adapter whose lists and answers a test decides.

    Args:
        backend: Name of the backend.
        lists: The nodes that it lists, each time that it is observed; the last one is for all later times.
    """

    def __init__(self, backend: str, *lists: list[Node], identity: str = "scripted") -> None:
        """Begin with the first list."""
        self.backend = backend
        self.identity = identity
        self.observed = 0
        self.applied: list[Command] = []
        self._lists = list(lists)

    async def observe(self, known: View) -> AsyncGenerator[Observation]:  # noqa: ARG002 - it lists everything
        """Name the nodes of the next list, no pods, and nothing after that."""
        self.observed += 1
        nodes = self._lists.pop(0) if len(self._lists) > 1 else self._lists[0]
        yield ListBegun("nodes")
        for node in nodes:
            yield NodeObserved(node=node)
        yield ListEnded("nodes")
        yield ListBegun("pods")
        yield ListEnded("pods")
        await asyncio.Event().wait()

    async def apply(self, command: Command) -> Outcome:
        """Keep it and say that it is done."""
        self.applied.append(command)
        return outcome_of(command, "done")


def quick(**limits: int) -> HostSettings:
    """Settings of a host that does not wait long; ``limits`` are fields of ``ExecutionLimits``."""
    chosen: dict[str, Any] = {
        "retry_first_ms": 10,
        "retry_last_ms": 100,
        "apply_timeout_ms": 500,
        "tries_max": 3,
        **limits,
    }
    return HostSettings(
        observe=ObserveLimits(
            retry_first_ms=10, retry_last_ms=100, confirm_delay_ms=10, doubt_delay_ms=10
        ),
        execution=ExecutionLimits(**chosen),
    )


@contextlib.asynccontextmanager
async def running(
    bus: JetStreamBus, adapter: Adapter, settings: HostSettings | None = None
) -> AsyncIterator[AdapterHost]:
    """Run a host; it is entered when its first lists are on the log.

    Raises:
        EverynodeError: The host ended before that.
    """
    host = AdapterHost(bus, adapter, settings or quick())
    task = asyncio.create_task(host.run())
    listed = asyncio.create_task(host.listed.wait())
    try:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.wait((task, listed), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
        yield host
    finally:
        listed.cancel()
        task.cancel()
        await asyncio.gather(task, listed, return_exceptions=True)


async def eventually(is_so: Callable[[], bool]) -> None:
    """Wait for something that happens in this process."""
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(POLL_S)


# --- what a worker would write ----------------------------------------------------------------------------------------


def revision(template: bytes = TEMPLATE) -> RevisionRecorded:
    """Make the revision that the commands below are about; with another template, a forged one."""
    return RevisionRecorded(
        revision=Revision(
            namespace=NAMESPACE,
            daemonset=OWNER.name,
            daemonset_uid=OWNER.uid,
            hash=REVISION,
            number=1,
            template=msgspec.Raw(template),
        )
    )


def create(node: Node, *, replaces: str = "", attempt: int = 0, slot: int = 0) -> CreatePod:
    """Make the command for a pod on a node."""
    pod = pod_name(OWNER.name, OWNER.uid, node.uid, REVISION, replaces, slot)
    return CreatePod(
        id=command_id(OWNER.uid, 1, f"{node.backend}/{node.name}", "create", pod, attempt),
        backend=node.backend,
        node=node.name,
        node_uid=node.uid,
        namespace=NAMESPACE,
        daemonset=OWNER.name,
        daemonset_uid=OWNER.uid,
        generation=1,
        pod=pod,
        revision=REVISION,
        expires_ms=NEVER_MS,
        slot=slot,
        attempt=attempt,
    )


def delete(command: CreatePod, uid: str) -> DeletePod:
    """Make the command that deletes what another one created."""
    return _on_pod(DeletePod, command, uid)


def adopt(command: CreatePod, uid: str) -> AdoptPod:
    """Make the command that adopts the pod of the name and on the node of a create."""
    return _on_pod(AdoptPod, command, uid)


def release(command: CreatePod, uid: str) -> ReleasePod:
    """Make the command that lets go of what another one created."""
    return _on_pod(ReleasePod, command, uid)


def _on_pod(kind: type[_OnPod], command: CreatePod, uid: str) -> _OnPod:
    node = f"{command.backend}/{command.node}"
    return kind(
        id=command_id(OWNER.uid, 1, node, kind.verb, command.pod, 0),
        backend=command.backend,
        node=command.node,
        namespace=NAMESPACE,
        daemonset=OWNER.name,
        daemonset_uid=OWNER.uid,
        generation=1,
        pod=command.pod,
        pod_uid=uid,
        expires_ms=NEVER_MS,
    )


async def say(bus: JetStreamBus, *messages: wire.AnyMessage) -> int:
    """Write messages on the log; returns the last one's sequence."""
    return await bus.publish([Outgoing(bus.subjects.of(one), wire.encode(one)) for one in messages])


# --- what is on the log -----------------------------------------------------------------------------------------------


async def until(
    bus: JetStreamBus, kind: str, is_so: Callable[[list[wire.AnyMessage]], bool]
) -> list[wire.AnyMessage]:
    """Read all messages of a kind that can be read, until they are as they should be."""
    messages: list[wire.AnyMessage] = []
    chunks = bus.follow([bus.subjects.of_kind(kind)], 1)
    async with asyncio.timeout(DEADLINE_S), aclosing(chunks):
        async for chunk in chunks:
            for received in chunk:
                with contextlib.suppress(MalformedMessageError):
                    messages.append(wire.decode(received.payload))
            if is_so(messages):
                break
    return messages


async def outcomes(bus: JetStreamBus, count: int) -> list[Outcome]:
    """Wait for so many outcomes; returns them in the order of the log."""
    messages = await until(bus, "outcome", lambda found: len(found) >= count)
    return [message for message in messages if isinstance(message, Outcome)]


async def last_of_nodes(bus: JetStreamBus) -> dict[str, wire.AnyMessage | None]:
    """Return the last message about each node by the node's name; ``None`` for one that cannot be read."""
    found: dict[str, wire.AnyMessage | None] = {}
    end = (await bus.log_position()).last_sequence
    async with aclosing(bus.follow([bus.subjects.of_kind("node")], 1)) as chunks:
        async for chunk in chunks:
            for received in chunk:
                name = received.subject.rpartition(".")[2]
                try:
                    found[name] = wire.decode(received.payload)
                except MalformedMessageError:
                    found[name] = None
            if not chunk or chunk[-1].sequence >= end:
                break
    return found


async def until_kept(bus: JetStreamBus, sequence: int) -> None:
    """Wait until STATE has a message about a node that LOG has."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with aclosing(bus.read_state([bus.subjects.of_kind("node")])) as chunks:
                async for chunk in chunks:
                    if any(received.sequence >= sequence for received in chunk):
                        return


async def command_consumer(bus: JetStreamBus, backend: str) -> dict[str, Any]:
    """Ask the server about the consumer that hands out a backend's commands."""
    stream = log_name(bus.subjects.fleet)
    link = bus._link  # noqa: SLF001 - the port does not tell, and nobody but a test wants to know
    return await link.call(f"CONSUMER.INFO.{stream}.adapter-{wire.token(backend)}")


async def until_acknowledged(bus: JetStreamBus, backend: str) -> None:
    """Wait until every command was acknowledged."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = await command_consumer(bus, backend)
            if not found["num_ack_pending"] and not found["num_pending"]:
                return
            await asyncio.sleep(POLL_S)
