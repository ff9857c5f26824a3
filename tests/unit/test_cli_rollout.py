"""What `rollout` says about a rollout and its history, and how strategies and revisions look."""

from collections import Counter

import msgspec
import pytest
import typer

from everynode.cli.describe_rollout import (
    condition_lines,
    reason_fields,
    revision_field,
    strategy_fields,
)
from everynode.cli.explain import find_pods, pod_sentences
from everynode.cli.explain import judge as judge_nodes
from everynode.cli.objects import revision_object, status_object, strategy_object
from everynode.cli.quantities import parse_duration_ms
from everynode.cli.rollout_history import history_columns
from everynode.cli.rollout_progress import Stage, judge
from everynode.core.identity import revision_hash
from everynode.core.values import (
    Condition,
    DaemonSet,
    Revision,
    Selector,
    SetKey,
    Status,
    UpdateStrategy,
)
from everynode.errors import RefusedError
from everynode.manifest import read_update_strategy
from everynode.runtime.byhand import PAUSED_AT
from everynode.runtime.revisions import PREVIOUS, find_revision, history_of
from everynode.runtime.rollouts import is_paused
from everynode.runtime.view import FleetView
from everynode.testing import builders
from everynode.wire import Subjects

NOW = 1_700_000_000_000
ROLLING = UpdateStrategy(type="RollingUpdate")


def rolling(**strategy: object) -> DaemonSet:
    """A set that replaces its pods by itself."""
    return builders.daemonset(
        generation=3, update_strategy=msgspec.structs.replace(ROLLING, **strategy)
    )


def status(
    updated: int,
    available: int,
    reason: str = "",
    *,
    holds: str = "True",
    waiting: dict[str, int] | None = None,
    **changes: object,
) -> Status:
    """What a worker reports of ten nodes."""
    found = Status(
        namespace="default",
        daemonset="agent",
        daemonset_uid="uid-agent",
        observed_generation=3,
        desired_number_scheduled=10,
        updated_number_scheduled=updated,
        number_available=available,
        waiting_nodes=waiting or {},
        conditions=(
            (Condition(type="Progressing", status=holds, reason=reason, message="so it is"),)  # type: ignore[arg-type] # tests say what they mean
            if reason
            else ()
        ),
    )
    return msgspec.structs.replace(found, **changes)


WAITING = 'Waiting for daemon set "agent" rollout to finish: '


@pytest.mark.parametrize(
    ("found", "stage", "sentence"),
    [
        (
            status(3, 10, "RolloutProgressing"),
            Stage.WAITING,
            f"{WAITING}3 out of 10 new pods have been updated...",
        ),
        (
            status(10, 8, "RolloutProgressing"),
            Stage.WAITING,
            f"{WAITING}8 of 10 updated pods are available...",
        ),
        (
            status(10, 10, "RolloutComplete"),
            Stage.COMPLETE,
            'daemon set "agent" successfully rolled out',
        ),
        (
            status(9, 9, "RolloutComplete", waiting={"Skipped": 1}),
            Stage.COMPLETE,
            'daemon set "agent" successfully rolled out (1 nodes that cannot be reached were skipped)',
        ),
        (
            status(3, 10, "RolloutHeld"),
            Stage.HELD,
            "partitioned roll out complete: 3 new pods have been updated...",
        ),
        (
            status(3, 9, "RolloutPaused", holds="Unknown"),
            Stage.PAUSED,
            f"{WAITING}it is paused, 3 out of 10 new pods have been updated, and it goes on after `rollout resume`...",
        ),
        (
            status(3, 9, "ProgressDeadlineExceeded", holds="False"),
            Stage.STALLED,
            'daemon set "agent" exceeded its progress deadline: so it is',
        ),
        # Without the condition the counters decide, as they do for kubectl.
        (status(10, 10), Stage.COMPLETE, 'daemon set "agent" successfully rolled out'),
        (status(10, 9), Stage.WAITING, f"{WAITING}9 of 10 updated pods are available..."),
    ],
)
def test_how_far_it_is(found: Status, stage: Stage, sentence: str) -> None:
    """The sentences are kubectl's; the Progressing condition says whether there is anything to wait for."""
    progress = judge(rolling(), found)
    assert (progress.stage, progress.sentence) == (stage, sentence)
    assert progress.status is found
    assert stage.over == (stage not in {Stage.WAITING, Stage.PAUSED})


@pytest.mark.parametrize(
    "found",
    [
        None,
        status(10, 10, "RolloutComplete", observed_generation=2),
        status(10, 10, "RolloutComplete", daemonset_uid="another"),
    ],
)
def test_counters_of_something_else_do_not_count(found: Status | None) -> None:
    """Numbers of an earlier generation, or of an earlier set of this name, say nothing."""
    progress = judge(rolling(), found)
    assert (progress.stage, progress.status) == (Stage.WAITING, None)
    assert progress.line == "Waiting for daemon set spec update to be observed..."


