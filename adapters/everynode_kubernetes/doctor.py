"""Looks at a cluster before the adapter runs there, or when it does not work: what is in its way, and what to do.

The engine finds ``examine`` by its entry point; `everynode doctor kubernetes` shows what it finds. It asks questions,
makes one DaemonSet that no node can have a pod of (``probe``) and deletes it, and changes nothing else.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Mapping
from contextlib import aclosing
from typing import Literal

import msgspec

from everynode.errors import ConfigurationError, EverynodeError
from everynode.ports import Finding
from everynode_kubernetes.adapter import TWO_OWNERS, access_from, identity_of, namespace_from
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.paths import NODES
from everynode_kubernetes.permissions import PERMISSIONS, Permission
from everynode_kubernetes.probe import WAIT_MS, probe
from everynode_kubernetes.translate import time_ms

MINOR_VERSION_MIN = 30
"""Of Kubernetes 1: older ones are not tried out."""

CLOCK_SKEW_MS_MAX = 5_000
WATCH_WAIT_MS = 3_000
WATCH_SECONDS = 10
"""How long a watch is asked to last: longer than is waited, as a proxy may pass on all at its end."""

MS_PER_SECOND = 1_000

APIS = {
    "/apis/apps/v1": ("controllerrevisions", "daemonsets", "daemonsets/status"),
    "/apis/events.k8s.io/v1": ("events",),
}
"""Groups beside core, and what they have to serve."""

_Answer = tuple[Literal["ok", "warning", "failed", "unknown"], str]
"""Result and detail of a finding."""

_ACCESS_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_SELF_REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


async def examine(
    backend: str, options: Mapping[str, str], recorded: Mapping[str, str] | None
) -> list[Finding]:
    """Find out whether the adapter could work with these options; see ``everynode.ports.Doctor``."""
    try:
        namespace = namespace_from(options)
        server = await ApiServer.connect(access_from(options))
    except ConfigurationError as error:
        return [Finding("connection", "failed", str(error))]
    try:
        connection = await _found("connection", _connection(server))
        if connection.result == "failed":
            return [connection]
        others = await asyncio.gather(
            _found("cluster", _cluster(server, backend, recorded)),
            *(
                _found(_check_of(each), _permission(server, each, namespace))
                for each in PERMISSIONS
            ),
            _found("other owner", _other_owner(server, namespace)),
            *(_found(f"API {path[6:]}", _api(server, path)) for path in APIS),
            _found("watch", _watch(server)),
            _found("clock", _clock(server)),
        )
        return [connection, *others]
    finally:
        await server.close()


async def _found(check: str, look: Awaitable[_Answer]) -> Finding:
    """Wait for a result and its detail; an error is one."""
    try:
        return Finding(check, *(await look))
    except EverynodeError as error:
        return Finding(check, "failed", str(error))
    except (msgspec.MsgspecError, ValueError) as error:
        return Finding(check, "failed", f"the answer cannot be read: {error}")


# --- the cluster ------------------------------------------------------------------------------------------------------


class _Version(msgspec.Struct, rename="camel"):
    """What an API server says of itself; a minor version may end in a plus sign."""

    major: str
    minor: str
    git_version: str


async def _connection(server: ApiServer) -> _Answer:
    """Say who answers."""
    version = msgspec.json.decode(await server.get("/version"), type=_Version)
    said = f"Kubernetes {version.git_version} at {server.address}"
    minor = re.match(r"\d+", version.minor)
    if version.major == "1" and minor is not None and int(minor[0]) >= MINOR_VERSION_MIN:
        return "ok", said
    return "warning", f"{said}; nobody has tried this with versions before 1.{MINOR_VERSION_MIN}"


async def _cluster(server: ApiServer, backend: str, recorded: Mapping[str, str] | None) -> _Answer:
    """Compare the cluster with the one that the fleet knows by this backend's name."""
    identity = await identity_of(server)
    if recorded is None:
        return "unknown", f"{identity}; not checked, as the fleet does not answer"
    known = recorded.get(backend)
    other_names = sorted(name for name, one in recorded.items() if one == identity)
    if known is None and other_names:
        name = other_names[0]
        return "failed", f"{identity} is the fleet's backend {name}: give --backend {name}"
    if known is None:
        return "ok", f"{identity}; the fleet has no backend {backend} yet"
    if known != identity:
        text = f"{identity} is not what the fleet knows as {backend}, which is {known}"
        return "failed", f"{text}: give another --backend, --context or --fleet"
    return "ok", f"{identity}, the fleet's backend {backend}"


