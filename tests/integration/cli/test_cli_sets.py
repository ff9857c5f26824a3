"""The commands about sets, nodes and pods, on the fleet of a running `up`."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.integration.cli.conftest import Everynode, Running


@pytest.fixture
def namespace(fleet_up: Everynode, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own, whose sets go with it."""
    name = request.node.name.split("[")[0].replace("_", "-")
    yield name
    names = fleet_up("get", "ds", "-n", name, "-o", "name").out.split()
    if names:
        bare = [each.partition("/")[2] for each in names]
        assert fleet_up("delete", "ds", *bare, "-n", name).code == 0


def documents(text: str) -> list[dict[str, Any]]:
    """The items of a printed list."""
    printed = json.loads(text)
    assert (printed["apiVersion"], printed["kind"]) == ("v1", "List")
    items: list[dict[str, Any]] = printed["items"]
    return items


def node_with(fleet_up: Everynode, selector: str) -> str:
    """The name of a node with these labels."""
    name: str = fleet_up("get", "nodes", "-l", selector, "-o", "name").out.splitlines()[0]
    return name.removeprefix("node/")


# --- apply, delete ----------------------------------------------------------------------------------------------------


def test_apply_says_what_became_of_each(
    fleet_up: Everynode, namespace: str, manifest: Callable[..., str]
) -> None:
    """A set is created, then unchanged, then configured; a dry run says the same and does nothing."""
    apply = ("apply", "-n", namespace, "-f", "-")
    first = manifest("a").replace("  namespace: default\n", "")
    second = first.replace("example.com/a:1", "example.com/a:2")
    outcomes = [
        fleet_up(*apply, "--dry-run", stdin=first),
        fleet_up(*apply, stdin=first),
        fleet_up(*apply, stdin=first),
        fleet_up(*apply, "--dry-run", stdin=second),
        fleet_up(*apply, stdin=second),
    ]
    assert [outcome.code for outcome in outcomes] == [0] * 5
    assert [outcome.out for outcome in outcomes] == [
        "daemonset.apps/a created (dry run)\n",
        "daemonset.apps/a created\n",
        "daemonset.apps/a unchanged\n",
        "daemonset.apps/a configured (dry run)\n",
        "daemonset.apps/a configured\n",
    ]
    shown = json.loads(fleet_up("get", "ds/a", "-n", namespace, "-o", "json").out)
    assert shown["metadata"]["generation"] == 2


def test_apply_refuses_one_and_applies_the_others(
    fleet_up: Everynode, namespace: str, manifest: Callable[..., str], tmp_path: Path
) -> None:
    """L3: what the manifest's rules or the fleet refuse is named; the others are applied; the exit code tells."""
    (tmp_path / "1.yaml").write_text(manifest("a", namespace=namespace), encoding="utf-8")
    assert fleet_up("apply", "-f", tmp_path).code == 0
    moved = manifest("a", namespace=namespace).replace("app: a", "app: other")
    (tmp_path / "1.yaml").write_text(moved, encoding="utf-8")
    (tmp_path / "2.yaml").write_text("kind: [", encoding="utf-8")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "3.json").write_text(
        json.dumps(yaml.safe_load(manifest("b", namespace=namespace))), encoding="utf-8"
    )
    ended = fleet_up("apply", "-R", "-f", tmp_path, "-f", tmp_path / "missing.yaml")
    assert ended.code == 1
    assert ended.out == "daemonset.apps/b created\n"
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert any("1.yaml" in line and "spec.selector: cannot be changed" in line for line in errors)
    assert any("2.yaml" in line and "line 1" in line for line in errors)
    assert any("missing.yaml" in line for line in errors)
    nothing = fleet_up("apply", "-f", tmp_path / "missing.yaml")
    assert (nothing.code, nothing.out) == (1, "")


def test_apply_nothing(fleet_up: Everynode, tmp_path: Path) -> None:
    """Files in which there is nothing at all are an error, as they are for kubectl."""
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n---\n", encoding="utf-8")
    for ended in (
        fleet_up("apply", "-f", empty),
        fleet_up("apply", "-f", "-"),
    ):
        assert ended == (1, "", "error: no objects passed to apply\n")


