"""The wire format: golden bytes of each kind of message, subjects, limits, and what is refused."""

import pytest
from tests.unit.golden_decisions import DECIDED
from tests.unit.golden_observations import OBSERVED

from everynode import wire
from everynode.core.events import (
    NodeGone,
    NodeObserved,
    NoticeReported,
    PodGone,
    PodObserved,
    Tick,
)
from everynode.errors import ConfigurationError, MalformedMessageError
from everynode.wire import (
    ORPHANS,
    PAYLOAD_BYTES_MAX,
    AnyMessage,
    Subjects,
    decode,
    decode_from,
    encode,
    token,
)

SUBJECTS = Subjects("prod", 16)
GOLDEN = OBSERVED | DECIDED


class TestGolden:
    """The bytes that are on logs out there: if one of these changes, the schema version must."""

    @pytest.mark.parametrize("name", GOLDEN)
    def test_bytes(self, name: str) -> None:
        """A message is written as exactly these bytes, and read from them."""
        message, _, payload = GOLDEN[name]
        assert encode(message) == payload
        assert decode(payload) == message

    @pytest.mark.parametrize("name", GOLDEN)
    def test_subject(self, name: str) -> None:
        """A message belongs on exactly this subject, and is read from there only (S8)."""
        message, subject, payload = GOLDEN[name]
        assert SUBJECTS.of(message) == subject
        assert decode_from(SUBJECTS, subject, payload) == message
        for other in (
            f"{subject}x",
            subject.rpartition(".")[0],
            "everynode.prod.node.west.other",
            "",
        ):
            with pytest.raises(MalformedMessageError, match=f"belongs on {subject}"):
                decode_from(SUBJECTS, other, payload)

    def test_every_kind(self) -> None:
        """No kind of message is without golden bytes."""
        golden = {type(message) for message, _, _ in GOLDEN.values()}
        assert set(AnyMessage.__args__) == golden
        assert {kind.__name__ for kind in golden} == {name.partition(",")[0] for name in GOLDEN}

    def test_tombstones(self) -> None:
        """What ends something stands on the subject of what it ends, and STATE keeps it."""
        begins = {
            "NodeGone": "NodeObserved, least",
            "PodGone": "PodObserved",
            "DaemonSetGone": "DaemonSetObserved",
            "RevisionGone": "RevisionRecorded",
            "StatusGone": "StatusReported",
        }
        assert {kind.__name__ for kind in wire.TOMBSTONES} == begins.keys()
        for ends, began in (*begins.items(), ("PodGone, orphan", "PodObserved, orphan")):
            assert GOLDEN[ends][1] == GOLDEN[began][1]
            assert covers(SUBJECTS.kept(), GOLDEN[ends][1])


