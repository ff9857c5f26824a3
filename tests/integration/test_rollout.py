"""Rollouts over a fleet of real nodes: within the budget, held where they should be, stalled and healed.

All parts are real. The nodes are those of a public cluster where their manifests are at hand, else as many generated
ones. What is asserted is read from the log and from the backend, never asked of the parts that are tested.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from msgspec.structs import replace
from tests.integration.support_world import BACKEND, World, make_set

from everynode.core.commands import CreatePod, DeletePod
from everynode.core.events import PodGone, PodObserved
from everynode.core.identity import canonical, revision_hash
from everynode.core.values import DaemonSet, Node, Pod, PodKey, Selector, Status, UpdateStrategy
from everynode.manifest import read_nodes
from everynode_simulated import generate_nodes

REAL_NODES = Path(__file__).resolve().parents[3] / "shared" / "data" / "nodes-openb.yaml"
COUNT = 1_213
TEN_PERCENT = math.ceil(COUNT / 10)


def real_nodes() -> list[Node]:
    """The nodes of a public cluster, or generated ones where their manifests are not at hand."""
    if not REAL_NODES.exists():
        return generate_nodes(COUNT, 1, BACKEND)
    read = read_nodes([(REAL_NODES.name, REAL_NODES.read_bytes())], BACKEND)
    return [accepted.node for accepted in read.accepted]


def rolling(**fields: object) -> UpdateStrategy:
    """A strategy that replaces pods by itself."""
    return replace(UpdateStrategy(type="RollingUpdate"), **fields)


def version(image: str, strategy: UpdateStrategy, fate: str = "works") -> DaemonSet:
    """A version of the set; ``fate`` says what becomes of its pods in the simulated fleet."""
    template = {
        "metadata": {"annotations": {"simulated.everynode/fate": fate}, "labels": {"app": "agent"}},
        "spec": {
            "containers": [{"name": "agent", "image": image}],
            "tolerations": [{"operator": "Exists"}],
        },
    }
    raw = msgspec.Raw(canonical(json.dumps(template).encode()))
    return make_set(template=raw, update_strategy=strategy)


class Down(NamedTuple):
    """Nodes without an available pod.

    Attributes:
        by_choice_max: The most at a time whose available pod a rollout had taken, and that had no other yet.
        served_min: The fewest nodes with an available pod at a time.
    """

    by_choice_max: int
    served_min: int


def down(world: World, daemonset: DaemonSet, after: int) -> Down:
    """Read from the log how many nodes were down at a time, from a place in it on."""
    pods: dict[PodKey, Pod] = {}
    taken: set[str] = set()
    served_on: dict[str, set[PodKey]] = {}
    served = by_choice_max = 0
    served_min = COUNT
    for place, message in world.log.messages:
        before = served
        match message:
            case PodObserved(pod=pod) if pod.set_key == daemonset.key:
                pods[pod.key] = pod
                here = served_on.setdefault(pod.node, set())
                served -= bool(here)
                (here.add if pod.live and pod.ready else here.discard)(pod.key)
                served += bool(here)
                if pod.live and pod.ready and pod.node in taken:
                    taken.discard(pod.node)
            case PodGone() if message.key in pods:
                here = served_on[message.node]
                served -= bool(here)
                here.discard(message.key)
                served += bool(here)
                del pods[message.key]
            case DeletePod(reason="OutdatedRevision"):
                pod = pods[message.pod_key]
                if served_on[pod.node] == {pod.key}:
                    taken.add(pod.node)
        if place > after:
            by_choice_max = max(by_choice_max, len(taken))
            served_min = min(served_min, served, before)
    return Down(by_choice_max, served_min)


def revisions(world: World) -> dict[str, int]:
    """Count the live pods of each revision at the backend."""
    counts: dict[str, int] = {}
    for pod in world.backend.pods.values():
        if pod.live:
            counts[pod.revision] = counts.get(pod.revision, 0) + 1
    return counts


@pytest.fixture
async def big(world: World) -> World:
    """The nodes, covered with the first version."""
    world.wait_seconds = 120
    for node in real_nodes():
        world.backend.add_node(node)
    await world.start_worker()
    await world.start_host()
    await world.apply(version("v1", rolling(max_unavailable="10%")))
    await world.covered()
    return world


def status_of(world: World) -> Status | None:
    """Return what was last reported of the set."""
    return next(iter(world.log.statuses.values()), None)


async def until_progressing_says(world: World, reason: str, generation: int) -> Status:
    """Wait until the condition Progressing has a reason, of a generation."""

    def says() -> bool:
        status = status_of(world)
        if status is None or status.observed_generation != generation:
            return False
        condition = status.condition("Progressing")
        return condition is not None and condition.reason == reason

    await world.until(says, f"Progressing says {reason} of generation {generation}")
    status = status_of(world)
    assert status is not None
    return status


def hash_of(daemonset: DaemonSet) -> str:
    """Name the revision of a version."""
    return revision_hash(daemonset.template)


async def test_a_rolling_update_keeps_to_its_budget(big: World) -> None:
    """S3, L1, L2: every pod is replaced, and never more than a tenth of the nodes is down by the rollout's choice."""
    start = big.log.sequence
    second = version("v2", rolling(max_unavailable="10%"))
    await big.apply(second)
    await until_progressing_says(big, "RolloutComplete", 2)
    await big.covered()
    await big.silent()

    seen = down(big, second, start)
    assert {hash_of(second): COUNT} == revisions(big)
    assert 0 < seen.by_choice_max <= TEN_PERCENT
    assert seen.served_min >= COUNT - TEN_PERCENT
    big.assert_accounted_for()


