"""Writing down what people want: apply, amend and delete, each as a compare-and-set on the log.

The command line calls these, and ``rollouts`` builds on ``amend``. They read the last message of the set, work out
what would change, and publish with its sequence as the condition; whoever loses reads again. What would change is
``what_apply_writes``, a function of what is known, which ``replay.planning`` asks too. They do not check whether a set
is valid (``manifest`` has).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from everynode import wire
from everynode.core.events import DaemonSetGone, DaemonSetObserved
from everynode.core.identity import canonical, derived_uid
from everynode.core.values import PREDECESSORS_MAX, DaemonSet, SetKey
from everynode.errors import (
    InvalidObjectError,
    MalformedMessageError,
    OutcomeUnknownError,
    Problem,
    RefusedError,
    StaleError,
)
from everynode.ports import Clock, Outgoing
from everynode.runtime.bus import FleetBus
from everynode.runtime.byhand import keep_what_was_done_by_hand
from everynode.runtime.clock import SystemClock
from everynode.runtime.view import last_good

ATTEMPTS_MAX = 5
_OUTSIDE_SPEC = (
    *("labels", "annotations", "uid", "generation", "created_ms"),
    *("deleting", "predecessor_uids", "origin"),
)

Action = Literal["created", "configured", "unchanged"]
Cascade = Literal["background", "orphan"]


class Applied(NamedTuple):
    """What became of an ``apply``.

    Attributes:
        daemonset: The set as the log has it now (or would have it, for a dry run).
        sequence: Where the log has it; 0 if LOG has let go of it, or for a dry run.
    """

    action: Action
    daemonset: DaemonSet
    sequence: int


class KnownSet(NamedTuple):
    """What the log knows of a set.

    Attributes:
        daemonset: The set as it is wanted; ``None`` if it is not.
        gone: What ended it; ``None`` if it is wanted, or nothing is known of it (any more).
        sequence: The last on its subject, whatever stands there.
    """

    daemonset: DaemonSet | None
    gone: DaemonSetGone | None
    sequence: int


async def apply(
    bus: FleetBus,
    daemonset: DaemonSet,
    *,
    dry_run: bool = False,
    clock: Clock | None = None,
) -> Applied:
    """Make it so that this set is wanted as it is given.

    The set keeps its uid; its generation goes up by one if its spec changed. Nothing changed: nothing is published.
    What people asked for by hand meanwhile stays (see ``byhand``).

    Args:
        bus: The fleet's log.
        daemonset: What is wanted; its uid, generation and creation time are worked out here.
        dry_run: Publish nothing.
        clock: Says when a new set was created.

    Raises:
        InvalidObjectError: It changes what cannot be changed.
        RefusedError: A backend keeps the set; it is changed there.
        MalformedMessageError: It is too large.
        StaleError: Others kept writing to this set.
        UnavailableError: Nothing was published.
        OutcomeUnknownError: It may have been published.
    """
    created_ms = (clock or SystemClock()).now_ms()
    new_uid = derived_uid(secrets.token_hex(16))

    def plan(known: KnownSet) -> Applied:
        return what_apply_writes(daemonset, known, new_uid, created_ms)

    return await _write(bus, daemonset.key, plan, dry_run=dry_run)


def what_apply_writes(
    daemonset: DaemonSet, known: KnownSet, new_uid: str, created_ms: int
) -> Applied:
    """Say what becomes of a set when this is applied to what is known of it.

    Args:
        daemonset: What is wanted; its uid, generation and creation time are worked out here.
        known: What the log has.
        new_uid: The identity that it gets if it is not there.
        created_ms: When that is, likewise.

    Raises:
        InvalidObjectError: It changes what cannot be changed.
        RefusedError: A backend keeps the set; it is changed there.
    """
    if known.daemonset is None:
        created = _created(daemonset, known.gone, new_uid, created_ms)
        return Applied("created", created, known.sequence)
    _check_origin(known.daemonset)
    wanted = keep_what_was_done_by_hand(daemonset, known.daemonset)
    return _configured(known.daemonset, wanted, known.sequence)


async def amend(
    bus: FleetBus,
    key: SetKey,
    change: Callable[[DaemonSet], DaemonSet],
    *,
    dry_run: bool = False,
) -> Applied:
    """Change a set that is there; its generation goes up by one if its spec changed.

    Args:
        bus: The fleet's log.
        key: Which set.
        change: Says what the set is to be, from what it is; asked again if somebody else has changed it meanwhile.
            What it raises is passed on, and nothing is published.
        dry_run: Publish nothing.

    Raises:
        InvalidObjectError: It changes what cannot be changed.
        RefusedError: There is no such set, or a backend keeps it and it is changed there.
        MalformedMessageError: It is too large.
        StaleError: Others kept writing to this set.
        UnavailableError: Nothing was published.
        OutcomeUnknownError: It may have been published.
    """

    def plan(known: KnownSet) -> Applied:
        if known.daemonset is None:
            message = f'daemonsets "{key.name}" not found in namespace {key.namespace}'
            raise RefusedError(message)
        _check_origin(known.daemonset)
        return _configured(known.daemonset, change(known.daemonset), known.sequence)

    return await _write(bus, key, plan, dry_run=dry_run)


async def _write(
    bus: FleetBus, key: SetKey, plan: Callable[[KnownSet], Applied], *, dry_run: bool
) -> Applied:
    """Publish what is planned on top of what is known, and begin anew when that has changed meanwhile."""
    tried: Applied | None = None
    attempts = 0
    while True:
        known = await read_set(bus, key)
        if tried is not None and known.daemonset == tried.daemonset:
            return tried._replace(sequence=known.sequence)  # the answer was lost, not the message
        planned = plan(known)
        if planned.action == "unchanged":
            return planned
        if dry_run:
            return planned._replace(sequence=0)
        message = DaemonSetObserved(daemonset=planned.daemonset)
        outgoing = Outgoing(bus.subjects.of(message), wire.encode(message))
        attempts += 1
        try:
            sequence = await bus.publish_fenced([outgoing], known.sequence)
        except (StaleError, OutcomeUnknownError) as error:
            if attempts == ATTEMPTS_MAX:
                raise
            if isinstance(error, OutcomeUnknownError):
                tried = planned
        else:
            return planned._replace(sequence=sequence)


async def delete(bus: FleetBus, key: SetKey, cascade: Cascade = "background") -> bool:
    """Make it so that a set is no longer wanted.

    Args:
        bus: The fleet's log.
        key: Which set.
        cascade: Whether its pods go with it (``background``) or stay, unmanaged (``orphan``).

    Returns:
        Whether there was such a set.

    Raises:
        RefusedError: A backend keeps the set; it is deleted there.
        StaleError: Others kept writing to this set.
        UnavailableError: Nothing was published.
        OutcomeUnknownError: It may have been published.
    """
    may_be_done = False
    attempts = 0
    while True:
        known = await read_set(bus, key)
        if known.daemonset is None:
            return may_be_done
        _check_origin(known.daemonset)
        message = DaemonSetGone(
            namespace=key.namespace,
            name=key.name,
            uid=known.daemonset.uid,
            cascade=cascade,
            predecessor_uids=known.daemonset.predecessor_uids if cascade == "orphan" else (),
            why="deleted by a person",
        )
        outgoing = Outgoing(
            bus.subjects.of(message), wire.encode(message), bus.tombstone_ttl_seconds
        )
        attempts += 1
        try:
            await bus.publish_fenced([outgoing], known.sequence)
        except (StaleError, OutcomeUnknownError) as error:
            if attempts == ATTEMPTS_MAX:
                raise
            may_be_done |= isinstance(error, OutcomeUnknownError)
        else:
            return True


async def read_set(bus: FleetBus, key: SetKey) -> KnownSet:
    """Read what the log knows of a set; a message that cannot be read does not hide the one before it.

    Raises:
        UnavailableError: The server did not answer.
    """
    last = await bus.last(bus.subjects.of_set("daemonset", key))
    if last is None:
        return KnownSet(None, None, 0)
    good = last
    try:
        message = wire.decode_from(bus.subjects, last.subject, last.payload)
    except MalformedMessageError:
        found = await last_good(bus, last)
        if found is None:
            return KnownSet(None, None, last.sequence)
        good = found
        message = wire.decode_from(bus.subjects, good.subject, good.payload)
    daemonset = message.daemonset if isinstance(message, DaemonSetObserved) else None
    gone = message if isinstance(message, DaemonSetGone) else None
    return KnownSet(daemonset, gone, last.sequence)


def _check_origin(daemonset: DaemonSet) -> None:
    """Refuse to write a set that is somebody else's to write: what its backend says next would undo it.

    Raises:
        RefusedError: It is.
    """
    if daemonset.origin:
        message = (
            f"daemonset {daemonset.key} is an object of backend {daemonset.origin}, which says what is wanted of it: "
            "change it there, for example with kubectl"
        )
        raise RefusedError(message)


def _created(wanted: DaemonSet, gone: DaemonSetGone | None, uid: str, created_ms: int) -> DaemonSet:
    """Say what a set is like that was not there; it knows whose pods were left for it."""
    predecessors: tuple[str, ...] = ()
    if gone is not None and gone.cascade == "orphan":
        predecessors = (*gone.predecessor_uids, gone.uid)[-PREDECESSORS_MAX:]
    return msgspec.structs.replace(
        wanted,
        template=_comparable(wanted.template),
        uid=uid,
        generation=1,
        created_ms=created_ms,
        predecessor_uids=predecessors,
    )


def _configured(before: DaemonSet, wanted: DaemonSet, sequence: int) -> Applied:
    """Work out what a set that is there becomes.

    Raises:
        InvalidObjectError: It changes what cannot be changed.
    """
    if wanted.selector != before.selector:
        problem = Problem(
            "spec.selector",
            "cannot be changed, because it says which pods are the set's: "
            "delete the set and apply it anew, or give the new one another name",
        )
        raise InvalidObjectError(f"DaemonSet {wanted.key}", (problem,))
    changed = _spec(wanted) != _spec(before)
    after = msgspec.structs.replace(
        wanted,
        template=_comparable(wanted.template),
        uid=before.uid,
        generation=before.generation + 1 if changed else before.generation,
        created_ms=before.created_ms,
        deleting=before.deleting,
        predecessor_uids=before.predecessor_uids,
    )
    if changed or (after.labels, after.annotations) != (before.labels, before.annotations):
        return Applied("configured", after, sequence)
    return Applied("unchanged", before, sequence)


def _spec(daemonset: DaemonSet) -> dict[str, object]:
    """Everything by which a set's generation goes up; the template in the form that compares."""
    fields = {
        name: getattr(daemonset, name)
        for name in daemonset.__struct_fields__
        if name not in _OUTSIDE_SPEC
    }
    return fields | {"template": bytes(_comparable(daemonset.template))}


def _comparable(template: msgspec.Raw) -> msgspec.Raw:
    """Write a template in the one form that compares; one that cannot be read stays as it is."""
    try:
        return msgspec.Raw(canonical(template))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return template
