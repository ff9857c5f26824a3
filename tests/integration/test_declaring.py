"""A backend that keeps sets of its own: what its adapter declares gets onto the log, what the fleet says gets back."""

import asyncio
from collections.abc import AsyncGenerator

import msgspec
import pytest
from msgspec.structs import replace

from everynode import wire
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeObserved,
    NoticeReported,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
)
from everynode.core.identity import canonical, revision_hash
from everynode.core.revisions import HISTORY_LIMIT_EXCEEDED
from everynode.core.values import (
    DaemonSet,
    Node,
    Notice,
    Owner,
    Pod,
    Revision,
    Selector,
    SetKey,
    Status,
)
from everynode.errors import RefusedError, UnavailableError
from everynode.ports import ListBegun, ListEnded, Observation, Outgoing, Report, View
from everynode.runtime import applying
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.view import read_view
from everynode.runtime.worker import Worker
from everynode.testing.hosting import ScriptedAdapter, eventually, running, say, until

BACKEND = "keeper"
TEMPLATE = canonical(b'{"metadata":{"labels":{"app":"a"}},"spec":{"containers":[]}}')
KEY = SetKey("ns", "agent")
NODE = Node(backend=BACKEND, name="n1", uid="n1-uid")


def a_set(name: str = "agent", **changes: object) -> DaemonSet:
    """A set that the backend keeps."""
    daemonset = DaemonSet(
        namespace="ns",
        name=name,
        uid=f"{name}-uid",
        generation=1,
        selector=Selector(match_labels={"app": "a"}),
        template=msgspec.Raw(TEMPLATE),
        backend=BACKEND,
        origin=BACKEND,
    )
    return replace(daemonset, **changes)


def a_revision(number: int = 1, uid: str = "agent-uid") -> Revision:
    """A revision of it, as the backend has it."""
    return Revision(
        namespace="ns",
        daemonset="agent",
        daemonset_uid=uid,
        hash=revision_hash(TEMPLATE),
        number=number,
        template=msgspec.Raw(TEMPLATE),
    )


class KeepingAdapter(ScriptedAdapter):
    """An adapter of a backend that keeps sets: a test decides what it says, and sees what it is told."""

    def __init__(self, *first: Observation, pods: tuple[Pod, ...] = ()) -> None:
        """Begin with these sets and revisions."""
        super().__init__(BACKEND, [NODE])
        self.told: list[Report] = []
        self.fails: list[Exception] = []
        self.says: asyncio.Queue[list[Observation]] = asyncio.Queue()
        self._first = first
        self._pods = pods

    async def observe(self, known: View) -> AsyncGenerator[Observation]:  # noqa: ARG002 - it lists everything
        """List the node, the pods, the sets, and go on with what the test says."""
        self.observed += 1
        yield ListBegun("nodes")
        yield NodeObserved(node=NODE)
        yield ListEnded("nodes")
        yield ListBegun("pods")
        for pod in self._pods:
            yield PodObserved(pod=pod)
        yield ListEnded("pods")
        yield ListBegun("daemonsets")
        for one in self._first:
            yield one
        yield ListEnded("daemonsets")
        while True:
            for one in await self.says.get():
                yield one

    async def report(self, report: Report) -> None:
        """Keep it, or fail as the test wants."""
        if self.fails:
            raise self.fails.pop(0)
        self.told.append(report)

    def told_of(self, kind: type[Report]) -> list[Report]:
        """What it was told of one kind."""
        return [one for one in self.told if isinstance(one, kind)]


async def sets_on(bus: JetStreamBus) -> dict[SetKey, DaemonSet]:
    """The sets as the log has them."""
    return (await read_view(bus, ("daemonset",))).daemonsets


