"""What the log says there is: folded from STATE and LOG, and not shaken by garbage."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from msgspec import structs

from everynode import wire
from everynode.core.commands import Outcome
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
)
from everynode.core.values import Owner, Revision, SetKey, Status
from everynode.errors import StaleError
from everynode.ports import Outgoing, Received
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.view import (
    MALFORMED_ENTRIES_MAX,
    READS_IN_VAIN_MAX,
    FleetView,
    follow_view,
    last_good,
    read_view,
)
from everynode.testing import builders

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

SUBJECTS = wire.Subjects("prod", 16)
KINDS = ("node", "pod", "daemonset", "revision", "status")
DEADLINE_SECONDS = 20

NODE = builders.node()
SET = builders.daemonset()
POD = builders.pod(SET, NODE)
REVISION = Revision(
    namespace=SET.namespace,
    daemonset=SET.name,
    daemonset_uid=SET.uid,
    hash="r1",
    number=1,
    template=SET.template,
)
STATUS = Status(
    namespace=SET.namespace, daemonset=SET.name, daemonset_uid=SET.uid, observed_generation=1
)
EVERYTHING: list[wire.AnyMessage] = [
    NodeObserved(node=NODE),
    DaemonSetObserved(daemonset=SET),
    RevisionRecorded(revision=REVISION),
    PodObserved(pod=POD),
    StatusReported(status=STATUS),
]
POD_GONE = PodGone(
    backend=POD.backend,
    namespace=POD.namespace,
    name=POD.name,
    uid=POD.uid,
    node=POD.node,
    owner=POD.owner,
)
EVERYTHING_GONE: list[wire.AnyMessage] = [
    NodeGone(backend=NODE.backend, name=NODE.name),
    DaemonSetGone(namespace=SET.namespace, name=SET.name, uid=SET.uid),
    RevisionGone(namespace=SET.namespace, daemonset=SET.name, hash="r1"),
    POD_GONE,
    StatusGone(namespace=SET.namespace, daemonset=SET.name, daemonset_uid=SET.uid),
]


def received(message: wire.AnyMessage, sequence: int) -> Received:
    """The message as the log would have it."""
    return Received(sequence, 0, SUBJECTS.of(message), wire.encode(message))


def outgoing(bus: JetStreamBus, *messages: wire.AnyMessage) -> list[Outgoing]:
    """Messages on their subjects."""
    return [Outgoing(bus.subjects.of(message), wire.encode(message)) for message in messages]


def tables(view: FleetView) -> tuple[int, ...]:
    """How many there are of each kind."""
    return tuple(
        len(table)
        for table in (view.nodes, view.daemonsets, view.revisions, view.pods, view.statuses)
    )


async def kept(bus: JetStreamBus, until: Until, sequence: int) -> None:
    """Wait until STATE has what stands in LOG at a sequence."""

    async def there() -> bool:
        chunks = bus.read_state(bus.subjects.kept())
        return any(m.sequence >= sequence for chunk in [c async for c in chunks] for m in chunk)

    await until(there)


class TestFold:
    """How messages become tables."""

    def test_everything(self) -> None:
        """Each kind is in its table under its key, until it is gone."""
        view = FleetView(SUBJECTS)
        for sequence, message in enumerate(EVERYTHING, start=1):
            assert view.fold(received(message, sequence))
        assert view.nodes == {NODE.key: NODE}
        assert view.daemonsets == {SET.key: SET}
        assert view.revisions == {(SET.key, "r1"): REVISION}
        assert view.pods == {POD.key: POD}
        assert view.statuses == {SET.key: STATUS}
        assert view.sequence == 5
        for sequence, message in enumerate(EVERYTHING_GONE, start=6):
            assert view.fold(received(message, sequence))
        assert tables(view) == (0, 0, 0, 0, 0)
        for message in EVERYTHING_GONE:  # once more is harmless
            assert view.fold(received(message, 20))

    def test_no_state(self) -> None:
        """A message that is no state is read and changes no table."""
        view = FleetView(SUBJECTS)
        outcome = Outcome(
            id="1", backend="b", namespace="n", daemonset="d", verb="create", result="done"
        )
        assert view.fold(received(outcome, 3))
        assert (tables(view), view.sequence) == ((0, 0, 0, 0, 0), 3)

    def test_older(self) -> None:
        """A message that is older than what is known of its subject changes nothing."""
        view = FleetView(SUBJECTS)
        newer = structs.replace(NODE, ready=False)
        view.fold(received(NodeObserved(node=newer), 5))
        assert view.fold(received(NodeObserved(node=NODE), 4))
        assert view.fold(received(NodeGone(backend=NODE.backend, name=NODE.name), 3))
        assert view.nodes == {NODE.key: newer}
        other = builders.node("other")
        view.fold(received(NodeObserved(node=other), 1))  # its own subject's first
        assert view.nodes.keys() == {NODE.key, other.key}

    def test_pod_of_another_set(self) -> None:
        """The end of one set's pod does not end a later one of the same name that another set has."""
        view = FleetView(SUBJECTS)
        another = structs.replace(POD, owner=Owner(name="another", uid="2"))
        view.fold(received(PodObserved(pod=POD), 1))
        view.fold(received(PodObserved(pod=another), 2))
        view.fold(received(POD_GONE, 3))
        assert view.pods == {POD.key: another}

    def test_malformed(self) -> None:
        """What cannot be read is listed, up to a limit, and leaves what was known as it was (S8, B1)."""
        view = FleetView(SUBJECTS)
        good = received(NodeObserved(node=NODE), 1)
        view.fold(good)
        for sequence in range(2, MALFORMED_ENTRIES_MAX + 10):
            assert not view.fold(structs.replace(good, sequence=sequence, payload=b"garbage"))
        assert view.nodes == {NODE.key: NODE}
        assert view.malformed_count == MALFORMED_ENTRIES_MAX + 8
        assert len(view.malformed) == MALFORMED_ENTRIES_MAX
        subject, sequence, error = view.malformed[0]
        assert (subject, sequence) == (good.subject, 2)
        assert "not a message" in error
        elsewhere = structs.replace(good, subject="everynode.prod.node.east.elsewhere")
        assert not view.fold(elsewhere)


