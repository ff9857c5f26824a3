"""Laws of the wire format: what is written is read, and garbage is refused and nothing else."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from everynode.core.commands import (
    AdoptPod,
    Counts,
    CreatePod,
    Decision,
    DeletePod,
    Outcome,
    ReleasePod,
)
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    NoticeReported,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
    Tick,
)
from everynode.core.identity import shard_of
from everynode.core.values import (
    WHOLE_MAX,
    Condition,
    DaemonSet,
    Node,
    NodeKey,
    Notice,
    Owner,
    Pod,
    Revision,
    Selector,
    SetKey,
    Status,
    UpdateStrategy,
)
from everynode.errors import MalformedMessageError
from everynode.runtime.ledger import pod_gone
from everynode.wire import AnyMessage, Subjects, decode, decode_from, encode

SUBJECTS = Subjects("prod", 16)

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
wholes = st.integers(min_value=0, max_value=WHOLE_MAX)
json_documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
raws = json_documents.map(msgspec.json.encode).map(msgspec.Raw)


owners = st.builds(Owner, name=names, uid=names)
labels = st.dictionaries(texts, texts, max_size=3)
SET_OF = {"namespace": names, "daemonset": names}
nodes = st.builds(
    Node, backend=names, name=names, uid=names, labels=labels, unready_since_ms=wholes
)
pod_owners = st.none() | owners
pods = st.builds(
    Pod,
    revision=texts,
    backend=names,
    namespace=names,
    name=names,
    uid=names,
    node=names,
    owner=pod_owners,
    labels=st.none() | labels,
    generation=wholes,
    failures=wholes,
    ready_since_ms=wholes,
    created_ms=wholes,
    deleting_since_ms=wholes,
)
selectors = st.builds(Selector, match_labels=labels)
strategies_of_updates = st.builds(
    UpdateStrategy,
    max_unavailable=wholes | texts,
    partition=wholes | texts,
    selector=st.none() | selectors,
    progress_deadline_seconds=wholes,
)
daemonsets = st.builds(
    DaemonSet,
    namespace=names,
    name=names,
    uid=names,
    generation=wholes,
    labels=labels,
    annotations=labels,
    min_ready_seconds=wholes,
    revision_history_limit=wholes,
    created_ms=wholes,
    selector=selectors,
    update_strategy=strategies_of_updates,
    predecessor_uids=st.lists(names, max_size=3).map(tuple),
    template=raws,
)
COMMAND = {
    "id": names,
    "backend": names,
    "node": names,
    **SET_OF,
    "daemonset_uid": names,
    "generation": wholes,
    "pod": names,
    "expires_ms": wholes,
    "attempt": wholes,
}
counts = st.builds(Counts, eligible=wholes, missing=wholes, adopts=wholes, releases=wholes)
conditions = st.builds(Condition, type=texts, reason=texts, message=texts, last_update_ms=wholes)
statuses = st.builds(
    Status,
    **SET_OF,
    daemonset_uid=names,
    observed_generation=wholes,
    waiting_nodes=st.dictionaries(texts, wholes, max_size=3),
    conditions=st.lists(conditions, max_size=2).map(tuple),
)
notices = st.builds(
    Notice, **SET_OF, daemonset_uid=names, reason=names, message=texts, count=st.integers(1, 9)
)


def messages() -> st.SearchStrategy[AnyMessage]:
    """Any message that a program could make."""
    return st.one_of(
        st.builds(NodeObserved, node=nodes),
        st.builds(NodeGone, backend=names, name=names),
        st.builds(PodObserved, pod=pods),
        st.builds(
            PodGone,
            backend=names,
            namespace=names,
            name=names,
            uid=names,
            node=names,
            owner=pod_owners,
            generation=wholes,
            created_ms=wholes,
            failures=wholes,
        ),
        st.builds(DaemonSetObserved, daemonset=daemonsets),
        st.builds(DaemonSetGone, namespace=names, name=names, uid=names),
        st.builds(
            RevisionRecorded,
            revision=st.builds(
                Revision, **SET_OF, daemonset_uid=names, hash=names, number=wholes, template=raws
            ),
        ),
        st.builds(RevisionGone, **SET_OF, hash=names),
        st.builds(
            Decision,
            **SET_OF,
            daemonset_uid=names,
            revision=texts,
            generation=wholes,
            basis=wholes,
            at_ms=wholes,
            worker=names,
            size=st.integers(0, 999),
            windows=st.dictionaries(names, st.integers(1, 999), max_size=2),
            counts=counts,
        ),
        st.builds(
            CreatePod,
            **COMMAND,
            revision=texts,
            node_uid=names,
            slot=wholes,
            failures=wholes,
        ),
        *(st.builds(kind, **COMMAND, pod_uid=names) for kind in (DeletePod, AdoptPod, ReleasePod)),
        st.builds(Outcome, id=names, backend=names, **SET_OF),
        st.builds(StatusReported, status=statuses),
        st.builds(NoticeReported, notice=notices),
        st.builds(StatusGone, **SET_OF, daemonset_uid=names),
        st.builds(Tick, shard=wholes, due_ms=wholes),
    )


class TestProperties:
    """What holds for whatever is written or read."""

    @given(messages(), st.integers(1, 64))
    def test_round_trip(self, message: AnyMessage, shards: int) -> None:
        """What is written is read as the same message, from the subject it was written to."""
        subjects = Subjects("f", shards)
        payload = encode(message)
        assert decode_from(subjects, subjects.of(message), payload) == message
        assert encode(decode(payload)) == payload

    @given(messages(), st.integers(1, 64))
    def test_subject_is_sound(self, message: AnyMessage, shards: int) -> None:
        """Whatever names are in a message, its subject is one that LOG takes in, and has no wildcard or gap."""
        subjects = Subjects("f", shards)
        subject = subjects.of(message)
        assert subject.startswith(
            tuple(taken_in.removesuffix(">") for taken_in in subjects.stored())
        )
        assert all(part and part not in {"*", ">"} for part in subject.split("."))
        assert subject.isascii()
        assert not set(subject) & set(" \t\r\n*>")

    @given(
        st.lists(st.tuples(names, names), min_size=2, max_size=2, unique=True), st.integers(1, 64)
    )
    def test_subjects_differ(self, keys: list[tuple[str, str]], shards: int) -> None:
        """Two sets never share a subject, nor do two nodes."""
        subjects = Subjects("f", shards)
        first, second = keys
        assert subjects.of_set("status", SetKey(*first)) != subjects.of_set(
            "status", SetKey(*second)
        )
        assert subjects.of_node(NodeKey(*first)) != subjects.of_node(NodeKey(*second))
        assert 0 <= shard_of(SetKey(*first), shards) < shards

    @given(pods, st.lists(pod_owners, min_size=2, max_size=2, unique=True), st.integers(1, 64))
    def test_who_controls_a_pod_says_where_it_stands(
        self, pod: Pod, both: list[Owner | None], shards: int
    ) -> None:
        """An orphan never stands where a set's pod does, and its end stands where it did."""
        subjects = Subjects("f", shards)
        for owner in both:
            there = subjects.of(PodObserved(pod=replace(pod, owner=owner)))
            end = pod_gone(replace(pod, owner=owner), "")
            assert there == subjects.of(end)
            assert (owner is None) == there.startswith("everynode.f.pod.orphan.")

    @given(st.binary(max_size=200) | json_documents.map(msgspec.json.encode))
    def test_garbage(self, payload: bytes) -> None:
        """Any bytes are a message or are refused, and nothing else happens (S8)."""
        self.accept(payload)

    @given(messages(), st.data())
    def test_damage(self, message: AnyMessage, data: st.DataObject) -> None:
        """A message in which bytes were changed, lost or added is a message or is refused (S8)."""
        payload = bytearray(encode(message))
        for _ in range(data.draw(st.integers(1, 3))):
            position = data.draw(st.integers(0, len(payload)))
            replacement = data.draw(
                st.binary(max_size=2)
                | st.sampled_from([b'"\\ud800"', b"\\ud800", b"1e400", b"null", b"9" * 400])
            )
            payload[position : position + data.draw(st.integers(0, 2))] = replacement
        self.accept(bytes(payload))

    @staticmethod
    def accept(payload: bytes) -> None:
        """Read it as whoever follows the log would: with its subject, and write it again."""
        try:
            message = decode(payload)
            decode_from(SUBJECTS, SUBJECTS.of(message), payload)
        except MalformedMessageError:
            return
        assert decode(encode(message)) == message
