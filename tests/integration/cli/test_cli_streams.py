"""`everynode replay --from`: what others recorded, as people open it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from benchmarks.traces import machine_events
from tests.unit.support_sources import api_list, at, daemonset, node, pod, watch

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode

CSV = ("--from", "csv", "--map", "time=0,machine=1,event=2,platform=3,cpu=4,memory=5")
KUBECTL = ("--from", "kubectl")
GOLDEN = Path("tests/recordings/failing.everynode")


@pytest.fixture
def watched(tmp_path: Path) -> list[Path]:
    """Two files of kubectl's: nodes, and sets with their pods."""
    nodes, rest = tmp_path / "nodes.json", tmp_path / "rest.json"
    nodes.write_text(
        watch(
            ("ADDED", node("a", 1)),
            ("MODIFIED", node("a", 6, labels={"disk": "ssd"}, changed=60)),
            ("ADDED", node("b", 7, made=120)),
            ("MODIFIED", node("b", 8, made=120, changed=121)),
        )
    )
    told = daemonset("agent", 2)
    told["status"] = {"desiredNumberScheduled": 1, "numberReady": 1}
    rest.write_text(api_list(told, pod("p", 3, made=1)))
    return [nodes, rest]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Machine events."""
    path = tmp_path / "machine_events.csv"
    path.write_text("".join(machine_events(machines=40, days=29)))
    return path


class TestKubectl:
    """Files of kubectl's."""

    def test_at_a_time(self, everynode: Everynode, watched: list[Path]) -> None:
        """The fleet as it was then, and as it was in the end."""
        then = everynode("replay", *KUBECTL, *watched, "--at", at(61))
        end = everynode("replay", *KUBECTL, *watched, "--at", "0s")
        names = json.loads(
            everynode("replay", *KUBECTL, *watched, "--at", at(61), "-o", "json").out
        )

        assert [0, 0] == [then.code, end.code]
        assert then.out.endswith("1 nodes, 1 pods\n")
        assert end.out.endswith("2 nodes, 1 pods\n")
        header, row = (line.split() for line in then.out.splitlines()[:2])
        told = dict(zip(header, row, strict=False))
        assert ("agent", "1", "1") == (told["NAME"], told["DESIRED"], told["READY"])
        assert "fleet kubectl at 2024-05-06T07:01:00Z" in then.err
        assert ["a", "agent", "p"] == [each["metadata"]["name"] for each in names["items"]]

    def test_what_would_be_decided(self, everynode: Everynode, watched: list[Path]) -> None:
        """Without --at, what everynode would have done there."""
        said = everynode("replay", *KUBECTL, *watched)

        assert 0 == said.code
        assert "NodeHasNoPod" in said.out
        assert ["default/agent", "2", "2"] == [
            each
            for place, each in enumerate(said.out.splitlines()[-1].split())
            if place in {0, 5, 6}
        ]

    def test_stdin(self, everynode: Everynode, watched: list[Path]) -> None:
        """`-` is stdin, also among files."""
        said = everynode(
            "replay", *KUBECTL, watched[1], "-", "--at", "0s", stdin=watched[0].read_text()
        )

        assert (0, True) == (said.code, said.out.endswith("2 nodes, 1 pods\n"))

    def test_what_is_wrong_is_said(self, everynode: Everynode, tmp_path: Path) -> None:
        """One line for each thing that cannot be used; everything else is there, and the exit code is 1."""
        path = tmp_path / "mixed"
        status = {"kind": "Status", "message": "too old resource version"}
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
        path.write_text(watch(("ADDED", node("a", 1)), ("ERROR", status), ("ADDED", service)))

        said = everynode("replay", *KUBECTL, path, "--at", "0s")

        assert 1 == said.code
        assert "1 nodes, 0 pods" in said.out
        assert [
            f"error: {path}: line 2: the watch ended with an error: too old resource version",
            f"note: {path}: objects of no concern: 1 Service",
            f"note: {path}: its last message is of 2024-05-06T07:00:00Z",
            "note: fleet kubectl at 2024-05-06T07:00:00Z, sequence 1",
            f"error: {path}: 1 passed over that could not be used",
        ] == said.err.splitlines()

    def test_files_that_cannot_be_read(self, everynode: Everynode, watched: list[Path]) -> None:
        """One that was cut off is shown up to there; an empty one, a recording, one that is not there, a directory."""
        cut = watched[0].with_name("cut")
        cut.write_bytes(watched[0].read_bytes()[:-9])
        empty = watched[0].with_name("empty")
        empty.touch()
        for path, words in (
            (cut, "line 4: what begins here has no end: the file was cut off; 3 documents"),
            (empty, "it is empty"),
            (
                GOLDEN,
                "it is compressed with zstd; if it is a recording of a fleet, leave out --from",
            ),
            (watched[0].with_name("none"), "there is no such file"),
            (watched[0].parent, "there is no such file"),
        ):
            said = everynode("replay", *KUBECTL, path, "--at", "0s")
            shown = "2 nodes, 0 pods" if path == cut else ""
            assert (1, shown) == (said.code, "".join(said.out.splitlines()[-1:]))
            assert f"error: {path}: {words}" in said.err

        early = everynode("replay", *KUBECTL, cut, "--at", at(59))
        assert (0, True) == (early.code, "1 nodes" in early.out)

    def test_before_the_beginning(self, everynode: Everynode, watched: list[Path]) -> None:
        """Nothing is known of it."""
        said = everynode("replay", *KUBECTL, watched[0], "--at", "2001-01-01T00:00:00Z")

        assert (1, "") == (said.code, said.out)
        assert f"{watched[0]}: it begins at 2024-05-06T07:00:00Z; nothing is known of" in said.err


