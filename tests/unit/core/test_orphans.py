"""Pods that nobody controls: what was observed last counts, in whatever order it is heard."""

from __future__ import annotations

from itertools import permutations

from msgspec import structs

from everynode.core.orphans import KnownPod, Orphans
from everynode.core.values import PodKey
from everynode.testing.builders import node, pod
from everynode.testing.situations import AGENT

STRAY = structs.replace(pod(AGENT, node()), owner=None)


def test_an_orphan_is_known_as_it_was_last_observed() -> None:
    """S4: a later message replaces an earlier one; the same one again, or an earlier one, is no news."""
    orphans = Orphans()
    changed = structs.replace(STRAY, phase="Failed")

    assert orphans.put(STRAY, 5)
    assert not orphans.put(changed, 5)
    assert not orphans.put(changed, 4)
    assert KnownPod(STRAY, 5) == orphans.get(STRAY.key)
    assert orphans.put(changed, 6)
    assert KnownPod(changed, 6) == orphans.get(STRAY.key)


def test_the_first_message_of_a_log_is_news() -> None:
    """Sequences begin with 1."""
    assert Orphans().put(STRAY, 1)


def test_an_orphan_that_went_does_not_come_back_by_an_older_message() -> None:
    """S4: a tombstone counts as any other observation: a later one ends it, an earlier one changes nothing."""
    orphans = Orphans()
    orphans.put(STRAY, 5)

    assert not orphans.drop(STRAY.key, 5)
    assert not orphans.drop(STRAY.key, 4)
    assert orphans.get(STRAY.key) is not None
    assert orphans.drop(STRAY.key, 6)
    assert orphans.get(STRAY.key) is None
    assert not orphans.put(STRAY, 5)
    assert not orphans.drop(STRAY.key, 6)
    assert orphans.get(STRAY.key) is None
    assert orphans.put(STRAY, 7)


def test_a_tombstone_of_an_orphan_that_was_never_heard_of_counts() -> None:
    """S4: it may be heard before what it ends."""
    orphans = Orphans()

    assert orphans.drop(STRAY.key, 2)
    assert not orphans.put(STRAY, 1)


def test_the_order_in_which_it_is_heard_does_not_matter() -> None:
    """S4: the latest of an appearance, a change and another appearance is what is known."""
    messages = [(structs.replace(STRAY, uid=f"uid-{number}"), number) for number in (1, 2, 3)]
    for order in permutations(messages):
        orphans = Orphans()
        for message in order:
            orphans.put(*message)

        assert KnownPod(*messages[-1]) == orphans.get(STRAY.key)


def test_what_went_long_ago_is_forgotten_unless_something_is_known_since() -> None:
    """B1: a tombstone leaves nothing behind; one that something newer has replaced takes nothing with it."""
    orphans = Orphans()
    orphans.put(STRAY, 1)
    orphans.drop(STRAY.key, 2)
    orphans.put(STRAY, 3)
    orphans.forget(STRAY.key, 2)
    assert not orphans.put(STRAY, 2)
    assert not orphans.put(STRAY, 3)

    orphans.drop(STRAY.key, 4)
    orphans.forget(STRAY.key, 4)
    assert orphans.put(STRAY, 1)  # it does not know any better

    orphans.forget(PodKey("east", "default", "never-heard-of"), 9)


def test_orphans_of_a_namespace() -> None:
    """A set is offered the orphans of its own namespace."""
    orphans = Orphans()
    elsewhere = structs.replace(STRAY, namespace="other")
    orphans.put(STRAY, 1)
    orphans.put(elsewhere, 2)

    assert [STRAY.key] == list(orphans.of("default"))
    assert [elsewhere.key] == list(orphans.of("other"))
    assert [] == list(orphans.of("third"))