class TestRead:
    """Reading what there is now."""

    async def test_empty(self, bus: JetStreamBus) -> None:
        """A fleet in which nothing happened yet has nothing."""
        view = await read_view(bus, KINDS)
        assert (tables(view), view.sequence, view.malformed) == ((0, 0, 0, 0, 0), 0, [])

    async def test_kinds(self, bus: JetStreamBus, until: Until) -> None:
        """Only the kinds that were asked for are read."""
        last = await bus.publish(outgoing(bus, *EVERYTHING))
        await kept(bus, until, last)
        assert tables(await read_view(bus, KINDS)) == (1, 1, 1, 1, 1)
        assert tables(await read_view(bus, ("node", "status"))) == (1, 0, 0, 0, 1)
        assert (await read_view(bus, KINDS)).sequence == last

    async def test_one_node(self, bus: JetStreamBus, until: Until) -> None:
        """Of the others neither they nor their pods are read; whose a message is that cannot be read, nobody knows."""
        other = builders.node(name=f"{NODE.name}-2")
        elsewhere = PodObserved(pod=builders.pod(SET, other, name="elsewhere"))
        others = outgoing(bus, NodeObserved(node=other), elsewhere)
        ours = outgoing(bus, PodObserved(pod=POD))
        garbage = [Outgoing(each.subject, b"{}") for each in (*others, *ours)]
        last = await bus.publish([*outgoing(bus, *EVERYTHING), *others, *garbage])
        await kept(bus, until, last)
        view = await read_view(bus, ("node", "pod"), SET.key, NODE.name)
        assert [NODE] == list(view.nodes.values())
        assert [POD] == list(view.pods.values())
        assert [each.subject for each in garbage[1:]] == [each.subject for each in view.malformed]

    async def test_garbage_loses_nothing(self, bus: JetStreamBus, until: Until) -> None:
        """An object whose last messages are garbage is shown as its last good message has it (S8)."""
        older = structs.replace(NODE, labels={"version": "older"})
        await bus.publish(outgoing(bus, NodeObserved(node=older), *EVERYTHING))
        node, status = bus.subjects.of(EVERYTHING[0]), bus.subjects.of(EVERYTHING[4])
        garbage = [Outgoing(node, b"1"), Outgoing(status, b"{}"), Outgoing(node, b"\xff")]
        alone = Outgoing(f"{bus.subjects.prefix}.node.b.alone", b"")
        last = await bus.publish([*garbage, alone])
        await kept(bus, until, last)
        view = await read_view(bus, KINDS)
        assert view.nodes == {NODE.key: NODE}
        assert view.statuses == {SET.key: STATUS}
        assert [(m.subject, m.sequence) for m in view.malformed] == [
            (status, last - 2),
            (node, last - 1),
            (alone.subject, last),
        ]

    async def test_garbage_after_the_end(self, bus: JetStreamBus, until: Until) -> None:
        """Garbage does not bring back what was gone before it."""
        subject = bus.subjects.of(EVERYTHING[0])
        await bus.publish(outgoing(bus, EVERYTHING[0], EVERYTHING_GONE[0]))
        last = await bus.publish([Outgoing(subject, b"garbage")])
        await kept(bus, until, last)
        assert (await read_view(bus, KINDS)).nodes == {}


