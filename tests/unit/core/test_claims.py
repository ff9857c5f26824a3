"""Whose pods those on a node are: the set's own, those that must go, what stands in the way, and who joins."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.claims import Claims, claim, rests_until_ms, seniority
from everynode.core.events import DaemonSetGone
from everynode.core.orphans import KnownPod
from everynode.core.setstate import SetState
from everynode.core.values import DaemonSet, Node, Owner, Pod, Selector, UpdateStrategy
from everynode.testing.builders import node, pod
from everynode.testing.situations import AGENT, SET, asked, situation
from everynode.testing.world import World

ONE, TWO = node("node-0"), node("node-1")
SURGING = structs.replace(
    AGENT, update_strategy=UpdateStrategy(type="RollingUpdate", max_unavailable=0, max_surge=1)
)
LATER = structs.replace(AGENT, predecessor_uids=("uid-first", "uid-second"))
OWNER_UID = {name: Owner(name=SET.name, uid=f"uid-{name}") for name in ("first", "second", "other")}
NOW_MS = 100_000
DOWN: dict[str, Any] = {"ready": False, "ready_since_ms": 0}
ENDED: dict[str, Any] = DOWN | {"phase": "Failed", "generation": 1}


def mine(name: str = "a", **changes: Any) -> Pod:
    """Make a pod of the set on the node."""
    return structs.replace(pod(AGENT, ONE, name), **changes)


def known(world: World) -> SetState:
    """Let the worker read, and return what it knows of the set."""
    world.read(world.worker)
    return world.worker.fleet.sets[SET]


def claims(wanted: DaemonSet | None, pods: list[Pod], on: Node | None = ONE) -> Claims:
    """Sort these pods."""
    world = situation(wanted, [ONE, TWO], pods)
    return claim(known(world), ONE.key, on, NOW_MS)


def reasons(found: Claims) -> dict[str, str]:
    """Say why which pods must go."""
    return {pod.name: reason for pod, reason in found.unwanted}


# Whose they are


@pytest.mark.parametrize(
    ("wanted", "running", "on", "reason"),
    [
        pytest.param(AGENT, mine(), ONE, "", id="its own"),
        pytest.param(
            AGENT, mine(owner=OWNER_UID["other"]), ONE, "OwnerReplaced", id="a namesake's"
        ),
        pytest.param(
            LATER,
            mine(owner=OWNER_UID["first"]),
            ONE,
            "PredecessorDeletedPodsStay",
            id="a predecessor's whose pods stay",
        ),
        pytest.param(
            LATER,
            mine(owner=OWNER_UID["second"]),
            None,
            "PredecessorDeletedPodsStay",
            id="another predecessor's, on a node that is gone",
        ),
        pytest.param(
            LATER, mine(owner=OWNER_UID["other"]), ONE, "OwnerReplaced", id="none of them"
        ),
        pytest.param(AGENT, mine(), None, "NodeGone", id="of a node that is gone"),
        pytest.param(
            AGENT, mine(), node("node-0", uid="new"), "NodeGone", id="of a node made anew"
        ),
        pytest.param(
            AGENT, mine(node_uid=""), node("node-0", uid="new"), "", id="of no certain node"
        ),
        pytest.param(AGENT, mine(labels={"app": "agent"}), ONE, "", id="with its labels"),
        pytest.param(AGENT, mine(labels={}), ONE, "SelectorMismatch", id="without labels"),
        pytest.param(AGENT, mine(labels={}), None, "NodeGone", id="the node comes before labels"),
    ],
)
def test_whose_a_pod_is(wanted: DaemonSet, running: Pod, on: Node | None, reason: str) -> None:
    """S1: a pod that is not the set's, or not this node's, must go, and is not counted as the node's."""
    found = claims(wanted, [running], on)

    assert ({running.name: reason} if reason else {}) == reasons(found)
    assert ([] if reason else [running]) == found.pods


