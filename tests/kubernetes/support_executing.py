"""Commands for a real API server, and looks at what became of them: for the tests of ``Executor``."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.kubernetes.support_parts import (
    BACKEND,
    Place,
    template,
)

from everynode.core.commands import Command, CreatePod, Outcome
from everynode.core.identity import canonical, revision_hash
from everynode.errors import UnavailableError
from everynode_kubernetes.executing import STILL_STOPPING_RETRY_MS, Executor
from everynode_kubernetes.paths import pod_path

POD = "agent-1"
TEMPLATE = canonical(msgspec.json.encode(template("agent")))


def create(place: Place, daemonset: Any, node: Any, **more: Any) -> CreatePod:
    """The command to make the set's pod on a node."""
    fields = {
        "id": "c",
        "backend": BACKEND,
        "node": node["metadata"]["name"],
        "node_uid": node["metadata"]["uid"],
        "namespace": place.namespace,
        "daemonset": daemonset["metadata"]["name"],
        "daemonset_uid": daemonset["metadata"]["uid"],
        "generation": 4,
        "failures": 2,
        "pod": POD,
        "revision": revision_hash(TEMPLATE),
        "expires_ms": 0,
        "template": msgspec.Raw(TEMPLATE),
    }
    return CreatePod(**{**fields, **more})


def on_pod(kind: type[Any], place: Place, daemonset: Any, pod: Any, **more: Any) -> Any:
    """A command about one very pod."""
    fields = {
        "id": "c",
        "backend": BACKEND,
        "node": pod["spec"]["nodeName"],
        "namespace": place.namespace,
        "daemonset": daemonset["metadata"]["name"],
        "daemonset_uid": daemonset["metadata"]["uid"],
        "generation": 4,
        "pod": pod["metadata"]["name"],
        "pod_uid": pod["metadata"]["uid"],
        "expires_ms": 0,
    }
    return kind(**{**fields, **more})


async def apply(place: Place, command: Command) -> Outcome:
    """Carry a command out, by what the cluster has been seen to have."""
    place.server.requests.clear()
    outcome = await Executor(place.server, place.cluster).apply(command)
    assert (command.id, command.verb) == (outcome.id, outcome.verb)
    return outcome


async def put_off(place: Place, command: Command, match: str) -> None:
    """Expect that a command can only be carried out later, and soon."""
    with pytest.raises(UnavailableError, match=match) as caught:
        await apply(place, command)
    assert STILL_STOPPING_RETRY_MS == caught.value.retry_after_ms


async def pod_now(place: Place, name: str = POD) -> Any:
    """A pod as it is now; ``None`` if it is gone."""
    return await place.found(pod_path(place.namespace, name))


def stopping(pod: Any) -> int | None:
    """How many seconds a pod has to stop; ``None`` if it is not to stop."""
    seconds: int | None = pod["metadata"].get("deletionGracePeriodSeconds")
    return seconds


async def stop(place: Place, name: str = POD) -> None:
    """Delete a pod, which does not die of it."""
    await place.api.delete(pod_path(place.namespace, name))
