"""A fleet's log as a file: JSON lines, compressed with zstd, that can be written and read in bounded memory.

The first line says what the file is. Then come the last messages that STATE had where the file begins, then the
messages of LOG in their order, each with its body as it was, byte for byte; the last line counts and sums up. The file
is a row of zstd frames with a checksum each, so whatever happens to its end, what stands before can be read.
docs/recordings.md describes the format. This module knows nothing of what a message says.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import msgspec
import zstandard

from everynode.core.values import Whole
from everynode.errors import RecordingError
from everynode.ports import Received

SCHEMA_VERSION = 1
MAGIC = "everynode recording"
FRAME_BYTES_MAX = 1024 * 1024
"""How much text a frame holds: what can be lost at the end of a file that was cut off."""
LINE_BYTES_MAX = 8 * 1024 * 1024
"""The longest line that is read: a message of the log has at most 1 MiB, and escapes may multiply it."""
BLOCK_BYTES = 64 * 1024
"""How much text is decoded at once, unless a line is longer: lines that say nothing take fifty times as much."""
READ_BYTES = 1024
"""How much is decompressed at a time: four bytes may say 128 KiB of text, so at most 32 MiB come of it."""
WINDOW_BYTES_MAX = 128 * 1024 * 1024
"""How much a frame may make us remember; what is written here needs 8 MiB at most."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a recording is.

    Attributes:
        what: Always the same words, by which it is known.
        schema: Version of the format.
        fleet: Whose log it is.
        shards: How many shards the fleet has; subjects depend on it.
        begins: Sequence of the first message of LOG that it has.
        from_sequence: Where what was asked for begins; what stands before is there so that decisions can be repeated.
        from_ms, recorded_ms: When that was; when it was recorded.
        redacted: What was taken out of it: ``env``.
        backends: The fleet's backends by name, with their identities.
        program: Version of the program that wrote it.
    """

    what: str
    schema: int
    fleet: str
    shards: int
    begins: int
    from_sequence: int
    from_ms: Whole
    recorded_ms: Whole
    redacted: tuple[str, ...] = ()
    backends: dict[str, str] = {}
    program: str = ""


class Footer(msgspec.Struct, frozen=True, kw_only=True):
    """How a recording ends.

    Attributes:
        messages: How many messages it has, those of STATE included.
        last_sequence: Sequence of the last one; 0 if there is none.
        sha256: Of all that stands before, as text; hexadecimal.
    """

    messages: int
    last_sequence: int
    sha256: str


class Renamed(msgspec.Struct, frozen=True, kw_only=True):
    """What the content of a template was called before something was taken out of it.

    Attributes:
        now: The hash of what stands here.
        was: The hash that everything in the recording calls it by.
    """

    now: str
    was: str


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One message of a recording.

    Attributes:
        received: The message as the log had it.
        is_kept: It is one of those that STATE had where the recording begins.
    """

    received: Received
    is_kept: bool


