"""What an unquoted word means: a number, true or false, null, or text.

Used by ``documents``. Kubernetes' tools read YAML with sigs.k8s.io/yaml, and so do these rules: words such as
``yes`` and ``on`` are booleans, ``0644`` is octal, a date or ``12:30`` is text (in other YAML 1.1 readers it is not).
"""

from __future__ import annotations

import math
import re

from everynode.manifest.names import printable

Scalar = str | int | float | bool | None

TAG_PREFIX = "tag:yaml.org,2002:"

_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE", "yes", "Yes", "YES", "y", "Y"), True),
    **dict.fromkeys(("on", "On", "ON"), True),
    **dict.fromkeys(("false", "False", "FALSE", "no", "No", "NO", "n", "N"), False),
    **dict.fromkeys(("off", "Off", "OFF"), False),
}
_NOT_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NUMBER_START = frozenset("+-.0123456789")
_INTEGER = re.compile(
    r"(?P<sign>[-+]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<binary>[01]+)"
    r"|0[oO]?(?P<octal>[0-7]+)|(?P<decimal>0|[1-9][0-9]*))"
)
_BASES = {"hex": 16, "binary": 2, "octal": 8, "decimal": 10}
_DIGITS_MAX = 64  # those of a 64-bit number in base 2
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def plain(text: str) -> Scalar:
    """Read an unquoted word.

    Raises:
        ValueError: It is a number that JSON or 64 bits cannot hold; the message says what to do.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START:
        return text
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("is not a finite number: write a number, or put it in quotes")
    digits = text.replace("_", "")
    if found := _INTEGER.fullmatch(digits):
        return _integer(found)
    if _FLOAT.fullmatch(digits):
        return from_float(digits)
    return text


def tagged(tag: str, text: str) -> Scalar:
    """Read a word that has a tag: ``!!str 12`` is text.

    Raises:
        ValueError: The tag is none of JSON's types, or the word is not of the type that it names.
    """
    if tag == f"{TAG_PREFIX}str":
        return text
    types: dict[str, tuple[type, ...]] = {
        f"{TAG_PREFIX}int": (int,),
        f"{TAG_PREFIX}float": (int, float),
        f"{TAG_PREFIX}bool": (bool,),
        f"{TAG_PREFIX}null": (type(None),),
    }
    if tag not in types:
        raise ValueError(f"has the tag {shown_tag(tag)}, which is not supported: remove the tag")
    value = plain(text)
    if type(value) not in types[tag]:
        raise ValueError(f"is not what its tag {shown_tag(tag)} says: correct it or remove the tag")
    return value


def shown_tag(tag: str) -> str:
    """Write a tag as people write it: ``!!python/object``."""
    return printable(f"!!{tag.removeprefix(TAG_PREFIX)}" if tag.startswith(TAG_PREFIX) else tag)


def from_float(text: str) -> int | float:
    """Read a number with a point or an exponent; a whole one is an integer, as in JSON that Kubernetes writes.

    Raises:
        ValueError: It is too large.
    """
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("is too large a number: put it in quotes if it is text")
    return int(number) if number.is_integer() and INT64_MIN <= number <= INT64_MAX else number


def _integer(found: re.Match[str]) -> int:
    base = found.lastgroup or "decimal"
    digits = found[base]
    number = int(digits, _BASES[base]) if len(digits) <= _DIGITS_MAX else INT64_MAX + 1
    number = -number if found["sign"] == "-" else number
    if not INT64_MIN <= number <= INT64_MAX:
        raise ValueError("needs more than 64 bits: put it in quotes if it is text")
    return number
