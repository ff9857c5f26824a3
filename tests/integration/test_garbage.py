"""Whatever anybody writes to the fleet's subjects: it is reported, and everything else goes on.

Garbage here is what cannot be read, what stands where it does not belong, and what is well formed and untrue.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from tests.integration.support_world import BACKEND, World, make_node, make_set

from everynode import wire
from everynode.core.commands import CreatePod, Decision, DeletePod, Outcome
from everynode.core.events import (
    DaemonSetObserved,
    NodeObserved,
    PodGone,
    StatusReported,
    Tick,
)
from everynode.core.identity import shard_of
from everynode.core.values import Pod, Selector, Status
from everynode.errors import StaleError
from everynode.ports import Outgoing
from everynode.runtime.view import follow_view, read_view
from everynode_simulated import SimulatedAdapter, SimulatedFleet

SET = make_set()
OTHER = make_set("other")
NEVER_MS = 2**62
KINDS = tuple(kind.name for kind in wire.KINDS)
STATE_KINDS = ("node", "pod", "daemonset", "revision", "status")


def known_bug(reason: str) -> pytest.MarkDecorator:
    """Mark what does not work yet: once it does, the test says so by failing, and the mark goes."""
    return pytest.mark.xfail(strict=True, reason=reason)


TEMPLATE_LOST = known_bug("a host reads only the last message of a revision: runtime.templates")
APPLY_RAISES = known_bug("apply compares with a template that it cannot read: runtime.applying")
SIZE_BELIEVED = known_bug("a set is blocked until as many messages came as a decision claims: core")

GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "bytes": bytes(range(256)),
    "no object": b"[1,2,3]",
    "empty object": b"{}",
    "no kind": b'{"v":1}',
    "unknown kind": b'{"v":1,"kind":"PodEvicted","pod":{}}',
    "unknown version": b'{"v":2,"kind":"Tick","shard":1,"dueMs":1}',
    "version is text": b'{"v":"1","kind":"Tick","shard":1,"dueMs":1}',
    "field missing": b'{"v":1,"kind":"NodeObserved","node":{"backend":"sim","name":"x"}}',
    "field of a wrong type": b'{"v":1,"kind":"NodeGone","backend":7,"name":"x"}',
    "field out of range": b'{"v":1,"kind":"Tick","shard":-1,"dueMs":1}',
    "name too long": b'{"v":1,"kind":"NodeGone","backend":"sim","name":"%s"}' % (b"x" * 254),
    "half a surrogate": rb'{"v":1,"kind":"NodeGone","backend":"\ud800","name":"x"}',
    "a huge number": b'{"v":1,"kind":"Tick","shard":1e999,"dueMs":1}',
    "nested deeply": b'{"v":1,"kind":"Tick","shard":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "truncated": b'{"v":1,"kind":"NodeObserved","node":{"backend":"sim","na',
    "huge": b"x" * 900_000,
    "huge object": b'{"v":1,"kind":"NodeGone","backend":"sim","name":"x","why":"%s"}'
    % (b"y" * 900_000),
    "wrong place": wire.encode(Tick(shard=4_711, due_ms=1)),
    "somebody else's": wire.encode(NodeObserved(node=make_node("somebody-else"))),
}


@pytest.fixture
async def covered(world: World, request: pytest.FixtureRequest) -> World:
    """Four nodes that are covered with one set, a worker and a host; a known bug is not waited for long."""
    world.wait_seconds = 6 if request.node.get_closest_marker("xfail") else 20
    world.add_nodes(4)
    await world.start_worker()
    await world.start_host()
    await world.apply(SET)
    await world.covered()
    return world


class Refusal(NamedTuple):
    """What a part reports of a message that it refuses."""

    subject: str
    sequence: int


def refusals(entries: list[Any]) -> set[Refusal]:
    """Pick them out of what was logged."""
    return {
        Refusal(entry["subject"], entry["sequence"])
        for entry in entries
        if entry["event"] in {"message refused", "command refused"}
    }


def subjects_in_use(world: World) -> dict[str, str]:
    """Name a subject of each kind; where the fleet has something of the kind, one that is in use."""
    subjects = world.bus.subjects
    shard = shard_of(SET.key, subjects.shards)
    last = {received.subject.split(".")[2]: received.subject for received in world.log.received}
    return {kind: f"{subjects.prefix}.{kind}.{shard}.garbage" for kind in KINDS} | last


async def restart(world: World) -> None:
    """End every part that runs in this process and start it anew."""
    for part in list(world._parts):
        await world.stop(part)
    await world.start_worker("successor")
    await world.start_host()


async def assert_goes_on(world: World) -> None:
    """S8, L3, L1: covered now and after all parts have started anew, also with what is new."""
    await world.apply(OTHER)
    world.add_nodes(1)
    await world.covered()
    await restart(world)
    world.add_nodes(1)
    for daemonset in (SET, OTHER):
        world.backend.delete_pod(world.pods(daemonset)[0].key)
    await world.apply(make_set("third"))
    await world.covered()


class TestUnreadable:
    """Messages that cannot be used at all."""

    @pytest.mark.parametrize(
        "kind",
        [pytest.param(k, marks=TEMPLATE_LOST if k == "revision" else ()) for k in KINDS],
    )
    async def test_it_is_reported_and_changes_nothing(self, covered: World, kind: str) -> None:
        """S8, L3: each is reported with subject and place, nothing is lost by it, and all goes on, then and later."""
        world = covered
        subject = subjects_in_use(world)[kind]
        with capture_logs() as entries:
            published = {
                Refusal(subject, await world.publish(subject, payload))
                for payload in GARBAGE.values()
            }
            await world.read_to(max(place for _, place in published))
            await world.until(
                lambda: kind == "notice" or published <= refusals(entries), "all of it is reported"
            )
        assert len(GARBAGE) == len(world.log.malformed)
        await assert_goes_on(world)
        view = await read_view(world.bus, STATE_KINDS)
        assert set(world.backend.nodes) == {key.name for key in view.nodes}
        assert set(world.sets) == set(view.daemonsets) == set(view.statuses)

    @TEMPLATE_LOST
    async def test_everything_at_once(self, covered: World) -> None:
        """S8, L3, L2: garbage on a subject of each kind keeps nobody busy: it is silent afterwards."""
        world = covered
        for subject in subjects_in_use(world).values():
            await world.publish(subject, GARBAGE["bytes"])
        await assert_goes_on(world)
        await world.silent()

    async def test_a_view_that_is_followed_goes_on(self, covered: World) -> None:
        """S8: whoever watches the fleet keeps what was good, and sees what comes after the garbage."""
        world = covered
        subject = world.bus.subjects.of_set("daemonset", SET.key)
        place = await world.publish(subject, GARBAGE["bytes"])
        async for view in follow_view(world.bus, STATE_KINDS):
            if SET.key in view.daemonsets and not view.malformed:
                continue
            assert [(subject, place)] == [
                (entry.subject, entry.sequence) for entry in view.malformed
            ]
            if OTHER.key in view.daemonsets:
                break
            await apply_once(world, OTHER)
        assert SET.key in view.daemonsets

    @pytest.mark.parametrize("status", ["100", "404", "408", "409", "503"])
    @pytest.mark.parametrize("kind", ["node", "command"])
    async def test_a_header_that_looks_like_the_server_speaking(
        self, covered: World, kind: str, status: str
    ) -> None:
        """S8, L3: a stored message with a Status header is a message like any other."""
        world = covered
        subject = subjects_in_use(world)[kind]
        place = await world.publish(subject, b"x", {"Status": status, "Description": "made up"})
        await world.read_to(place)
        await assert_goes_on(world)

    async def test_headers_of_the_server_s_own(self, covered: World) -> None:
        """S8: who claims to be a copy from elsewhere is not believed."""
        world = covered
        for number, header in enumerate(("LOG 99999999 > > x", "LOG x", "LOG", "")):
            subject = f"{world.bus.subjects.prefix}.node.{BACKEND}.made-up-{number}"
            await world.publish(subject, b"x", {"Nats-Stream-Source": header})
        await assert_goes_on(world)

    @known_bug(
        "STATE has nothing left after the garbage has expired, and nobody says the good again"
    )
    async def test_garbage_that_expires(self, covered: World) -> None:
        """S8, L1: garbage that the server drops again takes nothing good with it."""
        world = covered
        subject = world.bus.subjects.of_set("daemonset", SET.key)
        await world.publish(subject, b"x", {"Nats-TTL": "1s"})
        await world.until_state_is_not(subject, b"x")
        assert SET.key in (await read_view(world.bus, STATE_KINDS)).daemonsets
        await restart(world)
        world.add_nodes(1)
        await world.covered()

    @TEMPLATE_LOST
    async def test_garbage_in_the_place_of_a_template(self, covered: World) -> None:
        """S8, L1: pods are made from the last good template, also by a host that has just started."""
        world = covered
        (revision,) = {pod.revision for pod in world.pods(SET)}
        await world.publish(world.bus.subjects.of_revision(SET.key, revision), b"x")
        await restart(world)
        world.add_nodes(1)
        await world.covered()

    async def test_much_garbage_while_the_state_is_read(self, world: World) -> None:
        """S8, L1: a worker that looks up what garbage hides still reads all of the state."""
        world.wait_seconds = 30
        world.add_nodes(3_000)
        await world.start_host()
        await world.until(lambda: len(world.log.messages) >= 3_000, "the nodes are on the log")
        prefix = world.bus.subjects.prefix
        for number in range(300):
            await world.publish(f"{prefix}.node.elsewhere.n{number}", b"x")
        await world.start_worker()
        await world.apply(SET)
        await world.until(
            lambda: (
                SET.key in world.log.statuses
                and world.log.statuses[SET.key].desired_number_scheduled == 3_000
            ),
            "all nodes are known",
        )


async def apply_once(world: World, daemonset: Any) -> None:
    """Apply a set unless that was done already."""
    if daemonset.key not in world.sets:
        await world.apply(daemonset)


BAD_TEMPLATES = {
    "of a wrong type": b'{"spec":{"nodeSelector":7}}',
    "null": b"null",
    "with a number that is too large": b'{"spec":{"replicas":1e999}}',
    "with an endless number": b'{"spec":{"x":' + b"9" * 5_000 + b"}}",
    "that is no text": b'{"spec":{"x":"\xff\xfe"}}',
    "nested deeply": b'{"spec":{"x":' + b"[" * 985 + b"]" * 985 + b"}}",
}


class TestBadSets:
    """Sets that no manifest reader would have let through."""

    @pytest.mark.parametrize("name", BAD_TEMPLATES)
    async def test_a_template_that_cannot_be_used(self, covered: World, name: str) -> None:
        """S8, L3: such a set is refused, and the others are looked after, also by parts that start later."""
        world = covered
        bad = replace(make_set("bad"), uid="bad", template=msgspec.Raw(BAD_TEMPLATES[name]))
        subject = world.bus.subjects.of_set("daemonset", bad.key)
        payload = wire.encode(DaemonSetObserved(daemonset=bad))
        for _ in range(2):
            await world.publish(subject, payload)
        await assert_goes_on(world)

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=APPLY_RAISES if "number" in name or "text" in name else ())
            for name in BAD_TEMPLATES
        ],
    )
    async def test_a_set_that_became_unusable(self, covered: World, name: str) -> None:
        """S8, L1: what was wanted last and can be used is what counts; applying again mends it."""
        world = covered
        wanted = world.sets[SET.key]
        bad = replace(wanted, generation=2, template=msgspec.Raw(BAD_TEMPLATES[name]))
        subject = world.bus.subjects.of_set("daemonset", bad.key)
        payload = wire.encode(DaemonSetObserved(daemonset=bad))
        for _ in range(2):
            await world.publish(subject, payload)
        await assert_goes_on(world)
        await world.apply(make_set(spec='{"containers":[]}'))
        world.add_nodes(1)
        await world.covered()

    async def test_a_set_as_large_as_the_log_takes(self, covered: World) -> None:
        """S8, L3: its revision would not fit on the log; nobody else suffers for it."""
        world = covered
        bare = DaemonSetObserved(daemonset=replace(make_set("large"), uid="u", selector=Selector()))
        room = wire.PAYLOAD_BYTES_MAX - len(wire.encode(bare)) - len(b',"x":""')
        template = msgspec.Raw(b'{"spec":{},"x":"%s"}' % (b"x" * room))
        large = DaemonSetObserved(daemonset=replace(bare.daemonset, template=template))
        payload = wire.encode(large)
        assert wire.PAYLOAD_BYTES_MAX == len(payload)
        await world.publish(world.bus.subjects.of(large), payload)
        await assert_goes_on(world)


def a_create(world: World, **fields: Any) -> CreatePod:
    """Make a create that nobody decided."""
    daemonset = world.sets[SET.key]
    made = CreatePod(
        id="made-up",
        backend=BACKEND,
        node="n0001",
        node_uid="uid-n0001",
        namespace="default",
        daemonset="agent",
        daemonset_uid=daemonset.uid,
        generation=1,
        pod="agent-made-up",
        revision=world.pods(SET)[0].revision,
        expires_ms=NEVER_MS,
    )
    return replace(made, **fields)


def a_decision(world: World, **fields: Any) -> Decision:
    """Make a decision that no worker made."""
    daemonset = world.sets[SET.key]
    made = Decision(
        namespace="default",
        daemonset="agent",
        daemonset_uid=daemonset.uid,
        generation=1,
        revision="",
        basis=1,
        at_ms=1,
        worker="nobody",
        size=0,
        window=250,
    )
    return replace(made, **fields)


def a_delete(**fields: Any) -> DeletePod:
    """Make a delete that nobody decided."""
    made = DeletePod(
        id="made-up",
        backend=BACKEND,
        node="n0001",
        namespace="default",
        daemonset="agent",
        daemonset_uid="nobody",
        generation=1,
        pod="nobody",
        pod_uid="nobody",
        expires_ms=NEVER_MS,
    )
    return replace(made, **fields)


UNTRUE: dict[str, Callable[[World], wire.AnyMessage] | wire.AnyMessage] = {
    "create for an unknown node": lambda world: a_create(world, node="nowhere", node_uid="nobody"),
    "create for another node's uid": lambda world: a_create(world, node_uid="nobody"),
    "create for a node that is covered": a_create,
    "create of an unknown revision": lambda world: a_create(world, revision="nothing"),
    "create in an unknown backend": lambda world: a_create(world, backend="nowhere"),
    "create for an unknown set": lambda world: a_create(
        world, daemonset="nobody", daemonset_uid="nobody"
    ),
    "create that has expired": lambda world: a_create(world, expires_ms=1),
    "delete of an unknown pod": a_delete(),
    "delete in an unknown backend": a_delete(backend="nowhere"),
    "delete of another pod's uid": lambda world: a_delete(pod=world.pods(SET)[0].name),
    "decision": a_decision,
    "decision that claims more than came": lambda world: a_decision(world, size=900),
    "decision of an impossible size": lambda world: a_decision(world, size=2**62),
    "decision with no window": lambda world: a_decision(world, window=0),
    "decision with a huge window": lambda world: a_decision(world, window=2**62),
    "decision from the future": lambda world: a_decision(world, basis=2**62, at_ms=2**62),
    "decision for an unknown set": lambda world: a_decision(world, daemonset="nobody"),
    "outcome of nothing": Outcome(
        id="made-up", namespace="default", daemonset="agent", verb="create", result="failed"
    ),
    "tick of the future": Tick(shard=3, due_ms=2**62),
    "status": lambda world: StatusReported(
        status=Status(
            namespace="default",
            daemonset="agent",
            daemonset_uid=world.sets[SET.key].uid,
            observed_generation=1,
            desired_number_scheduled=4_711,
        )
    ),
    "node that is not there": NodeObserved(node=make_node("made-up")),
}


def gone_of(pod: Pod) -> PodGone:
    """Say of a pod that it is gone."""
    return PodGone(
        backend=pod.backend,
        namespace=pod.namespace,
        name=pod.name,
        uid=pod.uid,
        node=pod.node,
        node_uid=pod.node_uid,
        owner=pod.owner,
    )


CLAIMS_OF_SIZE = ("decision that claims more than came", "decision of an impossible size")


class TestUntrue:
    """Messages that are well formed, stand where they belong, and are not so."""

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=SIZE_BELIEVED if name in CLAIMS_OF_SIZE else ())
            for name in UNTRUE
        ],
    )
    async def test_it_hinders_nothing_but_itself(self, covered: World, name: str) -> None:
        """S1, S8, L1, L3: the fleet is covered exactly all the same, with what is new as well."""
        world = covered
        world.made_up_commands.add("made-up")
        untrue = UNTRUE[name]
        await world.read_to(await world.say(untrue(world) if callable(untrue) else untrue))
        await assert_goes_on(world)

    async def test_a_pod_that_is_said_to_be_gone(self, covered: World) -> None:
        """L1: the host lists anew and says what is so; what was made by mistake meanwhile is taken away again."""
        world = covered
        (pod,) = world.pods(SET, "n0002")
        await world.read_to(await world.say(gone_of(pod)))
        await world.until(lambda: len(world.log.of(PodGone)) >= 1, "the log says that it is gone")
        await world.until(lambda: world.log.last_of_pod(pod) == pod, "the log knows the pod again")
        world.witness.doubles.clear()
        await assert_goes_on(world)

    @known_bug("a host answers by a command's id, from memory, what it did for an earlier one")
    async def test_the_same_command_again_is_a_command_again(self, covered: World) -> None:
        """S4, L1: a create that is decided again, long after, is carried out again if its pod is not there."""
        world = covered
        (pod,) = world.pods(SET, "n0002")
        (create,) = [command for command in world.log.creates() if command.pod == pod.name]
        (worker,) = [part for part in world._parts if hasattr(part, "worker")]
        await world.stop(worker)
        world.backend.delete_pod(pod.key)
        await world.until(lambda: len(world.log.of(PodGone)) == 1, "the log knows that it is gone")
        await world.say(replace(create, expires_ms=NEVER_MS))
        await world.until(lambda: bool(world.pods(SET, "n0002")), "the pod is made again")


class TestFence:
    """What the server refuses."""

    async def test_a_stale_decision_is_refused_whole(self, covered: World) -> None:
        """S6: nothing of a batch gets onto the log if another decision about the set came first."""
        world = covered
        last, decision = world.log.of(Decision)[-1]
        messages: tuple[wire.AnyMessage, ...] = (
            replace(decision, size=3),
            *(a_create(world, id=f"stale-{number}") for number in range(3)),
        )
        batch = [Outgoing(world.bus.subjects.of(m), wire.encode(m)) for m in messages]
        end = (await world.bus.log_position()).last_sequence
        for stale in (0, last - 1, last + 1):
            with pytest.raises(StaleError) as refused:
                await world.bus.publish_fenced(batch, stale)
            assert last == refused.value.last_sequence
        assert end == (await world.bus.log_position()).last_sequence
        await world.silent()
        assert not [command for command in world.log.creates() if command.id.startswith("stale")]


class TestNeighbours:
    """Trouble of one part of the fleet is its own."""

    @known_bug("the window of a set is taken by creates that nobody carries out")
    async def test_a_backend_without_its_adapter_delays_only_itself(self, covered: World) -> None:
        """L3: nodes of a backend whose adapter is away wait; the other backend's nodes get their pods."""
        world = covered
        absent = SimulatedFleet([make_node(f"a{number}", backend="absent") for number in range(8)])
        host = await world.start_host(SimulatedAdapter("absent", absent))
        await host.host.listed.wait()
        await world.stop(host)
        await world.apply(OTHER)
        await world.until(
            lambda: sorted(world.backend.nodes) == world.nodes_with(OTHER), "the others are covered"
        )

    async def test_a_template_that_no_pod_can_be_made_from(self, covered: World) -> None:
        """L3: a set whose pods fail at once delays only itself."""
        world = covered
        annotations = b'{"metadata":{"annotations":{"simulated.everynode/fate":"fails"}},"spec":{}}'
        await world.apply(replace(make_set("failing"), template=msgspec.Raw(annotations)))
        failing = world.sets.popitem()
        await world.apply(OTHER)
        await world.until(
            lambda: sorted(world.backend.nodes) == world.nodes_with(OTHER), "the others are covered"
        )
        assert failing[0].name == "failing"
