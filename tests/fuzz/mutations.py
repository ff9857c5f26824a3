"""Mutations of texts: what a fuzzer does to an input that is right, so that it becomes one that may be wrong.

Used by ``tests.fuzz.campaign``. It knows bytes, JSON and the look of YAML, and nothing of what reads them. Everything
is drawn from one ``random.Random``, so that the same draws give the same inputs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

INPUT_BYTES_MAX = 64 * 1024
"""What an input may grow to in the usual course."""

LARGE_INPUT_BYTES_MAX = 1024 * 1024
"""What it may grow to now and then, so that work that grows faster than its input is noticed."""

LARGE_INPUTS_ONE_IN = 4_000
MUTATIONS_MAX = 6
NESTING_MAX = 20_000

_MARK = "@raw@"
"""Stands in a document for a piece of text that no JSON writer would write."""

RAW_PIECES = (
    *(b"1e400", b"-1e400", b"9" * 400, b"-0", b"0.1", b"1E2", b"-", b"01", b"+1", b".5", b"0x1f"),
    *(b"18446744073709551616", b"9223372036854775808", b"-9223372036854775809", b"1e19", b"1.0"),
    *(b"NaN", b"Infinity", b"-Infinity", b"nul", b"True", b"~", b"", b"{}", b"[]", b'""', b"null"),
    *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\x"'),
    *(
        b'{"a":1,"a":2}',
        b"[1,]",
        b"{,}",
        b"[[[[[[]]]]]]",
        b'"' + b"a" * 254 + b'"',
        b'"\n"',
        b"/**/",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 253, 254, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1),
    *(
        0.5,
        -0.0,
        1e300,
        "",
        "a",
        "-",
        ".",
        "..",
        "*",
        ">",
        "a.b",
        "a b",
        " ",
        "\t",
        "%2E",
        "~",
        "/",
    ),
    *(
        "0%",
        "100%",
        "101%",
        "-1%",
        "\u0661%",
        "1e3",
        "0x10",
        "1_000",
        "null",
        "yes",
        "<<",
        "=",
        "\x00",
    ),
    *("\x7f", "\x85", "\u2028", "\ufeff", "\ufffd", "é", "e\u0301", "😀", "İ", "\u202e", "x" * 64),
    *("x" * 253, "x" * 254, [], {}, [[]], [{}], [None], {"": ""}, {"a": None}, [1, "1", True]),
    *("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt", "NoExecute", "NoSchedule", "List"),
    *("RollingUpdate", "OnDelete", "metadata.name", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"),
)
TOKENS = (
    *(
        b"---\n",
        b"...\n",
        b"--- ",
        b"%YAML 1.1\n",
        b"%TAG ! !x\n",
        b"#",
        b"\t",
        b"\r\n",
        b"\r",
        b"\0",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b": ",
        b"? ",
        b"- ",
        b"&a ",
        b"*a",
        b"<<: *a\n",
        b"!!str ",
        b"!x ",
    ),
    *(
        b"|\n",
        b">-\n",
        b"|9\n",
        b"@",
        b"`",
        b'"',
        b"'",
        b"\\",
        b"\\u",
        b"\\ud83d",
        b"kind: List\n",
        b"\xfe",
    ),
    *(
        b"items:\n",
        b"!!binary ",
        b"!!python/object:os.system ",
        b"!!timestamp ",
        b"!!set ",
        b"!!float ",
    ),
    *(
        b"\xef\xbb\xbf",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\xf0\x9f\x98\x80",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
    ),
    *(
        b"null",
        b"~",
        b".inf",
        b".nan",
        b"0o9",
        b"1:2:3",
        b"2020-01-01",
        b"yes",
        b"9" * 30,
        b"1e999",
    ),
)


class Mutator:
    """Makes inputs of a target's seeds.

    Args:
        seeds: Inputs that are right.
        writers: Ways to write a document as text; one is drawn for each input that is mutated as a document.
    """

    def __init__(
        self,
        seeds: Sequence[bytes],
        writers: Sequence[Callable[[random.Random, Any], bytes]],
    ) -> None:
        """Read the seeds that are documents once."""
        self._seeds = list(seeds)
        self._writers = list(writers)
        self._documents = [found for seed in seeds if (found := _document(seed)) is not None]

    def make(self, draw: random.Random) -> bytes:
        """Make one input."""
        if self._documents and draw.random() < 0.6:
            text = self._mutated_document(draw)
            if draw.random() < 0.7:
                return text[:INPUT_BYTES_MAX]
        else:
            text = draw.choice(self._seeds)
        large = draw.randrange(LARGE_INPUTS_ONE_IN) == 0
        size_max = LARGE_INPUT_BYTES_MAX if large else INPUT_BYTES_MAX
        if large:
            text = _repeated(draw, text, size_max)
        for _ in range(_few(draw)):
            text = draw.choice(_TEXT_MUTATIONS)(draw, text, self._seeds)
        return text[:size_max]

    def _mutated_document(self, draw: random.Random) -> bytes:
        # A copy by way of bytes, as the mutations change it in place.
        holder = [msgspec.json.decode(msgspec.json.encode(draw.choice(self._documents)))]
        pieces: list[bytes] = []
        for _ in range(_few(draw)):
            self._mutate_place(draw, holder, pieces)
        text = draw.choice(self._writers)(draw, holder[0])
        for piece in pieces:
            text = text.replace(f'"{_MARK}"'.encode(), piece, 1)
        return text

    def _mutate_place(self, draw: random.Random, holder: list[Any], pieces: list[bytes]) -> None:
        container, key = _place(draw, holder)
        what = draw.randrange(9)
        if what == 0:
            if container is not holder:
                del container[key]
        elif what in {1, 2}:
            container[key] = _copied(draw.choice(VALUES))
        elif what == 3:
            container[key] = _MARK
            pieces.append(draw.choice(RAW_PIECES))
        elif what == 4:
            container[key] = self._piece_of_another(draw)
        elif what == 5:
            container[key] = _varied(draw, container[key])
        elif what == 6:
            _insert(draw, container, key, _copied(draw.choice(VALUES)))
        elif what == 7:
            _insert(draw, container, key, self._piece_of_another(draw))
        else:
            container[key] = _nested(draw, container[key])

    def _piece_of_another(self, draw: random.Random) -> Any:
        container, key = _place(draw, [draw.choice(self._documents)])
        return _copied(container[key])


def _few(draw: random.Random) -> int:
    """How many mutations: most often one, so that much of what is made is nearly right."""
    count = 1
    while count < MUTATIONS_MAX and draw.random() < 0.4:
        count += 1
    return count


def _document(seed: bytes) -> Any:
    try:
        return msgspec.json.decode(seed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _copied(value: Any) -> Any:
    return (
        msgspec.json.decode(msgspec.json.encode(value)) if isinstance(value, list | dict) else value
    )


def _place(draw: random.Random, holder: list[Any]) -> tuple[Any, Any]:
    """Walk into a document, and stop somewhere."""
    container: Any = holder
    key: Any = 0
    while isinstance(inner := container[key], list | dict) and inner and draw.random() < 0.8:
        container = inner
        key = draw.randrange(len(inner)) if isinstance(inner, list) else draw.choice(list(inner))
    return container, key


def _insert(draw: random.Random, container: Any, key: Any, value: Any) -> None:
    if isinstance(container, dict):
        name = draw.choice([*list(container), "a", "", "kind", "<<", "x" * 300, "a.b/c", "😀", "1"])
        container[name] = value
    else:
        container.insert(key, value)


def _varied(draw: random.Random, value: Any) -> Any:
    """Change a value into one that is near to it."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        near = value + draw.choice((1, -1, 0.5, 10, -(2**31)))
        return near if abs(near) < 2**63 else -1  # larger ones are among the raw pieces
    if isinstance(value, str):
        cut = draw.randint(0, len(value))
        return value[:cut] + str(draw.choice(VALUES)) + value[cut + draw.randint(0, 2) :]
    if isinstance(value, list):
        return value[: draw.randint(0, len(value))] + value
    return {str(value.get(key, key)): key for key in value}


