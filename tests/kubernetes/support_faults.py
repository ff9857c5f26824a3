"""One trial of a fault: a set is applied and then rolled out anew, nodes come and go, and a fault happens to it.

Used by test_faults and test_faults_processes. Whatever the fault, the trial ends in the same way: exactly covered (L1),
then silence (L2), with no command lost (S4), nothing done that no command asked for (S5), and never two live pods of
the set on a node (S1), as the API server's watch has it and as etcd has it, which misses nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

from tests.kubernetes.support_churn import SELECTOR, Churn
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_fleet import (
    BACKEND,
    POLL_S,
    Fleet,
    PodObserver,
    SeenPod,
    daemonset_manifest,
    running_fleet,
    until_covered,
)
from tests.kubernetes.support_history import PodHistory

from everynode import wire
from everynode.core.commands import COMMANDS, Command, CreatePod, DeletePod, Outcome
from everynode.core.values import SetKey

NODES = 30
SET = "agent"
IMAGES = ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.10")
ROLLING = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "20%"}}
COVERED_S_MAX = 60.0
BEGUN_S_MAX = 30.0
QUIET_S = 3.0
QUIET_S_MAX = 45.0
MESSAGES_SHOWN = 40

Fault = Callable[[], Awaitable[None]]


def fresh_seed() -> int:
    """A seed of this run, or the one to try again: EVERYNODE_FAULT_SEED."""
    return int(os.environ.get("EVERYNODE_FAULT_SEED") or random.SystemRandom().randrange(1 << 32))


@dataclass
class Told:
    """What the log has of one fleet's commands.

    Attributes:
        commands: All of them, in order.
        outcomes: The last one of each command that has one, by the command's id.
        decisions: How many.
        last_sequence: Of the last decision or command.
    """

    commands: list[Command] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    decisions: int = 0
    last_sequence: int = 0

    @property
    def unsettled(self) -> list[Command]:
        """Commands of which nothing has become yet."""
        return [each for each in self.commands if each.id not in self.outcomes]


class Trial:
    """A fleet on a control plane of its own, what is done to it, and what is seen of it.

    Args:
        plane: The control plane.
        fleet: The fleet.
        namespace: Where the set is.
        history: What happens to its pods.
        observer: The same, as the API server tells it.
        seed: Decides what happens and when.
    """

    def __init__(
        self,
        plane: ControlPlane,
        fleet: Fleet,
        namespace: str,
        history: PodHistory,
        observer: PodObserver,
        seed: int,
    ) -> None:
        """Do nothing yet."""
        self.plane = plane
        self.fleet = fleet
        self.namespace = namespace
        self.history = history
        self.observer = observer
        self.random = random.Random(seed)
        self.churn = Churn(plane, history, seed)

    @classmethod
    @contextlib.asynccontextmanager
    async def start(
        cls, plane: ControlPlane, *, nodes: int = NODES, workers: int = 1, adapters: int = 0
    ) -> AsyncGenerator[Trial]:
        """Start a fleet and make nodes; what fails is told with the seed and the end of the log."""
        seed = fresh_seed()
        async with (
            plane.namespace("fault") as namespace,
            running_fleet(plane, workers=workers, adapters=adapters) as fleet,
            PodHistory(plane, namespace) as history,
            PodObserver(plane) as observer,
        ):
            trial = cls(plane, fleet, namespace, history, observer, seed)
            try:
                await trial.churn.add_nodes(nodes)
                yield trial
            except Exception as error:
                error.add_note(f"EVERYNODE_FAULT_SEED={seed}; the log ends with:")
                error.add_note("\n".join(await trial.story()))
                raise
            finally:
                await trial.clean_up()

    # --- what is done ----------------------------------------------------------------------------

    async def undergo(self, fault: Fault, while_rolling: Fault | None = None) -> None:
        """Have a fault happen while pods are made, and again (or another one) while they are replaced; then judge."""
        async with self.churn.running():
            await self.apply(IMAGES[0])
            await self.until(lambda: len(self.history.made) >= 3, BEGUN_S_MAX)
            await fault()
            await self.until(
                lambda: len(self.history.live()) >= NODES * 2 // 3,
                COVERED_S_MAX,
            )
            await self.apply(IMAGES[1])
            await self.until(lambda: bool(self.history.live(IMAGES[1])), COVERED_S_MAX)
            await (while_rolling or fault)()
        await self.judge(IMAGES[1])

    async def apply(self, image: str) -> None:
        """Apply the set with this image."""
        manifest = daemonset_manifest(
            SET, self.namespace, image=image, node_selector=SELECTOR, update_strategy=ROLLING
        )
        await self.plane.kubectl("apply", "-f", "-", stdin=manifest)

    async def pause(self, least_s: float, most_s: float) -> None:
        """Let some time pass, so that what comes next comes at a moment that nobody chose."""
        await asyncio.sleep(self.random.uniform(least_s, most_s))

    async def until(self, is_so: Callable[[], bool], seconds_max: float) -> None:
        """Wait for something that this process sees."""
        async with asyncio.timeout(seconds_max):
            while not is_so():  # noqa: ASYNC110 - what is waited for sets no event
                await asyncio.sleep(POLL_S / 10)

    async def clean_up(self) -> None:
        """Take away the nodes, so that the plane serves the next trial."""
        await self.plane.remove_node(*await self.churn.nodes())

    # --- what must be so -------------------------------------------------------------------------

    async def judge(self, image: str) -> None:
        """The faults have ended: L1, L2, S1, S4 and S5 hold."""
        nodes = [name for name, wanted in (await self.churn.nodes()).items() if wanted]
        async with self.churn.kubelets_awake():
            await until_covered(
                self.plane, self.namespace, SET, nodes, image=image, deadline_s=COVERED_S_MAX
            )
        told = await self.until_quiet()
        covered = await until_covered(
            self.plane, self.namespace, SET, nodes, image=image, deadline_s=POLL_S * 4
        )
        await self.until(
            lambda: {pod.uid for pod in covered} == {pod.uid for pod in self.history.pods.values()},
            BEGUN_S_MAX,
        )
        assert self.history.failure is None
        assert [] == self.history.breaches
        assert [] == self.observer.breaches
        self.judge_effects(told)

    def judge_effects(self, told: Told) -> None:
        """S5: no pod was made, and none was deleted, that no command asked for.

        A command that comes again makes its pod again if people have deleted the first one before anybody heard of it.
        """
        asked = Counter(each.pod for each in told.commands if isinstance(each, CreatePod))
        made = Counter(pod.name for pod in self.history.made)
        taken = Counter(pod.name for pod in self.history.made if self._was_taken(pod))
        assert Counter() == made - asked - taken
        meant = {each.pod_uid for each in told.commands if isinstance(each, DeletePod)}
        unasked = [
            pod.name
            for uid, pod in self.history.ended.items()
            if uid not in meant and not self._was_taken(pod)
        ]
        assert [] == unasked

    def _was_taken(self, pod: SeenPod) -> bool:
        """Say whether somebody else may have ended a pod: people, or PodGC with its node."""
        return pod.uid in self.churn.deleted_pods or pod.node in self.churn.removed_nodes

    async def until_quiet(self) -> Told:
        """Wait until each command is settled (S4) and nothing more has been decided for some time (L2).

        Raises:
            AssertionError: It did not come to that.
        """
        last, since = 0, 0.0
        now = asyncio.get_running_loop().time
        deadline = now() + QUIET_S_MAX
        while True:
            told = await self.told()
            if told.last_sequence != last or told.unsettled:
                last, since = told.last_sequence, now()
            if now() - since >= QUIET_S:
                return told
            unsettled = [f"{each.verb} {each.pod}" for each in told.unsettled]
            assert now() < deadline, f"not quiet: {told.decisions} decisions, {unsettled[:5]} open"
            await asyncio.sleep(POLL_S)

    async def told(self) -> Told:
        """Read all decisions, commands and outcomes of the log."""
        told = Told()
        subjects = self.fleet.bus.subjects
        kinds = [
            subjects.of_set("decision", SetKey(self.namespace, SET)),
            subjects.commands_for(BACKEND),
            subjects.of_kind("outcome"),
        ]
        async for chunk in self.fleet.bus.read_log(kinds, 1):
            for received in chunk:
                message = wire.decode_from(subjects, received.subject, received.payload)
                if isinstance(message, Outcome):
                    told.outcomes[message.id] = message
                    continue
                told.last_sequence = received.sequence
                if isinstance(message, COMMANDS):
                    told.commands.append(message)
                else:
                    told.decisions += 1
        return told

    async def story(self) -> list[str]:
        """The end of the log, for people."""
        shown: list[str] = []
        async for chunk in self.fleet.bus.read_log([f"{self.fleet.bus.subjects.prefix}.>"], 1):
            shown += [f"{each.sequence} {each.payload[:300].decode()}" for each in chunk]
        strange = [pod for pod in self.history.pods.values() if not (pod.ready and pod.live)]
        return [*shown[-MESSAGES_SHOWN:], *map(str, strange)]
