"""Commands carried out in a cluster: pods made, deleted, adopted and released, each only if it is still to be.

Used by ``adapter``. Every request is guarded, so that a repeat, a late command or somebody else's change does no harm:
names are deterministic, deletes and patches carry the pod's uid, and what has to be true now is looked up now and
not remembered. Sources: pkg/controller/controller_utils.go, controller_ref_manager.go.
"""

from __future__ import annotations

from everynode.core.claims import (
    OWNER_REPLACED,
    PREDECESSOR_ORPHANED,
    SET_DELETED,
    SET_ORPHANED,
)
from everynode.core.commands import (
    AdoptPod,
    Command,
    CreatePod,
    DeletePod,
    Outcome,
    ReleasePod,
    outcome_of,
)
from everynode.core.values import Owner
from everynode.errors import UnavailableError
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.bodies import (
    MERGE_PATCH,
    adoption_patch,
    delete_options,
    pod_for,
    release_patch,
)
from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.cluster import Cluster
from everynode_kubernetes.objects import (
    TEMPLATE_GENERATION_ANNOTATION,
    ApiDaemonSet,
    ApiPod,
    parse_daemonset,
    parse_node,
    parse_pod,
)
from everynode_kubernetes.paths import daemonset_path, node_path, pod_path, pods_path
from everynode_kubernetes.translate import controller_of, node_name_of

STILL_STOPPING_RETRY_MS = 1_000

SET_IS_NO_MORE = frozenset({OWNER_REPLACED, SET_DELETED, SET_ORPHANED, PREDECESSOR_ORPHANED})
"""Reasons for which a pod has to go that hold only if the set that controls it is gone."""


