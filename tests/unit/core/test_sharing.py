"""Who owns which shard: everybody one, few move, and the same everywhere."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everynode.core import sharing
from everynode.core.sharing import Beat, Peers, owner, share

SHARDS = 16
IDS = st.text("0123456789abcdef", min_size=1, max_size=16)
CROWDS = st.sets(IDS, min_size=1, max_size=8)


def beat(worker: str, number: int = 1, **fields: object) -> Beat:
    """Make what a worker says; its name is ``worker-<id>``."""
    made = Beat(worker=f"worker-{worker}", id=worker, number=number, ready=True)
    return msgspec.structs.replace(made, **fields)


def holding(worker: str, *shards: int, number: int = 1) -> Beat:
    """Make what a worker says that holds some shards."""
    return beat(worker, number, holds=shards, shards=shards)


class TestShares:
    """Rendezvous hashing."""

    @given(CROWDS)
    def test_every_shard_belongs_to_exactly_one(self, workers: set[str]) -> None:
        """L1: whoever is alive, no shard is left out, and none is given twice."""
        shares = [share(worker, workers - {worker}, SHARDS) for worker in workers]
        assert list(range(SHARDS)) == sorted(shard for found in shares for shard in found)

    @given(CROWDS, IDS)
    def test_only_a_newcomers_own_shards_move(self, workers: set[str], newcomer: str) -> None:
        """Who joins takes from everybody and gives nobody anything; so with who leaves."""
        for shard in range(SHARDS):
            after = owner(workers | {newcomer}, shard)
            assert after in {owner(workers, shard), newcomer}

    def test_the_work_is_spread(self) -> None:
        """Of many shards each of several workers has about the same number."""
        shards, workers = 4_000, [f"{number:016x}" for number in range(8)]
        counts = [len(share(worker, workers, shards)) for worker in workers]
        assert shards == sum(counts)
        assert shards / 8 * 0.8 < min(counts) <= max(counts) < shards / 8 * 1.2

    def test_two_ids_of_one_weight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Even then everybody names the same one."""
        monkeypatch.setattr(sharing, "weight", lambda *_: 7)
        assert owner(["a", "b"], 0) == owner(["b", "a"], 0) == "b"

    def test_it_is_the_same_in_every_process(self) -> None:
        """S7: neither the hash seed nor the process changes who owns what."""
        program = (
            "from everynode.core.sharing import owner\n"
            "print([owner({'a', 'b', 'c'}, shard) for shard in range(64)])"
        )
        printed = {
            subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
                text=True,
            ).stdout
            for seed in ("1", "2")
        }
        assert {f"{[owner(('a', 'b', 'c'), shard) for shard in range(64)]}\n"} == printed


class TestOwning:
    """What a worker decides for, given what it hears."""

    def test_who_hears_nobody_owns_everything(self) -> None:
        """A worker needs nobody's leave."""
        peers = Peers("me", SHARDS)
        everything = frozenset(range(SHARDS))
        assert everything == peers.first_share() == peers.wanted() == peers.owned(everything)

    def test_a_shard_is_let_go_of_only_to_one_that_holds_it(self) -> None:
        """Nobody waits while a newcomer reads: until it holds a shard, it is the old owner's."""
        peers, everything = Peers("me", SHARDS), frozenset(range(SHARDS))
        its = share("it", ["me"], SHARDS)
        assert its
        assert peers.hear(beat("it", 1, ready=False), 0)
        assert everything == peers.wanted() == peers.owned(everything)
        assert everything - its == peers.first_share()

        assert peers.hear(beat("it", 2), 0)
        assert everything - its == peers.wanted()
        assert everything == peers.owned(everything)

        some = sorted(its)[:2]
        assert peers.hear(holding("it", *some, number=3), 0)
        assert everything - frozenset(some) == peers.owned(everything)

    @given(st.dictionaries(IDS, st.sets(st.integers(0, SHARDS - 1)), min_size=1, max_size=6))
    def test_of_those_who_hold_a_shard_one_decides(self, held: dict[str, set[int]]) -> None:
        """L1: when all hear each other, each shard that somebody holds has exactly one who decides."""
        deciding: list[int] = []
        for me, mine in held.items():
            peers = Peers(me, SHARDS)
            for other, its in held.items():
                peers.hear(holding(other, *sorted(its)), 0)
            deciding += peers.owned(frozenset(mine))
        assert sorted(set().union(*held.values())) == sorted(deciding)

    def test_what_others_have_in_hand(self) -> None:
        """Claimed is what a living worker decides for, whether it is meant to or not."""
        peers = Peers("me", SHARDS)
        assert frozenset() == peers.claimed()
        peers.hear(holding("a", 1, 2), 0)
        peers.hear(holding("b", 2, 3), 0)
        assert frozenset({1, 2, 3}) == peers.claimed()


