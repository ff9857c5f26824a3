"""How a simulated fleet behaves: delays, and which share of pods, nodes and calls goes wrong.

Read by the fleet and the adapter. Everything is drawn from one seed and from the identity of what it is drawn for,
never from the order of calls, so that the same fleet meets the same fate however the calls interleave.
"""

from __future__ import annotations

import enum
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated

import msgspec

FATE_ANNOTATION = "simulated.everynode/fate"
"""Annotation of a pod template that decides the fate of its pods: ``works``, ``hangs``, ``fails``, ``finishes``."""

DelayMs = tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=0)]]
"""The shortest and the longest of an evenly spread delay, in milliseconds."""


Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Fate(enum.Enum):
    """What becomes of a pod after it started."""

    WORKS = "works"
    HANGS = "hangs"  # runs, but is never ready
    FAILS = "fails"  # runs for a while, never ready, then ends with an error
    FINISHES = "finishes"

    @property
    def gets_ready(self) -> bool:
        """Whether it is ready while it runs; a bad image never is."""
        return self in {Fate.WORKS, Fate.FINISHES}


class NodeFate(enum.Enum):
    """What becomes of a node after it joined."""

    STAYS = "stays"
    FLAPS = "flaps"  # its Ready condition comes and goes
    VANISHES = "vanishes"
    IS_REPLACED = "is replaced"  # it vanishes, and another one comes under its name


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """A fleet's behaviour; by default everything works and is quick.

    Attributes:
        seed: Everything that looks like chance comes from it.
        start_ms: From a pod's creation until it runs.
        ready_ms: From running to ready.
        stop_ms: From the request to delete a pod until it is gone; (0, 0): at once.
        run_ms: How long a pod that fails or finishes runs before it does.
        pods_hang: Share of the pods that never become ready, 0 to 1.
        pods_fail: Share of the pods that fail.
        pods_finish: Share of the pods that finish.
        nodes_flap: Share of the nodes whose Ready condition comes and goes.
        nodes_vanish: Share of the nodes that leave for ever.
        nodes_replaced: Share of the nodes that leave, and return under the same name with another uid.
        node_up_ms: How long a node is well before one of that happens.
        node_down_ms: How long it is not ready, or away.
        pods_outlive_nodes: Whether the pods of a node that left stay on record, not ready, until they are deleted
            (as in Kubernetes), or are gone with it.
        unready_nodes_stop_pods: Whether a pod that is deleted on a node that is not ready is gone all the same, or on
            its way out until the node is ready again or gone (as in Kubernetes).
        apply_ms: How long the backend takes to answer a call.
        calls_unavailable: Share of the calls that are answered with "not now", and do nothing.
        calls_unanswered: Share of the calls that are carried out, but whose answer is lost.
    """

    seed: int = 0
    start_ms: DelayMs = (5, 50)
    ready_ms: DelayMs = (0, 0)
    stop_ms: DelayMs = (0, 0)
    run_ms: DelayMs = (1_000, 10_000)
    pods_hang: Share = 0.0
    pods_fail: Share = 0.0
    pods_finish: Share = 0.0
    nodes_flap: Share = 0.0
    nodes_vanish: Share = 0.0
    nodes_replaced: Share = 0.0
    node_up_ms: DelayMs = (5_000, 60_000)
    node_down_ms: DelayMs = (1_000, 10_000)
    pods_outlive_nodes: bool = True
    unready_nodes_stop_pods: bool = False
    apply_ms: DelayMs = (0, 0)
    calls_unavailable: Share = 0.0
    calls_unanswered: Share = 0.0

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Behaviour:
        """Read the fields from text: ``pods_fail=0.1``, ``start_ms=5-50``.

        Raises:
            ValueError: There is no such field, or its value is wrong; the message says which.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(options.keys() - set(known))
        if unknown:
            raise ValueError(
                f"there is no option {unknown[0]!r}; there are: nodes, {', '.join(known)}"
            )
        values = {
            name: text.split("-", 1) if name.endswith("_ms") else text
            for name, text in options.items()
        }
        # ValidationError is a ValueError and names the field.
        behaviour: Behaviour = msgspec.convert(values, cls, strict=False)
        return behaviour

    def chance(self, *identity: str | int) -> float:
        """Draw a number from 0 up to 1 that belongs to this identity."""
        text = "\x00".join(str(part) for part in (self.seed, *identity))
        digest = hashlib.blake2b(text.encode(), digest_size=7).digest()
        return int.from_bytes(digest) / (1 << 56)

    def delay_ms(self, between: DelayMs, *identity: str | int) -> int:
        """Draw a delay that belongs to this identity."""
        shortest_ms, longest_ms = between
        if shortest_ms == longest_ms:
            return shortest_ms
        return shortest_ms + int(self.chance(*identity) * (longest_ms - shortest_ms + 1))

    def fate_of_pod(self, uid: str, template: bytes) -> Fate:
        """Say what will become of a pod: what its template's annotation asks for, else its share."""
        asked_for = fate_in_template(template)
        if asked_for is not None:
            return asked_for
        if not self.pods_hang and not self.pods_fail and not self.pods_finish:
            return Fate.WORKS
        chance = self.chance("fate", uid)
        for share, fate in (
            (self.pods_hang, Fate.HANGS),
            (self.pods_fail, Fate.FAILS),
            (self.pods_finish, Fate.FINISHES),
        ):
            if chance < share:
                return fate
            chance -= share
        return Fate.WORKS

    def fate_of_node(self, uid: str) -> NodeFate:
        """Say what will become of a node."""
        chance = self.chance("node", uid)
        for share, fate in (
            (self.nodes_flap, NodeFate.FLAPS),
            (self.nodes_vanish, NodeFate.VANISHES),
            (self.nodes_replaced, NodeFate.IS_REPLACED),
        ):
            if chance < share:
                return fate
            chance -= share
        return NodeFate.STAYS


class _Metadata(msgspec.Struct):
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class _Template(msgspec.Struct):
    metadata: _Metadata | None = None


@functools.lru_cache(maxsize=256)
def _metadata_of(template: bytes) -> _Metadata:
    """Read a pod template's metadata; the simulated fleet runs anything, and looks at nothing else in it."""
    try:
        return msgspec.json.decode(template, type=_Template).metadata or _Metadata()
    except msgspec.DecodeError:
        return _Metadata()


def fate_in_template(template: bytes) -> Fate | None:
    """Read what a pod template's annotation asks for; ``None`` if it asks for nothing that is known."""
    annotations = _metadata_of(template).annotations or {}
    try:
        return Fate(annotations.get(FATE_ANNOTATION))
    except ValueError:
        return None


def labels_in_template(template: bytes) -> dict[str, str]:
    """Read the labels that a pod template gives its pods."""
    return dict(_metadata_of(template).labels or {})
