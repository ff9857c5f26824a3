"""`everynode timeline`: of a live fleet, of its recording, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from everynode.core.events import DaemonSetObserved, NodeGone, NodeObserved, StatusReported
from everynode.core.values import Status
from everynode.replay.recording import MAGIC, Header, Reader, Writer
from everynode.replay.streams import entry_of
from everynode.runtime.clock import timestamp
from everynode.testing.builders import daemonset, node
from everynode.wire import Subjects

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode, WrittenFleet

NODES = 14
LATER = "2100-01-01T00:00:00Z"


def status(desired: int, ready: int) -> StatusReported:
    """How far the set has come."""
    return StatusReported(
        status=Status(
            namespace="default",
            daemonset="agent",
            daemonset_uid="uid-agent",
            observed_generation=1,
            desired_number_scheduled=desired,
            current_number_scheduled=desired,
            number_ready=ready,
            number_available=ready,
            number_unavailable=desired - ready,
            updated_number_scheduled=ready,
        )
    )


async def write_a_life(written: WrittenFleet) -> None:
    """A set that covers its nodes, gets a new template and loses nodes."""
    nodes = [node(f"node-{number}") for number in range(NODES)]
    lost = [NodeGone(backend=each.backend, name=each.name) for each in nodes[:12]]
    await written.write(*(NodeObserved(node=each) for each in nodes))
    await written.write(DaemonSetObserved(daemonset=daemonset()))
    await written.write(status(NODES, 0), status(NODES, NODES))
    await written.write(DaemonSetObserved(daemonset=daemonset({"x": 1}, generation=2)))
    await written.write(status(NODES, 13), *lost, status(2, 2))


def header(from_ms: int) -> Header:
    """The beginning of a recording."""
    return Header(
        what=MAGIC,
        schema=1,
        fleet="f",
        shards=1,
        begins=1,
        from_sequence=1,
        from_ms=from_ms,
        recorded_ms=from_ms,
    )


async def last_ms(written: WrittenFleet) -> int:
    """When the log took its last message in."""
    return (await written.bus.log_position()).last_time_ms


class TestTimeline:
    """What is shown."""

    async def test_live_and_recorded_are_the_same(
        self, written: WrittenFleet, everynode: Everynode, tmp_path: Path
    ) -> None:
        """The same curves and marks, to the millisecond, from the log and from its recording, which needs no server."""
        await write_a_life(written)
        path = tmp_path / "r"
        assert 0 == (await written("record", "-o", str(path))).code
        words = ("timeline", "daemonset/agent", "-o", "json")

        live = await written(*words)
        offline = everynode(*words, "--recording", path)

        told: list[dict[str, Any]] = [json.loads(each.out) for each in (live, offline)]
        assert [0, 0] == [live.code, offline.code]
        assert ["", ""] == [live.err, offline.err]
        # A live fleet's picture goes on until now, a recording's to its last message.
        ends = [each.pop("ends") for each in told]
        areas = [each.pop("unavailableNodeMilliseconds") for each in told]
        assert told[0] == told[1]
        assert ends[1] <= ends[0]
        assert areas[1] <= areas[0]
        values = {
            name: [point["value"] for point in curve["points"]]
            for name, curve in told[0]["curves"].items()
        }
        assert [14, 2] == values["desired"]
        assert [0, 14, 13, 2] == values["ready"]
        assert [14, 0, 1, 0] == values["unavailable"]
        assert ["set applied, generation 1", "generation 2, new template", "12 nodes lost"] == [
            each["text"] for each in told[0]["marks"]
        ]
        assert {"generation": 2, "newTemplate": True}.items() <= told[0]["marks"][1].items()

    async def test_a_part(self, written: WrittenFleet, tmp_path: Path) -> None:
        """What held before --since is where the curves begin, live and in a recording; after --until is nothing."""
        await write_a_life(written)
        begins_ms = await last_ms(written) + 1
        while await last_ms(written) <= begins_ms + 1:
            await written.write(status(2, 1), status(2, 2))
        path = tmp_path / "r"
        assert 0 == (await written("record", "-o", str(path))).code
        moment = f"{timestamp(begins_ms)[:-1]}.{begins_ms % 1000:03}Z"

        live = await written("timeline", "ds", "agent", "--since", moment, "-o", "json")
        offline = await written(
            "timeline", "ds", "agent", "--since", moment, "-o", "json", "--recording", str(path)
        )
        before = await written("timeline", "ds/agent", "--until", moment, "-o", "json")

        for each in (json.loads(live.out), json.loads(offline.out)):
            assert (moment, []) == (each["begins"], each["marks"])
            assert [{"time": moment, "value": 2}] == each["curves"]["desired"]["points"]
        until = json.loads(before.out)
        assert moment == until["ends"]
        assert all(
            point["time"] <= moment
            for curve in until["curves"].values()
            for point in curve["points"]
        )
        assert 3 == len(until["marks"])

    async def test_chart(self, written: WrittenFleet) -> None:
        """In a pipe: 80 columns without colour; the figures, and a table of what happened."""
        await write_a_life(written)

        ended = await written("timeline", "ds/agent")

        rows = ended.out.splitlines()
        table = rows[rows.index("TIME                   WHAT") :]
        assert (0, "") == (ended.code, ended.err)
        assert "daemonset.apps/agent in namespace default: " in rows[0]
        figures = {row.split()[0]: row.split()[-3:] for row in rows[1:20] if row[:1] > " "}
        assert ["2", "14", "2"] == figures["desired"]
        assert ["0", "14", "0"] == figures["unavailable"]
        assert [
            "set applied, generation 1",
            "generation 2, new template",
            "12 nodes lost",
        ] == [row.split("   ")[1] for row in table[1:]]
        assert "\x1b" not in ended.out
        assert max(map(len, rows)) <= 80

    async def test_svg(self, written: WrittenFleet, tmp_path: Path) -> None:
        """--svg writes a picture beside what is printed, and replaces a file only if it may."""
        await write_a_life(written)
        path = tmp_path / "agent.svg"
        words = ("timeline", "ds/agent", "--svg", str(path))

        first = await written(*words)
        drawn = path.read_text()
        path.write_text("mine")
        second = await written(*words)
        kept = path.read_text()
        third = await written(*words, "--force")

        assert [0, 1, 0] == [each.code for each in (first, second, third)]
        assert "bytes of SVG" in first.err
        assert "TIME" in first.out
        assert "give --force to replace it" in second.err
        assert "" == second.out
        assert "mine" == kept
        assert "svg" in ET.fromstring(path.read_text()).tag  # noqa: S314 - it is ours
        assert "12 nodes lost" in drawn

    def test_a_fleet_that_lives(self, fleet_up: Everynode, tmp_path: Path) -> None:
        """What workers write is shown: the set is covered, and a node that is lost is marked."""
        words = ("timeline", "ds/fluentd", "-n", "logging")
        lost = fleet_up("get", "nodes", "-o", "name").out.splitlines()[-1].split("/")[1]
        fleet_up("simulate", "delete-node", lost)
        fleet_up.until(*words, holds=lambda out: "1 node lost" in out)
        path = tmp_path / "r"
        fleet_up("record", "-o", path)

        told = [
            json.loads(fleet_up(*words, "-o", "json", *more).out)
            for more in ((), ("--recording", path))
        ]

        first = told[0]["curves"]
        assert told[0]["marks"][:3] == told[1]["marks"][:3]
        assert first["desired"]["max"] == first["ready"]["max"] > 0
        assert {"set applied", "nodes lost", "decisions"} <= {
            each["kind"] for each in told[0]["marks"]
        }
        creates = sum(each.get("creates", 0) for each in told[0]["marks"])
        assert creates >= first["desired"]["max"]

    def test_what_was_kept_is_from_before(self, everynode: Everynode, tmp_path: Path) -> None:
        """What STATE had is where the curves begin, also if STATE took it in later: it was made anew."""
        path = tmp_path / "r"
        subjects = Subjects("f", 1)
        with path.open("wb") as file:
            writer = Writer(file, header(from_ms=100_000))
            for time_ms, message, is_kept in (
                (500_000, DaemonSetObserved(daemonset=daemonset()), True),
                (500_000, status(3, 1), True),
                (120_000, status(3, 2), False),
            ):
                writer.write(entry_of(subjects, 1, time_ms, message, is_kept=is_kept))
            writer.finish()

        told = json.loads(everynode("timeline", "ds/agent", "--recording", path, "-o", "json").out)

        assert [] == told["marks"]
        assert [
            {"time": "1970-01-01T00:01:40.000Z", "value": 1},
            {"time": "1970-01-01T00:02:00.000Z", "value": 2},
        ] == told["curves"]["ready"]["points"]
        assert 20_000 * 2 == told["unavailableNodeMilliseconds"]


class TestRefused:
    """What cannot be shown is said, with what to do."""

    async def test_sets_that_are_not_there(self, written: WrittenFleet, tmp_path: Path) -> None:
        """The sets that there are, are named, ten of them."""
        path = tmp_path / "r"
        sets = [daemonset(name=f"agent-{number:02}") for number in range(12)]
        await written.write(*(DaemonSetObserved(daemonset=each) for each in sets))
        await written("record", "-o", str(path))

        live = await written("timeline", "ds/agent")
        offline = await written("timeline", "ds/agent", "--recording", str(path))

        for each in (live, offline):
            assert (1, "") == (each.code, each.out)
            assert 'daemonsets "agent" not found in namespace default' in each.err
            assert "default/agent-00, " in each.err
            assert "default/agent-09 and 2 more" in each.err

    async def test_an_empty_log(self, written: WrittenFleet) -> None:
        """There is no set at all."""
        ended = await written("timeline", "ds/agent")

        assert 1 == ended.code
        assert ended.err.endswith(": none\n")

    async def test_times_from_which_there_is_nothing(
        self, written: WrittenFleet, tmp_path: Path
    ) -> None:
        """Before the first status, before the log, after the recording; and times that contradict each other."""
        path = tmp_path / "r"
        await written.write(DaemonSetObserved(daemonset=daemonset()))
        no_status = await written("timeline", "ds/agent")
        await written.write(status(3, 3))
        await written("record", "-o", str(path))

        early = await written("timeline", "ds/agent", "--until", "2001-01-01T00:00:00Z")
        offline = ("timeline", "ds/agent", "--recording", str(path))
        late = await written(*offline, "--since", "0s", "--until", LATER)
        turned = await written("timeline", "ds/agent", "--since", "1h", "--until", "2h")

        future = await written("timeline", "ds/agent", "--until", LATER, "-o", "json")
        to_stdout = await written("timeline", "ds/agent", "--svg", "-")

        assert [1, 1, 1, 2] == [each.code for each in (no_status, early, late, turned)]
        assert json.loads(future.out)["ends"] < LATER
        assert (2, "") == (to_stdout.code, to_stdout.out)
        assert "had reported a status of daemonset default/agent" in no_status.err
        assert "it begins at " in early.err
        assert "it ends at " in late.err
        assert "--since must be before --until" in turned.err

    async def test_files_and_names(
        self, written: WrittenFleet, everynode: Everynode, tmp_path: Path
    ) -> None:
        """A recording that is not there; one that ends too early is shown as far as it goes; several sets."""
        whole, cut = tmp_path / "whole", tmp_path / "cut"
        await write_a_life(written)
        await written("record", "-o", str(whole))
        with whole.open("rb") as file, cut.open("wb") as shorter:
            reader = Reader(file, "whole")
            writer = Writer(shorter, reader.header)
            for entry in list(reader.entries())[:-13]:
                writer.write(entry)
            writer.flush()
        words = ("timeline", "ds/agent", "--recording")

        none = everynode(*words, tmp_path / "none")
        damaged = everynode(*words, cut, "-o", "json")
        several = everynode("timeline", "ds", "a", "b")

        assert [1, 1, 2] == [each.code for each in (none, damaged, several)]
        assert "no such file" in none.err
        assert "name one set" in several.err
        assert "it ends before its last line" in damaged.err
        assert 13 == json.loads(damaged.out)["curves"]["ready"]["last"]

    def test_a_recording_with_nothing_to_show(self, everynode: Everynode, tmp_path: Path) -> None:
        """Of one that is damaged before the set is told of, the damage is said."""
        path = tmp_path / "cut"
        with path.open("wb") as file:
            Writer(file, header(from_ms=1)).flush()

        ended = everynode("timeline", "ds/agent", "--recording", path)

        assert (1, "") == (ended.code, ended.out)
        assert "it ends before its last line" in ended.err
