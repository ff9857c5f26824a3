"""The history of sets, shown by a real API server: ControllerRevisions, only those of the set that is meant."""

from __future__ import annotations

from collections.abc import AsyncIterator

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
from tests.kubernetes.support_showing import (
    HASH,
    NAME,
    SET,
    being_deleted,
    let_go,
    notice_of,
    report,
    revision_of,
    showing,
    version,
    versions,
)

from everynode.core.events import NoticeReported, RevisionGone, RevisionRecorded
from everynode.core.identity import canonical, revision_hash
from everynode.core.revisions import HISTORY_LIMIT_EXCEEDED
from everynode.core.values import SetKey
from everynode.errors import RefusedError, UnavailableError
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.objects import REVISION_LABEL
from everynode_kubernetes.paths import daemonset_path, revision_path
from everynode_kubernetes.showing import NAMES_TRIED_MAX


@pytest.fixture
async def place(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Place]:
    """Where reports are shown."""
    async with a_place(control_plane, namespace) as place:
        yield place


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
        """An API server lets no patch change one whose JSON is not canonical: it is refused, nothing is lost.

        It compares the bytes of its content with those that a patch makes of it.
        """
        daemonset = await place.daemonset()
        await version(place, daemonset, as_kubernetes_does=False)
        await place.see()

        with pytest.raises(RefusedError, match="field is immutable"):
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