class TestReading:
    """What is accepted, and what is refused."""

    @pytest.mark.parametrize(
        ("payload", "why"),
        [
            (b"", "not a message"),
            (b"\xff\xfe", "not a message"),
            (b"null", "not a message"),
            (b"[]", "not a message"),
            (b"{}", "missing required field `v`"),
            (b'{"v":1}', "missing required field `kind`"),
            (b'{"kind":"Tick","shard":1,"dueMs":1}', "missing required field `v`"),
            (b'{"v":"1","kind":"Tick","shard":1,"dueMs":1}', "Expected `int`"),
            (b'{"v":1,"kind":"Unheard"}', "Invalid value 'Unheard'"),
            (b'{"v":1,"kind":"Tick","shard":1}', "missing required field `dueMs`"),
            (b'{"v":1,"kind":"Tick","shard":-1,"dueMs":1}', ">= 0"),
            (b'{"v":1,"kind":"Tick","shard":1.5,"dueMs":1}', "Expected `int`"),
            (b'{"v":1,"kind":"Tick","shard":1,"dueMs":1} x', "trailing"),
            (b'{"v":1,"kind":"NodeGone","backend":"","name":"n"}', "length >= 1"),
            (
                b'{"v":1,"kind":"NodeGone","backend":"b","name":"%s"}' % (b"n" * 254),
                "length <= 253",
            ),
            (
                (
                    b'{"v":1,"kind":"Outcome","id":"1","namespace":"n","daemonset":"d","verb":"create",'
                    b'"result":"great"}'
                ),
                "Invalid enum value 'great'",
            ),
        ],
    )
    def test_refused(self, payload: bytes, why: str) -> None:
        """What is no message, or one with something missing or out of its range, is refused with the reason (S8)."""
        with pytest.raises(MalformedMessageError, match=why):
            decode(payload)

    @pytest.mark.parametrize("version", [0, 2, 99, -1])
    def test_other_schema(self, version: int) -> None:
        """A message of another schema version is refused as such, whatever else it holds (S8)."""
        payload = b'{"v":%d,"kind":"FromTheFuture","more":[]}' % version
        with pytest.raises(
            MalformedMessageError, match=f"schema version {version} of FromTheFuture"
        ):
            decode(payload)

    def test_unknown_fields(self) -> None:
        """A field that this version does not know is passed over: a newer program may add some."""
        assert decode(b'{"new":1,"v":1,"kind":"Tick","shard":1,"dueMs":2,"more":{}}') == Tick(
            shard=1, due_ms=2
        )

    def test_largest(self) -> None:
        """A message of exactly the largest size passes, one byte more does not, in both directions (B1)."""
        empty = len(encode(NodeGone(backend="b", name="n", why="")))
        room = PAYLOAD_BYTES_MAX - empty - len(',"why":""')
        largest = NodeGone(backend="b", name="n", why="x" * room)
        assert len(encode(largest)) == PAYLOAD_BYTES_MAX
        assert decode(encode(largest)) == largest
        with pytest.raises(
            MalformedMessageError, match=f"NodeGone has {PAYLOAD_BYTES_MAX + 1} bytes"
        ):
            encode(NodeGone(backend="b", name="n", why="x" * (room + 1)))
        with pytest.raises(MalformedMessageError, match=f"{PAYLOAD_BYTES_MAX + 1} bytes; at most"):
            decode(encode(largest) + b" ")

    def test_deep_nesting(self) -> None:
        """A document nested without end is refused and does not end the program (S8)."""
        deep = b"[" * 100_000
        for rest in (b'"shard":%b' % deep, b'"x":%b%b}' % (deep, b"]" * len(deep))):
            with pytest.raises(MalformedMessageError):
                decode(b'{"v":1,"kind":"Tick",%b' % rest)


