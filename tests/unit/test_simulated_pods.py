"""Pods of the simulated fleet that change hands, carry labels, cannot stop, or come of a bad image."""

import dataclasses

import pytest
from tests.unit.support_simulated import AT_ONCE, KEY, NEVER_MS, NODE, OWNER, World

from everynode.core.events import PodGone, PodObserved
from everynode.core.values import Owner, Pod
from everynode.errors import RefusedError
from everynode_simulated import Behaviour
from everynode_simulated.behaviour import FATE_ANNOTATION

TEMPLATE = b'{"metadata":{"labels":{"app":"web"}},"spec":{}}'
STOPS_SLOWLY = dataclasses.replace(AT_ONCE, stop_ms=(30, 30))


@pytest.fixture
def world() -> World:
    """One node, on which pods stop at once."""
    return World(NODE)


def last_said(world: World) -> Pod:
    """The pod as it was said last."""
    last = world.said()[-1]
    assert isinstance(last, PodObserved)
    return last.pod


class TestWhatIsKept:
    """A pod says for what it was made."""

    def test_generation_and_failures(self, world: World) -> None:
        """As it was created, for as long as it is there."""
        world.fleet.create_pod(KEY, node="n1", owner=OWNER, revision="r", generation=4, failures=2)
        world.pass_ms(100)
        pod = world.fleet.pods[KEY]
        assert (pod.generation, pod.failures, pod.ready) == (4, 2, True)


class TestChangingHands:
    """Owners and labels."""

    def test_labels_are_said_where_they_differ(self, world: World) -> None:
        """Those of the template go without saying, as long as the pod has an owner."""
        assert world.create(template=TEMPLATE).labels is None
        assert world.fleet.label_pod(KEY, {"app": "x", "a": "b"}).labels == {"app": "x", "a": "b"}
        assert last_said(world).labels == {"app": "x", "a": "b"}
        assert world.fleet.label_pod(KEY, {"app": "web"}, ["a", "never"]).labels is None

    def test_a_release_and_an_adoption(self, world: World) -> None:
        """It is the same pod, it goes on as it was, and as an orphan it says which labels it has."""
        world.create(template=TEMPLATE)
        world.pass_ms(100)
        before = world.fleet.pods[KEY]
        orphan = world.fleet.release_pod(KEY)
        assert (orphan.owner, orphan.labels) == (None, {"app": "web"})
        assert (orphan.uid, orphan.ready) == (before.uid, True)
        assert world.said() == [PodObserved(pod=orphan)]
        assert world.fleet.release_pod(KEY) == orphan
        assert world.said() == []
        assert world.fleet.adopt_pod(KEY, OWNER) == before
        assert world.said() == [PodObserved(pod=before)]

    def test_an_orphan_from_the_start(self, world: World) -> None:
        """It runs like any other, and is adopted with the labels that it was given."""
        world.fleet.create_pod(KEY, node="n1", owner=None, revision="")
        world.pass_ms(100)
        world.fleet.label_pod(KEY, {"app": "web"})
        assert world.fleet.pods[KEY].ready
        adopted = world.fleet.adopt_pod(KEY, Owner(name="another", uid="7"))
        assert adopted.labels == {"app": "web"}, "its template does not have them"

    def test_the_end_of_an_orphan(self, world: World) -> None:
        """It says that nobody controlled it."""
        world.create()
        world.fleet.release_pod(KEY)
        world.fleet.delete_pod(KEY)
        end = world.said()[-1]
        assert isinstance(end, PodGone)
        assert end.owner is None

    def test_a_pod_that_is_not_there(self, world: World) -> None:
        """It cannot change hands, and has no labels."""
        with pytest.raises(RefusedError, match="ns/p: there is no such pod"):
            world.fleet.release_pod(KEY)
        with pytest.raises(RefusedError, match="ns/p: there is no such pod"):
            world.fleet.adopt_pod(KEY, OWNER)
        with pytest.raises(RefusedError, match="ns/p: there is no such pod"):
            world.fleet.label_pod(KEY, {})


