"""When an object was last changed, as well as the object itself can tell.

Used by ``watched``: kubectl writes down what changed, but not when. The API server's clock counts most. It has stamped
every change if the managed fields were recorded (``--show-managed-fields``); if not, what nodes and kubelets wrote into
conditions and container states must do, with their clocks. Nothing here fails: what cannot be read tells no time.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from everynode_kubernetes.nesting import decoded
from everynode_kubernetes.translate import time_ms


class _Part(msgspec.Struct, rename="camel"):
    """Part of an object; absent and null are the same."""


class _Managed(_Part):
    time: str | None = None


class _Metadata(_Part):
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    managed_fields: list[_Managed] | None = None


class _Condition(_Part):
    last_transition_time: str | None = None
    last_heartbeat_time: str | None = None


class _Times(_Part):
    """Of a container that runs, or has ended."""

    started_at: str | None = None
    finished_at: str | None = None


class _State(_Part):
    running: _Times | None = None
    terminated: _Times | None = None


class _Container(_Part):
    state: _State | None = None


class _Status(_Part):
    start_time: str | None = None
    conditions: list[_Condition] | None = None
    container_statuses: list[_Container] | None = None


class _Timed(_Part):
    metadata: _Metadata
    status: _Status | None = None


_decoder = msgspec.json.Decoder(_Timed)


def moments_of(raw: bytes | msgspec.Raw) -> tuple[int, int]:
    """Say when an object was made and when it was last changed, in ms since 1970; 0 if nobody knows."""
    try:
        timed = decoded(_decoder, raw)
    except msgspec.DecodeError:
        return 0, 0
    metadata = timed.metadata
    created_ms = time_ms(metadata.creation_timestamp)
    by_server = max((time_ms(each.time) for each in metadata.managed_fields or ()), default=0)
    changed_ms = by_server or max(map(time_ms, _reported(timed.status)), default=0)
    return created_ms, max(created_ms, changed_ms, _deletion_asked_ms(metadata))


def _deletion_asked_ms(metadata: _Metadata) -> int:
    """Say when a deletion was asked for: its time stamp is when the grace that was granted then is over."""
    grace_ms = (metadata.deletion_grace_period_seconds or 0) * 1_000
    return max(0, time_ms(metadata.deletion_timestamp) - grace_ms)


def _reported(status: _Status | None) -> Iterator[str | None]:
    """Return the times that nodes and kubelets have written."""
    if status is None:
        return
    yield status.start_time
    for condition in status.conditions or ():
        yield condition.last_transition_time
        yield condition.last_heartbeat_time
    for container in status.container_statuses or ():
        state = container.state or _State()
        for times in (state.running, state.terminated):
            if times is not None:
                yield from (times.started_at, times.finished_at)
