"""Surging pods onto nodes, from Kubernetes' own end-to-end tests, with its invariants judged at every change of a pod.

While a rollout with maxSurge goes on, pods are deleted and made unready at random. Kubernetes' test looks now and
then; here a watch of the test's own sees each state that the API server had.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from datetime import datetime

import pytest
import pytest_asyncio
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_e2e import NEW, OLD, REVISION_LABEL, WAIT_S, Site, hashes, site
from tests.kubernetes.support_fleet import SeenPod, running_fleet

NODES = 5
SURGE_MAX = 1  # 20 % of five nodes
MIN_READY_S = 3
SIDE_BY_SIDE_MAX_S = 60
DISTURBANCES = 3
SEED = 8
SURGING = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "20%", "maxUnavailable": 0}}
ANNOTATION = "test.everynode.dev/pod"

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module")
async def place(control_plane: ControlPlane) -> AsyncIterator[Site]:
    """Five nodes and a namespace of the test's own, with everynode on the shared control plane."""
    async with running_fleet(control_plane) as fleet:
        await fleet.hosts[0].listed.wait()
        async with site(control_plane, NODES, surge=True) as own:
            yield own


class Judge:
    """Judges every state of the pods; what is wrong is kept in `breaches`.

    Args:
        namespace: Whose pods these are.
        old: The label of the old revision's pods.
    """

    def __init__(self, namespace: str, old: str) -> None:
        """Begin."""
        self.breaches: list[str] = []
        self.deleted: set[str] = set()  # by the test; uids
        self.disturbed_on: list[str] = []  # nodes, one for each disturbance
        self.changed = asyncio.Event()
        self.states = 0
        self.surging_seen = 0
        self._namespace = namespace
        self._old = old
        self._side_by_side_since: dict[str, float] = {}

    def look(self, everything: list[SeenPod]) -> None:
        """Judge one state."""
        pods = [pod for pod in everything if pod.namespace == self._namespace and pod.owner]
        self.states += 1
        on: defaultdict[str, list[SeenPod]] = defaultdict(list)
        for pod in pods:
            on[pod.node].append(pod)
        self._expect(len(hashes(pods)) <= 2, f"{len(hashes(pods))} versions")
        for node, there in on.items():
            self._judge_node(node, there)
        self._judge_budget(on)
        self.changed.set()

    def _judge_node(self, node: str, pods: list[SeenPod]) -> None:
        by_us = [pod for pod in pods if pod.deleting and pod.uid not in self.deleted]
        self._expect(len(by_us) <= 1, f"{len(by_us)} pods that we deleted are leaving {node}")
        total = Counter(pod.labels[REVISION_LABEL] for pod in pods)
        live = Counter(pod.labels[REVISION_LABEL] for pod in pods if pod.live)
        self._expect(max(total.values()) <= 2, f"{total} pods on {node}")
        self._expect(max(live.values(), default=0) <= 1, f"{live} live pods on {node}")
        if len(live) < 2:
            self._side_by_side_since.pop(node, None)
            return
        since = self._side_by_side_since.setdefault(node, time.monotonic())
        took_s = time.monotonic() - since
        self._expect(took_s <= SIDE_BY_SIDE_MAX_S, f"for {took_s:.0f} s two pods on {node}")

    def _judge_budget(self, on: dict[str, list[SeenPod]]) -> None:
        live = [pod for pods in on.values() for pod in pods if pod.live]
        old = [pod for pod in live if pod.labels[REVISION_LABEL] == self._old]
        new = [pod for pod in live if pod.labels[REVISION_LABEL] != self._old]
        without_old = NODES - len({pod.node for pod in old})
        may_be_down = SURGE_MAX + len(unavailable(old)) + len(self.disturbed_on) + without_old
        down = len(unavailable(new))
        self._expect(down <= may_be_down, f"{down} new pods do not work, of {may_be_down} at most")
        # Beyond Kubernetes' test: where nobody disturbs, some pod works all the time, and the surge keeps its limit.
        served = {pod.node for pod in live if pod.ready}
        dark = on.keys() - served - set(self.disturbed_on)
        self._expect(not dark, f"no pod works on {sorted(dark)}")
        surging = {pod.node for pod in unavailable(new)} & {pod.node for pod in old}
        self.surging_seen = max(self.surging_seen, len(surging))
        of_itself = surging - set(self.disturbed_on)
        self._expect(len(of_itself) <= SURGE_MAX, f"surging at once: {sorted(of_itself)}")

    def _expect(self, holds: bool, breach: str) -> None:
        if not holds:
            self.breaches.append(breach)


def unavailable(pods: Iterable[SeenPod]) -> list[SeenPod]:
    """Those that do not count as available yet, by the clock of this machine, which is the API server's too."""
    return [pod for pod in pods if not (pod.ready and _ready_for_s(pod) >= MIN_READY_S)]


def _ready_for_s(pod: SeenPod) -> float:
    return time.time() - datetime.fromisoformat(pod.ready_since).timestamp()


async def disturb(place: Site, judge: Judge) -> None:
    """Each time that a pod was made, delete a pod at random or make one unready; the one before is made ready again."""
    chance = random.Random(SEED)
    unready: SeenPod | None = None
    for _ in range(DISTURBANCES):
        made = place.observer.created
        while place.observer.created == made:
            judge.changed.clear()
            await judge.changed.wait()
        if unready is not None:
            await annotate(place, unready, f"{ANNOTATION}-")
        live = [pod for pod in await place.pods() if pod.live]
        victim = chance.choice(sorted(live, key=lambda pod: (pod.node, pod.image)))
        judge.disturbed_on.append(victim.node)
        if chance.random() < 0.5:
            judge.deleted.add(victim.uid)
            await place.kubectl("delete", "pod", victim.name, "--wait=false", "--ignore-not-found")
            unready = None
        else:
            await annotate(place, victim, f"{ANNOTATION}=unready")
            unready = victim
    if unready is not None:
        await annotate(place, unready, f"{ANNOTATION}-")


async def annotate(place: Site, pod: SeenPod, annotation: str) -> None:
    """Tell kwok how a pod is to be, if it is still there."""
    found = await place.kubectl("get", "pod", pod.name, "--ignore-not-found", "-o", "name")
    if found:
        await place.kubectl("annotate", "pod", pod.name, annotation, "--overwrite")


async def test_should_surge_pods_onto_nodes(place: Site) -> None:
    """With maxSurge 20 %, and pods deleted and made unready at random, the invariants hold; all ends well (S1, L1)."""
    await place.apply(update_strategy=SURGING, spec={"minReadySeconds": MIN_READY_S})
    before = await place.covered(image=OLD)
    await place.until_status(numberAvailable=NODES)
    (old,) = hashes(before)
    judge = Judge(place.namespace, old)
    place.observer.on_change = judge.look

    await place.kubectl("set", "image", "ds/agent", f"main={NEW}")
    async with asyncio.timeout(WAIT_S):
        await disturb(place, judge)
    await place.until_status(updatedNumberScheduled=NODES, numberAvailable=NODES)
    pods = await place.covered(image=NEW)

    assert [] == judge.breaches
    assert DISTURBANCES == len(judge.disturbed_on)
    assert {True} == {judge.states > NODES, judge.surging_seen >= 1}
    assert [] == [pod for pod in pods if pod.deleting or pod.labels[REVISION_LABEL] == old]
    await place.until("all are available", lambda: all_available(place))


async def all_available(place: Site) -> bool:
    """Exactly one pod on each node, and each has been ready for long enough."""
    pods = await place.pods()
    return NODES == len({pod.node for pod in pods}) == len(pods) and not unavailable(pods)