class TestSets:
    """Sets that the backend keeps."""

    async def test_a_declared_set_is_on_the_log(self, bus: JetStreamBus) -> None:
        """It is written as it was declared, after the pods that were listed."""
        pod = Pod(
            backend=BACKEND,
            namespace="ns",
            name="agent-1",
            uid="p1",
            node="n1",
            owner=Owner(name="agent", uid="agent-uid"),
        )
        adapter = KeepingAdapter(DaemonSetObserved(daemonset=a_set()), pods=(pod,))
        async with running(bus, adapter):
            await until(bus, "daemonset", bool)
        assert {KEY: a_set()} == await sets_on(bus)
        order = [
            type(wire.decode(received.payload)).__name__
            async for chunk in bus.read_log([f"{bus.subjects.prefix}.>"], 1)
            for received in chunk
        ]
        assert order.index("PodObserved") < order.index("DaemonSetObserved")

    async def test_a_repeat_is_not_written(self, bus: JetStreamBus) -> None:
        """What is on the log already is not written once more, by another host either."""
        for _ in range(2):
            adapter = KeepingAdapter(DaemonSetObserved(daemonset=a_set()))
            async with running(bus, adapter):
                await adapter.says.put([DaemonSetObserved(daemonset=a_set())])
                await adapter.says.put([DaemonSetObserved(daemonset=a_set("marker"))])
                await eventually_on(bus, SetKey("ns", "marker"))
        said = await until(bus, "daemonset", bool)
        named = [one.daemonset.name for one in said if isinstance(one, DaemonSetObserved)]
        assert 1 == named.count("agent")

    async def test_an_earlier_generation_is_not_written(self, bus: JetStreamBus) -> None:
        """An answer from an old copy does not take a set back."""
        adapter = KeepingAdapter(DaemonSetObserved(daemonset=a_set(generation=3)))
        async with running(bus, adapter):
            await adapter.says.put([DaemonSetObserved(daemonset=a_set(generation=2))])
            await adapter.says.put([DaemonSetObserved(daemonset=a_set("marker"))])
            await eventually_on(bus, SetKey("ns", "marker"))
        assert 3 == (await sets_on(bus))[KEY].generation

    async def test_a_complete_list_is_the_truth(self, bus: JetStreamBus) -> None:
        """A backend that was restored from a copy has an earlier generation: what its list says holds."""
        async with running(bus, KeepingAdapter(DaemonSetObserved(daemonset=a_set(generation=3)))):
            await until(bus, "daemonset", bool)
        async with running(bus, KeepingAdapter(DaemonSetObserved(daemonset=a_set(generation=1)))):
            await until(bus, "daemonset", lambda said: len(said) == 2)
        assert 1 == (await sets_on(bus))[KEY].generation

    async def test_a_template_stands_as_long_as_its_generation(self, bus: JetStreamBus) -> None:
        """A server that fills in one field more after an upgrade has not been asked for another template."""
        filled = msgspec.Raw(canonical(b'{"metadata":{"labels":{"app":"a"}},"spec":{"new":1}}'))
        adapter = KeepingAdapter(DaemonSetObserved(daemonset=a_set()))
        async with running(bus, adapter):
            again = a_set(template=filled, labels={"looked": "again"})
            changed = a_set(template=filled, generation=2)
            await adapter.says.put([DaemonSetObserved(daemonset=again)])
            said = await until(bus, "daemonset", lambda said: len(said) == 2)
            await adapter.says.put([DaemonSetObserved(daemonset=changed)])
            await until(bus, "daemonset", lambda said: len(said) == 3)
        assert [TEMPLATE] * 2 == [
            bytes(one.daemonset.template) for one in said if isinstance(one, DaemonSetObserved)
        ]
        assert filled == (await sets_on(bus))[KEY].template

    async def test_a_set_that_comes_while_a_list_is_written_stays(self, bus: JetStreamBus) -> None:
        """What was made after the list was read is not gone because the list does not name it."""
        first = [DaemonSetObserved(daemonset=a_set(f"set-{number}")) for number in range(20)]
        adapter = KeepingAdapter(*first)
        await adapter.says.put([DaemonSetObserved(daemonset=a_set("late"))])
        async with running(bus, adapter):
            await eventually_on(bus, SetKey("ns", "late"))
            await adapter.says.put([DaemonSetObserved(daemonset=a_set("marker"))])
            await eventually_on(bus, SetKey("ns", "marker"))
        assert SetKey("ns", "late") in await sets_on(bus)

    async def test_a_set_made_anew_takes_the_place(self, bus: JetStreamBus) -> None:
        """Another uid is another set, however low its generation."""
        adapter = KeepingAdapter(DaemonSetObserved(daemonset=a_set(generation=3)))
        async with running(bus, adapter):
            await adapter.says.put([DaemonSetObserved(daemonset=a_set(uid="another"))])
            await until(bus, "daemonset", lambda said: len(said) == 2)
        assert ("another", 1) == (
            (await sets_on(bus))[KEY].uid,
            (await sets_on(bus))[KEY].generation,
        )

    async def test_a_set_that_is_gone_leaves_its_pods_to_the_backend(
        self, bus: JetStreamBus
    ) -> None:
        """It ends on the log, and a worker asks for nothing."""
        pod = Pod(
            backend=BACKEND,
            namespace="ns",
            name="agent-1",
            uid="p1",
            node="n1",
            owner=Owner(name="agent", uid="agent-uid"),
            revision=revision_hash(TEMPLATE),
        )
        adapter = KeepingAdapter(DaemonSetObserved(daemonset=a_set()), pods=(pod,))
        worker = Worker(bus, "worker")
        working = asyncio.create_task(worker.run())
        async with running(bus, adapter):
            await until(bus, "revision", bool)
            gone = DaemonSetGone(namespace="ns", name="agent", uid="agent-uid", cascade="backend")
            await adapter.says.put([gone])
            said = await until(bus, "daemonset", lambda said: isinstance(said[-1], DaemonSetGone))
            await worker.wait_settled((await bus.log_position()).last_sequence)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert gone == said[-1]
        assert [] == adapter.applied

    async def test_a_set_that_the_list_does_not_name_is_gone(self, bus: JetStreamBus) -> None:
        """What went while nobody looked ends with the next complete list."""
        async with running(bus, KeepingAdapter(DaemonSetObserved(daemonset=a_set()))):
            await until(bus, "daemonset", bool)
        async with running(bus, KeepingAdapter()):
            said = await until(bus, "daemonset", lambda said: isinstance(said[-1], DaemonSetGone))
        last = said[-1]
        assert isinstance(last, DaemonSetGone)
        assert ("agent-uid", "backend") == (last.uid, last.cascade)

    async def test_the_end_of_another_set_of_that_name_ends_nothing(
        self, bus: JetStreamBus
    ) -> None:
        """A late word about a former set does not end the one that is there now."""
        adapter = KeepingAdapter(DaemonSetObserved(daemonset=a_set()))
        async with running(bus, adapter):
            gone = DaemonSetGone(namespace="ns", name="agent", uid="former", cascade="backend")
            await adapter.says.put([gone, DaemonSetObserved(daemonset=a_set("marker"))])
            await eventually_on(bus, SetKey("ns", "marker"))
        assert KEY in await sets_on(bus)


