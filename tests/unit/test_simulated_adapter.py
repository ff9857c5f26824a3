"""The simulated adapter beside what the conformance kit checks: options, requests from outside, losing its place."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from everynode.core.events import NodeObserved, PodObserved
from everynode.core.values import Node, Owner, PodKey, Taint
from everynode.errors import ConfigurationError, RefusedError
from everynode.ports import Adapter, Controllable, ListBegun, ListEnded, Observation
from everynode.runtime.ledger import Ledger
from everynode.testing import hosting
from everynode.wire import Subjects
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet, generate_nodes
from everynode_simulated import feed as feed_module

DEADLINE_S = 10
KNOWN = Ledger("b", Subjects("test", 1))
OWNER = Owner(name="set", uid="s")


@pytest.fixture
def fleet() -> SimulatedFleet:
    """Three nodes."""
    return SimulatedFleet(generate_nodes(3, seed=1, backend="b"))


@pytest.fixture
def adapter(fleet: SimulatedFleet) -> SimulatedAdapter:
    """Their adapter."""
    return SimulatedAdapter("b", fleet)


async def take(observing: AsyncIterator[Observation], count: int) -> list[Observation]:
    """Take so many observations; what hangs fails."""
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(observing) for _ in range(count)]


def test_it_is_an_adapter(adapter: SimulatedAdapter) -> None:
    """It stands wherever the ports are asked for (mypy checks these lines)."""
    port: Adapter = adapter
    controllable: Controllable = adapter
    assert port.backend == "b"
    assert isinstance(controllable, Controllable)


def test_nodes_of_another_backend_are_refused() -> None:
    """A fleet and its adapter must mean the same backend."""
    fleet = SimulatedFleet([Node(backend="other", name="n", uid="u")])
    with pytest.raises(ConfigurationError, match="node n belongs to another backend"):
        SimulatedAdapter("b", fleet)


async def test_it_lists_again_when_it_fell_behind(
    adapter: SimulatedAdapter, fleet: SimulatedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B1: changes that did not fit are made up for by complete lists, in the same observation."""
    monkeypatch.setattr(feed_module.Feed.__init__, "__defaults__", (3,))
    async with aclosing(adapter.observe(KNOWN)) as observing:
        await take(observing, 3 + 4)
        for name in list(fleet.nodes) * 2:
            fleet.cordon(name)
            fleet.cordon(name, unschedulable=False)
        again = await take(observing, 3 + 4)
    assert [again[0], again[4]] == [ListBegun("nodes"), ListEnded("nodes")]
    named = [one.node for one in again if isinstance(one, NodeObserved)]
    assert named == list(fleet.nodes.values())


async def test_pods_start_while_nobody_calls(
    adapter: SimulatedAdapter, fleet: SimulatedFleet
) -> None:
    """Whoever observes hears of what time brings, without any other call."""
    name = next(iter(fleet.nodes))
    async with aclosing(adapter.observe(KNOWN)) as observing:
        await take(observing, 3 + 4)
        fleet.create_pod(PodKey("b", "ns", "p"), node=name, owner=OWNER, revision="r")
        created, running = await take(observing, 2)
    assert isinstance(created, PodObserved)
    assert isinstance(running, PodObserved)
    assert (created.pod.phase, running.pod.phase) == ("Pending", "Running")


async def test_a_pod_on_its_way_out_is_not_adopted() -> None:
    """It would be the node's pod for a moment only; its end need not be waited for."""
    (node,) = generate_nodes(1, 1, "b")
    fleet = SimulatedFleet([node], behaviour=Behaviour(stop_ms=(100_000, 100_000)))
    command = hosting.create(node)
    pod = fleet.create_pod(command.pod_key, node=node.name, owner=None, revision="r")
    fleet.delete_pod(pod.key)
    outcome = await SimulatedAdapter("b", fleet).apply(hosting.adopt(command, pod.uid))
    assert (outcome.result, fleet.pods[pod.key].owner) == ("superseded", None)
    assert "on its way out" in outcome.message


class TestOptions:
    """Made from text, as the command line does."""

    async def test_everything_has_a_default(self) -> None:
        """Without options there is a small fleet in which everything works."""
        adapter = SimulatedAdapter.from_options("b", {})
        async with aclosing(adapter.observe(KNOWN)) as observing:
            said = await take(observing, 12)
        assert sum(isinstance(one, NodeObserved) for one in said) == 10

    def test_fields_of_the_behaviour(self) -> None:
        """Numbers, shares, ranges and yes or no."""
        options = {
            "seed": "3",
            "pods_fail": "0.25",
            "start_ms": "5-9",
            "pods_outlive_nodes": "false",
        }
        assert Behaviour.from_options(options) == Behaviour(
            seed=3, pods_fail=0.25, start_ms=(5, 9), pods_outlive_nodes=False
        )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"nodes": "many"}, "backend b: nodes is 'many'; write a number from 0 to"),
            ({"nodes": "1000001"}, "nodes is '1000001'"),
            ({"pods_fial": "1"}, "there is no option 'pods_fial'; there are: nodes, seed,"),
            ({"pods_fail": "2"}, "pods_fail"),
            ({"start_ms": "5"}, "start_ms"),
            ({"start_ms": "5-x"}, "start_ms"),
        ],
    )
    def test_wrong_options(self, options: dict[str, str], message: str) -> None:
        """The error says which option is wrong."""
        with pytest.raises(ConfigurationError, match=message):
            SimulatedAdapter.from_options("b", options)


