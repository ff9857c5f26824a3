"""The conformance kit can fail: adapters that each have one defect are each rejected by the case for it."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
from msgspec.structs import replace

from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    DeletePod,
    Outcome,
    ReleasePod,
    outcome_of,
)
from everynode.core.events import NodeObserved, PodGone, PodObserved
from everynode.core.values import Owner, Pod, PodKey
from everynode.ports import ListBegun, ListEnded, Observation, View
from everynode.testing import harness as harness_module
from everynode.testing.conformance import AdapterConformance, Harness, SeenPod
from everynode_simulated import SimulatedAdapter, SimulatedFleet, generate_node, generate_nodes

BACKEND = "defective"
SHORT_WAIT_S = 0.3
"""How long the kit waits here for what will not come."""

Case = Callable[[AdapterConformance, Harness], Awaitable[None]]


class MakesUpNames(SimulatedAdapter):
    """Each create makes a pod with a name that was not there before."""

    count = 0

    async def apply(self, command: Command) -> Outcome:
        """Carry it out under another name."""
        MakesUpNames.count += 1
        return await super().apply(replace(command, pod=f"{command.pod[:40]}-{self.count}"))


class LooksThenCreates(SimulatedAdapter):
    """Between looking whether the pod is there and creating it, another call can come in."""

    async def apply(self, command: Command) -> Outcome:
        """Look, wait, create."""
        if isinstance(command, CreatePod):
            missing = self._fleet.pod(command.pod_key) is None
            await asyncio.sleep(0)
            if missing and self._fleet.pod(command.pod_key) is not None:
                return await super().apply(replace(command, pod=f"{command.pod[:40]}-again"))
        return await super().apply(command)


class TakesForeignPods(SimulatedAdapter):
    """It believes that whatever has the name is its own."""

    async def apply(self, command: Command) -> Outcome:
        """Take any pod of that name."""
        if isinstance(command, CreatePod) and self._fleet.is_foreign(command.pod_key):
            return outcome_of(command, "done")
        return await super().apply(command)


class IgnoresNodeUids(SimulatedAdapter):
    """It creates on whatever node has the name."""

    async def apply(self, command: Command) -> Outcome:
        """Create on the node of that name."""
        node = self._fleet.node(command.node)
        if node is not None:
            command = replace(command, node_uid=node.uid)
        return await super().apply(command)


class DeletesByName(SimulatedAdapter):
    """It deletes whatever has the name."""

    async def apply(self, command: Command) -> Outcome:
        """Delete the pod of that name."""
        pod = self._fleet.pod(command.pod_key)
        if isinstance(command, DeletePod) and pod is not None:
            command = replace(command, pod_uid=pod.uid)
        return await super().apply(command)


class RefusesToRepeatDeletes(SimulatedAdapter):
    """For it, a pod that is gone already is an error."""

    async def apply(self, command: Command) -> Outcome:
        """Refuse what is so already."""
        if isinstance(command, DeletePod) and self._fleet.pod(command.pod_key) is None:
            return outcome_of(command, "refused", "not found")
        return await super().apply(command)


class Filtered(SimulatedAdapter):
    """Base of those that do not say everything."""

    def keeps(self, observation: Observation) -> bool:
        """Say whether it is said."""
        raise NotImplementedError

    async def observe(self, known: View) -> AsyncGenerator[Observation]:
        """Say what is kept."""
        observing = super().observe(known)
        try:
            async for observation in observing:
                if self.keeps(observation):
                    yield observation
        finally:
            await observing.aclose()


class ForgetsANode(Filtered):
    """Its list is not complete."""

    def keeps(self, observation: Observation) -> bool:
        """Leave one node out."""
        first = next(iter(self._fleet.nodes), "")
        return not (isinstance(observation, NodeObserved) and observation.node.name == first)


class ForgetsPods(Filtered):
    """Its list names no pods."""

    def keeps(self, observation: Observation) -> bool:
        """Leave pods out."""
        return not isinstance(observation, PodObserved)


class ForgetsEnds(Filtered):
    """It tells of no pod's end."""

    def keeps(self, observation: Observation) -> bool:
        """Leave ends out."""
        return not isinstance(observation, PodGone)


class ListsWithoutBrackets(Filtered):
    """It does not say where its list of nodes ends."""

    def keeps(self, observation: Observation) -> bool:
        """Leave the ends of lists of nodes out."""
        return observation != ListEnded("nodes")


