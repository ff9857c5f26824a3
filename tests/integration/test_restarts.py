"""Parts that are killed, stopped and started in the middle of the work: the fleet ends up exactly covered all the same.

The server of each test is its own. "In the middle" means: when the backend has made so many of the pods.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from contextlib import aclosing

import msgspec
import pytest
from tests.integration.support_world import World, make_node, make_set

from everynode.core.events import NodeObserved
from everynode.errors import ConfigurationError
from everynode.ports import Outgoing
from everynode.runtime import delivering, following
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.streams import log_name, state_name

pytestmark = pytest.mark.slow

NODES = 500
SET = make_set()
OTHER = make_set("other")
STEADY = {"apply_ms": (5, 25)}
"""How long a backend takes to answer, so that there is a middle."""
STILL_SECONDS = following.HEARTBEAT_MS * 2.5 / 1_000
"""For so long a reader reads nothing; the server has time to say that it waits."""


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that were handed out to someone who is gone come again after seconds, not half a minute."""
    monkeypatch.setattr(delivering, "ACK_WAIT_MS", 3_000)


async def in_the_middle(world: World, pods: int) -> None:
    """Wait until the backend has made so many pods."""
    await world.until(lambda: len(world.witness.created) >= pods, f"{pods} pods were made")


async def until_connected(bus: JetStreamBus, *, wanted: bool) -> None:
    """Wait until a connection is there, or is not."""
    while bus.connected != wanted:  # noqa: ASYNC110 - the library sets no event for us
        await asyncio.sleep(0.01)


async def assert_sound(world: World, *, pods: int) -> None:
    """S1, S4, S5, L1, L2: exactly covered, nothing twice, nothing lost, nothing without a command, then silence."""
    await world.covered()
    assert pods == len(world.backend.pods)
    assert pods == len(world.witness.created)
    world.assert_accounted_for()
    world.assert_creates_were_eligible(SET)
    await world.silent()


class TestWorkers:
    """Workers end as a process ends: without a word."""

    async def test_a_worker_that_is_killed_again_and_again(self, own_world: World) -> None:
        """S1, S4, S5, L1, L2: killed at any point and started anew, it covers the fleet exactly."""
        world = own_world
        world.behave(**STEADY)
        world.add_nodes(NODES)
        await world.start_host()
        await world.apply(SET)
        process = await world.start_worker_process("worker")
        for pods in (3, 150, 380):
            await in_the_middle(world, pods)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            process = await world.start_worker_process("worker")
        await assert_sound(world, pods=NODES)

    async def test_one_of_two_workers_is_killed(self, own_world: World) -> None:
        """S1, S4, S5, S6: the other one goes on, whatever the first had on its way."""
        world = own_world
        world.behave(**STEADY)
        world.add_nodes(NODES)
        await world.start_host()
        await world.apply(SET)
        process = await world.start_worker_process("doomed")
        await in_the_middle(world, 20)
        await world.start_worker("survivor")
        await in_the_middle(world, 100)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await assert_sound(world, pods=NODES)

    async def test_a_worker_that_was_paused(self, own_world: World) -> None:
        """S1, S6: one that stands still while another one decides is refused when it wakes, and reads on."""
        world = own_world
        world.behave(**STEADY)
        world.add_nodes(NODES)
        await world.start_host()
        await world.apply(SET)
        process = await world.start_worker_process("sleeper")
        await in_the_middle(world, 20)
        process.send_signal(signal.SIGSTOP)
        await world.start_worker("awake")
        await in_the_middle(world, 300)
        process.send_signal(signal.SIGCONT)
        await assert_sound(world, pods=NODES)

    async def test_a_worker_that_was_away_while_everything_changed(self, own_world: World) -> None:
        """L1: what happened meanwhile is made up for, and what is still right is left alone."""
        world = own_world
        world.add_nodes(40)
        await world.start_host()
        await world.apply(SET)
        worker = await world.start_worker()
        await world.covered()
        await world.stop(worker)
        kept = {pod.uid for pod in world.pods(SET) if pod.node >= "n0020"}
        for name in list(world.backend.nodes)[:10]:
            world.backend.remove_node(name)
        for pod in world.pods(SET):
            if pod.node < "n0020":
                world.backend.delete_pod(pod.key)
        world.backend.add_node(make_node("new"))
        await world.apply(OTHER)
        await world.start_worker()
        await world.covered()
        assert kept < {pod.uid for pod in world.pods(SET)}
        world.assert_accounted_for()


