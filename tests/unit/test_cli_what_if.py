"""How `replay --what-if` spares the search for garbage, and that there is none to be found."""

import gc
from pathlib import Path

import pytest
from tests.unit.support_rehearsal import Fleet, wanted, what_if

from everynode.cli.recordings import opened_recording
from everynode.cli.what_if import without_garbage_collection


@pytest.mark.parametrize("was_enabled", [True, False])
def test_garbage_is_not_looked_for_meanwhile(*, was_enabled: bool) -> None:
    """Afterwards it is as it was before."""
    (gc.enable if was_enabled else gc.disable)()
    try:
        with without_garbage_collection():
            assert not gc.isenabled()
        assert gc.isenabled() is was_enabled
    finally:
        gc.enable()


def test_nor_when_a_recording_is_opened() -> None:
    """Which is where most of what is kept begins."""
    recording = Path(__file__).parents[1] / "recordings" / "covering.everynode"
    with without_garbage_collection(), opened_recording(recording) as stream:
        assert list(stream.entries)
        assert not gc.isenabled()


def test_there_is_none() -> None:
    """B1: what is read and rehearsed leaves nothing behind that only a search would find, however much it is."""
    few, many = [_garbage_of(nodes) for nodes in (5, 50)]

    assert few == many


def _garbage_of(nodes: int) -> int:
    """Count what a search finds after a rollout was rehearsed."""
    fleet = Fleet(nodes)
    fleet.applied(wanted())
    fleet.settles()
    fleet.applied(wanted("2", 2))
    fleet.settles()
    gc.collect()
    with without_garbage_collection():
        what_if(fleet.log, wanted("3"))
        return gc.collect()
