"""`everynode record` and `everynode replay`, on a fleet that lives."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard
from msgspec import structs
from tests.recordings.make import DIRECTORY

from everynode.replay.recording import Entry, Reader, Writer

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode, Running, WrittenFleet

GOLDEN = DIRECTORY / "failing.everynode"


def text_of(path: Path) -> str:
    """What a recording says."""
    with (
        path.open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream,
    ):
        return stream.read().decode()


def golden() -> Reader:
    """Open one of the golden recordings."""
    return Reader(io.BytesIO(GOLDEN.read_bytes()), GOLDEN.name)


def write(path: Path, entries: list[Entry], *, finish: bool = True) -> None:
    """Write a recording of these messages; without an end if it is not finished."""
    with path.open("wb") as file:
        writer = Writer(file, golden().header)
        for entry in entries:
            writer.write(entry)
        writer.flush()
        if finish:
            writer.finish()


def recorded(everynode: Everynode, path: Path, *options: str) -> str:
    """Record; returns the text."""
    ended = everynode("record", "-o", path, *options)
    assert (ended.code, ended.out) == (0, "")
    assert "messages of fleet default" in ended.err
    return text_of(path)


def sequences(path: Path) -> list[int]:
    """The sequences of a recording, without what stands before its part of the log."""
    with path.open("rb") as file:
        entries = Reader(file, path.name).entries()
        return [each.received.sequence for each in entries if not each.is_kept]


class TestRecord:
    """`record` and what `replay` makes of it."""

    def test_verify(self, fleet_up: Everynode, tmp_path: Path) -> None:
        """S7: a fleet that was covered is decided again, to the byte; env values are there only if they may be."""
        plain, hidden = tmp_path / "plain", tmp_path / "hidden"
        assert "DD_API_KEY" in recorded(fleet_up, plain)
        text = recorded(fleet_up, hidden, "--redact", "env")

        told = [fleet_up("replay", path, "--verify") for path in (plain, hidden)]

        assert [0, 0] == [each.code for each in told]
        assert ["", ""] == [each.err for each in told]
        assert all("decided again, all the same to the byte" in each.out for each in told)
        values = [
            variable.get("value", "redacted-")
            for line in map(json.loads, text.splitlines())
            if (line.get("body") or {}).get("kind") == "RevisionRecorded"
            for container in line["body"]["revision"]["template"]["spec"]["containers"]
            for variable in container.get("env", ())
        ]
        assert len(values) > 5
        assert {"redacted-"} == {value[:9] for value in values}

    def test_a_part(self, fleet_up: Everynode, tmp_path: Path) -> None:
        """A part of the log has what stands before it, so that it can be decided again; that is not compared."""
        whole, part = tmp_path / "whole", tmp_path / "part"
        recorded(fleet_up, whole)
        until = sequences(whole)[-20]
        recorded(fleet_up, part, "--from-seq", "200", "--to-seq", str(until))

        said = fleet_up("replay", part, "--verify", "-o", "json")

        verdict = json.loads(said.out)
        with part.open("rb") as file:
            assert 200 == Reader(file, "part").header.from_sequence
        assert until == sequences(part)[-1]
        assert verdict["same"]
        assert 0 < verdict["again"] < verdict["decisions"]
        assert verdict["outOfReach"] == verdict["decisions"] - verdict["again"]

    def test_decisions(self, fleet_up: Everynode, tmp_path: Path) -> None:
        """What is decided is printed as a table, or as the messages themselves."""
        path = tmp_path / "r"
        recorded(fleet_up, path)

        table = fleet_up("replay", path)
        documents = json.loads(fleet_up("replay", path, "-o", "json").out)

        rows = [line.split() for line in table.out.splitlines()]
        assert ["SEQUENCE", "TIME", "DAEMONSET", "CREATES"] == rows[0][:4]
        assert len(documents) == len(rows) - 1
        assert {"kube-system/cni-agent"} < {row[2] for row in rows[1:]}
        assert "Decision" == documents[0]["messages"][0]["kind"]

    def test_the_fleet_as_it_was(self, fleet_up: Everynode, tmp_path: Path) -> None:
        """--at shows nodes, sets and pods as they were: all of them now; before the beginning nothing is known."""
        path = tmp_path / "r"
        recorded(fleet_up, path)

        now = fleet_up("replay", path, "--at", "0s")
        before = fleet_up("replay", path, "--at", "2001-01-01T00:00:00Z")

        assert "20 nodes" in now.out
        assert "fluentd" in now.out
        assert (1, "") == (before.code, before.out)
        assert f"{path}: it begins at " in before.err

    def test_follow(
        self, fleet_up: Everynode, start: Callable[..., Running], tmp_path: Path
    ) -> None:
        """--follow goes on; what it has written can be read meanwhile, and it is complete when it is stopped."""
        path = tmp_path / "r"
        running = start("record", "-o", str(path), "--follow", address=fleet_up.address)
        node = fleet_up("get", "nodes", "-o", "name").out.splitlines()[0].split("/")[1]

        def read() -> str:
            return text_of(path) if path.exists() else ""

        fleet_up.until(
            "simulate", "label-node", node, "replayed=yes", holds=lambda _: '"replayed"' in read()
        )
        meanwhile = fleet_up("replay", path)
        code = running.stop()

        assert 1 == meanwhile.code
        assert "is still being written" in meanwhile.err
        assert 0 == code
        assert 0 == fleet_up("replay", path, "--verify").code


class TestVerify:
    """Recordings that are not as they were, or only a part of them."""

    def test_another_decision(self, everynode: Everynode, tmp_path: Path) -> None:
        """The first is shown, with both sides, what was known, and the commands that were on their way."""
        path = tmp_path / "r"
        entries = list(golden().entries())
        place, sequence = next(
            (place, entry.received.sequence)
            for place, entry in enumerate(entries)
            if b'"deletes":1' in entry.received.payload
        )
        changed = entries[place].received.payload.replace(b'"deletes":1', b'"deletes":7')
        entries[place] = structs.replace(
            entries[place], received=structs.replace(entries[place].received, payload=changed)
        )
        write(path, entries)

        said = everynode("replay", path, "--verify")
        verdict = json.loads(everynode("replay", path, "--verify", "-o", "json").out)

        assert (1, "") == (said.code, said.err)
        assert f"decision {sequence} about default/agent is another one now" in said.out
        assert "counts.deletes: was 7, is now 1" in said.out
        assert "8 pods: 7 ready, 8 of that revision; 0 to adopt" in said.out
        assert (False, sequence) == (verdict["same"], verdict["difference"]["sequence"])
        assert [{"field": "counts.deletes", "was": "7", "isNow": "1"}] == verdict["difference"][
            "fields"
        ]
        assert (8, 8, 7) == tuple(
            verdict["difference"]["known"][name] for name in ("nodes", "pods", "ready")
        )

    def test_a_part_of_it(self, everynode: Everynode, tmp_path: Path) -> None:
        """What stands before the place at which a file was cut off is decided again and shown."""
        path = tmp_path / "r"
        write(path, list(golden().entries()), finish=False)

        told = [everynode("replay", path, *words) for words in (("--verify",), (), ("--at", "0s"))]

        assert [1, 1, 1] == [each.code for each in told]
        assert all("it was cut off, or is still being written" in each.err for each in told)
        assert "all the same to the byte" in told[0].out
        verdict = json.loads(everynode("replay", path, "--verify", "-o", "json").out)
        assert (False, None) == (verdict["same"], verdict["difference"])
        assert ["cut off" in each for each in verdict["problems"]] == [True]
        assert "PodFailed" in told[1].out
        assert "9 nodes" in told[2].out
        assert f"note: {path}: its last message is of 1970-01-01T" in told[2].err


class TestRefused:
    """What cannot be done is said, with what to do."""

    def test_files(self, fleet_up: Everynode, tmp_path: Path) -> None:
        """Files that are there, that are not, that are none and that are damaged."""
        path, cut = tmp_path / "r", tmp_path / "cut"
        recorded(fleet_up, path)
        cut.write_bytes(path.read_bytes()[:-20])
        (tmp_path / "text").write_text("hello")

        ended = [
            fleet_up("record", "-o", path),
            fleet_up("replay", tmp_path / "none"),
            fleet_up("replay", tmp_path / "text"),
            fleet_up("replay", cut, "--verify"),
        ]

        assert [1, 1, 1, 1] == [each.code for each in ended]
        for each, words in zip(
            ended,
            ("give --force", "no such file", "no recording", "could be read, up to"),
            strict=True,
        ):
            assert words in each.err
        assert 0 == fleet_up("record", "-o", path, "--force").code

    def test_options(self, fleet_up: Everynode, tmp_path: Path) -> None:
        """Options that contradict each other, and times that are none."""
        path = str(tmp_path / "r")
        for words in (
            ("--since", "1h", "--from-seq", "1"),
            ("--until", "1h", "--to-seq", "1"),
            ("--follow", "--to-seq", "1"),
            ("--since", "yesterday"),
            ("--since", "2024-05-06T07:08:09"),
        ):
            assert 2 == fleet_up("record", "-o", path, *words).code, words

    async def test_nothing_there(self, written: WrittenFleet, tmp_path: Path) -> None:
        """A log without messages, or without any at that time."""
        ended = await written("record", "-o", str(tmp_path / "r"))

        assert 1 == ended.code
        assert "has no messages there" in ended.err
        assert not (tmp_path / "r").exists()
