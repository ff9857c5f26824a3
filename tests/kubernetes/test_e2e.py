"""The end-to-end situations of Kubernetes' own DaemonSet controller (test/e2e/apps/daemon_set.go), with everynode.

Each is driven as a user would, with kubectl or the API, and asserts what Kubernetes' own test does, on several nodes;
the one about surges has a file to itself. All share one control plane, whose built-in controller is off.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import pytest
import pytest_asyncio
from tests.kubernetes.support_api import ApiError, Json
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_e2e import NEW, OLD, Site, by_node, hashes, merge_patch, site
from tests.kubernetes.support_fleet import Fleet, SeenPod, running_fleet

NODES = 4
ROLLING = {"type": "RollingUpdate"}
ON_DELETE = {"type": "OnDelete"}
COUNTERS = (
    "desiredNumberScheduled",
    "currentNumberScheduled",
    "numberReady",
    "numberAvailable",
    "updatedNumberScheduled",
)

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(control_plane: ControlPlane) -> AsyncIterator[Fleet]:
    """A fleet on the shared control plane, for as long as these tests last."""
    async with running_fleet(control_plane) as running:
        await running.hosts[0].listed.wait()
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def place(control_plane: ControlPlane, fleet: Fleet) -> AsyncIterator[Site]:  # noqa: ARG001 - it works
    """A namespace and four nodes of the test's own; afterwards S1 is judged."""
    async with site(control_plane, NODES) as own:
        yield own


async def test_should_run_and_stop_simple_daemon(place: Site) -> None:
    """A pod on every schedulable node, and the status agrees; a deleted pod is replaced; with the set, all go (L1)."""
    await place.apply()
    first = await place.covered()
    status = await place.until_status(numberAvailable=NODES)
    assert dict.fromkeys(COUNTERS, NODES) == {name: status[name] for name in COUNTERS}
    assert 0 == status["numberMisscheduled"]
    listed = (await place.api.get("/api/v1/nodes"))["items"]
    assert {node["metadata"]["name"] for node in listed} == by_node(first).keys()

    victim, *others = first
    await place.kubectl("delete", "pod", victim.name)
    replaced = by_node(await place.covered())
    assert victim.uid != replaced[victim.node]
    assert by_node(others).items() <= replaced.items()

    await place.kubectl("delete", "ds/agent")
    await place.until_gone()


async def test_should_run_and_stop_complex_daemon(place: Site) -> None:
    """A node selector: no node, then those labelled blue, then none, and with another selector the green ones."""
    painted = place.nodes[:2]
    await place.apply(node_selector={"color": "blue"}, update_strategy=ON_DELETE)
    await place.until_status(desiredNumberScheduled=0)
    assert [] == await place.pods()

    await place.label(painted, "color=blue")
    await place.covered(painted)
    await place.label(painted, "color=green")
    await place.until_gone()
    await place.until_status(desiredNumberScheduled=0, numberMisscheduled=0)

    await place.apply(node_selector={"color": "green"}, update_strategy=ROLLING)
    await place.covered(painted)


