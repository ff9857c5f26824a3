"""What the fleet says of sets, shown by a real API server: status and events, only on the set that is meant."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_parts import (
    Place,
    a_place,
    some_role,
)
from tests.kubernetes.support_showing import (
    SET,
    being_deleted,
    let_go,
    notice_of,
    report,
    set_now,
    showing,
    status_of,
)

from everynode.core.events import StatusReported
from everynode.core.values import Condition
from everynode.errors import UnavailableError
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.paths import daemonset_path, events_path
from everynode_kubernetes.showing import INVALID_DAEMONSET


@pytest.fixture
async def place(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Place]:
    """Where reports are shown."""
    async with a_place(control_plane, namespace) as place:
        yield place


class TestStatus:
    """The status of a set, written where it differs."""

    async def test_shown(self, place: Place) -> None:
        """It is written once; what is shown already is not written again."""
        daemonset = await place.daemonset()
        await place.see()
        condition = Condition(type="Available", status="True", reason="r", message="m")

        await report(place, status_of(daemonset, conditions=(condition,)))
        assert ["PATCH daemonsets/status"] == place.server.verbs()
        await place.see()
        await report(place, status_of(daemonset, conditions=(condition,)))
        assert [] == place.server.verbs()

        status = (await set_now(place))["status"]
        assert (3, 2, 1) == (
            status["desiredNumberScheduled"],
            status["numberReady"],
            status["observedGeneration"],
        )
        assert [("Available", "True", "r", "m")] == [
            (each["type"], each["status"], each["reason"], each["message"])
            for each in status["conditions"]
        ]

    async def test_what_others_wrote(self, place: Place) -> None:
        """Conditions of others stay, and so does the built-in controller's count of collisions."""
        daemonset = await place.daemonset()
        foreign = {"type": "Approved", "status": "True"}
        status = {"conditions": [foreign], "collisionCount": 7}
        path = f"{daemonset_path(place.namespace, SET)}/status"
        await place.api.patch(path, {"status": status})
        await place.see()
        condition = Condition(type="Available", status="True")

        await report(place, status_of(daemonset, conditions=(condition,)))

        shown = (await set_now(place))["status"]
        assert {"Approved", "Available"} == {each["type"] for each in shown["conditions"]}
        assert (7, 2) == (shown["collisionCount"], shown["numberReady"])

    @pytest.mark.parametrize(("before", "wanted"), [(2, 2), (99, 1)])
    async def test_observed_generation(self, place: Place, before: int, wanted: int) -> None:
        """It never goes back, unless it is one that the set never had."""
        daemonset = await place.daemonset()
        path = daemonset_path(place.namespace, SET)
        await place.api.patch(path, {"spec": {"minReadySeconds": 1}})
        await place.api.patch(f"{path}/status", {"status": {"observedGeneration": before}})
        await place.see()

        await report(place, status_of(daemonset))

        assert wanted == (await set_now(place))["status"]["observedGeneration"]

    async def test_sets_that_are_not_meant(self, place: Place) -> None:
        """Nothing is asked about a set that is not there, is another one, or is being deleted."""
        daemonset = await being_deleted(place)
        await report(place, status_of(daemonset))
        await place.see()
        await report(place, status_of(daemonset))
        other = await place.daemonset("other")
        await place.see()
        await report(place, status_of(other, daemonset_uid="another"))

        assert [] == place.server.verbs()
        await let_go(place)

    async def test_gone_just_now(self, place: Place) -> None:
        """A set that has gone meanwhile is no trouble; one made anew is not written on."""
        daemonset = await place.daemonset()
        await place.see()
        await place.remove(daemonset_path(place.namespace, SET))
        await report(place, status_of(daemonset))

        await place.daemonset()
        with pytest.raises(UnavailableError):
            await report(place, status_of(daemonset))

        assert 0 == (await set_now(place))["status"]["numberReady"]

    async def test_not_allowed(self, place: Place) -> None:
        """What may not be written is refused."""
        daemonset = await place.daemonset()
        await place.see()
        server = await some_role(place, "nobody", [])

        with pytest.raises(Refusal) as caught:
            await showing(place, server).report(StatusReported(status=status_of(daemonset)))

        await server.close()
        assert caught.value.is_forbidden

    async def test_mended(self, place: Place) -> None:
        """A status that somebody overwrites is shown again, and nothing is asked while it is as it should be."""
        daemonset = await place.daemonset()
        await place.see()
        shows = showing(place)
        await shows.report(StatusReported(status=status_of(daemonset)))
        await place.see()
        place.server.requests.clear()
        await shows.mend()
        assert [] == place.server.verbs()

        path = f"{daemonset_path(place.namespace, SET)}/status"
        await place.api.patch(path, {"status": {"numberReady": 99}})
        await place.see()
        await shows.mend()

        assert ["PATCH daemonsets/status"] == place.server.verbs()
        assert 2 == (await set_now(place))["status"]["numberReady"]

    async def test_mended_with_what_was_said_last(self, place: Place) -> None:
        """S8: what is reported while another set is being mended is not overwritten with what was said before."""
        first, second = await place.daemonset("a-first"), await place.daemonset()
        await place.see()
        shows = showing(place)
        for each in (first, second):
            await shows.report(StatusReported(status=status_of(each)))
        newer = StatusReported(status=status_of(second, number_ready=3))
        place.server.before("PATCH", lambda: shows.report(newer))

        await shows.mend()
        await place.see()
        await shows.mend()

        assert 3 == (await set_now(place))["status"]["numberReady"]

    async def test_not_mended(self, place: Place) -> None:
        """L3: what cannot be mended delays no other set; a set that is gone is not mended any more."""
        first, second = await place.daemonset("a-first"), await place.daemonset()
        await place.see()
        shows = showing(place)
        for each in (first, second):
            await shows.report(StatusReported(status=status_of(each)))
        await place.remove(daemonset_path(place.namespace, "a-first"))
        await place.daemonset("a-first")
        await place.api.patch(
            f"{daemonset_path(place.namespace, SET)}/status", {"status": {"numberReady": 99}}
        )

        await shows.mend()
        assert 2 == (await set_now(place))["status"]["numberReady"]

        await place.see()
        place.server.requests.clear()
        await shows.mend()
        assert [] == place.server.verbs()


