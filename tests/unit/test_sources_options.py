"""Which options of `everynode replay` go together, and what becomes of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer

from everynode.cli.installed import SOURCES, load
from everynode.cli.recordings import EPOCH_DEFAULT, StreamSource, TimeUnit, stream_source
from everynode.errors import ConfigurationError
from everynode.replay.machine_events import Columns

COLUMNS = "time=0,machine=1,event=2"
SET = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: default}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: main, image: "example.com/main:NUMBER"}]}
"""


def source(
    kind: str, columns: str = "", *filenames: str, epoch: str = EPOCH_DEFAULT
) -> StreamSource:
    """What becomes of options."""
    return stream_source(kind, columns, TimeUnit.MS, epoch, filenames)


@pytest.mark.parametrize(
    ("kind", "columns", "filenames", "text"),
    [
        ("etcd", "", (), "'etcd': there are recording, csv, kubectl"),
        ("csv", "", (), "say what the columns are"),
        ("csv", "time=0", (), "machine is missing"),
        ("kubectl", COLUMNS, (), "--from is kubectl"),
        ("recording", COLUMNS, (), "--from is recording"),
        ("recording", "", ("x.yaml",), "a recording has the sets"),
    ],
)
def test_what_does_not_go_together(
    kind: str, columns: str, filenames: tuple[str, ...], text: str
) -> None:
    """It is wrong usage, and says why."""
    with pytest.raises(typer.BadParameter, match=text):
        source(kind, columns, *filenames)


def test_an_epoch_that_is_none() -> None:
    """It is wrong usage, too."""
    with pytest.raises(typer.BadParameter, match="write a time"):
        source("csv", COLUMNS, epoch="then")


def test_a_trace() -> None:
    """What the columns are, and what the time counts from when."""
    found = source("csv", COLUMNS, epoch="1970-01-01T00:00:05Z").trace

    assert found is not None
    assert Columns("0", "1", "2", {}) == found.columns
    assert (1_000_000, 5_000) == (found.unit_ns, found.epoch_ms)


def test_a_source_whose_package_lacks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install: that of the adapter beside it."""
    monkeypatch.setitem(sys.modules, "everynode_kubernetes.recorded", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'everynode\[kubernetes\]'"):
        load(SOURCES, "kubectl")


def test_manifests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The last of a name counts; what cannot be used is said and counted."""
    path = tmp_path / "sets.yaml"
    path.write_text("---\n".join(SET.replace("NUMBER", str(number)) for number in (1, 2)))
    found = source("kubectl", "", str(path), str(tmp_path / "none"))

    (daemonset,) = found.daemonsets
    assert b"main:2" in bytes(daemonset.template)
    assert 1 == found.refused
    assert "none: there is no such file" in capsys.readouterr().err