def test_pods_on_their_way_out_are_not_asked_to_go() -> None:
    """L2: whatever they are, they go already; those of others are not the node's either."""
    leaving = mine("own", deleting=True)
    found = claims(AGENT, [leaving, mine("other", owner=OWNER_UID["other"], deleting=True)])

    assert ([leaving], {}) == (found.pods, reasons(found))


@pytest.mark.parametrize(
    ("cascade", "reason"), [("background", "SetDeleted"), ("orphan", "SetDeletedPodsStay")]
)
def test_pods_of_a_deleted_set(cascade: Any, reason: str) -> None:
    """L1: all of them go, or are let go of, whosever they were."""
    world = situation(AGENT, [ONE], [mine(), mine("b", owner=OWNER_UID["other"])])
    world.write(DaemonSetGone(namespace="default", name="agent", uid=AGENT.uid, cascade=cascade))

    found = claim(known(world), ONE.key, ONE, NOW_MS)

    assert ([], {"a": reason, "b": reason}) == (found.pods, reasons(found))


def test_pods_that_the_backend_sees_to() -> None:
    """L1: a set that was deleted in the backend which kept it: its pods are left to that, and nobody adds any."""
    world = situation(AGENT, [ONE], [mine(), mine("b")])
    world.write(DaemonSetGone(namespace="default", name="agent", uid=AGENT.uid, cascade="backend"))

    found = claim(known(world), ONE.key, ONE, NOW_MS)

    assert (["a", "b"], {}) == ([pod.name for pod in found.pods], reasons(found))


# Which of several stays


def test_seniority() -> None:
    """S1: what works comes before what does not, then what is older, then the name."""
    pods = [
        mine("ended", **ENDED),
        mine("b", created_ms=5),
        mine("a", created_ms=5),
        mine("old-down", created_ms=1, **DOWN),
        mine("leaving-ready", deleting=True),
        mine("young", created_ms=6),
    ]

    ordered = [found.name for found in sorted(pods, key=seniority)]

    assert ordered == ["a", "b", "young", "old-down", "leaving-ready", "ended"]
    assert ordered == [found.name for found in claims(AGENT, pods).pods]


@pytest.mark.parametrize(
    ("old_for_ms", "serves_for_ms"), [(1_000, 60_000), (59_999, 60_000), (1_000, 99_000)]
)
def test_a_surplus_never_takes_the_only_available_pod(old_for_ms: int, serves_for_ms: int) -> None:
    """S3: of three ready pods the one that has been so for long enough stays, though another is older."""
    wanted = structs.replace(AGENT, min_ready_seconds=60)
    pods = [
        mine("old", created_ms=1, ready_since_ms=NOW_MS - old_for_ms),
        mine("serves", created_ms=2, ready_since_ms=NOW_MS - serves_for_ms),
        mine("too", created_ms=3, ready_since_ms=1_000),
    ]

    assert {"old": "Duplicate", "too": "Duplicate"} == reasons(claims(wanted, pods))


def test_with_a_surge_one_of_each_revision_stays() -> None:
    """S1: of the new ones the first, of the old ones the first, whichever is older."""
    pods = [
        mine("new-1", created_ms=5, **DOWN),
        mine("new-2", created_ms=6, **DOWN),
        mine("new-3", created_ms=7, **DOWN),
        mine("old-1", created_ms=1, revision="old"),
        mine("old-2", created_ms=2, revision="0"),
        mine("old-3", created_ms=3, revision="z"),
    ]

    assert dict.fromkeys(("new-2", "new-3", "old-2", "old-3"), "Duplicate") == reasons(
        claims(SURGING, pods)
    )
    assert len(reasons(claims(AGENT, pods))) == 5


@pytest.mark.parametrize(
    ("ready_for_ms", "old_is_ready", "finished"),
    [(60_000, True, True), (59_999, True, False), (0, True, False), (0, False, True)],
)
def test_a_surge_is_finished(ready_for_ms: int, old_is_ready: bool, finished: bool) -> None:
    """S3: the old pod goes when the new one is available, or at once if it does not work itself."""
    wanted = structs.replace(SURGING, min_ready_seconds=60)
    since_ms = NOW_MS - ready_for_ms
    pods = [
        mine("new", ready_since_ms=since_ms),
        mine("old", revision="old", **({} if old_is_ready else DOWN)),
    ]

    assert ({"old": "OutdatedRevision"} if finished else {}) == reasons(claims(wanted, pods))


