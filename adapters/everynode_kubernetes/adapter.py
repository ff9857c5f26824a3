"""The adapter of a Kubernetes cluster: seen and changed as ``everynode.ports.Adapter`` asks.

The engine finds it by its entry point. It takes the place of the DaemonSet controller that is built into
kube-controller-manager, and its parts do the work: ``reflector`` observes, ``cluster`` makes sense of it, ``executing``
carries out and ``showing`` shows people what came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

from everynode.core.commands import Command, Outcome
from everynode.errors import ConfigurationError
from everynode.ports import Observation, Report, View
from everynode_kubernetes.answers import Refusal
from everynode_kubernetes.client import Access, ApiServer
from everynode_kubernetes.cluster import Cluster
from everynode_kubernetes.executing import Executor
from everynode_kubernetes.objects import (
    parse_controller_revision,
    parse_daemonset,
    parse_node,
    parse_object,
    parse_pod,
)
from everynode_kubernetes.paths import (
    CONTROLLER_REVISIONS,
    DAEMONSETS,
    NODES,
    PODS,
    namespace_path,
)
from everynode_kubernetes.reflector import Ended, Resource, Said, reflect
from everynode_kubernetes.showing import Showing

IDENTITY_NAMESPACE = "kube-system"
"""Its uid stands for the cluster: it is made with it and cannot be deleted."""

OBSERVED_WAITING_MAX = 10_000
"""Objects that were read and are not observed yet; reading waits then."""

INSTANCE = "everynode"

OPTIONS = ("context", "in-cluster", "kubeconfig", "qps")

_Take = Callable[[Any], list[Observation]]


class _Source(NamedTuple):
    """One kind of object, and who takes in what is said of it."""

    resource: Resource[Any]
    take: _Take


class _Heard(NamedTuple):
    """Something that was said, and who is to take it in."""

    said: Said[Any]
    take: _Take


class KubernetesAdapter:
    """One cluster as a backend of a fleet.

    Args:
        backend: Name of the backend in the fleet.
        server: The cluster's API server.
        identity: Which cluster this is; see ``identity_of``.
    """

    def __init__(self, backend: str, server: ApiServer, identity: str) -> None:
        """Know nothing of the cluster yet."""
        self.backend = backend
        self.identity = identity
        self.server = server
        self._cluster = Cluster(backend)
        self._executor = Executor(server, self._cluster)
        self._showing = Showing(server, self._cluster, INSTANCE)

    @classmethod
    async def from_options(cls, backend: str, options: Mapping[str, str]) -> KubernetesAdapter:
        """Connect to a cluster: ``kubeconfig``, ``context``, ``in-cluster``, ``qps``.

        Raises:
            ConfigurationError: There is no such option, its value is wrong, or the cluster may not be read.
            UnavailableError: The API server does not answer.
        """
        server = await ApiServer.connect(access_from(options))
        try:
            return cls(backend, server, await identity_of(server))
        except BaseException:
            await server.close()
            raise

    async def close(self) -> None:
        """Close the connections; repeating this is harmless."""
        await self.server.close()

    async def apply(self, command: Command) -> Outcome:
        """Carry out a command; see ``everynode.ports.Adapter.apply``."""
        return await self._executor.apply(command)

    async def report(self, report: Report) -> None:
        """Show in the cluster how a set is; see ``everynode.ports.Reporting.report``."""
        await self._showing.report(report)

    # --- observe ------------------------------------------------------------------------------------------------------

    async def observe(self, known: View) -> AsyncGenerator[Observation]:
        """List everything, then tell each change.

        Raises:
            UnavailableError: A first list could not be had.
        """
        self._cluster.begin_anew(known)
        queue: asyncio.Queue[_Heard | BaseException] = asyncio.Queue(OBSERVED_WAITING_MAX)
        stages = self._stages()
        tasks: list[asyncio.Task[None]] = []
        lists_awaited = 0
        try:
            while True:
                if not lists_awaited and stages:
                    lists_awaited = len(stages[0])
                    tasks += [asyncio.create_task(self._hear(one, queue)) for one in stages.pop(0)]
                heard = await queue.get()
                if isinstance(heard, BaseException):
                    raise heard
                for observation in heard.take(heard.said):
                    yield observation
                if lists_awaited and isinstance(heard.said, Ended):
                    lists_awaited -= 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _stages(self) -> list[list[_Source]]:
        """Say what is listed when: what tells what a pod means before the pods, and nodes before them, too."""
        cluster = self._cluster
        return [
            [
                _Source(
                    Resource(CONTROLLER_REVISIONS, parse_controller_revision), cluster.take_revision
                ),
                _Source(Resource(DAEMONSETS, parse_daemonset), cluster.take_set),
            ],
            [_Source(Resource(NODES, parse_node), cluster.take_node)],
            [_Source(Resource(PODS, parse_pod), cluster.take_pod)],
        ]

    async def _hear(self, source: _Source, queue: asyncio.Queue[_Heard | BaseException]) -> None:
        """Pass on what is said of one kind of object, or why nothing is said any more."""
        try:
            async with aclosing(reflect(self.server, source.resource)) as reflecting:
                async for said in reflecting:
                    await queue.put(_Heard(said, source.take))
        except Exception as error:  # noqa: BLE001 - whoever observes raises it
            await queue.put(error)


def access_from(options: Mapping[str, str]) -> Access:
    """Read how to reach a cluster out of options.

    Raises:
        ConfigurationError: There is no such option, or its value is wrong.
    """
    unknown = sorted(options.keys() - OPTIONS)
    if unknown:
        raise ConfigurationError(
            f"option {unknown[0]} is not known; there are: {', '.join(OPTIONS)}"
        )
    try:
        qps = float(options.get("qps", "0"))
    except ValueError as error:
        raise ConfigurationError(f"option qps is {options['qps']!r}; write a number") from error
    in_cluster = options.get("in-cluster", "false")
    if in_cluster not in {"true", "false"}:
        raise ConfigurationError(f"option in-cluster is {in_cluster!r}; write true or false")
    kubeconfig = options.get("kubeconfig")
    return Access(
        kubeconfig=Path(kubeconfig).expanduser() if kubeconfig else None,
        context=options.get("context", ""),
        in_cluster=in_cluster == "true",
        qps=qps,
    )


async def identity_of(server: ApiServer) -> str:
    """Say which cluster this is, whatever address it is reached by.

    Raises:
        ConfigurationError: The cluster may not be read.
        UnavailableError: The API server does not answer.
    """
    try:
        body = await server.get(namespace_path(IDENTITY_NAMESPACE))
    except Refusal as refusal:
        text = f"cluster at {server.address}: its identity cannot be read: {refusal.message}; see deploy/kubernetes"
        raise ConfigurationError(text) from refusal
    return f"kubernetes/{parse_object(body).uid}"
