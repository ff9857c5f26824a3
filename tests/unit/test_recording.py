"""A recording is written and read as it was, and says how far it can be read when it cannot."""

from __future__ import annotations

import io
from collections.abc import Callable

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from everynode.errors import RecordingError
from everynode.ports import Received
from everynode.replay import recording
from everynode.replay.recording import MAGIC, Entry, Header, Reader, Renamed, Writer

HEADER = Header(
    what=MAGIC,
    schema=1,
    fleet="edge",
    shards=4,
    begins=1,
    from_sequence=1,
    from_ms=10,
    recorded_ms=20,
    program="1.2.3",
)


def entries(count: int) -> list[Entry]:
    """Make messages that are not all JSON."""
    bodies = [
        b'{"v":1,"kind":"Tick"}',
        b"\xff\xfe",
        b'{"a":\n1}',
        b"null",
        b"",
        b' {"v":1}',
        b"[" * 2_000,
    ]
    return [
        Entry(
            Received(
                place + 1, place * 10, f"everynode.edge.tick.{place}", bodies[place % len(bodies)]
            ),
            False,
        )
        for place in range(count)
    ]


def written(found: list[Entry], header: Header = HEADER, *, finish: bool = True) -> bytes:
    """Write a recording."""
    file = io.BytesIO()
    writer = Writer(file, header)
    for entry in found:
        writer.write(entry)
    if finish:
        writer.finish()
    else:
        writer.flush()
    return file.getvalue()