def test_reasons_of_waiting_are_shown() -> None:
    """People see what it waits for, most nodes first; what is over waits for nothing."""
    waiting = {"NotReady": 1, "Outdated": 6, "Creating": 1}
    progress = judge(rolling(), status(3, 10, "RolloutProgressing", waiting=waiting))
    assert progress.line.endswith("have been updated... (6 Outdated, 1 Creating, 1 NotReady)")
    held = judge(rolling(), status(3, 10, "RolloutHeld", waiting=waiting))
    assert held.line == held.sentence


def test_what_holds_it_is_named() -> None:
    """A rollout that is held says what holds it: the partition, the selector, or both."""
    strategy = {"partition": "30%", "selector": Selector(match_labels={"zone": "a"})}
    sentence = judge(rolling(**strategy), status(7, 10, "RolloutHeld")).sentence
    assert sentence == (
        "partitioned roll out complete: 7 new pods have been updated... (partition 30% keeps nodes on "
        "their old revision, selector zone=a leaves out all other nodes)"
    )


def test_a_set_without_rollouts_has_no_rollout_status() -> None:
    """OnDelete is refused, as kubectl refuses it."""
    with pytest.raises(RefusedError, match="only available for RollingUpdate strategy type"):
        judge(builders.daemonset(), status(1, 1))


def test_progress_as_an_object() -> None:
    """The object of `-o json` has the stage and the status that counts."""
    document = judge(rolling(), status(10, 10, "RolloutComplete")).as_document(rolling())
    assert (document["stage"], document["generation"]) == ("Complete", 3)
    assert document["status"]["numberAvailable"] == 10
    assert judge(rolling(), None).as_document(rolling())["status"] is None


# --- revisions --------------------------------------------------------------------------------------------------------


def revision(number: int, version: int, **changes: object) -> Revision:
    """A revision of the set, by the version of its template."""
    template = rolling_version(version).template
    found = Revision(
        namespace="default",
        daemonset="agent",
        daemonset_uid="uid-agent",
        hash=revision_hash(template),
        number=number,
        template=template,
    )
    return msgspec.structs.replace(found, **changes)


def rolling_version(version: int) -> DaemonSet:
    """The set with this version of its template."""
    return builders.daemonset({"version": version}, update_strategy=ROLLING)


def test_history_is_in_order_and_of_one_set() -> None:
    """Other sets' revisions are no part of it, and the oldest is first."""
    others = revision(9, 9, daemonset="other")
    found = history_of(SetKey("default", "agent"), [revision(3, 1), others, revision(2, 2)])
    assert [each.number for each in found] == [2, 3]


def test_the_previous_revision() -> None:
    """The previous one is the latest that the set does not have; that it has none, or a wrong number, is said."""
    history = [revision(1, 1), revision(2, 2), revision(3, 3)]
    find = find_revision
    assert find(history, rolling_version(3), PREVIOUS).number == 2
    assert find(history, rolling_version(4), PREVIOUS).number == 3  # not on record yet
    assert find(history, rolling_version(3), 1).number == 1
    assert find(history, rolling_version(3), 3).number == 3
    with pytest.raises(RefusedError, match="no rollout history found"):
        find([], rolling_version(1), PREVIOUS)
    with pytest.raises(RefusedError, match="no last revision to roll back to"):
        find(history[:1], rolling_version(1), PREVIOUS)
    with pytest.raises(RefusedError, match=r"specified revision 7 in history.*1, 2, 3"):
        find(history, rolling_version(1), 7)


def test_history_as_a_table() -> None:
    """Each revision has its number, its mark if it is the current one, its pods and why it was made."""
    first, second = revision(1, 1, change_cause="first"), revision(2, 2)
    lines = history_columns([first, second], second.hash, Counter({second.hash: 7})).lines()
    assert lines[0].split() == ["REVISION", "CURRENT", "AGE", "PODS", "HASH", "CHANGE-CAUSE"]
    assert lines[1].split() == ["1", "<unknown>", "0", first.hash, "first"]
    assert lines[2].split() == ["2", "*", "<unknown>", "7", second.hash, "<none>"]


def test_a_revision_as_an_object() -> None:
    """A revision is an apps/v1 ControllerRevision with the template in it."""
    document = revision_object(revision(2, 5, change_cause="why", created_ms=NOW))
    assert (document["kind"], document["revision"]) == ("ControllerRevision", 2)
    assert document["data"] == {"spec": {"template": {"spec": {"version": 5}}}}
    assert document["metadata"]["annotations"] == {"kubernetes.io/change-cause": "why"}
    assert document["metadata"]["creationTimestamp"] == "2023-11-14T22:13:20Z"


# --- strategies, conditions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy",
    [
        UpdateStrategy(),
        ROLLING,
        UpdateStrategy(
            type="RollingUpdate",
            max_unavailable=0,
            max_surge="20%",
            paused=True,
            partition="30%",
            selector=Selector(match_labels={"zone": "a"}),
            progress_deadline_seconds=0,
            unreachable_nodes="Skip",
        ),
        UpdateStrategy(type="RollingUpdate", partition=3, progress_deadline_seconds=60),
    ],
)
def test_a_strategy_that_is_written_is_read_the_same(strategy: UpdateStrategy) -> None:
    """What is printed of an update strategy is read as the same one again."""
    written = strategy_object(strategy)
    read = read_update_strategy({}, {"updateStrategy": written})
    assert (read.strategy, read.problems) == (strategy, ())


