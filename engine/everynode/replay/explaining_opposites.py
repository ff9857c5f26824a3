"""What would have to have been otherwise for a command not to be decided.

Used by ``explaining``: it hands over the fleet as it was at the decision's basis, as far as the node and the set go,
and gets short sentences that are true of this very node, pod and set.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import structs

from everynode.core.budget import allows_surge
from everynode.core.claims import (
    DUPLICATE,
    NODE_GONE,
    OUTDATED,
    OWNER_REPLACED,
    POD_FAILED,
    POD_SUCCEEDED,
    PREDECESSOR_ORPHANED,
    SELECTOR_MISMATCH,
    SET_DELETED,
    SET_ORPHANED,
    claim,
    seniority,
)
from everynode.core.commands import AdoptPod, Command, CreatePod, DeletePod, ReleasePod
from everynode.core.eligibility import (
    AUTOMATIC_TOLERATIONS,
    HOST_NETWORK_TOLERATION,
    NODE_NAME_FIELD,
    Constraints,
    Term,
    Toleration,
    describe_requirement,
    describe_taint,
    matches,
)
from everynode.core.selectors import compile_selector
from everynode.core.setstate import SetState
from everynode.core.state import FleetState
from everynode.core.values import (
    NO_EXECUTE,
    NO_SCHEDULE,
    ON_DELETE,
    DaemonSet,
    Node,
    Pod,
    Requirement,
    Selector,
    Taint,
)
from everynode.replay.explaining_reasons import NO_LONGER_FOR_THE_NODE

_ANY_TAINT = "any.everynode.dev/taint"  # stands for a key that nobody names


class Opposite(NamedTuple):
    """What would have led to the opposite.

    Attributes:
        lead: Begins the sentence: "the pod would have stayed if".
        together: All of it had to be so; if not, one thing was enough.
        conditions: End the sentence.
    """

    lead: str
    together: bool
    conditions: tuple[str, ...]


def opposite_of(fleet: FleetState, command: Command) -> Opposite:
    """Say what would have had to be otherwise for this command not to be decided.

    Args:
        fleet: What was known at the decision's basis about the command's node and set.
        command: The command.
    """
    state, node = fleet.sets.get(command.set_key), fleet.index.get(command.node_key)
    if isinstance(command, CreatePod):
        lead = "the pod would not have been made if"
        return Opposite(lead, together=False, conditions=tuple(_against(state, node, command)))
    lead = {
        "delete": "the pod would have stayed if",
        "adopt": "the pod would not have been adopted if",
        "release": "the set would have kept the pod if",
    }[command.verb]
    pod = None if state is None else pod_of(state, command)
    if command.reason in NO_LONGER_FOR_THE_NODE and state is not None and node is not None:
        conditions = list(_staying(state, node))
        for item in claim(state, node.key, node, fleet.now_ms).unwanted:
            if item.pod is pod:  # on a node that it may stay on, it would go for this
                also = structs.replace(command, reason=item.reason)
                conditions += itertools.islice(_keeping(state, also, pod), 1)
        return Opposite(lead, together=True, conditions=tuple(conditions))
    return Opposite(lead, together=False, conditions=tuple(_keeping(state, command, pod)))


def pod_of(state: SetState, command: AdoptPod | DeletePod | ReleasePod) -> Pod | None:
    """Find the set's pod that a command is about; ``None`` if it is not there, or another one under its name."""
    known = state.pods.get(command.pod_key)
    return known.pod if known is not None and known.pod.uid == command.pod_uid else None


# --- a pod that was made ----------------------------------------------------------------------------------------------


def _against(state: SetState | None, node: Node | None, command: CreatePod) -> Iterator[str]:
    if state is None or state.constraints is None or state.daemonset is None or node is None:
        return
    constraints = state.constraints
    if command.reason == OUTDATED:
        pods = (state.pods[key].pod for key in state.pods_on.get(command.node_key, ()))
        yield from _holding(state.daemonset, costs=any(pod.live and pod.ready for pod in pods))
    if constraints.backend:
        yield f"the set were for another backend than {constraints.backend}"
    if constraints.node_name:
        yield f"the template named another node than {constraints.node_name}"
    for key, value in constraints.node_selector:
        yield f"node {node.name} did not have label {key}={value}"
    yield from _affinity_against(constraints, node)
    yield _taint_against(constraints, node)
    if command.reason != OUTDATED:
        yield f"node {node.name} had a pod of the set already"


def _affinity_against(constraints: Constraints, node: Node) -> Iterator[str]:
    fields = {NODE_NAME_FIELD: node.name}
    usable = [term for term in constraints.terms or () if term.usable]
    met = [term for term in usable if _meets(term, node, fields)]
    if len(met) == 1:
        besides = ", and met no other term of the node affinity" if len(usable) > 1 else ""
        for requirement in (*met[0].labels, *met[0].fields):
            yield _unmet(requirement, node) + besides
    elif met:
        terms = ", nor ".join(_describe_term(term) for term in usable)
        yield f"node {node.name} met neither {terms}"


