"""How the engine's values look as Kubernetes' objects, as rows, and in the report of `up`."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from everynode.cli.documents import Documents, Refused
from everynode.cli.explain import count_reasons, judge
from everynode.cli.get import GetOutput, Wish
from everynode.cli.listing import LISTINGS, DaemonSetListing, Item, NodeListing, PodListing
from everynode.cli.objects import daemonset_object, node_object, pod_object
from everynode.cli.output import as_json, as_yaml
from everynode.cli.resources import RESOURCES
from everynode.cli.tables import Cell
from everynode.cli.up_report import Report
from everynode.core.values import DaemonSet, Node, Owner, Pod, SetKey, Status, Taint
from everynode.errors import Problem
from everynode.manifest import read_daemonsets
from everynode.runtime.counts import WorkerCounts

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
NOW = 1_700_000_000_000

NODE = Node(
    backend="b",
    name="n.example.com",
    uid="u1",
    labels={"z": "1", "a": "2"},
    taints=(Taint(key="k", value="v", effect="NoSchedule"), Taint(key="x", effect="NoExecute")),
    unschedulable=True,
)
POD = Pod(
    backend="b",
    namespace="logging",
    name="fluentd-1",
    uid="u2",
    node=NODE.name,
    owner=Owner(name="fluentd", uid="u3"),
    revision="r1",
    phase="Running",
    ready=True,
    created_ms=NOW - 5_000,
)
STATUS = Status(
    namespace="logging",
    daemonset="fluentd",
    daemonset_uid="u3",
    observed_generation=2,
    desired_number_scheduled=3,
    current_number_scheduled=3,
    number_ready=2,
    updated_number_scheduled=1,
    number_available=2,
)


def example_sets() -> list[DaemonSet]:
    """Every DaemonSet in deploy/examples."""
    found = [
        read_daemonsets(file.name, file.read_bytes(), "default")
        for file in sorted(EXAMPLES.glob("*.yaml"))
    ]
    return [accepted.daemonset for each in found for accepted in each.accepted]


@pytest.mark.parametrize("write", [as_json, as_yaml])
def test_what_is_printed_can_be_applied_again(write: object) -> None:
    """A DaemonSet that was printed as JSON or YAML, status and all, is read as the same DaemonSet."""
    assert callable(write)
    for daemonset in example_sets():
        status = msgspec.structs.replace(STATUS, namespace=daemonset.namespace)
        text = write(daemonset_object(daemonset, status))
        (accepted,) = read_daemonsets("printed", text.encode(), "default").accepted
        ignored = {"uid": daemonset.uid, "generation": daemonset.generation}
        read = msgspec.structs.replace(accepted.daemonset, **ignored, created_ms=0)
        assert read == daemonset


def test_a_node_as_an_object() -> None:
    """A node is a v1 Node with its taints, its readiness and its backend."""
    assert node_object(NODE) == {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE.name, "uid": "u1", "labels": {"z": "1", "a": "2"}},
        "spec": {
            "backend": "b",
            "taints": [
                {"key": "k", "value": "v", "effect": "NoSchedule"},
                {"key": "x", "effect": "NoExecute"},
            ],
            "unschedulable": True,
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def test_a_pod_as_an_object() -> None:
    """A pod is a v1 Pod that is controlled by its DaemonSet."""
    document = pod_object(POD)
    assert document["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "name": "fluentd",
            "uid": "u3",
            "controller": True,
        }
    ]
    assert document["metadata"]["creationTimestamp"] == "2023-11-14T22:13:15Z"
    assert document["status"] == {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
    }


def test_an_orphan_as_an_object() -> None:
    """A pod that no set controls has no owner, and the labels that the log knows."""
    orphan = msgspec.structs.replace(
        POD, owner=None, revision="", labels={"app": "fluentd"}, deleting_since_ms=NOW
    )
    metadata = pod_object(orphan)["metadata"]
    assert "ownerReferences" not in metadata
    assert metadata["labels"] == {"app": "fluentd"}
    assert metadata["deletionTimestamp"] == "2023-11-14T22:13:20Z"
    item = Item(("logging", POD.name, "b"), "logging", POD.name, {}, orphan)
    assert len(texts(PodListing().row(item, NOW, wide=True))) == 8


def texts(row: object) -> list[str]:
    """A row's cells without their colours."""
    assert isinstance(row, list)
    return [cell.text if isinstance(cell, Cell) else cell for cell in row]


def test_a_set_as_a_row() -> None:
    """A set's row has kubectl's columns; a set that no worker has reported on has no numbers."""
    daemonset = example_sets()[0]
    item = Item(tuple(daemonset.key), daemonset.namespace, daemonset.name, {}, daemonset, STATUS)
    listing = DaemonSetListing()
    header = listing.header(wide=False)
    assert header == [
        *("NAME", "DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE"),
        *("NODE SELECTOR", "AGE"),
    ]
    row = dict(zip(header, texts(listing.row(item, NOW, wide=False)), strict=True))
    assert (row["DESIRED"], row["CURRENT"], row["READY"]) == ("3", "3", "2")
    assert (row["UP-TO-DATE"], row["AVAILABLE"]) == ("1", "2")
    unreported = texts(listing.row(item._replace(status=None), NOW, wide=False))
    assert unreported[1:6] == ["-"] * 5


