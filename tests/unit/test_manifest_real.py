"""Manifests as they are published, where they are on this machine."""

import time
from pathlib import Path

import pytest

from everynode.core.eligibility import compile_constraints
from everynode.manifest import read_daemonsets, read_nodes

DIRECTORY = Path(__file__).resolve().parents[3] / "shared" / "data"
MANIFESTS = DIRECTORY / "manifests"
NODES = DIRECTORY / "nodes-openb.yaml"


@pytest.mark.skipif(not MANIFESTS.is_dir(), reason="the real manifests are not on this machine")
def test_real_manifests_are_read() -> None:
    """Of published manifests, only the one without a selector is refused, and nothing is warned about."""
    results = {
        file.name: read_daemonsets(file.name, file.read_bytes())
        for file in sorted(MANIFESTS.glob("*.yaml"))
    }

    refused = {name for name, manifests in results.items() if manifests.rejected}
    assert refused == {"fluentd-gcs.yaml"}
    assert [e.field for r in results["fluentd-gcs.yaml"].rejected for e in r.errors] == [
        "spec.selector"
    ]
    accepted_entries = [entry for manifests in results.values() for entry in manifests.accepted]
    assert len(accepted_entries) == len(results) - 1
    assert [entry.warnings for entry in accepted_entries] == [()] * len(accepted_entries)
    for entry in accepted_entries:
        compile_constraints(entry.daemonset)


@pytest.mark.skipif(not NODES.is_file(), reason="the real nodes are not on this machine")
def test_real_nodes_are_read() -> None:
    """All 1,213 nodes of a published cluster are read, well within two seconds of processor time."""
    begin = time.process_time()
    nodes = read_nodes([(NODES.name, NODES.read_bytes())], "local")

    assert time.process_time() - begin < 2
    assert (len(nodes.accepted), nodes.rejected, nodes.skipped) == (1213, (), ())
    assert {entry.warnings for entry in nodes.accepted} == {()}
    assert len({entry.node.uid for entry in nodes.accepted}) == 1213
