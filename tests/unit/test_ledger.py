"""The ledger: whose word counts when an adapter host writes, reads back late, and others write too."""

import pytest
from msgspec.structs import replace

from everynode import wire
from everynode.core.events import NodeGone, NodeObserved, PodGone, PodObserved
from everynode.core.values import Node, NodeKey, Owner, Phase, Pod, PodKey
from everynode.ports import Received
from everynode.runtime.ledger import Fact, Ledger, Place, node_gone, pod_gone

SUBJECTS = wire.Subjects("test", 16)
NODE = Node(backend="b", name="n", uid="1")
READY = NodeObserved(node=NODE)
NOT_READY = NodeObserved(node=replace(NODE, ready=False))
POD = Pod(
    backend="b",
    namespace="ns",
    name="p",
    uid="2",
    node="n",
    owner=Owner(name="set", uid="3"),
    revision="r",
)
ORPHAN = replace(POD, owner=None, labels={"app": "web"})
PLACE = Place(NodeKey("b", "n"), "3")


@pytest.fixture
def ledger() -> Ledger:
    """An empty one."""
    return Ledger("b", SUBJECTS)


def read_back(fact: Fact, sequence: int) -> Received:
    """A message as the log hands it out."""
    return Received(sequence, 0, SUBJECTS.of(fact), wire.encode(fact))


def said(ledger: Ledger, fact: Fact) -> int:
    """Say something; returns the version."""
    return ledger.said(fact, SUBJECTS.of(fact))


def observed(ledger: Ledger, fact: Fact) -> None:
    """Say what the adapter has said."""
    said(ledger, fact)
    ledger.witnessed(fact)


class TestComparing:
    """What differs from the log."""

    def test_the_unknown_differs(self, ledger: Ledger) -> None:
        """What the log does not know is worth saying, unless it is an end."""
        assert ledger.differs(READY)
        assert ledger.differs(PodObserved(pod=POD))
        assert not ledger.differs(node_gone(NODE, ""))
        assert not ledger.differs(pod_gone(POD, ""))

    def test_what_was_said_does_not_differ(self, ledger: Ledger) -> None:
        """Even before it is stored."""
        said(ledger, READY)
        assert not ledger.differs(READY)
        assert ledger.differs(NOT_READY)
        assert ledger.differs(node_gone(NODE, "for whatever reason"))

    def test_an_end_can_be_said_once(self, ledger: Ledger) -> None:
        """What is gone is gone."""
        said(ledger, READY)
        said(ledger, node_gone(NODE, ""))
        assert not ledger.differs(node_gone(NODE, ""))
        assert dict(ledger.nodes) == {}