class TestServer:
    """The server goes away under everybody."""

    @pytest.mark.parametrize("kill", [False, True], ids=["SIGTERM", "SIGKILL"])
    async def test_the_server_restarts_in_the_middle(
        self, own_world: World, own_server: EmbeddedServer, kill: bool
    ) -> None:
        """S1, S4, S5, L1: every part comes back by itself and goes on."""
        world = own_world
        world.behave(**STEADY)
        world.add_nodes(NODES)
        await world.start_host()
        await world.start_worker()
        await world.apply(SET)
        for pods in (60, 300):
            await in_the_middle(world, pods)
            await own_server.restart(kill=kill)
        await assert_sound(world, pods=NODES)

    async def test_the_backend_changes_while_the_server_is_away(
        self, own_world: World, own_server: EmbeddedServer
    ) -> None:
        """S1, L1: what nobody could be told meanwhile is told afterwards."""
        world = own_world
        world.add_nodes(30)
        await world.start_host()
        await world.start_worker()
        await world.apply(SET)
        await world.covered()
        await own_server.stop(kill=True)
        for name in list(world.backend.nodes)[:5]:
            world.backend.remove_node(name)
        for pod in world.pods(SET)[:10]:
            world.backend.delete_pod(pod.key)
        world.add_nodes(3)
        await own_server.start()
        await world.covered()
        world.assert_accounted_for()

    async def test_everything_restarts_at_once(
        self, own_world: World, own_server: EmbeddedServer
    ) -> None:
        """S1, S4, S5, L1: nothing that matters was only in memory."""
        world = own_world
        world.behave(**STEADY)
        world.add_nodes(NODES)
        host = await world.start_host()
        await world.apply(SET)
        process = await world.start_worker_process("worker")
        await in_the_middle(world, 200)
        process.send_signal(signal.SIGKILL)
        await asyncio.gather(world.stop(host), process.wait(), own_server.restart(kill=True))
        await world.start_worker_process("worker")
        await world.start_host()
        await assert_sound(world, pods=NODES)


class TestHost:
    """The adapter's host ends and starts again."""

    async def test_the_host_restarts_in_the_middle(self, own_world: World) -> None:
        """S1, S4, S5, L1: commands in hand come again, and what was done already is not done twice."""
        world = own_world
        world.behave(**STEADY)
        world.add_nodes(NODES)
        host = await world.start_host()
        await world.start_worker()
        await world.apply(SET)
        for pods in (10, 200, 400):
            await in_the_middle(world, pods)
            await world.stop(host)
            host = await world.start_host()
        await assert_sound(world, pods=NODES)

    async def test_commands_wait_for_a_host(self, own_world: World) -> None:
        """S4: what was decided while no host was there is carried out when one comes."""
        world = own_world
        world.add_nodes(5)
        host = await world.start_host()
        await world.until(lambda: world.log.sequence >= 5, "the nodes are on the log")
        await world.stop(host)
        await world.start_worker()
        await world.apply(SET)
        await world.until(lambda: bool(world.log.open_commands), "something is decided")
        world.backend.remove_node("n0000")
        await world.start_host()
        await world.covered()
        world.assert_accounted_for()

    async def test_two_hosts_of_one_backend(self, own_world: World) -> None:
        """S1, S4: replicas of an adapter share the commands and do nothing twice."""
        world = own_world
        world.behave(**STEADY)
        world.add_nodes(100)
        first = await world.start_host()
        await world.start_host()
        await world.start_worker()
        await world.apply(SET)
        await in_the_middle(world, 30)
        await world.stop(first)
        await assert_sound(world, pods=100)


