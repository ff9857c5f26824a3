"""What people do to a rollout, on a real log: pause, resume, restart, undo, and applying a manifest in between."""

import msgspec
import pytest
from msgspec import structs

from everynode import wire
from everynode.core.events import RevisionRecorded
from everynode.core.identity import canonical, revision_hash
from everynode.core.values import DaemonSet, Revision, UpdateStrategy
from everynode.errors import RefusedError
from everynode.manifest.annotations import PAUSED_ANNOTATION
from everynode.ports import Outgoing
from everynode.runtime.applying import amend, apply
from everynode.runtime.byhand import PAUSED_AT, RESTARTED_AT
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.rollouts import pause, restart, resume, undo
from everynode.testing import builders

ROLLING = UpdateStrategy(type="RollingUpdate")


def version(number: int, **changes: object) -> DaemonSet:
    """The set with this version of its template, as a manifest has it."""
    made = builders.daemonset({"version": number}, update_strategy=ROLLING)
    return structs.replace(made, **changes)


KEY = version(1).key


class FixedClock:
    """A clock that stands still."""

    def now_ms(self) -> int:
        """Always the same."""
        return 1_700_000_000_000

    async def sleep_ms(self, duration_ms: int) -> None:
        """Not at all."""


AT = "2023-11-14T22:13:20Z"


async def record(bus: JetStreamBus, number: int, daemonset: DaemonSet) -> Revision:
    """Write a revision as a worker does."""
    revision = Revision(
        namespace=daemonset.namespace,
        daemonset=daemonset.name,
        daemonset_uid=daemonset.uid,
        hash=revision_hash(daemonset.template),
        number=number,
        template=daemonset.template,
    )
    message = RevisionRecorded(revision=revision)
    await bus.publish([Outgoing(bus.subjects.of(message), wire.encode(message))])
    return revision


async def current(bus: JetStreamBus) -> DaemonSet:
    """The set as the log has it."""
    return (await amend(bus, KEY, lambda it: it)).daemonset


def annotations_of_template(daemonset: DaemonSet) -> dict[str, str]:
    """The annotations of the pods that are made from it."""
    template = msgspec.json.decode(daemonset.template)
    found: dict[str, str] = template.get("metadata", {}).get("annotations", {})
    return found


class TestPause:
    """Pausing and resuming."""

    async def test_there_and_back(self, bus: JetStreamBus) -> None:
        """A pause and its end are generations of their own, and leave nothing behind."""
        created = (await apply(bus, version(1))).daemonset
        paused = (await pause(bus, KEY, clock=FixedClock())).daemonset
        assert (paused.update_strategy.paused, paused.generation) == (True, 2)
        assert paused.annotations == {PAUSED_AT: AT}
        resumed = (await resume(bus, KEY)).daemonset
        assert resumed == structs.replace(created, generation=3)

    async def test_twice(self, bus: JetStreamBus) -> None:
        """What is paused cannot be paused, and what is not cannot be resumed; the words are kubectl's."""
        await apply(bus, version(1))
        with pytest.raises(RefusedError, match=r'daemonsets\.apps "agent" is not paused'):
            await resume(bus, KEY)
        await pause(bus, KEY)
        with pytest.raises(RefusedError, match=r'daemonsets\.apps "agent" is already paused'):
            await pause(bus, KEY)

    async def test_on_delete(self, bus: JetStreamBus) -> None:
        """A set that replaces nothing by itself has nothing to pause or resume."""
        await apply(bus, version(1, update_strategy=UpdateStrategy()))
        for act in (pause, resume):
            with pytest.raises(RefusedError, match="its update strategy is OnDelete"):
                await act(bus, KEY)

    async def test_outlives_apply(self, bus: JetStreamBus) -> None:
        """Manifests that say nothing of it do not end a pause, until it is resumed."""
        await apply(bus, version(1))
        await pause(bus, KEY)
        assert (await apply(bus, version(1))).action == "unchanged"
        changed = (await apply(bus, version(2))).daemonset
        assert (changed.update_strategy.paused, changed.generation) == (True, 3)
        await resume(bus, KEY)
        assert (await apply(bus, version(2))).action == "unchanged"

    async def test_a_manifest_may_end_it(self, bus: JetStreamBus) -> None:
        """A manifest that says that it is not paused, or that has no rollouts any more, ends a pause."""
        await apply(bus, version(1))
        await pause(bus, KEY)
        spoken = version(1, annotations={PAUSED_ANNOTATION: "false"})
        assert not (await apply(bus, spoken)).daemonset.update_strategy.paused
        await pause(bus, KEY)
        assert (await current(bus)).annotations[PAUSED_ANNOTATION] == "true"
        await resume(bus, KEY)
        assert (await current(bus)).annotations == {PAUSED_ANNOTATION: "false"}
        await pause(bus, KEY)
        on_delete = version(1, update_strategy=UpdateStrategy())
        assert (await apply(bus, on_delete)).daemonset.update_strategy == UpdateStrategy()

    async def test_a_manifest_that_pauses(self, bus: JetStreamBus) -> None:
        """What a manifest has paused, a manifest that no longer does lets go on."""
        await apply(bus, version(1, update_strategy=structs.replace(ROLLING, paused=True)))
        assert not (await apply(bus, version(1))).daemonset.update_strategy.paused