async def by_hand(bus: JetStreamBus, act: str) -> object:
    """Do what a person would do to the set with the command line."""
    match act:
        case "apply":
            return await applying.apply(bus, a_set(min_ready_seconds=5, origin=""))
        case "amend":
            return await applying.amend(bus, KEY, lambda known: replace(known, labels={}))
        case _:
            return await applying.delete(bus, KEY)


class TestOthersSets:
    """Sets that somebody else wrote."""

    async def test_a_set_that_was_applied_stays(self, bus: JetStreamBus) -> None:
        """A backend's set does not take the place of one that was applied to the fleet."""
        applied = await applying.apply(bus, a_set(backend="", origin=""))
        adapter = KeepingAdapter(DaemonSetObserved(daemonset=a_set()))
        async with running(bus, adapter) as host:
            await eventually(lambda: host.counts.invalid == 1)
        assert applied.daemonset == (await sets_on(bus))[KEY]

    @pytest.mark.parametrize("act", ["apply", "amend", "delete"])
    async def test_a_backends_set_is_changed_there(self, bus: JetStreamBus, act: str) -> None:
        """Applying, amending and deleting one are refused, and the message says where to go."""
        async with running(bus, KeepingAdapter(DaemonSetObserved(daemonset=a_set()))):
            await until(bus, "daemonset", bool)
        with pytest.raises(RefusedError, match=r"backend keeper.*kubectl"):
            await by_hand(bus, act)
        assert {KEY: a_set()} == await sets_on(bus)

    async def test_another_backends_set_is_refused(self, bus: JetStreamBus) -> None:
        """An adapter speaks for its own backend only, and one bad word stops no other (L3)."""
        strange = DaemonSetObserved(daemonset=a_set("strange", origin="elsewhere"))
        adapter = KeepingAdapter(strange, DaemonSetObserved(daemonset=a_set()))
        async with running(bus, adapter):
            await eventually_on(bus, KEY)
        assert {KEY} == (await sets_on(bus)).keys()


