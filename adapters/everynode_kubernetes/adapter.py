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

import structlog

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
from everynode_kubernetes.permissions import IDENTITY_NAMESPACE
from everynode_kubernetes.probe import probe
from everynode_kubernetes.reflector import Ended, ReflectLimits, Resource, Said, reflect
from everynode_kubernetes.showing import Showing

OBSERVED_WAITING_MAX = 10_000
"""Objects that were read and are not observed yet; reading waits then."""

MEND_INTERVAL_S = 5.0
"""How often it is looked whether somebody has overwritten a status."""

INSTANCE = "everynode"

TWO_OWNERS = (
    "somebody looks after its DaemonSets already, its built-in controller most likely, and two owners would undo "
    "each other's work: switch the other one off (kube-controller-manager --controllers=*,-daemonset-controller), "
    "or start with --force"
)

OPTIONS = ("connections", "context", "force", "in-cluster", "kubeconfig", "namespace", "qps")

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""In a pod: the namespace that it runs in."""

NAMESPACE_DEFAULT = "default"

log = structlog.get_logger(__name__)

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
        reflect_limits: How patiently it is followed; ``None`` for the defaults.
    """

    def __init__(
        self,
        backend: str,
        server: ApiServer,
        identity: str,
        reflect_limits: ReflectLimits | None = None,
    ) -> None:
        """Know nothing of the cluster yet."""
        self.backend = backend
        self.identity = identity
        self.server = server
        self._reflect_limits = reflect_limits
        self._cluster = Cluster(backend)
        self._executor = Executor(server, self._cluster)
        self._showing = Showing(server, self._cluster, INSTANCE)

    @classmethod
    async def from_options(cls, backend: str, options: Mapping[str, str]) -> KubernetesAdapter:
        """Connect to a cluster whose DaemonSets nobody else looks after.

        Args:
            backend: Name of the backend in the fleet.
            options: ``kubeconfig``, ``context``, ``in-cluster``, ``qps``, ``connections`` (how many at once);
                ``namespace``, where it is tried out whether somebody else looks after DaemonSets; ``force``: it is not.

        Raises:
            ConfigurationError: There is no such option, its value is wrong, the cluster may not be read, or its
                DaemonSets have an owner.
            UnavailableError: The API server does not answer.
        """
        access, forced = access_from(options), _flag(options, "force")
        server = await ApiServer.connect(access)
        try:
            identity = await identity_of(server)
            if not forced:
                await _be_the_only_owner(server, namespace_from(options))
            return cls(backend, server, identity)
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
        self._showing.begin_anew()
        queue: asyncio.Queue[_Heard | BaseException] = asyncio.Queue(OBSERVED_WAITING_MAX)
        stages = self._stages()
        has_trouble = asyncio.Event()
        tasks = [asyncio.create_task(self._warn(has_trouble)), asyncio.create_task(self._mend())]
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
                if self._cluster.troubled:
                    has_trouble.set()
                if lists_awaited and isinstance(heard.said, Ended):
                    lists_awaited -= 1
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _warn(self, has_trouble: asyncio.Event) -> None:
        """Tell people of sets that cannot be used as they are, while observing goes on."""
        while True:
            await has_trouble.wait()
            has_trouble.clear()
            while self._cluster.troubled:
                known = self._cluster.troubled.popleft()
                name, namespace = known.api.metadata.name, known.api.metadata.namespace
                log.warning(
                    "DaemonSet not usable", name=name, namespace=namespace, reason=known.problem
                )
                await self._showing.warn(known)

    async def _mend(self) -> None:
        """Look now and then whether the cluster shows what it was told, while observing goes on."""
        while True:
            await asyncio.sleep(MEND_INTERVAL_S)
            await self._showing.mend()

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
            reflection = reflect(self.server, source.resource, self._reflect_limits)
            async with aclosing(reflection) as reflecting:
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
    kubeconfig = options.get("kubeconfig")
    return Access(
        kubeconfig=Path(kubeconfig).expanduser() if kubeconfig else None,
        context=options.get("context", ""),
        in_cluster=_flag(options, "in-cluster"),
        qps=_number(options, "qps", Access.qps),
        connections_max=int(_number(options, "connections", Access.connections_max)),
    )


def _number(options: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(options.get(name, default))
    except ValueError as error:
        raise ConfigurationError(f"option {name} is {options[name]!r}; write a number") from error


def _flag(options: Mapping[str, str], name: str) -> bool:
    value = options.get(name, "false")
    if value not in {"true", "false"}:
        raise ConfigurationError(f"option {name} is {value!r}; write true or false")
    return value == "true"


def namespace_from(options: Mapping[str, str]) -> str:
    """Say in which namespace the probe is made: that of the option, or of this pod, or ``default``."""
    if options.get("namespace"):
        return options["namespace"]
    if _flag(options, "in-cluster") and NAMESPACE_FILE.exists():
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    return NAMESPACE_DEFAULT


async def _be_the_only_owner(server: ApiServer, namespace: str) -> None:
    """Make sure that nobody else looks after the cluster's DaemonSets, as far as that can be found out."""
    found = await probe(server, namespace)
    if found.owned:
        raise ConfigurationError(f"cluster at {server.address}: {TWO_OWNERS}")
    if found.owned is None:
        log.warning("not known whether DaemonSets have an owner", reason=found.reason)


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
