"""Kubernetes manifests to values: what people write in YAML or JSON becomes DaemonSets and nodes.

Used by the CLI and by adapters that take nodes from files. Everything here is a function of bytes: it knows no
files, no log and no clock. One bad document never hides another; nothing that is in a file raises.

    found = read_daemonsets("fluentd.yaml", content, default_namespace="default") -> Manifests
    found = read_nodes([("nodes.yaml", content), ...], backend="local")           -> Nodes
    found = read_update_strategy(annotations, spec)                               -> StrategyRead, of a set in a cluster

    Manifests.accepted: (Accepted, ...)      .daemonset .notes .warnings
    Nodes.accepted:     (AcceptedNode, ...)  .node .warnings
    both.rejected:      (Rejected, ...)      .title .kind .name .errors: (Problem, ...)  .error() -> InvalidObjectError
    both.skipped:       (Skipped, ...)       .kind .name      of a kind that was not asked for

Each entry also has ``file``, ``document`` (counted from 1, empty documents do not count), ``line`` (where it begins),
``item`` (its path if it came out of a ``kind: List``, else empty), ``place`` (all of these for people), and
``subject`` (``DaemonSet kube-system/fluentd``). ``warnings`` are ``Problem``s too, ``notes`` are sentences.

A DaemonSet that was read has no identity yet: its uid is ``UNASSIGNED_UID`` and its generation 1 until it is applied.

The modules, from bytes upwards: ``scalars`` (what an unquoted word means), ``yamltext`` and ``jsontext`` (one text to
plain values), ``documents`` (a file to its documents), ``names`` (what a name may look like), ``fields`` (reading
fields, collecting problems), ``objects`` (kinds, versions, lists), ``metadata``, ``annotations``, ``selectors``,
``selectortext``, ``podtemplate``, ``strategy``, ``daemonset`` and ``node`` (the rules), ``results``.
"""

from __future__ import annotations

from everynode.manifest.annotations import BACKEND_ANNOTATION
from everynode.manifest.daemonset import UNASSIGNED_UID, read_daemonsets
from everynode.manifest.documents import DOCUMENT_BYTES_MAX
from everynode.manifest.node import read_nodes
from everynode.manifest.results import (
    Accepted,
    AcceptedNode,
    Manifests,
    Nodes,
    Rejected,
    Skipped,
)
from everynode.manifest.strategy import StrategyRead, read_update_strategy

__all__ = [
    "BACKEND_ANNOTATION",
    "DOCUMENT_BYTES_MAX",
    "UNASSIGNED_UID",
    "Accepted",
    "AcceptedNode",
    "Manifests",
    "Nodes",
    "Rejected",
    "Skipped",
    "StrategyRead",
    "read_daemonsets",
    "read_nodes",
    "read_update_strategy",
]
