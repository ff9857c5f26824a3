"""Files that others recorded, whatever is in them: every document is found, and damage is an error of ours."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.support_sources import Reading, daemonset, file_of, node, pod, reading_of, watch

from everynode.replay.machine_events import Trace, columns_of, read_trace
from everynode_kubernetes.documents import Document, documents_of
from everynode_kubernetes.recorded import read

TRACE = Trace(columns_of("time=0,machine=1,event=2,rack=3"), 1_000_000, 0)

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=4), values, max_size=4)
EVENTS = watch(
    ("ADDED", node("a", 1)),
    ("ADDED", daemonset("agent", 2)),
    ("ADDED", pod("p", 3)),
    ("MODIFIED", daemonset("agent", 4, number=2, image="i:2")),
    ("DELETED", pod("p", 5)),
    ("DELETED", node("a", 6)),
).encode()


def kubectl(content: bytes) -> Reading:
    """Read a file of kubectl's."""
    return reading_of(lambda files: read(files, "cluster"), file_of(content))


@given(
    written=st.lists(st.tuples(objects, st.sampled_from([None, 0, 2])), min_size=1, max_size=5),
    between=st.sampled_from(["", " ", "\n", "\r\n", "\n\n\t"]),
)
def test_every_document_is_found(
    written: list[tuple[dict[str, Any], int | None]], between: str
) -> None:
    """Whatever is in their strings, and however they are laid out."""
    text = between.join(json.dumps(each, indent=indent) for each, indent in written)

    found = list(documents_of(file_of(text)))

    assert all(isinstance(each, Document) for each in found)
    texts = [each.text for each in found if isinstance(each, Document)]
    assert [each for each, _ in written] == list(map(json.loads, texts))


@given(end=st.integers(1, len(EVENTS)))
def test_a_file_of_kubectl_that_was_cut_off_anywhere(end: int) -> None:
    """What stands before the damage is told as it is without it."""
    whole, cut = kubectl(EVENTS), kubectl(EVENTS[:end])

    assert cut.entries == whole.entries[: len(cut.entries)]
    is_between = EVENTS[:end].endswith(b"\n") or EVENTS[end : end + 1] == b"\n"
    assert bool(cut.error) is not is_between


@given(at=st.integers(0, len(EVENTS) - 1), value=st.binary(max_size=9))
def test_a_file_of_kubectl_that_is_damaged_anywhere(at: int, value: bytes) -> None:
    """S8: nothing but an error of ours comes of it."""
    kubectl(EVENTS[:at] + value + EVENTS[at + len(value) :])


@given(content=st.binary(min_size=1, max_size=200))
def test_any_bytes(content: bytes) -> None:
    """S8: likewise for both sources."""
    kubectl(content)
    reading_of(lambda files: read_trace(files, "csv", TRACE), file_of(content))


cells = st.one_of(
    st.integers(-1, 5).map(str),
    st.sampled_from(["add", "remove", "update", "nan", "1e9", "inf", "a/b", "", '"', "ü"]),
    st.text(max_size=4),
)


@given(rows=st.lists(st.lists(cells, max_size=5), max_size=30))
def test_any_rows(rows: list[list[str]]) -> None:
    """S8: every row is either used, or named with what is wrong; time never goes back."""
    text = "\n".join(",".join(row) for row in rows) + "\n"
    happened = list(read_trace([file_of(text)], "csv", TRACE))

    reading = reading_of(lambda _: iter(happened), file_of(text))

    assert reading.times_ms == sorted(reading.times_ms)
    assert all("line " in fault for fault in reading.faults)