class ListsOnce(SimulatedAdapter):
    """Observed again, it goes on where it was, instead of listing."""

    has_listed = False

    async def observe(self, known: View) -> AsyncGenerator[Observation]:
        """Name something the first time only."""
        is_quiet, self.has_listed = self.has_listed, True
        observing = super().observe(known)
        try:
            async for observation in observing:
                if not is_quiet or isinstance(observation, ListBegun | ListEnded):
                    yield observation
                if observation == ListEnded("pods"):
                    is_quiet = False
        finally:
            await observing.aclose()


class ForgetsWhatForItMade(SimulatedAdapter):
    """It does not keep of a pod what its create says of it."""

    async def apply(self, command: Command) -> Outcome:
        """Leave out what is kept."""
        if isinstance(command, CreatePod):
            command = replace(command, generation=0, failures=0)
        return await super().apply(command)


class HidesOrphans(Filtered):
    """It tells of its own pods only."""

    def keeps(self, observation: Observation) -> bool:
        """Leave pods out that nobody controls."""
        return not (isinstance(observation, PodObserved) and observation.pod.owner is None)


class HidesLabels(SimulatedAdapter):
    """It does not say which labels an orphan has."""

    async def observe(self, known: View) -> AsyncGenerator[Observation]:
        """Leave labels out."""
        observing = super().observe(known)
        try:
            async for observation in observing:
                if isinstance(observation, PodObserved):
                    yield PodObserved(pod=replace(observation.pod, labels=None))
                else:
                    yield observation
        finally:
            await observing.aclose()


class OnlySaysSo(SimulatedAdapter):
    """It answers that a pod has changed hands, and does nothing."""

    async def apply(self, command: Command) -> Outcome:
        """Say that it is done."""
        if isinstance(command, AdoptPod | ReleasePod):
            return outcome_of(command, "done", pod_uid=command.pod_uid)
        return await super().apply(command)


class DeletesWhatItReleases(SimulatedAdapter):
    """For it, to let go of a pod is to delete it."""

    async def apply(self, command: Command) -> Outcome:
        """Delete it."""
        if isinstance(command, ReleasePod):
            self._fleet.delete_pod(command.pod_key)
            return outcome_of(command, "done")
        return await super().apply(command)


class TakesOrphans(SimulatedAdapter):
    """A create takes an orphan of its name, whoever should get it."""

    async def apply(self, command: Command) -> Outcome:
        """Take it."""
        pod = self._fleet.pod(command.pod_key)
        if isinstance(command, CreatePod) and pod is not None and pod.owner is None:
            owner = Owner(name=command.daemonset, uid=command.daemonset_uid)
            self._fleet.adopt_pod(command.pod_key, owner)
        return await super().apply(command)


class AdoptsWhatOthersHave(SimulatedAdapter):
    """It does not look who controls a pod before it adopts it."""

    async def apply(self, command: Command) -> Outcome:
        """Adopt it from whomever."""
        pod = self._fleet.pod(command.pod_key)
        if isinstance(command, AdoptPod) and pod is not None:
            self._fleet.release_pod(command.pod_key)
        return await super().apply(command)


class AdoptsForeignPods(SimulatedAdapter):
    """It believes that whatever has the name may be adopted."""

    async def apply(self, command: Command) -> Outcome:
        """Say that it was."""
        if isinstance(command, AdoptPod) and self._fleet.is_foreign(command.pod_key):
            return outcome_of(command, "done")
        return await super().apply(command)


class LooksThenAdopts(SimulatedAdapter):
    """Between looking who controls a pod and adopting it, another call can come in."""

    async def apply(self, command: Command) -> Outcome:
        """Look, wait, adopt."""
        if isinstance(command, AdoptPod):
            pod = self._fleet.pod(command.pod_key)
            await asyncio.sleep(0)
            if pod is not None and pod.owner is None:
                owner = Owner(name=command.daemonset, uid=command.daemonset_uid)
                self._fleet.adopt_pod(command.pod_key, owner)
                return outcome_of(command, "done", pod_uid=pod.uid)
        return await super().apply(command)


class AdoptsByName(SimulatedAdapter):
    """It adopts whatever has the name."""

    async def apply(self, command: Command) -> Outcome:
        """Adopt the pod of that name."""
        pod = self._fleet.pod(command.pod_key)
        if isinstance(command, AdoptPod) and pod is not None:
            command = replace(command, pod_uid=pod.uid)
        return await super().apply(command)


