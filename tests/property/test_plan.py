"""What `plan` says is what happens: a real worker does it after the apply, node by node and wave by wave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from everynode import wire
from everynode.core.budget import allows_surge
from everynode.core.claims import OUTDATED
from everynode.core.commands import AdoptPod, Command, CreatePod, DeletePod, Outcome, ReleasePod
from everynode.core.eligibility import compile_constraints, verdict
from everynode.core.events import RevisionRecorded, Tick
from everynode.core.identity import revision_hash
from everynode.core.values import DaemonSet, Node, NodeKey, Owner, Pod, Revision
from everynode.ports import Received
from everynode.replay.planning import PlannedSet, Planner
from everynode.replay.planning_fleet import PlannedFleet
from everynode.replay.planning_nodes import Happening
from everynode.testing.strategies import BACKENDS, rolling_daemonsets, rolling_nodes
from everynode.testing.world import STEP_MS, World

ROUNDS_MAX = 200
CREATES_MAX = 10
"""More than there are nodes on a backend."""
HANGING = "hanging"
"""A revision whose pods never get ready."""
OLDER = Revision(
    namespace="default",
    daemonset="agent",
    daemonset_uid="-",
    hash="older",
    number=1,
    template=msgspec.Raw(b'{"metadata":{"labels":{"app":"agent"}}}'),
)


class Start(NamedTuple):
    """A fleet, and what is applied to it."""

    nodes: list[Node]
    before: DaemonSet | None
    pods: list[tuple[int, str, int]]
    after: DaemonSet


KINDS = ("current", "current", "current", "older", "older", "hanging")
TROUBLES = ("starting", "failed", "leaving", "orphan", "old orphan", "stranger", "another's")


@st.composite
def starts(draw: st.DrawFn, *, surge: bool = False, troubles: tuple[str, ...] = TROUBLES) -> Start:
    """Draw a fleet in any state, and a change."""
    nodes = draw(st.lists(rolling_nodes(), min_size=1, max_size=8, unique_by=lambda each: each.key))
    ready = draw(st.lists(st.sampled_from((True, True, True, False)), min_size=8, max_size=8))
    nodes = [
        structs.replace(node, ready=is_so, unready_since_ms=0 if is_so else 2)
        for node, is_so in zip(nodes, ready, strict=False)
    ]
    places = st.integers(0, len(nodes) - 1)
    kinds = st.sampled_from((*KINDS, *troubles))
    pods = draw(st.lists(st.tuples(places, kinds, st.integers(1, 3)), max_size=10))
    alone = {place for place, kind, _ in pods if "orphan" in kind or not troubles}
    # An orphan beside a pod joins when that one goes: what becomes of it then is not planned.
    first = {pod[0]: pod for pod in reversed(pods)}
    pods = [pod for pod in pods if pod[0] not in alone or first[pod[0]] is pod]
    before = draw(st.one_of(rolling_daemonsets(surge=surge), st.none()))
    after = draw(rolling_daemonsets(surge=surge))
    return Start(nodes, before, pods, after)


def world_of(start: Start) -> World:
    """Make the fleet."""
    world = World()
    for number in range(2 * CREATES_MAX):  # so that slow start holds nothing back
        world.write(
            Outcome(
                id=f"earlier-{number}",
                backend=BACKENDS[number % 2],
                namespace="default",
                daemonset="agent",
                verb="create",
                result="done",
            )
        )
    world.hanging.add(HANGING)
    for node in start.nodes:
        world.put_node(node)
    if start.before is not None:
        world.apply_changed(start.before)
    world.write(RevisionRecorded(revision=OLDER))
    for number, (place, kind, age) in enumerate(start.pods):
        pod = _pod(start, world, start.nodes[place], kind)
        if pod is not None:
            name = f"pod-{number}"
            world.put_pod(structs.replace(pod, name=name, uid=f"uid-{name}", created_ms=age))
    return world


def _pod(start: Start, world: World, node: Node, kind: str) -> Pod | None:
    known = world.sets.get(start.after.key)
    if known is None and "orphan" not in kind and kind not in {"stranger", "another's"}:
        return None
    pod = Pod(
        backend=node.backend,
        namespace="default",
        name="-",
        uid="-",
        node=node.name,
        node_uid=node.uid,
        owner=None if known is None else Owner(name="agent", uid=known.uid),
        revision="older" if known is None else revision_hash(known.template),
        generation=1,
        phase="Running",
        ready=node.ready,
        ready_since_ms=1 if node.ready else 0,
    )
    match kind:
        case "older":
            return structs.replace(pod, revision="older")
        case "hanging":
            return structs.replace(pod, revision=HANGING, ready=False, ready_since_ms=0)
        case "starting":
            return structs.replace(pod, phase="Pending", ready=False, ready_since_ms=0)
        case "failed":
            return structs.replace(pod, phase="Failed", ready=False, ready_since_ms=0)
        case "leaving":
            return structs.replace(
                pod, deleting=True, deleting_since_ms=1, ready=False, ready_since_ms=0
            )
        case "orphan":
            return structs.replace(pod, owner=None, labels={"app": "agent"})
        case "old orphan":
            return structs.replace(pod, owner=None, labels={"app": "agent"}, revision="older")
        case "stranger":
            return structs.replace(pod, owner=None, labels={"app": "other"})
        case "another's":
            return structs.replace(pod, owner=Owner(name="agent", uid="another"))
        case _:
            return pod


def plan_for(world: World, wanted: DaemonSet) -> PlannedSet:
    """Plan on what the log has."""
    fleet = PlannedFleet(world.subjects, [wanted.key])
    # As a reader has it: what STATE kept, then what it does not keep.
    kept = {record.sequence for record in world.kept.values()}
    for record in sorted(world.log, key=lambda each: each.sequence not in kept):
        subject = world.subjects.of(record.message)  # type: ignore[arg-type] # a world writes such messages only
        if fleet.wants(subject):
            payload = wire.encode(record.message)  # type: ignore[arg-type]
            fleet.take(Received(record.sequence, record.time_ms, subject, payload))
    planner = Planner(fleet, world.now_ms)
    planner.apply(wanted)
    (planned,) = planner.plans()
    return planned


def lived(world: World) -> list[list[Command]]:
    """Let everything happen; returns the commands of each round."""
    rounds: list[list[Command]] = []
    while len(rounds) < ROUNDS_MAX:
        world.now_ms += STEP_MS
        taken = world.decide()
        rounds.append([command for proposal in taken for command in proposal.commands])
        worked = bool(world.queue)
        while world.queue:
            world.carry_out()
        worked |= world.move_on()
        world.read(world.worker)
        if taken or worked or world.worker.fleet.dirty:
            continue
        due = world.worker.due()
        if due is None:
            return rounds
        world.now_ms = max(world.now_ms, due.time_ms)
        world.write(Tick(shard=world.worker.shard(due.set_key), due_ms=due.time_ms))
    raise AssertionError(f"no rest after {ROUNDS_MAX} rounds")


def happened(
    world: World, wanted: DaemonSet, rounds: Iterable[list[Command]]
) -> Iterator[tuple[NodeKey, Happening]]:
    """Say what has happened to each node, by the commands about it and the pods that it has."""
    by_node: dict[NodeKey, list[Command]] = defaultdict(list)
    for command in (each for commands in rounds for each in commands):
        by_node[command.node_key].append(command)
    live = {
        pod.node_key
        for pod in world.pods.values()
        if pod.owner is not None and pod.owner.uid == wanted.uid and pod.live
    }
    constraints = compile_constraints(wanted)
    for key in sorted({*by_node, *live}):
        kinds = {type(command) for command in by_node[key]}
        deletes = {each.reason for each in by_node[key] if isinstance(each, DeletePod)}
        surged = any(
            isinstance(each, CreatePod) and each.reason == OUTDATED for each in by_node[key]
        )
        if AdoptPod in kinds:
            yield key, Happening.ADOPT
        elif ReleasePod in kinds:
            yield key, Happening.RELEASE
        elif deletes or surged:
            is_eligible = verdict(constraints, world.nodes[key]).should_run
            if not is_eligible:
                yield key, Happening.TRIM if key in live else Happening.LOSE
            elif CreatePod in kinds or OUTDATED in deletes or key not in live:
                yield key, Happening.REPLACE
            else:
                yield key, Happening.TRIM
        elif CreatePod in kinds:
            yield key, Happening.GAIN
        else:
            yield key, Happening.STAY


def taken(rounds: Iterable[list[Command]], *, surges: bool) -> list[list[NodeKey]]:
    """Return the nodes that the rollout has taken, round by round."""
    kind = CreatePod if surges else DeletePod
    return [
        [each.node_key for each in commands if isinstance(each, kind) and each.reason == OUTDATED]
        for commands in rounds
    ]


def waves_in(taken_in_rounds: list[list[NodeKey]]) -> list[set[NodeKey]]:
    """Put together what was taken before the first of it was available again: that takes two rounds."""
    waves: list[set[NodeKey]] = []
    left = 0
    for nodes in taken_in_rounds:
        if left and waves:
            waves[-1].update(nodes)
            left -= 1
        elif nodes:
            waves.append(set(nodes))
            left = 1
    return waves


def checked(start: Start) -> tuple[World, PlannedSet, list[list[Command]]]:
    """Plan, apply, live; to each node has happened what was planned."""
    world = world_of(start)
    planned = plan_for(world, start.after)
    world.apply(planned.daemonset)
    rounds = lived(world)
    said = {key: group.happening for group in planned.groups for key in group.nodes}
    assert dict(happened(world, planned.daemonset, rounds)) == said
    return world, planned, rounds


@given(starts())
def test_what_happens_to_nodes(start: Start) -> None:
    """Whatever is there: each node gains, loses, keeps or changes its pod as planned."""
    _, planned, rounds = checked(start)

    in_waves = {key for wave in planned.waves.waves for key in wave}
    assert in_waves == {key for nodes in taken(rounds, surges=False) for key in nodes}


@given(starts(troubles=()))
def test_waves(start: Start) -> None:
    """The rollout takes the nodes that were planned, in that order and so many at a time."""
    _, planned, rounds = checked(start)

    in_rounds = taken(rounds, surges=False)
    assert_in_order(planned, in_rounds)
    if start.after.min_ready_seconds == 0:
        assert [set(wave) for wave in planned.waves.waves] == waves_in(in_rounds)


def assert_in_order(planned: PlannedSet, in_rounds: Iterable[list[NodeKey]]) -> None:
    """The rollout came to the nodes in the planned order, however many at a time."""
    order = [key for wave in planned.waves.waves for key in wave]
    position = 0
    for nodes in in_rounds:
        assert set(nodes) == set(order[position : position + len(nodes)])
        position += len(nodes)
    assert position == len(order)


@given(starts(surge=True))
def test_what_happens_to_nodes_with_surge(start: Start) -> None:
    """So it is where a new pod runs beside the old one."""
    checked(start)


@given(starts(surge=True, troubles=()))
def test_waves_with_surge(start: Start) -> None:
    """There a wave is what gets a new pod beside the old one."""
    _, planned, rounds = checked(start)

    surges = allows_surge(start.after.update_strategy)
    in_rounds = taken(rounds, surges=surges)
    assert_in_order(planned, in_rounds)
