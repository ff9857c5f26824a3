"""What a history must not show: pure functions over what was recorded at a backend and at the log, checked afterwards.

Used by the chaos runs. Nothing here asks any part that is tested, reads a clock or opens a file: lines go in, findings
come out. All of it is algebra over sets of commands and pods, or one sweep over time. "Info" is a call whose
answer was lost: it may or may not have had an effect, so only the line that says ``effect`` counts as one.

The log may lose what it had acknowledged (an older copy of a store was put back). A reader notices and begins a new
generation. What was lost cannot be judged, so S4 and S6 are judged on what the log has now; what was decided and
carried out in between is excused in S5 and "doubled" only if the log was cut, and only within the time of that loss.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

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

ROLLOUT_REASON = "OutdatedRevision"
PERCENT = 100
FINDINGS_SHOWN_MAX = 5


class Loss(NamedTuple):
    """From when to when what was acknowledged may be gone again, an older copy having been put back."""

    from_ms: int
    to_ms: int

    def covers(self, time_ms: int) -> bool:
        """Say whether something happened in that time."""
        return self.from_ms <= time_ms <= self.to_ms


class History(NamedTuple):
    """All that was recorded of a run.

    Attributes:
        max_unavailable_percent: By set, how much of the eligible nodes a rollout may have down.
        losses: When older copies of a store were put back. They excuse nothing unless the log was cut.
    """

    backend: Sequence[BackendLine]
    log: Sequence[AnyLogLine]
    max_unavailable_percent: dict[str, int]
    losses: Sequence[Loss] = ()


class Report(NamedTuple):
    """What a history shows.

    Attributes:
        issued: Commands that were ever read on the log, each message once.
        settled: Of those that the log still has, the ones with an outcome.
        live_max: The most live pods of one set that one node had at a time.
        taken_down_max: The most nodes that one rollout had down at a time.
        generations: 1, and one more for each time that the log was cut.
        forgotten: Commands that were read and that the log has no more.
        excused: Effects that only a cut of the log explains.
        violations: What must not be, by promise.
    """

    issued: int
    settled: int
    live_max: int
    taken_down_max: int
    generations: int
    forgotten: int
    excused: int
    decisions: int
    garbage: int
    violations: dict[str, list[str]]

    @property
    def sound(self) -> bool:
        """No promise was broken."""
        return not any(self.violations.values())


def check(history: History) -> Report:
    """Judge a whole history."""
    issued = _issues(history.log).total()
    current = last_generation(history.log)
    issued_now = _issues(current).total()
    lost = lost_commands(current)
    unexpected, unexpected_excused = unexpected_effects(history)
    doubled, doubled_excused = doubled_commands(history)
    live_max, crowded = crowded_nodes(history.backend)
    taken_down_max, exceeded = exceeded_budgets(history)
    return Report(
        issued=issued,
        settled=issued_now - len(lost),
        live_max=live_max,
        taken_down_max=taken_down_max,
        generations=1 + sum(isinstance(line, Cut) for line in history.log),
        forgotten=issued - issued_now,
        excused=unexpected_excused + doubled_excused,
        decisions=sum(isinstance(line, Decided) for line in current),
        garbage=sum(isinstance(line, Garbage) for line in current),
        violations={
            "S1 two live pods": crowded,
            "S3 budget": exceeded,
            "S4 lost": lost,
            "S4 doubled": doubled,
            "S5 unexpected": unexpected,
            "S6 stale": stale_decisions(current),
        },
    )


def last_generation(log: Iterable[AnyLogLine]) -> list[AnyLogLine]:
    """Return what the log has now: what was read since it was last cut."""
    lines: list[AnyLogLine] = []
    for line in log:
        if isinstance(line, Cut):
            lines = []
        else:
            lines.append(line)
    return lines


def _issues(log: Iterable[AnyLogLine]) -> Counter[str]:
    """Count how often each command was issued; a message that was read again after a cut is the same one."""
    messages = {
        (line.command, line.sequence, line.time_ms) for line in log if isinstance(line, Commanded)
    }
    return Counter(command for command, _, _ in messages)


def _effects(backend: Iterable[BackendLine]) -> list[Call]:
    return [line for line in backend if isinstance(line, Call) and line.phase == "effect"]


# --- S4, S5 -------------------------------------------------------------------------------------------------------


def lost_commands(current: Iterable[AnyLogLine]) -> list[str]:
    """S4: name the commands without an outcome after them, and where among its writer's they stand.

    In the middle is damning; at the end the run may have been stopped too early.
    """
    open_: dict[str, Commanded] = {}
    by_writer: dict[str, list[str]] = defaultdict(list)
    for line in current:
        match line:
            case Commanded():
                open_[line.command] = line
                by_writer[line.worker].append(line.command)
            case Settled():
                open_.pop(line.command, None)
            case _:
                pass
    findings = []
    for writer, commands in by_writer.items():
        settled = [index for index, command in enumerate(commands) if command not in open_]
        for index, command in enumerate(commands):
            if command in open_:
                findings.append(
                    f"command {command} at {open_[command].sequence} has no outcome "
                    f"({_position(index, settled)} of {writer}'s)"
                )
    return sorted(set(findings))


def _position(index: int, settled: Sequence[int]) -> str:
    if not settled or index > settled[-1]:
        return "suffix"
    return "prefix" if index < settled[0] else "middle"


def unexpected_effects(history: History) -> tuple[list[str], int]:
    """S5: find effects without a command, and pods that came or went without an effect; and how many are excused."""
    attempted = {line.command for line in history.log if isinstance(line, Commanded)}
    findings, excused = [], 0
    for effect in _effects(history.backend):
        if effect.command not in attempted:
            if _is_excused(history, effect.time_ms):
                excused += 1
            else:
                findings.append(
                    f"{effect.verb} of pod {effect.pod_uid}: nobody issued {effect.command}"
                )
    effects = _effects(history.backend)
    made = {effect.pod_uid for effect in effects if effect.verb == "create"}
    ended = {effect.pod_uid for effect in effects if effect.verb == "delete"}
    ended |= {line.pod_uid for line in history.backend if isinstance(line, Outsider)}
    seen: set[str] = set()
    for line in history.backend:
        if not isinstance(line, PodLine):
            continue
        if line.uid not in seen and line.uid not in made:
            findings.append(f"pod {line.name} ({line.uid}) came without a command")
        if not line.live and line.uid not in ended:
            findings.append(f"pod {line.name} ({line.uid}) went without a command")
            ended.add(line.uid)
        seen.add(line.uid)
    return findings, excused


def doubled_commands(history: History) -> tuple[list[str], int]:
    """S4: find commands that had an effect more often than they were issued; and how many are excused.

    A create may be carried out again if what it made was ended by an outsider before the log had heard of it, or of
    the outcome: then nobody could know, and the node has to have a pod.
    """
    issues = _issues(history.log)
    outsiders = {line.pod_uid for line in history.backend if isinstance(line, Outsider)}
    heard_ms: dict[str, int] = {}
    for line in history.log:
        if isinstance(line, SaidPod | Settled):
            subject = line.uid if isinstance(line, SaidPod) else line.command
            heard_ms.setdefault(subject, line.time_ms)
    effects: dict[str, list[Call]] = defaultdict(list)
    for effect in _effects(history.backend):
        effects[effect.command].append(effect)
    findings, excused = [], 0
    for command, had in effects.items():
        unheard = [
            first
            for first, again in pairwise(had)
            if first.pod_uid in outsiders
            and min(heard_ms.get(of, again.time_ms) for of in (first.pod_uid, command))
            >= again.time_ms
        ]
        if len(had) - len(unheard) <= max(issues[command], 1):
            continue
        if all(_is_excused(history, effect.time_ms) for effect in had[1:]):
            excused += 1
        else:
            pods = ", ".join(effect.pod_uid for effect in had)
            findings.append(
                f"command {command}, issued {issues[command]} times, had {len(had)} effects: {pods}"
            )
    return findings, excused


def _is_excused(history: History, time_ms: int) -> bool:
    was_cut = any(isinstance(line, Cut) for line in history.log)
    return was_cut and any(loss.covers(time_ms) for loss in history.losses)


# --- S1, S3 -------------------------------------------------------------------------------------------------------


def crowded_nodes(backend: Iterable[BackendLine]) -> tuple[int, list[str]]:
    """S1: sweep over the lives of pods; the most live pods that a set had on a node, and where it was more than one."""
    live: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    most, findings = 0, []
    for line in backend:
        if not isinstance(line, PodLine):
            continue
        here = live[line.set_uid, line.node_uid]
        if not (line.live and line.exists):
            here.pop(line.uid, None)
            continue
        is_new = line.uid not in here
        here[line.uid] = line.name
        most = max(most, len(here))
        if is_new and len(here) > 1:
            pods = ", ".join(sorted(here.values()))
            findings.append(
                f"at {line.time_ms}: set {line.set_uid} on node {line.node_uid}: {pods}"
            )
    return most, findings


class _Place(NamedTuple):
    set_uid: str
    node_uid: str


class _Takedown(NamedTuple):
    """A rollout's delete, as it was decided.

    Attributes:
        sequence: Where the command stands.
        allowed: How many nodes its decision allowed to be down: the budget for the nodes that were eligible then.
    """

    sequence: int
    allowed: int


def exceeded_budgets(history: History) -> tuple[int, list[str]]:
    """S3: sweep over availability; the most nodes that a rollout had down by its own choice, and where it was too many.

    A node is down by our choice from when a rollout's delete ended an available pod there until a pod of the set is
    available there again, or the node takes no pods any more: then it is down by somebody else's choice. The largest of
    what their decisions allowed is the limit. It is about what could be known: a pod of which the log said that it was
    down cost nothing, and a node of which it said later that it took no pods was given up.
    """
    current = last_generation(history.log)
    takedowns, closings = _takedowns(current, history.max_unavailable_percent), _closings(current)
    home: dict[str, _Place] = {}
    available: set[str] = set()
    closed: set[str] = set()
    down: dict[_Place, int] = {}
    most, findings = 0, []
    for line in history.backend:
        match line:
            case Call(phase="effect", verb="delete", command=command, pod_uid=uid):
                takedown = takedowns.get(command)
                if takedown is not None and uid in available and home[uid].node_uid not in closed:
                    place = home[uid]
                    if not _given_up(closings[place.node_uid], takedown.sequence, line.time_ms):
                        down[place] = takedown.allowed
                    limits = [limit for at, limit in down.items() if at.set_uid == place.set_uid]
                    most = max(most, len(limits))
                    if len(limits) > max(limits, default=0):
                        findings.append(
                            f"at {line.time_ms}: set {place.set_uid} has {len(limits)} nodes down, "
                            f"{max(limits)} are allowed"
                        )
                available.discard(uid)
            case PodLine():
                place = home[line.uid] = _Place(line.set_uid, line.node_uid)
                if line.available and line.exists:
                    available.add(line.uid)
                    down.pop(place, None)
                else:
                    available.discard(line.uid)
            case NodeLine() if line.open and line.exists:
                closed.discard(line.uid)
            case NodeLine():
                closed.add(line.uid)
                for place in [place for place in down if place.node_uid == line.uid]:
                    del down[place]
            case _:
                pass
    return most, findings


def _takedowns(current: Iterable[AnyLogLine], percents: dict[str, int]) -> dict[str, _Takedown]:
    """List the rollouts' deletes of pods that the log said to be available, as far as their decision had read."""
    decided: dict[str, Decided] = {}
    said: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    takedowns: dict[str, _Takedown] = {}
    for line in current:
        match line:
            case Decided():
                decided[line.set_uid] = line
            case SaidPod():
                said[line.uid].append((line.sequence, line.available))
            case Commanded(verb="delete", reason=reason) if reason == ROLLOUT_REASON:
                decision, percent = decided.get(line.set_uid), percents.get(line.set_uid)
                if decision is None or percent is None:
                    continue
                known = [was for at, was in said[line.pod_uid] if at <= decision.basis]
                if known and known[-1]:
                    allowed = max(1, -(-decision.eligible * percent // PERCENT))
                    takedowns[line.command] = _Takedown(line.sequence, allowed)
            case _:
                pass
    return takedowns


def _closings(current: Iterable[AnyLogLine]) -> dict[str, list[SaidNode]]:
    closings: dict[str, list[SaidNode]] = defaultdict(list)
    for line in current:
        if isinstance(line, SaidNode) and not line.open:
            closings[line.uid].append(line)
    return closings


def _given_up(closings: Sequence[SaidNode], sequence: int, time_ms: int) -> bool:
    """Say whether the log had it, between a command and its effect, that the node takes no pods."""
    return any(line.sequence > sequence and line.time_ms <= time_ms for line in closings)


# --- S6 -----------------------------------------------------------------------------------------------------------


def stale_decisions(current: Iterable[AnyLogLine]) -> list[str]:
    """S6: find decisions that were taken although their worker had not read the decision before them."""
    before: dict[str, int] = {}
    findings = []
    for line in current:
        if not isinstance(line, Decided):
            continue
        previous = before.get(line.set_uid, 0)
        if line.basis < previous:
            findings.append(
                f"{line.worker}'s decision at {line.sequence} for set {line.set_uid} has basis {line.basis}, "
                f"and there was one at {previous}"
            )
        if line.basis >= line.sequence:
            findings.append(
                f"{line.worker}'s decision at {line.sequence} for set {line.set_uid} has basis {line.basis}: "
                "of another log"
            )
        before[line.set_uid] = line.sequence
    return findings
