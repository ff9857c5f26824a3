"""The unit cases of Kubernetes' own controller, re-expressed: which pods one decision makes and deletes.

Source: pkg/controller/daemon/daemon_controller_test.go; each docstring, or the id of a row, names the case. The other
files of this name have those about ownership, rollouts, surges, status, wake-ups and history. docs/kubernetes.md lists
all of them.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.commands import CreatePod
from everynode.core.eligibility import compile_constraints, verdict
from everynode.core.events import NoticeReported, Tick
from everynode.core.pacing import REST_FIRST_MS, REST_FORGOTTEN_MS
from everynode.core.values import Node, UpdateStrategy
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import (
    AGENT,
    SET,
    alike,
    asked,
    pods_on,
    situation,
)
from everynode.testing.world import World

both_strategies = pytest.mark.parametrize(
    "strategy",
    [UpdateStrategy(), UpdateStrategy(type="RollingUpdate")],
    ids=["OnDelete", "RollingUpdate"],
)

ONE = node("node-0")
OTHER = daemonset(name="other")
BLUE = {"nodeSelector": {"color": "blue"}}
AFFINE = {
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {
                        "matchExpressions": [
                            {"key": "color", "operator": "In", "values": ["blue", "red"]}
                        ]
                    }
                ]
            }
        }
    }
}
TOLERANT = {"tolerations": [{"key": "k", "operator": "Exists"}]}
LARGE = {"containers": [{"resources": {"requests": {"memory": "75M", "cpu": "75m"}}}]}
ON_PORT = {"containers": [{"ports": [{"hostPort": 666}]}]}


def several(first: int, count: int, *taints: str, **labels: str) -> list[Node]:
    """Make nodes with numbered names."""
    return [
        structs.replace(node(f"node-{first + each}", *taints), labels=labels)
        for each in range(count)
    ]


def numbers(world: World) -> tuple[int, int, int]:
    """Let the worker decide once: how many creates, deletes, and words to people about pods and selector."""
    before = len(world.log)
    found = asked(world)
    told = [r.message.notice for r in world.log[before:] if isinstance(r.message, NoticeReported)]
    about = [item for item in told if item.reason.endswith("DaemonPod") or "Select" in item.reason]
    return len(found.creates), len(found.deletes), sum(notice.count for notice in about)


def pass_ms(world: World, duration_ms: int) -> None:
    """Let time pass in the log."""
    world.now_ms += duration_ms
    world.write(Tick(shard=0, due_ms=0))


# Creates, deletes and events per sync; several pods of a node are all ready, and no node is left out


MIXED = [*several(0, 5), *several(5, 5, color="blue")]


@both_strategies
@pytest.mark.parametrize(
    ("spec", "nodes", "own", "foreign", "wanted"),
    [
        pytest.param({}, several(0, 5), {}, {}, (5, 0, 0), id="TestSimpleDaemonSetLaunchesPods"),
        pytest.param({}, [], {}, {}, (0, 0, 0), id="TestNoNodesDoesNothing"),
        pytest.param({}, [ONE], {}, {}, (1, 0, 0), id="TestOneNodeDaemonLaunchesPod"),
        pytest.param(
            {},
            [node("node-0", ready=False)],
            {},
            {},
            (1, 0, 0),
            id="TestNotReadyNodeDaemonDoesLaunchPod",
        ),
        pytest.param(
            LARGE,
            [ONE],
            {},
            {"node-0": 1},
            (1, 0, 0),
            id="TestInsufficientCapacityNodeDaemonDoesNotUnscheduleRunningPod",
        ),
        pytest.param(
            LARGE | BLUE,
            [ONE, *several(1, 1, color="blue")],
            {},
            {"node-0": 1},
            (1, 0, 0),
            id="TestInsufficientCapacityNodeSufficientCapacityWithNodeLabelDaemonLaunchPod",
        ),
        pytest.param(
            ON_PORT,
            [ONE],
            {"node-0": 1},
            {},
            (0, 0, 0),
            id="TestPortConflictWithSameDaemonPodDoesNotDeletePod",
        ),
        pytest.param(
            ON_PORT,
            [ONE],
            {},
            {"node-0": 1},
            (1, 0, 0),
            id="TestNoPortConflictNodeDaemonLaunchesPod",
        ),
        pytest.param(
            {},
            several(0, 5),
            {"node-1": 1, "node-2": 2, "node-3": 5},
            {"node-4": 2},
            (2, 5, 0),
            id="TestDealsWithExistingPods",
        ),
        pytest.param(
            BLUE,
            [*several(0, 4), *several(4, 3, color="blue")],
            {},
            {},
            (3, 0, 0),
            id="TestSelectorDaemonLaunchesPods",
        ),
        pytest.param(
            BLUE,
            MIXED,
            {"node-1": 3, "node-4": 1},
            {"node-0": 2, "node-1": 1},
            (5, 4, 0),
            id="TestSelectorDaemonDeletesUnselectedPods",
        ),
        pytest.param(
            BLUE,
            MIXED,
            {"node-0": 1, "node-1": 3, "node-2": 4, "node-6": 13, "node-9": 1},
            {"node-1": 2, "node-7": 4, "node-9": 1},
            (3, 20, 0),
            id="TestSelectorDaemonDealsWithExistingPods",
        ),
        pytest.param(
            {"nodeSelector": {"color": "green"}},
            MIXED,
            {},
            {},
            (0, 0, 0),
            id="TestBadSelectorDaemonDoesNothing",
        ),
        pytest.param(
            {"nodeName": "node-0"},
            several(0, 5),
            {},
            {},
            (1, 0, 0),
            id="TestNameDaemonSetLaunchesPods",
        ),
        pytest.param(
            {"nodeName": "node-10"},
            several(0, 5),
            {},
            {},
            (0, 0, 0),
            id="TestBadNameDaemonSetDoesNothing",
        ),
        pytest.param(
            BLUE | {"nodeName": "node-6"},
            MIXED,
            {},
            {},
            (1, 0, 0),
            id="TestNameAndSelectorDaemonSetLaunchesPods",
        ),
        pytest.param(
            BLUE | {"nodeName": "node-0"},
            MIXED,
            {},
            {},
            (0, 0, 0),
            id="TestInconsistentNameSelectorDaemonSetDoesNothing",
        ),
        pytest.param(
            BLUE,
            [*several(0, 4), *several(4, 3, color="blue")],
            {},
            {},
            (3, 0, 0),
            id="TestSelectorDaemonSetLaunchesPods",
        ),
        pytest.param(
            AFFINE,
            [*several(0, 4), *several(4, 3, color="blue")],
            {},
            {},
            (3, 0, 0),
            id="TestNodeAffinityDaemonLaunchesPods",
        ),
        pytest.param(
            {},
            several(0, 1, "k:NoSchedule"),
            {"node-0": 1},
            {},
            (0, 0, 0),
            id="TestNoScheduleTaintedDoesntEvicitRunningIntolerantPod",
        ),
        pytest.param(
            {},
            several(0, 1, "k:NoExecute"),
            {"node-0": 1},
            {},
            (0, 1, 0),
            id="TestNoExecuteTaintedDoesEvicitRunningIntolerantPod",
        ),
        pytest.param(
            {},
            several(0, 1, "k:NoSchedule"),
            {},
            {},
            (0, 0, 0),
            id="TestTaintedNodeDaemonDoesNotLaunchIntolerantPod",
        ),
        pytest.param(
            TOLERANT,
            several(0, 1, "k:NoSchedule"),
            {},
            {},
            (1, 0, 0),
            id="TestTaintedNodeDaemonLaunchesToleratePod",
        ),
        pytest.param(
            {},
            [node("node-0", "node.kubernetes.io/not-ready:NoExecute", ready=False)],
            {},
            {},
            (1, 0, 0),
            id="TestNotReadyNodeDaemonLaunchesPod",
        ),
        pytest.param(
            {},
            [node("node-0", "node.kubernetes.io/unreachable:NoExecute", ready=False)],
            {},
            {},
            (1, 0, 0),
            id="TestUnreachableNodeDaemonLaunchesPod",
        ),
        pytest.param(TOLERANT, [ONE], {}, {}, (1, 0, 0), id="TestNodeDaemonLaunchesToleratePod"),
        pytest.param(
            {},
            [
                node(
                    "node-0",
                    "node.kubernetes.io/disk-pressure:NoSchedule",
                    "node.kubernetes.io/memory-pressure:NoSchedule",
                    "node.kubernetes.io/pid-pressure:NoSchedule",
                )
            ],
            {},
            {},
            (1, 0, 0),
            id="TestTaintPressureNodeDaemonLaunchesPod",
        ),
    ],
)
def test_one_decision(
    strategy: UpdateStrategy,
    spec: dict[str, Any],
    nodes: list[Node],
    own: dict[str, int],
    foreign: dict[str, int],
    wanted: tuple[int, int, int],
) -> None:
    """S1, S2: the Kubernetes case of the row's id: the same creates, deletes and events, in both strategies."""
    wanted_set = daemonset(spec, update_strategy=strategy)
    pods = [item for name, count in own.items() for item in pods_on(node(name), count, wanted_set)]
    for name, count in foreign.items():
        pods += [pod(OTHER, node(name), f"foreign-{name}-{each}") for each in range(count)]

    assert wanted == numbers(situation(wanted_set, nodes, pods))


