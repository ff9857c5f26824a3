"""`everynode explain daemonset/NAME --node N --at TIME`: how a set stood on a node, and what was decided last for it.

Called by `explain`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from everynode.cli.explain_past import Past, not_found
from everynode.cli.explain_pod import fact_document, fact_text, step_document, step_lines
from everynode.cli.resources import DAEMONSETS, NODES
from everynode.core.eligibility import Verdict
from everynode.core.values import Node, Pod, SetKey
from everynode.replay.explaining import NodeExplanation, explain_nodes
from everynode.replay.explaining_facts import state_of
from everynode.replay.explaining_history import History, Scope


async def read_nodes(past: Past, key: SetKey, node: str) -> list[NodeExplanation]:
    """Find how a set stood on the nodes of a name when the past ends: one for each backend that has one.

    Raises:
        RefusedError: The set or the node was not there.
        UnavailableError: The server did not answer.
        RecordingError: The recording cannot be read.
    """
    history = History(past.subjects, Scope((key,), node))
    await past.read_history(history)
    found = explain_nodes(history, key, past.now_ms, past.naming)
    if found is None:
        raise not_found(past, f'{DAEMONSETS.plural} "{key.name}"', f" in namespace {key.namespace}")
    if not found:
        raise not_found(past, f'{NODES.plural} "{node}"')
    return found


def node_lines(explanation: NodeExplanation) -> Iterator[str]:
    """Write what the answer for a node rests on, its pods, and the last decision, for people."""
    name = explanation.node.name
    yield f"{name}: node as of {fact_text(explanation.told_node)}"
    yield f"{name}: set as of {fact_text(explanation.told_set)}"
    if explanation.found.should_run and not explanation.pods:
        yield f"{name}: it had no pod"
    for pod, wanted, fact in explanation.pods:
        age = "the wanted" if wanted else "an old"
        revision = f"of {age} revision ({pod.revision or 'unknown'})"
        yield f"{name}: pod {pod.name} {revision}, {state_of(pod)}: {fact_text(fact)}"
    if not explanation.steps:
        yield f"{name}: no decision about it that the log has"
    for step in explanation.steps:
        yield from ("", f"Last decision about {name}:", *step_lines(step))


def verdict_document(node: Node, found: Verdict) -> dict[str, Any]:
    """Write the answer for a node for programs."""
    return {
        "backend": node.backend,
        "name": node.name,
        "eligible": found.should_run,
        "mayStay": found.may_stay,
        "reasons": [reason._asdict() for reason in found.reasons],
    }


def node_pod_document(pod: Pod, *, wanted: bool) -> dict[str, Any]:
    """Write a pod on a node for programs; ``wanted``: it is of the revision that the set is to have."""
    return {
        "name": pod.name,
        "revision": pod.revision,
        "wantedRevision": wanted,
        "ready": pod.ready,
    }


def node_document(explanation: NodeExplanation) -> dict[str, Any]:
    """Write the same as ``node_lines`` for programs; begins with what `--node` prints without a time."""
    return verdict_document(explanation.node, explanation.found) | {
        "pods": [
            node_pod_document(pod, wanted=wanted) | {"told": fact_document(fact)}
            for pod, wanted, fact in explanation.pods
        ],
        "told": {
            "node": fact_document(explanation.told_node),
            "daemonset": fact_document(explanation.told_set),
        },
        "lastDecision": [step_document(step) for step in explanation.steps],
    }
