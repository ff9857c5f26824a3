"""What is shown on a real API server: statuses, revisions and notices to report, for the tests of ``Showing``."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from tests.kubernetes.support_parts import (
    FINALIZER,
    Place,
    owner_reference,
    template,
)

from everynode.core.events import NoticeReported, RevisionGone, RevisionRecorded, StatusReported
from everynode.core.identity import canonical, revision_hash
from everynode.core.values import Notice, Revision, Status
from everynode.ports import Report
from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.objects import REVISION_LABEL
from everynode_kubernetes.paths import daemonset_path, revisions_path
from everynode_kubernetes.showing import Showing

SET = "agent"
AT_MS = 1_714_979_289_000
TEMPLATE = canonical(msgspec.json.encode(template(SET)))
HASH = revision_hash(TEMPLATE)
NAME = f"{SET}-{HASH}"


def status_of(daemonset: Any, **more: Any) -> Status:
    """How far a set has come."""
    return Status(
        **{
            "namespace": daemonset["metadata"]["namespace"],
            "daemonset": daemonset["metadata"]["name"],
            "daemonset_uid": daemonset["metadata"]["uid"],
            "observed_generation": 1,
            "desired_number_scheduled": 3,
            "number_ready": 2,
            **more,
        }
    )


def revision_of(daemonset: Any, **more: Any) -> Revision:
    """A version of the set's template: the one that it has."""
    return Revision(
        **{
            "namespace": daemonset["metadata"]["namespace"],
            "daemonset": daemonset["metadata"]["name"],
            "daemonset_uid": daemonset["metadata"]["uid"],
            "hash": HASH,
            "number": 1,
            "template": msgspec.Raw(TEMPLATE),
            **more,
        }
    )


def notice_of(daemonset: Any, **more: Any) -> Notice:
    """What people are told."""
    return Notice(
        **{
            "namespace": daemonset["metadata"]["namespace"],
            "daemonset": daemonset["metadata"]["name"],
            "daemonset_uid": daemonset["metadata"]["uid"],
            "type": "Normal",
            "reason": "SuccessfulCreate",
            "message": "made a pod",
            "first_ms": AT_MS,
            "last_ms": AT_MS,
            **more,
        }
    )


def showing(place: Place, server: Any = None) -> Showing:
    """What shows reports, with nothing asked yet."""
    place.server.requests.clear()
    return Showing(server or place.server, place.cluster, "test")


async def report(place: Place, one: Status | Revision | Notice | RevisionGone) -> None:
    """Show one report."""
    made: Report
    match one:
        case Status():
            made = StatusReported(status=one)
        case Revision():
            made = RevisionRecorded(revision=one)
        case Notice():
            made = NoticeReported(notice=one)
        case _:
            made = one
    await showing(place).report(made)


async def set_now(place: Place) -> Any:
    """The set as it is now; ``None`` if it is gone."""
    return await place.found(daemonset_path(place.namespace, SET))


async def make_anew(place: Place) -> Any:
    """Delete the set, and make another one of its name."""
    await place.remove(daemonset_path(place.namespace, SET))
    return await place.daemonset()


async def being_deleted(place: Place) -> Any:
    """A set that is on its way out."""
    daemonset = await place.daemonset(finalizers=[FINALIZER])
    await place.remove(daemonset_path(place.namespace, SET))
    return daemonset


async def let_go(place: Place) -> None:
    """Let a set go that is on its way out."""
    await place.change(daemonset_path(place.namespace, SET), finalizers=None)


async def versions(place: Place) -> dict[str, Any]:
    """The ControllerRevisions of the namespace, by name."""
    found = await place.api.get(revisions_path(place.namespace))
    return {item["metadata"]["name"]: item for item in found["items"]}


async def version(
    place: Place,
    owner: Any,
    name: str = NAME,
    *,
    image: str = "",
    label: str = HASH,
    number: int = 1,
    as_kubernetes_does: bool = True,
) -> Any:
    """Somebody makes a ControllerRevision."""
    labels = {"app": SET, **({REVISION_LABEL: label} if label else {})}
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    if owner is not None:
        metadata["ownerReferences"] = [owner_reference(owner)]
    content = template(SET, image) if image else template(SET)
    data = {"spec": {"template": {**content, "$patch": "replace"}}}
    body = {"metadata": metadata, "revision": number, "data": data}
    if not as_kubernetes_does:
        return await place.api.create(revisions_path(place.namespace), body)
    written = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return json.loads(
        await ApiServer.create(place.server, revisions_path(place.namespace), written)
    )
