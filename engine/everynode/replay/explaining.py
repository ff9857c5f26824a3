"""Why a pod is there or gone, and why a node had the pods of a set that it had: the decision, its cause, the opposite.

Used by the commands that explain. The log is folded by the core itself, as far as one node and its sets go, up to what
a decision knew; the message with which the need for a command arose is the one before which the core saw none. No I/O:
what was read comes in as a ``History``, an explanation goes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from everynode.core.budget import budget_of
from everynode.core.claims import OUTDATED, POD_FAILED, POD_SUCCEEDED, rests_until_ms
from everynode.core.commands import AdoptPod, Command, CreatePod, Decision, DeletePod, Outcome
from everynode.core.eligibility import Verdict, verdict
from everynode.core.events import DaemonSetObserved, NodeObserved, PodObserved
from everynode.core.identity import RevisionOf, revision_of
from everynode.core.pacing import Limits
from everynode.core.setstate import SetState
from everynode.core.state import FleetState
from everynode.core.values import DaemonSet, Node, NodeKey, Pod, PodKey, SetKey
from everynode.replay.explaining_causes import Situation, fold_told, situation_of
from everynode.replay.explaining_facts import Fact, fact_of, failure_sentence
from everynode.replay.explaining_history import History, Issued, Life, pod_facts
from everynode.replay.explaining_opposites import Opposite, opposite_of, pod_of
from everynode.replay.explaining_reasons import meaning_of


class Ending(NamedTuple):
    """What became of a command.

    Attributes:
        result: What its outcome says (``done``, ``refused``, ``failed``, ``superseded``); ``expired``: nothing
            was heard of it in time; ``pending``: nothing was heard of it yet.
        message: What the backend said.
        fact: The outcome on the log.
    """

    result: str
    message: str = ""
    fact: Fact | None = None


class Step(NamedTuple):
    """A command about a pod, and all there is to say about why.

    Attributes:
        told: The command on the log.
        decision: The decision that it was part of; ``None`` if the log does not have it.
        decided: The decision on the log; likewise.
        meaning: What the command's reason means.
        causes: The messages that brought it about, in the log's order; empty if the log does not have them any more.
        notes: What else belongs to it.
    """

    command: Command
    told: Fact
    decision: Decision | None
    decided: Fact | None
    meaning: str
    causes: tuple[Fact, ...]
    notes: tuple[str, ...]
    ending: Ending
    opposite: Opposite


class PodExplanation(NamedTuple):
    """Why a pod is there, or gone.

    Attributes:
        set_key: The set that controls it, or did last; ``None`` if none ever did.
        pod: As it was last told of; ``None`` if only its tombstone is left.
        first: What was told of it first.
        gone: Its tombstone.
        made: The decision that made it; ``None`` if none did that the log has.
        adopted: The decision that gave it to the set.
        removed: The decision that deleted it, or let go of it.
        notes: What else there is to say.
        earlier: Pods of this name that were there before, from first to last message.
    """

    key: PodKey
    uid: str
    node_key: NodeKey
    set_key: SetKey | None
    pod: Pod | None
    first: Fact
    gone: Fact | None
    made: Step | None
    adopted: Step | None
    removed: Step | None
    notes: tuple[str, ...]
    earlier: tuple[tuple[str, Fact, Fact], ...]


class NodeExplanation(NamedTuple):
    """How a set stood on a node at a time.

    Attributes:
        node: The node as it was.
        told_node, told_set: The last message about each.
        pods: The set's pods there, each with whether it is of the wanted revision, and the last message about it.
        steps: The commands of the last decision that had some for this node.
    """

    node: Node
    found: Verdict
    told_node: Fact
    told_set: Fact
    pods: tuple[tuple[Pod, bool, Fact], ...]
    steps: tuple[Step, ...]


# --- a pod ------------------------------------------------------------------------------------------------------------


def explain_pod(
    lives: list[Life], history: History, now_ms: int, naming: RevisionOf = revision_of
) -> PodExplanation:
    """Say why the last pod of a name is there, or gone.

    Args:
        lives: The pods of that name, the last one at the end.
        history: What happened on its node, to the sets that it has had.
        now_ms: Log time; to tell a command that is pending from one that has expired.
        naming: Says what a set's template is called.
    """
    *before, life = lives
    facts, first = pod_facts(life.last), life.first.record.sequence
    about = [each for each in history.issued if each.command.pod_key == facts.key]
    born = max((each.last.record.sequence for each in before), default=0)
    creates = [
        each
        for each in about
        if isinstance(each.command, CreatePod) and born < each.told.record.sequence < first
    ]
    others = [
        each
        for each in about
        if not isinstance(each.command, CreatePod) and each.command.pod_uid == life.uid
    ]
    adopts = [each for each in others if isinstance(each.command, AdoptPod)]
    removals = [each for each in others if not isinstance(each.command, AdoptPod)]

    def last(found: list[Issued]) -> Step | None:
        return explain_command(history, found[-1], now_ms, naming) if found else None

    message = life.last.record.message
    explanation = PodExplanation(
        key=facts.key,
        uid=life.uid,
        node_key=facts.node_key,
        set_key=life.sets[-1] if life.sets else None,
        pod=message.pod if isinstance(message, PodObserved) else None,
        first=fact_of(life.first),
        gone=None if life.gone is None else fact_of(life.gone, life.last.record.message),
        made=last(creates),
        adopted=last(adopts),
        removed=last(removals),
        notes=(),
        earlier=tuple(
            (each.uid, fact_of(each.first), fact_of(each.gone or each.last)) for each in before
        ),
    )
    return explanation._replace(notes=tuple(_pod_notes(explanation, life, history)))


def _pod_notes(explanation: PodExplanation, life: Life, history: History) -> Iterator[str]:
    publisher = explanation.first.publisher
    if explanation.made is None:
        if life.first.is_kept:
            yield (
                "the pod is older than what the log still has: who made it is not known any more; "
                f"it was the {publisher} that told of it"
            )
        else:
            yield f"no decision made it that the log has: the {publisher} told that it was there"
    if explanation.set_key is None:
        yield "no set controls it"
    elif not any(
        isinstance(each.record.message, DaemonSetObserved)
        and each.record.message.daemonset.key == explanation.set_key
        for each in history.facts
    ):
        yield f"the log has no set {explanation.set_key}: whoever controls it, it is not this fleet"
    elif explanation.pod is not None and explanation.pod.owner is None:
        yield f"no set controls it any more; {explanation.set_key} did"
    if explanation.gone is not None and explanation.removed is None:
        yield f"no decision removed it that the log has: the {explanation.gone.publisher} told that it went"


# --- a set on a node --------------------------------------------------------------------------------------------------


def explain_nodes(
    history: History, key: SetKey, now_ms: int, naming: RevisionOf = revision_of
) -> list[NodeExplanation] | None:
    """Say how a set stands on the nodes of the history, at its end.

    Args:
        history: What happened to the set on nodes of one name; one for each backend that has such a node.
        key: The set.
        now_ms: As for ``explain_pod``.
        naming: Likewise.

    Returns:
        One for each node that is there; ``None`` if the set is not.
    """
    fleet = FleetState(Limits(), naming)
    for told in history.facts:
        fold_told(fleet, told)
    state = fleet.sets.get(key)
    if state is None or state.daemonset is None or state.constraints is None:
        return None
    found = []
    for node_key in history.nodes():
        node = fleet.index.get(node_key)
        if node is None:
            continue
        found.append(
            NodeExplanation(
                node=node,
                found=verdict(state.constraints, node),
                told_node=_last_about(history, node),
                told_set=_last_about(history, state.daemonset),
                pods=tuple(_pods_on(history, state, node_key)),
                steps=tuple(_last_steps(history, node_key, now_ms, naming)),
            )
        )
    return found


def _last_about(history: History, thing: Node | DaemonSet | Pod) -> Fact:
    """Return the last message that told of something as it is."""
    for told in reversed(history.facts):
        match told.record.message:
            case (
                NodeObserved(node=same) | DaemonSetObserved(daemonset=same) | PodObserved(pod=same)
            ) if same == thing:
                return fact_of(told, history.before(told))
            case _:
                continue
    raise LookupError(f"nothing was told of {thing.key}")


def _pods_on(history: History, state: SetState, node: NodeKey) -> Iterator[tuple[Pod, bool, Fact]]:
    for key in sorted(state.pods_on.get(node, ())):
        pod = state.pods[key].pod
        if pod.owner is not None and pod.owner.uid == state.uid:
            yield pod, pod.revision == state.revision, _last_about(history, pod)


def _last_steps(history: History, node: NodeKey, now_ms: int, naming: RevisionOf) -> Iterator[Step]:
    here = [each for each in history.issued if each.command.node_key == node]
    for each in here:
        last = here[-1]
        if each is last or (last.decided is not None and each.decided == last.decided):
            yield explain_command(history, each, now_ms, naming)


# --- a command --------------------------------------------------------------------------------------------------------


def explain_command(
    history: History, issued: Issued, now_ms: int, naming: RevisionOf = revision_of
) -> Step:
    """Say why a command was decided, and what became of it.

    Args:
        history: What happened on its node.
        issued: The command; one of the history's.
        now_ms: As for ``explain_pod``.
        naming: Likewise.
    """
    command, decision = issued.command, issued.decision
    situation = situation_of(history, issued, naming)
    failed = _failed_before(history, issued, now_ms)
    causes = [*situation.causes, *([] if failed is None else [failed])]
    return Step(
        command=command,
        told=fact_of(issued.told, worker="" if decision is None else decision.worker),
        decision=decision,
        decided=None if issued.decided is None else fact_of(issued.decided),
        meaning=meaning_of(command.verb, command.reason),
        causes=tuple(sorted(causes)),
        notes=tuple(_notes(situation, command, decision)),
        ending=_ending(history, command, now_ms),
        opposite=opposite_of(situation.fleet, command),
    )


def _ending(history: History, command: Command, now_ms: int) -> Ending:
    told = history.outcomes.get(command.id)
    if told is None or not isinstance(told.record.message, Outcome):
        return Ending("expired" if command.expires_ms < now_ms else "pending")
    outcome = told.record.message
    return Ending(outcome.result, outcome.message, fact_of(told))


def _failed_before(history: History, issued: Issued, now_ms: int) -> Fact | None:
    """Return the try before a command that is a new one."""
    command = issued.command
    if not command.attempt:
        return None
    for each in reversed(history.issued):
        earlier = each.command
        if each.told.record.sequence >= issued.told.record.sequence:
            continue
        if (earlier.set_key, earlier.node_key) != (command.set_key, command.node_key):
            continue
        if earlier.attempt != command.attempt - 1:
            continue
        ending = _ending(history, earlier, now_ms)
        if ending.result == "done":
            said = "said to be done, and nothing was seen of it"
        else:
            said = ": ".join(text for text in (ending.result, ending.message) if text)
        fact = ending.fact or fact_of(
            each.told, worker=each.decision.worker if each.decision else ""
        )
        return fact._replace(what=failure_sentence(earlier, said))
    return None


def _notes(situation: Situation, command: Command, decision: Decision | None) -> Iterator[str]:
    state = situation.fleet.sets.get(command.set_key)
    if not situation.causes:
        yield "the log does not have (any more) what brought it about"
    elif any(not fact.time_ms for fact in situation.causes):
        yield "a message of the cause is older than the log: what was before it is not known"
    if situation.by_time:
        yield "it was time alone that brought it about after that"
    if isinstance(command, CreatePod) and command.failures:
        yield f"pods that ended on this node before it, one after the other: {command.failures}"
    if decision is None:
        yield "the log does not have the decision (any more)"
    elif command.reason == OUTDATED and state is not None:
        yield from _budget_notes(state, command, decision)
    elif isinstance(command, CreatePod):
        window = decision.windows.get(command.backend)
        if window is not None:
            pods = "1 pod" if window == 1 else f"{window} pods"
            yield f"slow start: at most {pods} could be on their way on backend {command.backend}"
    if (
        isinstance(command, DeletePod)
        and command.reason in {POD_FAILED, POD_SUCCEEDED}
        and state is not None
    ):
        yield from _rest_notes(state, command)


def _budget_notes(state: SetState, command: Command, decision: Decision) -> Iterator[str]:
    counts, strategy = decision.counts, state.strategy
    budget = budget_of(strategy, counts.eligible)
    if budget.max_surge:
        nodes = "1 node" if budget.max_surge == 1 else f"{budget.max_surge} nodes"
        yield f"budget: maxSurge {strategy.max_surge} lets {nodes} have an old and a new pod at a time"
    else:
        yield (
            f"budget: maxUnavailable {strategy.max_unavailable} allows {budget.max_unavailable} of "
            f"{counts.eligible} nodes; {counts.unavailable} had no available pod, or were about to have none"
        )
    if isinstance(command, DeletePod):
        pod = pod_of(state, command)
        if pod is not None:
            yield f"the pod was of revision {pod.revision or 'unknown'}; the set's was {decision.revision}"
            if not pod.ready and not budget.max_surge:
                yield "the pod was not ready: to replace it took nothing from the budget"


def _rest_notes(state: SetState, command: DeletePod) -> Iterator[str]:
    pod = pod_of(state, command)
    if pod is not None and pod.finished and rests_until_ms(state, pod):
        rested_s = (rests_until_ms(state, pod) - pod.created_ms) // 1_000
        yield f"it had stayed until {rested_s} s after it was made: {pod.failures} before it had ended, too"
