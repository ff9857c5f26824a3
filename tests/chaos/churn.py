"""What happens to a simulated fleet without us: nodes come, go and flap, people cordon nodes, pods fail or are deleted.

Used by ``backend``. It is drawn from a seed and knows the fleet only: no adapter, no log.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from everynode.core.values import NO_EXECUTE, NO_SCHEDULE, Node
from everynode.errors import RefusedError
from everynode_simulated import SimulatedFleet

PAUSE_MS = (20, 250)
FLAP_MS = (300, 3_000)
CORDON_MS = (500, 4_000)
AWAY_MS = (200, 3_000)

WEIGHTS = {"flap": 30, "replace": 20, "move": 10, "cordon": 20, "delete-pod": 10, "fail-pod": 10}
"""``replace``: another machine under the same name; ``move``: one under a new name."""


def is_open(node: Node) -> bool:
    """Say whether a node takes pods that tolerate nothing."""
    return not any(taint.effect in {NO_SCHEDULE, NO_EXECUTE} for taint in node.taints)


class Churn:
    """Does something to the fleet again and again between ``begin`` and ``heal``.

    Args:
        fleet: The fleet.
        seed: Where everything comes from.
        make_node: Makes a node from its number and incarnation.
        outsider: Told the uid of each pod that is ended here, before it is.
    """

    def __init__(
        self,
        fleet: SimulatedFleet,
        seed: int,
        make_node: Callable[[int, int], Node],
        outsider: Callable[[str], None],
    ) -> None:
        """Do nothing yet."""
        self.counts: Counter[str] = Counter()
        self._fleet = fleet
        self._random = random.Random(f"churn/{seed}")
        self._make_node = make_node
        self._outsider = outsider
        self._incarnations = 0
        self._numbers = len(fleet.nodes)
        self._undone: dict[str, Callable[[], None]] = {}
        self._running: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Begin; repeating this is harmless."""
        if self._running is None:
            self._running = asyncio.create_task(self._run())

    def heal(self) -> None:
        """End it, and let every node be there, ready and open."""
        if self._running is not None:
            self._running.cancel()
            self._running = None
        for undo in list(self._undone.values()):
            undo()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(*PAUSE_MS) / 1_000)
            (what,) = self._random.choices(list(WEIGHTS), list(WEIGHTS.values()))
            self._fleet.advance()
            self._do(what)

    def _do(self, what: str) -> None:
        nodes = [name for name in self._fleet.nodes if name not in self._undone]
        name = self._random.choice(nodes)
        self.counts[what] += 1
        match what:
            case "flap":
                self._fleet.set_node_ready(name, ready=False)
                self._undo_later(
                    name, FLAP_MS, lambda: self._fleet.set_node_ready(name, ready=True)
                )
            case "cordon":
                self._fleet.cordon(name)
                self._undo_later(
                    name, CORDON_MS, lambda: self._fleet.cordon(name, unschedulable=False)
                )
            case "replace" | "move":
                self._remove(name, moves=what == "move")
            case _:
                self._end_a_pod(fails=what == "fail-pod")

    def _remove(self, name: str, *, moves: bool) -> None:
        self._fleet.remove_node(name)
        self._incarnations += 1
        number, incarnation = int(name[1:]), self._incarnations
        if moves:
            number, self._numbers = self._numbers, self._numbers + 1
        node = self._make_node(number, incarnation)
        self._undo_later(name, AWAY_MS, lambda: self._fleet.add_node(node))

    def _end_a_pod(self, *, fails: bool) -> None:
        pods = [pod for pod in self._fleet.pods.values() if pod.live]
        if not pods:
            return
        pod = self._random.choice(pods)
        self._outsider(pod.uid)
        if fails:
            self._fleet.fail_pod(pod.key)
        else:
            self._fleet.delete_pod(pod.key)

    def _undo_later(
        self, name: str, between_ms: tuple[int, int], undo: Callable[[], object]
    ) -> None:
        def do() -> None:
            timer.cancel()
            del self._undone[name]
            try:
                undo()
            except RefusedError:  # meanwhile the node is gone, or there
                self.counts["not undone"] += 1

        delay_s = self._random.uniform(*between_ms) / 1_000
        timer = asyncio.get_running_loop().call_later(delay_s, do)
        self._undone[name] = do
