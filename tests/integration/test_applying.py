"""Apply and delete: compare-and-set on the log, against whoever does the same at the same time."""

import asyncio
from collections.abc import Sequence

import msgspec
import pytest
from msgspec import structs

from everynode import wire
from everynode.core.events import DaemonSetGone, DaemonSetObserved
from everynode.core.values import DaemonSet, Selector, SetKey, UpdateStrategy
from everynode.errors import (
    InvalidObjectError,
    OutcomeUnknownError,
    RefusedError,
    StaleError,
    UnavailableError,
)
from everynode.ports import Outgoing
from everynode.runtime.applying import ATTEMPTS_MAX, amend, apply, delete
from everynode.runtime.jetstream import JetStreamBus
from everynode.testing import builders

SET = builders.daemonset({"containers": []})


async def stored(bus: JetStreamBus) -> list[wire.AnyMessage]:
    """Everything on the log but garbage."""
    found = []
    for sequence in range(1, (await bus.log_position()).last_sequence + 1):
        answer = await bus._message(bus._log, {"seq": sequence})
        assert answer is not None
        if answer.payload != b"garbage":
            found.append(wire.decode_from(bus.subjects, answer.subject, answer.payload))
    return found


class FixedClock:
    """A clock that stands still."""

    def now_ms(self) -> int:
        """Always the same."""
        return 1_700_000_000_000

    async def sleep_ms(self, duration_ms: int) -> None:
        """Not at all."""