class ReleasesByName(SimulatedAdapter):
    """It releases whatever has the name."""

    async def apply(self, command: Command) -> Outcome:
        """Release the pod of that name."""
        if isinstance(command, ReleasePod) and self._fleet.pod(command.pod_key) is not None:
            self._fleet.release_pod(command.pod_key)
        return await super().apply(command)


class RefusesToRepeatAdoptions(SimulatedAdapter):
    """For it, a pod that has an owner cannot be adopted, not even by that one."""

    async def apply(self, command: Command) -> Outcome:
        """Refuse what is so already."""
        pod = self._fleet.pod(command.pod_key)
        if isinstance(command, AdoptPod) and pod is not None and pod.owner is not None:
            return outcome_of(command, "superseded", "it has an owner")
        return await super().apply(command)


class RefusesToRepeatReleases(SimulatedAdapter):
    """For it, a pod without an owner cannot be released."""

    async def apply(self, command: Command) -> Outcome:
        """Refuse what is so already."""
        pod = self._fleet.pod(command.pod_key)
        if isinstance(command, ReleasePod) and pod is not None and pod.owner is None:
            return outcome_of(command, "superseded", "it has no owner")
        return await super().apply(command)


class DefectiveHarness(Harness):
    """A small simulated fleet behind a defective adapter."""

    def __init__(self, kind: type[SimulatedAdapter]) -> None:
        self.fleet = SimulatedFleet(generate_nodes(3, seed=1, backend=BACKEND))
        self.kind = kind

    async def make_adapter(self) -> SimulatedAdapter:
        """Make one with the defect."""
        return self.kind(BACKEND, self.fleet)

    async def node_names(self) -> list[str]:
        """Ask the fleet."""
        return list(self.fleet.nodes)

    async def pods(self) -> list[SeenPod]:
        """Ask the fleet."""
        pods = [*self.fleet.pods.values(), *self.fleet.foreign_pods.values()]
        return [SeenPod(pod.namespace, pod.name, pod.uid, pod.node) for pod in pods]

    async def add_node(self, name: str) -> None:
        """Let a node join that has the uid which an earlier one of its name had: a defect of its own."""
        self.fleet.add_node(generate_node(0, 1, BACKEND, name))

    async def remove_node(self, name: str) -> None:
        """Let it leave."""
        self.fleet.remove_node(name)

    async def remove_pod(self, namespace: str, name: str) -> None:
        """Delete it."""
        self.fleet.delete_pod(PodKey(BACKEND, namespace, name))

    async def add_foreign_pod(self, namespace: str, name: str, node: str) -> None:
        """Make one that belongs to someone else."""
        owner = Owner(name="someone", uid="else")
        self.fleet.add_foreign_pod(
            Pod(
                backend=BACKEND,
                namespace=namespace,
                name=name,
                uid="foreign",
                node=node,
                owner=owner,
                revision="",
            )
        )

    async def add_orphan(
        self, namespace: str, name: str, node: str, labels: dict[str, str]
    ) -> None:
        """Make one that nobody controls."""
        key = PodKey(BACKEND, namespace, name)
        self.fleet.create_pod(key, node=node, owner=None, revision="")
        self.fleet.label_pod(key, labels)


