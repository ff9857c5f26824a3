"""A cluster changes hands, from the built-in controller to everynode and back, and no pod notices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.kubernetes.conftest import StartControlPlane
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_fleet import (
    DEADLINE_S,
    POLL_S,
    Fleet,
    SeenPod,
    daemonset_manifest,
    pods_of,
    running_fleet,
    until_covered,
)

from everynode.core.values import SetKey

NODES = 50
OLD, NEW, NEWEST = (f"registry.k8s.io/pause:3.{minor}" for minor in (8, 9, 10))
ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "50%"}}
ON_DELETE = {"type": "OnDelete"}
SETS = ("plain", "updated", "waiting")

pytestmark = pytest.mark.slow


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that this process sees."""
    async with asyncio.timeout(DEADLINE_S):
        while not is_so():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(POLL_S)


async def settled(fleet: Fleet) -> None:
    """Wait until the log knows the cluster, and nothing is left to do for it."""
    (worker,) = fleet.workers
    keys = {SetKey("default", name) for name in SETS}
    await until(lambda: keys <= worker.statuses().keys() and worker.settled)


async def uids(plane: ControlPlane) -> dict[str, str]:
    """The uids of all pods, by name."""
    return {pod.name: pod.uid for pod in await pods_of(plane, "default")}


def images(pods: list[SeenPod]) -> set[str]:
    """What they run."""
    return {pod.image for pod in pods}


async def make_sets(plane: ControlPlane, nodes: list[str]) -> None:
    """Three sets as they are found: one new, one updated twice, one whose pods wait to be deleted by hand."""
    manifests = {
        "plain": daemonset_manifest("plain", image=NEW, update_strategy=ROLLING),
        "updated": daemonset_manifest("updated", image=OLD, update_strategy=ROLLING),
        "waiting": daemonset_manifest("waiting", image=OLD, update_strategy=ON_DELETE),
    }
    for name, manifest in manifests.items():
        await plane.kubectl("apply", "-f", "-", stdin=manifest)
        await until_covered(plane, "default", name, nodes)
    for image in (NEW, NEWEST):
        await plane.kubectl("set", "image", "ds/updated", f"main={image}")
        await until_covered(plane, "default", "updated", nodes, image=image)
    await plane.kubectl("set", "image", "ds/waiting", f"main={NEW}")
    await plane.kubectl("rollout", "status", "ds/updated", "--timeout=30s")


async def test_no_pod_is_restarted(start_control_plane: StartControlPlane) -> None:
    """Fifty nodes, three sets: taken over and given back with the pods that they have, in every state of a rollout."""
    async with start_control_plane(nodes=NODES, daemonset_controller=True) as plane:
        nodes = [f"node-{number}" for number in range(NODES)]
        await make_sets(plane, nodes)
        before = await uids(plane)
        revisions = await plane.kubectl("get", "controllerrevisions", "-o", "name")
        assert len(SETS) * NODES == len(before)

        await plane.stop_controller("daemonset")
        async with running_fleet(plane) as fleet:
            await settled(fleet)
            assert before == await uids(plane)
            assert revisions == await plane.kubectl("get", "controllerrevisions", "-o", "name")
            assert [] == [
                worker.counts.creates or worker.counts.deletes
                for worker in fleet.workers
                if worker.counts.creates or worker.counts.deletes
            ]
            # It knows what is old: a pod that goes is replaced by one of the newest template.
            (victim, *_) = await pods_of(plane, "default", "waiting")
            await plane.kubectl("delete", "pod", victim.name, "--now")
            waiting = await until_covered(plane, "default", "waiting", nodes)
            assert {OLD: NODES - 1, NEW: 1} == {
                image: [pod.image for pod in waiting].count(image) for image in images(waiting)
            }
            # It returns to a template of the history that it found, and makes one of its own.
            await plane.kubectl("rollout", "undo", "ds/updated", "--to-revision=1")
            await until_covered(plane, "default", "updated", nodes, image=OLD)
            await plane.kubectl("set", "image", "ds/plain", f"main={NEWEST}")
            await until_covered(plane, "default", "plain", nodes, image=NEWEST)
            for name in ("updated", "plain"):
                await plane.kubectl("rollout", "status", f"ds/{name}", "--timeout=30s")
            await settled(fleet)
            history = await plane.kubectl("rollout", "history", "ds/updated")
            assert ["2", "3", "4"] == [
                line.split()[0] for line in history.splitlines() if line[:1].isdigit()
            ]
        ours = await uids(plane)
        revisions = await plane.kubectl("get", "controllerrevisions", "-o", "name")

        plane.start_controller("daemonset")
        # A set that is made now is covered once the controller has looked at all the others as well.
        await plane.kubectl("apply", "-f", "-", stdin=daemonset_manifest("later"))
        await until_covered(plane, "default", "later", nodes)
        for name in SETS:
            await plane.kubectl("label", f"ds/{name}", "looked-at=again")
            await until_observed(plane, name)
        now = await uids(plane)
        assert ours == {name: uid for name, uid in now.items() if not name.startswith("later")}
        after = await plane.kubectl("get", "controllerrevisions", "-o", "name", "-l", "app!=later")
        assert revisions == after
        # It goes on with our history.
        await plane.kubectl("rollout", "undo", "ds/plain")
        await until_covered(plane, "default", "plain", nodes, image=NEW)


async def until_observed(plane: ControlPlane, name: str) -> None:
    """Wait until the built-in controller has looked at a set, by a change that only it can make."""
    path = f"/apis/apps/v1/namespaces/default/daemonsets/{name}"
    async with plane.api() as api, asyncio.timeout(DEADLINE_S):
        spec = {"spec": {"revisionHistoryLimit": 9}}
        changed = await api.patch(path, spec, "merge")
        while True:
            found = await api.get(path)
            if found["status"]["observedGeneration"] >= changed["metadata"]["generation"]:
                return
            await asyncio.sleep(POLL_S)