class _Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One line; exactly one of ``header``, ``body``, ``base64``, ``renamed`` and ``end`` is there."""

    header: Header | None = None
    seq: Whole = 0
    ms: Whole = 0
    subject: str = ""
    kept: bool = False
    base64: str | None = None
    renamed: Renamed | None = None
    end: Footer | None = None
    body: msgspec.Raw = msgspec.Raw()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Line)
_any = msgspec.json.Decoder()

_UNREADABLE = (
    OSError,
    zstandard.ZstdError,
    msgspec.DecodeError,
    UnicodeDecodeError,
    RecursionError,
    binascii.Error,
)


class Writer:
    """Writes a recording.

    Args:
        file: Where to; it is not closed.
        header: What it is.
    """

    def __init__(self, file: BinaryIO, header: Header) -> None:
        """Write the first line."""
        self.messages = 0
        self.last_sequence = 0
        self.bytes_written = 0
        self._file = file
        self._sum = hashlib.sha256()
        self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._put(_Line(header=header))

    def renamed(self, renamed: Renamed) -> None:
        """Say what a template was called before something was taken out of it."""
        self._put(_Line(renamed=renamed))

    def write(self, entry: Entry) -> None:
        """Write the next message."""
        received, payload = entry.received, entry.received.payload
        is_line = _is_line(payload)
        text = None if is_line else base64.b64encode(payload).decode()
        line = _Line(
            seq=received.sequence,
            ms=received.time_ms,
            subject=received.subject,
            kept=entry.is_kept,
            base64=text,
        )
        self.messages += 1
        if not entry.is_kept:
            self.last_sequence = received.sequence
        self._put(line, payload if is_line else b"")

    def flush(self) -> None:
        """Write what is held back, so that a reader finds it."""
        if not self._pending:
            return
        frame = self._compressor.compress(b"".join(self._pending))
        self._pending.clear()
        self._pending_bytes = 0
        self._file.write(frame)
        self._file.flush()
        self.bytes_written += len(frame)

    def finish(self) -> Footer:
        """Write the last line; the recording is complete."""
        footer = Footer(
            messages=self.messages,
            last_sequence=self.last_sequence,
            sha256=self._sum.hexdigest(),
        )
        self._put(_Line(end=footer))
        self.flush()
        return footer

    def _put(self, line: _Line, body: bytes = b"") -> None:
        text = _encoder.encode(line)
        text = b'%b,"body":%b}\n' % (text[:-1], body) if body else text + b"\n"
        self._sum.update(text)
        self._pending.append(text)
        self._pending_bytes += len(text)
        if self._pending_bytes >= FRAME_BYTES_MAX:
            self.flush()


def _is_line(payload: bytes) -> bool:
    """Say whether a body can be taken over as it is: it is JSON, and in one line."""
    if b"\n" in payload or b"\r" in payload:
        return False
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _any.decode(payload)
        payload.decode()  # nor may the line be anything but text
        return payload == payload.strip()  # what surrounds a value would be lost
    return False


class Reader:
    """Reads a recording, as far as it can be read.

    Args:
        file: Where from; it is not closed.
        name: What to call it in errors.

    Attributes:
        header: What it is.
        footer: How it ends; ``None`` until the end was reached.
        renamed: What templates were called, by what they are called here.
        read: The last message that could be read; ``None`` before the first.

    Raises:
        RecordingError: It is none, or of a newer version.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        """Read the first line."""
        self.name = name
        self.footer: Footer | None = None
        self.renamed: dict[str, str] = {}
        self.read: Received | None = None
        self.messages = 0
        self._sum = hashlib.sha256()
        self._blocks = _blocks(file)
        self.header = self._header()

    def _header(self) -> Header:
        try:
            block = next(self._blocks, b"")
            text = block[: block.find(b"\n") + 1]
            self._blocks = itertools.chain([block[len(text) :]], self._blocks)
            header = _decoder.decode(text).header if text else None
        except EOFError as error:
            raise RecordingError(
                f"{self.name}: it was cut off so early that nothing of it can be read; "
                "copy it again, or record anew"
            ) from error
        except _UNREADABLE as error:
            raise RecordingError(
                f"{self.name}: this is no recording of a fleet: {error}; `everynode record` makes one, "
                "and `everynode replay --from` reads what others recorded"
            ) from error
        if not text:
            raise RecordingError(f"{self.name}: it is empty; `everynode record` makes a recording")
        if header is None or header.what != MAGIC:
            raise RecordingError(
                f"{self.name}: this is no recording of a fleet; `everynode record` makes one"
            )
        if header.schema > SCHEMA_VERSION:
            raise RecordingError(
                f"{self.name}: schema {header.schema} is newer than what this program reads, which is "
                f"{SCHEMA_VERSION}; use the version of everynode that wrote it ({header.program})"
            )
        self._sum.update(text)
        return header

    def entries(self) -> Iterator[Entry]:
        """Read the messages, one after the other.

        Raises:
            RecordingError: The file is damaged, or ends too early; everything before that was handed out.
        """
        try:
            for block in self._blocks:
                lines = iter(_decoded(block))
                for line in lines:
                    if line.end is not None:
                        self._check(line.end, block, follows=next(lines, None) is not None)
                        return
                    if line.renamed is not None:
                        self.renamed[line.renamed.now] = line.renamed.was
                        continue
                    payload = bytes(line.body)
                    if not payload or line.base64 is not None:
                        payload = self._payload(line)
                    received = Received(line.seq, line.ms, line.subject, payload)
                    self.messages += 1
                    if not line.kept:
                        self.read = received
                    yield Entry(received, line.kept)
                self._sum.update(block)
        except EOFError:
            pass
        except _UNREADABLE as error:
            raise self._broken(f"it is damaged: {error}") from error
        raise self._broken(
            "it ends before its last line: it was cut off, or is still being written"
        )

    def _payload(self, line: _Line) -> bytes:
        """Read a body that does not stand there as it is."""
        if line.base64 is None or bytes(line.body):
            raise self._broken("there is a line that is no message")
        return base64.b64decode(line.base64, validate=True)

    def _check(self, footer: Footer, block: bytes, *, follows: bool) -> None:
        """Compare the last line with what was read before it, of which the last block is not summed up yet."""
        if follows or next(self._blocks, None) is not None:
            raise self._broken("something follows its last line")
        self._sum.update(block[: block.rfind(b"\n", 0, -1) + 1])
        if footer.messages != self.messages or footer.sha256 != self._sum.hexdigest():
            raise self._broken(
                f"its last line tells of {footer.messages} messages with another checksum: it was changed"
            )
        self.footer = footer

    def _broken(self, what: str) -> RecordingError:
        if self.read is None:
            until = "no message of the log could be read before that"
        else:
            until = f"{self.messages} messages could be read, up to sequence {self.read.sequence}"
        return RecordingError(f"{self.name}: {what}; {until}")