class TestRevisions:
    """Revisions that the backend keeps."""

    async def test_a_revision_comes_before_its_set(self, bus: JetStreamBus) -> None:
        """A worker that reads the set knows its history, and numbers on from there."""
        adapter = KeepingAdapter(
            RevisionRecorded(revision=a_revision(number=7)), DaemonSetObserved(daemonset=a_set())
        )
        async with running(bus, adapter):
            await until(bus, "daemonset", bool)
        (revision,) = (await read_view(bus, ("revision",))).revisions.values()
        assert 7 == revision.number

    async def test_a_higher_number_on_the_log_stays(self, bus: JetStreamBus) -> None:
        """What a worker has numbered anew is not taken back by what the backend has not heard of yet."""
        await say(bus, RevisionRecorded(revision=a_revision(number=9)))
        adapter = KeepingAdapter(
            RevisionRecorded(revision=a_revision(number=7)), DaemonSetObserved(daemonset=a_set())
        )
        async with running(bus, adapter):
            await until(bus, "daemonset", bool)
        (revision,) = (await read_view(bus, ("revision",))).revisions.values()
        assert 9 == revision.number

    @pytest.mark.parametrize(("why", "comes_back"), [(HISTORY_LIMIT_EXCEEDED, False), ("", True)])
    async def test_what_fell_out_of_the_history_stays_out(
        self, bus: JetStreamBus, why: str, comes_back: bool
    ) -> None:
        """The backend has it until it is told; what ended for another reason is there again."""
        revision = a_revision()
        gone = RevisionGone(namespace="ns", daemonset="agent", hash=revision.hash, why=why)
        await say(bus, gone)
        adapter = KeepingAdapter(
            RevisionRecorded(revision=revision), DaemonSetObserved(daemonset=a_set())
        )
        async with running(bus, adapter):
            await until(bus, "daemonset", bool)
        assert comes_back == bool((await read_view(bus, ("revision",))).revisions)

    async def test_garbage_in_its_place_is_replaced(self, bus: JetStreamBus) -> None:
        """S8: what cannot be read does not keep a revision from the log."""
        subject = bus.subjects.of_revision(KEY, a_revision().hash)
        await bus.publish([Outgoing(subject, b"garbage")])
        adapter = KeepingAdapter(
            RevisionRecorded(revision=a_revision()), DaemonSetObserved(daemonset=a_set())
        )
        async with running(bus, adapter):
            await until(bus, "daemonset", bool)
        assert 1 == len((await read_view(bus, ("revision",))).revisions)


def a_status(number: int = 1) -> StatusReported:
    """A status of the set."""
    status = Status(
        namespace="ns",
        daemonset="agent",
        daemonset_uid="agent-uid",
        observed_generation=1,
        number_ready=number,
    )
    return StatusReported(status=status)


def a_notice(reason: str, number: int = 1) -> NoticeReported:
    """Something that people are told of the set."""
    notice = Notice(
        namespace="ns",
        daemonset="agent",
        daemonset_uid="agent-uid",
        type="Normal",
        reason=reason,
        message=f"number {number}",
        first_ms=number,
        last_ms=number,
    )
    return NoticeReported(notice=notice)