def read(content: bytes) -> tuple[list[Entry], str]:
    """Read what can be read, and why no more could be."""
    found: list[Entry] = []
    try:
        for entry in Reader(io.BytesIO(content), "r").entries():
            found.append(entry)  # noqa: PERF402 - what came before an error counts
    except RecordingError as error:
        return found, str(error)
    return found, ""


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames of a few messages."""
    monkeypatch.setattr(recording, "FRAME_BYTES_MAX", 500)


class TestRoundTrip:
    """What was written is what is read."""

    def test_all_bodies(self) -> None:
        """Each body comes back byte for byte, be it JSON or not."""
        kept = Entry(Received(7, 5, "everynode.edge.node.b.n", b'{"v":1}'), is_kept=True)

        found, why = read(written([kept, *entries(20)]))

        assert ([kept, *entries(20)], "") == (found, why)

    @given(st.lists(st.binary(max_size=50)))
    def test_any_body(self, bodies: list[bytes]) -> None:
        """So does any other."""
        made = [
            Entry(Received(place, 1, "s", body), is_kept=False) for place, body in enumerate(bodies)
        ]

        assert (made, "") == read(written(made))

    @pytest.mark.parametrize("block_bytes", [1, 150, 4_000])
    def test_any_block(self, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
        """However much is decoded at once, and though some lines are longer than that."""
        monkeypatch.setattr(recording, "BLOCK_BYTES", block_bytes)

        assert (entries(30), "") == read(written(entries(30)))

    def test_header_and_footer(self) -> None:
        """The header is read at once, the footer at the end."""
        reader = Reader(io.BytesIO(written(entries(3))), "r")

        assert (HEADER, None) == (reader.header, reader.footer)
        assert 3 == len(list(reader.entries()))
        assert reader.footer is not None
        assert (3, 3) == (reader.footer.messages, reader.footer.last_sequence)

    def test_renamed(self) -> None:
        """What a template was called is known when it comes."""
        file = io.BytesIO()
        writer = Writer(file, HEADER)
        writer.renamed(Renamed(now="a", was="b"))
        writer.write(entries(1)[0])
        writer.finish()
        reader = Reader(io.BytesIO(file.getvalue()), "r")

        next(reader.entries())

        assert {"a": "b"} == reader.renamed

    @pytest.mark.usefixtures("small_frames")
    def test_it_is_json_lines(self) -> None:
        """Whoever has zstd and reads JSON can read it."""
        with zstandard.ZstdDecompressor().stream_reader(
            io.BytesIO(written(entries(3))), read_across_frames=True
        ) as stream:
            lines = [msgspec.json.decode(line) for line in stream.read().splitlines()]

        assert ["header", "seq", "seq", "seq", "end"] == [next(iter(line)) for line in lines]
        assert {"v": 1, "kind": "Tick"} == lines[1]["body"]


class TestDamage:
    """What cannot be read is said, with how far it could be; what stands before is handed out."""

    @pytest.mark.usefixtures("small_frames")
    @pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
    def test_cut_off(self, part: float) -> None:
        """A file that was cut off is read up to there."""
        content = written(entries(500))

        found, why = read(content[: int(len(content) * part)])

        assert entries(500)[: len(found)] == found
        assert len(found) >= 500 * part - 60
        assert (
            f"{len(found)} messages could be read, up to sequence {found[-1].received.sequence}"
            in why
        )

    @pytest.mark.usefixtures("small_frames")
    @given(st.floats(0.02, 0.98), st.integers(0, 7))
    def test_a_flipped_bit(self, part: float, bit: int) -> None:
        """A flipped bit hands out nothing that was not written; all of it only if the bit means nothing to zstd."""
        content = bytearray(written(entries(100)))
        content[int(len(content) * part)] ^= 1 << bit

        try:
            found, why = read(bytes(content))
        except RecordingError as error:
            found, why = [], str(error)

        assert entries(100)[: len(found)] == found
        assert why or len(found) == 100

    def test_a_flipped_bit_in_a_large_frame(self) -> None:
        """Nothing of a frame is handed out before its checksum is known to be right."""
        content = written(entries(1_000))

        for place in range(100, len(content) - 20, len(content) // 200):
            flipped = bytearray(content)
            flipped[place] ^= 1
            found, why = read(bytes(flipped))
            assert entries(1_000)[: len(found)] == found
            assert why or len(found) == 1_000

    def test_cut_off_early(self) -> None:
        """One that was cut off in its first frame before anything can be read is not called empty."""
        with pytest.raises(RecordingError, match="cut off so early"):
            Reader(io.BytesIO(written(entries(100))[:60]), "r")

    def test_cannot_be_read(self) -> None:
        """What the system says about a file is told with how far it could be read."""

        class Failing(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                piece = super().read(size)
                if not piece:
                    raise OSError(5, "Input/output error")
                return piece

        reader = Reader(Failing(written(entries(3), finish=False)), "r")

        with pytest.raises(RecordingError, match=r"Input/output error; 3 messages could be read"):
            list(reader.entries())

    def test_still_being_written(self) -> None:
        """One without its last line is read, and it is said that it is not complete."""
        found, why = read(written(entries(3), finish=False))

        assert entries(3) == found
        assert "ends before its last line" in why

    def test_changed(self) -> None:
        """One whose text was changed with care is known by its checksum."""
        text = zstandard.ZstdDecompressor().decompressobj().decompress(written(entries(1)))
        changed = zstandard.ZstdCompressor().compress(text.replace(b'"Tick"', b'"Tock"'))

        assert "another checksum" in read(changed)[1]

    @pytest.mark.parametrize("damage", [b"{", b'{"seq":"four"}', b"\xff", b""])
    def test_before_the_damage(self, damage: bytes) -> None:
        """What stands before a damaged line is read, though it is decoded together with it."""
        text = zstandard.ZstdDecompressor().decompressobj().decompress(written(entries(9)))
        lines = text.split(b"\n")
        lines[5] = damage
        content = zstandard.ZstdCompressor().compress(b"\n".join(lines))

        found, why = read(content)

        assert entries(9)[:4] == found[:4]
        assert "it is damaged" in why or "another checksum" in why

    def test_something_follows_at_once(self) -> None:
        """Nor may there be another line in the same frame."""
        text = zstandard.ZstdDecompressor().decompressobj().decompress(written(entries(2)))

        found, why = read(zstandard.ZstdCompressor().compress(text + b'{"seq":9,"body":{}}\n'))

        assert entries(2) == found
        assert "something follows its last line" in why

    @pytest.mark.parametrize(
        "change",
        [
            lambda lines: lines.insert(4, b""),
            lambda lines: lines.__setitem__(4, lines[4] + b" " + lines.pop(5)),
            lambda lines: lines.insert(
                4, b'{"seq":4,"body":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
            ),
        ],
        ids=["an empty line", "two in one", "nested deeply"],
    )
    def test_what_is_no_line(self, change: Callable[[list[bytes]], None]) -> None:
        """One line is one message; what stands before another thing is read."""
        text = zstandard.ZstdDecompressor().decompressobj().decompress(written(entries(9)))
        lines = text.split(b"\n")
        change(lines)

        found, why = read(zstandard.ZstdCompressor().compress(b"\n".join(lines)))

        assert entries(9)[:3] == found
        assert "it is damaged" in why

    def test_two_bodies(self) -> None:
        """A line with a body in both forms says nothing for sure."""
        text = zstandard.ZstdDecompressor().decompressobj().decompress(written([], finish=False))
        line = b'{"seq":4,"base64":"e30=","body":{}}\n'

        assert (
            "a line that is no message" in read(zstandard.ZstdCompressor().compress(text + line))[1]
        )

    def test_something_follows(self) -> None:
        """Two files in one are not a recording."""
        content = written(entries(2))

        assert "something follows its last line" in read(content + content)[1]

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "it is empty"),
            (b"hello", "no recording"),
            (zstandard.ZstdCompressor().compress(b"hello\n"), "no recording"),
            (zstandard.ZstdCompressor().compress(b'{"seq":1,"body":{}}\n'), "no recording"),
            (zstandard.ZstdCompressor().compress(b"{" * 100), "no recording"),
            (written([], msgspec.structs.replace(HEADER, schema=2)), "schema 2 is newer"),
        ],
    )
    def test_none(self, content: bytes, why: str) -> None:
        """What is no recording, or of a newer version, is refused with what to do."""
        with pytest.raises(RecordingError, match=why):
            Reader(io.BytesIO(content), "r")

    def test_bomb(self) -> None:
        """B1: a line without an end is given up; what it would fill is never held."""
        bomb = zstandard.ZstdCompressor().compress(b" " * (64 * 1024 * 1024))

        with pytest.raises(RecordingError, match="longer than"):
            Reader(io.BytesIO(bomb), "r")

    def test_bomb_of_lines(self) -> None:
        """B1: of lines that say nothing few are held at once."""
        bomb = zstandard.ZstdCompressor().compress(b"{}\n" * (8 * 1024 * 1024))

        sizes = [len(block) for block in recording._blocks(io.BytesIO(bomb))]

        assert 24 * 1024 * 1024 == sum(sizes)
        assert max(sizes) <= recording.BLOCK_BYTES

    @pytest.mark.parametrize("time_ms", [-1, 10**18])
    def test_a_time_that_is_none(self, time_ms: int) -> None:
        """A time that no calendar has is a damage, so that whoever reads on can write it."""
        good, bad = entries(2)
        found, why = read(
            written(
                [
                    good,
                    structs.replace(bad, received=structs.replace(bad.received, time_ms=time_ms)),
                ]
            )
        )

        assert [good] == found
        assert "it is damaged" in why

    def test_a_line_that_is_no_message(self) -> None:
        """A line without a body is said."""
        text = zstandard.ZstdDecompressor().decompressobj().decompress(written([], finish=False))
        content = zstandard.ZstdCompressor().compress(text + b'{"seq":4}\n')

        assert "a line that is no message" in read(content)[1]