class TestChangingHands:
    """A pod stands on the subject of whoever controls it; what it leaves behind elsewhere is ended."""

    def test_a_pod_of_another_set_under_the_same_name(self, ledger: Ledger) -> None:
        """It stands on another subject, so the one before it has to be ended on its own."""
        said(ledger, PodObserved(pod=POD))
        other = PodObserved(pod=replace(POD, uid="4", owner=Owner(name="other", uid="5")))
        assert ledger.left_behind(POD.key) == []
        said(ledger, other)
        (end,) = ledger.left_behind(POD.key)
        assert (POD.uid, POD.owner) == (end.uid, end.owner)
        said(ledger, PodObserved(pod=replace(other.pod, uid="6")))
        assert len(ledger.left_behind(POD.key)) == 1

    @pytest.mark.parametrize(("before", "after"), [(POD, ORPHAN), (ORPHAN, POD)])
    def test_what_was_left_behind_is_ended_once(
        self, ledger: Ledger, before: Pod, after: Pod
    ) -> None:
        """The tombstone on the old subject does not forget the pod under its new owner."""
        said(ledger, PodObserved(pod=before))
        said(ledger, PodObserved(pod=after))
        (end,) = ledger.left_behind(POD.key)
        assert before.owner == end.owner
        assert ledger.differs(end)
        said(ledger, end)
        assert not ledger.differs(end)
        assert ledger.left_behind(POD.key) == []
        assert dict(ledger.pods) == {POD.key: after}

    def test_what_another_host_left_behind_is_known(self, ledger: Ledger) -> None:
        """A host that stopped between the two messages: both subjects are in STATE, the later one counts."""
        ledger.fold(PodObserved(pod=POD), read_back(PodObserved(pod=POD), 1))
        ledger.fold(PodObserved(pod=ORPHAN), read_back(PodObserved(pod=ORPHAN), 2))
        assert dict(ledger.pods) == {POD.key: ORPHAN}
        assert not ledger.differs(PodObserved(pod=ORPHAN))
        assert [POD.owner] == [end.owner for end in ledger.left_behind(POD.key)]

    def test_somebody_elses_tombstone_ends_what_was_left_behind(self, ledger: Ledger) -> None:
        """Read back, it counts like our own."""
        said(ledger, PodObserved(pod=POD))
        said(ledger, PodObserved(pod=ORPHAN))
        (end,) = ledger.left_behind(POD.key)
        ledger.fold(end, read_back(end, 9))
        assert ledger.left_behind(POD.key) == []
        assert dict(ledger.pods) == {POD.key: ORPHAN}

    def test_a_pod_that_comes_back_to_its_owner(self, ledger: Ledger) -> None:
        """What it left there is its place again, and what it left in between is to be ended."""
        for pod in (POD, ORPHAN, POD):
            said(ledger, PodObserved(pod=pod))
        assert [None] == [end.owner for end in ledger.left_behind(POD.key)]

    def test_what_was_left_behind_counts_when_the_rest_is_gone(self, ledger: Ledger) -> None:
        """Whoever reads STATE then believes that the pod is there, so the next list has to end it."""
        said(ledger, PodObserved(pod=POD))
        said(ledger, PodObserved(pod=ORPHAN))
        said(ledger, pod_gone(ORPHAN, ""))
        assert dict(ledger.pods) == {POD.key: POD}
        assert ledger.left_behind(POD.key) == []
        said(ledger, pod_gone(POD, ""))
        assert dict(ledger.pods) == {}

    def test_an_orphan_takes_no_place(self, ledger: Ledger) -> None:
        """S1: it does not count as a pod of the set that it was of, nor of any other."""
        said(ledger, PodObserved(pod=POD))
        assert [POD.key] == ledger.neighbours(PLACE, "another")
        said(ledger, PodObserved(pod=ORPHAN))
        assert ledger.neighbours(PLACE, "another") == []
        assert ledger.neighbours(Place(POD.node_key, ""), "another") == []

    def test_an_adopted_pod_has_its_place_before_it_is_observed(self, ledger: Ledger) -> None:
        """S1: the adapter has said that it is done; what it said of the orphan before does not free the place."""
        observed(ledger, PodObserved(pod=ORPHAN))
        ledger.expect(POD.key, PLACE, POD.uid)
        assert [POD.key] == ledger.neighbours(PLACE, "another")
        observed(ledger, PodObserved(pod=replace(ORPHAN, ready=True)))
        assert [POD.key] == ledger.neighbours(PLACE, "another")
        observed(ledger, PodObserved(pod=POD))
        assert not ledger.is_awaited(POD.key)
        assert [POD.key] == ledger.neighbours(PLACE, "another")

    def test_a_pod_that_was_adopted_and_goes_is_not_awaited(self, ledger: Ledger) -> None:
        """Its place is free, whoever had it last."""
        observed(ledger, PodObserved(pod=ORPHAN))
        ledger.expect(POD.key, PLACE, POD.uid)
        observed(ledger, ledger.completed(pod_gone(POD, "")))
        assert ledger.neighbours(PLACE, "another") == []

    def test_what_is_known_already_is_not_awaited(self, ledger: Ledger) -> None:
        """An adoption that is repeated long after has nothing to wait for."""
        observed(ledger, PodObserved(pod=POD))
        ledger.expect(POD.key, PLACE, POD.uid)
        assert not ledger.is_awaited(POD.key)

    def test_garbage_where_a_pod_stood_before_changes_nothing(self, ledger: Ledger) -> None:
        """It is not said again there: it stands somewhere else."""
        said(ledger, PodObserved(pod=POD))
        said(ledger, PodObserved(pod=ORPHAN))
        spoiled = Received(9, 0, SUBJECTS.of(PodObserved(pod=POD)), b"garbage")
        assert ledger.spoil(spoiled) is None
        assert dict(ledger.pods) == {POD.key: ORPHAN}


