"""The wire format: golden bytes of each kind of message, subjects, limits, and what is refused."""

import msgspec
import pytest

from everynode import wire
from everynode.core.commands import Counts, CreatePod, Decision, DeletePod, Outcome, ReasonCount
from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionGone,
    RevisionRecorded,
    StatusGone,
    StatusReported,
    Tick,
)
from everynode.core.values import (
    DaemonSet,
    Node,
    Owner,
    Pod,
    Requirement,
    Revision,
    Selector,
    Status,
    Taint,
    UpdateStrategy,
)
from everynode.errors import ConfigurationError, MalformedMessageError
from everynode.wire import (
    PAYLOAD_BYTES_MAX,
    AnyMessage,
    Subjects,
    decode,
    decode_from,
    encode,
    token,
)

SUBJECTS = Subjects("prod", 16)
OWNER = Owner(name="web", uid="ds-1")

GOLDEN: dict[str, tuple[AnyMessage, str, bytes]] = {
    "NodeObserved": (
        NodeObserved(
            node=Node(
                backend="east",
                name="n1.example",
                uid="u1",
                labels={"zone": "a"},
                taints=(
                    Taint(key="k", effect="NoSchedule", value="v"),
                    Taint(key="x", effect="NoExecute"),
                ),
                unschedulable=True,
                ready=False,
            )
        ),
        "everynode.prod.node.east.n1%2Eexample",
        (
            b'{"v":1,"kind":"NodeObserved","node":{"backend":"east","name":"n1.example","uid":"u1",'
            b'"labels":{"zone":"a"},"taints":[{"key":"k","effect":"NoSchedule","value":"v"},'
            b'{"key":"x","effect":"NoExecute"}],"unschedulable":true,"ready":false}}'
        ),
    ),
    "NodeObserved, least": (
        NodeObserved(node=Node(backend="east", name="n1", uid="u1")),
        "everynode.prod.node.east.n1",
        b'{"v":1,"kind":"NodeObserved","node":{"backend":"east","name":"n1","uid":"u1"}}',
    ),
    "NodeGone": (
        NodeGone(backend="east", name="n1", uid="u1", why="drained"),
        "everynode.prod.node.east.n1",
        b'{"v":1,"kind":"NodeGone","backend":"east","name":"n1","uid":"u1","why":"drained"}',
    ),
    "PodObserved": (
        PodObserved(
            pod=Pod(
                backend="east",
                namespace="default",
                name="web-1",
                uid="p1",
                node="n1",
                owner=OWNER,
                revision="r1",
                node_uid="u1",
                phase="Running",
                ready=True,
                ready_since_ms=5,
                created_ms=4,
                deleting=True,
            )
        ),
        "everynode.prod.pod.1.east.default.web-1",
        (
            b'{"v":1,"kind":"PodObserved","pod":{"backend":"east","namespace":"default","name":"web-1","uid":"p1",'
            b'"node":"n1","owner":{"name":"web","uid":"ds-1"},"revision":"r1","nodeUid":"u1","phase":"Running",'
            b'"ready":true,"readySinceMs":5,"createdMs":4,"deleting":true}}'
        ),
    ),
    "PodGone": (
        PodGone(
            backend="east", namespace="default", name="web-1", uid="p1", node="n1", owner=OWNER
        ),
        "everynode.prod.pod.1.east.default.web-1",
        (
            b'{"v":1,"kind":"PodGone","backend":"east","namespace":"default","name":"web-1","uid":"p1",'
            b'"node":"n1","owner":{"name":"web","uid":"ds-1"}}'
        ),
    ),
    "DaemonSetObserved": (
        DaemonSetObserved(
            daemonset=DaemonSet(
                namespace="default",
                name="web",
                uid="ds-1",
                generation=2,
                selector=Selector(
                    match_labels={"app": "web"},
                    match_expressions=(Requirement(key="k", operator="In", values=("a",)),),
                ),
                template=msgspec.Raw(b'{"spec":{}}'),
                backend="east",
                labels={"l": "1"},
                annotations={"a": "2"},
                update_strategy=UpdateStrategy(
                    type="RollingUpdate", max_unavailable="10%", max_surge=1
                ),
                min_ready_seconds=3,
                revision_history_limit=4,
                created_ms=5,
            )
        ),
        "everynode.prod.daemonset.1.default.web",
        (
            b'{"v":1,"kind":"DaemonSetObserved","daemonset":{"namespace":"default","name":"web","uid":"ds-1",'
            b'"generation":2,"selector":{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"k",'
            b'"operator":"In","values":["a"]}]},"template":{"spec":{}},"backend":"east","labels":{"l":"1"},'
            b'"annotations":{"a":"2"},"updateStrategy":{"type":"RollingUpdate","maxUnavailable":"10%",'
            b'"maxSurge":1},"minReadySeconds":3,"revisionHistoryLimit":4,"createdMs":5}}'
        ),
    ),
    "DaemonSetGone": (
        DaemonSetGone(namespace="default", name="web", uid="ds-1", cascade="orphan"),
        "everynode.prod.daemonset.1.default.web",
        b'{"v":1,"kind":"DaemonSetGone","namespace":"default","name":"web","uid":"ds-1","cascade":"orphan"}',
    ),
    "RevisionRecorded": (
        RevisionRecorded(
            revision=Revision(
                namespace="default",
                daemonset="web",
                daemonset_uid="ds-1",
                hash="r1",
                number=1,
                template=msgspec.Raw(b'{"spec":{}}'),
            )
        ),
        "everynode.prod.revision.1.default.web.r1",
        (
            b'{"v":1,"kind":"RevisionRecorded","revision":{"namespace":"default","daemonset":"web",'
            b'"daemonsetUid":"ds-1","hash":"r1","number":1,"template":{"spec":{}}}}'
        ),
    ),
    "RevisionGone": (
        RevisionGone(namespace="default", daemonset="web", hash="r1"),
        "everynode.prod.revision.1.default.web.r1",
        b'{"v":1,"kind":"RevisionGone","namespace":"default","daemonset":"web","hash":"r1"}',
    ),
    "Decision": (
        Decision(
            namespace="default",
            daemonset="web",
            daemonset_uid="ds-1",
            generation=1,
            revision="r1",
            basis=9,
            at_ms=8,
            worker="w",
            size=1,
            windows={"east": 2},
            counts=Counts(eligible=3, missing=1, creates=1),
            reasons=(ReasonCount(reason="missing", count=1),),
        ),
        "everynode.prod.decision.1.default.web",
        (
            b'{"v":1,"kind":"Decision","namespace":"default","daemonset":"web","daemonsetUid":"ds-1",'
            b'"generation":1,"revision":"r1","basis":9,"atMs":8,"worker":"w","size":1,"windows":{"east":2},'
            b'"counts":{"eligible":3,"missing":1,"creates":1},"reasons":[{"reason":"missing","count":1}]}'
        ),
    ),
    "CreatePod": (
        CreatePod(
            id="c1",
            backend="east",
            node="n1",
            node_uid="u1",
            namespace="default",
            daemonset="web",
            daemonset_uid="ds-1",
            generation=1,
            pod="web-1",
            revision="r1",
            expires_ms=7,
            slot=1,
            attempt=2,
            reason="missing",
        ),
        "everynode.prod.command.east.n1.1.c1",
        (
            b'{"v":1,"kind":"CreatePod","id":"c1","backend":"east","node":"n1","nodeUid":"u1",'
            b'"namespace":"default","daemonset":"web","daemonsetUid":"ds-1","generation":1,"pod":"web-1",'
            b'"revision":"r1","expiresMs":7,"slot":1,"attempt":2,"reason":"missing"}'
        ),
    ),
    "DeletePod": (
        DeletePod(
            id="c2",
            backend="east",
            node="n1",
            namespace="default",
            daemonset="web",
            daemonset_uid="ds-1",
            generation=1,
            pod="web-1",
            pod_uid="p1",
            expires_ms=7,
        ),
        "everynode.prod.command.east.n1.1.c2",
        (
            b'{"v":1,"kind":"DeletePod","id":"c2","backend":"east","node":"n1","namespace":"default",'
            b'"daemonset":"web","daemonsetUid":"ds-1","generation":1,"pod":"web-1","podUid":"p1","expiresMs":7}'
        ),
    ),
    "Outcome": (
        Outcome(
            id="c1",
            backend="east",
            namespace="default",
            daemonset="web",
            verb="create",
            result="done",
            pod_uid="p1",
        ),
        "everynode.prod.outcome.1.c1",
        (
            b'{"v":1,"kind":"Outcome","id":"c1","backend":"east","namespace":"default","daemonset":"web","verb":"create",'
            b'"result":"done","podUid":"p1"}'
        ),
    ),
    "StatusReported": (
        StatusReported(
            status=Status(
                namespace="default",
                daemonset="web",
                daemonset_uid="ds-1",
                observed_generation=1,
                desired_number_scheduled=3,
            )
        ),
        "everynode.prod.status.1.default.web",
        (
            b'{"v":1,"kind":"StatusReported","status":{"namespace":"default","daemonset":"web",'
            b'"daemonsetUid":"ds-1","observedGeneration":1,"desiredNumberScheduled":3}}'
        ),
    ),
    "StatusGone": (
        StatusGone(namespace="default", daemonset="web", daemonset_uid="ds-1"),
        "everynode.prod.status.1.default.web",
        b'{"v":1,"kind":"StatusGone","namespace":"default","daemonset":"web","daemonsetUid":"ds-1"}',
    ),
    "Tick": (
        Tick(shard=3, due_ms=9),
        "everynode.prod.tick.3",
        b'{"v":1,"kind":"Tick","shard":3,"dueMs":9}',
    ),
}


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
        for ends, began in begins.items():
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
            everywhere = isinstance(message, NodeObserved | NodeGone)
            assert covers(SUBJECTS.followed_by_worker(everything), subject), name
            assert covers(SUBJECTS.followed_by_worker([2, shard]), subject), name
            assert covers(SUBJECTS.followed_by_worker([2]), subject) == everywhere, name

    def test_worker_loads(self) -> None:
        """What a worker reads from STATE covers what is kept there of its shards, and no other shard's sets."""
        kept = [entry for entry in GOLDEN.values() if covers(SUBJECTS.kept(), entry[1])]
        assert len(kept) >= 10
        for message, subject, _ in kept:
            everywhere = isinstance(message, NodeObserved | NodeGone)
            assert covers(SUBJECTS.loaded_by_worker(list(range(16))), subject)
            assert covers(SUBJECTS.loaded_by_worker([1, 2]), subject)
            assert covers(SUBJECTS.loaded_by_worker([2]), subject) == everywhere


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