def test_what_get_prints_can_be_applied(fleet_up: Everynode) -> None:
    """Applying what `get -o yaml` printed changes nothing."""
    printed = fleet_up("get", "ds", "-A", "-o", "yaml")
    ended = fleet_up("apply", "-f", "-", stdin=printed.out)
    assert ended.code == 0
    assert len(ended.out.splitlines()) >= 5
    assert all(line.endswith(" unchanged") for line in ended.out.splitlines())


def test_delete_takes_the_pods_along(
    fleet_up: Everynode, namespace: str, manifest: Callable[..., str], tmp_path: Path
) -> None:
    """L1: a deleted set is gone at once, and its pods soon; one that is not there is an error, unless ignored."""
    file = tmp_path / "ab.yaml"
    text = manifest("a", namespace=namespace) + "---\n" + manifest("b", namespace=namespace)
    file.write_text(text, encoding="utf-8")
    assert fleet_up("apply", "-f", file).code == 0
    pods = ("get", "pods", "-n", namespace, "-o", "name")
    fleet_up.until(*pods, holds=lambda out: "pod/a-" in out and "pod/b-" in out)
    deleted = fleet_up("delete", "daemonset", "a", "-n", namespace)
    assert (deleted.code, deleted.out) == (0, 'daemonset.apps "a" deleted\n')
    again = fleet_up("delete", "-f", file)
    assert (again.code, again.out) == (1, 'daemonset.apps "b" deleted\n')
    assert again.err == f'error: daemonsets "a" not found in namespace {namespace}\n'
    ignored = fleet_up("delete", "ds/a", "ds/b", "-n", namespace, "--ignore-not-found")
    assert (ignored.code, ignored.out, ignored.err) == (0, "", "")
    fleet_up.until(*pods, holds=lambda out: out == "")


def test_delete_can_leave_the_pods(
    fleet_up: Everynode, namespace: str, manifest: Callable[..., str]
) -> None:
    """L2: pods of a set that was deleted as an orphan stay, although the fleet has long settled again."""
    fleet_up("apply", "-f", "-", stdin=manifest("a", namespace=namespace))
    status = ("get", "ds", "a", "-n", namespace, "-o", "json")

    def is_covered(out: str) -> bool:
        found = json.loads(out).get("status", {"numberReady": 0})
        return bool(0 < found["numberReady"] == found["desiredNumberScheduled"])

    covered = fleet_up.until(*status, holds=is_covered)
    ready = json.loads(covered)["status"]["numberReady"]
    assert fleet_up("delete", "ds", "a", "-n", namespace, "--cascade", "orphan").code == 0
    fleet_up("apply", "-f", "-", stdin=manifest("b", namespace=namespace))
    names = fleet_up.until(
        *("get", "pods", "-n", namespace, "-o", "name"),
        holds=lambda out: out.count("pod/b-") == ready,
    )
    assert names.count("pod/a-") == ready


def test_delete_wants_to_know_what(fleet_up: Everynode) -> None:
    """Nothing, nodes, a type without names, or names and files together are wrong usage."""
    for arguments in ((), ("ds",), ("nodes", "a"), ("ds", "a", "-f", "x.yaml")):
        assert fleet_up("delete", *arguments).code == 2


# --- get --------------------------------------------------------------------------------------------------------------


def test_get_daemonsets_as_a_table(fleet_up: Everynode) -> None:
    """The table has kubectl's columns; without -A only the namespace's sets are there."""
    everywhere = fleet_up("get", "daemonsets", "-A").out.splitlines()
    assert everywhere[0].split("   ")[0] == "NAMESPACE"
    assert " ".join(everywhere[0].split()) == (
        "NAMESPACE NAME DESIRED CURRENT READY UP-TO-DATE AVAILABLE NODE SELECTOR AGE"
    )
    assert [line.split()[1] for line in everywhere[1:]] == [
        *("datadog-agent", "cni-agent", "fluentd", "logstash", "node-exporter")
    ]
    logging = fleet_up("get", "ds", "-n", "logging", "-o", "wide").out.splitlines()
    assert [line.split()[0] for line in logging] == ["NAME", "fluentd", "logstash"]
    assert " ".join(logging[0].split()).endswith("AGE CONTAINERS IMAGES SELECTOR")


