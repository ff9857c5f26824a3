"""`everynode up`: a fleet from nothing, what it says of it, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode, Running

EXAMPLES = "deploy/examples"
COUNTS = ("desired", "current", "ready", "updated", "available", "misscheduled")


def up_once(everynode: Everynode, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """Run `up --once -o json` and read its one object."""
    ended = everynode("up", "--once", "-o", "json", *arguments)
    assert ended.code == code, ended
    document: dict[str, Any] = json.loads(ended.out)
    return document


def test_up_covers_the_examples(everynode: Everynode) -> None:
    """L1: every eligible node gets its pod, no other node has one, and the report says so in one object."""
    report = up_once(everynode, EXAMPLES, "--nodes", "30")
    assert list(report) == [
        *("fleet", "nodes", "converged", "seconds", "daemonsets"),
        *("decisions", "commands", "rejected", "skipped"),
    ]
    assert report["converged"] is True
    assert (report["fleet"], report["nodes"]) == ("default", 30)
    assert len(report["daemonsets"]) == 5
    for each in report["daemonsets"]:
        assert list(each) == ["namespace", "name", *COUNTS]
        assert 0 < each["desired"] <= 30
        assert [each[count] for count in COUNTS] == [each["desired"]] * 5 + [0]
    wanted = sum(each["desired"] for each in report["daemonsets"])
    assert report["commands"] == {"create": wanted, "delete": 0}
    assert report["decisions"] >= 5
    assert report["rejected"] == []
    assert {each["kind"] for each in report["skipped"]} >= {"ServiceAccount", "ConfigMap"}


def test_up_without_manifests(everynode: Everynode) -> None:
    """Where nothing is wanted, all is covered."""
    ended = everynode("up", "--once", "--nodes", "3")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("0 DaemonSets on 3 nodes: all covered after")


def test_up_prints_a_plain_table(
    everynode: Everynode, tmp_path: Path, manifest: Callable[..., str]
) -> None:
    """In a pipe the result is plain text: a header, a row for each set, a sentence."""
    file = tmp_path / "a.yaml"
    file.write_text(manifest("a", namespace="x"), encoding="utf-8")
    ended = everynode("up", "--once", "--nodes", "8", file)
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out
    header, row, empty, sentence = ended.out.splitlines()
    assert header.split() == [
        *("NAMESPACE", "NAME", "DESIRED", "CURRENT", "READY"),
        *("UP-TO-DATE", "AVAILABLE", "MISSCHEDULED"),
    ]
    assert row.split()[:2] == ["x", "a"]
    assert row.split()[2:-1] == [row.split()[2]] * 5
    assert empty == ""
    assert sentence.startswith("1 DaemonSet on 8 nodes: all covered")


def test_a_refused_document_does_not_stop_the_others(
    everynode: Everynode, tmp_path: Path, manifest: Callable[..., str]
) -> None:
    """L3: what is refused is named with file, document and field, the rest is covered, and the exit code tells."""
    file = tmp_path / "several.yaml"
    wrong = manifest("wrong").replace("app: wrong}\n  updateStrategy", "app: x}\n  updateStrategy")
    config = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: c}\n"
    file.write_text("---\n".join([manifest("a"), wrong, config, manifest("b")]), encoding="utf-8")
    missing = tmp_path / "missing.yaml"
    ended = everynode("up", "--once", "-o", "json", "--nodes", "8", missing, file)
    assert ended.code == 1
    report = json.loads(ended.out)
    assert report["converged"] is True
    assert [each["name"] for each in report["daemonsets"]] == ["a", "b"]
    absent, refused = report["rejected"]
    assert (absent["file"], absent["document"]) == (str(missing), 0)
    assert (refused["file"], refused["document"]) == (str(file), 2)
    assert list(refused) == ["file", "document", "name", "errors"]
    assert refused["name"] == "wrong"
    (error,) = refused["errors"]
    assert error.startswith("spec.template.metadata.labels: ")
    assert [each["kind"] for each in report["skipped"]] == ["ConfigMap"]
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert f"{file}, document 2" in errors[1]
    notes = [line for line in ended.err.splitlines() if line.startswith("note: ")]
    assert notes == ["note: skipped 1, not a DaemonSet: ConfigMap c"]


def test_a_set_in_several_files(
    everynode: Everynode, tmp_path: Path, manifest: Callable[..., str]
) -> None:
    """Of several documents of one name the last counts, even if its selector is another; one line says so."""
    for position, version in enumerate(("1", "2", "3")):
        file = tmp_path / f"{position}.yaml"
        text = manifest("a", version=version).replace("app: a}", f"app: a{position}}}")
        file.write_text(text, encoding="utf-8")
    ended = everynode("up", "--once", "-o", "json", "--nodes", "4", tmp_path)
    assert ended.code == 0, ended.err
    (found,) = json.loads(ended.out)["daemonsets"]
    assert found["updated"] == found["desired"] > 0
    (warning,) = ended.err.splitlines()
    assert warning.startswith("warning: DaemonSet default/a is there 3 times")


def test_a_strategy_that_is_not_set_is_said(
    everynode: Everynode, tmp_path: Path, manifest: Callable[..., str]
) -> None:
    """Sets whose pods are not replaced by themselves because nobody said how are named in one line."""
    for name in ("a", "b"):
        text = manifest(name).replace("  updateStrategy: {type: OnDelete}\n", "")
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    ended = everynode("up", "--once", "--nodes", "2", tmp_path)
    assert ended.code == 0
    (note,) = ended.err.splitlines()
    assert note.startswith("note: default/a, default/b: update strategy not set")


def test_nodes_from_files(
    everynode: Everynode, tmp_path: Path, manifest: Callable[..., str]
) -> None:
    """L3: nodes are read from manifests; one that is wrong is refused, the others join and are covered."""
    nodes = tmp_path / "nodes.yaml"
    node = (
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n  labels: {{kubernetes.io/os: linux}}\n"
    )
    nodes.write_text(
        "---\n".join(node.format(name) for name in ("n1", "N_2", "n3")), encoding="utf-8"
    )
    sets = tmp_path / "a.yaml"
    sets.write_text(manifest("a"), encoding="utf-8")
    report = up_once(everynode, "--nodes-from", nodes, sets, code=1)
    assert (report["converged"], report["nodes"]) == (True, 2)
    assert [each["ready"] for each in report["daemonsets"]] == [2]
    (refused,) = report["rejected"]
    assert (refused["name"], refused["document"]) == ("N_2", 2)


def test_pods_that_never_become_ready(
    everynode: Everynode, tmp_path: Path, manifest: Callable[..., str]
) -> None:
    """When the time is over, the report says what there is, and the exit code that it is not enough."""
    file = tmp_path / "a.yaml"
    file.write_text(manifest("a", fate="hangs") + "---\n" + manifest("b"), encoding="utf-8")
    report = up_once(everynode, "--nodes", "5", "--timeout", "3", file, code=1)
    assert report["converged"] is False
    hanging, working = report["daemonsets"]
    assert hanging["ready"] == 0
    assert hanging["current"] == hanging["desired"] > 0
    assert working["ready"] == working["desired"] > 0


def test_a_log_that_is_kept(
    everynode: Everynode, tmp_path: Path, manifest: Callable[..., str]
) -> None:
    """L1: what was applied is in the log that is kept, and is covered anew by the next `up` on it."""
    file, kept = tmp_path / "a.yaml", tmp_path / "kept"
    file.write_text(manifest("a"), encoding="utf-8")
    before = up_once(everynode, "--nodes", "6", "--data", kept, file)
    after = up_once(everynode, "--nodes", "6", "--data", kept)
    assert after["daemonsets"] == before["daemonsets"]
    assert after["converged"] is True


def test_a_fleet_that_starts_anew(everynode: Everynode, tmp_path: Path) -> None:
    """Only an `up` on a log from before says that its pods are made again."""
    kept = tmp_path / "kept"
    first, second = (everynode("up", "--once", "--nodes", "2", "--data", kept) for _ in range(2))
    assert (first.code, second.code) == (0, 0)
    assert "starts anew" not in first.err
    assert second.err.count("starts anew") == 1


def test_no_nodes_at_all(everynode: Everynode, tmp_path: Path) -> None:
    """Where the files for the nodes have none, nothing is started."""
    file = tmp_path / "nodes.yaml"
    file.write_text("", encoding="utf-8")
    ended = everynode("up", "--once", "--nodes-from", file)
    assert ended == (1, "", f"error: {file}: has no v1 Node in it\n")


def test_help_about_the_server(everynode: Everynode) -> None:
    """`up` does not promise to look where the other commands look for the log."""
    text = " ".join(everynode("up", "--help").out.split())
    assert "a server of its own" in text
    assert "env: EVERYNODE_NATS)" not in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--nodes", "3", "--nodes-from", "x.yaml"), "not both"),
        (("-o", "json"), "--once"),
        (("--nats", "nats://127.0.0.1:1", "--data", "x"), "--nats"),
        (("--nodes", "-1"), "--nodes"),
        (("--nodes", "many"), "--nodes"),
    ],
)
def test_wrong_usage(everynode: Everynode, arguments: tuple[str, ...], reason: str) -> None:
    """What makes no sense is refused before anything is started."""
    ended = everynode("up", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert reason in ended.err


def listens(address: str) -> bool:
    """Say whether somebody listens at an address."""
    host, _, port = address.removeprefix("nats://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(start: Callable[..., Running], number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and a closed terminal end `up` well, and with it the server that it started."""
    running = start("up", "--nodes", "3")
    running.line("all covered")
    address = running.address()
    assert listens(address)
    assert running.stop(number) == 0
    assert not listens(address)
    assert running.err == []


def test_two_at_the_same_time(start: Callable[..., Running], everynode: Everynode) -> None:
    """A second `up` takes another port and says what to export so that other commands find it."""
    running = []
    for count in (2, 3):
        running.append(start("up", "--nodes", str(count)))
        running[-1].line("all covered")
    addresses = [each.address() for each in running]
    assert len(set(addresses)) == 2
    for count, each, address in zip((2, 3), running, addresses, strict=True):
        if not address.endswith(":4222"):
            each.line(f"export EVERYNODE_NATS={address}$")
        everynode.address = address
        assert len(everynode("get", "nodes", "-o", "name").out.splitlines()) == count


def test_it_shows_what_changes(
    start: Callable[..., Running], everynode: Everynode, manifest: Callable[..., str]
) -> None:
    """What other commands do to the fleet of a running `up` is covered, and shown."""
    running = start("up", "--nodes", "4")
    running.line("^0 DaemonSets on 4 nodes: all covered")
    everynode.address = running.address()
    applied = everynode("apply", "-f", "-", stdin=manifest("later"))
    assert (applied.code, applied.out) == (0, "daemonset.apps/later created\n")
    running.line("^1 DaemonSet on 4 nodes: all covered")