class TestTombstones:
    """A tombstone says what the log knew of the pod, whatever the adapter says."""

    FULL = replace(POD, node_uid="9", generation=4, failures=2, created_ms=77, phase="Running")

    def bare(self, uid: str = "2", why: str = "") -> PodGone:
        """What an adapter may say that knows no more than who is gone."""
        return PodGone(backend="b", namespace="ns", name="p", uid=uid, node="n", why=why)

    def test_it_is_completed(self, ledger: Ledger) -> None:
        """With owner, node, revision, generation and creation; a pod that did not end passes on no failures."""
        said(ledger, PodObserved(pod=self.FULL))
        gone = ledger.completed(self.bare(why="killed"))
        assert (POD.owner, "9", "r", 4, 77) == (
            gone.owner,
            gone.node_uid,
            gone.revision,
            gone.generation,
            gone.created_ms,
        )
        assert (0, "killed") == (gone.failures, gone.why)

    @pytest.mark.parametrize("phase", ["Failed", "Succeeded"])
    def test_a_pod_that_had_ended_is_one_more_of_its_row(
        self, ledger: Ledger, phase: Phase
    ) -> None:
        """Whether it failed or finished, and however it was deleted then."""
        said(ledger, PodObserved(pod=self.FULL))
        ended = replace(self.FULL, phase=phase)
        said(ledger, PodObserved(pod=ended))
        said(ledger, PodObserved(pod=replace(ended, deleting=True)))
        assert ledger.completed(self.bare()).failures == 3
        assert ledger.end_of(ledger.pods[POD.key], "").failures == 3

    def test_a_pod_that_ended_because_it_was_deleted_is_none(self, ledger: Ledger) -> None:
        """Its containers stop, as they must, and its phase says so before it is gone."""
        said(ledger, PodObserved(pod=replace(self.FULL, deleting=True)))
        said(ledger, PodObserved(pod=replace(self.FULL, deleting=True, phase="Succeeded")))
        said(ledger, PodObserved(pod=replace(self.FULL, deleting=True, phase="Failed")))
        assert ledger.completed(self.bare()).failures == 0
        said(ledger, ledger.completed(self.bare()))
        said(ledger, PodObserved(pod=replace(self.FULL, deleting=True, phase="Failed")))
        assert ledger.completed(self.bare()).failures == 3

    def test_what_the_adapter_says_counts(self, ledger: Ledger) -> None:
        """It may know better: the pod's last words need not have reached the log."""
        said(ledger, PodObserved(pod=self.FULL))
        gone = ledger.completed(replace(self.bare(), failures=8, revision="s", generation=5))
        assert (8, "s", 5) == (gone.failures, gone.revision, gone.generation)

    def test_it_ends_what_the_log_has(self, ledger: Ledger) -> None:
        """With the owner that the log knows, even if the adapter has heard of another, or another pod of that name."""
        said(ledger, PodObserved(pod=ORPHAN))
        gone = ledger.completed(replace(self.bare(), owner=POD.owner))
        assert gone.owner is None
        assert ledger.differs(gone)
        gone = ledger.completed(replace(self.bare(uid="77"), owner=POD.owner))
        assert (None, "77", "") == (gone.owner, gone.uid, gone.revision)
        assert ledger.differs(gone)

    def test_of_the_unknown_there_is_nothing_to_add(self, ledger: Ledger) -> None:
        """It is left as it came, and is not worth saying."""
        bare = self.bare()
        assert bare == ledger.completed(bare)
        assert not ledger.differs(bare)


