"""Ways to write a document as text: JSON as programs write it, and YAML as people do, with all that YAML has.

Used by ``tests.fuzz.targets``. Choices are drawn, and not all of what is written can be read: that is the point.
"""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec

_COMMENT = "  # c"


def compact_json(_: random.Random, value: Any) -> bytes:
    """Write JSON without a space."""
    return msgspec.json.encode(value)


def message(_: random.Random, value: Any) -> bytes:
    """Write a message of the log, with its version first, where ``wire`` expects it."""
    if isinstance(value, dict) and "v" in value:
        value = {"v": value["v"], **value}
    return msgspec.json.encode(value)


def indented_json(draw: random.Random, value: Any) -> bytes:
    """Write JSON as ``kubectl get -o json`` does."""
    return json.dumps(
        value, indent=draw.choice((1, 2, 4)), ensure_ascii=draw.random() < 0.5
    ).encode(errors="surrogatepass")


def yaml_text(draw: random.Random, value: Any) -> bytes:
    """Write YAML: blocks and flows, anchors and aliases, tags, comments, every kind of scalar."""
    lines: list[str] = []
    _write(draw, value, 0, lines, "")
    return "\n".join(lines).encode(errors="surrogatepass") + b"\n"


def _write(draw: random.Random, value: Any, indent: int, lines: list[str], lead: str) -> None:
    """Write a value behind what its line begins with."""
    properties = _properties(draw)
    if not isinstance(value, dict | list) or not value or draw.random() < 0.05:
        text = _scalar(draw, value, indent)
        lines.append(f"{lead}{properties}{text}{_COMMENT if draw.random() < 0.02 else ''}")
        return
    if lead or properties:
        lines.append(f"{lead}{properties}".rstrip())
    space = " " * indent
    if isinstance(value, dict):
        for key, child in value.items():
            written = key if draw.random() < 0.9 and key else json.dumps(key)
            mark = (
                f"{space}? {written}\n{space}: " if draw.random() < 0.01 else f"{space}{written}: "
            )
            _write(draw, child, indent + 2, lines, mark)
    else:
        for child in value:
            _write(draw, child, indent + 2, lines, f"{space}- ")


def _properties(draw: random.Random) -> str:
    if draw.random() < 0.95:
        return ""
    return draw.choice(
        ("&a ", "&b ", "!!str ", "!!map ", "!!seq ", "!!int ", "! ", "!x ", "&a !!str ")
    )


def _scalar(draw: random.Random, value: Any, indent: int) -> str:
    if draw.random() < 0.02:
        return draw.choice(("*a", "*b", "~", "", "<<", "{<<: *a}", "[*a, *b]"))
    if not isinstance(value, str) or "\n" in value or draw.random() < 0.4:
        return json.dumps(value)
    style = draw.randrange(4)
    if style == 0:
        return "'" + value.replace("'", "''") + "'"
    if style == 1:
        mark = draw.choice(("|", ">", "|-", ">+", "|2"))
        return f"{mark}\n{' ' * indent}{value}"
    return value or '""'