# Pods that ended, or are on their way out


@both_strategies
@pytest.mark.parametrize(
    ("failed", "good", "wanted"),
    [
        pytest.param(0, 1, (0, 0, 0), id="normal (do nothing)"),
        pytest.param(0, 0, (1, 0, 0), id="no pods (create 1)"),
        pytest.param(
            1, 0, (0, 1, 1), id="1 failed pod (kill 1), 0 normal pod (create 0; next sync)"
        ),
        pytest.param(1, 3, (0, 3, 1), id="1 failed pod (kill 1), 3 normal pods (kill 2)"),
    ],
)
def test_failed_pods_are_killed(
    strategy: UpdateStrategy, failed: int, good: int, wanted: tuple[int, int, int]
) -> None:
    """TestDaemonKillFailedPods: a failed pod is deleted and told of; another one is made when it is gone."""
    wanted_set = daemonset(update_strategy=strategy)
    bad = [pod(wanted_set, ONE, f"bad-{each}", phase="Failed") for each in range(failed)]
    world = situation(wanted_set, [ONE], [*bad, *pods_on(ONE, good, wanted_set)])

    assert wanted == numbers(world)


@both_strategies
@pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
def test_failed_pods_back_off(strategy: UpdateStrategy, phase: Any) -> None:
    """TestDaemonKillFailedPodsBackoff: the first goes at once, the second when its time is over, to the millisecond.

    We differ: the time counts from when the pod was made, and pods that have succeeded wait likewise.
    """
    world = situation(daemonset(update_strategy=strategy), [ONE], [])
    for rest_ms in (0, REST_FIRST_MS, 2 * REST_FIRST_MS):
        assert numbers(world) == (1, 0, 0)
        world.carry_out()
        (made,) = world.pods
        world.change_pod(made, phase=phase, ready=False)
        if rest_ms:
            pass_ms(world, rest_ms - 1)
            assert numbers(world) == (0, 0, 0)
            assert numbers(world) == (0, 0, 0), "looking does not make it longer"
            pass_ms(world, 1)

        assert numbers(world) == (0, 1, 1)
        world.carry_out()


