"""Finds out whether somebody looks after the DaemonSets of a cluster, such as the controller that is built in.

Used by ``adapter`` before it starts, and by ``doctor``. Two owners of one set would undo each other's work for ever,
and no object of the API says that a controller is on. So a DaemonSet is made that no node can have a pod of, and
whoever writes into its status that it was seen is an owner. It has a label by which everynode's own adapters pass it
over.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from uuid import uuid4

import msgspec
import structlog

from everynode.errors import EverynodeError, UnavailableError
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.objects import (
    PREFIX,
    PROBE_LABEL,
    PROBE_PREFIX,
    ApiObject,
    parse_daemonset,
)
from everynode_kubernetes.paths import daemonset_path, daemonsets_path
from everynode_kubernetes.translate import time_ms

WAIT_MS = 10_000
"""How long a probe waits to be seen. A controller that runs needs less than a second, one that is busy some more."""

POLL_INTERVAL_MS = 200
STALE_MS = 60_000
"""A probe that is older than a new one by so much was left behind by a process that was killed."""

DELETE_TRIES_MAX = 3
MS_PER_SECOND = 1_000
IMAGE = "registry.k8s.io/pause:3.10"
"""Never pulled, as no pod is made; but policies may look at it."""

_DELETE = msgspec.json.encode(
    {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
)

log = structlog.get_logger(__name__)


class Probed(NamedTuple):
    """What a probe found.

    Attributes:
        owned: Whether somebody looks after DaemonSets; ``None`` if the probe could not be made.
        reason: Why the probe could not be made; else empty.
    """

    owned: bool | None
    reason: str = ""


class _List(msgspec.Struct):
    """A list of objects. Go writes an empty one as null."""

    items: list[ApiObject] | None = None


_list = msgspec.json.Decoder(_List)


async def probe(server: ApiServer, namespace: str, *, wait_ms: int = WAIT_MS) -> Probed:
    """Make a DaemonSet without pods, wait for somebody to see it, and delete it.

    Args:
        server: The cluster.
        namespace: Where to make it.
        wait_ms: How long to wait.

    Raises:
        UnavailableError: The API server does not answer.
        OutcomeUnknownError: As well.
    """
    name = f"{PROBE_PREFIX}{uuid4().hex[:12]}"
    path = daemonset_path(namespace, name)
    try:
        made = await server.create(daemonsets_path(namespace), _daemonset(name))
        created_ms = time_ms(parse_daemonset(made).metadata.creation_timestamp)
        await _remove_stale(server, namespace, created_ms)  # by the server's clock
        owned = await _is_seen(server, path, wait_ms)
    except Refusal as refusal:
        return Probed(owned=None, reason=refusal.message)
    finally:
        await _delete(server, path)
    return Probed(owned)


async def _is_seen(server: ApiServer, path: str, wait_ms: int) -> bool:
    """Wait until somebody says in the status of a set that it was seen."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + wait_ms / MS_PER_SECOND
    while True:
        try:
            status = parse_daemonset(await server.get(path)).status
        except UnavailableError as error:
            log.debug("probe not read", reason=str(error))
            status = None
        if status is not None and status.observed_generation > 0:
            return True
        if loop.time() >= deadline_s:
            return False
        await asyncio.sleep(POLL_INTERVAL_MS / MS_PER_SECOND)


async def _remove_stale(server: ApiServer, namespace: str, now_ms: int) -> None:
    """Delete the probes of processes that had no time to do it."""
    body = await server.get(daemonsets_path(namespace), {"labelSelector": PROBE_LABEL})
    for found in _list.decode(body).items or ():
        is_probe = found.metadata.name.startswith(PROBE_PREFIX)
        if is_probe and now_ms - time_ms(found.metadata.creation_timestamp) > STALE_MS:
            await _delete(server, daemonset_path(namespace, found.metadata.name))


async def _delete(server: ApiServer, path: str) -> None:
    """Delete a probe; the next one does it if that is not possible."""
    for attempt in range(1, DELETE_TRIES_MAX + 1):
        try:
            await server.delete(path, _DELETE)
        except Refusal as refusal:
            if not (refusal.is_not_found or refusal.is_forbidden):
                log.warning("probe not deleted", path=path, reason=str(refusal))
            return
        except EverynodeError as error:
            if attempt == DELETE_TRIES_MAX:
                log.warning("probe not deleted; delete it", path=path, reason=str(error))
                return
            await asyncio.sleep(POLL_INTERVAL_MS / MS_PER_SECOND)
        else:
            return


def _daemonset(name: str) -> bytes:
    """Write a set that no node can have a pod of, and that the strictest Pod Security Standard would allow."""
    labels = {PROBE_LABEL: name}
    container = {
        "name": "none",
        "image": IMAGE,
        "resources": {"limits": {"cpu": "1m", "memory": "1Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    pod = {
        "nodeSelector": {f"{PREFIX}probe": "no-node-has-this"},
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    return msgspec.json.encode(
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        }
    )