class TestReadingBack:
    """Our own messages come back late, and others' come between them."""

    def test_our_own_message_is_no_news(self, ledger: Ledger) -> None:
        """Read back before we hear that it was stored, or after."""
        subject = SUBJECTS.of(READY)
        version = said(ledger, READY)
        assert not ledger.is_news(read_back(READY, 7))
        assert ledger.stored(READY, subject, version, 7) is None

        version = said(ledger, NOT_READY)
        assert ledger.stored(NOT_READY, subject, version, 8) is None
        assert not ledger.is_news(read_back(NOT_READY, 8))

    def test_nothing_is_kept_of_what_was_read_back(self, ledger: Ledger) -> None:
        """B1: what it remembers of its own messages are those that it has not read back yet."""
        for number in range(3):
            fact = NodeObserved(node=replace(NODE, name=f"n{number}"))
            ledger.stored(fact, SUBJECTS.of(fact), said(ledger, fact), number + 1)
            assert not ledger.is_news(read_back(fact, number + 1))
        assert len(ledger._said) == 0

    def test_an_older_message_of_ours_does_not_undo_a_newer_one(self, ledger: Ledger) -> None:
        """X, Y, X observed, and the first X read back while the rest is on its way: the last one counts."""
        first = said(ledger, READY)
        second = said(ledger, NOT_READY)
        subject = SUBJECTS.of(READY)
        assert ledger.stored(READY, subject, first, 1) is None
        assert not ledger.is_news(read_back(READY, 1))
        assert ledger.stored(READY, subject, second, 2) is None
        assert ledger.differs(READY)
        assert not ledger.differs(NOT_READY)

    def test_what_someone_else_wrote_later_counts(self, ledger: Ledger) -> None:
        """A message with a higher sequence than ours is what the log says."""
        version = said(ledger, READY)
        ledger.stored(READY, SUBJECTS.of(READY), version, 7)
        theirs = read_back(NOT_READY, 8)
        assert ledger.is_news(theirs)
        assert ledger.fold(NOT_READY, theirs)
        assert ledger.differs(READY)

    def test_what_someone_else_wrote_later_counts_even_if_it_is_read_first(
        self, ledger: Ledger
    ) -> None:
        """Read back before we hear where ours is, it is kept until we do."""
        version = said(ledger, READY)
        theirs = read_back(NOT_READY, 8)
        assert not ledger.is_news(theirs)
        assert ledger.stored(READY, SUBJECTS.of(READY), version, 7) == theirs

    def test_what_someone_else_wrote_earlier_does_not(self, ledger: Ledger) -> None:
        """Ours comes after it in the log."""
        version = said(ledger, READY)
        assert not ledger.is_news(read_back(NOT_READY, 6))
        assert ledger.stored(READY, SUBJECTS.of(READY), version, 7) is None
        assert not ledger.differs(READY)

    def test_someone_else_saying_the_same_is_no_dispute(self, ledger: Ledger) -> None:
        """Only what was not known before is reported as such."""
        theirs = read_back(READY, 1)
        assert ledger.fold(READY, theirs)
        assert not ledger.fold(READY, read_back(READY, 2))

    def test_the_end_of_a_pod_on_another_sets_subject(self, ledger: Ledger) -> None:
        """It does not end the pod that has the name now."""
        end = pod_gone(replace(POD, owner=Owner(name="other", uid="5")), "")
        said(ledger, PodObserved(pod=POD))
        assert not ledger.fold(end, read_back(end, 9))
        assert POD.key in ledger.pods