class TestReports:
    """What the fleet says of a set, told to the adapter."""

    async def test_what_is_so_is_told_first(self, bus: JetStreamBus) -> None:
        """A host that starts tells the last status and every revision."""
        await say(bus, a_status(1), a_status(2), RevisionRecorded(revision=a_revision()))
        adapter = KeepingAdapter()
        async with running(bus, adapter):
            await eventually(lambda: len(adapter.told) >= 2)
        assert a_status(2) in adapter.told
        assert RevisionRecorded(revision=a_revision()) in adapter.told

    async def test_each_change_is_told(self, bus: JetStreamBus) -> None:
        """What is written while it runs is told, the last word last."""
        adapter = KeepingAdapter()
        async with running(bus, adapter):
            for number in range(1, 20):
                await say(bus, a_status(number))
            await eventually(lambda: a_status(19) in adapter.told)
        assert a_status(19) == adapter.told[-1]

    async def test_a_failure_is_repeated(self, bus: JetStreamBus) -> None:
        """What could not be shown for now is told again; what is refused is not, and stops nobody (L3)."""
        adapter = KeepingAdapter()
        adapter.fails = [UnavailableError("not now"), RefusedError("never"), ValueError("a bug")]
        async with running(bus, adapter) as host:
            await say(bus, a_status())
            await say(bus, RevisionRecorded(revision=a_revision()))
            await eventually(lambda: host.counts.reports_failed == 3)
            await say(bus, a_status(5))
            await eventually(lambda: a_status(5) in adapter.told)

    async def test_a_set_that_is_made_anew_while_its_name_is_in_trouble(
        self, bus: JetStreamBus
    ) -> None:
        """B1: what was to be told of a set that is gone does not come in the way of the next one of its name."""
        adapter = KeepingAdapter()
        adapter.fails = [UnavailableError("not now", retry_after_ms=50)]
        async with running(bus, adapter) as host:
            await say(bus, a_status())
            await eventually(lambda: host.counts.reports_failed == 1)
            gone = StatusGone(namespace="ns", daemonset="agent", daemonset_uid="agent-uid")
            notices = [a_notice(reason) for reason in ("One", "Two", "Three")]
            await say(bus, gone, a_status(7), *notices)
            await eventually(lambda: len(adapter.told_of(NoticeReported)) == 3)
            await say(bus, a_status(8))
            await eventually(lambda: a_status(8) in adapter.told)
        assert a_status(1) not in adapter.told

    async def test_a_set_that_is_seen_again_is_told_again(self, bus: JetStreamBus) -> None:
        """Somebody may have changed what the backend shows: the adapter compares."""
        adapter = KeepingAdapter(DaemonSetObserved(daemonset=a_set()))
        async with running(bus, adapter):
            await say(bus, a_status())
            await eventually(lambda: a_status() in adapter.told)
            adapter.told.clear()
            await adapter.says.put([DaemonSetObserved(daemonset=a_set())])
            await eventually(lambda: a_status() in adapter.told)

    async def test_notices_alike_are_joined(self, bus: JetStreamBus) -> None:
        """The first is told at once; those that follow within the interval are told as one, later."""
        adapter = KeepingAdapter()
        async with running(bus, adapter):
            await say(bus, a_notice("Made"))
            await eventually(lambda: a_notice("Made") in adapter.told)
            for number in range(2, 10):
                await say(bus, a_notice("Made", number))
            await say(bus, a_notice("Other"))
            await eventually(lambda: a_notice("Other") in adapter.told)
        assert 2 == len(adapter.told_of(NoticeReported))

    async def test_a_revision_that_is_gone_is_told(self, bus: JetStreamBus) -> None:
        """It is told that it is gone, and not told again that it was there."""
        gone = RevisionGone(namespace="ns", daemonset="agent", hash=a_revision().hash, why="x")
        adapter = KeepingAdapter(DaemonSetObserved(daemonset=a_set()))
        async with running(bus, adapter):
            await say(bus, RevisionRecorded(revision=a_revision()), gone)
            await eventually(lambda: gone in adapter.told)
            adapter.told.clear()
            await say(bus, a_status())
            await adapter.says.put([DaemonSetObserved(daemonset=a_set())])
            await eventually(lambda: a_status() in adapter.told)
        assert [] == adapter.told_of(RevisionRecorded)


async def eventually_on(bus: JetStreamBus, key: SetKey) -> None:
    """Wait until a set is on the log."""
    await until(
        bus,
        "daemonset",
        lambda said: any(
            isinstance(one, DaemonSetObserved) and one.daemonset.key == key for one in said
        ),
    )
