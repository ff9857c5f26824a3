"""Adoptions and releases carried out by a real API server, and every guard that keeps one from doing harm.

An adoption is guarded by the set as it is now, the pod's uid and its owner; a release by both. Each is tried when the
guard holds, when it does not, and when somebody changes what matters between the look and the deed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_executing import (
    POD,
    apply,
    on_pod,
    pod_now,
    put_off,
    stop,
    stopping,
)
from tests.kubernetes.support_parts import (
    BACKEND,
    FINALIZER,
    Place,
    a_place,
    owner_reference,
    some_role,
)

from everynode.core.commands import AdoptPod, ReleasePod
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.cluster import Cluster
from everynode_kubernetes.executing import Executor
from everynode_kubernetes.paths import daemonset_path, pod_path


@pytest.fixture
async def place(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Place]:
    """Where the commands are carried out."""
    async with a_place(control_plane, namespace) as place:
        yield place


class TestAdopt:
    """A set becomes the controller of an orphan, if both are what they were."""

    async def test_adopted(self, place: Place) -> None:
        """The pod is the set's, and nothing else about it changes; a repeat says the same."""
        daemonset, node = await place.daemonset(), await place.node()
        pod = await place.pod(node["metadata"]["name"])
        command = on_pod(AdoptPod, place, daemonset, pod)

        outcomes = [await apply(place, command) for _repeat in range(2)]

        assert ["done", "done"] == [outcome.result for outcome in outcomes]
        assert {pod["metadata"]["uid"]} == {outcome.pod_uid for outcome in outcomes}
        now = await pod_now(place)
        (owner,) = now["metadata"].pop("ownerReferences")
        assert daemonset["metadata"]["uid"] == owner["uid"]
        assert pod["metadata"]["labels"] == now["metadata"]["labels"]
        assert pod["spec"] == now["spec"]

    @pytest.mark.parametrize("case", ["gone", "another", "being deleted"])
    async def test_set_is_not_there(self, place: Place, case: str) -> None:
        """The set is looked up, not remembered: one that is gone or on its way out adopts nothing."""
        node = await place.node()
        daemonset = await place.daemonset(finalizers=[FINALIZER] if case == "being deleted" else [])
        pod = await place.pod(node["metadata"]["name"])
        await place.see()
        path = daemonset_path(place.namespace, "agent")
        await place.remove(path)
        if case == "another":
            await place.daemonset()

        outcome = await apply(place, on_pod(AdoptPod, place, daemonset, pod))

        assert "superseded" == outcome.result
        assert "ownerReferences" not in (await pod_now(place))["metadata"]
        if case == "being deleted":
            await place.change(path, finalizers=None)

    @pytest.mark.parametrize("case", ["gone", "another", "stopping", "another set's"])
    async def test_pod_is_not_what_it_was(self, place: Place, case: str) -> None:
        """A pod that is gone, stopping, or somebody else's is not adopted."""
        daemonset, node = await place.daemonset(), await place.node()
        other = await place.daemonset("other") if case == "another set's" else None
        pod = await place.pod(node["metadata"]["name"], owner=other)
        uid = "another" if case == "another" else pod["metadata"]["uid"]
        if case == "gone":
            await place.remove(pod_path(place.namespace, POD))
        if case == "stopping":
            await stop(place)

        outcome = await apply(place, on_pod(AdoptPod, place, daemonset, pod, pod_uid=uid))

        assert "superseded" == outcome.result
        assert "PATCH pods" not in place.server.verbs()

    @pytest.mark.parametrize("case", ["adopted", "gone", "made anew"])
    async def test_race(self, place: Place, case: str) -> None:
        """S1: what happens between the look and the deed is not overwritten; it is looked at again."""
        daemonset, other = await place.daemonset(), await place.daemonset("other")
        node = await place.node()
        name = node["metadata"]["name"]
        pod = await place.pod(name)
        path = pod_path(place.namespace, POD)

        async def change() -> None:
            if case == "adopted":
                await place.change(path, ownerReferences=[owner_reference(other)])
                return
            await place.remove(path)
            if case == "made anew":
                await place.pod(name)

        place.server.before("PATCH", change)
        command = on_pod(AdoptPod, place, daemonset, pod)

        await put_off(place, command, "PATCH")

        now = await pod_now(place)
        owners = [] if now is None else now["metadata"].get("ownerReferences", [])
        assert ["other"] * (case == "adopted") == [owner["name"] for owner in owners]
        assert "superseded" == (await apply(place, command)).result

    async def test_not_allowed(self, place: Place) -> None:
        """What may not be changed is refused; what may not even be read is no answer of the backend's."""
        daemonset, node = await place.daemonset(), await place.node()
        pod = await place.pod(node["metadata"]["name"])
        rules = [{"apiGroups": ["", "apps"], "resources": ["pods", "daemonsets"], "verbs": ["get"]}]
        server = await some_role(place, "reader", rules)
        nobody = await some_role(place, "nobody", [])
        command = on_pod(AdoptPod, place, daemonset, pod)

        outcome = await Executor(server, Cluster(BACKEND)).apply(command)
        with pytest.raises(Refusal) as caught:
            await Executor(nobody, Cluster(BACKEND)).apply(command)

        await server.close()
        await nobody.close()
        assert "refused" == outcome.result
        assert "cannot patch resource" in outcome.message
        assert caught.value.is_forbidden


