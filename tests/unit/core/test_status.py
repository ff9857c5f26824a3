"""The counters of apps/v1 (pkg/controller/daemon/daemon_controller.go, updateDaemonSetStatus)."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.events import Tick
from everynode.core.status import compute_status
from everynode.core.values import DaemonSet, Node, Pod, Status
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, SET, alike, pods_on, situation
from everynode.testing.world import World

ONE = node("node-0")
NOW_MS = 1_000


def counted(world: World) -> Status:
    """Let the worker read, and count."""
    world.read(world.worker)
    status = compute_status(world.worker.fleet, SET)
    assert status is not None
    return status


def numbers(status: Status) -> tuple[int, ...]:
    """Take the counters, in kubectl's order."""
    return (
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_ready,
        status.updated_number_scheduled,
        status.number_available,
        status.number_unavailable,
        status.number_misscheduled,
    )


#  desired, current, ready, up to date, available, unavailable, misscheduled
@pytest.mark.parametrize(
    ("nodes", "pods", "wanted"),
    [
        pytest.param([], [], (0, 0, 0, 0, 0, 0, 0), id="no nodes"),
        pytest.param(alike(3), [], (3, 0, 0, 0, 0, 3, 0), id="no pods"),
        pytest.param([ONE], pods_on(ONE, 1), (1, 1, 1, 1, 1, 0, 0), id="a good pod"),
        pytest.param(
            [ONE], pods_on(ONE, 1, ready=False), (1, 1, 0, 1, 0, 1, 0), id="a pod that is not ready"
        ),
        pytest.param(
            [ONE], pods_on(ONE, 1, revision="old"), (1, 1, 1, 0, 1, 0, 0), id="an old revision"
        ),
        pytest.param(
            [ONE], pods_on(ONE, 1, deleting=True), (1, 1, 1, 1, 1, 0, 0), id="one on its way out"
        ),
        pytest.param(
            [ONE],
            pods_on(ONE, 1, phase="Failed", ready=False),
            (1, 1, 0, 1, 0, 1, 0),
            id="a failed",
        ),
        pytest.param(
            [ONE],
            pods_on(ONE, 1, phase="Failed", deleting=True, ready=False),
            (1, 0, 0, 0, 0, 1, 0),
            id="failed and on its way out",
        ),
        pytest.param(
            [ONE],
            [pod(AGENT, ONE, "b", created_ms=2), pod(AGENT, ONE, "a", ready=False, revision="old")],
            (1, 1, 1, 1, 1, 0, 0),
            id="the one that is ready counts",
        ),
        pytest.param(
            alike(1, "k:NoSchedule"), pods_on(ONE, 1), (0, 0, 0, 0, 0, 0, 1), id="may stay only"
        ),
        pytest.param(
            alike(1, "k:NoExecute"), pods_on(ONE, 1), (0, 0, 0, 0, 0, 0, 1), id="may not stay"
        ),
        pytest.param(
            alike(1, "k:NoExecute"),
            pods_on(ONE, 1, deleting=True),
            (0, 0, 0, 0, 0, 0, 1),
            id="may not stay and is on its way out",
        ),
        pytest.param([], pods_on(ONE, 1), (0, 0, 0, 0, 0, 0, 0), id="no node of that name"),
        pytest.param(
            [ONE],
            pods_on(ONE, 1, daemonset(uid="earlier")),
            (1, 0, 0, 0, 0, 1, 0),
            id="a pod of an earlier set",
        ),
        pytest.param(
            [node("node-0", uid="new")],
            pods_on(ONE, 1),
            (1, 0, 0, 0, 0, 1, 0),
            id="of another node",
        ),
    ],
)
def test_counters(nodes: list[Node], pods: list[Pod], wanted: tuple[int, ...]) -> None:
    """Each counter means what it means in apps/v1; of several pods on a node one that is ready counts."""
    assert wanted == numbers(counted(situation(AGENT, nodes, pods)))


def test_it_says_what_it_is_about() -> None:
    """The set's identity, the generation that was seen and the revision that is wanted."""
    world = situation(daemonset(generation=7), [], [])
    assert counted(world).observed_generation == 0
    world.decide()
    status = counted(world)

    assert ("default", "agent", "uid-agent", 7) == (
        status.namespace,
        status.daemonset,
        status.daemonset_uid,
        status.observed_generation,
    )
    assert len(status.revision) == 13


@pytest.mark.parametrize(
    ("min_ready_seconds", "changes", "available"),
    [
        (0, {"ready_since_ms": 1}, 1),
        (0, {"ready_since_ms": 10**12}, 1),  # its clock is ahead of the log's
        (0, {"ready_since_ms": 0}, 1),
        (0, {"ready": False}, 0),
        (1, {"ready_since_ms": 0}, 0),  # since when is not known
        (1, {"ready_since_ms": 1}, 0),
        (1, {"ready_since_ms": NOW_MS}, 0),
    ],
)
def test_available(min_ready_seconds: int, changes: dict[str, Any], available: int) -> None:
    """Ready is available at once unless the set asks for more (pkg/api/v1/pod, IsPodAvailable)."""
    wanted: DaemonSet = daemonset(min_ready_seconds=min_ready_seconds)

    world = situation(wanted, [ONE], pods_on(ONE, 1, **changes))

    assert available == counted(world).number_available
    assert world.now_ms == NOW_MS


def test_a_pod_becomes_available_with_time() -> None:
    """The core says when a pod will have been ready for long enough; a tick then makes it count."""
    world = situation(
        daemonset(min_ready_seconds=30), [ONE], pods_on(ONE, 1, ready_since_ms=NOW_MS)
    )
    assert counted(world).number_unavailable == 1
    due = world.worker.due()
    assert due is not None
    assert due.time_ms == NOW_MS + 30_000

    world.now_ms = due.time_ms - 1
    world.write(Tick(shard=0, due_ms=due.time_ms))
    assert counted(world).number_available == 0
    world.now_ms = due.time_ms
    world.write(Tick(shard=0, due_ms=due.time_ms))

    assert counted(world).number_available == 1
    assert world.worker.due() is None


def test_a_pod_that_loses_readiness_is_not_available() -> None:
    """Time that passed before does not count."""
    world = situation(daemonset(min_ready_seconds=1), [ONE], pods_on(ONE, 1, ready_since_ms=NOW_MS))
    (running,) = world.pods.values()
    world.now_ms += 5_000
    world.put_pod(structs.replace(running, ready=False, ready_since_ms=0))
    assert counted(world).number_ready == 0

    world.put_pod(structs.replace(running, ready_since_ms=world.now_ms))

    assert (1, 0) == (counted(world).number_ready, counted(world).number_available)


def test_a_set_that_is_not_wanted_has_no_status() -> None:
    """There is nothing to report on a set that was deleted."""
    world = situation(AGENT, [ONE], pods_on(ONE, 1))
    world.delete(SET)
    world.read(world.worker)

    assert compute_status(world.worker.fleet, SET) is None
