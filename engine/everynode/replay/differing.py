"""Says in which fields two messages differ, for people. It knows JSON and nothing of what it means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

FIELDS_SHOWN_MAX = 20
TEXT_LENGTH_MAX = 200
NOTHING = "nothing"


class FieldDifference(NamedTuple):
    """One field in which two messages differ; values as JSON."""

    field: str
    was: str
    is_now: str


def differences(was: bytes | None, is_now: bytes | None) -> list[FieldDifference]:
    """Compare two messages; ``None`` is one that is not there. At most 20 differences, in the order of the fields."""
    if was is None or is_now is None:
        return [FieldDifference("message", _shown(was), _shown(is_now))]
    try:
        before, after = msgspec.json.decode(was), msgspec.json.decode(is_now)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return [
            FieldDifference("bytes", repr(was[:TEXT_LENGTH_MAX]), repr(is_now[:TEXT_LENGTH_MAX]))
        ]
    found = [
        each for each, _ in zip(_walk("", before, after), range(FIELDS_SHOWN_MAX), strict=False)
    ]
    if not found:  # the same content, in other words
        return [FieldDifference("text", _cut(was.decode()), _cut(is_now.decode()))]
    return found


def _walk(path: str, was: Any, is_now: Any) -> Iterator[FieldDifference]:
    if isinstance(was, dict) and isinstance(is_now, dict):
        for key in [*was, *(key for key in is_now if key not in was)]:
            place = f"{path}.{key}" if path else key
            yield from _walk(place, was.get(key, ...), is_now.get(key, ...))
    elif isinstance(was, list) and isinstance(is_now, list):
        for number in range(max(len(was), len(is_now))):
            one = was[number] if number < len(was) else ...
            other = is_now[number] if number < len(is_now) else ...
            yield from _walk(f"{path}[{number}]", one, other)
    elif was != is_now or type(was) is not type(is_now):
        yield FieldDifference(path, _value(was), _value(is_now))


def _value(value: Any) -> str:
    return NOTHING if value is ... else _cut(msgspec.json.encode(value).decode())


def _shown(message: bytes | None) -> str:
    return NOTHING if message is None else _cut(message.decode(errors="replace"))


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LENGTH_MAX else f"{text[:TEXT_LENGTH_MAX]}…"