class TestApply:
    """What `apply` promises."""

    async def test_created(self, bus: JetStreamBus) -> None:
        """A set that is not there is created with an identity of its own, in its first generation."""
        applied = await apply(bus, SET, clock=FixedClock())
        assert (applied.action, applied.sequence) == ("created", 1)
        assert applied.daemonset == structs.replace(
            SET, uid=applied.daemonset.uid, generation=1, created_ms=1_700_000_000_000
        )
        assert applied.daemonset.uid not in {"", SET.uid}
        (message,) = await stored(bus)
        assert message == DaemonSetObserved(daemonset=applied.daemonset)

    async def test_unchanged(self, bus: JetStreamBus) -> None:
        """Nothing changed means nothing is published, in whatever order the template has its keys."""
        template = msgspec.Raw(b'{ "spec" : {"b":1, "a":2} }')
        created = await apply(bus, structs.replace(SET, template=template))
        turned = structs.replace(
            SET, template=msgspec.Raw(b'{"spec":{"a":2,"b":1}}'), uid="x", generation=9
        )
        again = await apply(bus, turned)
        assert again == ("unchanged", created.daemonset, 1)
        assert (await bus.log_position()).last_sequence == 1

    @pytest.mark.parametrize(
        "change",
        [
            {"template": msgspec.Raw(b'{"spec":{"containers":[],"hostNetwork":true}}')},
            {"min_ready_seconds": 5},
            {"revision_history_limit": 1},
            {"backend": "east"},
            {"update_strategy": UpdateStrategy(type="RollingUpdate")},
        ],
    )
    async def test_spec_changed(self, bus: JetStreamBus, change: dict[str, object]) -> None:
        """A changed spec is the next generation of the same set."""
        created = await apply(bus, SET)
        changed = await apply(bus, structs.replace(SET, **change))
        assert (changed.action, changed.sequence) == ("configured", 2)
        assert changed.daemonset == structs.replace(created.daemonset, generation=2, **change)

    @pytest.mark.parametrize("change", [{"labels": {"a": "1"}}, {"annotations": {"a": "1"}}])
    async def test_metadata_changed(self, bus: JetStreamBus, change: dict[str, object]) -> None:
        """Changed labels or annotations are published in the same generation."""
        created = await apply(bus, SET)
        changed = await apply(bus, structs.replace(SET, **change))
        assert changed.action == "configured"
        assert changed.daemonset == structs.replace(created.daemonset, **change)

    async def test_selector(self, bus: JetStreamBus) -> None:
        """The selector cannot be changed; the error names the field and what to do."""
        await apply(bus, SET)
        other = structs.replace(SET, selector=Selector(match_labels={"app": "other"}))
        with pytest.raises(
            InvalidObjectError, match=r"DaemonSet default/agent: spec\.selector: .*anew"
        ):
            await apply(bus, other)
        assert (await bus.log_position()).last_sequence == 1

    async def test_after_deletion(self, bus: JetStreamBus) -> None:
        """A set that is applied anew after it was deleted is another set, and may have another selector."""
        first = await apply(bus, SET)
        await delete(bus, SET.key)
        other = structs.replace(SET, selector=Selector(match_labels={"app": "other"}))
        second = await apply(bus, other)
        assert (second.action, second.daemonset.generation) == ("created", 1)
        assert second.daemonset.uid != first.daemonset.uid

    async def test_dry_run(self, bus: JetStreamBus) -> None:
        """A dry run says what would happen and publishes nothing."""
        assert (await apply(bus, SET, dry_run=True)).action == "created"
        assert (await bus.log_position()).last_sequence == 0
        created = await apply(bus, SET)
        planned = await apply(bus, structs.replace(SET, min_ready_seconds=5), dry_run=True)
        assert (planned.action, planned.sequence) == ("configured", 0)
        assert planned.daemonset.uid == created.daemonset.uid
        assert (await apply(bus, SET, dry_run=True)).action == "unchanged"
        assert (await bus.log_position()).last_sequence == 1

    async def test_garbage(self, bus: JetStreamBus) -> None:
        """Garbage in the place of the set does not make it another set (S8)."""
        created = await apply(bus, SET)
        subject = bus.subjects.of_set("daemonset", SET.key)
        await bus.publish([Outgoing(subject, b"garbage")])
        assert await apply(bus, SET) == ("unchanged", created.daemonset, 2)
        changed = await apply(bus, structs.replace(SET, min_ready_seconds=5))
        assert (changed.daemonset.uid, changed.daemonset.generation) == (created.daemonset.uid, 2)
        other = SetKey("default", "only-garbage")
        await bus.publish([Outgoing(bus.subjects.of_set("daemonset", other), b"garbage")])
        assert (await apply(bus, structs.replace(SET, name=other.name))).action == "created"

    async def test_at_once(self, bus: JetStreamBus) -> None:
        """Of changes at the same time each becomes a generation of its own, on top of the one before (S6)."""
        created = await apply(bus, SET)
        changes = [structs.replace(SET, min_ready_seconds=n) for n in range(1, ATTEMPTS_MAX)]
        await asyncio.gather(*(apply(bus, change) for change in changes))
        generations = [m.daemonset for m in await stored(bus) if isinstance(m, DaemonSetObserved)]
        assert [d.generation for d in generations] == list(range(1, ATTEMPTS_MAX + 1))
        assert {d.uid for d in generations} == {created.daemonset.uid}

    async def test_created_at_once(self, bus: JetStreamBus) -> None:
        """Of many who create the same set at the same time one creates it, and the others find it."""
        results = await asyncio.gather(*(apply(bus, SET) for _ in range(10)))
        assert sorted(result.action for result in results) == ["created", *["unchanged"] * 9]
        assert len({result.daemonset.uid for result in results}) == 1
        assert (await bus.log_position()).last_sequence == 1

    async def test_predecessor(self, bus: JetStreamBus) -> None:
        """A set that is made anew after its pods were left to it knows whose they were, whatever changes after that."""
        first = await apply(bus, SET)
        await delete(bus, SET.key, "orphan")
        planned = await apply(bus, SET, dry_run=True)
        assert planned.daemonset.predecessor_uids == (first.daemonset.uid,)
        second = await apply(bus, SET)
        assert second.daemonset.predecessor_uids == (first.daemonset.uid,)
        assert (await apply(bus, SET)).action == "unchanged"
        changed = await apply(bus, structs.replace(SET, min_ready_seconds=5))
        assert changed.daemonset.predecessor_uids == (first.daemonset.uid,)
        amended = await amend(bus, SET.key, lambda it: structs.replace(it, min_ready_seconds=6))
        assert amended.daemonset.predecessor_uids == (first.daemonset.uid,)
        await delete(bus, SET.key)
        assert (await apply(bus, SET)).daemonset.predecessor_uids == ()

    async def test_predecessor_behind_garbage(self, bus: JetStreamBus) -> None:
        """Garbage after the tombstone does not hide whose pods were left (S8)."""
        first = await apply(bus, SET)
        await delete(bus, SET.key, "orphan")
        await bus.publish([Outgoing(bus.subjects.of_set("daemonset", SET.key), b"garbage")])
        assert (await apply(bus, SET)).daemonset.predecessor_uids == (first.daemonset.uid,)

    async def test_outside_the_spec(self, bus: JetStreamBus) -> None:
        """Applying does not end a deletion that has begun in the backend, nor count it as a change."""
        created = await apply(bus, SET)
        deleting = structs.replace(created.daemonset, deleting=True)
        message = DaemonSetObserved(daemonset=deleting)
        await bus.publish([Outgoing(bus.subjects.of(message), wire.encode(message))])
        assert (await apply(bus, SET)).action == "unchanged"
        changed = await apply(bus, structs.replace(SET, min_ready_seconds=5))
        assert (changed.daemonset.deleting, changed.daemonset.generation) == (True, 2)


