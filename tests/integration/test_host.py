"""An adapter host on a real server: what gets onto the log, and what failures do to it."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

import msgspec
import pytest
from msgspec.structs import replace

from everynode import wire
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, PodKey
from everynode.errors import ConfigurationError, UnavailableError
from everynode.ports import ListBegun, Observation, Outgoing, View
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.host import AdapterHost, control_subject
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection, StreamSettings
from everynode.runtime.streams import log_name, state_name
from everynode.runtime.view import read_view
from everynode.testing.hosting import (
    OWNER,
    REVISION,
    ScriptedAdapter,
    create,
    eventually,
    last_of_nodes,
    outcomes,
    quick,
    revision,
    running,
    say,
    until,
    until_kept,
)
from everynode_simulated import Behaviour, SimulatedAdapter, SimulatedFleet, generate_nodes
from everynode_simulated import adapter as adapter_module

BACKEND = "sim"


def names(nodes: Iterable[Node]) -> set[str]:
    """Their names."""
    return {node.name for node in nodes}


def ready(said: Iterable[wire.AnyMessage]) -> set[str]:
    """The names of the pods that were said to be ready."""
    return {one.pod.name for one in said if isinstance(one, PodObserved) and one.pod.ready}


@pytest.fixture
def simulated() -> SimulatedFleet:
    """Eight nodes on which everything works."""
    return SimulatedFleet(generate_nodes(8, seed=1, backend=BACKEND))


@pytest.fixture
def adapter(simulated: SimulatedFleet) -> SimulatedAdapter:
    """Their adapter."""
    return SimulatedAdapter(BACKEND, simulated)


class TestObserving:
    """What gets onto the log."""

    async def test_nodes_and_pods_are_published(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """Everything listed is on the log when ``listed`` is set, and changes follow."""
        first, second = list(simulated.nodes)[:2]
        async with running(bus, adapter) as host:
            assert (await last_of_nodes(bus)).keys() == simulated.nodes.keys()
            simulated.cordon(first)
            simulated.remove_node(second)
            await eventually(lambda: host.counts.published == 10)
            await until(bus, "node", lambda said: len(said) == 10)
            log = await last_of_nodes(bus)
            assert log[first] == NodeObserved(node=simulated.nodes[first])
            assert isinstance(log[second], NodeGone)
            assert host.published_sequence == (await bus.log_position()).last_sequence

    async def test_nothing_new_is_not_said_again(
        self, bus: JetStreamBus, adapter: SimulatedAdapter
    ) -> None:
        """L2: a host that starts again, with nothing changed, publishes nothing."""
        async with running(bus, adapter):
            pass
        before = (await bus.log_position()).last_sequence
        async with running(bus, adapter) as host:
            assert (host.counts.published, host.counts.suppressed) == (0, 8)
            assert (await bus.log_position()).last_sequence == before

    async def test_what_changed_while_it_was_away(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """A host that starts again publishes exactly the differences, ends included."""
        gone, cordoned, home = list(simulated.nodes)[:3]
        key = PodKey(BACKEND, "ns", "p")
        simulated.create_pod(key, node=home, owner=OWNER, revision=REVISION)
        stays = PodKey(BACKEND, "ns", "stays")
        simulated.create_pod(stays, node=home, owner=OWNER, revision=REVISION)
        async with running(bus, adapter):
            await until(bus, "pod", lambda said: len(ready(said)) == 2)
        simulated.remove_node(gone)
        simulated.cordon(cordoned)
        pod = simulated.pods[key]
        simulated.delete_pod(key)
        async with running(bus, adapter) as host:
            assert host.counts.published == 3
            log = await last_of_nodes(bus)
            assert isinstance(log[gone], NodeGone)
            assert log[cordoned] == NodeObserved(node=simulated.nodes[cordoned])
            (*_, end) = await until(
                bus, "pod", lambda said: bool(said) and isinstance(said[-1], PodGone)
            )
            assert isinstance(end, PodGone)
            assert (end.uid, end.node, end.owner) == (pod.uid, home, OWNER)

    async def test_a_great_loss_needs_a_second_list(self, bus: JetStreamBus) -> None:
        """A list that would remove more than half of the nodes is held back: if the next one has them, they stay."""
        nodes = generate_nodes(4, 1, BACKEND)
        async with running(bus, ScriptedAdapter(BACKEND, nodes)):
            pass
        adapter = ScriptedAdapter(BACKEND, nodes[:1], nodes)
        async with running(bus, adapter) as host:
            assert adapter.observed == 2
            assert host.counts.held_back == 1
            assert host.counts.published == 0

    async def test_a_second_list_that_agrees_is_believed(self, bus: JetStreamBus) -> None:
        """What two lists in a row do not name is gone."""
        nodes = generate_nodes(4, 1, BACKEND)
        async with running(bus, ScriptedAdapter(BACKEND, nodes)):
            pass
        async with running(bus, ScriptedAdapter(BACKEND, nodes[:1])) as host:
            log = await last_of_nodes(bus)
            assert {name for name, said in log.items() if isinstance(said, NodeGone)} == names(
                nodes[1:]
            )
            assert host.counts.held_back == 1

    async def test_pods_are_not_taken_for_gone_beside_a_doubtful_list_of_nodes(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """A list that names few of the nodes is not believed about a single pod either."""
        home = next(iter(simulated.nodes))
        for number in range(4):
            key = PodKey(BACKEND, "ns", f"p{number}")
            simulated.create_pod(key, node=home, owner=OWNER, revision=REVISION)
        async with running(bus, adapter):
            await until(bus, "pod", lambda said: len(ready(said)) == 4)

        class Shortsighted(SimulatedAdapter):
            observed = 0

            async def observe(self, known: View) -> AsyncGenerator[Observation]:
                self.observed += 1
                async with aclosing(super().observe(known)) as observing:
                    async for one in observing:
                        is_missing = (isinstance(one, NodeObserved) and one.node.name != home) or (
                            isinstance(one, PodObserved) and one.pod.name == "p0"
                        )
                        if not is_missing or self.observed > 1:
                            yield one

        before = await bus.log_position()
        async with running(bus, Shortsighted(BACKEND, simulated)) as host:
            assert host.counts.held_back == 2, "the nodes and the pods"
            assert await bus.log_position() == before

    async def test_an_adapter_that_fails_is_asked_again(self, bus: JetStreamBus) -> None:
        """L1: after an outage of the backend, or a bug in the adapter, everything is listed and published."""
        nodes = generate_nodes(3, 1, BACKEND)

        class Failing(ScriptedAdapter):
            async def observe(self, known: View) -> AsyncGenerator[Observation]:
                if self.observed < 4:
                    self.observed += 1
                    yield ListBegun("nodes")
                    if self.observed == 1:
                        raise UnavailableError("not now")
                    if self.observed == 2:
                        raise ZeroDivisionError
                    if self.observed == 3:
                        return
                async with aclosing(super().observe(known)) as observing:
                    async for observation in observing:
                        yield observation

        async with running(bus, Failing(BACKEND, nodes)) as host:
            assert host.counts.observe_failures == 3
            assert (await last_of_nodes(bus)).keys() == names(nodes)

    async def test_an_adapter_that_never_ends_its_lists_is_asked_again(
        self, bus: JetStreamBus
    ) -> None:
        """L1: lists that do not end in time are given up and begun anew."""
        nodes = generate_nodes(3, 1, BACKEND)

        class Stuck(ScriptedAdapter):
            async def observe(self, known: View) -> AsyncGenerator[Observation]:
                if self.observed == 0:
                    self.observed += 1
                    yield ListBegun("nodes")
                    await asyncio.Event().wait()
                async with aclosing(super().observe(known)) as observing:
                    async for observation in observing:
                        yield observation

        settings = quick()
        hasty = dataclasses.replace(
            settings, observe=dataclasses.replace(settings.observe, list_timeout_ms=50)
        )
        adapter = Stuck(BACKEND, nodes)
        async with running(bus, adapter, hasty):
            assert (await last_of_nodes(bus)).keys() == names(nodes)
        assert adapter.observed >= 2

    async def test_observations_that_cannot_be_published(self, bus: JetStreamBus) -> None:
        """L3: a node of another backend, or one that is too large, is reported, and the others are published."""
        nodes = generate_nodes(3, 1, BACKEND)
        huge = replace(nodes[0], name="huge", labels={"a": "x" * wire.PAYLOAD_BYTES_MAX})
        strange = replace(nodes[0], name="strange", backend="other")
        async with running(bus, ScriptedAdapter(BACKEND, [huge, strange, *nodes])) as host:
            assert host.counts.invalid == 2
            assert (await last_of_nodes(bus)).keys() == names(nodes)

    async def test_another_backend_under_the_same_name_is_refused(self, bus: JetStreamBus) -> None:
        """A fleet remembers which backend a name stands for."""
        nodes = generate_nodes(2, 1, BACKEND)
        async with running(bus, ScriptedAdapter(BACKEND, nodes)):
            pass
        other = ScriptedAdapter(BACKEND, [], identity="another one")
        with pytest.raises(ConfigurationError, match=BACKEND):
            await AdapterHost(bus, other, quick()).run()
        assert len(await last_of_nodes(bus)) == 2


class TestTheLogChangesUnderIt:
    """Others write to the same log."""

    async def test_garbage_is_written_over(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """S8: a message that cannot be read, on the subject of one of our nodes, is replaced by what is so."""
        name, node = next(iter(simulated.nodes.items()))
        async with running(bus, adapter) as host:
            await bus.publish([Outgoing(bus.subjects.of_node(node.key), b"garbage")])
            await until(bus, "node", lambda said: len(said) == 9)
            assert (await last_of_nodes(bus))[name] == NodeObserved(node=node)
            assert host.counts.malformed == 1

    async def test_garbage_from_before_it_started_is_written_over(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """S8: so is one that was written while the host was away; a node that left meanwhile is ended."""
        (stays, node), (leaves, left) = list(simulated.nodes.items())[:2]
        async with running(bus, adapter):
            pass
        spoiled = [Outgoing(bus.subjects.of_node(one.key), b"garbage") for one in (node, left)]
        await until_kept(bus, await bus.publish(spoiled))
        simulated.remove_node(leaves)
        async with running(bus, adapter) as host:
            log = await last_of_nodes(bus)
            assert log[stays] == NodeObserved(node=node)
            assert isinstance(log[leaves], NodeGone)
            assert host.counts.malformed == 2

    async def test_what_someone_else_said_is_checked_and_corrected(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """L1: a false end of a node leads to a new list, and that to the truth."""
        name, node = next(iter(simulated.nodes.items()))
        async with running(bus, adapter):
            await say(bus, NodeGone(backend=BACKEND, name=name, why="a lie"))
            await until(bus, "node", lambda said: len(said) == 10)
            assert (await last_of_nodes(bus))[name] == NodeObserved(node=node)


class TestControl:
    """People act on a simulated backend through the fleet."""

    async def ask(self, bus: JetStreamBus, payload: bytes) -> dict[str, object]:
        """Send a request."""
        answer = await bus.request(control_subject(bus.subjects, BACKEND), payload, 2_000)
        return msgspec.json.decode(answer, type=dict[str, object])

    async def test_a_request_changes_the_backend(
        self, bus: JetStreamBus, simulated: SimulatedFleet, adapter: SimulatedAdapter
    ) -> None:
        """What was done is observed and stands on the log; the request itself does not."""
        name = next(iter(simulated.nodes))
        async with running(bus, adapter):
            answer = await self.ask(bus, b'{"verb":"cordon","node":"%s"}' % name.encode())
            assert "node" in answer
            await until(bus, "node", lambda said: len(said) == 9)
            assert (await bus.log_position()).last_sequence == 9

    @pytest.mark.parametrize(
        "payload", [b"", b"garbage", b"[]", b"{}", b'{"verb":"cordon"}', b"\xff"]
    )
    async def test_a_wrong_request_is_answered_with_an_error(
        self, bus: JetStreamBus, adapter: SimulatedAdapter, payload: bytes
    ) -> None:
        """S8: whatever comes over the network, the answer is an error and the next request is answered."""
        async with running(bus, adapter):
            assert (await self.ask(bus, payload)).keys() == {"error"}
            assert "error" not in await self.ask(bus, b'{"verb":"add-node","count":1}')

    async def test_a_bug_in_the_adapter_is_answered_with_an_error(
        self, bus: JetStreamBus, adapter: SimulatedAdapter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """L3: the answer does not tell what went wrong inside, and the host goes on."""
        monkeypatch.setattr(adapter_module, "execute", lambda *_: 1 / 0)
        async with running(bus, adapter):
            answer = await self.ask(bus, b'{"verb":"add-node","count":1}')
        assert answer == {"error": "the adapter failed: ZeroDivisionError"}


class TestOutages:
    """The server goes away and comes back."""

    async def test_nothing_is_lost_when_the_server_restarts(
        self,
        own_bus: JetStreamBus,
        own_server: EmbeddedServer,
        simulated: SimulatedFleet,
        adapter: SimulatedAdapter,
    ) -> None:
        """S4: what happens in the meantime gets onto the log, last things last, and commands go on."""
        node = next(iter(simulated.nodes.values()))
        async with running(own_bus, adapter):
            await own_server.stop()
            for number in range(50):
                simulated.update_labels(node.name, {"number": str(number)})
                await asyncio.sleep(0)
            await own_server.start()
            said = await until(
                own_bus,
                "node",
                lambda said: (
                    bool(said) and said[-1] == NodeObserved(node=simulated.nodes[node.name])
                ),
            )
            assert len(said) < 8 + 50, (
                "while it was away, the last value took the place of those before it"
            )
            await say(own_bus, revision(), create(node))
            (outcome,) = await outcomes(own_bus, 1)
            assert outcome.result == "done"

    async def test_another_log_under_the_same_name(
        self,
        own_bus: JetStreamBus,
        own_server: EmbeddedServer,
        fleet: str,
        simulated: SimulatedFleet,
        adapter: SimulatedAdapter,
    ) -> None:
        """L1: when the log is lost and made anew, the host says everything again."""
        async with running(own_bus, adapter):
            for stream in (state_name(fleet), log_name(fleet)):
                await own_bus._link.call(f"STREAM.DELETE.{stream}")
            connection = Connection(servers=(own_server.url,))
            async with await connect(
                connection, fleet, create=StreamSettings(log_max_bytes=64 * 1024**2)
            ):
                await until(own_bus, "node", lambda said: len(said) >= 8)
                assert (await last_of_nodes(own_bus)).keys() == simulated.nodes.keys()


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_happens_the_log_ends_up_saying_what_is_so(
    own_bus: JetStreamBus, own_server: EmbeddedServer, seed: int
) -> None:
    """L1: nodes flap, vanish and return, pods fail, the server is killed, hosts come and go: in the end all is said."""
    draw = random.Random(seed)
    nodes = generate_nodes(30, seed, BACKEND)
    behaviour = Behaviour(
        seed=seed,
        pods_fail=0.2,
        nodes_flap=0.2,
        nodes_vanish=0.1,
        nodes_replaced=0.1,
        node_up_ms=(50, 400),
        node_down_ms=(20, 100),
        run_ms=(10, 100),
        calls_unavailable=0.1,
    )
    simulated = SimulatedFleet(nodes, behaviour=behaviour)
    await say(own_bus, revision(), *map(create, nodes))
    for _ in range(4):
        async with running(own_bus, SimulatedAdapter(BACKEND, simulated)):
            await act(simulated, draw)
            if draw.random() < 0.5:
                await own_server.restart(kill=True)
            await act(simulated, draw)
    simulated.behaviour = Behaviour(seed=seed)
    async with running(own_bus, SimulatedAdapter(BACKEND, simulated)):
        for _ in range(200):
            view = await read_view(own_bus, ["node", "pod"])
            is_so = {node.key: node for node in simulated.nodes.values()}
            if view.pods == simulated.pods and view.nodes == is_so:
                break
            await asyncio.sleep(0.05)
        assert view.pods == simulated.pods
        assert view.nodes == is_so


async def act(simulated: SimulatedFleet, draw: random.Random) -> None:
    """Do some things to a fleet, with time passing in between."""
    for _ in range(20):
        await asyncio.sleep(draw.random() / 50)
        simulated.advance()
        if not simulated.nodes:
            return
        name = draw.choice(list(simulated.nodes))
        pods = list(simulated.pods)
        match draw.randrange(6):
            case 0:
                simulated.update_labels(name, {"number": str(draw.random())})
            case 1:
                simulated.cordon(name, unschedulable=draw.random() < 0.5)
            case 2 if len(simulated.nodes) > 20:
                simulated.remove_node(name)
            case 3:
                index = simulated.next_node_index()
                simulated.add_node(Node(backend=BACKEND, name=f"added-{index}", uid=f"{index}"))
            case 4 if pods:
                simulated.delete_pod(draw.choice(pods))
            case 5 if pods:
                simulated.finish_pod(draw.choice(pods))
