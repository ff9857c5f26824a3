"""Creates and deletes carried out by a real API server, and every guard that keeps one from doing harm.

A create is guarded by set, node, namespace, the template's validity, quotas and the pod's name; a delete by the pod's
uid, its owner if its set is not there any more, and its node, which alone decides about the grace. Each is tried when
the guard holds, when it does not, and when somebody changes what matters between the look and the deed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_executing import (
    POD,
    TEMPLATE,
    apply,
    create,
    on_pod,
    pod_now,
    put_off,
    stop,
    stopping,
)
from tests.kubernetes.support_parts import (
    FINALIZER,
    Place,
    a_place,
    owner_reference,
    some_role,
    template,
)

from everynode.core.commands import DeletePod, ReleasePod
from everynode.core.identity import revision_hash
from everynode.errors import UnavailableError
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.executing import SET_IS_NO_MORE, Executor
from everynode_kubernetes.objects import REVISION_LABEL, parse_daemonset
from everynode_kubernetes.paths import daemonset_path, node_path, pod_path, revisions_path
from everynode_kubernetes.reflector import Changed


@pytest.fixture
async def place(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Place]:
    """Where the commands are carried out."""
    async with a_place(control_plane, namespace) as place:
        yield place


class TestCreate:
    """A pod is made if everything that it is for is there, and only once."""

    async def test_made(self, place: Place) -> None:
        """It is the set's, and carries what it is read back by; nothing is asked that was seen."""
        daemonset, node = await place.daemonset(), await place.node()
        await place.see()

        outcome = await apply(place, create(place, daemonset, node))

        assert ["POST pods"] == place.server.verbs()
        pod = await pod_now(place)
        assert ("done", pod["metadata"]["uid"]) == (outcome.result, outcome.pod_uid)
        (owner,) = pod["metadata"]["ownerReferences"]
        assert (daemonset["metadata"]["uid"], True) == (owner["uid"], owner["controller"])
        assert revision_hash(TEMPLATE) == pod["metadata"]["labels"][REVISION_LABEL]
        assert {"everynode.dev/generation": "4", "everynode.dev/failures": "2"} == pod["metadata"][
            "annotations"
        ]

    async def test_label_of_the_cluster(self, place: Place) -> None:
        """It carries the label of the ControllerRevision that holds its template."""
        daemonset, node = await place.daemonset(), await place.node()
        labels = {"app": "agent", REVISION_LABEL: "of-old"}
        metadata = {
            "name": "old",
            "labels": labels,
            "ownerReferences": [owner_reference(daemonset)],
        }
        data = {"spec": {"template": {**template("agent"), "$patch": "replace"}}}
        body = {"metadata": metadata, "revision": 1, "data": data}
        await place.api.create(revisions_path(place.namespace), body)
        await place.see()

        await apply(place, create(place, daemonset, node))

        assert "of-old" == (await pod_now(place))["metadata"]["labels"][REVISION_LABEL]

    async def test_not_seen_yet(self, place: Place) -> None:
        """What was not seen yet is looked up."""
        daemonset, node = await place.daemonset(), await place.node()

        outcome = await apply(place, create(place, daemonset, node))

        assert "done" == outcome.result
        assert ["GET daemonsets", "GET nodes", "POST pods"] == place.server.verbs()

    async def test_repeated(self, place: Place) -> None:
        """S1: a repeat meets the pod that is there, and says the same."""
        daemonset, node = await place.daemonset(), await place.node()
        first = await apply(place, create(place, daemonset, node))

        second = await apply(place, create(place, daemonset, node))

        assert ("done", first.pod_uid) == (second.result, second.pod_uid)

    @pytest.mark.parametrize("case", ["gone", "another", "being deleted"])
    async def test_set_is_not_there(self, place: Place, case: str) -> None:
        """S5: no pod is made for a set that is gone, has another uid, or is on its way out."""
        node = await place.node()
        daemonset = await place.daemonset(finalizers=[FINALIZER] if case == "being deleted" else [])
        path = daemonset_path(place.namespace, "agent")
        await place.remove(path)
        if case == "another":
            await place.daemonset()

        outcome = await apply(place, create(place, daemonset, node))

        assert "superseded" == outcome.result
        assert ("being deleted" in outcome.message) is (case == "being deleted")
        assert await pod_now(place) is None
        if case == "being deleted":
            await place.change(path, finalizers=None)

    @pytest.mark.parametrize("is_there", [True, False])
    async def test_node_is_not_there(self, place: Place, *, is_there: bool) -> None:
        """S2: no pod is made for a node that is gone, or has another uid than the one that was decided for."""
        daemonset, node = await place.daemonset(), await place.node()
        if not is_there:
            await place.remove(node_path(node["metadata"]["name"]))
        await place.see()

        outcome = await apply(place, create(place, daemonset, node, node_uid="another"))

        assert "refused" == outcome.result
        assert "is not there any more" in outcome.message
        assert await pod_now(place) is None

    async def test_namespace_is_on_its_way_out(self, place: Place) -> None:
        """In a namespace that terminates nothing is made, and nobody is to blame."""
        daemonset, node = await place.daemonset(finalizers=[FINALIZER]), await place.node()
        await place.see()
        await place.api.delete(f"/api/v1/namespaces/{place.namespace}")

        outcome = await apply(place, create(place, daemonset, node))

        assert "superseded" == outcome.result
        assert f"namespace {place.namespace}" in outcome.message
        await place.change(daemonset_path(place.namespace, "agent"), finalizers=None)

    async def test_namespace_is_gone(self, place: Place) -> None:
        """Nor in one that is gone, although its set is still believed to be there."""
        daemonset, node = await place.daemonset(), await place.node()
        daemonset["metadata"]["namespace"] = "gone"
        seen = parse_daemonset(json.dumps(daemonset).encode())
        await place.see()
        place.cluster.take_set(Changed("ADDED", seen))

        outcome = await apply(place, create(place, daemonset, node, namespace="gone"))

        assert "superseded" == outcome.result

    async def test_invalid(self, place: Place) -> None:
        """A template that the server does not take is refused with the server's reasons."""
        daemonset, node = await place.daemonset(), await place.node()
        broken = msgspec.Raw(msgspec.json.encode({"spec": {"containers": []}}))

        outcome = await apply(place, create(place, daemonset, node, template=broken))

        assert "refused" == outcome.result
        assert "spec.containers: Required value" in outcome.message

    async def test_quota(self, place: Place) -> None:
        """A quota that leaves no room refuses the pod, and says so."""
        daemonset, node = await place.daemonset(), await place.node()
        path = f"/api/v1/namespaces/{place.namespace}/resourcequotas"
        hard = {"hard": {"pods": "0"}}
        made = await place.api.create(path, {"metadata": {"name": "none"}, "spec": hard})
        made["status"] = {**hard, "used": {"pods": "0"}}
        await place.api.patch(f"{path}/none/status", {"status": made["status"]})

        outcome = await apply(place, create(place, daemonset, node))

        assert "refused" == outcome.result
        assert "quota" in outcome.message

    async def test_conflict(self, place: Place) -> None:
        """A conflict that is not about the name is over soon (a quota that is being counted, say)."""
        daemonset, node = await place.daemonset(), await place.node()

        async def conflict() -> None:
            raise Refusal("POST pods", 409, "Conflict", "the quota has been modified")

        place.server.before("POST", conflict)
        with pytest.raises(UnavailableError, match="has been modified"):
            await apply(place, create(place, daemonset, node))

    @pytest.mark.parametrize("whose", ["nobody's", "another set's", "another node's"])
    async def test_name_is_taken(self, place: Place, whose: str) -> None:
        """A name that somebody else has is refused, and what has it is left alone."""
        daemonset, node, elsewhere = (
            await place.daemonset(),
            await place.node(),
            await place.node(),
        )
        others = {
            "nobody's": None,
            "another set's": await place.daemonset("other"),
            "another node's": daemonset,
        }[whose]
        there = elsewhere if whose == "another node's" else node
        pod = await place.pod(there["metadata"]["name"], owner=others)

        outcome = await apply(place, create(place, daemonset, node))

        assert "refused" == outcome.result
        assert "is not this set's" in outcome.message
        assert pod["metadata"]["uid"] == (await pod_now(place))["metadata"]["uid"]

    async def test_name_is_still_taken(self, place: Place) -> None:
        """S1: a name whose pod is still stopping is free later."""
        daemonset, node = await place.daemonset(), await place.node()
        await place.pod(node["metadata"]["name"], owner=daemonset)
        await stop(place)

        await put_off(place, create(place, daemonset, node), "is still stopping")

    async def test_name_is_free_just_now(self, place: Place) -> None:
        """A name that was taken and is free when it is looked at is free later."""
        daemonset, node = await place.daemonset(), await place.node()
        await place.pod(node["metadata"]["name"], owner=daemonset)
        path = pod_path(place.namespace, POD)
        place.server.before(f"GET {path}", lambda: place.remove(path))

        await put_off(place, create(place, daemonset, node), "has gone just now")


