"""Objects as JSON or YAML on stdout, laid out as kubectl lays them out.

Used by every command that knows `-o json` and `-o yaml`. It knows nothing of what the objects are.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import msgspec

INDENT = 4


def as_json(document: Any) -> str:
    """Write an object as JSON, indented, without a final newline."""
    return msgspec.json.format(msgspec.json.encode(document), indent=INDENT).decode()


def as_yaml(document: Any) -> str:
    """Write an object as YAML, keys in the order they have, without a final newline."""
    import yaml  # noqa: PLC0415 - takes long, and few ask for it

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    plain = msgspec.json.decode(msgspec.json.encode(document))
    text: str = yaml.dump(
        plain, Dumper=dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
    return text.rstrip("\n")


def print_object(document: Any, output: str) -> None:
    """Print an object on stdout.

    Args:
        document: Dictionaries, lists, strings, numbers and msgspec values.
        output: `yaml`; everything else is JSON.
    """
    print(as_yaml(document) if output == "yaml" else as_json(document), flush=True)


def print_objects(documents: Iterable[Any], output: str) -> None:
    """Print a list of objects on stdout while they are made, so that no more than one is in memory.

    Args:
        documents: Dictionaries, lists, strings, numbers and msgspec values.
        output: `yaml`; everything else is JSON.
    """
    count = 0
    for count, document in enumerate(documents, 1):
        if output == "yaml":
            print(as_yaml([document]))
        else:
            print("[" if count == 1 else ",")
            print(textwrap.indent(as_json(document), " " * INDENT), end="")
    if output == "yaml":
        print(end="" if count else "[]\n", flush=True)
    else:
        print("\n]" if count else "[]", flush=True)
