"""What the fleet says of a cluster's sets, shown there: status, history, events.

Used by ``adapter``. ``kubectl rollout status``, ``history`` and ``undo`` read what this writes. It writes only what
differs from what was last seen, and only on objects of the very set that is meant.
"""

from __future__ import annotations

import asyncio
import time
from weakref import WeakValueDictionary

import structlog

from everynode.core.events import (
    NoticeReported,
    RevisionGone,
    RevisionRecorded,
    StatusReported,
)
from everynode.core.identity import revision_hash
from everynode.core.revisions import HISTORY_LIMIT_EXCEEDED
from everynode.core.values import Notice, Owner, Revision, SetKey, Status
from everynode.errors import EverynodeError, RefusedError, UnavailableError
from everynode.ports import Report
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.bodies import (
    MERGE_PATCH,
    adoption_patch,
    controller_revision_for,
    controller_revision_name,
    delete_options,
    event_for,
    label_patch,
    revision_number_patch,
    status_body,
    status_shown,
)
from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.cluster import Cluster, KnownSet
from everynode_kubernetes.history import Version
from everynode_kubernetes.objects import REVISION_LABEL, parse_controller_revision, parse_daemonset
from everynode_kubernetes.paths import (
    daemonset_path,
    events_path,
    revision_path,
    revisions_path,
    status_path,
)
from everynode_kubernetes.translate import controller_of, template_in

log = structlog.get_logger(__name__)

INVALID_DAEMONSET = "InvalidDaemonSet"
"""The reason of events about sets that cannot be used as they are."""

OWNERS_FIELD = "metadata.ownerReferences"

NANOSECONDS_PER_MS = 1_000_000

NAMES_TRIED_MAX = 5
"""Under how many names a ControllerRevision is tried to be made when others have them."""


