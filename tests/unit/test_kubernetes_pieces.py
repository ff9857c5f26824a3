"""The small parts below the connection to an API server: lines, pace, depth."""

from __future__ import annotations

import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everynode.errors import UnavailableError
from everynode_kubernetes.lines import Lines
from everynode_kubernetes.nesting import decoded
from everynode_kubernetes.pacing import BURST_SECONDS, Pace


class TestLines:
    """Bytes become lines."""

    @given(st.lists(st.binary(max_size=9).map(lambda line: line.replace(b"\n", b"-"))), st.data())
    def test_however_it_is_cut(self, wanted: list[bytes], data: st.DataObject) -> None:
        """Lines come out whole and in order wherever the stream was cut; empty ones and the unfinished do not."""
        stream = b"".join(line + b"\n" for line in wanted) + b"unfinished"
        lines = Lines()
        found = []
        while stream:
            length = data.draw(st.integers(1, len(stream)))
            found += lines.feed(stream[:length])
            stream = stream[length:]

        assert [line for line in wanted if line] == found

    def test_a_line_without_end(self) -> None:
        """B1: what never ends is not kept for ever; what was complete does not count."""
        lines = Lines(bytes_max=10)
        assert [b"x" * 99] == lines.feed(b"x" * 99 + b"\n" + b"y" * 6)

        with pytest.raises(UnavailableError, match="longer than 10 bytes"):
            lines.feed(b"y" * 5)


class TestPace:
    """B1: requests are begun no faster than agreed."""

    @given(
        st.floats(0.1, 1000),
        st.lists(st.floats(0, 5), min_size=1, max_size=60),
    )
    def test_never_faster(self, per_second: float, pauses_s: list[float]) -> None:
        """In any stretch of time there are at most the burst and so many more as fit into it."""
        pace = Pace(per_second)
        now_s = 0.0
        begun_s: list[float] = []
        for pause_s in pauses_s:
            now_s += pause_s
            begun_s.append(now_s + pace.wait_s(now_s))

        burst = max(1.0, BURST_SECONDS * per_second)
        for first, start_s in enumerate(begun_s):
            for last in range(first, len(begun_s)):
                allowed = burst + (begun_s[last] - start_s) * per_second
                assert last - first + 1 <= allowed + 1e-6

    def test_never_slower(self) -> None:
        """After a quiet time a whole burst begins at once; then one at a time, evenly."""
        pace = Pace(5)

        waits_s = [round(pace.wait_s(100.0), 6) for _ in range(13)]

        assert [0.0] * 10 + [0.2, 0.4, 0.6] == waits_s
        assert 0.0 == pace.wait_s(200.0)

    def test_no_limit(self) -> None:
        """0 is no limit."""
        pace = Pace(0)

        assert {0.0} == {pace.wait_s(1.0) for _ in range(1000)}


class TestNesting:
    """JSON of any depth that an API server takes."""

    decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])

    @pytest.mark.parametrize("depth", [1, 1_000, 10_000])
    def test_as_deep_as_go_allows(self, depth: int) -> None:
        """Ten thousand levels are read, and the interpreter's limit is as it was."""
        usual = sys.getrecursionlimit()
        inner = b"[" * depth + b"]" * depth

        assert {"a": inner} == {
            key: bytes(value) for key, value in decoded(self.decoder, b'{"a":%s}' % inner).items()
        }
        assert usual == sys.getrecursionlimit()

    def test_too_deep(self) -> None:
        """Deeper than that it is an object that cannot be read, and no crash."""
        usual = sys.getrecursionlimit()

        with pytest.raises(msgspec.ValidationError, match="nested deeper"):
            decoded(self.decoder, b'{"a":%s}' % (b"[" * 1_000_000))

        assert usual == sys.getrecursionlimit()


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (rb'{"a":"\ud800"}', "\ufffd"),
        (rb'{"a":"x\udfffy\uD83D"}', "x\ufffdy\ufffd"),
        (rb'{"a":"\ud83d\ude00"}', "\U0001f600"),
        (rb'{"a":"\ud800\ud83d\ude00"}', "\ufffd\U0001f600"),
        (rb'{"a":"\\ud800","b":"\ud800"}', r"\ud800"),
    ],
)
def test_half_surrogates_hide_nothing(text: bytes, read: str) -> None:
    """L3: what an API server keeps and JSON does not allow is replaced, and everything else is read as it is."""
    decoder = msgspec.json.Decoder(dict[str, str])

    assert read == decoded(decoder, text)["a"]


def test_what_is_no_json_is_still_none() -> None:
    """Only half surrogates are mended."""
    with pytest.raises(msgspec.DecodeError):
        decoded(msgspec.json.Decoder(dict[str, str]), rb'{"a":"\ud800"')