class TestAmend:
    """What `amend` promises."""

    async def test_changed(self, bus: JetStreamBus) -> None:
        """A change of the spec is the next generation; no change publishes nothing, and a dry run never does."""
        created = await apply(bus, SET)
        change = {"min_ready_seconds": 5}
        planned = await amend(
            bus, SET.key, lambda it: structs.replace(it, min_ready_seconds=5), dry_run=True
        )
        assert (planned.action, planned.sequence) == ("configured", 0)
        changed = await amend(bus, SET.key, lambda it: structs.replace(it, min_ready_seconds=5))
        assert (changed.action, changed.sequence) == ("configured", 2)
        assert changed.daemonset == structs.replace(created.daemonset, generation=2, **change)
        same = await amend(bus, SET.key, lambda it: it)
        assert same == ("unchanged", changed.daemonset, 2)
        assert (await bus.log_position()).last_sequence == 2

    async def test_absent(self, bus: JetStreamBus) -> None:
        """What is not there, or not any more, cannot be changed; what the change refuses is passed on."""
        with pytest.raises(RefusedError, match='daemonsets "agent" not found in namespace default'):
            await amend(bus, SET.key, lambda it: it)
        await apply(bus, SET)

        def refuse(_: DaemonSet) -> DaemonSet:
            raise RefusedError("not this one")

        with pytest.raises(RefusedError, match="not this one"):
            await amend(bus, SET.key, refuse)
        await delete(bus, SET.key)
        with pytest.raises(RefusedError, match="not found"):
            await amend(bus, SET.key, lambda it: it)
        assert (await bus.log_position()).last_sequence == 2

    async def test_at_once(self, bus: JetStreamBus) -> None:
        """Of changes at the same time none is lost: each is made to what the one before has left (S6)."""
        await apply(bus, SET)

        def count(it: DaemonSet) -> DaemonSet:
            return structs.replace(it, min_ready_seconds=it.min_ready_seconds + 1)

        await asyncio.gather(*(amend(bus, SET.key, count) for _ in range(ATTEMPTS_MAX - 1)))
        found = await amend(bus, SET.key, lambda it: it)
        assert found.daemonset.min_ready_seconds == ATTEMPTS_MAX - 1
        assert found.daemonset.generation == ATTEMPTS_MAX

    async def test_a_template_that_cannot_be_read(self, bus: JetStreamBus) -> None:
        """A set whose template is no text at all can still be changed (S8)."""
        created = await apply(bus, SET)
        broken = structs.replace(created.daemonset, template=msgspec.Raw(b'"\xff"'))
        message = DaemonSetObserved(daemonset=broken)
        await bus.publish([Outgoing(bus.subjects.of(message), wire.encode(message))])
        changed = await amend(bus, SET.key, lambda it: structs.replace(it, min_ready_seconds=5))
        assert (changed.action, changed.daemonset.generation) == ("configured", 2)
        assert (await apply(bus, SET)).daemonset.template == created.daemonset.template