class TestHearing:
    """Who is alive."""

    def test_what_a_worker_says_of_itself_changes_nothing(self) -> None:
        """A worker hears its own voice."""
        peers = Peers("me", SHARDS)
        assert not peers.hear(holding("me", 1), 0)
        assert len(peers) == 0

    def test_nothing_new(self) -> None:
        """A beat that says what the one before said is only a sign of life."""
        peers = Peers("me", SHARDS)
        assert peers.hear(holding("a", 1), 0)
        assert not peers.hear(holding("a", 1, number=2), 1_000)
        assert not peers.expire(1_000 + sharing.DEAD_AFTER_MS - 1)
        assert peers.expire(1_000 + sharing.DEAD_AFTER_MS)

    def test_an_older_word_comes_late(self) -> None:
        """A beat that was overtaken, or comes twice, is no sign of life, and brings nobody back who left."""
        peers = Peers("me", SHARDS)
        peers.hear(holding("a", 1, number=5), 0)
        assert not peers.hear(holding("a", 2, number=4), sharing.DEAD_AFTER_MS)
        assert not peers.hear(holding("a", 1, number=5), sharing.DEAD_AFTER_MS)
        assert frozenset({1}) == peers.claimed()
        assert peers.expire(sharing.DEAD_AFTER_MS)

        peers.hear(holding("a", 1, number=6), 2_000)
        assert peers.hear(beat("a", 8, leaving=True), 2_000)
        assert not peers.hear(holding("a", 1, number=7), 2_000)
        assert not peers.knows("a")

    def test_who_leaves_is_not_dead(self) -> None:
        """A goodbye is heard at once, and told to nobody."""
        peers = Peers("me", SHARDS)
        peers.hear(holding("a", 1), 0)
        assert peers.hear(beat("a", 2, leaving=True), 10)
        assert (0, ()) == (len(peers), peers.dead(10))
        assert not peers.hear(beat("stranger", 1, leaving=True), 10)

    def test_the_dead_are_told_of_until_they_come_back(self) -> None:
        """People hear who is dead, and since when."""
        peers = Peers("me", SHARDS)
        peers.hear(beat("a"), 0)
        peers.hear(beat("b"), 100)
        assert peers.expire(1_500)
        dead = [(worker.worker, worker.ago_ms) for worker in peers.dead(2_000)]
        assert [("worker-b", 1_900), ("worker-a", 2_000)] == dead

        assert peers.hear(beat("a", 2), 2_000)
        assert ["b"] == [worker.id for worker in peers.dead(2_000)]
        assert () == peers.dead(100 + sharing.DEAD_TOLD_MS)

    def test_who_could_not_listen_blames_nobody(self) -> None:
        """A worker that was stopped for a minute does not take the others for dead when it wakes up."""
        peers = Peers("me", SHARDS)
        peers.hear(beat("a"), 1_000)
        assert 1_000 + sharing.DEAD_AFTER_MS == peers.expires_at_ms()
        peers.forgive(60_000, 61_300)
        assert not peers.expire(61_300)
        assert peers.expire(61_000 + sharing.DEAD_AFTER_MS)
        assert peers.expires_at_ms() is None

        peers.hear(beat("a", 2), 70_000)
        peers.forgive(60_000, 70_100)
        assert 70_100 + sharing.DEAD_AFTER_MS == peers.expires_at_ms()

    def test_everything_has_a_limit(self) -> None:
        """B1: however many say that they are workers."""
        peers = Peers("me", SHARDS)
        for number in range(sharing.PEERS_MAX):
            assert peers.hear(beat(f"{number}"), 0)
        assert not peers.hear(beat("one too many"), 0)
        assert peers.hear(holding("0", 3, number=2), 0)
        peers.expire(sharing.DEAD_AFTER_MS)
        assert (0, sharing.DEAD_MAX) == (len(peers), len(peers.dead(sharing.DEAD_AFTER_MS)))
        for number in range(2 * sharing.NUMBERS_MAX):
            peers.hear(beat(f"later {number}"), 2_000)
            peers.hear(beat(f"later {number}", 2, leaving=True), 2_000)
        assert sharing.NUMBERS_MAX == len(peers._numbers)