class TestControl:
    """Requests that come over the network."""

    @pytest.fixture
    def node(self, fleet: SimulatedFleet) -> str:
        """The name of a node."""
        return next(iter(fleet.nodes))

    async def test_labels_and_taints(
        self, adapter: SimulatedAdapter, fleet: SimulatedFleet, node: str
    ) -> None:
        """They are set and removed, and the answer is the node as it is now."""
        answer = await adapter.control(
            {
                "verb": "label-node",
                "node": node,
                "put": {"a.b/c": "d"},
                "remove": ["kubernetes.io/os"],
            }
        )
        now = fleet.nodes[node]
        assert now.labels["a.b/c"] == "d"
        assert "kubernetes.io/os" not in now.labels
        assert answer["node"] == {**answer["node"], "name": node, "labels": now.labels}  # type: ignore[dict-item]  # JSON

        taint = {"key": "k", "value": "v", "effect": "NoExecute"}
        await adapter.control({"verb": "taint-node", "node": node, "put": [taint]})
        assert Taint(key="k", value="v", effect="NoExecute") in fleet.nodes[node].taints
        await adapter.control({"verb": "taint-node", "node": node, "remove": [{"key": "k"}]})
        assert "k" not in {taint.key for taint in fleet.nodes[node].taints}

    async def test_cordoning(
        self, adapter: SimulatedAdapter, fleet: SimulatedFleet, node: str
    ) -> None:
        """A node is cordoned and uncordoned."""
        await adapter.control({"verb": "cordon", "node": node})
        assert fleet.nodes[node].unschedulable
        await adapter.control({"verb": "uncordon", "node": node})
        assert not fleet.nodes[node].unschedulable

    async def test_adding_and_deleting_nodes(
        self, adapter: SimulatedAdapter, fleet: SimulatedFleet
    ) -> None:
        """Nodes join by name or by number; one that returns under its name is another one."""
        request: dict[str, object] = {"verb": "add-node", "name": "web-1", "taints": []}
        assert await adapter.control(request) == {"nodes": ["web-1"]}
        first = fleet.nodes["web-1"]
        await adapter.control({"verb": "delete-node", "node": "web-1"})
        assert "web-1" not in fleet.nodes
        await adapter.control(request)
        assert first.uid != fleet.nodes["web-1"].uid
        answer: dict[str, Any] = await adapter.control({"verb": "add-node", "count": 20})
        assert len(set(answer["nodes"])) == 20
        assert len(fleet.nodes) == 3 + 1 + 20
        assert len({node.uid for node in fleet.nodes.values()}) == 24

    async def test_pods(self, adapter: SimulatedAdapter, fleet: SimulatedFleet, node: str) -> None:
        """Pods are failed, finished and deleted."""
        for number, (verb, phase) in enumerate(
            [("fail-pod", "Failed"), ("finish-pod", "Succeeded"), ("delete-pod", None)]
        ):
            key = PodKey("b", "ns", f"p{number}")
            fleet.create_pod(key, node=node, owner=OWNER, revision="r")
            await adapter.control({"verb": verb, "namespace": "ns", "name": key.name})
            pod = fleet.pod(key)
            assert (pod.phase if pod else None) == phase

    async def test_labels_of_pods(
        self, adapter: SimulatedAdapter, fleet: SimulatedFleet, node: str
    ) -> None:
        """They are set and removed, and the answer is the pod as it is now."""
        key = PodKey("b", "ns", "p")
        template = b'{"metadata":{"labels":{"app":"web","tier":"1"}}}'
        fleet.create_pod(key, node=node, owner=OWNER, revision="r", template=template)
        request: dict[str, object] = {"verb": "label-pod", "namespace": "ns", "name": "p"}
        answer: dict[str, Any] = await adapter.control(
            {**request, "put": {"app": "debug"}, "remove": ["tier"]}
        )
        assert answer["pod"]["labels"] == fleet.pods[key].labels == {"app": "debug"}

    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            ({}, "verb"),
            ({"verb": "explode"}, "explode"),
            ({"verb": "cordon"}, "node"),
            ({"verb": "cordon", "node": "none"}, "node none: there is no such node"),
            ({"verb": "cordon", "node": 7}, "node"),
            ({"verb": "cordon", "node": "n", "more": 1}, "more"),
            ({"verb": "label-node", "node": "n", "put": {"-bad": "x"}}, "put"),
            ({"verb": "label-node", "node": "n", "put": {"k": "not a value"}}, "put"),
            ({"verb": "label-node", "node": "n", "put": {f"k{i}": "" for i in range(101)}}, "put"),
            ({"verb": "taint-node", "node": "n", "put": [{"key": "k", "effect": "No"}]}, "effect"),
            ({"verb": "add-node", "name": "Not A Name"}, "name"),
            ({"verb": "add-node", "name": "n", "count": 2}, "a name or a count, not both"),
            ({"verb": "add-node", "count": 10_001}, "count"),
            ({"verb": "add-node", "name": "taken"}, "taken: it is there already"),
            ({"verb": "fail-pod", "namespace": "ns", "name": "none"}, "pod ns/none: there is no"),
            ({"verb": "label-pod", "namespace": "ns", "name": "none"}, "pod ns/none: there is no"),
            ({"verb": "label-pod", "namespace": "ns", "name": "p", "put": {"k": " "}}, "put"),
            ({"verb": "label-pod", "namespace": "ns", "name": "p", "remove": ["-"]}, "remove"),
        ],
    )
    async def test_wrong_requests(
        self,
        adapter: SimulatedAdapter,
        fleet: SimulatedFleet,
        request_: dict[str, object],
        message: str,
    ) -> None:
        """S8: a wrong request is refused with what is wrong with it, and changes nothing."""
        fleet.add_node(Node(backend="b", name="taken", uid="u"))
        before = dict(fleet.nodes)
        with pytest.raises(RefusedError, match=message):
            await adapter.control(request_)
        assert before == dict(fleet.nodes)