class Executor:
    """Carries commands out, any number at once.

    Args:
        server: The API server.
        cluster: What has been seen of the cluster; it saves questions, and is asked again where it matters.
    """

    def __init__(self, server: ApiServer, cluster: Cluster) -> None:
        """Prepare."""
        self._server = server
        self._cluster = cluster

    async def apply(self, command: Command) -> Outcome:
        """Make it so; see ``everynode.ports.Adapter.apply``."""
        if command.reason in SET_IS_NO_MORE and await self._set_is_there(command):
            text = f"DaemonSet {command.daemonset} is there; the fleet has another set of its name"
            return outcome_of(command, "superseded", text)
        match command:
            case CreatePod():
                return await self._create(command)
            case DeletePod():
                return await self._delete(command)
            case AdoptPod():
                return await self._adopt(command)
            case ReleasePod():
                return await self._release(command)

    # --- looking ------------------------------------------------------------------------------------------------------

    async def _pod(self, command: Command) -> ApiPod | None:
        """Look a command's pod up; ``None`` if no pod has its name."""
        path = pod_path(command.namespace, command.pod)
        body = await self._get(path)
        return None if body is None else parse_pod(body)

    async def _get(self, path: str) -> bytes | None:
        try:
            return await self._server.get(path)
        except Refusal as refusal:
            if refusal.is_not_found:
                return None
            raise

    async def _set_now(self, command: Command) -> ApiDaemonSet | None:
        """Look the set of a command up; ``None`` if it is gone, or another one has its name."""
        body = await self._get(daemonset_path(command.namespace, command.daemonset))
        found = None if body is None else parse_daemonset(body)
        return found if found is not None and found.uid == command.daemonset_uid else None

    async def _set_is_there(self, command: Command) -> bool:
        """Say whether a set is alive that a fleet takes for gone: then its pods are nobody else's to touch (S1, S5)."""
        now = await self._set_now(command)
        return now is not None and now.metadata.deletion_timestamp is None

    async def _set_seen(self, command: Command) -> ApiDaemonSet | None:
        """Return the set of a command as it was last seen; it is looked up only if it was not."""
        known = self._cluster.sets.get(command.set_key)
        if known is not None and known.api.uid == command.daemonset_uid:
            return known.api
        return await self._set_now(command)

    async def _node_is_there(self, command: CreatePod) -> bool:
        if self._cluster.node_uids.get(command.node) == command.node_uid:
            return True
        body = await self._get(node_path(command.node))
        return body is not None and parse_node(body).uid == command.node_uid

    # --- creating -----------------------------------------------------------------------------------------------------

    async def _create(self, command: CreatePod) -> Outcome:
        daemonset = await self._set_seen(command)
        objection = _set_objection(command, daemonset)
        if daemonset is None or objection:
            return outcome_of(command, "superseded", objection)
        if not await self._node_is_there(command):
            return outcome_of(command, "refused", f"node {command.node} is not there any more")
        body = pod_for(
            command,
            Owner(name=command.daemonset, uid=command.daemonset_uid),
            revision_label=self._cluster.label_of(command.set_key, command.revision),
            template_generation=daemonset.metadata.annotation(TEMPLATE_GENERATION_ANNOTATION),
        )
        try:
            made = await self._server.create(pods_path(command.namespace), body)
        except Refusal as refusal:
            return await self._not_created(command, refusal)
        return outcome_of(command, "done", pod_uid=parse_pod(made).uid)

    async def _not_created(self, command: CreatePod, refusal: Refusal) -> Outcome:
        if refusal.already_exists:
            return await self._meet(command)
        if refusal.namespace_terminating or refusal.is_not_found:
            text = f"namespace {command.namespace} is gone or on its way out"
            return outcome_of(command, "superseded", text)
        if refusal.is_conflict:  # a quota was changed meanwhile, and the like
            raise UnavailableError(str(refusal)) from refusal
        return outcome_of(command, "refused", _reasons(refusal))

    async def _meet(self, command: CreatePod) -> Outcome:
        """Answer for a name that is taken."""
        pod = await self._pod(command)
        if pod is None:
            raise UnavailableError(f"pod {command.pod} has gone just now", STILL_STOPPING_RETRY_MS)
        controller = controller_of(pod.metadata)
        is_ours = controller is not None and controller.uid == command.daemonset_uid
        if not is_ours or node_name_of(pod) != command.node:
            text = f"pod {command.pod} is there and is not this set's on node {command.node}"
            return outcome_of(command, "refused", text)
        if pod.metadata.deletion_timestamp is not None:
            text = f"pod {command.pod} is still stopping"
            raise UnavailableError(text, STILL_STOPPING_RETRY_MS)
        return outcome_of(command, "done", "it was there already", pod.uid)

    # --- deleting -----------------------------------------------------------------------------------------------------

    async def _delete(self, command: DeletePod) -> Outcome:
        """Delete a pod, at once if its node is gone, for then nobody is there to stop its containers."""
        resource_version = None
        if self._is_of_former_set(command):
            # The garbage collector may be making an orphan of it right now.
            pod = await self._pod(command)
            if pod is None or pod.uid != command.pod_uid:
                return outcome_of(command, "done", "it was gone already")
            controller = controller_of(pod.metadata)
            if controller is None or controller.uid != command.daemonset_uid:
                return outcome_of(command, "superseded", f"pod {command.pod} has changed hands")
            resource_version = pod.metadata.resource_version
        grace_seconds = 0 if await self._node_is_gone(command) else None
        options = delete_options(
            command.pod_uid,
            grace_period_seconds=grace_seconds,
            resource_version=resource_version,
        )
        try:
            await self._server.delete(pod_path(command.namespace, command.pod), options)
        except Refusal as refusal:
            if refusal.is_not_found:
                return outcome_of(command, "done", "it was gone already")
            if not refusal.is_conflict:
                return outcome_of(command, "refused", _reasons(refusal))
            if resource_version is not None:
                text = f"pod {command.pod} has changed just now"
                raise UnavailableError(text, STILL_STOPPING_RETRY_MS) from refusal
            return outcome_of(command, "done", "it was gone already; another pod has its name")
        return outcome_of(command, "done")

    def _is_of_former_set(self, command: DeletePod) -> bool:
        known = self._cluster.sets.get(command.set_key)
        return known is None or known.api.uid != command.daemonset_uid

    async def _node_is_gone(self, command: DeletePod) -> bool:
        """Say whether no node has that name; only a fresh answer counts."""
        if command.node in self._cluster.node_uids:
            return False
        return await self._get(node_path(command.node)) is None

    # --- adopting and releasing ---------------------------------------------------------------------------------------

    async def _adopt(self, command: AdoptPod) -> Outcome:
        """Become the controller, if the set is there now and nobody else is (RecheckDeletionTimestamp)."""
        objection = _set_objection(command, await self._set_now(command))
        if objection:
            return outcome_of(command, "superseded", objection)
        pod = await self._pod(command)
        if pod is None or pod.uid != command.pod_uid:
            return outcome_of(command, "superseded", f"pod {command.pod} is gone")
        controller = controller_of(pod.metadata)
        if controller is not None and controller.uid == command.daemonset_uid:
            return outcome_of(command, "done", "it was the set's already", pod.uid)
        if pod.metadata.deletion_timestamp is not None:
            return outcome_of(command, "superseded", f"pod {command.pod} is on its way out")
        if controller is not None:
            text = f"{controller.kind} {controller.name} controls pod {command.pod}"
            return outcome_of(command, "superseded", text)
        owner = Owner(name=command.daemonset, uid=command.daemonset_uid)
        patch = adoption_patch(pod.uid, owner)
        return await self._patch(command, patch)

    async def _release(self, command: ReleasePod) -> Outcome:
        pod = await self._pod(command)
        if pod is None or pod.uid != command.pod_uid:
            return outcome_of(command, "done", "it was gone already")
        controller = controller_of(pod.metadata)
        if controller is None or controller.uid != command.daemonset_uid:
            return outcome_of(command, "done", "it was not the set's any more")
        return await self._patch(command, release_patch(pod.uid, command.daemonset_uid))

    async def _patch(self, command: AdoptPod | ReleasePod, patch: bytes) -> Outcome:
        path = pod_path(command.namespace, command.pod)
        try:
            await self._server.patch(path, patch, MERGE_PATCH)
        except Refusal as refusal:
            if refusal.is_forbidden:
                return outcome_of(command, "refused", _reasons(refusal))
            # It has gone, has another uid, or another controller: what that means is seen by looking again.
            raise UnavailableError(str(refusal), STILL_STOPPING_RETRY_MS) from refusal
        uid = command.pod_uid if isinstance(command, AdoptPod) else ""
        return outcome_of(command, "done", pod_uid=uid)


def _set_objection(command: Command, daemonset: ApiDaemonSet | None) -> str:
    """Say why nothing may be done for a set any more; empty if it may."""
    if daemonset is None:
        return f"DaemonSet {command.daemonset} is gone, or another one has its name"
    if daemonset.metadata.deletion_timestamp is not None:
        return f"DaemonSet {command.daemonset} is being deleted"
    return ""


def _reasons(refusal: Refusal) -> str:
    """Say what the server said, without what was asked: the command says that."""
    return refusal.message or str(refusal)
