"""Machine events in CSV, read as a stream: what rows mean, and rows that cannot be used."""

from __future__ import annotations

import gzip
import itertools
from collections import Counter

import pytest
from benchmarks.traces import machine_events
from tests.unit.support_sources import Reading, file_of, lines, reading_of

from everynode.core.events import NodeGone, NodeObserved
from everynode.core.values import Node, NodeKey
from everynode.manifest import read_daemonsets
from everynode.ports import RecordedFile
from everynode.replay.machine_events import UNITS, Trace, columns_of, read_trace

EPOCH_MS = 1_000_000_000_000
COLUMNS = "time=0,machine=1,event=2,platform=3,cpu=4"
SET = b"""\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: default}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec: {containers: [{name: main, image: example.com/main}]}
"""


def csv(*files: str | bytes | RecordedFile, columns: str = COLUMNS, unit: str = "us") -> Reading:
    """Read files."""
    trace = Trace(columns_of(columns), UNITS[unit], EPOCH_MS)
    taken = [each if isinstance(each, RecordedFile) else file_of(each) for each in files]
    return reading_of(lambda read: read_trace(read, "csv", trace), *taken)


def node_of(reading: Reading, name: str) -> Node:
    """A node that is there at the end."""
    return reading.view.nodes[NodeKey("csv", name)]


class TestRows:
    """What rows mean."""

    def test_a_life(self) -> None:
        """A machine is added, changed, removed and added again, which makes it another node."""
        rows = [
            (0, 5, 0, "P1", "0.5"),
            (2_000, 5, 2, "P1", "0.25"),
            (3_000, 5, 1, "P1", "0.25"),
            (9_000, 5, 0, "P1", ""),
        ]
        reading = csv(lines(rows))

        assert [NodeObserved, NodeObserved, NodeGone, NodeObserved] == list(
            map(type, reading.messages)
        )
        assert [EPOCH_MS + ms for ms in (0, 2, 3, 9)] == reading.times_ms
        nodes = [each.node for each in reading.messages if isinstance(each, NodeObserved)]
        assert ["0.5", "0.25", None] == [each.labels.get("cpu") for each in nodes]
        assert nodes[0].uid == nodes[1].uid != nodes[2].uid
        assert {
            "kubernetes.io/hostname": "5",
            "kubernetes.io/os": "linux",
            "platform": "P1",
        } == nodes[2].labels
        assert all(each.ready for each in nodes)

    def test_a_header(self) -> None:
        """Columns may be called by the names in the first line of each file, in any order."""
        first = "what, when ,id,kernel\nadd,1,A_1,k1\n"
        second = "id,kernel,when,what\nA_1,,2,REMOVE\nb,k2,3,add\n"
        columns = "time=when,machine=id,event=what,kernel=kernel"
        reading = csv(first, second, columns=columns, unit="s")

        assert [] == reading.faults
        assert ["b"] == [key.name for key in reading.view.nodes]
        assert [EPOCH_MS + 1_000 * s for s in (1, 2, 3)] == reading.times_ms

    def test_a_byte_order_mark(self) -> None:
        """It is no part of the first column's name, or of its first value."""
        assert 1 == len(
            csv(
                "\ufeffwhen,id,what\n1,1,add\n", columns="time=when,machine=id,event=what"
            ).view.nodes
        )
        assert [] == csv("\ufeff0,1,add,,\n").faults

    @pytest.mark.parametrize(
        ("unit", "text", "ms"),
        [
            ("s", "1.5", 1_500),
            ("ms", "1", 1),
            ("us", "1999", 1),
            ("ns", "2000000", 2),
            ("s", "-1", -1000),
        ],
    )
    def test_time(self, unit: str, text: str, ms: int) -> None:
        """Times count in a unit, from the epoch on."""
        assert [EPOCH_MS + ms] == csv(f"{text},1,add,,", unit=unit).times_ms

    def test_values_that_labels_may_not_have(self) -> None:
        """What a label value may not have becomes `_`; at the ends it goes."""
        reading = csv("0,m/1,add,HofL/8Il+v0=,\n")

        assert "HofL_8Il_v0" == node_of(reading, "m-1").labels["platform"]

    def test_gzip(self) -> None:
        """A compressed file is read as it is."""
        assert 1 == len(csv(gzip.compress(b"0,1,add,,")).view.nodes)

    def test_sets_from_manifests(self) -> None:
        """They are there from the beginning, with an identity that is the same each time."""
        (accepted,) = read_daemonsets("f", SET).accepted
        trace = Trace(columns_of(COLUMNS), UNITS["us"], EPOCH_MS)
        readings = [
            reading_of(
                lambda files: read_trace(files, "csv", trace),
                file_of("7000,1,add,,"),
                daemonsets=[accepted.daemonset],
            )
            for _ in range(2)
        ]

        first, second = readings[0].entries
        assert (True, False) == (first.is_kept, second.is_kept)
        assert readings[0].entries == readings[1].entries
        (found,) = readings[0].view.daemonsets.values()
        assert "unassigned" != found.uid
        assert EPOCH_MS + 7 == found.created_ms == first.received.time_ms