def test_a_surge_is_judged_by_those_that_stay() -> None:
    """S3: what goes as a duplicate says nothing about whether the old pod is still needed."""
    new, more = mine("new-1"), mine("new-2", **DOWN)
    old, other = mine("old-1", revision="old"), mine("old-2", revision="old", **DOWN)

    assert {"new-2": "Duplicate", "old-1": "OutdatedRevision"} == reasons(
        claims(SURGING, [new, more, old])
    )
    assert {"old-2": "Duplicate"} == reasons(claims(SURGING, [more, old, other]))


def test_a_single_pod_is_no_surge() -> None:
    """S3: an old pod that does not work stays until there is a new one."""
    assert {} == reasons(claims(SURGING, [mine("old", revision="old", **DOWN)]))
    assert {} == reasons(claims(SURGING, [mine("new", **DOWN)]))


# Pods that have ended


@pytest.mark.parametrize(
    ("changes", "rests_ms"),
    [
        pytest.param({}, 0, id="the first goes at once"),
        pytest.param({"failures": 1}, 1_000, id="the second rests"),
        pytest.param({"failures": 3}, 4_000, id="the fourth rests longer"),
        pytest.param({"failures": 3, "generation": 2}, 0, id="of a later generation"),
        pytest.param({"failures": 3, "generation": 0}, 0, id="of an earlier generation"),
    ],
)
def test_how_long_a_pod_that_ended_rests(changes: dict[str, Any], rests_ms: int) -> None:
    """L2: each of a row in one generation stays longer, counted from when it was made."""
    for surge in (AGENT, SURGING):
        made_ms = NOW_MS - rests_ms
        ended = mine(**(ENDED | {"created_ms": made_ms} | changes))
        state = known(situation(surge, [ONE], [ended]))

        assert (NOW_MS if rests_ms else 0) == rests_until_ms(state, ended)
        rested = claim(state, ONE.key, ONE, NOW_MS)
        assert {"a": "PodFailed"} == reasons(rested)
        assert [ended] == rested.pods
        if rests_ms:
            assert {} == reasons(claim(state, ONE.key, ONE, NOW_MS - 1))


def test_what_has_ended_goes_for_what_it_was() -> None:
    """S1: one that succeeded goes as one that failed does, and neither is counted as a duplicate of a live one."""
    pods = [
        mine("live"),
        mine("failed", **ENDED),
        mine("succeeded", **(ENDED | {"phase": "Succeeded"})),
        mine("gone-soon", **ENDED, deleting=True),
    ]

    wanted = {"failed": "PodFailed", "succeeded": "PodSucceeded"}
    assert wanted == reasons(claims(AGENT, pods)) == reasons(claims(SURGING, pods))


# What stands in the way


@pytest.mark.parametrize(
    ("wanted", "pods", "obstructed"),
    [
        pytest.param(AGENT, [], False, id="nothing"),
        pytest.param(AGENT, [mine()], True, id="a pod"),
        pytest.param(AGENT, [mine(**ENDED)], True, id="one that has ended and is still there"),
        pytest.param(AGENT, [mine(deleting=True)], True, id="one that runs on its way out"),
        pytest.param(AGENT, [mine(**ENDED, deleting=True)], False, id="one that ended on its way"),
        pytest.param(SURGING, [mine(deleting=True)], False, id="a surge may have it beside"),
        pytest.param(SURGING, [mine()], True, id="but not beside one that stays"),
        pytest.param(
            AGENT, [mine(owner=OWNER_UID["other"])], False, id="a namesake's that is deleted"
        ),
        pytest.param(
            AGENT, [mine(labels={})], True, id="one that is let go of, as it may come back here"
        ),
        pytest.param(
            LATER,
            [mine(owner=OWNER_UID["first"]), mine("b", owner=OWNER_UID["other"])],
            True,
            id="a predecessor's that is let go of, among others",
        ),
        pytest.param(
            AGENT, [mine(labels={}, deleting=True)], False, id="one that will not come back"
        ),
    ],
)
def test_what_keeps_a_pod_from_being_made(
    wanted: DaemonSet, pods: list[Pod], obstructed: bool
) -> None:
    """S1: no second pod is made beside one that runs, except in a surge; nor where one may be adopted."""
    assert obstructed == claims(wanted, pods).obstructed


