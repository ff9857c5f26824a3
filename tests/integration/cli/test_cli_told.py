"""`everynode events`, on a log that the test writes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from everynode.cli.event_folding import EventFolder
from everynode.cli.reading import NoticeWish, read_notices
from everynode.core.events import NoticeReported
from everynode.core.values import Notice
from everynode.ports import Outgoing

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode, Running, WrittenFleet


def told(reason: str, message: str, **changes: object) -> NoticeReported:
    """What a worker tells people, just now."""
    now_ms = time.time_ns() // 1_000_000
    fields = {
        "namespace": "default",
        "daemonset": "agent",
        "daemonset_uid": "uid-agent",
        "type": "Normal",
        "first_ms": now_ms,
        "last_ms": now_ms,
    }
    return NoticeReported(notice=Notice(reason=reason, message=message, **(fields | changes)))  # type: ignore[arg-type] # fields of a notice


class TestEvents:
    """`events`, without a worker."""

    async def test_table(self, written: WrittenFleet) -> None:
        """Events stand in the order in which they were told last; what is alike is one line."""
        await written.write(
            told("RolloutStarted", "it starts"),
            told("FailedCreate", "no room", type="Warning", count=2),
            told("FailedCreate", "no room", type="Warning", count=3),
            told("SuccessfulCreate", "made", namespace="other"),
        )
        await written.bus.publish(
            [Outgoing(f"{written.bus.subjects.prefix}.notice.0.default.agent", b"garbage")]
        )
        ended = await written("events")
        rows = [line.split() for line in ended.out.splitlines()]
        assert (ended.code, ended.err) == (0, "")
        assert rows[0] == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "COUNT", "MESSAGE"]
        assert [row[1:] for row in rows[1:]] == [
            ["Normal", "RolloutStarted", "daemonset/agent", "1", "it", "starts"],
            ["Warning", "FailedCreate", "daemonset/agent", "5", "no", "room"],
        ]
        warnings = await written("events", "--types", "warning", "-o", "json")
        (document,) = json.loads(warnings.out)["items"]
        assert (document["kind"], document["count"]) == ("Event", 5)
        everywhere = await written("events", "-A", "-o", "wide")
        assert everywhere.out.splitlines()[0].startswith("NAMESPACE")
        assert "SuccessfulCreate" in everywhere.out
        assert "FIRST SEEN" in everywhere.out

    async def test_for_one_set(self, written: WrittenFleet) -> None:
        """--for shows those of one set only."""
        await written.write(told("RolloutStarted", "a"), told("RolloutStarted", "b", daemonset="b"))
        mine = await written("events", "--for", "ds/b")
        assert [line.split()[-1] for line in mine.out.splitlines()[1:]] == ["b"]
        both = await written("events", "--for", "daemonset/b", "-A")
        assert "daemonset/agent" not in both.out
        assert "daemonset/b" in both.out
        for wrong in (("--for", "b"), ("--for", "pods/b"), ("--types", "Bad"), ("--since", "x")):
            assert (await written("events", *wrong)).code == 2

    async def test_since(self, written: WrittenFleet) -> None:
        """What the log took in before a point in time is left out; 0 means all that it has."""
        bus = written.bus
        await written.write(told("RolloutStarted", "early"))
        early_ms = late_ms = await bus.time_of(1)
        while early_ms == late_ms:  # until the server's clock has moved on
            await written.write(told("RolloutComplete", "late"))
            late_ms = await bus.time_of((await bus.log_position()).last_sequence)
        assert late_ms is not None
        for since_ms, reasons in (
            (late_ms, {"RolloutComplete"}),
            (0, {"RolloutStarted", "RolloutComplete"}),
        ):
            folder = EventFolder()
            end = await read_notices(bus, NoticeWish("default", ""), since_ms, folder)
            assert {line.notice.reason for line in folder.lines()} == reasons
            assert end == (await bus.log_position()).last_sequence
        for since in ("1h", "0"):
            assert "early" in (await written("events", "--since", since)).out

    async def test_none(self, written: WrittenFleet) -> None:
        """That there is nothing is said to people, and is an empty list for programs."""
        assert await written("events") == (0, "", "note: no events found in namespace default\n")
        assert json.loads((await written("events", "-A", "-o", "json")).out)["items"] == []

    async def test_watch(
        self, written: WrittenFleet, start: Callable[..., Running], on_server: Everynode
    ) -> None:
        """A watch goes on with each new event, also with one that counts up."""
        await written.write(told("RolloutStarted", "first"))
        watching = start(*written.words("events", "--watch"), address=on_server.address)
        watching.line("RolloutStarted +daemonset/agent +1 +first")
        await written.write(told("RolloutStarted", "first"))
        watching.line("RolloutStarted +daemonset/agent +2 +first")
        await written.write(told("RolloutComplete", "second"))
        watching.line("RolloutComplete +daemonset/agent +1 +second")
        assert watching.stop() == 130
        assert watching.err == []
