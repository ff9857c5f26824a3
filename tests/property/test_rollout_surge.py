"""Rollouts with surge: a new pod beside the old one, the old one goes when the new one works; over random histories.

Promises: S1, S2, S3, S6, L1, L2.
"""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs
from tests.property.support_rolling import RollingFleet, TroubledFleet
from tests.property.support_rollout import Basis, budgets, check_decision

from everynode.core.commands import DeletePod
from everynode.core.values import NodeKey, PodKey, SetKey, UpdateStrategy
from everynode.testing import strategies
from everynode.testing.builders import node
from everynode.testing.world import World

KEY = SetKey("default", "agent")
MIN_READY_SECONDS = 10

pytestmark = pytest.mark.timeout(600)  # a red run takes its time to find the shortest history


class SurgingFleet(RollingFleet):
    """Most strategies allow surge; a set may change from one to the other in mid-rollout."""

    surge = True


class TroubledSurgingFleet(TroubledFleet):
    """The same, and everything else that may happen."""

    surge = True


class SurgeUnderFire(RuleBasedStateMachine):
    """One update with surge, while somebody deletes pods and makes others unready.

    What must hold all the time is what Kubernetes' own end-to-end test polls (test/e2e/apps/daemon_set.go, "should
    surge pods onto nodes").

    Attributes:
        hurt: Nodes to which somebody has done something.
        deleted: Pods that the set has deleted.
    """

    def __init__(self) -> None:
        """Start with an empty world, in which pods take their time to start and to stop."""
        super().__init__()
        self.world = World(start_ready=False, stop_at_once=False)
        self.hurt: set[NodeKey] = set()
        self.deleted: set[str] = set()

    @initialize(count=st.integers(2, 9), surge=st.sampled_from(("20%", "50%", 1, 3)))
    def begin(self, count: int, surge: int | str) -> None:
        """A fleet is covered, and then there is a new version."""
        for number in range(count):
            self.world.put_node(node(f"node-{number}"))
        strategy = UpdateStrategy(type="RollingUpdate", max_unavailable=0, max_surge=surge)
        wanted = structs.replace(
            strategies.plain_daemonset(),
            template=strategies.versioned_template("agent", "v1"),
            update_strategy=strategy,
            min_ready_seconds=MIN_READY_SECONDS,
        )
        self.world.apply_changed(wanted)
        self.world.run()
        template = strategies.versioned_template("agent", "v2")
        self.world.apply_changed(structs.replace(wanted, template=template))

    @rule(seconds=st.integers(1, 12))
    def go_on(self, seconds: int) -> None:
        """Everything works as it should for a while; an old pod whose successor works is stopped at once."""
        world = self.world
        for _ in range(seconds):
            world.now_ms += 1_000
            world.move_on()
            basis = Basis(world, world.sets[KEY])
            due = [
                pod.key
                for key in basis.eligible
                if any(map(basis.is_available, basis.new(key)))
                for pod in basis.old(key)
            ]
            for proposal in world.decide():
                check_decision(basis, proposal)
                deletes = (item for item in proposal.others if isinstance(item, DeletePod))
                self.deleted |= {item.pod_uid for item in deletes}
            while world.queue:
                world.carry_out()
            late = [key for key in due if key in world.pods and world.pods[key].live]
            assert not late, f"side by side for too long: {late}"

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def delete_pod(self, data: st.DataObject) -> None:
        """Somebody deletes a pod."""
        key = data.draw(st.sampled_from(sorted(self.world.pods)))
        self.hurt.add(self.world.pods[key].node_key)
        self.world.stop_pod(key)

    @precondition(lambda self: self.world.pods)
    @rule(data=st.data())
    def make_unready(self, data: st.DataObject) -> None:
        """A pod is not ready any more; it will be again."""
        key: PodKey = data.draw(st.sampled_from(sorted(self.world.pods)))
        pod = self.world.pods[key]
        self.hurt.add(pod.node_key)
        self.world.change_pod(key, phase=pod.phase, ready=False)

    @invariant()
    def never_too_many(self) -> None:
        """S1: two versions; of each one live pod on a node, and one more that is stopping."""
        pods = self.world.pods.values()
        assert len({pod.revision for pod in pods}) <= 2
        live = Counter((pod.node, pod.revision) for pod in pods if pod.live)
        stopping = Counter((pod.node, pod.revision) for pod in pods if pod.deleting)
        ours = Counter(pod.node for pod in pods if pod.deleting and pod.uid in self.deleted)
        assert all(count <= 1 for count in live.values()), live
        assert all(count <= 2 for count in (live + stopping).values()), live + stopping
        assert all(count <= 1 for count in ours.values()), ours

    @invariant()
    def never_down_by_our_choice(self) -> None:
        """S3: a node that nobody hurts always has an available pod, and at most maxSurge of them have two."""
        if KEY not in self.world.sets:
            return
        basis = Basis(self.world, self.world.sets[KEY])
        unhurt = basis.eligible - self.hurt
        assert not basis.unavailable & unhurt
        assert len(basis.doubled & unhurt) <= budgets(basis.strategy, len(basis.eligible))[1]

    def teardown(self) -> None:
        """L1: in the end there is exactly one pod on each node: new, available, and none is stopping."""
        if KEY not in self.world.sets:
            return
        self.world.run()
        basis = Basis(self.world, self.world.sets[KEY])
        for key in basis.eligible:
            (pod,) = basis.pods[key]
            assert pod in basis.new(key)
            assert basis.is_available(pod)


TestSurgingFleet = SurgingFleet.TestCase
TestSurgingFleet.settings = settings(stateful_step_count=40)
TestTroubledSurgingFleet = TroubledSurgingFleet.TestCase
TestTroubledSurgingFleet.settings = settings(stateful_step_count=40)
TestSurgeUnderFire = SurgeUnderFire.TestCase
TestSurgeUnderFire.settings = settings(stateful_step_count=30)