REJECTIONS = [
    (MakesUpNames, AdapterConformance.test_a_create_makes_its_pod),
    (MakesUpNames, AdapterConformance.test_a_repeated_create_changes_nothing),
    (LooksThenCreates, AdapterConformance.test_simultaneous_creates_make_one_pod),
    (TakesForeignPods, AdapterConformance.test_a_create_does_not_take_a_foreign_pod),
    (IgnoresNodeUids, AdapterConformance.test_a_create_for_an_unknown_node_is_refused),
    (DeletesByName, AdapterConformance.test_a_delete_spares_the_successor),
    (RefusesToRepeatDeletes, AdapterConformance.test_a_repeated_delete_is_done),
    (ForgetsANode, AdapterConformance.test_the_list_names_every_node),
    (ForgetsPods, AdapterConformance.test_the_list_names_every_pod),
    (ForgetsPods, AdapterConformance.test_a_created_pod_is_observed),
    (ForgetsEnds, AdapterConformance.test_a_delete_removes_its_pod),
    (ForgetsEnds, AdapterConformance.test_a_pod_that_an_outsider_removes_is_gone),
    (ListsWithoutBrackets, AdapterConformance.test_lists_come_first_nodes_before_pods),
    (ListsOnce, AdapterConformance.test_it_lists_again_when_observed_again),
    (ForgetsWhatForItMade, AdapterConformance.test_a_created_pod_says_how_it_came_about),
    (HidesOrphans, AdapterConformance.test_an_orphan_is_observed),
    (HidesOrphans, AdapterConformance.test_a_released_pod_is_an_orphan),
    (HidesLabels, AdapterConformance.test_an_orphan_is_observed),
    (HidesLabels, AdapterConformance.test_a_released_pod_is_an_orphan),
    (OnlySaysSo, AdapterConformance.test_an_adopted_orphan_is_the_sets),
    (OnlySaysSo, AdapterConformance.test_a_released_pod_is_an_orphan),
    (DeletesWhatItReleases, AdapterConformance.test_a_released_pod_is_an_orphan),
    (TakesOrphans, AdapterConformance.test_a_create_does_not_take_an_orphan),
    (AdoptsWhatOthersHave, AdapterConformance.test_an_adoption_does_not_take_what_another_set_has),
    (AdoptsForeignPods, AdapterConformance.test_an_adoption_does_not_take_a_foreign_pod),
    (LooksThenAdopts, AdapterConformance.test_one_of_two_sets_adopts_an_orphan),
    (AdoptsByName, AdapterConformance.test_an_adoption_that_comes_too_late),
    (ReleasesByName, AdapterConformance.test_a_release_spares_what_it_is_not_about),
    (RefusesToRepeatAdoptions, AdapterConformance.test_releasing_and_adopting_again),
    (RefusesToRepeatReleases, AdapterConformance.test_releasing_and_adopting_again),
    (ForgetsEnds, AdapterConformance.test_a_released_pod_can_be_deleted),
]


class Kit(AdapterConformance):
    """The cases, to be called by hand."""

    def __init__(self, kind: type[SimulatedAdapter]) -> None:
        self.kind = kind

    async def make_harness(self) -> Harness:
        """Make a defective backend."""
        return DefectiveHarness(self.kind)


@pytest.fixture(autouse=True)
def _short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness_module, "WAIT_TIMEOUT_S", SHORT_WAIT_S)


@pytest.mark.parametrize(("defect", "case"), REJECTIONS)
async def test_the_kit_rejects_a_defect(defect: type[SimulatedAdapter], case: Case) -> None:
    """A case that is about a defect fails on an adapter that has it."""
    kit = Kit(defect)
    with pytest.raises(AssertionError):
        await case(kit, await kit.make_harness())


@pytest.mark.parametrize(("defect", "case"), REJECTIONS)
async def test_the_kit_accepts_the_same_fleet_without_the_defect(
    defect: type[SimulatedAdapter], case: Case
) -> None:
    """The same case passes when only the defect is taken away: it is what the rejection is about."""
    assert defect is not SimulatedAdapter
    kit = Kit(SimulatedAdapter)
    await case(kit, await kit.make_harness())


async def test_the_kit_rejects_a_node_that_returns_as_itself() -> None:
    """A backend that gives a new node the uid of the one before it fails the case about that."""
    kit = Kit(SimulatedAdapter)
    with pytest.raises(AssertionError):
        await kit.test_a_node_that_returns_is_another_one(await kit.make_harness())


async def test_what_a_backend_cannot_do_is_skipped() -> None:
    """A case that needs an outsider's means is left out, by name, where there are none."""
    kit = Kit(SimulatedAdapter)
    harness = await kit.make_harness()
    harness.can_change_nodes = harness.can_remove_pods = harness.can_add_foreign_pods = False
    harness.can_add_orphans = False
    for case in (
        kit.test_a_node_that_joins_is_observed,
        kit.test_a_pod_that_an_outsider_removes_is_gone,
        kit.test_a_create_does_not_take_a_foreign_pod,
        kit.test_an_orphan_is_observed,
        kit.test_an_adopted_orphan_is_the_sets,
    ):
        with pytest.raises(pytest.skip.Exception, match="the harness cannot"):
            await case(harness)


def test_every_case_has_a_docstring() -> None:
    """Each case of the kit says what it expects: an author reads it when it fails."""
    cases = inspect.getmembers(AdapterConformance, inspect.iscoroutinefunction)
    names = [name for name, _ in cases if name.startswith("test_")]
    assert len(names) >= 15
    assert [name for name, case in cases if not inspect.getdoc(case)] == []
