"""`everynode explain pod/NAME`: the decision that made a pod, and the one that removed it, as text and as a document.

Called by `explain`; `explain_node` shows decisions with the same functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from everynode.cli.explain_past import Past, not_found
from everynode.cli.options import OutputFormat
from everynode.cli.output import print_object
from everynode.cli.resources import PODS
from everynode.cli.tables import NONE, Columns
from everynode.cli.terminal import harmless
from everynode.core.commands import Counts, DeletePod
from everynode.core.values import PodKey
from everynode.errors import RefusedError
from everynode.replay.explaining import Ending, PodExplanation, Step, explain_pod
from everynode.replay.explaining_facts import Fact, state_of
from everynode.replay.explaining_history import History, PodSearch, Scope
from everynode.replay.explaining_opposites import Opposite
from everynode.runtime.clock import timestamp

LABEL_WIDTH = 12


async def explain_named_pod(past: Past, namespace: str, name: str, output: OutputFormat) -> None:
    """Explain a pod of this name, or `BACKEND/NAME`.

    Raises:
        RefusedError: The log has no such pod, or it has one in several backends.
        UnavailableError: The server did not answer.
    """
    backend, _, only_name = name.rpartition("/")
    search = PodSearch(past.subjects, namespace, only_name, backend)
    await past.read(search.patterns(), search.take)
    keys = search.found()
    if not keys:
        raise not_found(past, f'{PODS.plural} "{name}"', f" in namespace {namespace}")
    if len(keys) > 1:
        names = ", ".join(f"{PODS.singular}/{key.backend}/{key.name}" for key in keys)
        raise RefusedError(f'{PODS.plural} "{name}" is in several backends: name one of {names}')
    explanation = await _explained(past, search, keys[0])
    if output is OutputFormat.TABLE:
        print("\n".join(map(harmless, pod_lines(explanation))))
    else:
        print_object(pod_document(explanation), output)


async def _explained(past: Past, search: PodSearch, key: PodKey) -> PodExplanation:
    lives = search.lives(key)
    node = lives[-1].node_key
    history = History(past.subjects, Scope(lives[-1].sets, node.name, node.backend))
    if lives[-1].sets:
        await past.read_history(history)
    return explain_pod(lives, history, past.now_ms, past.naming)


# --- as text ----------------------------------------------------------------------------------------------------------


def pod_lines(explanation: PodExplanation) -> Iterator[str]:
    """Write an explanation for people."""
    pod, node = explanation.pod, explanation.node_key
    yield _line("Pod", f"{explanation.key.namespace}/{explanation.key.name}")
    yield _line("UID", explanation.uid)
    yield _line("DaemonSet", str(explanation.set_key or NONE))
    if pod is not None:
        yield _line("Revision", pod.revision or "unknown")
    yield _line("Node", f"{node.name} of backend {node.backend}")
    if explanation.gone is None and pod is not None:
        yield _line("State", state_of(pod))
    yield _line("First seen", fact_text(explanation.first))
    if explanation.gone is not None:
        yield _line("Gone", fact_text(explanation.gone))
    for uid, first, last in explanation.earlier:
        yield _line("Before it", f"uid {uid}, from #{first.sequence} to #{last.sequence}")
    for note in explanation.notes:
        yield _line("Note", note)
    steps = (explanation.made, explanation.adopted, explanation.removed)
    for step in sorted(filter(None, steps), key=lambda step: step.told.sequence):
        yield from ("", f"{_title(step, explanation)}:", *step_lines(step))


def _title(step: Step, explanation: PodExplanation) -> str:
    """Say what a decision did with the pod, or was to do: it may have failed, or be on its way."""
    done, asked = {
        "create": ("Made", "Made"),
        "adopt": ("Adopted", "To be adopted"),
        "release": ("Let go of", "To be let go of"),
        "delete": ("Removed", "To be removed"),
    }[step.command.verb]
    has_worked = step.ending.result == "done"
    if isinstance(step.command, DeletePod):
        is_refuted = step.ending.result in {"refused", "failed", "superseded"}
        has_worked = explanation.gone is not None and not is_refuted
    return done if has_worked else asked


def step_lines(step: Step) -> Iterator[str]:
    """Write why a command was decided, indented."""
    command, decision = step.command, step.decision
    yield _line("  Reason", f"{command.reason or 'none'}: {step.meaning}")
    if decision is not None and step.decided is not None:
        wanted = (
            f"generation {decision.generation}" if decision.generation else "a set that was deleted"
        )
        yield _line(
            "  Decision",
            f"{_place(step.decided)} for {wanted}, by worker {decision.worker}, who had read up to #{decision.basis}",
        )
        yield _line("  Saw", _counts(decision.counts))
    asked = f"{command.verb} pod {command.pod}, attempt {command.attempt}"
    yield _line("  Command", f"{_place(step.told)}: {asked}")
    yield _line("  Outcome", ending_text(step.ending))
    for note in step.notes:
        yield _line("  Note", note)
    if step.causes:
        yield "  Because of:"
        rows = [
            [f"#{fact.sequence}", _when(fact), fact.publisher, fact.what] for fact in step.causes
        ]
        for line in Columns(("SEQUENCE", "TIME", "WHO", "WHAT"), rows).lines():
            yield f"    {line}"
    yield from _opposite_lines(step.opposite)


def _opposite_lines(opposite: Opposite) -> Iterator[str]:
    if not opposite.conditions:
        return
    lead = opposite.lead[0].upper() + opposite.lead[1:]
    if len(opposite.conditions) == 1:
        yield f"  {lead} {opposite.conditions[0]}."
        return
    yield f"  {lead} {'all' if opposite.together else 'one'} of these were so:"
    yield from (f"    - {condition}" for condition in opposite.conditions)


def _line(label: str, text: str) -> str:
    return f"{label + ':':<{LABEL_WIDTH}}{text}"


def _when(fact: Fact) -> str:
    return timestamp(fact.time_ms) if fact.time_ms else "before"


def _place(fact: Fact) -> str:
    return f"#{fact.sequence} at {_when(fact)}"


def fact_text(fact: Fact) -> str:
    """Write a message of the log in one line."""
    return f"{_place(fact)} ({fact.publisher}): {fact.what}"


def ending_text(ending: Ending) -> str:
    """Write what became of a command in one line."""
    if ending.fact is None:
        return {
            "expired": "no outcome came before it expired",
            "pending": "no outcome has come yet",
        }[ending.result]
    said = ": ".join(text for text in (ending.result, ending.message) if text)
    return f"{_place(ending.fact)} ({ending.fact.publisher}): {said}"


def _counts(counts: Counts) -> str:
    return (
        f"{counts.eligible} eligible, {counts.occupied} occupied, {counts.missing} missing, "
        f"{counts.surplus} surplus, {counts.pending} pending, {counts.unavailable} unavailable, "
        f"{counts.updated} updated"
    )


# --- as a document ----------------------------------------------------------------------------------------------------


def pod_document(explanation: PodExplanation) -> dict[str, Any]:
    """Write an explanation for programs."""
    key, set_key, pod = explanation.key, explanation.set_key, explanation.pod
    return {
        "namespace": key.namespace,
        "name": key.name,
        "uid": explanation.uid,
        "backend": key.backend,
        "node": explanation.node_key.name,
        "daemonset": None if set_key is None else set_key._asdict(),
        "revision": "" if pod is None else pod.revision,
        "state": state_of(pod) if pod is not None and explanation.gone is None else None,
        "firstSeen": fact_document(explanation.first),
        "gone": None if explanation.gone is None else fact_document(explanation.gone),
        "notes": list(explanation.notes),
        "made": _step_or_none(explanation.made),
        "adopted": _step_or_none(explanation.adopted),
        "removed": _step_or_none(explanation.removed),
        "earlier": [
            {"uid": uid, "first": fact_document(first), "last": fact_document(last)}
            for uid, first, last in explanation.earlier
        ],
    }


def _step_or_none(step: Step | None) -> dict[str, Any] | None:
    return None if step is None else step_document(step)


def step_document(step: Step) -> dict[str, Any]:
    """Write why a command was decided for programs."""
    command, decision, ending = step.command, step.decision, step.ending
    decided = None
    if decision is not None and step.decided is not None:
        decided = {
            "sequence": step.decided.sequence,
            "time": _when(step.decided),
            "worker": decision.worker,
            "basis": decision.basis,
            "generation": decision.generation,
            "revision": decision.revision,
            "windows": decision.windows,
            "counts": msgspec.structs.asdict(decision.counts),
        }
    return {
        "reason": {"code": command.reason, "message": step.meaning},
        "decision": decided,
        "command": {
            "sequence": step.told.sequence,
            "time": _when(step.told),
            "id": command.id,
            "verb": command.verb,
            "pod": command.pod,
            "attempt": command.attempt,
        },
        "outcome": {
            "result": ending.result,
            "message": ending.message,
            "told": None if ending.fact is None else fact_document(ending.fact),
        },
        "causes": [fact_document(fact) for fact in step.causes],
        "notes": list(step.notes),
        "opposite": step.opposite._asdict(),
    }


def fact_document(fact: Fact) -> dict[str, Any]:
    """Write a message of the log for programs; its time is null if it is older than the log."""
    return {
        "sequence": fact.sequence,
        "time": timestamp(fact.time_ms) if fact.time_ms else None,
        "publisher": fact.publisher,
        "what": fact.what,
    }
