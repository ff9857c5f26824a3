"""How to reach a cluster: which credentials, how fast, how patiently.

Filled in from the command line, read by the client. It opens no file and no connection.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from everynode.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to reach a cluster.

    Attributes:
        kubeconfig: The file; ``None`` for those that $KUBECONFIG names, or ~/.kube/config.
        context: Which of its contexts; empty for its current one.
        in_cluster: Use the service account of the pod that this process runs in, and no kubeconfig.
        qps: How many requests per second are begun at most, in bursts of twice as many; 0: as fast as the server lets
            us (it shares itself out fairly, and says 429 when it has had enough).
        request_timeout_ms: How long an answer may take to begin, and again to be complete.
        connect_timeout_ms: How long making a connection may take, waiting for a free one included.
        watch_silence_ms: A watch that says nothing for so long is given up (bookmarks come about once a minute).
        connections_max: How many connections are open at once, watches included.

    Raises:
        ConfigurationError: The settings contradict each other, or one is out of its range.
    """

    kubeconfig: Path | None = None
    context: str = ""
    in_cluster: bool = False
    qps: float = 0.0
    request_timeout_ms: int = 30_000
    connect_timeout_ms: int = 10_000
    watch_silence_ms: int = 90_000
    connections_max: int = 100

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.in_cluster and (self.kubeconfig or self.context):
            message = "in-cluster credentials and a kubeconfig or context exclude each other"
            raise ConfigurationError(f"{message}: give only one of them")
        if self.qps < 0:
            raise ConfigurationError(f"qps: {self.qps} is negative; give 0 for no limit")
        for name in (
            "request_timeout_ms",
            "connect_timeout_ms",
            "watch_silence_ms",
            "connections_max",
        ):
            if getattr(self, name) <= 0:
                raise ConfigurationError(f"{name}: {getattr(self, name)} must be greater than 0")

    def __str__(self) -> str:
        """Name the source, for people: a file and a context, or the pod's service account."""
        if self.in_cluster:
            return "in-cluster credentials"
        context = f", context {self.context}" if self.context else ""
        return f"kubeconfig {self.kubeconfig_paths}{context}"

    @property
    def kubeconfig_paths(self) -> str:
        """The files to read, in the way that $KUBECONFIG lists them; the first that says something wins."""
        if self.kubeconfig is not None:
            return str(self.kubeconfig.expanduser())
        return os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")

    @property
    def kubeconfig_exists(self) -> bool:
        """At least one of the files is there."""
        return any(
            Path(path).expanduser().exists()
            for path in self.kubeconfig_paths.split(os.pathsep)
            if path
        )