def test_a_set_whose_template_cannot_be_read_is_still_shown() -> None:
    """L3: a template that is no pod template costs only what would be shown of it."""
    broken = msgspec.structs.replace(example_sets()[0], template=msgspec.Raw(b'{"spec":5}'))
    item = Item(tuple(broken.key), broken.namespace, broken.name, {}, broken)
    listing = DaemonSetListing()
    assert len(texts(listing.row(item, NOW, wide=True))) == len(listing.header(wide=True))


def test_a_node_as_a_row() -> None:
    """A cordoned node says so, and its taints are written as kubectl writes them."""
    item = Item((NODE.name, "b"), "", NODE.name, NODE.labels, NODE)
    row = texts(NodeListing().row(item, NOW, wide=True))
    assert row == [
        *(NODE.name, "Ready,SchedulingDisabled", "b", "k=v:NoSchedule,x:NoExecute"),
        *("u1", "a=2,z=1"),
    ]


def test_a_pod_as_a_row() -> None:
    """A pod on its way out is Terminating, whatever its phase."""
    item = Item(("logging", POD.name, "b"), "logging", POD.name, {}, POD)
    assert texts(PodListing().row(item, NOW, wide=False)) == [
        *(POD.name, "True", "Running", "5s", NODE.name)
    ]
    leaving = item._replace(value=msgspec.structs.replace(POD, deleting=True, ready=False))
    assert texts(PodListing().row(leaving, NOW, wide=False))[1:3] == ["False", "Terminating"]


def test_every_kind_of_object_can_be_listed() -> None:
    """Whatever can be named can be listed, and a row has a text for each column."""
    assert set(LISTINGS) == set(RESOURCES)


def test_reasons_are_counted_most_frequent_first() -> None:
    """`explain` counts a node for each of its reasons; eligible nodes have none."""
    daemonset = msgspec.structs.replace(
        example_sets()[0],
        template=msgspec.Raw(b'{"spec":{"nodeSelector":{"disk":"ssd"}}}'),
    )
    fast = Node(backend="b", name="fast", uid="1", labels={"disk": "ssd"})
    slow = [Node(backend="b", name=f"slow-{i}", uid=f"2{i}") for i in range(2)]
    tainted = msgspec.structs.replace(slow[0], taints=(Taint(key="k", effect="NoSchedule"),))
    counts = count_reasons(judge(daemonset, [fast, tainted, slow[1]]))
    assert [(reason.code, count) for reason, count in counts] == [
        ("NodeSelectorMismatch", 2),
        ("UntoleratedTaint", 1),
    ]


def report(**changes: object) -> Report:
    """A report about one set that is not covered."""
    fields = {
        "fleet": "default",
        "nodes": 1,
        "seconds": 1.26,
        "converged": False,
        "statuses": {SetKey("logging", "fluentd"): STATUS},
        "counts": WorkerCounts(decisions=1, creates=3, deletes=0),
        "documents": Documents(),
        "refused_nodes": [],
    }
    return Report(**(fields | changes))  # type: ignore[arg-type] # the fields above have the right types


def test_the_report_names_what_is_behind() -> None:
    """What is not covered is named in the sentence."""
    sentence = report().sentence(timed=True)
    assert sentence == (
        "1 DaemonSet on 1 node: not covered after 1.3 s, behind: logging/fluentd "
        "(1 decision, 3 creates, 0 deletes)"
    )
    covered = report(converged=True).sentence(timed=False)
    assert covered == "1 DaemonSet on 1 node: all covered (1 decision, 3 creates, 0 deletes)"


def test_the_report_succeeds_only_if_nothing_was_refused() -> None:
    """A document or node that was refused is a failure, also when all else is covered."""
    refused = Refused("a.yaml", 2, "DaemonSet", "x", "a.yaml", (Problem("spec", "is missing"),))
    assert report(converged=True).succeeded
    assert not report().succeeded
    assert not report(converged=True, refused_nodes=[refused]).succeeded
    assert not report(converged=True, documents=Documents(refused=[refused])).succeeded
    document = report(documents=Documents(refused=[refused])).as_document()
    assert document["rejected"] == [
        {
            "file": "a.yaml",
            "document": 2,
            "name": "x",
            "errors": ["spec: is missing"],
        }
    ]


@pytest.mark.parametrize(
    ("output", "change", "different"),
    [
        (GetOutput.TABLE, {"number_ready": 3}, True),
        (GetOutput.TABLE, {"number_misscheduled": 1}, False),
        (GetOutput.TABLE, {}, False),
        (GetOutput.JSON, {"number_misscheduled": 1}, True),
        (GetOutput.JSON, {"daemonset_uid": "u9"}, False),
    ],
)
def test_a_watch_prints_what_looks_different(
    output: GetOutput, change: dict[str, Any], different: bool
) -> None:
    """An object is printed again only if something that this output shows has changed."""
    listing = DaemonSetListing()
    wish = Wish(listing, "", (), (), output)
    daemonset = example_sets()[0]
    before = Item(("a", "b"), "a", "b", {}, daemonset, STATUS)
    after = before._replace(status=msgspec.structs.replace(STATUS, **change))
    assert wish.looks_different(after, before) == different
    assert wish.looks_different(after, None)
