"""The checker of histories, on made-up ones: what must be found is found, and what is right passes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.chaos.histories import History, Loss, check
from tests.chaos.lines import (
    AnyLogLine,
    BackendLine,
    Call,
    Commanded,
    Cut,
    Decided,
    Garbage,
    NodeLine,
    Outsider,
    PodLine,
    SaidNode,
    SaidPod,
    Settled,
)

SET = "set-1"
ROLLOUT = "OutdatedRevision"


def decided(sequence: int, basis: int, *, generation: int = 0, eligible: int = 10) -> Decided:
    """Make a decision."""
    return Decided(
        time_ms=sequence,
        generation=generation,
        sequence=sequence,
        set_uid=SET,
        worker="w",
        basis=basis,
        eligible=eligible,
    )


def commanded(
    sequence: int,
    command: str,
    verb: str = "create",
    *,
    reason: str = "",
    generation: int = 0,
    pod_uid: str = "",
) -> Commanded:
    """Make a command."""
    return Commanded(
        time_ms=sequence,
        generation=generation,
        sequence=sequence,
        command=command,
        verb=verb,
        set_uid=SET,
        reason=reason,
        worker="w",
        pod_uid=pod_uid,
    )


def said(sequence: int, uid: str, *, available: bool) -> SaidPod:
    """Let the log say how a pod is."""
    return SaidPod(time_ms=sequence, generation=0, sequence=sequence, uid=uid, available=available)


def settled(sequence: int, command: str, *, generation: int = 0) -> Settled:
    """Make an outcome."""
    return Settled(
        time_ms=sequence,
        generation=generation,
        sequence=sequence,
        command=command,
        result="done",
    )


def cut(generation: int) -> Cut:
    """Let the log be cut."""
    return Cut(time_ms=0, generation=generation, sequence=0, why="an older copy")


def effect(time_ms: int, command: str, pod: str, verb: str = "create") -> Call:
    """Let a command make or end a pod."""
    return Call(
        time_ms=time_ms, phase="effect", process="a", command=command, verb=verb, pod_uid=pod
    )


def pod(
    time_ms: int,
    uid: str,
    node: str = "n1",
    *,
    live: bool = True,
    available: bool = True,
    exists: bool = True,
) -> PodLine:
    """Say how a pod is."""
    return PodLine(
        time_ms=time_ms,
        uid=uid,
        name=f"name-{uid}",
        set_uid=SET,
        node_uid=node,
        live=live,
        available=available,
        exists=exists,
    )


def gone(time_ms: int, uid: str, node: str = "n1") -> PodLine:
    """Say that a pod is gone."""
    return pod(time_ms, uid, node, live=False, available=False, exists=False)


def sequence_of(line: AnyLogLine) -> int:
    """Say where a line stands."""
    return line.sequence


def outsider(uid: str) -> Outsider:
    """Let somebody else end a pod."""
    return Outsider(time_ms=0, pod_uid=uid)


def broken(backend: Sequence[BackendLine], log: Sequence[AnyLogLine], *losses: Loss) -> list[str]:
    """Name the promises that a history breaks."""
    report = check(History(backend, log, {SET: 20}, losses))
    return [promise for promise, findings in report.violations.items() if findings]


SOUND_BACKEND: list[BackendLine] = [
    Call(time_ms=5, phase="invoke", process="a", command="c1", verb="create"),
    effect(5, "c1", "p1"),
    pod(5, "p1"),
    Call(time_ms=5, phase="info", process="a", command="c1", verb="create"),
    Call(time_ms=6, phase="invoke", process="b", command="c1", verb="create"),
    Call(time_ms=6, phase="ok", process="b", command="c1", verb="create"),
    effect(9, "c2", "p1", "delete"),
    gone(9, "p1"),
    effect(12, "c3", "p2"),
    pod(12, "p2"),
]
SOUND_LOG: list[AnyLogLine] = [
    decided(1, 0),
    commanded(2, "c1"),
    settled(3, "c1"),
    decided(4, 3),
    commanded(5, "c2", "delete", reason=ROLLOUT),
    settled(6, "c2"),
    Garbage(time_ms=7, generation=0, sequence=7),
    decided(8, 7),
    commanded(9, "c3"),
    settled(10, "c3"),
]


def test_a_sound_history_passes() -> None:
    """S1, S3, S4, S5, S6: each command was issued, carried out once and answered; a repeat had no effect."""
    report = check(History(SOUND_BACKEND, SOUND_LOG, {SET: 20}))
    assert [] == [finding for findings in report.violations.values() for finding in findings]
    assert report.sound
    assert (3, 3, 1, 0) == (
        report.issued,
        report.settled,
        report.live_max,
        report.taken_down_max,
    )
    assert (1, 0, 0, 3, 1) == (
        report.generations,
        report.forgotten,
        report.excused,
        report.decisions,
        report.garbage,
    )


@pytest.mark.parametrize("missing", ["c1", "c2", "c3"])
def test_a_command_without_an_outcome_is_lost(missing: str) -> None:
    """S4: it does not matter that it was carried out."""
    log = [
        line for line in SOUND_LOG if not (isinstance(line, Settled) and line.command == missing)
    ]
    report = check(History(SOUND_BACKEND, log, {SET: 20}))
    where = {"c1": "prefix", "c2": "middle", "c3": "suffix"}[missing]
    (finding,) = report.violations["S4 lost"]
    assert missing in finding
    assert where in finding
    assert 2 == report.settled


def test_an_outcome_before_the_command_settles_nothing() -> None:
    """S4: issued again after its outcome, it needs another one."""
    assert ["S4 lost"] == broken(SOUND_BACKEND, [*SOUND_LOG, commanded(11, "c1")])


def test_a_command_that_had_two_effects_is_doubled() -> None:
    """S4: issued once, it may make one pod only, also after that one is gone."""
    backend = [
        *SOUND_BACKEND,
        outsider("p2"),
        gone(13, "p2"),
        effect(14, "c3", "p3"),
        pod(14, "p3"),
    ]
    assert ["S4 doubled"] == broken(backend, SOUND_LOG)


def test_a_command_that_was_issued_twice_may_have_two_effects() -> None:
    """S4: what is decided again is to be carried out again."""
    backend = [
        *SOUND_BACKEND,
        outsider("p2"),
        gone(13, "p2"),
        effect(14, "c3", "p3"),
        pod(14, "p3"),
    ]
    assert [] == broken(backend, [*SOUND_LOG, commanded(13, "c3"), settled(15, "c3")])


MADE_AGAIN: list[BackendLine] = [
    effect(12, "c1", "p1"),
    pod(12, "p1"),
    outsider("p1"),
    gone(13, "p1"),
    effect(20, "c1", "p2"),
    pod(20, "p2"),
]


@pytest.mark.parametrize(
    ("heard", "wanted"),
    [
        (said(30, "p1", available=True), []),
        (said(15, "p1", available=True), ["S4 doubled"]),
        (settled(15, "c1"), ["S4 doubled"]),
    ],
    ids=["too late", "of the pod", "of the outcome"],
)
def test_what_ended_unheard_of_may_be_made_again(heard: AnyLogLine, wanted: list[str]) -> None:
    """S4: an outsider ended the pod before the log had heard of it, so nobody could know; else it is doubled."""
    log = sorted([decided(1, 0), commanded(2, "c1"), heard, settled(40, "c1")], key=sequence_of)
    assert wanted == broken(MADE_AGAIN, log)


def test_what_a_command_ended_is_not_made_again() -> None:
    """S4: only an outsider is unforeseen."""
    ended = effect(13, "c2", "p1", "delete")
    backend = [ended if isinstance(line, Outsider) else line for line in MADE_AGAIN]
    log: list[AnyLogLine] = [decided(1, 0), commanded(2, "c1"), commanded(3, "c2", "delete")]
    log += [settled(40, "c1"), settled(41, "c2")]
    assert ["S4 doubled"] == broken(backend, log)


def test_an_effect_without_a_command_is_unexpected() -> None:
    """S5: nobody issued it."""
    assert ["S5 unexpected"] == broken(
        [*SOUND_BACKEND, effect(20, "c9", "p9"), pod(20, "p9", "n2")], SOUND_LOG
    )


def test_a_pod_that_nobody_made_is_unexpected() -> None:
    """S5: it came, and no command had that effect."""
    assert ["S5 unexpected"] == broken([*SOUND_BACKEND, pod(20, "p9", "n2")], SOUND_LOG)


def test_a_pod_that_nobody_ended_is_unexpected() -> None:
    """S5: it went, and neither a command nor an outsider had that effect; once somebody says so, it is fine."""
    ended = [*SOUND_BACKEND, pod(20, "p2", live=False, available=False), gone(21, "p2")]
    assert ["S5 unexpected"] == broken(ended, SOUND_LOG)
    assert [] == broken([outsider("p2"), *ended], SOUND_LOG)


@pytest.mark.parametrize(
    ("second", "wanted"),
    [
        (pod(13, "p3"), ["S1 two live pods"]),
        (pod(13, "p3", "n2"), []),
        (pod(13, "p3", live=False, available=False), []),
    ],
    ids=["same node", "other node", "not live"],
)
def test_two_live_pods_on_a_node(second: PodLine, wanted: list[str]) -> None:
    """S1: measured at the backend, at every moment, over live pods only."""
    backend = [*SOUND_BACKEND, effect(13, "c4", "p3"), outsider("p3"), second]
    log = [*SOUND_LOG, commanded(11, "c4"), settled(12, "c4")]
    assert wanted == broken(backend, log)


def test_one_after_the_other_is_not_two() -> None:
    """S1: the first is on its way out when the second comes."""
    report = check(History(SOUND_BACKEND, SOUND_LOG, {}))
    assert 1 == report.live_max


def rollout(count: int, *, back: bool = False, closed: bool = False) -> list[BackendLine]:
    """Take down so many available pods one after the other; each node is back, or closed, before the next or not."""
    lines: list[BackendLine] = []
    for number in range(count):
        uid, node = f"p{number}", f"n{number}"
        lines += [effect(number, f"c{number}", uid), pod(number, uid, node)]
    for number in range(count):
        uid, node = f"p{number}", f"n{number}"
        lines += [effect(50, f"d{number}", uid, "delete"), gone(50, uid, node)]
        if back:
            lines += [effect(60, f"e{number}", f"q{number}"), pod(60, f"q{number}", node)]
        if closed:
            lines.append(NodeLine(time_ms=60, uid=node, open=False))
    return lines


def rollout_log(count: int, eligible: int = 10, *, available: bool = True) -> list[AnyLogLine]:
    """Issue the commands of ``rollout``; before the decision to delete, the log said how the old pods are."""
    lines: list[AnyLogLine] = [decided(1, 0)]
    for kind in "cde":
        if kind == "d":
            for number in range(count):
                lines.append(said(len(lines) + 1, f"p{number}", available=available))
            lines.append(decided(len(lines) + 1, len(lines), eligible=eligible))
        verb = "delete" if kind == "d" else "create"
        for number in range(count):
            command = f"{kind}{number}"
            lines.append(
                commanded(len(lines) + 1, command, verb, reason=ROLLOUT, pod_uid=f"p{number}")
            )
        lines += [settled(len(lines) + 1 + number, f"{kind}{number}") for number in range(count)]
    return lines


def test_a_rollout_within_its_budget_passes() -> None:
    """S3: 20 % of 10 nodes are 2."""
    report = check(History(rollout(2), rollout_log(2), {SET: 20}))
    assert report.sound
    assert 2 == report.taken_down_max


def test_a_rollout_that_takes_down_too_many_is_found() -> None:
    """S3: three at a time are more than 20 % of 10; of 15 they are not."""
    assert ["S3 budget"] == broken(rollout(3), rollout_log(3))
    assert [] == broken(rollout(3), rollout_log(3, eligible=15))


def test_a_node_that_is_back_does_not_count() -> None:
    """S3: a rollout may go through any number of nodes, one after the other."""
    assert [] == broken(rollout(5, back=True), rollout_log(5))


def test_a_node_that_somebody_else_took_away_does_not_count() -> None:
    """S3: it is about our own choice."""
    assert [] == broken(rollout(5, closed=True), rollout_log(5))


def test_a_pod_that_was_down_already_costs_nothing() -> None:
    """S3: to replace a pod that is not available takes nothing down."""
    lines: list[BackendLine] = []
    for number in range(5):
        uid, node = f"p{number}", f"n{number}"
        lines += [effect(1, f"c{number}", uid), pod(1, uid, node, available=False)]
        lines += [effect(2, f"d{number}", uid, "delete"), gone(2, uid, node)]
    assert [] == broken(lines, rollout_log(5))


def test_a_pod_that_the_log_said_to_be_down_costs_nothing() -> None:
    """S3: that it had come back could not be known; what is said after the basis was not known either."""
    assert [] == broken(rollout(5), rollout_log(5, available=False))
    late = [
        said(line.sequence, line.uid, available=False) if isinstance(line, SaidPod) else line
        for line in rollout_log(5)
    ]
    late += [said(len(late) + 1 + number, f"p{number}", available=True) for number in range(5)]
    assert [] == broken(rollout(5), late)


@pytest.mark.parametrize(
    ("sequence", "time_ms", "wanted"),
    [(900, 49, []), (900, 51, ["S3 budget"]), (1, 49, ["S3 budget"])],
    ids=["between", "after the effect", "before the command"],
)
def test_a_node_that_was_given_up_meanwhile(sequence: int, time_ms: int, wanted: list[str]) -> None:
    """S3: the log said that it takes no pods before its pod was taken down, so its place in the budget was free."""
    closing = SaidNode(time_ms=time_ms, generation=0, sequence=sequence, uid="n2", open=False)
    assert wanted == broken(rollout(3), [*rollout_log(3), closing])


def test_a_node_that_takes_no_pods_is_down_already() -> None:
    """S3: a pod that may stay on a cordoned node is nobody's to count."""
    lines = rollout(3)
    lines.insert(6, NodeLine(time_ms=40, uid="n1", open=False))
    assert [] == broken(lines, rollout_log(3))
    lines.insert(7, NodeLine(time_ms=41, uid="n1", open=True))
    assert ["S3 budget"] == broken(lines, rollout_log(3))