class TestLastGood:
    """Looking for the last good message of a subject."""

    async def test_none(self, bus: JetStreamBus) -> None:
        """Where no good message is left in LOG there is none."""
        subject = f"{bus.subjects.prefix}.node.east.node-1"
        await bus.publish([Outgoing(subject, b"1"), Outgoing(subject, b"2")])
        assert await last_good(bus, Received(2, 0, subject, b"2")) is None
        await bus._link.call(f"STREAM.PURGE.{bus._log}")
        assert await last_good(bus, Received(2, 0, subject, b"2")) is None
        assert await last_good(bus, Received(0, 0, subject, b"2")) is None

    async def test_before_it(self, bus: JetStreamBus) -> None:
        """The last good message before the malformed one counts, not one after it."""
        first, second, third = outgoing(
            bus, *(NodeObserved(node=structs.replace(NODE, uid=uid)) for uid in "123")
        )
        bad = Outgoing(first.subject, b"bad")
        await bus.publish([first, second, bad, third])
        found = await last_good(bus, Received(3, 0, first.subject, b"bad"))
        assert found is not None
        assert (found.sequence, found.payload) == (2, second.payload)

    async def test_malformed_one_has_left(self, bus: JetStreamBus) -> None:
        """It is found also when LOG has dropped the malformed message itself."""
        (good,) = outgoing(bus, EVERYTHING[0])
        await bus.publish([good, Outgoing(good.subject, b"bad"), *outgoing(bus, EVERYTHING[1])])
        await bus._link.call(f"STREAM.MSG.DELETE.{bus._log}", {"seq": 2})
        found = await last_good(bus, Received(2, 0, good.subject, b"bad"))
        assert found is not None
        assert found.sequence == 1


class TestFollow:
    """Reading on and on."""

    @staticmethod
    async def next_view(views: AsyncIterator[FleetView]) -> FleetView:
        """The next one; what hangs fails."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await anext(views)

    async def test_changes(self, bus: JetStreamBus, until: Until) -> None:
        """What is there comes first, then each change, and garbage changes nothing (S8)."""
        last = await bus.publish(outgoing(bus, EVERYTHING[0]))
        await kept(bus, until, last)
        async with aclosing(follow_view(bus, KINDS)) as views:
            assert tables(await self.next_view(views)) == (1, 0, 0, 0, 0)
            await bus.publish(outgoing(bus, EVERYTHING[1]))
            assert tables(await self.next_view(views)) == (1, 1, 0, 0, 0)
            await bus.publish([Outgoing(bus.subjects.of(EVERYTHING[0]), b"garbage")])
            view = await self.next_view(views)
            assert (tables(view), view.malformed_count) == ((1, 1, 0, 0, 0), 1)
            await bus.publish(outgoing(bus, EVERYTHING_GONE[0]))
            assert tables(await self.next_view(views)) == (0, 1, 0, 0, 0)

    async def test_what_state_does_not_have_yet(self, bus: JetStreamBus) -> None:
        """A message that has not reached STATE when that was read comes from LOG."""
        async with aclosing(follow_view(bus, ("daemonset",))) as views:
            await bus.publish(outgoing(bus, EVERYTHING[1]))
            async with asyncio.timeout(DEADLINE_SECONDS):
                async for view in views:
                    if view.daemonsets:
                        break
            assert view.daemonsets.keys() == {SetKey(SET.namespace, SET.name)}

    async def test_log_made_anew(
        self, own_server: EmbeddedServer, own_bus: JetStreamBus, until: Until
    ) -> None:
        """When the fleet was deleted and made anew, everything is read again; the old is gone."""
        await own_bus.publish(outgoing(own_bus, *EVERYTHING))
        await kept(own_bus, until, 5)
        call, names = own_bus._link.call, (own_bus._state, own_bus._log)
        async with aclosing(follow_view(own_bus, KINDS)) as views:
            assert tables(await self.next_view(views)) == (1, 1, 1, 1, 1)
            reading = asyncio.create_task(self.next_view(views))
            configs = [(await call(f"STREAM.INFO.{name}"))["config"] for name in names]
            await self.someone_follows(own_bus, until)
            for name in names:
                await call(f"STREAM.DELETE.{name}")
            for config in reversed(configs):
                await call(f"STREAM.CREATE.{config['name']}", config)
            assert tables(await reading) == (0, 0, 0, 0, 0)
        assert own_server.pid

    @staticmethod
    async def someone_follows(bus: JetStreamBus, until: Until) -> None:
        """Wait until LOG has a consumer that has passed on what there is."""

        async def there() -> bool:
            listed = await bus._link.call(f"CONSUMER.LIST.{bus._log}")
            return any(
                consumer["config"].get("deliver_subject", "").startswith("_INBOX")
                for consumer in listed["consumers"]
            )

        await until(there)

    async def test_log_without_state(self, bus: JetStreamBus, until: Until) -> None:
        """A LOG that does not belong to STATE is an error, and not read again and again."""
        await bus.publish(outgoing(bus, *EVERYTHING))
        await kept(bus, until, 5)
        config = (await bus._link.call(f"STREAM.INFO.{bus._log}"))["config"]
        await bus._link.call(f"STREAM.DELETE.{bus._log}")
        await bus._link.call(f"STREAM.CREATE.{bus._log}", config)
        async with aclosing(follow_view(bus, KINDS)) as views:
            for _ in range(READS_IN_VAIN_MAX):
                assert tables(await self.next_view(views)) == (1, 1, 1, 1, 1)
            with pytest.raises(StaleError):
                await self.next_view(views)
