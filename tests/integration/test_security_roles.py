"""Each role can do its whole work on a server with the files of deploy/nats, and nothing else."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import nats
import pytest
import pytest_asyncio
from nats.aio.client import Client
from tests.integration import support_jwt
from tests.integration import support_security as support
from tests.integration.support_security import FLEET, LOG, PREFIX, ROLES, STATE, as_role
from tests.integration.support_world import make_node, make_set

from everynode import wire
from everynode.core.commands import COMMANDS, Outcome, outcome_of
from everynode.core.events import DaemonSetObserved
from everynode.errors import ConfigurationError, UnavailableError
from everynode.ports import Adapter, Outgoing
from everynode.runtime.applying import apply, delete
from everynode.runtime.credentials import client_options
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.host import AdapterHost
from everynode.runtime.jetstream import JetStreamBus, connect
from everynode.runtime.settings import Connection, StreamSettings
from everynode.runtime.view import follow_view
from everynode.runtime.worker import Worker
from everynode_simulated import SimulatedAdapter, SimulatedFleet

BACKENDS = ("kubernetes", "simulated")
NODES = 3
REFUSAL_SECONDS_MAX = 10
SMALL = StreamSettings(
    log_max_bytes=64 * 1024**2, backends={name: f"simulated/{name}" for name in BACKENDS}
)
ADAPTERS = ("adapter-kubernetes", "adapter-simulated")


class Uncontrolled:
    """An adapter that takes no requests beside the log, as that of a cluster."""

    def __init__(self, adapter: SimulatedAdapter) -> None:
        """Stand in for it."""
        self.backend, self.identity = adapter.backend, adapter.identity
        self.observe, self.apply = adapter.observe, adapter.apply


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["passwords.conf", "nkeys.conf", "jwt"]
)
async def closed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EmbeddedServer]:
    """A server with a file of deploy/nats, and a fleet that its operator made."""
    data_dir = tmp_path_factory.mktemp("closed")
    if request.param == "jwt":
        extra = support_jwt.server_config(data_dir)
    else:
        extra = support.including(data_dir, request.param)
    with support.server_variables():
        async with EmbeddedServer(data_dir, 0, extra=extra) as server:
            operator = connection_of(server, "operator")
            async with await connect(operator, FLEET, create=SMALL):
                pass
            yield server


def connection_of(server: EmbeddedServer, role: str) -> Connection:
    """How a role connects to a server with passwords, nkeys or JWTs, whichever it has."""
    config = (server.data_dir / "nats-server.conf").read_text("utf-8")
    if "passwords.conf" in config:
        return as_role(server, role)
    if "operator:" in config:
        return as_role(server, role, creds=server.data_dir / f"{role}.creds")
    path = server.data_dir / f"{role}.nk"
    path.touch(mode=0o600)
    path.write_bytes(support.seed(role))
    return as_role(server, role, nkey_seed=path)


class Refusals:
    """What the server said that it does not allow."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._said = ""
        self._came = asyncio.Event()

    async def note(self, error: Exception) -> None:
        """Take in what the library reports."""
        self._said += str(error).lower()
        self._came.set()

    def lacks(self, subjects: list[str]) -> list[str]:
        """Name those subjects of which it did not say so."""
        return [subject for subject in subjects if f'"{subject.lower()}"' not in self._said]

    async def wait(self, subjects: list[str]) -> None:
        """Wait until it has said so of each of these subjects: it does in its own time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFUSAL_SECONDS_MAX):
                while self.lacks(subjects):
                    self._came.clear()
                    await self._came.wait()
        assert [] == self.lacks(subjects)


async def raw(server: EmbeddedServer, role: str, refusals: Refusals) -> Client:
    """Connect as a role with the bare library, and collect what the server does not allow."""
    connection = connection_of(server, role)
    who = client_options(connection) | {"error_cb": refusals.note, "allow_reconnect": False}
    return await nats.connect(server.url, **who)


class TestWork:
    """What each role has to do, it can."""

    async def test_whole_work(self, closed: EmbeddedServer) -> None:
        """Two workers, two hosts, operator and reader cover a fleet together, and nobody asks for more than allowed."""
        before = len(support.violations(closed))
        async with contextlib.AsyncExitStack() as stack:
            buses: dict[str, JetStreamBus] = {}
            for role in ROLES:
                buses[role] = await stack.enter_async_context(
                    await connect(connection_of(closed, role), FLEET)
                )
            second = await stack.enter_async_context(
                await connect(connection_of(closed, "worker"), FLEET)
            )
            group = await stack.enter_async_context(asyncio.TaskGroup())
            fleets = [
                SimulatedFleet([make_node(f"n{number}", backend=name) for number in range(NODES)])
                for name in BACKENDS
            ]
            adapters: list[Adapter] = [
                Uncontrolled(SimulatedAdapter("kubernetes", fleets[0])),
                SimulatedAdapter("simulated", fleets[1]),
            ]
            parts = [Worker(buses["worker"], "w1").run(), Worker(second, "w2").run()]
            parts += [
                AdapterHost(buses[f"adapter-{each.backend}"], each).run() for each in adapters
            ]
            tasks = [group.create_task(part) for part in parts]
            daemonset = make_set("covered")
            applied = await apply(buses["operator"], daemonset)
            assert "created" == applied.action

            async def covered(count: int) -> None:
                kinds = ("node", "pod", "status")
                async with aclosing(follow_view(buses["reader"], kinds)) as views:
                    async for view in views:
                        pods = [pod for pod in view.pods.values() if pod.set_key == daemonset.key]
                        ready = [pod for pod in pods if pod.ready and not pod.deleting]
                        if len(view.nodes) == 2 * NODES and len(ready) == count:
                            return

            await covered(2 * NODES)
            assert await delete(buses["operator"], daemonset.key)
            await covered(0)
            for task in tasks:
                task.cancel()
            assert [NODES, NODES] == [len(fleet.nodes) for fleet in fleets]
        assert [] == support.violations(closed)[before:]

    async def test_reader_reads_much(self, closed: EmbeddedServer) -> None:
        """A reader in an account of its own reads more than the server sends without being asked for more."""
        before = len(support.violations(closed))
        async with (
            await connect(connection_of(closed, "adapter-simulated"), FLEET) as writer,
            await connect(connection_of(closed, "reader"), FLEET) as reader,
        ):
            outcomes = [
                Outcome(
                    id=f"many-{number}",
                    backend="simulated",
                    namespace="default",
                    daemonset="many",
                    verb="create",
                    result="done",
                    message="x" * 200_000,
                )
                for number in range(200)
            ]
            sent = [Outgoing(writer.subjects.of(each), wire.encode(each)) for each in outcomes]
            for start in range(0, len(sent), 25):
                await writer.publish(sent[start : start + 25])
            found = 0
            async for chunk in reader.read_log([f"{PREFIX}.outcome.>"], 1):
                found += sum(".many-" in received.subject for received in chunk)
            assert len(sent) == found
        assert [] == support.violations(closed)[before:]

    async def test_cluster_keeps_sets(self, closed: EmbeddedServer) -> None:
        """The adapter of a cluster declares the sets that the cluster keeps; that of a simulated fleet may not."""
        for role in ADAPTERS:
            async with await connect(connection_of(closed, role), FLEET) as bus:
                declared = DaemonSetObserved(daemonset=make_set(f"kept-by-{role}", uid="u"))
                outgoing = Outgoing(bus.subjects.of(declared), wire.encode(declared))
                refused = Refusals()
                if role == "adapter-kubernetes":
                    assert 0 < await bus.publish_fenced([outgoing], 0)
                    continue
                client = await raw(closed, role, refused)
                await client.publish(outgoing.subject, outgoing.payload)
                await refused.wait([outgoing.subject])
                await client.close()

    async def test_unrecorded_backend(self, closed: EmbeddedServer) -> None:
        """An adapter may not write down a backend itself; it says so, and how an operator does it."""
        async with await connect(connection_of(closed, "adapter-simulated"), FLEET) as bus:
            await bus.record_backend("simulated", "simulated/simulated")
            with pytest.raises(ConfigurationError, match="is simulated/simulated, and this one"):
                await bus.record_backend("simulated", "another")
            with pytest.raises(UnavailableError, match=r"--backend other=me"):
                await bus.record_backend("other", "me")


def refused_to(role: str) -> list[str]:
    """Subjects on which a role must not write."""
    others = [name for name in BACKENDS if f"adapter-{name}" != role]
    subjects = [f"{PREFIX}.node.{name}.n1" for name in others]
    subjects += [
        f"{PREFIX}.pod.{shard}.{name}.default.p" for name in others for shard in (3, "orphan")
    ]
    subjects += [f"{PREFIX}.host.{name}" for name in others]
    asked = []
    for stream in (LOG, STATE):
        verbs = ("DELETE", "PURGE", "SNAPSHOT", "RESTORE", "LEADER.STEPDOWN", "PEER.REMOVE")
        asked += [f"STREAM.{verb}.{stream}" for verb in verbs]
        asked += [f"STREAM.MSG.DELETE.{stream}", f"CONSUMER.DELETE.{stream}.x"]
        asked += [f"CONSUMER.CREATE.{stream}", f"DIRECT.GET.{stream}"]
    for name in BACKENDS:
        asked += [f"CONSUMER.CREATE.{LOG}.adapter-{name}"]
        asked += [f"CONSUMER.DURABLE.CREATE.{LOG}.adapter-{name}"]
    for name in others:
        asked += [f"CONSUMER.CREATE.{LOG}.adapter-{name}.{PREFIX}.command.{name}.>"]
        asked += [f"CONSUMER.MSG.NEXT.{LOG}.adapter-{name}"]
        subjects += [f"$JS.ACK.{LOG}.adapter-{name}.1.1.1.1.1"]
    of_worker = [f"{PREFIX}.{kind}.3.default.s" for kind in ("decision", "status", "notice")]
    of_worker += [f"{PREFIX}.command.simulated.n1.3.c", f"{PREFIX}.tick.3", f"{PREFIX}.worker"]
    of_sets = [f"{PREFIX}.daemonset.3.default.s"]
    asked += [f"STREAM.UPDATE.{STATE}"]
    subjects += [] if role in {"worker", ADAPTERS[0]} else [f"{PREFIX}.revision.3.default.s.s-1"]
    subjects += [] if role == "worker" else of_worker
    subjects += [] if role in ADAPTERS else [f"{PREFIX}.outcome.3.c"]
    subjects += of_sets if role in {"reader", "adapter-simulated"} else []
    if role != "operator":
        subjects += [f"{PREFIX}.control.{name}" for name in BACKENDS]
        asked += [f"STREAM.{verb}.{LOG}" for verb in ("CREATE", "UPDATE")]
        asked += [f"STREAM.CREATE.{STATE}"]
    subjects += [f"{prefix}.{each}" for prefix in ("$JS.API", support.API) for each in asked]
    subjects += ["everynode.other.node.simulated.n1", "$SYS.REQ.SERVER.PING"]
    return subjects


class TestNothingElse:
    """What is not a role's work, the server refuses."""

    @pytest.mark.parametrize("role", ROLES)
    async def test_writing(self, closed: EmbeddedServer, role: str) -> None:
        """A worker writes no facts, an adapter speaks for no other backend, a reader writes nothing."""
        subjects = refused_to(role)
        refused = Refusals()
        client = await raw(closed, role, refused)
        async with await connect(connection_of(closed, "operator"), FLEET) as bus:
            before = await bus.log_position()
            for subject in subjects:
                await client.publish(subject, b"{}")
            await refused.wait(subjects)
            await client.close()
            assert before == await bus.log_position()

    @pytest.mark.parametrize("role", ROLES)
    async def test_hearing(self, closed: EmbeddedServer, role: str) -> None:
        """Nobody hears what others are answered, or the log without a consumer."""
        subjects = [">", "_INBOX.>", "$JS.>", f"{PREFIX}.>", f"{PREFIX}.node.>"]
        subjects += [f"{support.inbox(other)}.>" for other in ROLES if other != role]
        subjects += [f"{PREFIX}.host.{name}" for name in BACKENDS if f"adapter-{name}" != role]
        subjects += [f"{PREFIX}.control.kubernetes", "$JS.EVENT.ADVISORY.>", "$SYS.>"]
        subjects += [] if role == "adapter-simulated" else [f"{PREFIX}.control.simulated"]
        refused = Refusals()
        client = await raw(closed, role, refused)
        for subject in subjects:
            await client.subscribe(subject)
        await refused.wait(subjects)
        await client.close()

    @pytest.mark.parametrize("role", ROLES)
    async def test_answers_onto_the_log(self, closed: EmbeddedServer, role: str) -> None:
        """What is asked for with an answer to a subject of the log does not come onto the log."""
        client = await raw(closed, role, Refusals())
        async with await connect(connection_of(closed, "operator"), FLEET) as bus:
            before = await bus.log_position()
            for stream in (LOG, STATE):
                operation = f"{connection_of(closed, role).api_prefix}.STREAM.INFO.{stream}"
                await client.publish(operation, b"", reply=f"{PREFIX}.node.simulated.n1")
                assert (
                    await client.request(operation, timeout=5)
                ).data  # those before it are done, too
            await client.close()
            assert before == await bus.log_position()

    async def test_forged_outcomes(self, closed: EmbeddedServer) -> None:
        """An adapter can write outcomes of another backend's commands; that delays, and makes no second pod (S1)."""
        nodes = [make_node(f"n{number}", backend="kubernetes") for number in range(NODES)]
        adapter: Adapter = Uncontrolled(SimulatedAdapter("kubernetes", SimulatedFleet(nodes)))
        daemonset = make_set("forged")
        forged: set[str] = set()
        async with contextlib.AsyncExitStack() as stack:
            buses: dict[str, JetStreamBus] = {}
            for role in ROLES:
                buses[role] = await stack.enter_async_context(
                    await connect(connection_of(closed, role), FLEET)
                )
            forger = buses["adapter-simulated"]
            start = (await forger.log_position()).last_sequence + 1

            async def forge() -> None:
                commands = [forger.subjects.commands_for("kubernetes")]
                async for chunk in forger.follow(commands, start):
                    for received in chunk:
                        command = wire.decode(received.payload)
                        assert isinstance(command, COMMANDS)
                        if command.attempt == 0 and command.set_key == daemonset.key:
                            outcome = outcome_of(command, "failed", "says a stranger")
                            subject = forger.subjects.of(outcome)
                            await forger.publish([Outgoing(subject, wire.encode(outcome))])
                            forged.add(command.id)

            group = await stack.enter_async_context(asyncio.TaskGroup())
            parts = [forge(), Worker(buses["worker"], "w").run()]
            parts += [AdapterHost(buses["adapter-kubernetes"], adapter).run()]
            tasks = [group.create_task(part) for part in parts]
            await apply(buses["operator"], daemonset)
            async with aclosing(follow_view(buses["reader"], ("pod",))) as views:
                async for view in views:
                    pods = [pod for pod in view.pods.values() if pod.set_key == daemonset.key]
                    taken = [pod.node for pod in pods if pod.backend == "kubernetes"]
                    assert len(set(taken)) == len(taken)
                    if len(taken) == NODES:
                        break
            await delete(buses["operator"], daemonset.key)
            for task in tasks:
                task.cancel()
        assert forged

    async def test_nobody(self, closed: EmbeddedServer, tmp_path: Path) -> None:
        """Who does not say who they are, or says it wrong, is not let in."""
        stranger, signed = tmp_path / "stranger.nk", tmp_path / "stranger.creds"
        stranger.write_bytes(support.seed("stranger"))
        support_jwt.stranger_credentials(signed)
        tried = [
            Connection(servers=(closed.url,)),
            Connection(servers=(closed.url,), user="worker", password="wrong"),  # noqa: S106 - it opens nothing
            Connection(servers=(closed.url,), user="operator"),
            Connection(servers=(closed.url,), token="wrong"),  # noqa: S106 - likewise
            Connection(servers=(closed.url,), nkey_seed=stranger),
            Connection(servers=(closed.url,), creds=signed),
        ]
        for connection in tried:
            with pytest.raises(ConfigurationError, match="refuses who we are"):
                await connect(connection, FLEET)
