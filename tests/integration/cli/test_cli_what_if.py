"""`everynode replay --what-if` on what a fleet that lived was recorded to do, and `replay` of what others recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
import yaml

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Ended, Everynode

NODES = 20
SET = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: rolled}}
spec:
  selector: {{matchLabels: {{app: {app}}}}}
  minReadySeconds: 1
  updateStrategy: {{type: RollingUpdate, rollingUpdate: {{{budget}}}}}
  template:
    metadata: {{labels: {{app: {app}}}}}
    spec:
      containers: [{{name: main, image: "example.com/rolled:{version}", env: [{{name: KEY, value: open-sesame}}]}}]
      tolerations: [{{operator: Exists}}]
"""
TRACE = "".join(
    f"{second}000000,{machine},{what}\n"
    for second, machine, what in (
        *((0, machine, 0) for machine in range(6)),
        (60, 2, 1),
        (120, 2, 0),
    )
)
MAP = ("--from", "csv", "--map", "time=0,machine=1,event=2")


def manifest(version: int = 2, budget: str = "maxUnavailable: 50%", app: str = "rolled") -> str:
    """Write the set."""
    return SET.format(version=version, budget=budget, app=app)


class Recorded:
    """A fleet's past in files: as it was, and without what was in its environment variables."""

    def __init__(self, directory: Path, everynode: Everynode) -> None:
        """Nothing is asked yet."""
        self.directory = directory
        self.plain, self.redacted = directory / "plain", directory / "redacted"
        self.part = directory / "part"
        self._everynode = everynode

    def what_if(self, text: str, *options: str | Path, recording: Path | None = None) -> Ended:
        """Ask what would have been."""
        path = self.directory / "instead.yaml"
        path.write_text(text)
        return self._everynode("replay", recording or self.plain, "--what-if", path, *options)

    def document(self, text: str, recording: Path | None = None) -> dict[str, Any]:
        """Ask for the one set's numbers."""
        ended = self.what_if(text, "-o", "json", recording=recording)
        assert (0, "") == (ended.code, ended.err)
        [document] = json.loads(ended.out)
        found: dict[str, Any] = document
        return found


