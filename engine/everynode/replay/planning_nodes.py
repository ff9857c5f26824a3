"""What happens to the nodes of a set on its way to what it asks for, the rollout left out.

Used by ``planning``, once for each set. Which pods must go, stay or join is asked of the core; here each node is told
in one word, and what the rollout will find when all this is done is worked out (``planning_waves`` goes on from there).
Nothing is decided here, and nothing in the fleet's state is changed but caches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
from pyroaring import BitMap

from everynode.core.claims import (
    OUTDATED,
    POD_FAILED,
    POD_SUCCEEDED,
    RELEASED,
    Unwanted,
    claim,
)
from everynode.core.decision import NODE_HAS_NO_POD, SELECTOR_MATCHES, unwanted
from everynode.core.pacing import NEVER_MS
from everynode.core.rollout import NewPods, is_held, rollout_of
from everynode.core.selectors import labels_in_template, selects
from everynode.core.setstate import SetState
from everynode.core.state import FleetState
from everynode.core.values import NodeKey, Pod


class Happening(StrEnum):
    """What happens to a node; the first one that is so."""

    RELEASE = "release"
    """It keeps a pod that is the set's no longer; if one is wanted there, it gets another."""
    LOSE = "lose"
    ADOPT = "adopt"
    """A pod that nobody controls joins; if it is outdated, the rollout comes to it."""
    REPLACE = "replace"
    """Its pod goes and another one comes."""
    TRIM = "trim"
    """One of its pods goes, another one stays."""
    GAIN = "gain"
    STAY = "stay"


@dataclass
class Foreseen:
    """What happens to the nodes of a set, and how they are when all of it is done that is not the rollout's.

    Attributes:
        happens: To each node one thing, with the reason: the code of a command, or why a pod stays as it is.
        staying: Eligible nodes with nothing but an old pod.
        ready: Nodes whose pod is ready, or gets ready by itself.
        skipped: Nodes that do not count in the rollout.
        made: Eligible nodes that get a pod, and not from the rollout.
        remade: Of those, the ones where another one has to go first.
        stuck: Nodes that count, and have no available pod however long one waits.
        finishing: Nodes with an old and a new pod, of which the old one goes.
    """

    happens: dict[NodeKey, tuple[Happening, str]] = field(default_factory=dict)
    staying: BitMap = field(default_factory=BitMap)
    ready: BitMap = field(default_factory=BitMap)
    skipped: BitMap = field(default_factory=BitMap)
    made: BitMap = field(default_factory=BitMap)
    remade: BitMap = field(default_factory=BitMap)
    stuck: BitMap = field(default_factory=BitMap)
    finishing: BitMap = field(default_factory=BitMap)


def foresee(fleet: FleetState, state: SetState) -> Foreseen:
    """Say what happens to the nodes of a set; its bitmaps are up to date.

    What is on its way is taken to have arrived. New pods get ready where the node is; a pod that runs and is not ready
    stays so.
    """
    return _Foresight(fleet, state).look()