class TestReaders:
    """Those who read slowly, or when the server has gone."""

    async def test_commands_that_came_before_the_connection_went(
        self, own_bus: JetStreamBus, own_server: EmbeddedServer
    ) -> None:
        """S4: what was handed out already can be taken without a server, and nobody is kept busy by its absence."""
        prefix = own_bus.subjects.prefix
        ids = [f"{number:02}" for number in range(20)]
        await own_bus.publish([Outgoing(f"{prefix}.command.b.n.0.{name}", b"x") for name in ids])
        async with aclosing(own_bus.commands("b", len(ids))) as deliveries, asyncio.timeout(30):
            taken = [(await anext(deliveries)).received]
            await own_server.stop()
            await until_connected(own_bus, wanted=False)
            taken += [(await anext(deliveries)).received for _ in ids[1:]]
            assert ids == [received.subject.split(".")[-1] for received in taken]
            await own_server.start()
            await until_connected(own_bus, wanted=True)
            await own_bus.publish([Outgoing(f"{prefix}.command.b.n.0.later", b"x")])
            async for delivery in deliveries:  # those that nobody acknowledged come again first
                await delivery.ack()
                if delivery.received.subject.endswith(".later"):
                    break

    async def test_a_reader_that_stood_still(
        self, own_bus: JetStreamBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """L1: a sign of life without messages means that there are none, also after the server had to wait."""
        monkeypatch.setattr(following, "CHUNK_MESSAGES_MAX", 1)
        prefix = own_bus.subjects.prefix
        count = 8_000
        nodes = [Outgoing(f"{prefix}.node.b.n{number}", b"x" * 1_000) for number in range(count)]
        await own_bus.publish(nodes)
        read = 0
        async with aclosing(own_bus.follow([f"{prefix}.node.>"], 1)) as chunks:
            async for chunk in chunks:
                read += len(chunk)
                if read == 1:
                    await asyncio.sleep(STILL_SECONDS)
                if not chunk:
                    break
        assert count == read


class TestLog:
    """The log itself is lost, replaced or older than what was read from it."""

    async def test_the_log_is_put_back_to_an_older_copy(
        self, own_world: World, own_server: EmbeddedServer
    ) -> None:
        """S1, L1: everybody starts again from what is there; pods that exist are found, not made again."""
        world = own_world
        world.add_nodes(40)
        await world.start_host()
        worker = await world.start_worker()
        await world.apply(SET)
        await world.covered()
        await own_server.stop()
        store = own_server.data_dir / "jetstream"
        shutil.copytree(store, own_server.data_dir / "copy")
        await own_server.start()
        await world.reconnected()
        await world.apply(OTHER)
        world.add_nodes(10)
        await world.covered()
        await own_server.stop()
        shutil.rmtree(store)
        shutil.copytree(own_server.data_dir / "copy", store)
        await own_server.start()
        await world.reconnected()
        await world.record()
        del world.sets[OTHER.key]
        await world.apply(OTHER)
        await world.covered()
        assert worker.worker.counts.restarts >= 1

    async def test_the_streams_are_deleted_and_made_anew(self, own_world: World) -> None:
        """S1, L1: with both streams gone and made anew, everybody begins again and finds what is there."""
        world = own_world
        world.add_nodes(10)
        await world.start_host()
        await world.start_worker()
        await world.apply(SET)
        await world.covered()
        before = {pod.uid for pod in world.pods(SET)}
        await world.remake_streams()
        await world.record()
        del world.sets[SET.key]
        await world.apply(SET)
        await world.covered()
        assert set() == before & {pod.uid for pod in world.pods(SET)}, "it is another set now"

    @pytest.mark.parametrize("all_of_it", [True, False], ids=["everything", "all but the last"])
    async def test_the_log_has_let_go_of_what_was(self, own_world: World, all_of_it: bool) -> None:
        """S1, L1: after a silence longer than the log's age limit, parts that start know everything from STATE."""
        world = own_world
        world.add_nodes(10)
        host, worker = await world.start_host(), await world.start_worker()
        await world.apply(SET)
        await world.covered()
        await world.silent()
        await world.stop(host)
        await world.stop(worker)
        purge = msgspec.json.encode({} if all_of_it else {"keep": 1})
        await world.bus.request(f"$JS.API.STREAM.PURGE.{log_name(world.name)}", purge, 5_000)
        await world.record()
        await world.start_worker()
        await world.start_host()
        world.add_nodes(1)
        world.backend.delete_pod(world.pods(SET)[0].key)
        await world.apply(OTHER)
        await world.covered()
        assert 10 + 2 + 11 == len(world.witness.created)

    async def test_the_state_stream_is_made_anew(self, own_world: World) -> None:
        """L1: STATE comes out of LOG again, and a worker that starts then knows everything."""
        world = own_world
        world.add_nodes(10)
        await world.start_host()
        worker = await world.start_worker()
        await world.apply(SET)
        await world.covered()
        await world.remake_streams(state_name(world.name))
        await world.stop(worker)
        worker = await world.start_worker()
        world.backend.delete_pod(world.pods(SET)[0].key)
        await world.covered()
        assert 11 == len(world.witness.created)

    async def test_the_log_is_not_made_anew_beside_an_older_state(self, own_world: World) -> None:
        """L1: STATE would be ahead of the log for ever, so this is refused; removing STATE too helps."""
        world = own_world
        await world.say(NodeObserved(node=make_node("old")))
        await world.until_state_has(world.bus.subjects.of_kind("node"))
        with pytest.raises(ConfigurationError, match=state_name(world.name)):
            await world.remake_streams(log_name(world.name))
        await world.remake_streams(state_name(world.name))
