"""What shows that a command was carried out, or has become pointless: what was observed, and when."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from everynode.core.commands import AdoptPod, Command, CreatePod, DeletePod, ReleasePod
from everynode.core.effects import has_taken_effect
from everynode.core.events import PodGone
from everynode.core.setstate import SetState
from everynode.core.values import Owner, Pod
from everynode.testing.builders import daemonset, node, pod
from everynode.testing.situations import AGENT, SET

ONE = node("node-0")
MEANT = pod(AGENT, ONE, "meant")
ISSUED = 10
"""Where in the log the command stands."""
BEFORE, AFTER = ISSUED - 1, ISSUED + 1

ABOUT: dict[str, Any] = {
    "id": "id",
    "backend": ONE.backend,
    "node": ONE.name,
    "namespace": SET.namespace,
    "daemonset": SET.name,
    "daemonset_uid": AGENT.uid,
    "generation": 1,
    "pod": MEANT.name,
    "expires_ms": 1,
}
CREATE = CreatePod(**ABOUT, node_uid=ONE.uid, revision="new")
DELETE = DeletePod(**ABOUT, pod_uid=MEANT.uid)
ADOPT = AdoptPod(**ABOUT, pod_uid=MEANT.uid)
RELEASE = ReleasePod(**ABOUT, pod_uid=MEANT.uid)

Observed = tuple[Pod | PodGone, int]


def seen(sequence: int, **changes: Any) -> Observed:
    """The pod that is meant is observed."""
    return structs.replace(MEANT, **changes), sequence


def gone(sequence: int, uid: str = MEANT.uid) -> Observed:
    """A pod of its name is gone."""
    about = PodGone(
        backend=MEANT.backend,
        namespace=MEANT.namespace,
        name=MEANT.name,
        uid=uid,
        node=MEANT.node,
        owner=MEANT.owner,
    )
    return about, sequence


def effect(command: Command, observed: list[Observed]) -> bool:
    """Say whether a command has taken effect by what was observed of the set's pods."""
    state = SetState(SET)
    for message, sequence in observed:
        if isinstance(message, Pod):
            state.put_pod(message, sequence)
        else:
            state.drop_pod(message, sequence, 0)
    return has_taken_effect(state, command, ISSUED)


@pytest.mark.parametrize(
    ("observed", "wanted"),
    [
        pytest.param([], False, id="nothing"),
        pytest.param([seen(AFTER)], True, id="its pod"),
        pytest.param([seen(BEFORE)], True, id="its pod, before it was asked for"),
        pytest.param([gone(AFTER)], True, id="that its pod came and went"),
        pytest.param([gone(BEFORE)], False, id="that an earlier one went"),
        pytest.param([gone(ISSUED)], False, id="that one went when it was asked for"),
        pytest.param([seen(AFTER, name="other")], False, id="another pod"),
    ],
)
def test_a_create(observed: list[Observed], wanted: bool) -> None:
    """S4: a pod of its name shows that it was made, and so does one's end, if that is younger than the command."""
    assert wanted == effect(CREATE, observed)


@pytest.mark.parametrize("command", [DELETE, RELEASE])
@pytest.mark.parametrize(
    ("observed", "wanted"),
    [
        pytest.param([], False, id="nothing: it may be on its way"),
        pytest.param([seen(AFTER)], False, id="that its pod is still there"),
        pytest.param([seen(AFTER, uid="another")], True, id="another pod of its name"),
        pytest.param([seen(AFTER, uid="z")], True, id="one more"),
        pytest.param([seen(AFTER, deleting=True)], True, id="its pod on its way out"),
        pytest.param([seen(1), gone(AFTER)], True, id="that its pod went"),
        pytest.param([gone(BEFORE)], True, id="that its pod went before"),
        pytest.param([gone(BEFORE, "another")], False, id="that an earlier pod went"),
        pytest.param([gone(BEFORE, "z")], False, id="that one more went"),
        pytest.param([gone(AFTER, "another")], True, id="that the next pod of its name went"),
        pytest.param([gone(ISSUED), seen(AFTER)], False, id="that it came back meanwhile"),
        pytest.param([gone(BEFORE), seen(ISSUED)], False, id="that it came back before"),
        pytest.param([gone(AFTER), seen(AFTER + 1)], True, id="that it went, and came back"),
    ],
)
def test_a_delete_or_release(command: Command, observed: list[Observed], wanted: bool) -> None:
    """S4: the end of this very pod (for the set) shows it, and so does what makes the command pointless."""
    assert wanted == effect(command, observed)


@pytest.mark.parametrize(
    ("command", "owner", "wanted"),
    [
        (RELEASE, Owner(name=SET.name, uid=AGENT.uid), False),
        (RELEASE, Owner(name=SET.name, uid="another"), True),
        (RELEASE, Owner(name=SET.name, uid="z"), True),
        (RELEASE, None, True),
        (DELETE, Owner(name=SET.name, uid="another"), False),
        (DELETE, None, False),
    ],
)
def test_a_pod_that_another_set_controls_was_let_go_of(
    command: Command, owner: Owner | None, wanted: bool
) -> None:
    """S4: a release is done when the pod is not this set's any more, a delete is not."""
    assert wanted == effect(command, [seen(AFTER, owner=owner)])


@pytest.mark.parametrize(
    ("observed", "wanted"),
    [
        pytest.param([], False, id="nothing"),
        pytest.param([seen(AFTER)], True, id="that the set controls it"),
        pytest.param([seen(BEFORE)], False, id="that the set controlled it before"),
        pytest.param([seen(ISSUED)], False, id="that the set controlled it then"),
        pytest.param([seen(AFTER, uid="another")], False, id="another pod of its name"),
        pytest.param([seen(AFTER, uid="z")], False, id="one more"),
        pytest.param([gone(AFTER)], True, id="that it came and went"),
        pytest.param([gone(BEFORE)], False, id="that it went before"),
        pytest.param([gone(AFTER, "another")], True, id="that the next pod of its name went"),
    ],
)
def test_an_adoption(observed: list[Observed], wanted: bool) -> None:
    """S4: the set's controlling this very pod since then shows it; a look from before says nothing."""
    assert wanted == effect(ADOPT, observed)


@pytest.mark.parametrize(
    ("uid", "sequence", "wanted"),
    [
        pytest.param("", 0, False, id="the set has not been heard of yet"),
        pytest.param(AGENT.uid, AFTER, False, id="the set"),
        pytest.param("another", AFTER, True, id="a set made anew under its name"),
        pytest.param("0", AFTER, True, id="another one"),
        pytest.param("another", BEFORE, False, id="a set of its name that was there before"),
        pytest.param("another", ISSUED, False, id="a set of its name that was there then"),
    ],
)
def test_an_adoption_for_a_set_that_was_made_anew(uid: str, sequence: int, wanted: bool) -> None:
    """L1: nobody waits for what was asked for a set that is not there any more; an earlier one says nothing."""
    state = SetState(SET)
    state.daemonset = daemonset(uid=uid) if uid else None
    state.sequence = sequence

    assert wanted == has_taken_effect(state, ADOPT, ISSUED)
