"""What is written of a pod, for people: what was done with it, in its order, and what was only to be done."""

from __future__ import annotations

from tests.unit.support_explaining import KEY, covered, explained, the_pod

from everynode.cli.explain_pod import pod_lines
from everynode.testing.builders import daemonset
from everynode.testing.world import World


def titles(world: World, name: str) -> list[str]:
    """Name the parts of what is written of a pod."""
    lines = pod_lines(explained(world, name))
    return [line for line in lines if line.endswith(":") and not line.startswith(" ")]


def test_let_go_of_and_adopted_again() -> None:
    """A set that is deleted lets go of its pods, and one that comes later adopts them: none of them is removed."""
    world = covered(None, "a")
    name = the_pod(world).name
    world.delete(KEY, cascade="orphan")
    world.run()
    let_go = titles(world, name)
    world.label_pod(the_pod(world).key, {"app": "agent"})
    world.apply(daemonset(uid="another"))
    world.run()

    assert ["Made:", "Let go of:"] == let_go
    assert ["Made:", "Let go of:", "Adopted:"] == titles(world, name)


def test_not_let_go_of_and_not_adopted_yet() -> None:
    """A release or an adoption of which nothing was heard is still to be done."""
    world = covered(None, "a")
    name = the_pod(world).name
    world.delete(KEY, cascade="orphan")
    world.decide()
    releasing = titles(world, name)
    world.run()
    world.label_pod(the_pod(world).key, {"app": "agent"})
    world.apply(daemonset(uid="another"))
    world.decide()

    assert ["Made:", "To be let go of:"] == releasing
    assert ["Made:", "Let go of:", "To be adopted:"] == titles(world, name)


def test_not_removed_yet() -> None:
    """A delete that was decided and did not work, or not yet, has removed nothing."""
    world = covered(None, "a")
    name = the_pod(world).name
    world.delete(KEY)
    world.decide()
    pending = titles(world, name)
    world.carry_out(works=False)
    failed = titles(world, name)
    world.run()

    assert ["Made:", "To be removed:"] == pending == failed
    assert ["Made:", "Removed:"] == titles(world, name)
    assert any("for a set that was deleted" in line for line in pod_lines(explained(world, name)))


def test_removed_by_somebody_else() -> None:
    """A delete that failed did not remove the pod, though it is gone."""
    world = covered(None, "a")
    name = the_pod(world).name
    world.delete(KEY)
    world.decide()
    world.carry_out(works=False)
    world.remove_pod(the_pod(world).key)

    assert ["Made:", "To be removed:"] == titles(world, name)