class TestSubjects:
    """Where messages stand."""

    def test_fleet(self) -> None:
        """A fleet has a name that is safe in subjects and in the names of streams."""
        for fleet in ("a", "0", "prod", "a-b", "a" * 32):
            assert Subjects(fleet, 1).of_kind("node") == f"everynode.{fleet}.node.>"

    @pytest.mark.parametrize(
        "fleet", ["", "A", "a.b", "a*", ">", "a b", "-a", "a-", "a_b", "a" * 33, "ä", "a\n"]
    )
    def test_fleet_refused(self, fleet: str) -> None:
        """Any other name is refused."""
        with pytest.raises(ConfigurationError, match="must be lower-case"):
            Subjects(fleet, 1)

    def test_shards_refused(self) -> None:
        """A fleet has at least one shard."""
        with pytest.raises(ConfigurationError, match="at least 1"):
            Subjects("a", 0)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("plain-Text_1", "plain-Text_1"),
            ("a.b", "a%2Eb"),
            ("a b*>~/%", "a%20b%2A%3E%7E%2F%25"),
            ("ä", "%C3%A4"),
            ("", ""),
        ],
    )
    def test_token(self, text: str, expected: str) -> None:
        """Text is one token: what subjects give a meaning to is percent-encoded."""
        assert token(text) == expected

    def test_streams(self) -> None:
        """LOG takes in every kind, and STATE keeps what lasts."""
        kinds = [
            "node",
            "pod",
            "daemonset",
            "revision",
            "decision",
            "command",
            "outcome",
            "status",
            "notice",
            "tick",
        ]
        assert SUBJECTS.stored() == [f"everynode.prod.{kind}.>" for kind in kinds]
        lasting = ["node", "pod", "daemonset", "revision", "status"]
        assert SUBJECTS.kept() == [f"everynode.prod.{kind}.>" for kind in lasting]

    def test_commands(self) -> None:
        """An adapter reads the commands for its backend, and no others."""
        assert SUBJECTS.commands_for("a.b") == "everynode.prod.command.a%2Eb.>"

    def test_worker_reads(self) -> None:
        """What a worker reads covers each message of its shards, and none of another shard's sets."""
        everything = list(range(16))
        for name, (message, subject, _) in GOLDEN.items():
            shard = message.shard if isinstance(message, Tick) else 1
            everywhere = is_for_all(message)
            if isinstance(message, NoticeReported):  # it is for people
                assert not covers(SUBJECTS.followed_by_worker(everything), subject), name
                assert not covers(SUBJECTS.followed_by_worker([1]), subject), name
                continue
            assert covers(SUBJECTS.followed_by_worker(everything), subject), name
            assert covers(SUBJECTS.followed_by_worker([2, shard]), subject), name
            assert covers(SUBJECTS.followed_by_worker([2]), subject) == everywhere, name
            assert covers(SUBJECTS.read_by_worker(everything), subject), name
            assert covers(SUBJECTS.read_by_worker([2, shard]), subject), name

    def test_worker_loads(self) -> None:
        """What a worker reads when it starts covers what is kept of its shards, and no other shard's sets."""
        kept = [entry for entry in GOLDEN.values() if covers(SUBJECTS.kept(), entry[1])]
        assert len(kept) >= 10
        for message, subject, _ in kept:
            everywhere = is_for_all(message)
            assert covers(SUBJECTS.read_by_worker(list(range(16))), subject)
            assert covers(SUBJECTS.read_by_worker([1, 2]), subject)
            assert covers(SUBJECTS.read_by_worker([2]), subject) == everywhere


def is_for_all(message: AnyMessage) -> bool:
    """Whether every worker must know it, whichever shards it has: of orphans nobody knows whose they will be."""
    match message:
        case NodeObserved() | NodeGone():
            return True
        case PodObserved(pod=pod):
            return pod.owner is None
        case PodGone(owner=owner):
            return owner is None
        case _:
            return False


def covers(patterns: list[str], subject: str) -> bool:
    """Whether a subscription to these patterns hears this subject, as NATS has it."""
    return any(_matches(pattern.split("."), subject.split(".")) for pattern in patterns)


def _matches(pattern: list[str], subject: list[str]) -> bool:
    for position, part in enumerate(pattern):
        if part == ">":
            return len(subject) > position
        if position >= len(subject) or part not in {"*", subject[position]}:
            return False
    return len(pattern) == len(subject)


@pytest.mark.parametrize(
    ("subject", "parts"),
    [
        ("node.east.n%2E1", ("node", "")),
        ("pod.3.east.ns.p", ("pod", "3")),
        ("pod.orphan.east.ns.p", ("pod", ORPHANS)),
        ("command.east.n.7.id", ("command", "7")),
        ("tick.2", ("tick", "2")),
        ("command.east", ("command", "")),
        ("pod", ("pod", "")),
    ],
)
def test_parts(subject: str, parts: tuple[str, str]) -> None:
    """A subject says its kind, and which shard's worker reads it; one that is cut off names no shard."""
    subjects = Subjects("prod", 16)

    assert parts == subjects.parts(f"{subjects.prefix}.{subject}")
