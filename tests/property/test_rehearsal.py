"""A rehearsal does what a worker and a backend do: it comes to the same fleet, by the same commands, and to rest."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from tests.unit.support_rehearsal import Fleet

from everynode.core.eligibility import compile_constraints, verdict
from everynode.core.events import DaemonSetObserved, NodeGone, NodeObserved
from everynode.core.identity import revision_of
from everynode.core.state import Record
from everynode.core.values import DaemonSet, Node, SetKey
from everynode.replay.durations import Durations
from everynode.replay.recording import Entry
from everynode.replay.streams import Stream, entry_of
from everynode.replay.what_if import Survey, rehearse, wanted_instead
from everynode.testing import strategies
from everynode.testing.world import World

pytestmark = pytest.mark.timeout(600)  # a red run takes its time to find the shortest history

KEY = SetKey("default", "agent")

sets = st.booleans().flatmap(lambda surge: strategies.rolling_daemonsets(surge=surge))
several_nodes = st.lists(strategies.rolling_nodes(), max_size=10)


def check_covered(fleet: Fleet, wanted: DaemonSet) -> None:
    """L1: each node that should have a pod has its pod, and no other has one that may not stay."""
    nodes = fleet.rehearsal.pods.nodes
    constraints = compile_constraints(wanted)
    said = {key: verdict(constraints, node) for key, node in nodes.items()}
    live = [pod for pod in fleet.pods if pod.live]
    covered = {pod.node_key for pod in live if nodes[pod.node_key].uid == pod.node_uid}
    assert {key for key, each in said.items() if each.should_run} <= covered
    assert covered <= {key for key, each in said.items() if each.may_stay}
    counts = Counter(pod.node_key for pod in live)
    assert set(counts) == covered  # and nothing is left of nodes that were there before
    strategy = wanted.update_strategy
    held = strategy.paused or strategy.partition or strategy.selector is not None
    if strategy.type == "RollingUpdate" and not held and all(each.ready for each in nodes.values()):
        eligible = [pod for pod in live if said[pod.node_key].should_run]
        assert {revision_of(wanted)} >= {pod.revision for pod in eligible}
        assert all(count == 1 for count in counts.values())


@given(several_nodes, several_nodes, st.sets(st.integers(0, 9)), sets, sets, st.integers(0, 2_000))
def test_comes_to_where_it_should_be(
    first: list[Node],
    later: list[Node],
    leaving: set[int],
    one: DaemonSet,
    other: DaemonSet,
    meanwhile_ms: int,
) -> None:
    """Whatever happens in whatever order, also in the middle of a rollout, it ends covered, and in silence (L1, L2)."""
    fleet = Fleet(durations=Durations(start_ms=120, stop_ms=30))
    for node in first:
        fleet.happens(NodeObserved(node=node), 5)
    fleet.applied(one, 5)
    fleet.passes(meanwhile_ms)
    changed = structs.replace(other, generation=2)
    fleet.applied(changed)
    fleet.passes(meanwhile_ms // 2)
    for node in later:
        fleet.happens(NodeObserved(node=node), meanwhile_ms // 20)
    for number in sorted(leaving):
        nodes = sorted(fleet.rehearsal.pods.nodes)
        if number < len(nodes):
            backend, name = nodes[number]
            fleet.happens(NodeGone(backend=backend, name=name), meanwhile_ms // 20)
    fleet.settles()

    check_covered(fleet, changed)


def stream_of_world(world: World) -> Stream:
    """Take a world's log as a stream."""

    def entry(record: Record) -> Entry:
        return entry_of(world.subjects, record.sequence, record.time_ms, record.message)  # type: ignore[arg-type]

    return Stream("world", world.subjects, map(entry, world.log), 1, 0, {}, is_decided=True)


@given(several_nodes, sets, sets, st.booleans(), st.booleans())
def test_does_what_was_done(
    nodes: list[Node], one: DaemonSet, other: DaemonSet, start_ready: bool, stop_at_once: bool
) -> None:
    """With the spec as it was, another driver's log has the same commands, for pods of the same names."""
    world = World(start_ready=start_ready, stop_at_once=stop_at_once)
    for node in nodes:
        world.put_node(node)
    world.apply_changed(one)
    world.run()
    world.apply_changed(other)
    world.run()

    survey = Survey([KEY])
    survey.read(stream_of_world(world))
    wanted = {KEY: wanted_instead(other, survey.changes[KEY])}
    was, run = rehearse(survey, wanted, ())

    assert isinstance(world.log[survey.changes[KEY].sequence - 1].message, DaemonSetObserved)
    assert was.of[KEY].actions == run.courses.of[KEY].actions
    assert {pod.name for pod in world.pods.values()} == {
        pod.name for pod in run.rehearsal.pods.pods.values()
    }
