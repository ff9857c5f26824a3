"""Everybody who is not part of everynode: people who want sets, and outsiders who act on the backends.

What they do is drawn at random, one act after the other, for as long as the faults last. People speak to the log over
the same ways as the command line does; outsiders act on the backend past every adapter.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from everynode import wire
from everynode.core.events import DaemonSetObserved
from everynode.core.identity import canonical
from everynode.core.values import (
    PREDECESSORS_MAX,
    DaemonSet,
    Node,
    Pod,
    PodKey,
    Selector,
    SetKey,
    Taint,
    UpdateStrategy,
)
from everynode.errors import EverynodeError
from everynode.ports import Outgoing
from everynode.runtime import applying
from everynode.runtime.bus import FleetBus
from everynode.testing.simulation.backend import SimulatedCluster, Timers
from everynode.testing.simulation.marks import mark, register

NAMESPACE = "default"
ZONES = ("a", "a", "b", "c")
MS_PER_SECOND = 1_000
FIRST_TRIES_MAX = 50

PEOPLE_ACTS = {"change": 6, "apply": 2, "delete": 2}
OUTSIDE_ACTS = {
    "join": 4,
    "leave": 2,
    "make node anew": 2,
    "flap": 4,
    "taint": 3,
    "relabel node": 3,
    "kill pod": 4,
    "end pod": 3,
    "relabel pod": 2,
    "orphan pod": 2,
    "make pod by hand": 2,
    "restart kubelet": 2,
}

register(*(f"people: {act}" for act in PEOPLE_ACTS), *(f"outside: {act}" for act in OUTSIDE_ACTS))


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How busy everybody is, and with what.

    Attributes:
        people_ms: How long people wait between two acts, on average; 0: they do nothing after the beginning.
        outside_ms: How long outsiders do, on each backend; 0: they do nothing.
        people: How often each act of people is drawn.
        outside: How often each act of outsiders is.
        surge: Share of strategies with surge.
        nodes_max: No more nodes join a backend that has so many.
    """

    people_ms: int = 10_000
    outside_ms: int = 3_000
    people: dict[str, int] = field(default_factory=lambda: dict(PEOPLE_ACTS))
    outside: dict[str, int] = field(default_factory=lambda: dict(OUTSIDE_ACTS))
    surge: float = 0.3
    nodes_max: int = 8


class People:
    """They want sets, and change their minds.

    Args:
        bus: Their way to the log.
        names: The sets that they may want.
        backends: Backends that a set may be for.
        habits: How busy they are.
        timers: Time.
        random_: Where chance comes from.
    """

    def __init__(
        self,
        *,
        bus: FleetBus,
        names: list[str],
        backends: list[str],
        habits: Habits,
        timers: Timers,
        random_: random.Random,
    ) -> None:
        """Want nothing yet."""
        self._bus = bus
        self._names = names
        self._backends = backends
        self._habits = habits
        self._timers = timers
        self._random = random_
        self._uids = 0

    async def act(self) -> None:
        """Ask for all sets, then for something else from time to time."""
        for name in self._names:
            for _ in range(FIRST_TRIES_MAX):
                if await self._tried(self._apply, name):
                    break
                await asyncio.sleep(1)
        acts = self._habits.people
        while self._habits.people_ms and any(acts.values()):
            await _pause(self._random, self._habits.people_ms)
            name = self._random.choice(self._names)
            (act,) = self._random.choices(list(acts), list(acts.values()))
            doing = {"change": self._change, "apply": self._apply, "delete": self._delete}[act]
            if await self._tried(doing, name):
                mark(f"people: {act}")

    async def _tried(self, doing: Callable[[str], object], name: str) -> bool:
        try:
            await doing(name)  # type: ignore[misc] # each of them is a coroutine function
        except EverynodeError:
            return False
        return True

    async def _apply(self, name: str) -> None:
        """Apply a set anew, as the command line does; its identity comes from the seed."""
        key = SetKey(NAMESPACE, name)
        known = await applying.read_set(self._bus, key)
        if known.daemonset is not None:
            await self._change(name)
            return
        gone = known.gone
        predecessors: tuple[str, ...] = ()
        if gone is not None and gone.cascade == "orphan":
            predecessors = (*gone.predecessor_uids, gone.uid)[-PREDECESSORS_MAX:]
        self._uids += 1
        daemonset = replace(
            self._draw_set(name),
            uid=f"set-{name}-{self._uids}",
            created_ms=self._timers.now_ms,
            predecessor_uids=predecessors,
        )
        message = DaemonSetObserved(daemonset=daemonset)
        outgoing = Outgoing(self._bus.subjects.of(message), wire.encode(message))
        await self._bus.publish_fenced([outgoing], known.sequence)

    async def _change(self, name: str) -> None:
        drawn = self._draw_set(name)
        keeps_template = self._random.random() < 0.3

        def change(before: DaemonSet) -> DaemonSet:
            template = before.template if keeps_template else drawn.template
            return replace(
                before,
                template=template,
                update_strategy=drawn.update_strategy,
                min_ready_seconds=drawn.min_ready_seconds,
            )

        await applying.amend(self._bus, SetKey(NAMESPACE, name), change)

    async def _delete(self, name: str) -> None:
        orphan = self._random.random() < 0.3
        cascade: applying.Cascade = "orphan" if orphan else "background"
        await applying.delete(self._bus, SetKey(NAMESPACE, name), cascade)

    def _draw_set(self, name: str) -> DaemonSet:
        chance = self._random
        spec: dict[str, object] = {"image": chance.choice(("v1", "v2", "v3"))}
        if chance.random() < 0.3:
            spec["nodeSelector"] = {"zone": chance.choice(ZONES)}
        if chance.random() < 0.3:
            spec["tolerations"] = [{"key": "broken", "operator": "Exists"}]
        template = {"metadata": {"labels": {"app": name}}, "spec": spec}
        return DaemonSet(
            namespace=NAMESPACE,
            name=name,
            uid="to be replaced",
            generation=1,
            selector=Selector(match_labels={"app": name}),
            template=msgspec.Raw(canonical(json.dumps(template).encode())),
            backend=chance.choice(("", "", "", *self._backends)),
            update_strategy=self._draw_strategy(),
            min_ready_seconds=chance.choice((0, 0, 0, 2)),
            revision_history_limit=chance.choice((0, 1, 10)),
        )

    def _draw_strategy(self) -> UpdateStrategy:
        chance = self._random
        limit: int | str = chance.choice((1, 1, 1, 2, "20%", "50%", "100%"))
        surging = chance.random() < self._habits.surge
        return UpdateStrategy(
            type=chance.choice(("RollingUpdate",) * 7 + ("OnDelete",)),
            max_unavailable=0 if surging else limit,
            max_surge=limit if surging else 0,
            paused=chance.random() < 0.1,
            partition=chance.choice((0, 0, 0, 0, 0, 1, "50%")),
            unreachable_nodes=chance.choice(("Count", "Count", "Skip")),
        )