async def test_a_surge_takes_nothing_down(big: World) -> None:
    """S1, S3: with a surge of a fifth no node is ever without an available pod, and none has more than two."""
    big.witness.surging = True
    start = big.log.sequence
    second = version("v2", rolling(max_unavailable=0, max_surge="20%"))
    await big.apply(second)
    await until_progressing_says(big, "RolloutComplete", 2)
    await big.covered()

    assert {hash_of(second): COUNT} == revisions(big)
    assert (0, COUNT) == down(big, second, start)
    assert {1} == {create.slot for place, create in big.log.of(CreatePod) if place > start}


async def test_held_rollouts_stop_where_they_should(big: World) -> None:
    """L2: paused: nothing is replaced; with a partition: so many stay; without both it goes on to the end."""
    second = version("v2", rolling(max_unavailable="10%", paused=True))
    await big.apply(second)
    await until_progressing_says(big, "RolloutPaused", 2)
    await big.silent()
    assert set(revisions(big)) == {hash_of(version("v1", rolling()))}

    partitioned = version("v2", rolling(max_unavailable="10%", partition="25%"))
    await big.apply(partitioned)
    status = await until_progressing_says(big, "RolloutHeld", 3)
    await big.silent()
    staying = math.ceil(COUNT / 4)
    assert COUNT - staying == revisions(big)[hash_of(second)]
    assert {"Outdated": staying} == status.waiting_nodes

    await big.apply(version("v2", rolling(max_unavailable="10%")))
    await until_progressing_says(big, "RolloutComplete", 4)
    assert {hash_of(second): COUNT} == revisions(big)


async def test_a_selector_updates_only_its_nodes(big: World) -> None:
    """L2: only nodes with the label are updated, and a pod that dies elsewhere comes back as it was."""
    chosen = sorted(big.backend.nodes)[:7]
    for name in chosen:
        big.backend.update_labels(name, {"canary": "yes"})
    selector = Selector(match_labels={"canary": "yes"})
    second = version("v2", rolling(max_unavailable="10%", selector=selector))
    await big.apply(second)
    await until_progressing_says(big, "RolloutHeld", 2)
    other = next(pod for pod in big.backend.pods.values() if pod.node not in chosen)
    big.backend.delete_pod(other.key)
    await big.covered()

    new = hash_of(second)
    assert chosen == sorted(pod.node for pod in big.backend.pods.values() if pod.revision == new)
    assert [other.revision] == [pod.revision for pod in big.pods(second, other.node)]


