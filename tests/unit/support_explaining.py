"""Fleets whose log is explained, as the commands do it."""

from __future__ import annotations

from everynode.core.values import (
    DaemonSet,
    Pod,
    SetKey,
    UpdateStrategy,
)
from everynode.replay.explaining import (
    NodeExplanation,
    PodExplanation,
    Step,
    explain_nodes,
    explain_pod,
)
from everynode.replay.explaining_history import History, PodSearch, Scope
from everynode.replay.recording import Entry
from everynode.replay.streams import entry_of, subject_filter
from everynode.testing.builders import daemonset, node
from everynode.testing.world import World

KEY = SetKey("default", "agent")
ROLLING = UpdateStrategy(type="RollingUpdate", max_unavailable=1)
SURGING = UpdateStrategy(type="RollingUpdate", max_unavailable=0, max_surge=1)


def entries_of(world: World, *, kept_until: int = 0, at_most: int = 1_000_000) -> list[Entry]:
    """Return a world's log; what stands before some place is kept from before the log begins."""
    return [
        entry_of(
            world.subjects,
            record.sequence,
            record.time_ms,
            record.message,  # type: ignore[arg-type] # a world writes such messages only
            is_kept=record.sequence <= kept_until,
        )
        for record in world.log
        if record.sequence <= at_most
        and (record.sequence > kept_until or record in world.kept.values())
    ]


def explained(
    world: World, name: str, entries: list[Entry] | None = None, *, backend: str = ""
) -> PodExplanation:
    """Explain a pod of a world, as the commands do."""
    entries = entries_of(world) if entries is None else entries
    search = PodSearch(world.subjects, KEY.namespace, name, backend)
    is_asked = subject_filter(search.patterns())
    for entry in entries:
        if is_asked(entry.received.subject):
            search.take(entry)
    (key,) = search.found()
    lives = search.lives(key)
    on = lives[-1].node_key
    history = History(world.subjects, Scope(lives[-1].sets, on.name, on.backend))
    fill(history, world, entries)
    return explain_pod(lives, history, world.now_ms)


def fill(history: History, world: World, entries: list[Entry]) -> None:
    """Let a history read what it asks for."""
    scope = history.scope
    patterns = [*scope.patterns(world.subjects), *scope.outcome_patterns(world.subjects)]
    is_asked = subject_filter(patterns)
    for entry in entries:
        if is_asked(entry.received.subject):
            history.take(entry)


def on_nodes(world: World, name: str, at_most: int = 1_000_000) -> list[NodeExplanation] | None:
    """Explain how the set stands on the nodes of a name."""
    history = History(world.subjects, Scope((KEY,), name))
    fill(history, world, entries_of(world, at_most=at_most))
    return explain_nodes(history, KEY, world.now_ms)


def covered(wanted: DaemonSet | None = None, *names: str) -> World:
    """Make a fleet whose nodes have their pods."""
    world = World()
    for name in names or ("a", "b"):
        world.put_node(node(name, zone="x"))
    world.apply(wanted or daemonset())
    world.run()
    return world


def pods_of(world: World, name: str = "a") -> list[Pod]:
    """Return the pods on a node."""
    return [each for each in world.pods.values() if each.node == name]


def the_pod(world: World, name: str = "a") -> Pod:
    """Return the one pod on a node."""
    (found,) = pods_of(world, name)
    return found


def made(explanation: PodExplanation) -> Step:
    """Return the decision that made a pod."""
    assert explanation.made is not None
    return explanation.made


def removed(explanation: PodExplanation) -> Step:
    """Return the decision that removed a pod."""
    assert explanation.removed is not None
    return explanation.removed


def causes(step: Step) -> list[str]:
    """What the messages say that brought a command about."""
    return [fact.what for fact in step.causes]


def affine(*terms: list[dict[str, object]]) -> dict[str, object]:
    """The spec of pods that have a required node affinity."""
    required = {"nodeSelectorTerms": [{"matchExpressions": each} for each in terms]}
    return {
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    }
