"""Durations and sizes as people type and read them: `7d`, `90s`, `10GiB`.

Used by every command that takes or shows one.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import typer

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_BYTES = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"([0-9]{1,9}(?:ms|s|m|h|d))+")
_DURATION_PART = re.compile(r"([0-9]+)(ms|s|m|h|d)")
_SPEED = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)x?")
_QUANTITY = re.compile(r"([0-9]+)\s*([A-Za-z]*)")


def _parse(text: str, units: dict[str, int], example: str) -> int:
    found = _QUANTITY.fullmatch(text.strip())
    if found is None or found[2] not in units or int(found[1]) == 0:
        names = ", ".join(unit for unit in units if unit)
        raise typer.BadParameter(
            f"{text!r}: write a whole number above 0 and a unit ({names}), as in {example}"
        )
    return int(found[1]) * units[found[2]]


def parse_seconds(text: str) -> int:
    """Read a duration such as `7d` in seconds.

    Raises:
        typer.BadParameter: It is none.
    """
    return _parse(text, _SECONDS, "7d")


def parse_duration_ms(text: str, option: str) -> int:
    """Read a duration as kubectl's options have it, such as `30s` or `1h30m`, in milliseconds; `0` is none.

    Args:
        text: What was typed.
        option: After which option; for the error.

    Raises:
        typer.BadParameter: It is none.
    """
    if text == "0":
        return 0
    if not _DURATION.fullmatch(text):
        raise typer.BadParameter(
            f"{text!r}: write numbers with units (ms, s, m, h, d), as in 30s or 1h30m, or 0",
            param_hint=option,
        )
    return sum(int(number) * _MILLISECONDS[unit] for number, unit in _DURATION_PART.findall(text))


def parse_moment_ms(text: str, now_ms: int, option: str) -> int:
    """Read a point in time: a duration before now such as `24h`, or RFC 3339; in ms since 1970.

    Args:
        text: What was typed.
        now_ms: The time now.
        option: After which option; for the error.

    Raises:
        typer.BadParameter: It is none.
    """
    if _DURATION.fullmatch(text):
        return now_ms - parse_duration_ms(text, option)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r}: write a time as in 2024-05-06T07:08:09Z, or a duration before now, as in 24h",
            param_hint=option,
        ) from error
    if moment.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r}: say in which time zone, as in {text}Z", param_hint=option
        )
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1)


def parse_bytes(text: str) -> int:
    """Read a size such as `10GiB` in bytes; without a unit they are bytes.

    Raises:
        typer.BadParameter: It is none.
    """
    return _parse(text, _BYTES, "10GiB")


def show_seconds(seconds: int) -> str:
    """Write a duration in the largest unit that divides it."""
    for unit, length in reversed(_SECONDS.items()):
        if seconds >= length and seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def show_bytes(size: int) -> str:
    """Write a size with at most one decimal."""
    for unit, length in reversed(_BYTES.items()):
        if unit and size >= length:
            return f"{size / length:.1f}".removesuffix(".0") + f" {unit}"
    return "0 B"


def parse_speed(text: str) -> float:
    """Read how many times faster than then something is to happen: `10x`, or `0.5`.

    Raises:
        typer.BadParameter: It is no number above 0.
    """
    found = _SPEED.fullmatch(text)
    speed = float(found[1]) if found else 0.0
    if not speed:
        message = f"{text!r}: give how many times faster than then, such as 10x or 0.5x"
        raise typer.BadParameter(message, param_hint="--speed")
    return speed