class TestRestart:
    """Restarting."""

    async def test_restarted(self, bus: JetStreamBus) -> None:
        """A restart is another template that differs in one annotation only."""
        created = (await apply(bus, version(1))).daemonset
        restarted = (await restart(bus, KEY, clock=FixedClock())).daemonset
        assert restarted.generation == 2
        assert annotations_of_template(restarted) == {RESTARTED_AT: AT}
        content = msgspec.json.decode(restarted.template)
        del content["metadata"]
        assert canonical(msgspec.json.encode(content)) == bytes(created.template)

    async def test_keeps_other_annotations(self, bus: JetStreamBus) -> None:
        """The template's own labels and annotations stay."""
        metadata = {"labels": {"a": "b"}, "annotations": {"c": "d"}}
        template = msgspec.Raw(msgspec.json.encode({"metadata": metadata, "spec": {}}))
        await apply(bus, version(1, template=template))
        restarted = (await restart(bus, KEY, clock=FixedClock())).daemonset
        assert msgspec.json.decode(restarted.template)["metadata"] == {
            "labels": {"a": "b"},
            "annotations": {"c": "d", RESTARTED_AT: AT},
        }

    async def test_paused(self, bus: JetStreamBus) -> None:
        """A paused rollout cannot restart anything."""
        await apply(bus, version(1))
        await pause(bus, KEY)
        with pytest.raises(
            RefusedError, match=r"can't restart paused daemonset \(run rollout resume"
        ):
            await restart(bus, KEY)

    async def test_outlives_apply(self, bus: JetStreamBus) -> None:
        """Applying the manifest again does not restart pods another time; one that names another time does."""
        await apply(bus, version(1))
        restarted = (await restart(bus, KEY, clock=FixedClock())).daemonset
        assert (await apply(bus, version(1))).action == "unchanged"
        changed = (await apply(bus, version(2))).daemonset
        assert annotations_of_template(changed) == {RESTARTED_AT: AT}
        later = restarted.template
        later = msgspec.Raw(bytes(later).replace(AT.encode(), b"2024-01-01T00:00:00Z"))
        spoken = (await apply(bus, version(1, template=later))).daemonset
        assert spoken.template == later


class TestUndo:
    """Returning to an earlier template."""

    async def test_previous(self, bus: JetStreamBus) -> None:
        """Undo gives back the template before this one, in a new generation, and changes nothing else."""
        for number in (1, 2, 3):
            applied = (await apply(bus, version(number, labels={"v": str(number)}))).daemonset
            await record(bus, number, applied)
        planned = await undo(bus, KEY, dry_run=True)
        assert (planned.applied.sequence, planned.revision.number) == (0, 2)
        assert await current(bus) == applied
        undone = await undo(bus, KEY)
        assert undone.revision.number == 2
        assert undone.applied.daemonset == structs.replace(
            applied, generation=4, template=version(2).template
        )

    async def test_not_on_record_yet(self, bus: JetStreamBus) -> None:
        """If no worker has seen the latest template yet, the previous one is the one before it all the same."""
        await record(bus, 1, (await apply(bus, version(1))).daemonset)
        await record(bus, 2, (await apply(bus, version(2))).daemonset)
        await apply(bus, version(3))
        assert (await undo(bus, KEY)).applied.daemonset.template == version(2).template

    async def test_to_a_number(self, bus: JetStreamBus) -> None:
        """A revision is found by its number; the one that the set has already changes nothing."""
        for number in (1, 2, 3):
            await record(bus, number, (await apply(bus, version(number))).daemonset)
        same = await undo(bus, KEY, 3)
        assert same.applied.action == "unchanged"
        assert (await undo(bus, KEY, 1)).applied.daemonset.template == version(1).template
        with pytest.raises(RefusedError, match="unable to find specified revision 4 in history"):
            await undo(bus, KEY, 4)

    async def test_nothing_to_return_to(self, bus: JetStreamBus) -> None:
        """Without a set, or another revision of it, there is nothing to undo."""
        with pytest.raises(RefusedError, match="not found"):
            await undo(bus, KEY)
        applied = (await apply(bus, version(1))).daemonset
        await record(bus, 1, structs.replace(version(7), name="agent-2"))
        with pytest.raises(RefusedError, match="no rollout history found"):
            await undo(bus, KEY)
        await record(bus, 1, applied)
        with pytest.raises(RefusedError, match="no last revision to roll back to"):
            await undo(bus, KEY)

    async def test_restart_can_be_undone(self, bus: JetStreamBus) -> None:
        """Undo after a restart really returns to the template without its mark."""
        first = (await apply(bus, version(1))).daemonset
        await record(bus, 1, first)
        await record(bus, 2, (await restart(bus, KEY)).daemonset)
        assert (await undo(bus, KEY)).applied.daemonset.template == first.template