class TestNodesThatAreNotReady:
    """Since when, and what cannot happen on them."""

    def test_since_when(self, world: World) -> None:
        """From the first time on that it was not, until it is again."""
        world.clock.time_ms = 5_000
        assert world.fleet.set_node_ready("n1", ready=False).unready_since_ms == 5_000
        world.clock.time_ms = 6_000
        assert world.fleet.set_node_ready("n1", ready=False).unready_since_ms == 5_000
        assert world.fleet.set_node_ready("n1", ready=True) == NODE

    @pytest.mark.parametrize("behaviour", [AT_ONCE, STOPS_SLOWLY])
    def test_nothing_stops_there(self, behaviour: Behaviour) -> None:
        """A pod that is deleted is on its way out until its node is ready again, and then for as long as it takes."""
        world = World(NODE, behaviour=behaviour)
        world.create()
        world.pass_ms(100)
        world.fleet.set_node_ready("n1", ready=False)
        deleted_ms = world.clock.time_ms
        world.fleet.delete_pod(KEY)
        leaving = last_said(world)
        assert (leaving.deleting, leaving.deleting_since_ms) == (True, deleted_ms)
        assert world.pass_ms(NEVER_MS) == []
        world.fleet.set_node_ready("n1", ready=True)
        world.pass_ms(behaviour.stop_ms[1])
        assert dict(world.fleet.pods) == {}

    def test_what_was_stopping_stays(self) -> None:
        """A node that becomes not ready does not go on stopping what it was stopping."""
        world = World(NODE, behaviour=STOPS_SLOWLY)
        world.create()
        world.fleet.delete_pod(KEY)
        world.fleet.set_node_ready("n1", ready=False)
        world.pass_ms(NEVER_MS)
        assert world.fleet.pods[KEY].deleting
        world.fleet.set_node_ready("n1", ready=True)
        world.pass_ms(29)
        assert world.fleet.pods[KEY].deleting
        world.pass_ms(1)
        assert dict(world.fleet.pods) == {}

    def test_it_goes_with_its_node(self, world: World) -> None:
        """There is nothing left to wait for."""
        world.create()
        world.fleet.set_node_ready("n1", ready=False)
        world.fleet.delete_pod(KEY)
        world.fleet.remove_node("n1")
        assert dict(world.fleet.pods) == {}

    def test_a_fleet_without_nodes_that_hold_on(self) -> None:
        """If the behaviour says so, pods stop whatever their node is."""
        behaviour = dataclasses.replace(AT_ONCE, unready_nodes_stop_pods=True)
        world = World(NODE, behaviour=behaviour)
        world.create()
        world.fleet.set_node_ready("n1", ready=False)
        world.fleet.delete_pod(KEY)
        assert dict(world.fleet.pods) == {}


class TestBadImages:
    """What a template may ask for, so that people can try a bad rollout."""

    @pytest.mark.parametrize("fate", ["hangs", "fails"])
    def test_a_bad_image_is_never_ready(self, fate: str) -> None:
        """Not for a moment, also where pods are ready as they run."""
        world = World(NODE, behaviour=Behaviour(start_ms=(10, 10)))
        template = f'{{"metadata":{{"annotations":{{"{FATE_ANNOTATION}":"{fate}"}}}}}}'
        world.create(template=template.encode())
        said = world.pass_ms(NEVER_MS)
        assert [one.pod.ready for one in said if isinstance(one, PodObserved)] == [False] * len(
            said
        )
        ended = {"hangs": "Running", "fails": "Failed"}
        assert world.fleet.pods[KEY].phase == ended[fate]

    def test_a_pod_that_is_to_finish_is_ready_until_it_does(self) -> None:
        """Its image is not bad."""
        world = World(NODE, behaviour=Behaviour(start_ms=(10, 10), pods_finish=1))
        world.create()
        said = world.pass_ms(NEVER_MS)
        assert [one.pod.ready for one in said if isinstance(one, PodObserved)] == [
            False,
            True,
            False,
        ]