def _nested(draw: random.Random, value: Any) -> Any:
    """Put a value into itself, a few times: documents that are nested deeply come from text."""
    for _ in range(draw.choice((1, 2, 5, 30))):
        value = {draw.choice(("a", "items", "spec")): value} if draw.random() < 0.5 else [value]
    return value


# --- texts ----------------------------------------------------------------------------------------


def _span(draw: random.Random, text: bytes) -> tuple[int, int]:
    begin = draw.randint(0, len(text))
    length = draw.choice((0, 1, 1, 2, 4, 10, 40, 200))
    return begin, min(begin + length, len(text))


def _flip(draw: random.Random, text: bytes, _: Sequence[bytes]) -> bytes:
    if not text:
        return text
    at = draw.randrange(len(text))
    return text[:at] + bytes([text[at] ^ (1 << draw.randrange(8))]) + text[at + 1 :]


def _cut(draw: random.Random, text: bytes, _: Sequence[bytes]) -> bytes:
    begin, end = _span(draw, text)
    return text[:begin] + text[end:]


def _put_token(draw: random.Random, text: bytes, _: Sequence[bytes]) -> bytes:
    begin, end = _span(draw, text)
    token = draw.choice(TOKENS) if draw.random() < 0.7 else draw.choice(RAW_PIECES)
    return text[:begin] + token + (text[end:] if draw.random() < 0.5 else text[begin:])