class TestSpoiled:
    """A message that cannot be used stands where one of ours did."""

    def test_what_is_known_is_to_be_said_again(self, ledger: Ledger) -> None:
        """It differs from what the log says, and is no longer after it was said."""
        ledger.fold(READY, read_back(READY, 1))
        assert ledger.spoil(replace(read_back(READY, 2), payload=b"garbage")) == READY
        assert ledger.differs(READY)
        said(ledger, READY)
        assert not ledger.differs(READY)

    def test_a_pod_with_a_strange_name(self, ledger: Ledger) -> None:
        """It is found by its subject, however that is written."""
        pod = PodObserved(pod=replace(POD, namespace="a.b", name="ü ~>*%2E"))
        ledger.fold(pod, read_back(pod, 1))
        assert ledger.spoil(read_back(pod, 2)) == pod
        assert ledger.differs(pod)

    def test_garbage_elsewhere_is_not_remembered(self, ledger: Ledger) -> None:
        """B1: only subjects of what is known are, so there are never more of them than nodes and pods."""
        said(ledger, PodObserved(pod=POD))
        known = SUBJECTS.of(PodObserved(pod=POD))
        shard = known.split(".")[3]
        other_shard = str((int(shard) + 1) % SUBJECTS.shards)
        subjects = [f"{SUBJECTS.prefix}.node.b.n{number}" for number in range(100)]
        subjects += [known.replace(f".{shard}.", f".{other_shard}.", 1), f"{known}.x"]
        subjects += [f"{SUBJECTS.prefix}.node", f"{SUBJECTS.prefix}.node.%", f"{SUBJECTS.prefix}.x"]
        for subject in subjects:
            assert ledger.spoil(Received(1, 0, subject, b"x")) is None
        assert ledger.spoiled == set()

    def test_a_usable_message_ends_it(self, ledger: Ledger) -> None:
        """Whoever wrote it."""
        ledger.fold(READY, read_back(READY, 1))
        ledger.spoil(read_back(READY, 2))
        ledger.fold(READY, read_back(READY, 3))
        assert not ledger.differs(READY)


class TestPlaces:
    """Which pods of a set a node has."""

    def test_live_pods_but_not_the_one_itself(self, ledger: Ledger) -> None:
        """Pods that are finished or on their way out do not count."""
        said(ledger, PodObserved(pod=POD))
        said(ledger, PodObserved(pod=replace(POD, name="ended", phase="Failed")))
        said(ledger, PodObserved(pod=replace(POD, name="leaving", deleting=True)))
        said(ledger, PodObserved(pod=replace(POD, name="elsewhere", node="m")))
        assert ledger.neighbours(PLACE, "new") == [POD.key]
        assert ledger.neighbours(PLACE, POD.name) == []

    def test_a_pod_that_is_gone_leaves_its_place(self, ledger: Ledger) -> None:
        """And comes back to it when it is observed again."""
        said(ledger, PodObserved(pod=POD))
        said(ledger, pod_gone(POD, ""))
        assert ledger.neighbours(PLACE, "new") == []

    def test_a_created_pod_counts_before_it_is_observed(self, ledger: Ledger) -> None:
        """Until it is observed, or given up."""
        ledger.expect(POD.key, PLACE)
        assert ledger.neighbours(PLACE, "new") == [POD.key]
        assert list(ledger.awaited()) == [POD.key]
        observed(ledger, PodObserved(pod=POD))
        assert ledger.awaited() == {}
        assert ledger.neighbours(PLACE, "new") == [POD.key]

    def test_a_created_pod_that_never_shows_is_given_up(self, ledger: Ledger) -> None:
        """Giving up one that was observed meanwhile changes nothing."""
        other = PodKey("b", "ns", "other")
        ledger.expect(POD.key, PLACE)
        ledger.expect(other, PLACE)
        awaited = ledger.awaited()
        observed(ledger, PodObserved(pod=POD))
        ledger.give_up(awaited)
        assert ledger.neighbours(PLACE, "new") == [POD.key]

    def test_a_pod_created_anew_under_a_name_counts_whatever_is_heard_of_the_one_before(
        self, ledger: Ledger
    ) -> None:
        """S1: the end of the first one, observed late, does not free the place of the second one."""
        said(ledger, PodObserved(pod=POD))
        ledger.expect(POD.key, PLACE, "another")
        observed(ledger, PodObserved(pod=replace(POD, deleting=True)))
        observed(ledger, pod_gone(POD, ""))
        assert ledger.neighbours(PLACE, "new") == [POD.key]
        assert ledger.is_awaited(POD.key)
        observed(ledger, PodObserved(pod=replace(POD, uid="another")))
        assert ledger.neighbours(PLACE, "new") == [POD.key]
        assert not ledger.is_awaited(POD.key)

    @pytest.mark.parametrize(
        "untrue",
        [
            pod_gone(POD, "a lie"),
            PodObserved(pod=replace(POD, deleting=True)),
            PodObserved(pod=replace(POD, phase="Failed")),
            PodObserved(pod=replace(POD, node="elsewhere")),
        ],
    )
    def test_what_others_say_frees_no_place(self, ledger: Ledger, untrue: Fact) -> None:
        """S1: only the adapter's word does, or a list that began after it."""
        said(ledger, PodObserved(pod=POD))
        before = ledger.awaited()
        assert ledger.fold(untrue, read_back(untrue, 9))
        assert ledger.is_awaited(POD.key)
        ledger.give_up(before)
        assert ledger.neighbours(PLACE, "new") == [POD.key]
        ledger.give_up(ledger.awaited())
        assert ledger.neighbours(PLACE, "new") == []

    def test_a_list_gives_up_only_what_was_awaited_when_it_began(self, ledger: Ledger) -> None:
        """S1: another lie while it is read counts until the next list."""
        end = pod_gone(POD, "a lie")
        said(ledger, PodObserved(pod=POD))
        ledger.fold(end, read_back(end, 8))
        awaited = ledger.awaited()
        observed(ledger, PodObserved(pod=POD))
        ledger.stored(PodObserved(pod=POD), SUBJECTS.of(end), 2, 9)
        ledger.fold(end, read_back(end, 10))
        ledger.give_up(awaited)
        assert ledger.neighbours(PLACE, "new") == [POD.key]

    def test_what_others_say_is_so_once_the_adapter_says_it_too(self, ledger: Ledger) -> None:
        """Although the log says it already."""
        end = pod_gone(POD, "")
        said(ledger, PodObserved(pod=POD))
        ledger.fold(end, read_back(end, 9))
        assert not ledger.differs(end)
        ledger.witnessed(end)
        assert ledger.neighbours(PLACE, "new") == []