def _meets(term: Term, node: Node, fields: dict[str, str]) -> bool:
    return (
        term.usable
        and all(matches(item, node.labels) for item in term.labels)
        and all(matches(item, fields) for item in term.fields)
    )


def _describe_term(term: Term) -> str:
    return " and ".join(describe_requirement(item) for item in (*term.labels, *term.fields))


def _taint_against(constraints: Constraints, node: Node) -> str:
    kept_out = [
        effect
        for effect in (NO_SCHEDULE, NO_EXECUTE)
        if not constraints.tolerates(Taint(key=_ANY_TAINT, effect=effect))
    ]
    if not kept_out:
        return (
            "the set did not tolerate every taint, and the node had one that it does not tolerate"
        )
    own = [
        _describe_toleration(item)
        for item in constraints.tolerations
        if item not in {*AUTOMATIC_TOLERATIONS, HOST_NETWORK_TOLERATION}
    ]
    besides = "the conditions that every DaemonSet tolerates"
    tolerated = ", ".join([*own, besides])
    effects = " or ".join(kept_out)
    return (
        f"node {node.name} had a taint with effect {effects} that the set does not tolerate "
        f"(it tolerates {tolerated})"
    )


def _describe_toleration(toleration: Toleration) -> str:
    effect = f":{toleration.effect}" if toleration.effect else ""
    if not toleration.key:
        return f"everything{effect}"
    operator = toleration.operator or "Equal"
    if operator == "Exists":
        return f"{toleration.key}{effect}"
    sign = {"Equal": "=", "Gt": ">", "Lt": "<"}.get(operator, f" {operator} ")
    return f"{toleration.key}{sign}{toleration.value or ''}{effect}"


# --- a pod that may not stay on its node ------------------------------------------------------------------------------


def _staying(state: SetState, node: Node) -> Iterator[str]:
    """Name everything that had to be so for a pod to be left on the node: what keeps new ones out does not count."""
    constraints = state.constraints
    if constraints is None:
        return
    if constraints.backend not in {"", node.backend}:
        yield f"the set were for backend {node.backend} or for all, not for {constraints.backend}"
    if constraints.node_name not in {"", node.name}:
        yield f"the template named node {node.name} or none, not {constraints.node_name}"
    for key, wanted in constraints.node_selector:
        if node.labels.get(key) != wanted:
            yield f"node {node.name} had label {key}={wanted}{_has(node, key)}"
    yield from _affinity_for(constraints, node)
    for taint in node.taints:
        if taint.effect == NO_EXECUTE and not constraints.tolerates(taint):
            text = describe_taint(taint)
            yield f"the set tolerated taint {text}, or node {node.name} did not have it"


def _affinity_for(constraints: Constraints, node: Node) -> Iterator[str]:
    fields = {NODE_NAME_FIELD: node.name}
    if constraints.terms is None or any(_meets(term, node, fields) for term in constraints.terms):
        return
    usable = [term for term in constraints.terms if term.usable]
    if len(usable) == 1:
        unmet = [each for each in usable[0].labels if not matches(each, node.labels)]
        yield from dict.fromkeys(_met(requirement, node) for requirement in unmet)
        keys = {requirement.key for requirement in unmet}
        for requirement in usable[0].labels:
            if requirement.key in keys and requirement not in unmet:
                yield f"node {node.name} still met {describe_requirement(requirement)}"
        for requirement in usable[0].fields:
            if not matches(requirement, fields):
                yield _met(requirement, node)
    elif usable:
        yield f"node {node.name} met {', or '.join(map(_describe_term, usable))}"
    else:
        yield "the required node affinity had a term that a node can meet"


def _unmet(requirement: Requirement, node: Node) -> str:
    """Say what a node that meets a requirement would be like if it did not."""
    key, values = requirement.key, ", ".join(requirement.values)
    if key == NODE_NAME_FIELD:
        wrong = "not called" if requirement.operator == "In" else "called"
        return f"node {node.name} were {wrong} {values}"
    match requirement.operator:
        case "In" if len(requirement.values) == 1:
            return f"node {node.name} did not have label {key}={values}"
        case "In":
            return f"node {node.name} had a label {key} that is none of {values}, or none at all"
        case "NotIn":
            return f"node {node.name} had label {key}={' or '.join(requirement.values)}"
        case "Exists":
            return f"node {node.name} did not have label {key}"
        case "DoesNotExist":
            return f"node {node.name} had a label {key}"
        case _:
            sign = "above" if requirement.operator == "Gt" else "below"
            return f"node {node.name} did not have a label {key} {sign} {values}{_has(node, key)}"


