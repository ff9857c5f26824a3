"""Decodes JSON that strangers have a hand in: however deep it is nested, and whatever its strings escape.

The API server takes documents that are nested 10,000 deep (encoding/json's limit) and strings with halves of surrogate
pairs, and some fields hold whatever somebody writes into them (ControllerRevision.data). One such object must not hide
the list, or the watch, that it is part of. The client and the reflector decode with this.
"""

from __future__ import annotations

import re
import sys
from typing import TypeVar

import msgspec

DEPTH_MAX = 15_000
"""Levels of nesting that are followed: what Go takes, and room for what is around it."""

T = TypeVar("T")

_ESCAPES = re.compile(
    rb"\\\\"  # an escaped backslash: what follows it is no escape
    rb"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # both halves of a pair
    rb"|(?P<half>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_REPLACEMENT = rb"\ufffd"


def decoded(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    """Decode; if that cannot be, with half pairs of surrogates replaced, as Go's decoder does.

    Raises:
        msgspec.DecodeError: It is not JSON.
        msgspec.ValidationError: It is not what the decoder is for, or nested too deep.
    """
    try:
        return _decoded_deep(decoder, body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        repaired = _ESCAPES.sub(
            lambda found: _REPLACEMENT if found["half"] else found[0], bytes(body)
        )
        return _decoded_deep(decoder, repaired)


def _decoded_deep(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    """Decode, with more recursion than usual if it takes that.

    Raises:
        msgspec.DecodeError: It is not JSON.
        msgspec.ValidationError: It is not what the decoder is for, or nested too deep even so.
    """
    try:
        return decoder.decode(body)
    except RecursionError:
        pass
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(max(usual, DEPTH_MAX))
    try:
        return decoder.decode(body)
    except RecursionError as error:
        raise msgspec.ValidationError(f"nested deeper than {DEPTH_MAX} levels") from error
    finally:
        sys.setrecursionlimit(usual)
