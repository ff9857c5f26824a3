"""Names that are functions of what they name, so that a repeat meets itself.

A pod's name and a command's id are never random: whoever decides the same thing twice, or hears it twice,
comes to the same name, and "already there, and ours" is success. Nothing here may depend on Python's
``hash``, which differs from process to process.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import msgspec

from everynode.core.values import DaemonSet, SetKey
from everynode.errors import InvalidObjectError, Problem

POD_NAME_LENGTH_MAX = 63  # a pod's name is also its host name: one DNS label
_POD_HASH_LENGTH = 13  # 52 bits: among 100,000 pods of a set, two of one name are one in a million
_ID_LENGTH = 20


def _digest(length: int, *parts: str | int) -> str:
    """Hash the parts into ``length`` hexadecimal digits, at most 32.

    The parts are joined with a byte that no name contains, so that ("a", "bc") and ("ab", "c") differ.
    """
    joined = "\x00".join(map(str, parts))
    return hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()[:length]


def pod_name(
    daemonset: str, daemonset_uid: str, node_uid: str, revision: str, replaces: str, slot: int
) -> str:
    """Name the pod that takes one place on one node.

    Args:
        daemonset: Name of the set; cut so that the whole stays one DNS label.
        daemonset_uid: Identity of the set.
        node_uid: Identity of the node.
        revision: Content hash of the template.
        replaces: uid of the pod that was there before; empty if there was none.
        slot: Which place: 0, or 1 for the second pod during a surge.
    """
    suffix = _digest(_POD_HASH_LENGTH, "pod", daemonset_uid, node_uid, revision, replaces, slot)
    stem = daemonset[: POD_NAME_LENGTH_MAX - len(suffix) - 1].rstrip("-.")
    return f"{stem}-{suffix}"


def command_id(
    daemonset_uid: str, generation: int, node: str, verb: str, pod: str, attempt: int
) -> str:
    """Name an intention: the same intention has the same id, whoever decides it and however often.

    Args:
        daemonset_uid: Identity of the set.
        generation: The set's generation that asks for it.
        node: Backend and name of the node, joined by the caller.
        verb: ``create`` or ``delete``.
        pod: Name of the pod.
        attempt: Raised by one for each legitimate retry.
    """
    return _digest(_ID_LENGTH, "command", daemonset_uid, generation, node, verb, pod, attempt)


def canonical(template: bytes | msgspec.Raw) -> bytes:
    """Write a JSON document in the one form that is hashed: keys sorted, no white space.

    Raises:
        msgspec.DecodeError: It is not JSON.
    """
    return msgspec.json.encode(msgspec.json.decode(template), order="sorted")


def revision_hash(template: bytes | msgspec.Raw) -> str:
    """Hash a pod template's content; the same content has the same hash in any key order.

    Unlike Kubernetes (pkg/controller/daemon/update.go), nothing that a server fills in later is part of it: a set does
    not restart because a control plane was upgraded.
    """
    return _digest(_POD_HASH_LENGTH, "revision", canonical(template).decode())


def derived_uid(*parts: str) -> str:
    """Make an identity for something whose source gives it none, such as a node in a plain manifest."""
    return _digest(_ID_LENGTH, "uid", *parts)


@functools.lru_cache(maxsize=4096)
def shard_of(key: SetKey, shards: int) -> int:
    """Say which shard a set belongs to: 0 to ``shards`` - 1, the same in every process for ever."""
    digest = hashlib.blake2b(f"{key.namespace}\x00{key.name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % shards


def revision_of(daemonset: DaemonSet) -> str:
    """Name a set's template by its content.

    Raises:
        InvalidObjectError: It cannot be read.
    """
    try:
        return revision_hash(daemonset.template)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        problem = Problem("spec.template", f"is no JSON document: {error}")
        raise InvalidObjectError(f"DaemonSet {daemonset.key}", (problem,)) from error


RevisionOf = Callable[[DaemonSet], str]
"""Says what a set's template is called; ``revision_of``, unless something was taken out of the template."""