async def test_a_bad_image_stalls_and_is_undone(big: World) -> None:
    """S3: pods that never become ready use the budget up; after the deadline it is said; the old template heals it.

    Pods that the rollout had not reached are not touched by that.
    """
    first = version("v1", rolling(max_unavailable="10%", progress_deadline_seconds=2))
    bad = version("bad", rolling(max_unavailable="10%", progress_deadline_seconds=2), "hangs")
    before = {pod.uid for pod in big.backend.pods.values()}
    start = big.log.sequence
    await big.apply(bad)
    status = await until_progressing_says(big, "ProgressDeadlineExceeded", 2)
    progressing, degraded = status.condition("Progressing"), status.condition("Degraded")
    assert progressing is not None
    assert degraded is not None
    assert ("False", "True") == (progressing.status, degraded.status)
    assert TEN_PERCENT == revisions(big)[hash_of(bad)] == status.number_unavailable
    assert {"NotReady": TEN_PERCENT, "Outdated": COUNT - TEN_PERCENT} == status.waiting_nodes
    untouched = before & {pod.uid for pod in big.backend.pods.values()}
    assert COUNT - TEN_PERCENT == len(untouched)

    await big.apply(first)
    await until_progressing_says(big, "RolloutComplete", 3)
    await big.covered()
    assert {hash_of(first): COUNT} == revisions(big)
    assert untouched == before & {pod.uid for pod in big.backend.pods.values()}
    assert down(big, first, start).by_choice_max <= TEN_PERCENT


async def test_three_bad_updates_in_a_row_keep_to_the_budget(big: World) -> None:
    """S3: what is down already counts: the third bad version takes no more down than the first (kubernetes#123232)."""
    start = big.log.sequence
    for generation, image in enumerate(("bad-1", "bad-2", "bad-3"), 2):
        bad = version(image, rolling(max_unavailable="10%", progress_deadline_seconds=1), "hangs")
        await big.apply(bad)
        await until_progressing_says(big, "ProgressDeadlineExceeded", generation)
        assert TEN_PERCENT == revisions(big)[hash_of(bad)]

    seen = down(big, bad, start)
    assert (TEN_PERCENT, COUNT - TEN_PERCENT) == (seen.by_choice_max, seen.served_min)


class TestDeadNodes:
    """Three nodes of 164 are dead when the rollout begins."""

    DEAD = ("n0003", "n0050", "n0163")

    @pytest.fixture
    async def small(self, world: World) -> World:
        """The fleet with its dead nodes, covered as far as they let it be."""
        world.add_nodes(164)
        await world.start_worker()
        await world.start_host()
        await world.apply(version("v1", rolling(max_unavailable=1)))
        await world.covered()
        for name in self.DEAD:
            world.backend.set_node_ready(name, ready=False)
        await self._until_unavailable(world, len(self.DEAD))
        return world

    @staticmethod
    async def _until_unavailable(world: World, count: int) -> None:
        def known() -> bool:
            status = status_of(world)
            return status is not None and status.number_unavailable == count

        await world.until(known, f"{count} unavailable")

    @staticmethod
    def _updated(world: World, wanted: DaemonSet) -> Callable[[], list[str]]:
        new = hash_of(wanted)
        return lambda: sorted(
            pod.node for pod in world.backend.pods.values() if pod.revision == new and pod.live
        )

    async def test_skip(self, small: World) -> None:
        """They neither block nor count; when they come back they are updated too, by themselves."""
        wanted = version("v2", rolling(max_unavailable=1, unreachable_nodes="Skip"))
        updated = self._updated(small, wanted)
        await small.apply(wanted)
        status = await until_progressing_says(small, "RolloutComplete", 2)
        assert {"Skipped": 3} == status.waiting_nodes
        assert set(self.DEAD).isdisjoint(updated())
        assert 161 == len(updated())

        for name in self.DEAD:
            small.backend.set_node_ready(name, ready=True)
        await small.until(lambda: len(updated()) == 164, "the returned nodes are updated")
        await small.covered()

    async def test_count(self, small: World) -> None:
        """They use the budget up, nothing else is taken down, and the status says why."""
        strategy = rolling(max_unavailable=1, progress_deadline_seconds=2)
        wanted = version("v2", strategy)
        untouched = {pod.uid for pod in small.backend.pods.values() if pod.node not in self.DEAD}
        await small.apply(wanted)
        status = await until_progressing_says(small, "ProgressDeadlineExceeded", 2)

        assert {"Outdated": 161, "Unreachable": 3} == status.waiting_nodes
        progressing = status.condition("Progressing")
        assert progressing is not None
        assert "3 of at most 1 unavailable" in progressing.message
        assert "Unreachable 3" in progressing.message
        assert untouched <= {pod.uid for pod in small.backend.pods.values() if pod.live}