@pytest.fixture(scope="module")
def recorded(fleet_up: Everynode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """A fleet that was covered with a set, which was then rolled out in two halves."""
    found = Recorded(tmp_path_factory.mktemp("what-if"), fleet_up)
    for version in (1, 2):
        assert 0 == fleet_up("apply", "-f", "-", stdin=manifest(version)).code
        assert 0 == fleet_up("rollout", "status", "ds/rolled", "--timeout", "60s").code
    for path, options in ((found.plain, ()), (found.redacted, ("--redact", "env"))):
        assert 0 == fleet_up("record", "-o", path, *options).code
    sequence = found.document(manifest())["sequence"]
    assert 0 == fleet_up("record", "-o", found.part, "--from-seq", str(sequence)).code
    yield found
    fleet_up("delete", "ds/rolled")


class TestWhatIf:
    """What would have been."""

    def test_nothing_else(self, recorded: Recorded) -> None:
        """With what was asked for then, it goes as it went: the same commands, and it takes time again."""
        document = recorded.document(manifest())
        was, instead = document["was"], document["whatIf"]

        assert {"same": 2 * NODES, "onlyWas": 0, "onlyWhatIf": 0} == document["commands"]
        for name in ("podsMade", "podsRemoved", "podsReplaced", "desired", "ready", "updated"):
            assert NODES == was[name] == instead[name], name
        for name in ("rolledOutMilliseconds", "unavailableNodeMilliseconds"):
            assert was[name] > 0 < instead[name], name
        assert ("recorded", 2, True) == tuple(
            document[name] for name in ("baseline", "replacedGeneration", "changes")
        )
        assert "generation 2, as it was asked for\n" in recorded.what_if(manifest()).out

    def test_a_part(self, recorded: Recorded) -> None:
        """Of the log from the change on, the same can be said as of all of it."""
        assert recorded.document(manifest()) == recorded.document(manifest(), recorded.part)

    def test_another_strategy(self, recorded: Recorded, tmp_path: Path) -> None:
        """A table, a chart and a picture: less unavailable at once, and it takes longer."""
        picture = tmp_path / "a.svg"
        ended = recorded.what_if(manifest(budget="maxUnavailable: 2"), "--svg", picture)
        document = recorded.document(manifest(budget="maxUnavailable: 2"))

        assert 0 == ended.code
        assert "another spec in the place of generation 2" in ended.out
        rows = {line[:25].strip(): line[25:].split() for line in ended.out.splitlines()}
        assert "RECORDED   WHAT IF" in ended.out
        assert [str(NODES), str(NODES)] == rows["pods made"]
        assert ["10", "2"] == rows["most unavailable at once"]
        assert f"commands: {2 * NODES} the same, 0 only recorded, 0 only what if" in ended.out
        assert "the first decisions that differ" in ended.out
        labels = [each.text for each in ET.parse(picture).iter() if each.text]  # noqa: S314 - our own
        assert {
            "default/rolled unavailable, recorded",
            "default/rolled unavailable, what if",
        } <= set(labels)
        unchanged = recorded.document(manifest())["whatIf"]
        assert unchanged["rolledOutMilliseconds"] < document["whatIf"]["rolledOutMilliseconds"]
        assert 2 == max(point["value"] for point in document["whatIf"]["curves"]["unavailable"])

        again = recorded.what_if(manifest(), "--svg", picture)
        assert 1 == again.code
        assert "it is there already" in again.err

    def test_redacted(self, recorded: Recorded) -> None:
        """Whoever has the manifest with its values finds the pods that were made from it, under their names."""
        document = recorded.document(manifest(), recording=recorded.redacted)
        assert {"same": 2 * NODES, "onlyWas": 0, "onlyWhatIf": 0} == document["commands"]
        before = recorded.document(manifest(version=1), recording=recorded.redacted)
        assert 0 == before["whatIf"]["podsMade"]

    def test_a_set_that_was_not_there(self, recorded: Recorded) -> None:
        """It is made where the recording begins."""
        ended = recorded.what_if(manifest().replace("name: rolled}", "name: new}"))
        assert 0 == ended.code
        assert "a change in addition" in ended.out


class TestRefused:
    """What cannot be done is said."""

    def test_manifests(self, recorded: Recorded) -> None:
        """None, bad ones, and one that changes what cannot be changed; a good one beside a bad one is shown."""
        bad = manifest().replace("kind: DaemonSet", "kind: DaemonSet\nspec: 7")
        for text, words in (
            ("", "there is no DaemonSet"),
            ("a: b: c", "instead.yaml"),
            (manifest(app="other"), "cannot be changed"),
        ):
            ended = recorded.what_if(text)
            assert (1, "") == (ended.code, ended.out), text
            assert words in ended.err
        both = recorded.what_if(f"{bad}---\n{manifest()}")
        assert 1 == both.code
        assert "RECORDED" in both.out

    def test_damaged(self, recorded: Recorded) -> None:
        """What can be read is looked at, and it is said how far that is."""
        cut = recorded.directory / "cut"
        cut.write_bytes(recorded.plain.read_bytes()[:-100])
        ended = recorded.what_if(manifest(), recording=cut)
        assert 1 == ended.code
        assert "could be read, up to sequence" in ended.err

    def test_usage(self, recorded: Recorded, everynode: Everynode) -> None:
        """Options that do not go together, and what cannot be read twice."""
        for words in (("--verify",), ("--at", "0s")):
            assert 2 == recorded.what_if(manifest(), *words).code, words
        assert 2 == everynode("replay", recorded.plain, "--svg", "x.svg").code
        instead = recorded.directory / "instead.yaml"
        assert 2 == everynode("replay", "-", "--what-if", instead).code


class TestOthers:
    """What others recorded."""

    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        """A trace of machines, and the set."""
        trace, wanted = tmp_path / "trace.csv", tmp_path / "set.yaml"
        trace.write_text(TRACE)
        wanted.write_text(manifest(1))
        return trace, wanted

    def test_replay(self, everynode: Everynode, files: tuple[Path, Path]) -> None:
        """What would have been decided: as a table with sums, and the same as documents."""
        trace, wanted = files
        table, as_json, as_yaml = (
            everynode("replay", *MAP, trace, "-f", wanted, *options)
            for options in ((), ("-o", "json"), ("-o", "yaml"))
        )

        assert [0, 0, 0] == [each.code for each in (table, as_json, as_yaml)]
        documents = json.loads(as_json.out)
        assert documents == yaml.safe_load(as_yaml.out)
        rows = [line.split() for line in table.out.splitlines()]
        assert ["SEQUENCE", "TIME", "DAEMONSET", "CREATES"] == rows[0][:4]
        assert len(documents) == rows.index([]) - 1
        assert ["default/rolled", str(len(documents)), "7", "1", "0", "6", "6"] == rows[-1]
        kinds = [each["kind"] for document in documents for each in document["messages"]]
        assert (7, 1) == (kinds.count("CreatePod"), kinds.count("DeletePod"))

    def test_what_if(self, everynode: Everynode, files: tuple[Path, Path]) -> None:
        """Compared with what would have been decided without the change."""
        trace, wanted = files
        instead = wanted.with_name("instead.yaml")
        instead.write_text(manifest(1) + "      nodeSelector: {no: where}\n")
        ended = everynode("replay", *MAP, trace, "-f", wanted, "--what-if", instead)
        assert 0 == ended.code
        assert "UNCHANGED   WHAT IF" in ended.out
        assert "commands: 0 the same, 8 only unchanged, 0 only what if" in ended.out
