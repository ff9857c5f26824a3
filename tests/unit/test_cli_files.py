"""Which files the command line reads, in which order, and what it says of those that it cannot read."""

import io
import sys
from pathlib import Path

import pytest

from everynode.cli import files
from everynode.cli.documents import read_documents
from everynode.cli.files import Source, read_sources
from everynode.cli.nodes import find_nodes
from everynode.errors import InvalidObjectError

SET = """\
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers: [{{name: main, image: example.com/main:1}}]
"""


def names_of(found: list[Source | InvalidObjectError], directory: Path) -> list[str]:
    """The sources' names, relative to a directory."""
    sources = [source for source in found if isinstance(source, Source)]
    return [Path(source.name).relative_to(directory).as_posix() for source in sources]


def test_a_directory_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    """Files with a known suffix are read, sorted; others and directories in it are not."""
    for name in ("b.yaml", "a.yml", "c.json", "README.md"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "d.yaml").write_text("{}", encoding="utf-8")
    assert names_of(list(read_sources([str(tmp_path)])), tmp_path) == ["a.yml", "b.yaml", "c.json"]
    deep = names_of(list(read_sources([str(tmp_path)], recursive=True)), tmp_path)
    assert deep == ["a.yml", "b.yaml", "below/d.yaml", "c.json"]


def test_a_file_that_is_named_is_read_whatever_its_suffix(tmp_path: Path) -> None:
    """Who names a file means it."""
    file = tmp_path / "manifest.txt"
    file.write_bytes(b"x")
    assert list(read_sources([str(file)])) == [Source(str(file), b"x")]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x")))
    assert list(read_sources(["-"])) == [Source("stdin", b"x")]


def test_what_cannot_be_read_does_not_hide_the_rest(tmp_path: Path) -> None:
    """L3: a missing file and an empty directory are errors that name them; the others are read."""
    good = tmp_path / "good.yaml"
    good.write_bytes(b"x")
    empty = tmp_path / "empty"
    empty.mkdir()
    missing = tmp_path / "missing.yaml"
    found = list(read_sources([str(missing), str(empty), str(good)]))
    errors = [str(each) for each in found if isinstance(each, InvalidObjectError)]
    assert len(errors) == 2
    assert errors[0].startswith(f"{missing}: there is no such file")
    assert errors[1].startswith(f"{empty}: there is no .yaml")
    assert found[2] == Source(str(good), b"x")


def test_a_file_that_may_not_be_opened_is_an_error(tmp_path: Path) -> None:
    """A name that leads nowhere any more is an error that names it, not a traceback."""
    link = tmp_path / "a.yaml"
    link.symlink_to(tmp_path / "loop")
    (tmp_path / "loop").symlink_to(link)
    (found,) = read_sources([str(link)])
    assert isinstance(found, InvalidObjectError)
    assert str(link) in str(found)


def test_the_size_of_a_file_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """B1: a file that is larger than the limit is refused, one of exactly that size is read."""
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 1024)
    large, fitting = tmp_path / "large.yaml", tmp_path / "fitting.yaml"
    large.write_bytes(b"#" * 1025)
    fitting.write_bytes(b"#" * 1024)
    refused, source = read_sources([str(large), str(fitting)])
    assert isinstance(refused, InvalidObjectError)
    assert "larger than" in str(refused)
    assert isinstance(source, Source)


def test_documents_of_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """L3: what is wrong, skipped or there twice is said once each, and the rest is accepted."""
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text(
        SET.format(name="a") + "---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: c}\n",
        encoding="utf-8",
    )
    wrong = SET.format(name="b").replace("{app: b}", "{app: x}", 1)
    second.write_text(SET.format(name="a") + "---\n" + wrong, encoding="utf-8")
    documents = read_documents([str(tmp_path)], default_namespace="logging")
    documents.report()
    assert [str(each.daemonset.key) for each in documents.accepted] == ["logging/a", "logging/a"]
    assert [(each.file, each.document) for each in documents.refused] == [(str(second), 2)]
    said = capsys.readouterr().err.splitlines()
    assert sorted(line.split(":")[0] for line in said) == ["error", "note", "note", "warning"]
    assert any(line.startswith(f"error: {second}, document 2") for line in said)
    assert any("skipped 1" in line and "ConfigMap c" in line for line in said)
    assert any("logging/a is there 2 times" in line and str(second) in line for line in said)


def test_all_problems_of_a_document_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A document with several problems gets a line for each, below the line that names it."""
    file = tmp_path / "a.yaml"
    text = SET.format(name="a").replace("image: example.com/main:1", "image: 5")
    file.write_text(text.replace("name: a}", "name: A}", 1), encoding="utf-8")
    documents = read_documents([str(file)])
    (refused,) = documents.refused
    assert len(refused.errors) > 1
    refused.report()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 + len(refused.errors)
    assert all(str(problem) in said[i + 1] for i, problem in enumerate(refused.errors))


def test_all_that_is_skipped_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However many documents are skipped, one line names them all."""
    kind = "---\nkind: ConfigMap\napiVersion: v1\nmetadata: {{name: c{}}}\n"
    file = tmp_path / "a.yaml"
    file.write_text("".join(kind.format(number) for number in range(40)), encoding="utf-8")
    read_documents([str(file)]).report()
    (line,) = capsys.readouterr().err.splitlines()
    names = ", ".join(f"ConfigMap c{number}" for number in range(40))
    assert line == f"note: skipped 40, not a DaemonSet: {names}"


def test_a_warning_names_file_and_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A field that nobody knows is found by the file and the document that it stands in."""
    file = tmp_path / "a.yaml"
    unknown = SET.format(name="b").replace("spec:\n", "spec:\n  colour: red\n", 1)
    file.write_text(SET.format(name="a") + "---\n" + unknown, encoding="utf-8")
    read_documents([str(file)]).report()
    warnings = [line for line in capsys.readouterr().err.splitlines() if "colour" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"warning: {file}, document 2 ")


def test_files_without_any_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """L3: a file with no node in it is refused by name, the nodes of the others are there."""
    sets, nodes = tmp_path / "sets.yaml", tmp_path / "nodes.yaml"
    sets.write_text(SET.format(name="a"), encoding="utf-8")
    nodes.write_text("apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n", encoding="utf-8")
    both = find_nodes(None, [str(sets), str(nodes)], 0, "simulated")
    assert [node.name for node in both.nodes] == ["n1"]
    assert [each.file for each in both.refused] == [str(sets)]
    assert both.usable
    assert f"error: {sets}: has no v1 Node in it" in capsys.readouterr().err
    directory = find_nodes(None, [str(tmp_path)], 0, "simulated")
    assert (len(directory.nodes), directory.refused) == (1, [])
    assert not find_nodes(None, [str(sets)], 0, "simulated").usable
    assert find_nodes(0, None, 0, "simulated").usable
