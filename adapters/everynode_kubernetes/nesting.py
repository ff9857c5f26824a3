"""Decodes JSON however deep it is nested.

The API server takes documents that are nested 10,000 deep (encoding/json's limit), and some fields hold whatever
somebody writes into them (ControllerRevision.data). One such object must not hide the list, or the watch, that it is
part of. The client and the reflector decode with this what others have a hand in.
"""

from __future__ import annotations

import sys
from typing import TypeVar

import msgspec

DEPTH_MAX = 15_000
"""Levels of nesting that are followed: what Go takes, and room for what is around it."""

T = TypeVar("T")


def decoded(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
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