class TestFaults:
    """Rows that cannot be used are named, and hide no other."""

    @pytest.mark.parametrize(
        ("row", "fault"),
        [
            ("x,1,add,,", 'column 0 (time): "x" is no number'),
            ("nan,1,add,,", "column 0 (time)"),
            ("1e999999999,1,add,,", 'column 0 (time): "1e999999999" is not between'),
            ("9223372036854775807000,1,add,,", "is not between the years 1970 and 9999"),
            ("4,1,add,,", 'column 0 (time): "4" is earlier than a row before it: sort the rows'),
            ("9,1,gone,,", 'column 2 (event): "gone" is none: add, remove, update or 0, 1, 2'),
            ("9,1,remove,,", 'column 2 (event): remove, but machine "1" is not there'),
            ("9,1,2,,", 'column 2 (event): update, but machine "1" is not there'),
            ("9,here,0,,", 'column 2 (event): add, but machine "here" is there already'),
            (
                "9,HERE,0,,",
                'column 1 (machine): "HERE" and "here" would be nodes of one name, here',
            ),
            ("9,/,0,,", 'column 1 (machine): "" is not a name'),
            ("9,1,0,+,", 'column 3 (platform): "+" has nothing that a label value may have'),
            (f"9,1,0,{'x' * 64},", 'column 3 (platform): "xxxx'),
            ("9,1,add", "column 3 (platform) is not there: the row has 3 columns"),
            ('9,"1,add,,', "column 2 (event) is not there: the row has 2 columns"),
            ("9", "column 1 (machine) is not there: the row has 1 columns"),
            (f"9,1,add,{'x' * 200_000},", "field larger than field limit"),
        ],
    )
    def test_a_row(self, row: str, fault: str) -> None:
        """Its place, the column and what is wrong are said."""
        reading = csv(f"5,here,add,,\n{row}\n\n5,after,add,,\n", unit="ms")

        assert ["after", "here"] == sorted(key.name for key in reading.view.nodes)
        (said,) = reading.faults
        assert said.startswith("file: line 2: ")
        assert fault in said

    def test_a_column_that_is_not_there(self) -> None:
        """The error names those that are."""
        reading = csv("when,id,what\n", columns="time=when,machine=id,event=type")

        assert (
            "file: the first line has no column 'type'; there are: when, id, what" == reading.error
        )

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("time=0,machine=1", "event is missing"),
            ("time=0,machine=1,event", "'event': write what a column is"),
            ("time=0,time=1", "time is there twice"),
            ("time=0,machine=1,event=2,a b=3", "a label cannot be called so"),
        ],
    )
    def test_columns(self, text: str, problem: str) -> None:
        """What says which column is what can be wrong, too."""
        with pytest.raises(ValueError, match=problem):
            columns_of(text)

    def test_an_empty_file(self) -> None:
        """It is an error."""
        assert "file: it is empty" == csv("").error


class TestTrace:
    """A trace with the shape of a real one."""

    COLUMNS = "time=0,machine=1,event=2,platform=3,cpu=4,memory=5"

    def test_it_can_be_read(self) -> None:
        """No row is refused, and what is there at the end is what was added and not removed."""
        rows = list(machine_events(machines=300, days=29))
        reading = csv("".join(rows), columns=self.COLUMNS)

        counts = Counter(row.split(",")[2] for row in rows)
        assert [] == reading.faults
        assert counts["0"] - counts["1"] == len(reading.view.nodes)
        assert counts["1"] > 100
        assert counts["2"] > 100
        assert len(reading.entries) <= len(rows)
        assert 1 < len({node.labels["platform"] for node in reading.view.nodes.values()})

    def test_it_is_the_same_each_time(self) -> None:
        """A seed makes one trace, and another seed another one."""
        first, second, other = (
            list(itertools.islice(machine_events(50, 2, seed), 60)) for seed in (1, 1, 2)
        )

        assert first == second != other
