"""Files of kubectl's: however JSON was laid out, whatever stands in between, and files that end too early."""

from __future__ import annotations

import gzip
import json

import pytest
from tests.unit.support_sources import (
    api_list,
    daemonset,
    event,
    file_of,
    kubectl,
    node,
    node_names,
    watch,
)

from everynode.core.values import NodeKey, SetKey

BACKEND = "cluster"
AGENT = SetKey("default", "agent")


class TestLayout:
    """However JSON was laid out, and whatever stands in between."""

    EVENTS = (
        ("ADDED", node("a", 1, labels={"text": '}}}}{"][\\'})),
        ("MODIFIED", node("a", 2, labels={"x": "\u00fc\\\\"})),
        ("ADDED", node("b", 3)),
    )

    @pytest.mark.parametrize("indent", [None, 0, 4])
    @pytest.mark.parametrize("between", ["", "\n", "\n\n  "])
    def test_white_space(self, indent: int | None, between: str) -> None:
        """Pretty-printed or not, one after the other with or without lines in between."""
        texts = [json.dumps({"type": t, "object": o}, indent=indent) for t, o in self.EVENTS]
        reading = kubectl(between.join(texts))

        assert ["a", "b"] == node_names(reading)
        assert ([], "") == (reading.faults, reading.error)
        assert {"x": "\u00fc\\\\"} == reading.view.nodes[NodeKey(BACKEND, "a")].labels

    def test_gzip(self) -> None:
        """A compressed file is read as it is."""
        assert ["a", "b"] == node_names(kubectl(gzip.compress(watch(*self.EVENTS).encode())))

    def test_deep_nesting(self) -> None:
        """L3: an object that is nested as deep as API servers allow hides nothing."""
        deep = (
            json.dumps(node("deep", 1)).replace('"spec"', '"x"')[:-1]
            + ', "spec": {"more": '
            + "[" * 9_000
            + "]" * 9_000
            + "}}"
        )
        reading = kubectl(f'{{"type": "ADDED", "object": {deep}}}\n' + watch(*self.EVENTS))

        assert {"a", "b"} <= set(node_names(reading))

    def test_what_is_no_json(self) -> None:
        """What a program said in between is named, and passed over."""
        first, *rest = (event(*each) for each in self.EVENTS)
        text = f"{first}W1129 warnings.go: deprecated\n" + "".join(rest) + '{"a": tru}\n[1]\n{}\n'
        reading = kubectl(text)

        assert ["a", "b"] == node_names(reading)
        assert [
            "file: line 2: it is no JSON object: 'W1129 warnings.go: deprecated'",
            "file: line 5: it is no JSON object",
            "file: line 6: it is no JSON object",
            "file: line 7: it is no object, list or event of Kubernetes",
        ] == reading.faults

    def test_errors_of_the_watch(self) -> None:
        """They are told, and reading goes on."""
        status = {"kind": "Status", "code": 410, "message": "too old resource version"}
        text = watch(self.EVENTS[0], ("ERROR", status), ("LATER", {}), self.EVENTS[2])
        reading = kubectl(text)

        assert ["a", "b"] == node_names(reading)
        assert [
            "file: line 2: the watch ended with an error: too old resource version",
            "file: line 3: events of type 'LATER' are not known",
        ] == reading.faults

    def test_objects_without_a_name(self) -> None:
        """They are named by where they stand."""
        reading = kubectl(watch(("ADDED", {"kind": "Node", "metadata": 1}), self.EVENTS[0]))

        assert ["file: line 1: an object without a readable name"] == reading.faults
        assert ["a"] == node_names(reading)


class TestDamage:
    """Files that end too early."""

    def test_a_file_that_was_cut_off(self) -> None:
        """All before that is there, and all of the other files; the error says where it stopped."""
        text = watch(("ADDED", node("a", 1)), ("MODIFIED", node("a", 2)), ("ADDED", node("b", 5)))
        reading = kubectl(
            file_of(text[:-20], "nodes.json"),
            watch(("ADDED", daemonset("agent", 3)), ("MODIFIED", daemonset("agent", 9, number=2))),
        )

        assert ["a"] == node_names(reading)
        assert 2 == reading.view.daemonsets[AGENT].generation
        assert "nodes.json: line 3: what begins here has no end" in reading.error
        assert "2 documents could be read before" in reading.error

    def test_a_gzip_that_was_cut_off(self) -> None:
        """Likewise."""
        text = gzip.compress(
            watch(*(("ADDED", node(f"n{i}", i + 1)) for i in range(2000))).encode()
        )
        reading = kubectl(text[: len(text) // 2])

        assert "it is damaged or was cut off" in reading.error
        assert len(reading.view.nodes) > 100

    def test_what_is_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A document and a line have a limit; all before that is there."""
        fits, text = api_list(node("a", 1)), api_list(node("a", 1), node("b", 2))
        with monkeypatch.context() as small:
            small.setattr("everynode_kubernetes.documents.DOCUMENT_BYTES_MAX", len(fits))
            document = kubectl(fits + fits + text)
        with monkeypatch.context() as small:
            small.setattr("everynode.replay.sources.LINE_BYTES_MAX", 600)
            line = kubectl(text + watch(("ADDED", node("c", 3, labels={"x": "y" * 600}))))

        assert ["a"] == node_names(document)
        assert "what begins here is too large to be read; 2 documents" in document.error
        assert ["a", "b"] == node_names(line)
        assert "is longer than 600 bytes" in line.error

    def test_nothing(self) -> None:
        """An empty file is an error, and hides no other."""
        reading = kubectl(file_of("", "empty"), watch(("ADDED", node("a", 1))))

        assert "empty: it is empty" == reading.error
        assert ["a"] == node_names(reading)
