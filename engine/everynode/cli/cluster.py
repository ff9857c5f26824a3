"""The options that say which Kubernetes cluster is meant, in kubectl's words.

Used by `everynode adapter kubernetes` and `everynode doctor kubernetes`. What they mean is the adapter's business: here
they only become options of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BACKEND_DEFAULT = "kubernetes"

_CLUSTER = "Cluster"

Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig",
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help="Where the cluster is, and who we are to it.",
        show_default="$KUBECONFIG, or ~/.kube/config",
        rich_help_panel=_CLUSTER,
    ),
]
Context = Annotated[
    str,
    typer.Option(
        "--context",
        metavar="NAME",
        help="Which context of the kubeconfig.",
        show_default="its current one",
        rich_help_panel=_CLUSTER,
    ),
]
InCluster = Annotated[
    bool,
    typer.Option(
        "--in-cluster",
        help="In a pod: use its service account, and no kubeconfig.",
        rich_help_panel=_CLUSTER,
    ),
]
ProbeNamespace = Annotated[
    str,
    typer.Option(
        "--namespace",
        "-n",
        metavar="NAME",
        help="Where a DaemonSet without pods is made for a moment, to see whether DaemonSets have another owner.",
        show_default="this pod's, or default",
        rich_help_panel=_CLUSTER,
    ),
]


def cluster_options(
    kubeconfig: Path | None, context: str, in_cluster: bool, namespace: str
) -> dict[str, str]:
    """Write them as options of the adapter; what was not given is left out."""
    given = {
        "kubeconfig": str(kubeconfig or ""),
        "context": context,
        "in-cluster": "true" if in_cluster else "",
        "namespace": namespace,
    }
    return {name: value for name, value in given.items() if value}