class TestCsv:
    """Machine events."""

    def test_at_a_time(self, everynode: Everynode, trace: Path) -> None:
        """Nodes with their labels; the sets are those of manifests."""
        words = ("replay", trace, *CSV, "--at", "2011-05-01T00:00:00Z")
        said = everynode(*words)
        with_set = everynode(*words, "-f", "deploy/examples/node-exporter.yaml", "-o", "json")

        assert (0, True) == (said.code, said.out.endswith("40 nodes, 0 pods\n"))
        items = json.loads(with_set.out)["items"]
        labels = items[0]["metadata"]["labels"]
        assert {"cpu", "memory", "platform", "kubernetes.io/hostname", "kubernetes.io/os"} == set(
            labels
        )
        assert ["DaemonSet"] == [each["kind"] for each in items if each["kind"] != "Node"]

    def test_what_would_be_decided(self, everynode: Everynode, trace: Path) -> None:
        """Each machine gets a pod of the manifest's set."""
        words = ("-f", "deploy/examples/node-exporter.yaml", "--until", "2011-05-01T00:01:00Z")
        said = everynode("replay", trace, *CSV, *words)

        assert 0 == said.code
        name, *_, desired, ready = said.out.splitlines()[-1].split()
        assert ("monitoring/node-exporter", "40", "40") == (name, desired, ready)

    def test_the_epoch_and_the_unit(self, everynode: Everynode, tmp_path: Path) -> None:
        """They say when it was."""
        path = tmp_path / "t.csv"
        path.write_text("at,id,what\n60,1,add\n")
        said = everynode(
            *("replay", path, "--from", "csv", "--map", "time=at,machine=id,event=what"),
            *("--time-unit", "s", "--epoch", "2024-05-06T07:00:00Z", "--at", "0s"),
        )

        assert "at 2024-05-06T07:01:00Z, sequence 1" in said.err

    def test_rows_that_cannot_be_used(self, everynode: Everynode, tmp_path: Path) -> None:
        """The first are named, all are counted, and the others are used."""
        path = tmp_path / "t.csv"
        path.write_text("0,1,add,,,\n" + "1,1,add,,,\n" * 20 + "2,2,add,,,\n")
        said = everynode("replay", path, *CSV, "--at", "0s")

        assert (1, True) == (said.code, said.out.endswith("2 nodes, 0 pods\n"))
        assert 10 == said.err.count('machine "1" is there already')
        assert "and more, which are only counted" in said.err
        assert f"error: {path}: 20 passed over that could not be used" in said.err

    def test_manifests_that_cannot_be_used(self, everynode: Everynode, trace: Path) -> None:
        """They are named; the nodes are there, and the exit code is 1."""
        said = everynode("replay", trace, *CSV, "-f", "nowhere.yaml", "--at", "0s")

        assert (1, True) == (said.code, said.out.endswith(" nodes, 0 pods\n"))
        assert "nowhere.yaml: there is no such file" in said.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--from", "etcd"), "'etcd': there are recording, csv, kubectl"),
        (("--from", "kubectl", "--verify"), "nobody of ours decided there"),
        (("--from", "csv", "--map", "time=0,machine=1,event=2"), "have no DaemonSets"),
        (("another",), "a recording is one file"),
        (("--at", "1h", "--until", "1h"), "leave out --until and --verify"),
        (("--at", "1h", "--verify"), "leave out --until and --verify"),
        (("--fleet", "other"), "nothing is asked of a server without --speed"),
        (("--what-if", "x", "--nats", "x"), "nothing is asked of a server without --speed"),
        (("--epoch", "1h"), "it says when the rows of a CSV file were; --from is recording"),
        (("--from", "kubectl", "--time-unit", "s"), "--from is kubectl"),
    ],
)
def test_options(everynode: Everynode, words: tuple[str, ...], text: str) -> None:
    """Options that do not go together are wrong usage."""
    said = everynode("replay", "file", *words)

    assert 2 == said.code
    assert text in " ".join(said.err.replace("│", " ").split())