def _met(requirement: Requirement, node: Node) -> str:
    """Say what a node that does not meet a requirement would be like if it did."""
    key, values = requirement.key, ", ".join(requirement.values)
    if key == NODE_NAME_FIELD:
        right = "called" if requirement.operator == "In" else "not called"
        return f"node {node.name} were {right} {values}"
    match requirement.operator:
        case "In":
            return f"node {node.name} had label {key}={' or '.join(requirement.values)}{_has(node, key)}"
        case "NotIn":
            return f"node {node.name} did not have label {key}={node.labels[key]}"
        case "Exists":
            return f"node {node.name} had a label {key}"
        case "DoesNotExist":
            return f"node {node.name} did not have label {key}"
        case _:
            sign = "above" if requirement.operator == "Gt" else "below"
            return f"node {node.name} had a label {key} {sign} {values}{_has(node, key)}"


def _has(node: Node, key: str) -> str:
    found = node.labels.get(key)
    return " (it has none)" if found is None else f" (it has {found!r})"


# --- other reasons ----------------------------------------------------------------------------------------------------


def _keeping(state: SetState | None, command: Command, pod: Pod | None) -> Iterator[str]:
    daemonset = None if state is None else state.daemonset
    match command.reason:
        case code if code == NODE_GONE:
            yield f"node {command.node} had stayed in the fleet" + _same_uid(command)
        case code if code == SET_DELETED:
            yield f"set {command.set_key} had not been deleted"
            yield "the set had been deleted with --cascade orphan"
        case code if code == SET_ORPHANED:
            yield f"set {command.set_key} had not been deleted"
        case code if code == PREDECESSOR_ORPHANED:
            yield "the earlier set of this name had not been deleted"
        case code if code == OWNER_REPLACED:
            yield f"set {command.set_key} had not been deleted and made anew"
            yield "the earlier one had been deleted with --cascade orphan, and had let go of the pod"
        case code if code in {POD_FAILED, POD_SUCCEEDED}:
            yield "its containers had not ended"
        case code if code == SELECTOR_MISMATCH and daemonset is not None:
            yield f"its labels met {_describe_selector(daemonset.selector)}" + _labels_of(pod)
        case code if code == DUPLICATE and state is not None:
            yield from _being_alone(state, command, pod)
        case code if code == OUTDATED and state is not None and state.surges:
            yield from _awaiting(state, command, pod)
        case code if code == OUTDATED and daemonset is not None:
            yield from _holding(daemonset, costs=pod is None or pod.ready)
        case _ if command.verb == "adopt" and daemonset is not None:
            yield f"its labels did not meet {_describe_selector(daemonset.selector)}"
            yield "somebody controlled it"
            yield f"node {command.node} had a pod of the set already"


def _same_uid(command: Command) -> str:
    return f" (with uid {command.node_uid})" if command.node_uid else ""


def _describe_selector(selector: Selector) -> str:
    return " and ".join(describe_requirement(item) for item in compile_selector(selector).labels)


def _labels_of(pod: Pod | None) -> str:
    if pod is None or pod.labels is None:
        return ""
    labels = ", ".join(f"{key}={value}" for key, value in sorted(pod.labels.items()))
    return f" (it has {labels or 'none'})"


def _being_alone(state: SetState, command: Command, pod: Pod | None) -> Iterator[str]:
    """Say what keeps one of several: that there are no others, or that it is the one that is kept.

    Where a new pod comes beside an old one, there is to be one of each, and those of the other kind do not matter.
    """
    pods = (state.pods[key].pod for key in state.pods_on.get(command.node_key, ()))
    own = [each for each in pods if each.owner is not None and each.owner.uid == state.uid]
    others = sorted((each for each in own if each.live and each is not pod), key=seniority)
    if state.surges and pod is not None:
        is_new = pod.revision == state.revision
        others = [each for each in others if (each.revision == state.revision) is is_new]
    names = " and ".join(each.name for each in others)
    if len(others) == 1:
        yield f"pod {names} were not on node {command.node}, too"
        yield f"it were the one that works, or the older of two alike, and not {names}"
    elif others:
        yield f"pods {names} were not on node {command.node}, too"
        yield f"it were the one that works, or the oldest of those alike, and not one of {names}"


def _awaiting(state: SetState, command: Command, pod: Pod | None) -> Iterator[str]:
    """Say what keeps an old pod where a new one comes first: it goes once that is available."""
    pods = (state.pods[key].pod for key in state.pods_on.get(command.node_key, ()))
    new = [each.name for each in pods if each.live and each.revision == state.revision]
    besides = "" if pod is None or pod.ready else "it were ready, and "
    if new:
        yield f"{besides}pod {new[0]} were not available yet"
    yield "the set's template were the one that it was made from"


def _holding(daemonset: DaemonSet, *, costs: bool) -> Iterator[str]:
    """Say what keeps a rollout from replacing a pod.

    Args:
        daemonset: Its set, whose rollout is going on.
        costs: The pod works, so that to replace it takes from the budget.
    """
    strategy = daemonset.update_strategy
    yield "the set's template were the one that the old pod was made from"
    yield f"the update strategy were {ON_DELETE}"
    yield "the rollout were paused, or partition or selector left the node out"
    if not costs:
        return
    if allows_surge(strategy):
        yield f"maxSurge ({strategy.max_surge}) were used up by other nodes"
    else:
        yield f"maxUnavailable ({strategy.max_unavailable}) were used up by other nodes"
