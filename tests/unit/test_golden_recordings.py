"""S7: what was decided once is decided again, to the byte, for as long as the rules stay the same.

The recordings are made by tests/recordings/make.py. If this fails, what is decided has changed: fleets that run will do
something else after an upgrade. Where that is meant, docs/recordings.md says how to renew them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.recordings.make import DIRECTORY, SUFFIX, WORLDS

from everynode.core import decision, pacing
from everynode.replay.recording import Reader
from everynode.replay.replaying import Decided, Replay
from everynode.replay.streams import stream_of

BYTES_MAX = 100_000
RECORDINGS = sorted(DIRECTORY.glob(f"*{SUFFIX}"))

DECISIONS_MIN = {
    "changing-owners": 8,
    "contending": 20,
    "covering": 20,
    "deleting": 15,
    "failing": 20,
    "holding-back": 15,
    "losing-nodes": 6,
    "redacted": 8,
    "updating": 30,
}


def replayed(path: Path) -> Iterator[Decided]:
    """Decide again what a recording says was decided."""
    with path.open("rb") as file:
        stream = stream_of(Reader(file, path.name))
        yield from Replay(stream.subjects, renamed=stream.renamed).run(stream.entries)


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_the_same_is_decided_again(path: Path) -> None:
    """Every decision of a recording, and everything that was stored with it."""
    found = list(replayed(path))

    assert [] == [each.why_not for each in found if each.why_not]
    assert [] == [each.difference() for each in found if each.difference() is not None]
    assert len(found) >= DECISIONS_MIN[path.stem]
    assert path.stat().st_size < BYTES_MAX


def test_every_world_is_recorded() -> None:
    """None is missing, and none is there that nobody makes."""
    assert sorted(WORLDS) == [path.stem for path in RECORDINGS] == sorted(DECISIONS_MIN)


def test_what_they_have_is_worth_replaying() -> None:
    """All kinds of commands are among what is decided, and templates, budgets and retries."""
    decisions = [each.decision for path in RECORDINGS for each in replayed(path)]

    counts = [each.counts for each in decisions]
    for kind in ("creates", "deletes", "adopts", "releases", "surplus", "unavailable"):
        assert any(getattr(each, kind) for each in counts), kind
    assert {"NodeHasNoPod", "NodeGone", "OutdatedRevision", "PodFailed", "Duplicate"} <= {
        reason.reason for each in decisions for reason in each.reasons
    }
    assert len({each.worker for each in decisions}) > 1


class TestOtherRules:
    """A rule that was changed is noticed."""

    @pytest.mark.parametrize(
        ("module", "name", "value", "noticed"),
        [
            (pacing, "WINDOW_START", 2, {"covering", "failing"}),
            (pacing, "RETRY_FIRST_MS", 2_000, {"covering"}),
            (decision, "pod_name", lambda *_: "same", {"covering", "redacted"}),
            (decision, "unwanted", lambda *_: [], {"losing-nodes", "deleting"}),
        ],
        ids=["slow start", "retry", "name", "surplus"],
    )
    def test_noticed(
        self,
        monkeypatch: pytest.MonkeyPatch,
        module: object,
        name: str,
        value: object,
        noticed: set[str],
    ) -> None:
        """At least by the recordings that are about it."""
        monkeypatch.setattr(module, name, value)

        differ = {
            path.stem
            for path in RECORDINGS
            if any(each.difference() is not None for each in replayed(path))
        }

        assert noticed <= differ
