"""Names that are functions of what they name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from everynode.core.identity import (
    POD_NAME_LENGTH_MAX,
    canonical,
    command_id,
    derived_uid,
    pod_name,
    revision_hash,
    shard_of,
)
from everynode.core.values import SetKey

POD: tuple[Any, ...] = ("agent", "uid-1", "node-uid", "rev", "", 0)
COMMAND: tuple[Any, ...] = ("uid-1", 1, "east/node-1", "create", "agent-x", 0)


def test_names_are_fixed_for_ever() -> None:
    """S1: other programs and other processes come to the same names, or a repeat would not meet itself."""
    assert pod_name(*POD) == "agent-1f67622b84e6e"
    assert command_id(*COMMAND) == "4668c528c7d3219ea437"
    assert revision_hash(b'{"spec":{}}') == "99d657e6e5903"
    assert derived_uid("east", "node-1") == "1009a9d19fcea313d99c"
    assert [shard_of(SetKey("default", f"set-{number}"), 16) for number in range(4)] == [
        8,
        10,
        14,
        15,
    ]


@pytest.mark.parametrize("position", range(6))
def test_every_part_of_a_pods_identity_counts(position: int) -> None:
    """S1: another set, node, revision, replaced pod or slot gives another name."""
    changed = list(POD)
    changed[position] = 1 if position == 5 else f"{POD[position]}x"

    assert pod_name(*POD) != pod_name(*changed)


@pytest.mark.parametrize("position", range(6))
def test_every_part_of_an_intention_counts(position: int) -> None:
    """S4: a command for something else, or another attempt, has another id."""
    changed = list(COMMAND)
    changed[position] = 7 if isinstance(COMMAND[position], int) else f"{COMMAND[position]}x"

    assert command_id(*COMMAND) != command_id(*changed)


def test_parts_do_not_run_into_each_other() -> None:
    """Moving a letter from one part to the next gives another name."""
    assert derived_uid("a", "bc") != derived_uid("ab", "c")


@pytest.mark.parametrize("name", ["a", "a" * 49, "a" * 253, "a" * 48 + "-" + "b" * 20, "a.b." * 20])
def test_a_pods_name_is_one_label_long(name: str) -> None:
    """A pod's name is also its host name: at most 63 characters, and no hyphen or dot before the hash."""
    found = pod_name(name, *POD[1:])

    assert len(found) <= POD_NAME_LENGTH_MAX
    stem, _, suffix = found.rpartition("-")
    assert name.startswith(stem)
    assert stem[-1].isalnum()
    assert len(suffix) == 13


@pytest.mark.parametrize("length", [48, 49, 50, 253])
def test_a_pods_name_uses_all_of_the_label(length: int) -> None:
    """A set's name is cut no shorter than 63 characters ask for: 49, a hyphen and 13 of the hash."""
    assert len(pod_name("a" * length, *POD[1:])) == min(length, 49) + 14


def test_a_revision_is_its_content() -> None:
    """The order of keys and white space do not count; a value or the order of a list does."""
    first = revision_hash(b'{"a": 1, "b": [1, 2]}')

    assert first == revision_hash(msgspec.Raw(b'{ "b":[1,2],\n"a":1}'))
    assert first != revision_hash(b'{"a": 2, "b": [1, 2]}')
    assert first != revision_hash(b'{"a": 1, "b": [2, 1]}')


def test_canonical_refuses_what_is_no_json() -> None:
    """The caller reports it; nothing is hashed that another program could not read."""
    assert canonical(b'{"b": 1, "a": {"d": null, "c": []}}') == b'{"a":{"c":[],"d":null},"b":1}'
    with pytest.raises(msgspec.DecodeError):
        canonical(b'{"a": ')


def test_shards_cover_their_range() -> None:
    """Sets spread over all shards; the namespace counts, not only the name."""
    keys = [SetKey(f"ns-{number % 7}", f"set-{number}") for number in range(400)]

    assert {shard_of(key, 16) for key in keys} == set(range(16))
    assert {shard_of(SetKey(f"ns-{number}", "same"), 16) for number in range(200)} == set(range(16))
    assert {shard_of(key, 1) for key in keys} == {0}
