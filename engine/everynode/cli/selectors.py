"""Label selectors as people type them: `tier=web,zone!=a,env in (prod, test),!legacy`.

Used by `get -l`. The matching itself is the core's.
"""

from __future__ import annotations

import re

import typer

from everynode.core.eligibility import matches
from everynode.core.values import Requirement

_KEY = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"[-A-Za-z0-9_.]*"
_SET = re.compile(rf"(?P<key>{_KEY})\s+(?P<operator>in|notin)\s+\((?P<values>[^()]*)\)")
_EQUALITY = re.compile(rf"(?P<key>{_KEY})\s*(?P<operator>==|=|!=)\s*(?P<value>{_VALUE})")
_EXISTENCE = re.compile(rf"(?P<operator>!?)\s*(?P<key>{_KEY})")
_COMMA_OUTSIDE_BRACKETS = re.compile(r",(?![^(]*\))")


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """Read a selector; the empty one matches everything.

    Raises:
        typer.BadParameter: A part of it is no requirement.
    """
    if not text.strip():
        return ()
    return tuple(_parse_one(part.strip()) for part in _COMMA_OUTSIDE_BRACKETS.split(text))


def _parse_one(text: str) -> Requirement:
    if found := _SET.fullmatch(text):
        values = tuple(sorted(value.strip() for value in found["values"].split(",")))
        operator = "In" if found["operator"] == "in" else "NotIn"
        return Requirement(key=found["key"], operator=operator, values=values)
    if found := _EQUALITY.fullmatch(text):
        operator = "NotIn" if found["operator"] == "!=" else "In"
        return Requirement(key=found["key"], operator=operator, values=(found["value"],))
    if found := _EXISTENCE.fullmatch(text):
        operator = "DoesNotExist" if found["operator"] else "Exists"
        return Requirement(key=found["key"], operator=operator)
    raise typer.BadParameter(
        f"{text!r} is no requirement on a label; write key=value, key!=value, key, !key, "
        "'key in (a, b)' or 'key notin (a, b)', separated by commas"
    )


def selects(selector: tuple[Requirement, ...], labels: dict[str, str]) -> bool:
    """Say whether labels meet every requirement."""
    return all(matches(requirement, labels) for requirement in selector)