def test_get_by_name(fleet_up: Everynode) -> None:
    """One name gives the object itself; what is not there is an error, and the others are shown."""
    one = json.loads(fleet_up("get", "ds", "fluentd", "-n", "logging", "-o", "json").out)
    assert (one["apiVersion"], one["kind"]) == ("apps/v1", "DaemonSet")
    assert one["status"]["numberReady"] == one["status"]["desiredNumberScheduled"] > 0
    two = fleet_up("get", "ds/fluentd", "ds/nope", "-n", "logging", "-o", "name")
    assert (two.code, two.out) == (1, "daemonset.apps/fluentd\n")
    assert two.err == 'error: daemonsets "nope" not found in namespace logging\n'
    none = fleet_up("get", "ds")
    assert (none.code, none.out) == (0, "")
    assert none.err == "note: no daemonsets found in namespace default\n"


def test_get_nodes(fleet_up: Everynode) -> None:
    """Nodes are listed, chosen by label, and printed as Kubernetes' objects."""
    items = documents(fleet_up("get", "nodes", "-o", "json").out)
    assert len(items) == 20
    assert {item["kind"] for item in items} == {"Node"}
    linux = fleet_up(
        "get", "no", "-l", "kubernetes.io/os in (linux)", "-o", "name"
    ).out.splitlines()
    others = fleet_up("get", "no", "-l", "kubernetes.io/os!=linux", "-o", "name").out.splitlines()
    assert sorted(linux + others) == sorted(f"node/{item['metadata']['name']}" for item in items)
    header = fleet_up("get", "nodes").out.splitlines()[0]
    assert header.split() == ["NAME", "STATUS", "BACKEND", "TAINTS"]


def test_get_pods(fleet_up: Everynode) -> None:
    """Pods are listed with their node, and there is one for each that the sets' statuses count."""
    sets = documents(fleet_up("get", "ds", "-n", "logging", "-o", "json").out)
    pods = documents(fleet_up("get", "pods", "-n", "logging", "-o", "json").out)
    assert len(pods) == sum(each["status"]["numberReady"] for each in sets)
    places = {
        (pod["metadata"]["ownerReferences"][0]["name"], pod["spec"]["nodeName"]) for pod in pods
    }
    assert len(places) == len(pods)
    table = fleet_up("get", "po", "-n", "logging").out.splitlines()
    assert table[0].split() == ["NAME", "READY", "STATUS", "AGE", "NODE"]
    assert table[1].split()[1:3] == ["True", "Running"]


@pytest.mark.parametrize(
    "arguments",
    [(), ("deployments",), ("ds", "po/a"), ("pods", "-l", "a=b"), ("ds", "-l", "a=b=c")],
)
def test_get_what_there_is_not(fleet_up: Everynode, arguments: tuple[str, ...]) -> None:
    """Unknown types, a mixture of forms, and selectors that cannot be are wrong usage."""
    assert fleet_up("get", *arguments).code == 2


def test_get_watch_shows_each_change(
    fleet_up: Everynode, namespace: str, manifest: Callable[..., str], start: Callable[..., Running]
) -> None:
    """A watch shows what is there, then each change, until it is interrupted."""
    watching = start("get", "ds", "-n", namespace, "--watch", address=fleet_up.address)
    fleet_up("apply", "-f", "-", stdin=manifest("a", namespace=namespace))
    watching.line(r"^NAME +DESIRED")
    watching.line(r"^a +([1-9]\d*) +\1 +\1 +\1 +\1 +kubernetes.io/os=linux +\d+s$")
    fleet_up("apply", "-f", "-", stdin=manifest("b", namespace=namespace))
    watching.line(r"^b +[1-9]")
    assert watching.stop(signal.SIGINT) == 130
    assert len([line for line in watching.out if line.startswith("NAME")]) == 1
    assert watching.err == []


def test_a_reader_that_has_had_enough(fleet_up: Everynode) -> None:
    """A pipe that is closed early is no error and leaves no traceback."""
    program = subprocess.list2cmdline([fleet_up.program, "get", "pods", "-A", "-o", "json"])
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{program} | head -n 1"],
        capture_output=True,
        text=True,
        env=fleet_up.environment(),
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "{\n", "")


def test_output_that_cannot_be_written(fleet_up: Everynode) -> None:
    """A full disk is one line and an error, not a traceback."""
    for arguments in (("get", "nodes"), ("get", "pods", "-A", "-o", "json"), ("version",)):
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            ended = subprocess.run(
                [fleet_up.program, *arguments],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=fleet_up.environment(),
                timeout=60,
                check=False,
            )
        assert ended.returncode == 1
        assert ended.stderr == ("error: the result cannot be written: No space left on device\n")