class TestDelete:
    """One very pod is deleted, and never another one."""

    async def test_deleted(self, place: Place) -> None:
        """A pod whose set and node are there is given its time to stop; a repeat changes nothing."""
        daemonset, node = await place.daemonset(), await place.node()
        pod = await place.pod(node["metadata"]["name"], owner=daemonset)
        await place.see()
        command = on_pod(DeletePod, place, daemonset, pod)

        for _repeat in range(2):
            assert "done" == (await apply(place, command)).result
            assert ["DELETE pods"] == place.server.verbs()
            assert 30 == stopping(await pod_now(place))

    @pytest.mark.parametrize("kind", [DeletePod, ReleasePod])
    @pytest.mark.parametrize("reason", sorted(SET_IS_NO_MORE))
    async def test_the_set_is_there(self, place: Place, kind: type[Any], reason: str) -> None:
        """S5: a fleet that has another set of a live set's name does not get at its pods, whatever it decided."""
        daemonset, node = await place.daemonset(), await place.node()
        pod = await place.pod(node["metadata"]["name"], owner=daemonset)
        await place.see()

        outcome = await apply(place, on_pod(kind, place, daemonset, pod, reason=reason))

        assert "superseded" == outcome.result
        assert (
            pod["metadata"]["ownerReferences"]
            == (await pod_now(place))["metadata"]["ownerReferences"]
        )
        assert stopping(await pod_now(place)) is None

    async def test_gone_already(self, place: Place) -> None:
        """A pod that is gone is done, and so is one whose name another one has: that one stays."""
        daemonset, node = await place.daemonset(), await place.node()
        pod = await place.pod(node["metadata"]["name"], owner=daemonset)
        await place.see()
        await place.remove(pod_path(place.namespace, POD))

        gone = await apply(place, on_pod(DeletePod, place, daemonset, pod))
        await place.pod(node["metadata"]["name"], owner=daemonset)
        another = await apply(place, on_pod(DeletePod, place, daemonset, pod))

        assert ("done", "done") == (gone.result, another.result)
        assert "another pod has its name" in another.message
        assert stopping(await pod_now(place)) is None

    async def test_node_is_gone(self, place: Place) -> None:
        """A pod whose node is verified to be gone is removed at once: nobody is there to stop it."""
        daemonset, node = await place.daemonset(), await place.node()
        name = node["metadata"]["name"]
        pod = await place.pod(name, owner=daemonset)
        await place.remove(node_path(name))
        await place.see()

        outcome = await apply(place, on_pod(DeletePod, place, daemonset, pod))

        assert "done" == outcome.result
        assert ["GET nodes", "DELETE pods"] == place.server.verbs()
        assert await pod_now(place) is None

    async def test_node_is_there_after_all(self, place: Place) -> None:
        """A node that was not seen, but is there when it is looked for, still stops its pod."""
        daemonset = await place.daemonset()
        await place.see()
        node = await place.node()
        pod = await place.pod(node["metadata"]["name"], owner=daemonset)

        await apply(place, on_pod(DeletePod, place, daemonset, pod))

        assert ["GET nodes", "DELETE pods"] == place.server.verbs()
        assert 30 == stopping(await pod_now(place))

    async def test_of_a_former_set(self, place: Place) -> None:
        """A pod that still belongs to a set that is not known any more is deleted, as it was seen just now."""
        daemonset, node = await place.daemonset(), await place.node()
        await place.see()
        pod = await place.pod(node["metadata"]["name"], owner=daemonset)
        await place.until_running()
        place.cluster.sets.clear()

        outcome = await apply(place, on_pod(DeletePod, place, daemonset, pod))

        assert "done" == outcome.result
        assert ["GET pods", "DELETE pods"] == place.server.verbs()
        assert 30 == stopping(await pod_now(place))

    @pytest.mark.parametrize("case", ["orphaned", "another set's", "gone", "another"])
    async def test_of_a_former_set_no_more(self, place: Place, case: str) -> None:
        """S5: the garbage collector may have made an orphan of it, or somebody adopted it: then it stays."""
        daemonset, node = await place.daemonset(), await place.node()
        place.cluster.sets.clear()
        others = {"orphaned": None, "another set's": await place.daemonset("other")}
        pod = await place.pod(node["metadata"]["name"], owner=others.get(case, daemonset))
        if case == "gone":
            await place.remove(pod_path(place.namespace, POD))
        uid = "another" if case == "another" else pod["metadata"]["uid"]

        outcome = await apply(place, on_pod(DeletePod, place, daemonset, pod, pod_uid=uid))

        wanted = "superseded" if case in others else "done"
        assert wanted == outcome.result
        assert ["GET pods"] == place.server.verbs()
        if case != "gone":
            assert stopping(await pod_now(place)) is None

    async def test_of_a_former_set_changes_hands(self, place: Place) -> None:
        """S5: if it is orphaned between the look and the deed, it stays, and is looked at again."""
        daemonset, node = await place.daemonset(), await place.node()
        pod = await place.pod(node["metadata"]["name"], owner=daemonset)
        command = on_pod(DeletePod, place, daemonset, pod)
        path = pod_path(place.namespace, POD)
        place.server.before("DELETE", lambda: place.change(path, ownerReferences=None))

        await put_off(place, command, "has changed just now")

        assert stopping(await pod_now(place)) is None
        assert "superseded" == (await apply(place, command)).result

    async def test_not_allowed(self, place: Place) -> None:
        """What may not be deleted is refused with the server's reason."""
        daemonset, node = await place.daemonset(), await place.node()
        pod = await place.pod(node["metadata"]["name"], owner=daemonset)
        await place.see()
        server = await some_role(place, "nobody-much", [])

        outcome = await Executor(server, place.cluster).apply(
            on_pod(DeletePod, place, daemonset, pod)
        )

        await server.close()
        assert "refused" == outcome.result
        assert "cannot delete resource" in outcome.message
