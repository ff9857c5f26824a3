"""The workers of a fleet as a table and for programs."""

from everynode.cli.fleet_workers import documents, ranges, table, unowned
from everynode.core.sharing import Beat, DeadWorker

NOW_MS = 1_700_000_060_000
READY = Beat(
    worker="east",
    id="1",
    number=9,
    since_ms=NOW_MS - 60_000,
    ready=True,
    shards=(0, 1, 3),
    sequence=47,
    behind=2,
    dead=(DeadWorker("gone", "9", 61_000), DeadWorker("west", "2", 500)),
)
STARTING = Beat(worker="west", id="2", number=1, dead=(DeadWorker("gone", "9", 60_000),))


def test_the_table() -> None:
    """Each worker once; one that was heard is not dead, whatever others say; of a dead one the latest word counts."""
    assert [
        "NAME   SHARDS      SEQUENCE   BEHIND   AGE         STATE",
        "east   3 (0-1,3)   47         2        1m          Ready",
        "west   <none>      0          0        <unknown>   Starting",
        "gone   <none>      <none>     <none>   <none>      Dead since 1m",
    ] == table([READY, STARTING], NOW_MS).lines()


def test_for_programs() -> None:
    """The same, with ids."""
    east, west, gone = documents([READY, STARTING])
    assert {
        "name": "east",
        "id": "1",
        "state": "Ready",
        "shards": [0, 1, 3],
        "sequence": 47,
        "behind": 2,
        "startedAt": "2023-11-14T22:13:20Z",
    } == east
    assert ("Starting", None) == (west["state"], west["startedAt"])
    assert {"name": "gone", "id": "9", "state": "Dead", "deadSeconds": 60} == gone


def test_what_nobody_decides_for() -> None:
    """Shards without a worker are named, as ranges."""
    assert [2, 4, 5] == unowned([READY, STARTING], 6)
    assert [0, 1] == unowned([], 2)
    assert ["", "7", "0-2,4,6-7"] == [ranges(found) for found in ([], [7], [7, 6, 4, 0, 1, 2])]