def _put_bytes(draw: random.Random, text: bytes, _: Sequence[bytes]) -> bytes:
    begin, _end = _span(draw, text)
    return text[:begin] + draw.randbytes(draw.randint(1, 8)) + text[begin:]


def _splice(draw: random.Random, text: bytes, seeds: Sequence[bytes]) -> bytes:
    other = draw.choice(seeds)
    return text[: draw.randint(0, len(text))] + other[draw.randint(0, len(other)) :]


def _append(draw: random.Random, text: bytes, seeds: Sequence[bytes]) -> bytes:
    return text + draw.choice((b"\n---\n", b"\n", b" ", b"", b"\n...\n")) + draw.choice(seeds)


def _repeat(draw: random.Random, text: bytes, _: Sequence[bytes]) -> bytes:
    begin, end = _span(draw, text)
    return text[:begin] + text[begin:end] * draw.choice((2, 3, 10, 100)) + text[end:]


def _move_line(draw: random.Random, text: bytes, _: Sequence[bytes]) -> bytes:
    lines = text.split(b"\n")
    line = lines.pop(draw.randrange(len(lines)))
    shift = draw.choice((-2, -1, 0, 1, 2))
    line = line[-shift:] if shift < 0 else b" " * shift + line
    lines.insert(draw.randint(0, len(lines)), line)
    return b"\n".join(lines)


def _name(draw: random.Random, text: bytes, _: Sequence[bytes]) -> bytes:
    """Give a place in YAML an anchor, and name that elsewhere, over and over at times."""
    begin, end = sorted((draw.randint(0, len(text)), draw.randint(0, len(text))))
    alias = draw.choice((b"*b ", b"- *b\n", b"<<: *b\n", b"a: *b\n", b"{<<: *b}", b"[*b,*b]"))
    return text[:begin] + b"&b " + text[begin:end] + alias * draw.choice((1, 2, 50)) + text[end:]


def _nest(draw: random.Random, text: bytes, _: Sequence[bytes]) -> bytes:
    begin, end = _span(draw, text)
    opening, closing = draw.choice(
        ((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b""), (b"? ", b""), (b"{a: ", b"}"))
    )
    depth = draw.choice((3, 50, 99, 100, 101, 600, 1_000, NESTING_MAX // len(opening)))
    if draw.random() < 0.3:
        closing = b""
    return text[:begin] + opening * depth + text[begin:end] + closing * depth + text[end:]


def _repeated(draw: random.Random, text: bytes, size_max: int) -> bytes:
    """Repeat a piece until the text is as large as it may be."""
    piece = draw.choice(
        (*TOKENS, b"a: &a [*a]\n", b"- \n", b"a\n", b"# \n", b"%a\n", b" ", b"---\na\n")
    )
    if draw.random() < 0.5:
        begin, end = _span(draw, text)
        piece = text[begin:end] or piece
    at = draw.randint(0, len(text))
    times = max(1, size_max - len(text)) // len(piece)
    return text[:at] + piece * times + text[at:]


_TEXT_MUTATIONS: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    *(_flip, _flip, _cut, _cut, _put_token, _put_token, _put_token, _put_bytes, _splice),
    *(_append, _repeat, _move_line, _move_line, _name, _nest),
)