class _Foresight:
    def __init__(self, fleet: FleetState, state: SetState) -> None:
        self.fleet, self.state = fleet, state
        self.index, self.nodes = fleet.index, state.coverage
        self.now = rollout_of(state, fleet.index)
        self.found = Foreseen()
        self.gains, self.adopted = BitMap(), BitMap()
        self.survivors: dict[int, Pod] = {}

    def look(self) -> Foreseen:
        nodes, found = self.nodes, self.found
        found.staying = (nodes.eligible & nodes.outdated) - nodes.current
        found.ready = BitMap(nodes.ready)
        self._clear()
        self._adopt()
        self._gain()
        self._name_revisions()
        found.skipped = self._skipped()
        found.remade = (found.made & nodes.obstructed) - found.skipped
        if self.state.surges:
            found.finishing = nodes.eligible & nodes.outdated & nodes.current
            for node_id in found.finishing:
                self._note(node_id, Happening.REPLACE, OUTDATED)
        found.stuck = self._stuck()
        return found

    def _pods(self, key: NodeKey) -> list[Pod]:
        """Return the set's own pods on a node, the most senior first."""
        return claim(self.state, key, self.index.get(key), self.fleet.now_ms).pods

    def _note(self, node_id: int, what: Happening, reason: str) -> None:
        self.found.happens[self.index.key(node_id)] = (what, reason)

    # --- what must go -------------------------------------------------------------------------------------------------

    def _clear(self) -> None:
        """Take away what must go whatever the rollout does."""
        nodes, index = self.nodes, self.index
        for key in nodes.stranded:
            items = unwanted(self.fleet, self.state, key)
            kept = items and all(item.reason in RELEASED for item in items)
            what = Happening.RELEASE if kept else Happening.LOSE
            self.found.happens[key] = (what, items[0].reason if items else "")
        for node_id in ((nodes.occupied | nodes.ended) - nodes.tolerated) | nodes.excess:
            items = unwanted(self.fleet, self.state, index.key(node_id))
            if items:
                self._clear_node(node_id, items)
        for node_id in nodes.ended & nodes.tolerated:
            if index.key(node_id) not in self.found.happens:
                self._clear_node(node_id, self._ended(node_id))  # when it has rested

    def _ended(self, node_id: int) -> list[Unwanted]:
        pods = self._pods(self.index.key(node_id))
        ended = [pod for pod in pods if pod.finished and not pod.deleting]
        return [
            Unwanted(pod, POD_FAILED if pod.phase == "Failed" else POD_SUCCEEDED) for pod in ended
        ]

    def _clear_node(self, node_id: int, items: list[Unwanted]) -> None:
        """Say what becomes of a node from which some pods go."""
        found = self.found
        is_eligible = node_id in self.nodes.eligible
        going = {item.pod.uid for item in items}
        pods = self._pods(self.index.key(node_id))
        left = [pod for pod in pods if pod.live and pod.uid not in going]
        reasons = [item.reason for item in items]
        released = [item for item in items if item.reason in RELEASED]
        if released:
            joins = next((pod for pod in map(self._let_go, released) if pod is not None), None)
            self._note(node_id, Happening.RELEASE, released[0].reason)
            if joins is not None and not left and node_id in self.nodes.tolerated:
                self._join(node_id, joins, released[0].reason)
            elif is_eligible and not left:
                found.made.add(node_id)
        elif node_id not in self.nodes.tolerated or not (left or is_eligible):
            self._note(node_id, Happening.LOSE, reasons[0])
        elif not left:
            self._note(node_id, Happening.REPLACE, reasons[0])
            found.made.add(node_id)
        elif OUTDATED in reasons and is_eligible:
            self._note(node_id, Happening.REPLACE, OUTDATED)
        else:
            self._note(node_id, Happening.TRIM, reasons[0])
        if len(left) == 1 and is_eligible:
            self._survives(node_id, left[0])
        elif not left and node_id not in self.adopted:
            found.staying.discard(node_id)

    def _let_go(self, item: Unwanted) -> Pod | None:
        """Return a pod that is let go of if the set takes it back."""
        daemonset, pod = self.state.daemonset, item.pod
        labels = pod.labels
        if labels is None:
            revision = self.state.revisions.get(pod.revision)
            labels = {} if revision is None else _labels_of(revision.template)
        is_wanted = daemonset is not None and selects(daemonset.selector, labels)
        return pod if is_wanted and pod.live else None

    def _survives(self, node_id: int, pod: Pod) -> None:
        """Take in that this will be the only pod of a node."""
        self.survivors[node_id] = pod
        is_old = pod.revision != self.state.revision
        (self.found.staying.add if is_old else self.found.staying.discard)(node_id)
        (self.found.ready.add if pod.ready else self.found.ready.discard)(node_id)

    # --- what joins and what is made ----------------------------------------------------------------------------------

    def _join(self, node_id: int, pod: Pod, reason: str) -> None:
        self._note(node_id, Happening.ADOPT, reason)
        self.adopted.add(node_id)
        if node_id in self.nodes.eligible:
            self._survives(node_id, pod)

    def _adopt(self) -> None:
        for node_id in self.nodes.adoptable & self.nodes.tolerated:
            key, node = self.index.key(node_id), self.index.node(node_id)
            adopted = claim(self.state, key, node, self.fleet.now_ms).adopted
            if adopted is not None and key not in self.found.happens:
                self._join(node_id, adopted, SELECTOR_MATCHES)

    def _gain(self) -> None:
        nodes, found = self.nodes, self.found
        bare = nodes.eligible - nodes.occupied - nodes.ended - self.adopted - found.made
        if not self.state.surges:
            bare -= nodes.terminating & self.index.unready  # nothing comes before that is gone
        self.gains = bare
        for node_id in bare:
            self._note(node_id, Happening.GAIN, NODE_HAS_NO_POD)
        found.made |= bare

    def _name_revisions(self) -> None:
        """Find out which new pods get an old revision, because the rollout is held."""
        found, index, state = self.found, self.index, self.state
        if not is_held(state):
            return
        new_pods = NewPods(state, index, self.fleet.now_ms, self.fleet.limits)
        for ids in (self.gains, found.made - self.gains):
            for key, node_id in sorted((index.key(each), each) for each in ids):
                if new_pods.revision(node_id, key) != state.revision:
                    found.staying.add(node_id)
                    ready = node_id not in index.unready
                    (found.ready.add if ready else found.ready.discard)(node_id)

    def _skipped(self) -> BitMap:
        """Return the nodes that will not count: they were lost before the set began what it does there."""
        skipped = BitMap(self.now.skipped)
        if self.state.strategy.unreachable_nodes != "Skip":
            return skipped
        changed = self.found.made | BitMap(list(self.survivors))
        for node_id in changed & self.nodes.eligible & self.index.unready:
            node, pod = self.index.node(node_id), self.survivors.get(node_id)
            begun_ms = [each.deleting_since_ms for each in self._pods(node.key) if each.deleting]
            if pod is None:
                begun_ms.append(self.fleet.now_ms)
            elif pod.revision == self.state.revision:
                begun_ms.append(pod.created_ms)
            lost_ms = node.unready_since_ms or NEVER_MS
            counts = any(each <= lost_ms for each in begun_ms)
            (skipped.discard if counts else skipped.add)(node_id)
        return skipped

    # --- what does not get ready --------------------------------------------------------------------------------------

    def _stuck(self) -> BitMap:
        nodes, index = self.nodes, self.index
        stuck = BitMap()
        sound = nodes.serving - self.found.made - BitMap(list(self.survivors))
        for node_id in nodes.eligible - self.found.skipped - sound:
            pod = self.survivors.get(node_id)
            if pod is None and node_id in nodes.occupied and node_id not in self.found.made:
                pods = self._pods(index.key(node_id))
                pod = next((each for each in pods if each.live), None)
            if not self._gets_available(node_id, pod):
                stuck.add(node_id)
            elif pod is not None:
                self.found.ready.add(node_id)  # by then, if it is not yet
        return stuck

    def _gets_available(self, node_id: int, pod: Pod | None) -> bool:
        """Say whether a node will have an available pod: this one, or the one that is made."""
        ready_node = node_id not in self.index.unready
        if pod is None:
            return ready_node and node_id in self.found.made
        if pod.ready:
            return self.state.available_ms(pod) < NEVER_MS
        return ready_node and pod.phase == "Pending"


def _labels_of(template: msgspec.Raw) -> dict[str, str]:
    try:
        return labels_in_template(template) or {}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