class Showing:
    """Shows reports in a cluster.

    Args:
        server: The API server.
        cluster: What has been seen of the cluster.
        instance: Who says so, in events.
    """

    def __init__(self, server: ApiServer, cluster: Cluster, instance: str) -> None:
        """Prepare."""
        self._server = server
        self._cluster = cluster
        self._instance = instance
        self._statuses: dict[SetKey, Status] = {}  # of each set, what was reported last
        self._revisions: dict[SetKey, dict[str, Revision]] = {}  # by their hashes
        self._writing: WeakValueDictionary[SetKey, asyncio.Lock] = WeakValueDictionary()

    async def report(self, report: Report) -> None:
        """Show it; see ``everynode.ports.Reporting.report``."""
        match report:
            case StatusReported(status=status):
                async with self._alone(status.set_key):
                    await self._show_status(status)
            case RevisionRecorded(revision=revision):
                async with self._alone(revision.set_key):
                    await self._keep_revision(revision)
            case RevisionGone():
                async with self._alone(report.set_key):
                    await self._forget_revision(report)
            case NoticeReported(notice=notice):
                await self._tell(notice)

    def begin_anew(self) -> None:
        """Forget what was to be shown: another process may have shown something newer since."""
        self._statuses.clear()
        self._revisions.clear()

    def _alone(self, key: SetKey) -> asyncio.Lock:
        """Return what keeps two from writing about one set at once, of which the older might come last."""
        lock = self._writing.get(key)
        if lock is None:
            lock = self._writing[key] = asyncio.Lock()
        return lock

    def _set(self, key: SetKey, uid: str = "") -> KnownSet | None:
        """Return a set that may be written about: it is there, it is meant, and it is not being deleted."""
        known = self._cluster.sets.get(key)
        if known is None or known.api.metadata.deletion_timestamp is not None:
            return None
        return known if uid in {"", known.api.uid} else None

    async def _show_status(self, status: Status) -> None:
        known = self._set(status.set_key, status.daemonset_uid)
        if known is None:
            self._statuses.pop(status.set_key, None)
            return
        self._statuses[status.set_key] = status
        if status_shown(known.api, status):
            return
        path = status_path(status.namespace, status.daemonset)
        before = known.api.status
        if before and before.observed_generation > known.api.metadata.generation:
            before = None  # somebody wrote it who cannot have observed it
        body = status_body(status, before)
        try:
            await self._server.patch(path, body, MERGE_PATCH)
        except Refusal as refusal:
            if refusal.is_of_another_uid:  # it was made anew under its name
                raise UnavailableError(str(refusal)) from refusal
            if not refusal.is_not_found:
                raise

    async def mend(self) -> None:
        """Show again what somebody else has overwritten or removed; what fails is left to the next time."""
        for key in list(self._statuses):
            try:
                async with self._alone(key):
                    status = self._statuses.get(
                        key
                    )  # what was said last, also if that was just now
                    if status is not None:
                        await self._show_status(status)
            except EverynodeError as error:
                log.warning("status not mended", daemonset=str(key), reason=str(error))
        for key in list(self._cluster.history_lost):
            self._cluster.history_lost.discard(key)
            try:
                async with self._alone(key):
                    for revision in list(self._revisions.get(key, {}).values()):
                        await self._keep_revision(revision)
            except EverynodeError as error:
                self._cluster.history_lost.add(key)
                log.warning("history not mended", daemonset=str(key), reason=str(error))

    # --- history ------------------------------------------------------------------------------------------------------

    async def _keep_revision(self, revision: Revision) -> None:
        """Have a ControllerRevision hold a template, under its number or a higher one."""
        known = self._set(revision.set_key, revision.daemonset_uid)
        if known is None:
            self._revisions.get(revision.set_key, {}).pop(revision.hash, None)
            return
        self._revisions.setdefault(revision.set_key, {})[revision.hash] = revision
        versions = self._cluster.versions_of(revision.set_key)
        same = [version for version in versions if version.hash == revision.hash]
        if not same:
            await self._make_revision(revision, known)
            return
        version = same[-1]
        api, path = version.api, revision_path(revision.namespace, version.api.metadata.name)
        if not version.owner_uid and not await self._adopt_revision(version, known):
            return
        if not api.metadata.label(REVISION_LABEL):
            await self._patch_revision(path, label_patch(api.uid, {REVISION_LABEL: version.label}))
        if api.revision < revision.number:
            await self._patch_revision(path, revision_number_patch(api.uid, revision.number))

    async def _adopt_revision(self, version: Version, known: KnownSet) -> bool:
        """Become the controller of a version that a former set has left, if the set is there now; say whether it is."""
        metadata = known.api.metadata
        try:
            body = await self._server.get(daemonset_path(metadata.namespace, metadata.name))
        except Refusal as refusal:
            if refusal.is_not_found:
                return False
            raise
        now = parse_daemonset(body)
        if now.uid != known.api.uid or now.metadata.deletion_timestamp is not None:
            return False
        owner = Owner(name=metadata.name, uid=metadata.uid)
        path = revision_path(metadata.namespace, version.api.metadata.name)
        await self._patch_revision(path, adoption_patch(version.api.uid, owner))
        return True

    async def _patch_revision(self, path: str, patch: bytes) -> None:
        try:
            await self._server.patch(path, patch, MERGE_PATCH)
        except Refusal as refusal:
            controlled = any(cause.field.startswith(OWNERS_FIELD) for cause in refusal.causes)
            if not (refusal.is_not_found or refusal.is_of_another_uid or controlled):
                raise
            raise UnavailableError(str(refusal)) from refusal  # what it is now is seen before long

    async def _make_revision(self, revision: Revision, known: KnownSet) -> None:
        owner = Owner(name=revision.daemonset, uid=revision.daemonset_uid)
        # Pods may still carry the label of one that is gone; under any other they would look outdated.
        meant = self._cluster.history.label_meant(revision.namespace, known.api.uid, revision.hash)
        label = meant or revision.hash
        name = controller_revision_name(revision.daemonset, label)
        annotations = known.api.metadata.annotations or {}
        for attempt in range(NAMES_TRIED_MAX):
            ending = f"{label}-{attempt}" if attempt else label
            tried = controller_revision_name(revision.daemonset, ending)
            body = controller_revision_for(
                revision, owner, name=tried, label=label, annotations=annotations
            )
            try:
                await self._server.create(revisions_path(revision.namespace), body)
            except Refusal as refusal:
                if refusal.namespace_terminating or refusal.is_not_found:
                    return
                if not refusal.already_exists:
                    raise
                if await self._is_made(revision, tried):
                    return
            else:
                return
        raise RefusedError(
            f"ControllerRevision {revision.namespace}/{name}: others have this name and the next ones; remove them"
        )

    async def _is_made(self, revision: Revision, name: str) -> bool:
        """Say whether what has a name is what was to be made; it was made before and has not been seen yet."""
        try:
            body = await self._server.get(revision_path(revision.namespace, name))
        except Refusal as refusal:
            raise UnavailableError(str(refusal)) from refusal  # it has gone just now
        api = parse_controller_revision(body)
        template, owner = template_in(api), controller_of(api.metadata)
        is_same = template is not None and revision_hash(template) == revision.hash
        return is_same and owner is not None and owner.uid == revision.daemonset_uid

    async def _forget_revision(self, gone: RevisionGone) -> None:
        """Remove the ControllerRevisions of a template that the set's history has no room for.

        Those of a set that was deleted are left to the garbage collector: the next set may have adopted them by now.
        """
        self._revisions.get(gone.set_key, {}).pop(gone.hash, None)
        known = self._set(gone.set_key)
        if known is None or gone.why != HISTORY_LIMIT_EXCEEDED:
            return
        for version in self._cluster.versions_of(gone.set_key):
            if version.hash == gone.hash and version.owner_uid == known.api.uid:
                path = revision_path(gone.namespace, version.api.metadata.name)
                options = delete_options(version.api.uid)
                try:
                    await self._server.delete(path, options)
                except Refusal as refusal:
                    if not (refusal.is_not_found or refusal.is_conflict):
                        raise

    # --- events -------------------------------------------------------------------------------------------------------

    async def warn(self, known: KnownSet) -> None:
        """Tell people why a set cannot be used as it is; what cannot be told is on the log of this process."""
        metadata = known.api.metadata
        now_ms = time.time_ns() // NANOSECONDS_PER_MS
        notice = Notice(
            namespace=metadata.namespace,
            daemonset=metadata.name,
            daemonset_uid=metadata.uid,
            type="Warning",
            reason=INVALID_DAEMONSET,
            message=known.problem,
            first_ms=now_ms,
            last_ms=now_ms,
        )
        try:
            await self._tell(notice)
        except EverynodeError as error:
            log.warning("event not written", daemonset=str(notice.set_key), reason=str(error))

    async def _tell(self, notice: Notice) -> None:
        known = self._cluster.sets.get(notice.set_key)
        if known is None or known.api.uid != notice.daemonset_uid:
            return
        mark = f"{notice.first_ms} {notice.last_ms} {notice.node} {notice.pod} {notice.message}"
        event = event_for(notice, mark=mark, instance=self._instance)
        try:
            await self._server.create(events_path(notice.namespace), event)
        except Refusal as refusal:
            gone = refusal.namespace_terminating or refusal.is_not_found
            if not (gone or refusal.already_exists):
                raise