@both_strategies
def test_a_new_generation_does_not_back_off(strategy: UpdateStrategy) -> None:
    """TestDaemonKillFailedPodsBackoff: its key has the generation in it, so that a change of the set starts anew."""
    wanted = daemonset(update_strategy=strategy)
    bad = pod(wanted, ONE, phase="Failed", generation=1, failures=9, created_ms=999)
    world = situation(wanted, [ONE], [bad])
    assert numbers(world) == (0, 0, 0)

    world.apply_changed(wanted)

    assert numbers(world) == (0, 1, 1)
    world.carry_out()
    world.decide()
    assert [0] == [item.failures for item in world.queue if isinstance(item, CreatePod)]


@both_strategies
@pytest.mark.parametrize(
    ("lasted_ms", "rests"), [(REST_FORGOTTEN_MS - 1, True), (REST_FORGOTTEN_MS, False)]
)
def test_a_pod_that_lasted_begins_a_new_row(
    strategy: UpdateStrategy, lasted_ms: int, rests: bool
) -> None:
    """TestDaemonKillFailedPodsBackoff: half an hour without a failure, and earlier ones are forgotten."""
    wanted = daemonset(update_strategy=strategy)
    world = situation(wanted, [ONE], [])
    bad = pod(wanted, ONE, generation=1, failures=5, created_ms=world.now_ms)
    world.put_pod(bad)
    world.decide()
    pass_ms(world, lasted_ms)
    world.change_pod(bad.key, phase="Failed", ready=False)
    assert numbers(world) == (0, 1, 1)
    world.carry_out()

    world.decide()

    (create,) = world.queue
    assert isinstance(create, CreatePod)
    assert (6 if rests else 1) == create.failures


