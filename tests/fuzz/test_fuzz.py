"""Fuzzing in small: what was found stays mended, a short campaign finds nothing, and a campaign can find something."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from tests.fuzz import campaign
from tests.fuzz.mutations import INPUT_BYTES_MAX, LARGE_INPUT_BYTES_MAX, Mutator
from tests.fuzz.targets import Target, targets

INPUTS = 4_000
SEED = 20_261_129

TARGETS = {target.name: target for target in targets()}
KEPT = sorted(path for path in campaign.CORPUS.rglob("*") if path.is_file())


def target_of(read: campaign.Read) -> Target:
    """A target with a few seeds of its own."""
    return Target("made-up", 1, [b'{"a": {"b": 1}}', b"a: {b: 1}\nc: 2\n"], read)


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_once_found_stays_mended(path: Path) -> None:
    """Each input that ever did harm is accepted or refused in order (S8, L3)."""
    finding, _ = campaign.examine(TARGETS[path.parent.name], path.read_bytes())

    assert finding is None, finding.text


def test_the_corpus_is_there_and_belongs_to_targets() -> None:
    """What is replayed is found where campaigns keep it."""
    assert KEPT
    assert {path.parent.name for path in KEPT} <= TARGETS.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_accepts_what_its_inputs_are_made_of(name: str) -> None:
    """Mutations start from inputs that are right, so that they reach beyond the first check."""
    target = TARGETS[name]
    refused = [seed for seed in target.seeds if not target.read(seed)]
    if name == "beside":  # what hosts tell each other is no request to a fleet
        refused = [seed for seed in refused if b"sinceMs" not in seed and b"since_ms" not in seed]

    assert refused == []


@pytest.mark.slow
def test_whatever_is_written_is_accepted_or_refused() -> None:
    """Thousands of inputs to everything that reads what others wrote end in results, in time (S8, L3, B1)."""
    tally = campaign.run(targets(), SEED, INPUTS)

    assert [finding.text for finding in tally.findings.values()] == []
    assert INPUTS == tally.inputs.total()
    assert tally.inputs.keys() == TARGETS.keys()
    for name, count in tally.inputs.items():
        assert 0 < tally.accepted[name] < count, f"{name}: all alike, so little was tried"


def test_the_same_seed_makes_the_same_inputs() -> None:
    """A campaign can be repeated, and another seed is another campaign."""

    def inputs(seed: int) -> list[bytes]:
        seen: list[bytes] = []

        def read(content: bytes) -> bool:
            seen.append(content)
            return False

        campaign.run([target_of(read)], seed, 50)
        return seen

    assert inputs(1) == inputs(1)
    assert inputs(1) != inputs(2)


def test_inputs_are_bounded() -> None:
    """No input is larger than it may be, and a few are large (B1)."""
    mutator = Mutator(targets()[1].seeds, targets()[1].writers)
    sizes = [len(mutator.make(random.Random(number))) for number in range(6_000)]

    assert max(sizes) <= LARGE_INPUT_BYTES_MAX
    assert any(size > INPUT_BYTES_MAX for size in sizes)
    assert sum(size <= INPUT_BYTES_MAX for size in sizes) > len(sizes) * 0.99


def test_a_mistake_is_found_and_made_small() -> None:
    """A reader that fails on some inputs is found out; what it takes is kept, the rest is left out."""

    def read(content: bytes) -> bool:
        if b"}}" in content and b"a" in content:
            raise ZeroDivisionError
        return True

    tally = campaign.run([target_of(read)], 1, 200)

    (finding,) = tally.findings.values()
    assert "ZeroDivisionError" in finding.what
    assert sorted(b"}}a") == sorted(finding.content)
    assert tally.repeats[finding.what] > 1


def test_two_mistakes_are_told_apart() -> None:
    """Inputs that meet different mistakes are different findings."""

    def read(content: bytes) -> bool:
        if len(content) % 2:
            raise KeyError
        raise IndexError

    tally = campaign.run([target_of(read)], 1, 50)

    assert {"KeyError", "IndexError"} == {
        finding.what.split()[1] for finding in tally.findings.values()
    }


def test_an_input_that_is_never_done_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that goes on for ever is found out, even if it catches every exception."""
    monkeypatch.setattr(campaign, "HANG_SECONDS", 0.01)
    monkeypatch.setattr(campaign, "REPEATS_TO_BE_SURE", 1)

    def read(_: bytes) -> bool:
        for _number in itertools.count():
            try:
                pass
            except Exception:  # noqa: BLE001, S112 - that is what a bad reader would do
                continue
        return True

    finding, _ = campaign.examine(target_of(read), b"")

    assert finding is not None
    assert finding.what == "made-up: too slow"


@pytest.mark.parametrize(
    ("limit", "what"), [("CPU_MS_MAX", "slow"), ("MEMORY_BYTES_MAX", "memory")]
)
def test_what_an_input_costs_is_measured(
    monkeypatch: pytest.MonkeyPatch, limit: str, what: str
) -> None:
    """Time and memory beyond their limits are findings: here, any at all is beyond them."""
    peaks = itertools.count(0, 4096)
    monkeypatch.setattr(campaign, "_memory_peak_bytes", lambda: next(peaks))
    assert campaign.examine(target_of(lambda _: True), b"")[0] is None

    monkeypatch.setattr(campaign, limit, -1)
    finding, _ = campaign.examine(target_of(lambda _: True), b"")

    assert finding is not None
    assert what in finding.what


def test_findings_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """They are written where they are replayed from."""
    monkeypatch.setattr(campaign, "CORPUS", tmp_path)
    finding = campaign.Finding("wire", "wire: x", "text", b"\xff")

    (path,) = campaign.keep([finding])

    assert path.parent == tmp_path / "wire"
    assert path.read_bytes() == b"\xff"
