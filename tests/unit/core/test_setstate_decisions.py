"""What a set remembers of decisions and commands: fences, windows, generations, and what is heard twice."""

from __future__ import annotations

from everynode.core.commands import CreatePod, Decision, outcome_of
from everynode.core.eligibility import compile_constraints
from everynode.core.pacing import RETRY_FIRST_MS, Limits
from everynode.core.setstate import SetState
from everynode.core.values import NodeKey, SetKey
from everynode.testing.builders import BACKEND, daemonset, node, pod

SET = SetKey("default", "agent")
AGENT = daemonset()
ONE = node("node-0")
NEVER_MS = 2**63
NOW_MS = 1_000


def wanted() -> SetState:
    """Make a set that is wanted and of which nothing else is known."""
    state = SetState(SET)
    state.set_wanted(AGENT, compile_constraints(AGENT), "a")
    return state


def decision(generation: int = 1, size: int = 0, window: int = 1) -> Decision:
    """Make a decision about the set."""
    return Decision(
        namespace=SET.namespace, daemonset=SET.name, daemonset_uid=AGENT.uid, generation=generation,
        revision="a", basis=1, at_ms=NOW_MS, worker="w", size=size, windows={BACKEND: window},
    )  # fmt: skip


def create(name: str = "pod-1") -> CreatePod:
    """Make a create for the node."""
    return CreatePod(
        id=f"id-{name}", backend=BACKEND, node=ONE.name, node_uid=ONE.uid, namespace=SET.namespace,
        daemonset=SET.name, daemonset_uid=AGENT.uid, generation=1, pod=name, revision="a",
        expires_ms=NOW_MS + 300_000,
    )  # fmt: skip


def test_a_decision_blocks_until_its_batch_is_in() -> None:
    """S6: its last message has its sequence and its size together."""
    state = wanted()
    state.decided(decision(size=3), 3, NOW_MS)
    assert (3, 6) == (state.fence, state.blocked_until)


def test_a_decision_that_is_heard_again_changes_nothing() -> None:
    """S6: neither itself nor an older one."""
    state = wanted()
    state.decided(decision(generation=2, window=5), 7, NOW_MS)
    for sequence in (7, 6):
        state.decided(decision(generation=9, window=9), sequence, NOW_MS)
    assert 2 == state.decided_generation
    assert 5 == state.slow_starts[BACKEND].window(Limits(), NOW_MS)


def test_generations_are_counted_for_each_set_by_itself() -> None:
    """A set made anew under its name begins anew, whatever the order of the identities; an older one never counts."""
    for first, second in (("a", "b"), ("b", "a")):
        state = wanted()
        state.looked_at(first, 5)
        state.looked_at(second, 2)
        assert (second, 2) == state.last_looked_at
        state.looked_at(second, 1)
        assert (second, 2) == state.last_looked_at
    state = wanted()
    state.looked_at(AGENT.uid, 0)
    assert (AGENT.uid, 0) == state.last_looked_at


def test_what_was_decided_for_another_set_of_this_name_does_not_count() -> None:
    """It is the wanted set's generation that counts."""
    state = wanted()
    for uid, generation in (("a", 0), (AGENT.uid, 3), ("z", 0)):
        state.looked_at(uid, 3)
        assert generation == state.decided_generation


def test_a_superseded_create_slows_nothing_down() -> None:
    """What was no longer wanted says nothing about the backend."""
    state = wanted()
    state.decided(decision(window=5), 2, NOW_MS)
    state.heard(outcome_of(create(), "superseded"), 3, NOW_MS)
    assert 5 == state.slow_starts[BACKEND].window(Limits(), NOW_MS)


def test_a_command_that_is_heard_again_is_pending_once() -> None:
    """S4: however often it is heard it counts once; not at all after it failed, nor an older message of it."""
    state = wanted()
    state.issue(create(), 5)
    state.issue(create(), 6)
    assert {ONE.key: ("id-pod-1",)} == state.pending_on
    assert 1 == state.creates_pending.total()
    assert not state.empty

    state.fail("id-pod-1", NOW_MS)
    for sequence in (5, 4):
        state.issue(create(), sequence)
    assert {} == state.pending


def test_a_set_of_which_only_a_command_is_known_is_not_empty() -> None:
    """S4: it stays known until the command has ended."""
    state = SetState(SET)
    assert state.empty
    state.issue(create(), 5)
    assert not state.empty


def test_a_node_is_looked_at_when_its_rest_is_over_and_not_again() -> None:
    """L2: at that very time, neither before nor after."""
    state = wanted()
    state.issue(create(), 5)
    state.fail("id-pod-1", NOW_MS)
    over_ms = NOW_MS + RETRY_FIRST_MS
    asked = [state.asks_for(ONE.key, time_ms) for time_ms in (over_ms - 1, over_ms, over_ms + 1)]
    assert [False, True, False] == asked
    assert not state.asks_for(NodeKey(BACKEND, "another"), over_ms)


def test_when_a_pod_is_available() -> None:
    """At once if it is ready and nothing is asked for, whatever its clock says; never while it is not ready."""
    state = wanted()
    ready = pod(AGENT, ONE, ready_since_ms=NOW_MS)
    assert 0 == state.available_ms(ready)
    assert NEVER_MS == state.available_ms(pod(AGENT, ONE, ready=False))