class Outsiders:
    """They act on one backend: administrators, kubelets, autoscalers and accidents.

    Args:
        cluster: The backend.
        names: Names of the fleet's sets.
        habits: How busy they are.
        random_: Where chance comes from.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        names: list[str],
        habits: Habits,
        random_: random.Random,
    ) -> None:
        """Have done nothing yet."""
        self._cluster = cluster
        self._names = names
        self._habits = habits
        self._random = random_
        self._joined = 0
        self._made = 0

    def begin(self, nodes: int) -> None:
        """Let the first nodes join."""
        for _ in range(nodes):
            self.join()

    async def act(self) -> None:
        """Do something from time to time."""
        acts = self._habits.outside
        while self._habits.outside_ms and any(acts.values()):
            await _pause(self._random, self._habits.outside_ms)
            (act,) = self._random.choices(list(acts), list(acts.values()))
            if self._do(act):
                mark(f"outside: {act}")

    def _do(self, act: str) -> bool:
        """Do one thing, if there is something to do it with."""
        cluster = self._cluster
        if act == "join":
            return len(cluster.nodes) < self._habits.nodes_max and self.join()
        if act in {"kill pod", "end pod", "relabel pod", "orphan pod"}:
            pods = [pod for pod in cluster.pods.values() if not pod.deleting]
            return bool(pods) and self._on_pod(act, self._random.choice(pods))
        if not cluster.nodes:
            return False
        return self._on_node(act, self._random.choice(list(cluster.nodes.values())))

    def _new_node(self, name: str) -> Node:
        zone = self._random.choice(ZONES)
        return Node(
            backend=self._cluster.backend,
            name=name,
            uid=self._cluster.new_uid("node"),
            labels={"zone": zone},
        )

    def join(self) -> bool:
        """Let a new node join."""
        self._joined += 1
        self._cluster.put_node(self._new_node(f"node-{self._joined}"))
        return True

    def _on_node(self, act: str, node: Node) -> bool:
        cluster = self._cluster
        match act:
            case "leave":
                cluster.remove_node(node.name)
            case "make node anew":
                cluster.remove_node(node.name)
                cluster.put_node(self._new_node(node.name))
            case "flap":
                cluster.set_node_ready(node.name, ready=not node.ready)
            case "taint":
                effect = self._random.choice(("NoSchedule", "NoExecute"))
                taints = () if node.taints else (Taint(key="broken", effect=effect),)
                cluster.put_node(replace(node, taints=taints))
            case "relabel node":
                cluster.put_node(replace(node, labels={"zone": self._random.choice(ZONES)}))
            case "make pod by hand":
                self._make_pod(node)
            case _:
                cluster.restart_kubelet(node)
        return True

    def _make_pod(self, node: Node) -> None:
        self._made += 1
        app = self._random.choice((*self._names, "other"))
        revisions = sorted({pod.revision for pod in self._cluster.pods.values()})
        revision = self._random.choice(("", *revisions))
        key = PodKey(self._cluster.backend, NAMESPACE, f"byhand-{self._made}")
        self._cluster.make_orphan(key, node, {"app": app}, revision)

    def _on_pod(self, act: str, pod: Pod) -> bool:
        cluster = self._cluster
        match act:
            case "kill pod":
                cluster.kill_pod(pod.key, at_once=self._random.random() < 0.3)
            case "end pod":
                cluster.end_pod(pod.key, self._random.choice(("Failed", "Failed", "Succeeded")))
            case "relabel pod":
                app = self._random.choice((*self._names, "other"))
                cluster.label_pod(pod.key, {"app": app})
            case _:
                if pod.owner is None:
                    return False
                cluster.orphan_pod(pod.key)
        return True


async def _pause(chance: random.Random, mean_ms: int) -> None:
    await asyncio.sleep(chance.randint(mean_ms // 4, mean_ms * 7 // 4) / MS_PER_SECOND)