def test_a_fleet_that_cannot_be_called_so(fleet_up: Everynode) -> None:
    """A name that no fleet can have is wrong usage."""
    for arguments in (("get", "ds", "--fleet", "Bad_X"), ("fleet", "show", "Bad_X")):
        assert fleet_up(*arguments).code == 2


# --- describe, explain, simulate --------------------------------------------------------------------------------------


def test_describe(fleet_up: Everynode, namespace: str, manifest: Callable[..., str]) -> None:
    """A description has the set's numbers and the last decision, and no environment of a container."""
    fleet_up("apply", "-f", "-", stdin=manifest("a", namespace=namespace))
    fleet_up.until(
        *("get", "ds", "a", "-n", namespace, "-o", "yaml"),
        holds=lambda out: "numberReady: 1" in out,
    )
    ended = fleet_up("describe", "ds", "a", "-n", namespace)
    assert ended.code == 0
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert "Name: a" in lines
    assert "Node-Selector: kubernetes.io/os=linux" in lines
    assert "main: example.com/a:1" in lines
    assert "Update Strategy: OnDelete (a pod is replaced when it is deleted)" in lines
    assert any(line.startswith("By: worker up") for line in lines)
    assert any(line.startswith("Reason: ") for line in lines)
    assert "open-sesame" not in ended.out
    document = json.loads(fleet_up("describe", "ds", "a", "-n", namespace, "-o", "json").out)
    decision = document.pop("lastDecision")
    assert (decision["worker"], decision["generation"]) == ("up", 1)
    assert {"eligible", "surplus", "creates", "deletes"} < set(decision["counts"])
    same = json.loads(fleet_up("get", "ds", "a", "-n", namespace, "-o", "json").out)
    assert (document["metadata"], document["spec"]) == (same["metadata"], same["spec"])
    all_of_them = yaml.safe_load(fleet_up("describe", "ds", "-n", namespace, "-o", "yaml").out)
    assert [each["metadata"]["name"] for each in all_of_them["items"]] == ["a"]
    absent = fleet_up("describe", "ds/nope", "-n", namespace)
    assert (absent.code, absent.out) == (1, "")


def test_explain_and_simulate(
    fleet_up: Everynode, namespace: str, manifest: Callable[..., str]
) -> None:
    """L1: a label decides whether a node has a pod; `explain` says so, and the fleet follows."""
    node = node_with(fleet_up, "kubernetes.io/os=linux,!node-role.kubernetes.io/control-plane")
    text = manifest("a", namespace=namespace).replace("kubernetes.io/os: linux", "disk: ssd")
    fleet_up("apply", "-f", "-", stdin=text)
    explain = ("explain", "ds/a", "-n", namespace)
    summary = fleet_up(*explain)
    assert summary.code == 0
    assert summary.out.startswith(f"DaemonSet {namespace}/a: eligible on 0 of 20 nodes\n")
    assert "nodeSelector wants label disk=ssd; it is not there" in summary.out

    assert fleet_up("simulate", "label-node", node, "disk=ssd").code == 0
    pods = ("get", "pods", "-n", namespace)
    fleet_up.until(*pods, holds=lambda out: node in out)
    (about,) = json.loads(fleet_up(*explain, "--node", node, "-o", "json").out)["nodes"]
    assert len(about.pop("pods")) == 1
    assert about == {
        "backend": "simulated",
        "name": node,
        "eligible": True,
        "mayStay": True,
        "reasons": [],
    }

    assert (
        fleet_up("simulate", "taint-node", node, "broken=yes:NoExecute", "slow:NoSchedule").code
        == 0
    )
    fleet_up.until(*pods, holds=lambda out: node not in out)
    told = fleet_up(*explain, "--node", node)
    assert "taint broken=yes:NoExecute is not tolerated" in told.out
    assert "taint slow:NoSchedule is not tolerated" in told.out
    assert fleet_up("simulate", "taint-node", node, "broken:NoExecute-", "slow-").code == 0
    fleet_up.until(*pods, holds=lambda out: node in out)
    assert fleet_up("simulate", "label-node", node, "disk-").code == 0
    fleet_up.until(*pods, holds=lambda out: node not in out)