def _decoded(block: bytes) -> Iterable[_Line]:
    """Read lines; of a block that is damaged, those before the damage are handed out.

    Raises:
        msgspec.DecodeError: A line cannot be read.
        UnicodeDecodeError: Likewise.
    """
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        lines = _decoder.decode_lines(block)
        if len(lines) == block.count(b"\n"):
            return lines
    return (_decoder.decode(text + b"\n") for text in block.split(b"\n")[:-1])


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Read whole lines, some at once; a last one that has no end is a damage.

    Raises:
        EOFError: The file was cut off; all lines before were handed out.
        OSError: The file cannot be read.
        zstandard.ZstdError: The compressed text is damaged.
        msgspec.DecodeError: A line is too long, or has no end.
    """
    rest = b""
    for piece in _frames(file):
        text, begun = rest + piece, 0
        while True:
            end = text.rfind(b"\n", begun, begun + BLOCK_BYTES)
            if end == -1:
                end = text.find(b"\n", begun + BLOCK_BYTES)
            if end == -1:
                break
            yield text[begun : end + 1]
            begun = end + 1
        rest = text[begun:]
        if len(rest) > LINE_BYTES_MAX:
            raise msgspec.DecodeError(f"a line is longer than {LINE_BYTES_MAX} bytes")
    if rest:
        raise msgspec.DecodeError("the last line has no end")


def _frames(file: BinaryIO) -> Iterator[bytes]:
    """Decompress; what a frame says is handed out when its checksum is known to be right.

    Only of a frame that is larger than any that is written here parts are handed out before, so memory is bounded.

    Raises:
        EOFError: The file ends in the middle of a frame; what can be read of it was handed out.
    """
    decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX)
    frame = decompressor.decompressobj()
    held: list[bytes] = []
    size = 0
    is_within = False
    while piece := file.read(READ_BYTES):
        while piece:
            held.append(frame.decompress(piece))
            size += len(held[-1])
            is_within = not frame.eof
            piece = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame = decompressor.decompressobj()
            if not is_within or size > FRAME_BYTES_MAX + LINE_BYTES_MAX:
                yield b"".join(held)
                held, size = [], 0
    if is_within:
        yield b"".join(held)
        raise EOFError