# Who joins


def stray(name: str, on: Node = ONE, **changes: Any) -> Pod:
    """Make a pod that nobody controls, with the labels that the set selects."""
    nobodys = structs.replace(pod(AGENT, on, name), owner=None, labels={"app": "agent"})
    return structs.replace(nobodys, **changes)


@pytest.mark.parametrize(
    ("pods", "adopted"),
    [
        pytest.param([stray("a")], "a", id="an orphan"),
        pytest.param([stray("a", node_uid="")], "a", id="one of no certain node"),
        pytest.param([stray("a", node_uid="other")], "", id="one of an earlier node"),
        pytest.param([stray("a", deleting=True)], "", id="one on its way out"),
        pytest.param([stray("a", TWO)], "", id="one elsewhere"),
        pytest.param([stray("a", labels={})], "", id="one that is not selected"),
        pytest.param([stray("b", **DOWN), stray("c", created_ms=2), stray("a", created_ms=3)], "c"),
        pytest.param([stray("a", deleting=True), stray("b")], "b", id="the one that may"),
        pytest.param([stray("a"), mine("b")], "", id="beside a pod of its own"),
        pytest.param([stray("a"), mine("b", **ENDED, deleting=True)], "", id="beside what is left"),
        pytest.param(
            [stray("a"), mine("b", owner=OWNER_UID["other"])], "", id="beside a namesake's pod"
        ),
    ],
)
def test_which_orphan_joins(pods: list[Pod], adopted: str) -> None:
    """S1: the most senior orphan of a node that has no pod joins; meanwhile none is made."""
    for wanted in (AGENT, SURGING):
        found = claims(wanted, pods)

        assert adopted == (found.adopted.name if found.adopted else "")
        assert not adopted or found.obstructed
    assert [stray("a")] != pods or claims(AGENT, pods, None).adopted is None


def test_nobody_joins_a_set_that_is_not_wanted() -> None:
    """L1: orphans that a deleted set's selector selected stay what they are."""
    world = situation(AGENT, [ONE], [stray("a")])
    world.delete(SET)
    state = known(world)
    state.put_orphan(KnownPod(stray("a"), 999))  # as if it had not been told

    assert claim(state, ONE.key, ONE, NOW_MS) == Claims([], [], obstructed=False, adopted=None)


def test_a_set_with_predecessors_takes_their_pods_over() -> None:
    """S1, L1: what two namesakes left behind is adopted, not restarted."""
    pods = [
        stray(f"on-{on.name}", on, owner=owner)
        for on, owner in ((ONE, OWNER_UID["first"]), (TWO, OWNER_UID["second"]))
    ]
    world = situation(LATER, [ONE, TWO], pods)
    assert asked(world) == ([], [])

    world.run()

    assert [(found.name, found.owner) for found in world.pods.values()] == [
        ("on-node-0", Owner(name="agent", uid=AGENT.uid)),
        ("on-node-1", Owner(name="agent", uid=AGENT.uid)),
    ]


def test_a_selector_may_ask_for_more_than_the_template_says() -> None:
    """S1: a pod whose labels nobody knows is the set's as long as it controls it."""
    wanted = structs.replace(AGENT, selector=Selector(match_labels={"app": "agent", "added": "x"}))

    assert {} == reasons(claims(wanted, [mine(labels=None)]))
    assert {"a": "SelectorMismatch"} == reasons(claims(wanted, [mine(labels={"app": "agent"})]))