class TestEvents:
    """What people are told."""

    async def events(self, place: Place) -> list[Any]:
        """The events of the namespace that are the fleet's."""
        found = await place.api.get(events_path(place.namespace))
        ours = "everynode.dev/daemonset-controller"
        return [item for item in found["items"] if item.get("reportingController") == ours]

    async def test_told_once(self, place: Place) -> None:
        """A notice is one event, however often it is reported; another one is another event."""
        daemonset = await place.daemonset()
        await place.see()

        for message in ("one", "one", "two"):
            await report(place, notice_of(daemonset, message=message, pod="p"))

        found = sorted(await self.events(place), key=lambda event: str(event["note"]))
        assert ["one", "two"] == [event["note"] for event in found]
        assert ("SuccessfulCreate", "Normal", daemonset["metadata"]["uid"], "p") == (
            found[0]["reason"],
            found[0]["type"],
            found[0]["regarding"]["uid"],
            found[0]["related"]["name"],
        )

    async def test_sets_that_are_not_meant(self, place: Place) -> None:
        """Of a set that is not known, or is another one, nothing is told; of one that is being deleted it is."""
        daemonset = await being_deleted(place)
        await report(place, notice_of(daemonset))
        await place.see()
        await report(place, notice_of(daemonset, daemonset_uid="another"))
        assert [] == place.server.verbs()

        await report(place, notice_of(daemonset))

        assert 1 == len(await self.events(place))
        await let_go(place)

    async def test_a_set_that_cannot_be_used(self, place: Place) -> None:
        """People are told why; if they cannot be, it is no error."""
        await place.daemonset(annotations={"everynode.dev/backend": "elsewhere"})
        await place.see()
        (known,) = place.cluster.troubled
        server = await some_role(place, "nobody", [])

        await showing(place, server).warn(known)
        assert [] == await self.events(place)
        await showing(place).warn(known)

        await server.close()
        (event,) = await self.events(place)
        assert (INVALID_DAEMONSET, "Warning") == (event["reason"], event["type"])
        assert "everynode.dev/backend" in event["note"]