def test_explain_what_there_is_not(fleet_up: Everynode) -> None:
    """An unknown set or node is an error; anything but one set is wrong usage."""
    assert fleet_up("explain", "ds/nope", "-n", "logging").code == 1
    unknown = fleet_up("explain", "ds/fluentd", "-n", "logging", "--node", "nope")
    assert (unknown.code, unknown.err) == (1, 'error: nodes "nope" not found\n')
    assert fleet_up("explain", "ds", "-n", "logging").code == 2
    assert fleet_up("explain", "nodes/a").code == 2


def test_simulated_nodes_come_and_go(fleet_up: Everynode) -> None:
    """L1: a node that joins gets its pods, one that leaves takes them along; cordoning is shown."""
    name = "guest.example.com"
    added = fleet_up(
        "simulate",
        "add-node",
        name,
        "-l",
        "kubernetes.io/os=linux",
        "--taint",
        "a=b:PreferNoSchedule",
    )
    assert (added.code, added.out) == (0, f"node/{name} added\n")
    fleet_up.until("get", "pods", "-n", "monitoring", holds=lambda out: name in out)
    assert fleet_up("simulate", "cordon-node", name).code == 0
    fleet_up.until("get", "nodes", name, holds=lambda out: "SchedulingDisabled" in out)
    assert fleet_up("simulate", "uncordon-node", name).code == 0
    assert fleet_up("simulate", "stop-node", name).out == f"node/{name} stopped\n"
    fleet_up.until("get", "nodes", name, holds=lambda out: "NotReady" in out)
    assert fleet_up("simulate", "start-node", name).code == 0
    fleet_up.until("get", "nodes", name, holds=lambda out: "NotReady" not in out)
    fleet_up.until("get", "nodes", name, holds=lambda out: "SchedulingDisabled" not in out)
    assert fleet_up("simulate", "delete-node", name).code == 0
    fleet_up.until("get", "pods", "-A", holds=lambda out: name not in out)


@pytest.mark.parametrize("verb", ["delete-pod", "fail-pod", "finish-pod"])
def test_a_pod_that_ends_is_replaced(fleet_up: Everynode, verb: str) -> None:
    """L1: whatever ends a pod, another one takes its place on its node."""
    pod, *_, node = fleet_up("get", "pods", "-n", "monitoring").out.splitlines()[1].split()
    ended = fleet_up("simulate", verb, pod, "-n", "monitoring")
    assert (ended.code, ended.err) == (0, "")

    def replaced(out: str) -> bool:
        rows = [line.split() for line in out.splitlines()[1:]]
        return [row[1:3] for row in rows if row[-1] == node] == [
            ["True", "Running"]
        ] and pod not in out

    fleet_up.until("get", "pods", "-n", "monitoring", holds=replaced)


def test_simulate_what_cannot_be(fleet_up: Everynode) -> None:
    """What the backend refuses is an error, a backend that nobody runs gives no answer, and half a request is usage."""
    unknown = fleet_up("simulate", "delete-node", "nope")
    assert unknown.code == 1
    assert unknown.err.startswith("error: ")
    assert fleet_up("simulate", "label-node", "nope", "a=b", "--backend", "other").code == 3
    assert fleet_up("simulate", "label-node", "nope", "a").code == 2
    for wrong in (
        ("add-node", "x", "-l", "a-"),
        ("add-node", "Bad_Name"),
        ("delete-node", "Bad_Name"),
        ("label-node", "x", "a b=1"),
        ("taint-node", "x", "a=b:Never"),
    ):
        ended = fleet_up("simulate", *wrong)
        assert (ended.code, ended.out) == (2, ""), wrong


def test_simulate_says_what_was_done(fleet_up: Everynode) -> None:
    """What only takes away says so, as kubectl does."""
    node = node_with(fleet_up, "kubernetes.io/os=linux")
    said = [
        fleet_up("simulate", verb, node, change).out.split()[1]
        for verb, change in (
            ("label-node", "said=1"),
            ("label-node", "said-"),
            ("taint-node", "said:PreferNoSchedule"),
            ("taint-node", "said-"),
        )
    ]
    assert said == ["labeled", "unlabeled", "tainted", "untainted"]