class TestRelease:
    """A pod that a set no longer selects is left to itself."""

    async def test_released(self, place: Place) -> None:
        """The pod is nobody's, and nothing else about it changes; a repeat says the same."""
        daemonset, node = await place.daemonset(), await place.node()
        pod = await place.pod(node["metadata"]["name"], owner=daemonset)
        command = on_pod(ReleasePod, place, daemonset, pod)

        outcomes = [await apply(place, command) for _repeat in range(2)]

        assert ["done", "done"] == [outcome.result for outcome in outcomes]
        now = await pod_now(place)
        assert "ownerReferences" not in now["metadata"]
        assert pod["metadata"]["labels"] == now["metadata"]["labels"]
        assert stopping(now) is None

    @pytest.mark.parametrize("case", ["gone", "another", "another set's"])
    async def test_nothing_to_release(self, place: Place, case: str) -> None:
        """A pod that is gone or not the set's is done, and left alone."""
        daemonset, node = await place.daemonset(), await place.node()
        other = await place.daemonset("other")
        owner = other if case == "another set's" else daemonset
        pod = await place.pod(node["metadata"]["name"], owner=owner)
        uid = "another" if case == "another" else pod["metadata"]["uid"]
        if case == "gone":
            await place.remove(pod_path(place.namespace, POD))

        outcome = await apply(place, on_pod(ReleasePod, place, daemonset, pod, pod_uid=uid))

        assert "done" == outcome.result
        assert ["GET pods"] == place.server.verbs()

    @pytest.mark.parametrize("case", ["gone", "made anew"])
    async def test_race(self, place: Place, case: str) -> None:
        """A pod that goes between the look and the deed is looked at again; one that has its name is not touched."""
        daemonset, node = await place.daemonset(), await place.node()
        name = node["metadata"]["name"]
        pod = await place.pod(name, owner=daemonset)
        path = pod_path(place.namespace, POD)

        async def change() -> None:
            await place.remove(path)
            if case == "made anew":
                await place.pod(name, owner=daemonset)

        place.server.before("PATCH", change)
        command = on_pod(ReleasePod, place, daemonset, pod)

        await put_off(place, command, "PATCH")

        now = await pod_now(place)
        owners = [] if now is None else now["metadata"].get("ownerReferences", [])
        assert ["agent"] * (case == "made anew") == [owner["name"] for owner in owners]
        assert "done" == (await apply(place, command)).result

    async def test_adopted_meanwhile(self, place: Place) -> None:
        """One that somebody else has released and another set adopted meanwhile stays that one's."""
        daemonset, other = await place.daemonset(), await place.daemonset("other")
        node = await place.node()
        pod = await place.pod(node["metadata"]["name"], owner=daemonset)
        path = pod_path(place.namespace, POD)
        adopted = [owner_reference(other)]
        place.server.before("PATCH", lambda: place.change(path, ownerReferences=adopted))

        outcome = await apply(place, on_pod(ReleasePod, place, daemonset, pod))

        assert "done" == outcome.result
        (owner,) = (await pod_now(place))["metadata"]["ownerReferences"]
        assert "other" == owner["name"]