def test_a_decision_on_a_stale_view_is_found() -> None:
    """S6: its worker had not read the decision before it."""
    assert ["S6 stale"] == broken(SOUND_BACKEND, [*SOUND_LOG, decided(11, 7)])


def test_a_decision_on_another_log_is_found() -> None:
    """S6: its basis lies beyond itself."""
    assert ["S6 stale"] == broken(SOUND_BACKEND, [*SOUND_LOG, decided(11, 400)])


class TestCuts:
    """The log lost its end: what it has now is judged, what it forgot is not."""

    LOG: tuple[AnyLogLine, ...] = (
        *SOUND_LOG,
        commanded(11, "forgotten"),
        cut(1),
        decided(1, 0, generation=1),
        commanded(2, "c1", generation=1),
        settled(3, "c1", generation=1),
    )

    def test_what_was_forgotten_is_not_lost(self) -> None:
        """S4: it is counted, and not judged; what is read again counts once."""
        report = check(History(SOUND_BACKEND, self.LOG, {SET: 20}))
        assert report.sound
        assert (2, 3, 4, 1) == (
            report.generations,
            report.forgotten,
            report.issued,
            report.settled,
        )

    def test_what_the_log_still_has_is_judged(self) -> None:
        """S4, S6: a cut excuses nothing that comes after it."""
        log = [*self.LOG, decided(4, 0, generation=1), commanded(5, "c7", generation=1)]
        assert ["S4 lost", "S6 stale"] == broken(SOUND_BACKEND, log)

    def test_two_pods_are_two_pods(self) -> None:
        """S1: nothing excuses that."""
        backend = [*SOUND_BACKEND, effect(13, "forgotten", "p3"), pod(13, "p3")]
        assert ["S1 two live pods"] == broken(backend, list(self.LOG), Loss(0, 100))

    @pytest.mark.parametrize(
        ("loss", "was_cut", "wanted"),
        [
            (Loss(10, 30), True, []),
            (Loss(10, 19), True, ["S5 unexpected"]),
            (Loss(10, 30), False, ["S5 unexpected"]),
        ],
        ids=["within", "later", "not cut"],
    )
    def test_an_effect_of_what_was_forgotten_unread(
        self, loss: Loss, was_cut: bool, wanted: list[str]
    ) -> None:
        """S5: excused within the time of the loss, and only if the log was cut."""
        backend = [*SOUND_BACKEND, effect(20, "unread", "p9"), pod(20, "p9", "n2")]
        log = list(self.LOG) if was_cut else SOUND_LOG
        assert wanted == broken(backend, log, loss)
        assert int(not wanted) == check(History(backend, log, {}, [loss])).excused

    @pytest.mark.parametrize(("loss", "wanted"), [(Loss(10, 30), []), (Loss(0, 1), ["S4 doubled"])])
    def test_a_second_effect_after_a_cut(self, loss: Loss, wanted: list[str]) -> None:
        """S4: what was handed out again because it was forgotten that it was done is excused in that time only."""
        backend = [
            *SOUND_BACKEND,
            outsider("p2"),
            gone(13, "p2"),
            effect(14, "c3", "p3"),
            pod(14, "p3"),
        ]
        assert wanted == broken(backend, list(self.LOG), loss)
