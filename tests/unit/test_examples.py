"""The manifests in deploy/examples: valid, explained, free of secrets, and placed as their comments say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from everynode.core.eligibility import compile_constraints, verdict
from everynode.core.values import DaemonSet, Node, Taint
from everynode.manifest import Manifests, read_daemonsets, read_nodes

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "deploy" / "examples").glob("*.yaml"))
PUBLIC_NODES = ROOT.parent / "shared" / "data" / "nodes-openb.yaml"

SECRET_NAME = re.compile(r"(KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?)$", re.IGNORECASE)
COMMENT_LINES_MIN = 3

SETS = {
    "kube-system/cni-agent",
    "datadog/datadog-agent",
    "logging/fluentd",
    "logging/logstash",
    "monitoring/node-exporter",
}

each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def read(path: Path) -> Manifests:
    """Read an example as `everynode apply` does."""
    return read_daemonsets(path.name, path.read_bytes(), default_namespace="default")


def every_set() -> list[DaemonSet]:
    """All sets of all examples."""
    return [entry.daemonset for path in FILES for entry in read(path).accepted]


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Find all mappings in a document, at any depth."""
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from mappings(child)
    elif isinstance(value, list):
        for child in value:
            yield from mappings(child)


def literal_secrets(document: Any) -> list[str]:
    """Name environment variables that look like a secret and carry a value, and objects of kind Secret."""
    found = list(mappings(document))
    variables = [
        str(mapping["name"])
        for mapping in found
        if mapping.get("value") and SECRET_NAME.search(str(mapping.get("name")))
    ]
    return variables + ["Secret" for mapping in found if mapping.get("kind") == "Secret"]


@each_file
def test_an_example_is_valid(path: Path) -> None:
    """Each file holds exactly one DaemonSet, and nothing about it is wrong or odd."""
    manifests = read(path)
    assert manifests.rejected == ()
    (accepted,) = manifests.accepted
    assert accepted.warnings == ()


def test_the_examples_are_known() -> None:
    """The five sets are there, each in the namespace where its operators have it."""
    assert sorted(SETS) == sorted(str(daemonset.key) for daemonset in every_set())


def test_only_fluentd_brings_other_documents() -> None:
    """One file shows what else a manifest may hold, and these documents are named as skipped."""
    skipped = {path.stem: [entry.subject for entry in read(path).skipped] for path in FILES}
    others = [
        "ServiceAccount logging/fluentd",
        "ClusterRole fluentd",
        "ClusterRoleBinding fluentd",
        "ConfigMap logging/fluentd",
    ]
    assert {"fluentd": others} == {stem: names for stem, names in skipped.items() if names}


@each_file
def test_an_example_begins_with_an_explanation(path: Path) -> None:
    """The first lines are a comment that says where the pods run."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line)
    assert len(comment) >= COMMENT_LINES_MIN
    assert any("Where it runs:" in line for line in comment)


@each_file
def test_an_example_holds_no_secret(path: Path) -> None:
    """Secrets are references; no file carries the value of one."""
    documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    assert literal_secrets(documents) == []


@pytest.mark.parametrize(
    ("document", "found"),
    [
        ({"env": [{"name": "DD_API_KEY", "value": "0123"}]}, ["DD_API_KEY"]),
        ([{"spec": {"env": [{"name": "db_password", "value": "x"}]}}], ["db_password"]),
        ({"kind": "Secret", "data": {}}, ["Secret"]),
        ({"env": [{"name": "DD_API_KEY", "valueFrom": {"secretKeyRef": {"name": "x"}}}]}, []),
        ({"env": [{"name": "TOKEN_FILE_PATH", "value": "/run/token"}]}, []),
    ],
)
def test_a_literal_secret_would_be_found(document: Any, found: list[str]) -> None:
    """The search for secrets finds them, and lets references and paths pass."""
    assert found == literal_secrets(document)


def node(labels: dict[str, str] | None = None, *taints: Taint) -> Node:
    """A Linux node that does not name its architecture, with more labels and taints."""
    named = {"kubernetes.io/os": "linux", **(labels or {})}
    return Node(backend="test", name="n", uid="u", labels=named, taints=taints)


CONTROL_PLANE = Taint(key="node-role.kubernetes.io/control-plane", effect="NoSchedule")
DEDICATED = Taint(key="example.com/team", value="db", effect="NoSchedule")
DRAINING = Taint(key="example.com/drain", effect="NoExecute")


@pytest.mark.parametrize(
    ("target", "left_out"),
    [
        (node(), set()),
        (node({"kubernetes.io/arch": "arm64"}), set()),
        (node({"kubernetes.io/os": "windows"}), SETS),
        (
            node({"kubernetes.io/arch": "s390x"}),
            {"kube-system/cni-agent", "datadog/datadog-agent"},
        ),
        (node({"type": "virtual-kubelet"}), {"logging/fluentd", "logging/logstash"}),
        (node({"logging.example.com/logstash": "off"}), {"logging/logstash"}),
        (node(None, CONTROL_PLANE), {"logging/logstash"}),
        (
            node(None, DEDICATED),
            {"datadog/datadog-agent", "logging/fluentd", "logging/logstash"},
        ),
        (node(None, DRAINING), {"datadog/datadog-agent", "logging/logstash"}),
    ],
    ids=[
        "plain",
        "arm64",
        "windows",
        "s390x",
        "virtual",
        "opted out",
        "control plane",
        "dedicated",
        "draining",
    ],
)
def test_the_examples_run_where_they_say(target: Node, left_out: set[str]) -> None:
    """The sets differ in which nodes they leave out, as the comments in the files say."""
    found = {
        str(daemonset.key)
        for daemonset in every_set()
        if not verdict(compile_constraints(daemonset), target).should_run
    }
    assert left_out == found


@pytest.mark.skipif(not PUBLIC_NODES.exists(), reason="the public node manifests are not here")
def test_the_examples_cover_a_fleet_with_few_labels() -> None:
    """On real nodes that have no architecture label and no taints, every set runs everywhere."""
    nodes = [
        entry.node
        for entry in read_nodes(
            [(PUBLIC_NODES.name, PUBLIC_NODES.read_bytes())], backend="test"
        ).accepted
    ]
    assert nodes
    for daemonset in every_set():
        constraints = compile_constraints(daemonset)
        kept_away = [target.name for target in nodes if not verdict(constraints, target).should_run]
        assert kept_away == [], daemonset.key
