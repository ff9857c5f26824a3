"""What the fleet says of sets, shown by a real API server: status, history, events; only on the set that is meant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from msgspec import structs
from tests.kubernetes.support_control_plane import ControlPlane
from tests.kubernetes.support_parts import (
    FINALIZER,
    Place,
    a_place,
    owner_reference,
    some_role,
    template,
)

from everynode.core.events import NoticeReported, RevisionGone, RevisionRecorded, StatusReported
from everynode.core.identity import canonical, revision_hash
from everynode.core.revisions import HISTORY_LIMIT_EXCEEDED
from everynode.core.values import Condition, Notice, Revision, SetKey, Status
from everynode.errors import RefusedError, UnavailableError
from everynode.ports import Report
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.client import ApiServer
from everynode_kubernetes.objects import REVISION_LABEL
from everynode_kubernetes.paths import daemonset_path, events_path, revision_path, revisions_path
from everynode_kubernetes.showing import INVALID_DAEMONSET, NAMES_TRIED_MAX, Showing

SET = "agent"
AT_MS = 1_714_979_289_000
TEMPLATE = canonical(msgspec.json.encode(template(SET)))
HASH = revision_hash(TEMPLATE)
NAME = f"{SET}-{HASH}"


@pytest.fixture
async def place(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Place]:
    """Where reports are shown."""
    async with a_place(control_plane, namespace) as place:
        yield place


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


class TestRevisions:
    """The history that ``kubectl rollout`` reads."""

    async def test_made(self, place: Place) -> None:
        """A ControllerRevision is made as the built-in controller makes it; one that is there is left alone."""
        daemonset = await place.daemonset(annotations={"note": "n"})
        await place.see()

        await report(place, revision_of(daemonset, number=5, change_cause="why"))
        assert ["POST controllerrevisions"] == place.server.verbs()
        await place.see()
        await report(place, revision_of(daemonset, number=5))
        assert [] == place.server.verbs()

        (made,) = (await versions(place)).values()
        metadata = made["metadata"]
        assert (NAME, 5) == (metadata["name"], made["revision"])
        assert {"app": SET, REVISION_LABEL: HASH} == metadata["labels"]
        assert daemonset["metadata"]["uid"] == metadata["ownerReferences"][0]["uid"]
        assert ("n", "why") == (
            metadata["annotations"]["note"],
            metadata["annotations"]["kubernetes.io/change-cause"],
        )
        assert {**template(SET), "$patch": "replace"} == made["data"]["spec"]["template"]

    async def test_made_and_not_seen_yet(self, place: Place) -> None:
        """A repeat finds what was made before it was seen."""
        daemonset = await place.daemonset()
        await place.see()

        for _repeat in range(2):
            await report(place, revision_of(daemonset))

        assert ["POST controllerrevisions", "GET controllerrevisions"] == place.server.verbs()
        assert {NAME} == (await versions(place)).keys()

    async def test_numbered_up(self, place: Place) -> None:
        """A template that is returned to gets the next number; no number goes back."""
        daemonset = await place.daemonset()
        await version(place, daemonset, number=3)
        await place.see()

        await report(place, revision_of(daemonset, number=2))
        assert [] == place.server.verbs()
        await report(place, revision_of(daemonset, number=4))

        assert ["PATCH controllerrevisions"] == place.server.verbs()
        assert 4 == (await versions(place))[NAME]["revision"]

    async def test_found_by_content(self, place: Place) -> None:
        """One of another name and label that holds the template will do: the latest of several."""
        daemonset = await place.daemonset()
        await version(place, daemonset, "theirs-1", label="l1", number=1)
        await version(place, daemonset, "theirs-2", label="l2", number=2)
        await place.see()

        await report(place, revision_of(daemonset, number=3))

        assert {"theirs-1": 1, "theirs-2": 3} == {
            name: each["revision"] for name, each in (await versions(place)).items()
        }

    async def test_given_a_label(self, place: Place) -> None:
        """One that has no label gets its name for one, as its pods have it."""
        daemonset = await place.daemonset()
        await version(place, daemonset, "theirs", label="")
        await place.see()

        await report(place, revision_of(daemonset))

        labels = (await versions(place))["theirs"]["metadata"]["labels"]
        assert {"app": SET, REVISION_LABEL: "theirs"} == labels

    async def test_adopted(self, place: Place) -> None:
        """One that a former set has left becomes the set's, and gets its number."""
        daemonset = await place.daemonset()
        await version(place, None, "left")
        await place.see()

        await report(place, revision_of(daemonset, number=2))

        assert ["GET daemonsets", *["PATCH controllerrevisions"] * 2] == place.server.verbs()
        (left,) = (await versions(place)).values()
        assert 2 == left["revision"]
        assert daemonset["metadata"]["uid"] == left["metadata"]["ownerReferences"][0]["uid"]

    @pytest.mark.parametrize("case", ["gone", "made anew", "being deleted"])
    async def test_not_adopted(self, place: Place, case: str) -> None:
        """A set that is gone, another one or on its way out adopts nothing, and changes nothing that is not its own."""
        finalizers = [FINALIZER] if case == "being deleted" else []
        daemonset = await place.daemonset(finalizers=finalizers)
        await version(place, None, "left", label="")
        await place.see()
        await place.remove(daemonset_path(place.namespace, SET))
        if case == "made anew":
            await place.daemonset()

        await report(place, revision_of(daemonset, number=2))

        assert ["GET daemonsets"] == place.server.verbs()
        if case == "being deleted":
            await let_go(place)

    async def test_changed_just_now(self, place: Place) -> None:
        """One that goes or changes hands meanwhile is looked at again once that is seen."""
        daemonset = await place.daemonset()
        other = await place.daemonset("other")
        await version(place, daemonset)
        left = await version(place, None, "left", image="another")
        await place.see()
        await place.remove(revision_path(place.namespace, NAME))
        path = revision_path(place.namespace, "left")
        await place.change(path, ownerReferences=[owner_reference(other)])

        with pytest.raises(UnavailableError):
            await report(place, revision_of(daemonset, number=2))
        content = canonical(msgspec.json.encode(template(SET, "another")))
        taken = revision_of(
            daemonset, number=2, hash=revision_hash(content), template=msgspec.Raw(content)
        )
        with pytest.raises(UnavailableError):
            await report(place, taken)

        (now,) = (await versions(place)).values()
        assert left["metadata"]["uid"] == now["metadata"]["uid"]
        assert "other" == now["metadata"]["ownerReferences"][0]["name"]

    async def test_written_in_another_way(self, place: Place) -> None:
        """An API server lets no patch change one whose JSON is not canonical: it is tried again, and nothing is lost.

        It compares the bytes of its content with those that a patch makes of it.
        """
        daemonset = await place.daemonset()
        await version(place, daemonset, as_kubernetes_does=False)
        await place.see()

        with pytest.raises(UnavailableError, match="field is immutable"):
            await report(place, revision_of(daemonset, number=2))

        assert {NAME: 1} == {
            name: each["revision"] for name, each in (await versions(place)).items()
        }

    async def test_name_is_taken(self, place: Place) -> None:
        """If others have its name, it gets the next one that is free; its label is what it would have been."""
        daemonset = await place.daemonset()
        other = await place.daemonset("other")
        await version(place, other, NAME)
        await version(place, daemonset, f"{NAME}-1", image="another", label="l")
        await place.see()

        await report(place, revision_of(daemonset))
        await report(place, revision_of(daemonset))

        found = await versions(place)
        assert {NAME, f"{NAME}-1", f"{NAME}-2"} == found.keys()
        assert HASH == found[f"{NAME}-2"]["metadata"]["labels"][REVISION_LABEL]

    async def test_all_names_are_taken(self, place: Place) -> None:
        """B1: only so many names are tried; then somebody has to tidy up."""
        daemonset = await place.daemonset()
        other = await place.daemonset("other")
        for number in range(NAMES_TRIED_MAX):
            await version(place, other, f"{NAME}-{number}" if number else NAME)
        await place.see()

        with pytest.raises(RefusedError, match="remove them"):
            await report(place, revision_of(daemonset))

        assert NAMES_TRIED_MAX == len(await versions(place))

    async def test_name_is_free_just_now(self, place: Place) -> None:
        """A name that was taken and is free when it is looked at is tried again later."""
        daemonset = await place.daemonset()
        await place.see()
        await version(place, daemonset)
        path = revision_path(place.namespace, NAME)
        place.server.before(f"GET {path}", lambda: place.remove(path))

        with pytest.raises(UnavailableError):
            await report(place, revision_of(daemonset))

    async def test_sets_that_are_not_meant(self, place: Place) -> None:
        """Nothing is asked about a set that is not known, is another one, or is being deleted."""
        daemonset = await being_deleted(place)
        gone = RevisionGone(
            namespace=place.namespace, daemonset=SET, hash=HASH, why=HISTORY_LIMIT_EXCEEDED
        )
        for _before_and_after in range(2):
            await report(place, revision_of(daemonset))
            await report(place, revision_of(daemonset, daemonset_uid="another"))
            await report(place, gone)
            assert [] == place.server.verbs()
            await place.see()
        await let_go(place)

    async def test_namespace_terminates(self, place: Place) -> None:
        """In a namespace that is on its way out nothing is kept, and nobody is to blame."""
        daemonset = await place.daemonset(finalizers=[FINALIZER])
        await place.see()
        await place.api.delete(f"/api/v1/namespaces/{place.namespace}")

        await report(place, revision_of(daemonset))
        assert ["POST controllerrevisions"] == place.server.verbs()
        await report(place, notice_of(daemonset))
        assert ["POST events"] == place.server.verbs()
        await let_go(place)

    async def test_not_allowed(self, place: Place) -> None:
        """What may not be made, changed or removed is refused."""
        daemonset = await place.daemonset()
        await place.see()
        server = await some_role(place, "nobody", [])
        shows = showing(place, server)
        gone = RevisionGone(
            namespace=place.namespace, daemonset=SET, hash=HASH, why=HISTORY_LIMIT_EXCEEDED
        )

        with pytest.raises(Refusal, match="cannot create"):
            await shows.report(RevisionRecorded(revision=revision_of(daemonset)))
        await version(place, daemonset)
        await place.see()
        with pytest.raises(Refusal, match="cannot patch"):
            await shows.report(RevisionRecorded(revision=revision_of(daemonset, number=2)))
        with pytest.raises(Refusal, match="cannot delete"):
            await shows.report(gone)
        with pytest.raises(Refusal, match="cannot create"):
            await shows.report(NoticeReported(notice=notice_of(daemonset)))

        await server.close()

    async def test_forgotten(self, place: Place) -> None:
        """What the history has no room for is removed: the set's own of that content, and no other."""
        daemonset = await place.daemonset()
        await version(place, daemonset)
        await version(place, daemonset, "same", label="l")
        await version(place, daemonset, "another", image="another")
        await version(place, None, "left")
        await version(place, await place.daemonset("other"), "theirs")
        await place.see()
        gone = RevisionGone(namespace=place.namespace, daemonset=SET, hash=HASH)

        await report(place, gone)
        assert [] == place.server.verbs()
        for _repeat in range(2):
            await report(place, structs.replace(gone, why=HISTORY_LIMIT_EXCEEDED))

        assert {"another", "left", "theirs"} == (await versions(place)).keys()

    async def test_forgotten_and_made_anew(self, place: Place) -> None:
        """What has been made anew under its name meanwhile stays."""
        daemonset = await place.daemonset()
        await version(place, daemonset)
        await place.see()
        await place.remove(revision_path(place.namespace, NAME))
        anew = await version(place, daemonset)
        gone = RevisionGone(
            namespace=place.namespace, daemonset=SET, hash=HASH, why=HISTORY_LIMIT_EXCEEDED
        )

        await report(place, gone)

        (found,) = (await versions(place)).values()
        assert anew["metadata"]["uid"] == found["metadata"]["uid"]

    async def test_mended(self, place: Place) -> None:
        """A ControllerRevision that somebody removes is made again, at the next try if it does not work at once."""
        daemonset = await place.daemonset()
        await place.see()
        shows = showing(place)
        await shows.report(RevisionRecorded(revision=revision_of(daemonset, number=3)))
        await place.see()
        await place.remove(revision_path(place.namespace, NAME))
        await place.see()

        async def away() -> None:
            raise UnavailableError("not now")

        place.server.before("POST", away)
        await shows.mend()
        assert {} == await versions(place)
        assert {SetKey(place.namespace, SET)} == place.cluster.history_lost
        await shows.mend()

        assert {NAME: 3} == {
            name: each["revision"] for name, each in (await versions(place)).items()
        }
        assert set() == place.cluster.history_lost


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