@both_strategies
def test_termination_is_respected(strategy: UpdateStrategy) -> None:
    """TestDaemonSetRespectsTermination, S1: while the last pod is on its way out, there is no next one."""
    wanted = daemonset(update_strategy=strategy)
    world = situation(wanted, [ONE], pods_on(ONE, 1, wanted, deleting=True))

    assert numbers(world) == (0, 0, 0)


# Should this node have the pod?


@pytest.mark.parametrize(
    ("spec", "on", "wanted"),
    [
        pytest.param({}, ONE, (True, True), id="ShouldRunDaemonPod"),
        pytest.param(LARGE, ONE, (True, True), id="InsufficientResourceError"),
        pytest.param(
            {"containers": [{"resources": {"requests": {"cpu": "9000"}}}]},
            ONE,
            (True, True),
            id="ShouldRunDaemonPod with more than the node has",
        ),
        pytest.param({"nodeName": "other"}, ONE, (False, False), id="ErrPodNotMatchHostName"),
        pytest.param(ON_PORT, ONE, (True, True), id="ErrPodNotFitsHostPorts"),
        pytest.param(
            {"containers": [{"ports": [{"hostPort": 667}]}]}, ONE, (True, True), id="another port"
        ),
        pytest.param(BLUE, ONE, (False, False), id="ErrNodeSelectorNotMatch"),
        pytest.param(BLUE, node(color="blue"), (True, True), id="ShouldRunDaemonPod, selector"),
        pytest.param(AFFINE, node(color="green"), (False, False), id="ErrPodAffinityNotMatch"),
        pytest.param(AFFINE, node(color="red"), (True, True), id="ShouldRunDaemonPod, affinity"),
        pytest.param(
            {},
            node("n", "node.kubernetes.io/unschedulable:NoSchedule", unschedulable=True),
            (True, True),
            id="ShouldRunDaemonPodOnUnschedulableNode",
        ),
    ],
)
def test_should_this_node_have_it(
    spec: dict[str, Any], on: Node, wanted: tuple[bool, bool]
) -> None:
    """TestNodeShouldRunDaemonPod, S2: may a pod be made here, and may one that is here stay?"""
    found = verdict(compile_constraints(daemonset(spec)), on)

    assert wanted == (found.should_run, found.may_stay)


# Commands that do not work


def test_creates_that_fail() -> None:
    """TestSimpleDaemonSetPodCreateErrors, TestDaemonSetPodCreateExpectationsError: no more than a batch goes wrong.

    100 nodes, and a backend that makes 10 pods: 1, 2, 4, 8 are asked for, and of those that failed none is waited for.
    """
    world = World()
    for each in alike(100):
        world.put_node(each)
    world.apply(AGENT)
    rounds = []
    while len(world.pods) < 10:
        rounds.append(len(asked(world).creates))
        while world.queue:
            world.carry_out(works=len(world.pods) < 10)

    world.read(world.worker)
    state = world.worker.fleet.sets[SET]
    assert rounds == [1, 2, 4, 8]
    assert state.pending == {}
    assert len(state.failures) == 5
    assert len(asked(world).creates) == 1