class _Resource(msgspec.Struct):
    """meta/v1 APIResource."""

    name: str


class _Resources(msgspec.Struct):
    """meta/v1 APIResourceList."""

    resources: list[_Resource]


async def _api(server: ApiServer, path: str) -> _Answer:
    """Say whether everything is served that is needed of a group."""
    try:
        body = await server.get(path)
    except Refusal as refusal:
        if refusal.is_not_found:
            return "failed", "it is not served"
        raise
    served = {each.name for each in msgspec.json.decode(body, type=_Resources).resources}
    missing = [name for name in APIS[path] if name not in served]
    if missing:
        return "failed", f"not served: {', '.join(missing)}"
    return "ok", ", ".join(APIS[path])


async def _watch(server: ApiServer) -> _Answer:
    """Say whether what a watch says comes at once; from version 0 on it begins with what there is."""
    params = {"timeoutSeconds": str(WATCH_SECONDS)}
    try:
        async with (
            asyncio.timeout(WATCH_WAIT_MS / MS_PER_SECOND),
            aclosing(server.watch(NODES, 0, params)) as lines,
        ):
            async for _ in lines:
                return "ok", "what is watched comes at once"
    except TimeoutError:
        pass
    text = f"nothing came in {WATCH_WAIT_MS // MS_PER_SECOND} s: there is no node"
    return "warning", f"{text}, or a proxy in between holds answers back"


class _Review(msgspec.Struct):
    """A review of oneself, with the time of the server."""

    metadata: dict[str, object]


async def _clock(server: ApiServer) -> _Answer:
    """Compare the server's clock with ours."""
    question = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    before_ms = _now_ms()
    body = await server.create(_SELF_REVIEWS, msgspec.json.encode(question))
    after_ms = _now_ms()
    review = msgspec.json.decode(body, type=_Review)
    server_ms = time_ms(str(review.metadata.get("creationTimestamp") or ""))
    if not server_ms:
        return "unknown", "the server does not say what time it is"
    # The server's time is cut to whole seconds.
    skew_ms = max(0, server_ms - after_ms, before_ms - (server_ms + MS_PER_SECOND))
    if skew_ms > CLOCK_SKEW_MS_MAX:
        text = f"this clock and the server's differ by {skew_ms / MS_PER_SECOND:.0f} s"
        return "warning", f"{text}; ages and events will look odd"
    return "ok", "this clock and the server's agree"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


# --- what is allowed, and to whom -------------------------------------------------------------------------------------


class _ReviewStatus(msgspec.Struct):
    """What an authorizer says."""

    allowed: bool


class _AccessReview(msgspec.Struct):
    """authorization.k8s.io/v1 SelfSubjectAccessReview, answered."""

    status: _ReviewStatus


def _check_of(permission: Permission) -> str:
    return f"may use {permission}" + (" for the probe" if permission.own_namespace else "")


async def _permission(server: ApiServer, asked: Permission, namespace: str) -> _Answer:
    """Ask for each verb; without the probe the adapter works, only nobody knows whether there is another owner."""
    allowed = [await _is_allowed(server, asked, verb, namespace) for verb in asked.verbs]
    missing = [verb for verb, is_so in zip(asked.verbs, allowed, strict=True) if not is_so]
    if not missing:
        return "ok", ", ".join(asked.verbs)
    where = f" in namespace {namespace}" if asked.own_namespace else ""
    text = f"not allowed{where}: {', '.join(missing)}; see deploy/kubernetes/rbac.yaml"
    return "warning" if asked.own_namespace else "failed", text


async def _is_allowed(server: ApiServer, asked: Permission, verb: str, namespace: str) -> bool:
    resource, _, subresource = asked.resource.partition("/")
    attributes = {
        "verb": verb,
        "group": asked.group,
        "resource": resource,
        "subresource": subresource,
        "name": asked.name,
        "namespace": namespace if asked.own_namespace else "",
    }
    question = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    body = await server.create(_ACCESS_REVIEWS, msgspec.json.encode(question))
    return msgspec.json.decode(body, type=_AccessReview).status.allowed


async def _other_owner(server: ApiServer, namespace: str) -> _Answer:
    """Find out whether somebody else looks after DaemonSets."""
    found = await probe(server, namespace)
    if found.owned is None:
        text = f"a DaemonSet to find it out with cannot be made in namespace {namespace}"
        return "unknown", f"{text}: {found.reason}"
    if found.owned:
        return "failed", TWO_OWNERS
    return "ok", f"nobody looked at a new DaemonSet for {WAIT_MS // MS_PER_SECOND} s"
