"""The versions that a cluster keeps of templates: told apart by content, meant by labels."""

from __future__ import annotations

from typing import Any

from tests.unit.support_kubernetes_objects import api_revision

from everynode_kubernetes.history import History
from everynode_kubernetes.objects import REVISION_LABEL, ApiControllerRevision

STATEFUL = [
    {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "u", "controller": True}
]


def version(
    name: str = "cr",
    *,
    image: str = "i",
    number: int = 1,
    label: str = "l",
    owner: str = "",
    namespace: str = "ns",
) -> ApiControllerRevision:
    """A ControllerRevision whose template runs an image."""
    owners = [
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "name": "s",
            "uid": owner,
            "controller": True,
        }
    ]
    template = {"$patch": "replace", "spec": {"containers": [{"name": "c", "image": image}]}}
    return api_revision(
        metadata={
            "namespace": namespace,
            "name": name,
            "labels": {REVISION_LABEL: label} if label else None,
            "ownerReferences": owners if owner else None,
        },
        revision=number,
        data={"spec": {"template": template}},
    )


def put(history: History, **fields: Any) -> str:
    """Take one in; returns the hash of its template."""
    taken = history.put(version(**fields))
    assert taken is not None
    return taken.hash


def test_named_by_content() -> None:
    """Versions with the same template have the same hash, whatever they are called; others have another one."""
    history = History()

    same = {put(history, name=name, number=number) for number, name in enumerate("abc")}

    assert 1 == len(same)
    assert same != {put(history, image="j")}


def test_the_label() -> None:
    """Pods carry its label; one that never had a label is meant by its name (constructHistory)."""
    labelled, plain = History().put(version()), History().put(version(label=""))

    assert labelled is not None
    assert plain is not None
    assert ("l", "cr") == (labelled.label, plain.label)


def test_the_owner() -> None:
    """It is the set's that controls it, or nobody's."""
    owned, orphan = History().put(version(owner="u")), History().put(version())

    assert owned is not None
    assert orphan is not None
    assert ("u", "") == (owned.owner_uid, orphan.owner_uid)


def test_as_a_revision() -> None:
    """In the fleet's words it is a revision of the set that asks, with its number and content."""
    taken = History().put(version(number=7))
    assert taken is not None

    found = taken.revision("s", "u-s")

    assert found is not None
    assert ("ns", "s", "u-s", 7, taken.hash) == (
        found.namespace,
        found.daemonset,
        found.daemonset_uid,
        found.number,
        found.hash,
    )


def test_in_the_order_of_numbers() -> None:
    """Those of one owner come in the order of their numbers, of one number in the order of their labels."""
    history = History()
    for name, number in (("c", 3), ("b", 1), ("a", 1), ("d", 2)):
        put(history, name=name, number=number, label=f"l-{name}")
    put(history, name="e", namespace="other")

    assert ["a", "b", "d", "c"] == [each.api.metadata.name for each in history.owned_by("ns", "")]
    assert [("ns", name) for name in "cbad"] + [("other", "e")] == history.names()


def test_something_else() -> None:
    """What holds no template of a pod is not kept; nor is what one holds no longer."""
    history = History()
    put(history)

    taken = history.put(api_revision(metadata={"namespace": "ns", "name": "cr"}, data={"a": 1}))

    assert taken is None
    assert [] == history.names()


def test_dropped() -> None:
    """One that is gone is returned once; what its label means is remembered."""
    history = History()
    hash_ = put(history, owner="u1")

    gone = history.drop("ns", "cr")

    assert gone is not None
    assert hash_ == gone.hash
    assert history.drop("ns", "cr") is None
    assert hash_ == history.explain("ns", "u1", "l")
    assert history.explain("ns", "u2", "l") is None
    assert "l" == history.label_meant("ns", "u1", hash_)
    assert history.label_meant("other", "u1", hash_) is None


def test_somebody_elses() -> None:
    """B1: what a StatefulSet controls is not kept."""
    history = History()
    api = api_revision(metadata={"namespace": "ns", "name": "cr", "ownerReferences": STATEFUL})

    assert history.put(api) is None
    assert [] == history.names()


def test_a_name_too_long_for_a_label() -> None:
    """What has no label and no name that could be one is meant by its content."""
    taken = History().put(version(name="n" * 64, label=""))

    assert taken is not None
    assert taken.hash == taken.label


def test_explained_by_its_own_set() -> None:
    """If two sets use one label for different templates, each pod's own set says what it means."""
    history = History()
    one, two = (
        put(history, name="a", owner="u1"),
        put(history, name="b", owner="u2", image="j"),
    )

    assert [one, two] == [history.explain("ns", uid, "l") for uid in ("u1", "u2")]


def test_explained_by_another() -> None:
    """What a pod's own set does not say, whoever used the label last says: pods outlive sets."""
    history = History()
    put(history, name="a", owner="u1")
    two = put(history, name="b", owner="u2", image="j")

    assert [two, two] == [history.explain("ns", uid, "l") for uid in ("", "u3")]


def test_not_explained() -> None:
    """A label means nothing in another namespace, nor one that was never seen."""
    history = History()
    put(history)

    assert history.explain("other", "", "l") is None
    assert history.explain("ns", "", "m") is None


def test_forgotten() -> None:
    """B1: what labels meant is forgotten with the set, except what others say of the same labels."""
    history = History()
    for owner in ("u1", "u2"):
        for label in ("l", f"own-{owner}"):
            put(history, name=f"{owner}-{label}", owner=owner, label=label)
            history.drop("ns", f"{owner}-{label}")

    history.forget("u1")

    assert history.explain("ns", "u1", "own-u1") is None
    assert history.explain("ns", "u1", "l") is None
    assert history.explain("ns", "u2", "own-u2") is not None