class TestGone:
    """Which pods have gone, and when."""

    def test_a_pod_has_gone_since_what_is_older_than_its_end(self, ledger: Ledger) -> None:
        """S1: whoever wrote it, also if a pod of that name came again."""
        end = pod_gone(POD, "")
        said(ledger, PodObserved(pod=POD))
        assert not ledger.has_gone_since(POD.key, 1)
        ledger.fold(end, read_back(end, 9))
        said(ledger, PodObserved(pod=POD))
        assert ledger.has_gone_since(POD.key, 8)
        assert not ledger.has_gone_since(POD.key, 10)

    def test_an_end_that_is_on_its_way_to_the_log(self, ledger: Ledger) -> None:
        """S1: it comes after everything that is there now."""
        end = pod_gone(POD, "")
        said(ledger, PodObserved(pod=POD))
        version = said(ledger, end)
        assert ledger.has_gone_since(POD.key, 1_000)
        ledger.stored(end, SUBJECTS.of(end), version, 9)
        assert ledger.has_gone_since(POD.key, 8)
        assert not ledger.has_gone_since(POD.key, 1_000)

    def test_only_so_many_are_remembered(self) -> None:
        """B1, S1: what is older than the ends that were forgotten counts as too old, for any pod."""
        ledger = Ledger("b", SUBJECTS, gone_remembered_max=3)
        for number in range(1, 6):
            end = pod_gone(replace(POD, name=f"p{number}"), "")
            ledger.fold(end, read_back(end, number))
        assert [False, True] == [ledger.has_gone_since(POD.key, place) for place in (2, 1)]
        fourth = PodKey("b", "ns", "p4")
        assert [False, True] == [ledger.has_gone_since(fourth, place) for place in (4, 3)]
        assert len(ledger._gone_pods._sequences) == 3


def test_a_node_of_another_uid_is_news(ledger: Ledger) -> None:
    """A node that returned under its old name differs by its uid."""
    said(ledger, READY)
    assert ledger.differs(NodeObserved(node=replace(NODE, uid="9")))
    assert ledger.differs(NodeGone(backend="b", name="n"))