def test_a_plain_strategy_is_plain() -> None:
    """What apps/v1 does not know is not printed unless somebody chose it."""
    assert strategy_object(ROLLING) == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }


def test_a_status_as_an_object() -> None:
    """A status has its conditions, with times, and nodes by reason; what is not known is left out."""
    found = status(3, 9, "RolloutProgressing", waiting={"Outdated": 7}, revision="abc")
    condition = msgspec.structs.replace(found.conditions[0], last_transition_ms=NOW)
    document = status_object(msgspec.structs.replace(found, conditions=(condition,)))
    assert document["conditions"] == [
        {
            "type": "Progressing",
            "status": "True",
            "reason": "RolloutProgressing",
            "message": "so it is",
            "lastTransitionTime": "2023-11-14T22:13:20Z",
        }
    ]
    assert document["waitingNodes"] == {"Outdated": 7}
    assert document["updateRevision"] == "abc"
    assert "excludedNodes" not in document


def test_a_strategy_is_described_completely() -> None:
    """A description says everything that decides how an update goes."""
    strategy = {
        "paused": True,
        "partition": 2,
        "selector": Selector(match_labels={"zone": "a"}),
        "unreachable_nodes": "Skip",
    }
    by_hand = msgspec.structs.replace(rolling(**strategy), annotations={PAUSED_AT: "noon"})
    assert strategy_fields(by_hand) == [
        ("Update Strategy", "RollingUpdate (max unavailable 1, max surge 0)"),
        ("  Paused", "yes, by hand since noon"),
        ("  Partition", "2 nodes stay on their old revision"),
        ("  Node Selector", "zone=a"),
        ("  Progress Deadline", "10m"),
        ("  Unreachable Nodes", "skipped"),
    ]
    plain = dict(strategy_fields(rolling(progress_deadline_seconds=0)))
    assert (plain["  Paused"], plain["  Progress Deadline"]) == ("no", "<none>")
    assert plain["  Node Selector"] == "every node"
    share = dict(strategy_fields(rolling(partition="25%")))
    assert share["  Partition"] == "25% of the nodes stay on their old revision"
    assert is_paused(by_hand)
    assert not is_paused(rolling())


def test_a_status_is_described_with_its_reasons() -> None:
    """Nodes by reason are there, most first, and so are conditions and the revision's number."""
    found = status(3, 9, "RolloutPaused", waiting={"NotReady": 1, "Outdated": 7}, revision="abc")
    assert dict(reason_fields(found)) == {
        "Excluded Nodes": "<none>",
        "Waiting Nodes": "7 Outdated, 1 NotReady",
    }
    assert revision_field(found, [revision(4, 1, hash="abc")]) == ("Revision", "4 (abc)")
    assert revision_field(found, []) == ("Revision", "abc")
    title, _header, line = condition_lines(found, NOW)
    assert title == "Conditions:"
    assert line.split() == ["Progressing", "True", "RolloutPaused", "<unknown>", "so", "it", "is"]
    assert condition_lines(status(1, 1), NOW) == []


def test_explain_says_what_is_wrong_with_a_nodes_pod() -> None:
    """A node's old pod is named, with what its rollout waits for; an eligible node without a pod is, too."""
    daemonset = rolling_version(2)
    old, empty = builders.node("old"), builders.node("empty")
    view = FleetView(Subjects("test", 1))
    pod = builders.pod(rolling_version(1), old)
    orphan = msgspec.structs.replace(builders.pod(daemonset, empty, "orphan"), owner=None)
    view.pods = {pod.key: pod, orphan.key: orphan}
    verdicts = judge_nodes(daemonset, [old, empty])
    said = list(pod_sentences(verdicts, find_pods(view, daemonset), status(0, 1, "RolloutPaused")))
    assert said == [
        f"old: pod pod-1 of an old revision ({pod.revision}) is ready",
        "empty: it has no pod yet",
        "rollout: RolloutPaused: so it is",
    ]


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("0", 0),
        ("0s", 0),
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("250ms", 250),
        ("2d", 172_800_000),
    ],
)
def test_durations(text: str, duration_ms: int) -> None:
    """Durations are those of kubectl's options, and days."""
    assert parse_duration_ms(text, "--timeout") == duration_ms


@pytest.mark.parametrize("text", ["", "5", "m", "1.5h", "-3s", "5 m", "1w", "9" * 5000 + "s"])
def test_what_is_no_duration(text: str) -> None:
    """What is no duration is wrong usage, and the error names the option."""
    with pytest.raises(typer.BadParameter) as raised:
        parse_duration_ms(text, "--timeout")
    assert raised.value.param_hint == "--timeout"
