"""Node manifests to values: what ``kubectl get nodes -o yaml`` prints, or what somebody wrote by hand.

Used by ``up`` and by adapters whose nodes come from files. Names and taints are held to the API server's rules; a label
that it would refuse is kept with a warning, because a node is observed and not wished for.
"""

from __future__ import annotations

from collections.abc import Iterable

from everynode.core.identity import derived_uid
from everynode.core.values import NAME_LENGTH_MAX, NO_SCHEDULE, Node, Taint
from everynode.manifest.fields import Field
from everynode.manifest.metadata import KNOWN, read_name
from everynode.manifest.names import (
    label_value_problem,
    qualified_name_problem,
    quoted,
    subdomain_problem,
)
from everynode.manifest.objects import Object, Wanted, read_objects
from everynode.manifest.podtemplate import EFFECTS, read_effect
from everynode.manifest.results import AcceptedNode, Nodes, Rejected, Skipped

UNSCHEDULABLE_TAINT = Taint(key="node.kubernetes.io/unschedulable", effect=NO_SCHEDULE)
"""What a cordoned node has (pkg/controller/nodelifecycle)."""

_WANTED = Wanted(kind="Node", api_version="v1")
_TOP_FIELDS = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
_SPEC_FIELDS = frozenset(
    {
        *("taints", "unschedulable", "podCIDR", "podCIDRs", "providerID", "configSource"),
        *(
            "externalID",
            "backend",
        ),  # Kubernetes' former name of the provider's id; what `everynode get` prints
    }
)
_TAINT_FIELDS = frozenset({"key", "value", "effect", "timeAdded"})


def read_nodes(files: Iterable[tuple[str, bytes]], backend: str) -> Nodes:
    """Read the nodes of several files; objects of other kinds are skipped, and all that is wrong is in the result.

    Args:
        files: Name and bytes of each: YAML or JSON, any number of documents, lists of objects too.
        backend: The backend that the nodes belong to. A node that has no uid is given one made of this and its name.
    """
    accepted: dict[str, AcceptedNode] = {}
    rejected: list[Rejected] = []
    skipped: list[Skipped] = []
    for file, content in files:
        for found in read_objects(file, content, _WANTED):
            if isinstance(found, Object):
                result = _read(found, backend, accepted)
                if isinstance(result, AcceptedNode):
                    accepted[result.node.name] = result
                else:
                    rejected.append(result)
            elif isinstance(found, Rejected):
                rejected.append(found)
            else:
                skipped.append(found)
    return Nodes(
        accepted=tuple(accepted.values()), rejected=tuple(rejected), skipped=tuple(skipped)
    )


def _read(
    found: Object, backend: str, accepted: dict[str, AcceptedNode]
) -> AcceptedNode | Rejected:
    node = _read_node(found.root, backend)
    findings = found.root.findings
    if earlier := accepted.get(node.name):
        findings.reject(
            "metadata.name", f"{quoted(node.name)} is there already, in {earlier.place}"
        )
    if findings.problems:
        return found.rejected()
    return AcceptedNode(**vars(found.place), node=node, warnings=tuple(findings.warnings))


def _read_node(root: Field, backend: str) -> Node:
    """Read a node; the value counts only if there are no problems."""
    root.mapping(_TOP_FIELDS)
    metadata = root.child("metadata").mapping(KNOWN)
    name = read_name(metadata)
    metadata.child("name").reject_if(subdomain_problem(name) if name else None)
    uid = metadata.child("uid").text()
    if len(uid) > NAME_LENGTH_MAX:
        metadata.child("uid").reject(f"is longer than {NAME_LENGTH_MAX} characters")

    spec = root.child("spec").mapping(_SPEC_FIELDS)
    unschedulable = spec.child("unschedulable").flag()
    taints = _read_taints(spec.child("taints"))
    if unschedulable and UNSCHEDULABLE_TAINT not in taints:
        taints.append(UNSCHEDULABLE_TAINT)
    return Node(
        backend=backend,
        name=name,
        uid=uid or derived_uid(backend, name),
        labels=_read_labels(metadata.child("labels")),
        taints=tuple(taints),
        unschedulable=unschedulable,
        ready=_read_ready(root.child("status").mapping()),
    )


def _read_labels(labels: Field) -> dict[str, str]:
    result = labels.text_map()
    for key, value in result.items():
        for problem in (qualified_name_problem(key), label_value_problem(value)):
            if problem:
                labels.warn(f"{problem}; kept as it is")
    return result


def _read_taints(taints: Field) -> list[Taint]:
    result: list[Taint] = []
    for taint in taints.mappings(_TAINT_FIELDS):
        key, value = taint.child("key"), taint.child("value")
        text = key.needed_text("write the taint's key")
        key.reject_if(qualified_name_problem(text) if text else None)
        value_text = value.text()
        value.reject_if(label_value_problem(value_text))
        taint.child("effect").needed_text(f"write one of {', '.join(EFFECTS)}")
        effect = read_effect(taint.child("effect"))
        if any((other.key, other.effect) == (text, effect) for other in result):
            taint.reject(f"{quoted(text)} with this effect is there already: keep one of them")
        result.append(Taint(key=text, value=value_text, effect=effect))
    return result


def _read_ready(status: Field) -> bool:
    """Read the condition Ready; a node that says nothing of it is taken to be ready."""
    for condition in status.child("conditions").mappings():
        if condition.child("type").text() == "Ready":
            return condition.child("status").text() == "True"
    return True