class TestDelete:
    """What `delete` promises."""

    async def test_deleted(self, bus: JetStreamBus) -> None:
        """A deleted set leaves a tombstone with its identity and what becomes of its pods."""
        created = await apply(bus, SET)
        assert await delete(bus, SET.key, "orphan")
        gone = (await stored(bus))[1]
        assert isinstance(gone, DaemonSetGone)
        assert (gone.uid, gone.cascade) == (created.daemonset.uid, "orphan")
        answer = await bus._link.call(f"STREAM.MSG.GET.{bus._log}", {"seq": 2})
        assert (
            "Nats-TTL: 604800s"
            in msgspec.convert(answer["message"]["hdrs"], bytes, strict=False).decode()
        )

    async def test_absent(self, bus: JetStreamBus) -> None:
        """Deleting what is not there publishes nothing."""
        assert not await delete(bus, SET.key)
        await apply(bus, SET)
        assert await delete(bus, SET.key)
        assert not await delete(bus, SET.key)
        assert (await bus.log_position()).last_sequence == 2

    async def test_at_once(self, bus: JetStreamBus) -> None:
        """Of many who delete a set at the same time one has deleted it."""
        await apply(bus, SET)
        results = await asyncio.gather(*(delete(bus, SET.key) for _ in range(10)))
        assert sum(results) == 1
        assert (await bus.log_position()).last_sequence == 2

    async def test_garbage(self, bus: JetStreamBus) -> None:
        """Garbage in the place of a set does not keep it from being deleted (S8)."""
        created = await apply(bus, SET)
        await bus.publish([Outgoing(bus.subjects.of_set("daemonset", SET.key), b"garbage")])
        assert await delete(bus, SET.key)
        gone = (await stored(bus))[-1]
        assert isinstance(gone, DaemonSetGone)
        assert gone.uid == created.daemonset.uid


class TestTrouble:
    """When the answer of the log is not what one hopes for."""

    class Troubled(JetStreamBus):
        """Stands before a real bus, and does to each fenced publish in turn what the test says."""

        def __init__(self, bus: JetStreamBus, *troubles: tuple[bool, Exception]) -> None:
            """For each publish: whether it happens, and what is raised then."""
            super().__init__(bus._link, bus.subjects, bus.log_max_age_seconds)
            self.troubles = list(troubles)

        async def publish_fenced(
            self, messages: Sequence[Outgoing], expected_sequence: int, epoch: int | None = None
        ) -> int:
            """Publish, or not, and raise."""
            if not self.troubles:
                return await super().publish_fenced(messages, expected_sequence, epoch)
            happens, error = self.troubles.pop(0)
            if happens:
                await super().publish_fenced(messages, expected_sequence)
            raise error

    LOST = OutcomeUnknownError("no answer")

    @pytest.mark.parametrize("happens", [True, False])
    async def test_answer_lost(self, bus: JetStreamBus, happens: bool) -> None:
        """When the answer is lost, apply and delete look, and say what really became of it."""
        applied = await apply(self.Troubled(bus, (happens, self.LOST)), SET)
        assert (applied.action, applied.sequence) == ("created", 1)
        changed = structs.replace(SET, min_ready_seconds=5)
        applied = await apply(self.Troubled(bus, (happens, self.LOST)), changed)
        assert (applied.action, applied.sequence) == ("configured", 2)

        def count(it: DaemonSet) -> DaemonSet:
            return structs.replace(it, min_ready_seconds=it.min_ready_seconds + 1)

        amended = await amend(self.Troubled(bus, (happens, self.LOST)), SET.key, count)
        assert (amended.daemonset.min_ready_seconds, amended.sequence) == (6, 3)
        assert await delete(self.Troubled(bus, (happens, self.LOST)), SET.key)
        assert (await bus.log_position()).last_sequence == 4

    @pytest.mark.parametrize("error", [StaleError("again"), LOST])
    async def test_attempts(self, bus: JetStreamBus, error: Exception) -> None:
        """It is not tried for ever (B1)."""
        await apply(bus, SET)
        often = [(False, error)] * ATTEMPTS_MAX
        changed: DaemonSet = structs.replace(SET, min_ready_seconds=5)
        with pytest.raises(type(error)):
            await apply(self.Troubled(bus, *often), changed)
        with pytest.raises(type(error)):
            await delete(self.Troubled(bus, *often), SET.key)
        assert (await apply(self.Troubled(bus, *often[1:]), changed)).action == "configured"

    async def test_unavailable(self, bus: JetStreamBus) -> None:
        """That the log cannot be reached is passed on."""
        with pytest.raises(UnavailableError):
            await apply(self.Troubled(bus, (False, UnavailableError("away"))), SET)