async def test_should_run_and_stop_complex_daemon_with_node_affinity(place: Site) -> None:
    """Required affinity: no node, then those labelled blue; where the label is taken away, the pod goes."""
    blue = {"matchExpressions": [{"key": "color", "operator": "In", "values": ["blue"]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [blue]}}
    await place.apply(pod_spec={"affinity": {"nodeAffinity": required}})
    await place.until_status(desiredNumberScheduled=0)
    assert [] == await place.pods()

    painted, (spared, *_) = place.nodes[:3], place.nodes
    await place.label(painted, "color=blue")
    await place.covered(painted)
    await place.label([node for node in painted if node != spared], "color-")
    await place.covered([spared])
    await place.label([spared], "color-")
    await place.until_gone()


async def test_should_retry_creating_failed_daemon_pods(place: Site) -> None:
    """A pod that has failed is replaced, and is deleted for good; the others are left alone (L3)."""
    await place.apply()
    failed, *others = await place.covered()
    await place.status_patch(failed, {"phase": "Failed"})

    async def replaced() -> bool:
        return failed.uid not in {pod.uid for pod in await place.pods()}

    await place.until("the failed pod is gone", replaced)
    now = by_node(await place.covered())
    assert by_node(others).items() <= now.items()
    events = await place.kubectl("get", "events", "--field-selector=reason=FailedDaemonPod")
    assert failed.name in events


async def test_should_not_update_pod_when_update_strategy_is_on_delete(place: Site) -> None:
    """A new image: two revisions, 1 and 2, and every pod keeps image and hash until somebody deletes it."""
    await place.apply(update_strategy=ON_DELETE)
    before = await place.covered(image=OLD)
    first = await place.revisions()
    assert ({1}, hashes(before)) == (set(first), set(first.values()))

    await place.kubectl("set", "image", "ds/agent", f"main={NEW}")
    await place.until_status(updatedNumberScheduled=0, numberAvailable=NODES)
    assert by_node(before) == by_node(await place.covered(image=OLD))
    revisions = await place.revisions()
    assert {1, 2} == revisions.keys()
    assert {revisions[1]} == hashes(await place.pods())

    await place.kubectl("delete", "pod", before[0].name)
    await place.until_status(updatedNumberScheduled=1, numberAvailable=NODES)
    pods = await place.covered()
    assert {NEW: 1, OLD: NODES - 1} == {
        image: [pod.image for pod in pods].count(image) for image in (NEW, OLD)
    }


async def test_should_update_pod_when_update_strategy_is_rolling_update(place: Site) -> None:
    """A new image reaches every pod, never more than one is down; revision 2 is theirs (S3)."""
    await place.apply(update_strategy=ROLLING)
    await place.covered(image=OLD)
    down: list[int] = []
    place.observer.on_change = lambda pods: down.append(NODES - nodes_served(place, pods))

    await place.kubectl("set", "image", "ds/agent", f"main={NEW}")
    pods = await place.covered(image=NEW)
    await place.kubectl("rollout", "status", "ds/agent", "--timeout=30s")

    assert 1 == max(down)
    revisions = await place.revisions()
    assert ({1, 2}, {revisions[2]}) == (set(revisions), hashes(pods))


def nodes_served(place: Site, pods: list[SeenPod]) -> int:
    """On how many nodes there is a pod that works."""
    working = {
        pod.node for pod in pods if pod.namespace == place.namespace and pod.live and pod.ready
    }
    return len(working)


async def test_should_rollback_without_unnecessary_restarts(place: Site) -> None:
    """A bad template is taken back in mid-rollout: all pods are good again, and those that it had not reached stay."""
    await place.apply(
        update_strategy={"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 2}}
    )
    before = await place.covered(image=OLD)
    bad = {"metadata": {"annotations": {"test.everynode.dev/pod": "unready"}}}
    container = {"name": "main", "image": "example.invalid/bad:1"}
    template = {**bad, "spec": {"containers": [container]}}
    await place.kubectl("patch", "ds/agent", *merge_patch({"spec": {"template": template}}))

    async def two_are_bad() -> bool:
        pods = await place.pods()
        return NODES == len(pods) and 2 == sum(pod.image != OLD for pod in pods)

    await place.until("two pods are of the bad template", two_are_bad)
    untouched = by_node(pod for pod in await place.pods() if pod.image == OLD)
    assert untouched.items() <= by_node(before).items()

    await place.kubectl("rollout", "undo", "ds/agent")
    after = by_node(await place.covered(image=OLD))
    await place.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    assert untouched.items() <= after.items()
    assert {2, 3} == (await place.revisions()).keys()


async def test_should_list_and_delete_a_collection_of_daemonsets(place: Site) -> None:
    """Sets are listed by label, and deleted as a collection by label; another set and its pods stay."""
    for name in ("one", "two", "kept"):
        await place.apply(name)
        await place.covered(name=name)
    await place.kubectl("label", "ds", "one", "two", "collection=yes")
    path = f"/apis/apps/v1/namespaces/{place.namespace}/daemonsets"
    selected = "collection=yes"

    listed = await place.api.get(path, labelSelector=selected)
    assert {"one", "two"} == {item["metadata"]["name"] for item in listed["items"]}
    kept = by_node(await place.pods("kept"))
    await place.api.delete(path, labelSelector=selected)
    assert [] == (await place.api.get(path, labelSelector=selected))["items"]
    for name in ("one", "two"):
        await place.until_gone(name)
    assert kept == by_node(await place.covered(name="kept"))


async def test_should_verify_changes_to_a_daemon_set_status(place: Site) -> None:
    """The status can be read, replaced and patched by anybody, a watch sees it, and what others wrote there stays."""
    await place.apply()
    await place.covered()
    await place.until_status(numberAvailable=NODES)
    path = f"/apis/apps/v1/namespaces/{place.namespace}/daemonsets/agent/status"
    begin = (await place.read("daemonsets"))["metadata"]["resourceVersion"]

    await replace_condition(
        place, path, {"type": "StatusUpdate", "status": "True", "reason": "E2E"}
    )
    patched = {"type": "StatusPatched", "status": "True", "reason": "E2E"}
    await place.api.patch(path, {"status": {"conditions": [patched]}}, "strategic")
    seen = await watched_conditions(place, begin, "StatusPatched")
    assert {"StatusUpdate", "StatusPatched"} <= seen

    # What we write afterwards leaves them there, and our own are there, too.
    await place.label(place.nodes[:1], "color=none")
    await place.kubectl("patch", "ds/agent", *merge_patch(selecting({"color": "none"})))
    status = await place.until_status(desiredNumberScheduled=1, currentNumberScheduled=1)
    assert {"StatusUpdate", "StatusPatched", "Available", "Progressing", "Degraded"} == {
        condition["type"] for condition in status["conditions"]
    }


async def replace_condition(place: Site, path: str, condition: dict[str, str]) -> None:
    """Add a condition by replacing the whole status, again if somebody else wrote in between."""

    async def replaced() -> Json | None:
        found = await place.api.get(path)
        found["status"].setdefault("conditions", []).append(condition)
        try:
            return await place.api.replace(path, found)
        except ApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            return None

    await place.until("the status is replaced", replaced)


async def watched_conditions(place: Site, begin: str, last: str) -> set[str]:
    """The types of conditions that a watch shows, from a version until one of them is there."""
    path = f"/apis/apps/v1/namespaces/{place.namespace}/daemonsets"
    seen: set[str] = set()
    async for event in place.api.watch(path, resourceVersion=begin, timeoutSeconds=30):
        conditions = event["object"].get("status", {}).get("conditions", [])
        seen |= {condition["type"] for condition in conditions}
        if last in seen:
            break
    return seen


def selecting(selector: dict[str, str]) -> dict[str, Any]:
    """A change of the node selector."""
    return {"spec": {"template": {"spec": {"nodeSelector": selector}}}}


async def test_a_status_that_somebody_else_overwrote_is_put_right(place: Site) -> None:
    """Counters that somebody overwrites are as they should be before long, as the built-in controller would have it."""
    await place.apply()
    await place.covered()
    await place.until_status(numberAvailable=NODES)
    path = f"/apis/apps/v1/namespaces/{place.namespace}/daemonsets/agent/status"

    wrong = {"status": {"numberReady": 77, "observedGeneration": 99, "conditions": []}}
    await place.api.patch(path, wrong)

    await place.until_status(numberReady=NODES, numberAvailable=NODES)


async def test_a_history_that_somebody_deleted_is_made_again(place: Site) -> None:
    """ControllerRevisions that somebody deletes are made again, so that one can return to an old template."""
    await place.apply(image=OLD)
    await place.covered(image=OLD)
    await place.kubectl("set", "image", "ds/agent", f"main={NEW}")
    await place.covered(image=NEW)
    await place.kubectl("rollout", "status", "ds/agent", "--timeout=30s")
    before = await place.revisions()

    await place.kubectl("delete", "controllerrevisions", "--all")

    async def there_again() -> bool:
        return before == await place.revisions()

    await place.until("the history is there again", there_again)
    await place.kubectl("rollout", "undo", "ds/agent")
    await place.covered(image=OLD)
