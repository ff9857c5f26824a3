"""Whatever anybody writes to the fleet's subjects: it is reported, and everything else goes on.

Garbage here is what cannot be read or used, and what stands where it does not belong.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs
from tests.integration.support_world import BACKEND, World, make_node, make_set

from everynode import wire
from everynode.core.events import (
    DaemonSetObserved,
    NodeObserved,
    Tick,
)
from everynode.core.identity import shard_of
from everynode.core.values import WHOLE_MAX, Selector
from everynode.runtime.view import follow_view, read_view

SET = make_set()
OTHER = make_set("other")
NEVER_MS = WHOLE_MAX
KINDS = tuple(kind.name for kind in wire.KINDS)
STATE_KINDS = ("node", "pod", "daemonset", "revision", "status")


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


class TestUnreadable:
    """Messages that cannot be used at all."""

    @pytest.mark.parametrize("kind", KINDS)
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
        await world.goes_on()
        view = await read_view(world.bus, STATE_KINDS)
        assert set(world.backend.nodes) == {key.name for key in view.nodes}
        assert set(world.sets) == set(view.daemonsets) == set(view.statuses)

    async def test_everything_at_once(self, covered: World) -> None:
        """S8, L3, L2: garbage on a subject of each kind keeps nobody busy: it is silent afterwards."""
        world = covered
        for subject in subjects_in_use(world).values():
            await world.publish(subject, GARBAGE["bytes"])
        await world.goes_on()
        await world.silent()

    async def test_a_view_that_is_followed_goes_on(self, covered: World) -> None:
        """S8: whoever watches the fleet keeps what was good, and sees what comes after the garbage."""
        world = covered
        subject = world.bus.subjects.of_set("daemonset", SET.key)
        place = 0
        async for view in follow_view(world.bus, STATE_KINDS):
            if not place:
                place = await world.publish(subject, GARBAGE["bytes"])
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
        await world.goes_on()

    async def test_headers_of_the_server_s_own(self, covered: World) -> None:
        """S8: who claims to be a copy from elsewhere is not believed."""
        world = covered
        for number, header in enumerate(("LOG 99999999 > > x", "LOG x", "LOG", "")):
            subject = f"{world.bus.subjects.prefix}.node.{BACKEND}.made-up-{number}"
            await world.publish(subject, b"x", {"Nats-Stream-Source": header})
        await world.goes_on()

    async def test_garbage_that_expires(self, covered: World) -> None:
        """S8, L1: garbage that the server drops again takes nothing good with it."""
        world = covered
        subject = world.bus.subjects.of_set("daemonset", SET.key)
        await world.publish(subject, b"x", {"Nats-TTL": "1s"})
        await world.until_state_is_not(subject, b"x")
        assert SET.key in (await read_view(world.bus, STATE_KINDS)).daemonsets
        await world.restart_parts()
        world.add_nodes(1)
        await world.covered()

    async def test_garbage_in_the_place_of_a_template(self, covered: World) -> None:
        """S8, L1: pods are made from the last good template, also by a host that has just started."""
        world = covered
        (revision,) = {pod.revision for pod in world.pods(SET)}
        await world.publish(world.bus.subjects.of_revision(SET.key, revision), b"x")
        await world.restart_parts()
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
        await world.goes_on()

    @pytest.mark.parametrize("name", BAD_TEMPLATES)
    async def test_a_set_that_became_unusable(self, covered: World, name: str) -> None:
        """S8, L1, L2: what was wanted last and can be used is what counts; then silence; applying again mends it."""
        world = covered
        wanted = world.sets[SET.key]
        bad = replace(wanted, generation=2, template=msgspec.Raw(BAD_TEMPLATES[name]))
        subject = world.bus.subjects.of_set("daemonset", bad.key)
        payload = wire.encode(DaemonSetObserved(daemonset=bad))
        for _ in range(2):
            await world.publish(subject, payload)
        await world.goes_on()
        await world.silent()
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
        await world.goes_on()
