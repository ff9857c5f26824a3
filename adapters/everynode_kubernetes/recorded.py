"""A cluster's past, out of what kubectl wrote down: the source ``kubectl`` of ``everynode replay``.

The engine finds ``read`` by its entry point. What ``kubectl get nodes -o json --watch --output-watch-events`` and the
like wrote is told as the adapter of a live cluster would have told it, by the same rules (``cluster``, ``translate``).

The order: first what was there before anything changed, each object at the time at which it was made; then the changes
of all files in the order of their resource versions, which one store of an API server counts in one row. The time of a
change is the newest that an object tells (``moments``), and it never goes back.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence

from everynode.core.events import StatusGone, StatusReported
from everynode.core.values import Node, NodeKey, Pod, PodKey, SetKey, Status
from everynode.errors import RecordingError
from everynode.ports import (
    Happened,
    ListBegun,
    ListEnded,
    Observation,
    PassedOver,
    RecordedFile,
)
from everynode_kubernetes.cluster import Cluster
from everynode_kubernetes.objects import (
    REVISION_LABEL,
    ApiControllerRevision,
    ApiDaemonSet,
    ApiNode,
    ApiPod,
    DaemonSetStatus,
)
from everynode_kubernetes.reflector import Begun, Changed, Ended
from everynode_kubernetes.translate import controller_of
from everynode_kubernetes.unrecorded import Templates
from everynode_kubernetes.watched import KINDS, Heard, Watched

_RANKS = {kind: rank for rank, kind in enumerate(KINDS)}

_Versioned = tuple[int, Heard | PassedOver]


def read(files: Sequence[RecordedFile], backend: str) -> Iterator[Happened | PassedOver]:
    """Say what happened in a cluster; see ``everynode.ports.Source``.

    Raises:
        RecordingError: Files were cut off; all that could be read of any was handed out.
    """
    errors: list[RecordingError] = []
    there: list[Heard] = []
    changes: list[Iterator[_Versioned]] = []
    begins = math.inf
    for file in files:
        reading = _until_broken(Watched(file).heard(), errors)
        first = yield from _begin(reading, there)
        if first is not None:
            begins = min(begins, first.version)
            changes.append(_versioned(itertools.chain([first], reading)))
    there.sort(key=lambda heard: heard.version)
    late = [heard for heard in there if heard.version > begins]
    present = there[: len(there) - len(late)]
    present.sort(key=lambda heard: (heard.created_ms, _RANKS[heard.kind]))
    retold = _Retold(backend)
    for heard in present:
        yield from retold.take(heard, heard.created_ms)
    for _, one in heapq.merge(_versioned(late), *changes, key=lambda change: change[0]):
        if isinstance(one, PassedOver):
            yield one
        else:
            yield from retold.take(one, one.changed_ms)
    if errors:
        raise RecordingError("; ".join(map(str, errors)))


def _until_broken(
    reading: Iterator[Heard | PassedOver], errors: list[RecordingError]
) -> Iterator[Heard | PassedOver]:
    """Read a file as far as it can be read, so that the others are read, too."""
    try:
        yield from reading
    except RecordingError as error:
        errors.append(error)


def _begin(
    reading: Iterator[Heard | PassedOver], there: list[Heard]
) -> Generator[PassedOver, None, Heard | None]:
    """Read what is there when a file begins; returns the first change after that, if there is one."""
    for one in reading:
        if isinstance(one, PassedOver):
            yield one
        elif one.change == "ADDED":
            there.append(one)
        else:
            return one
    return None


def _versioned(changes: Iterable[Heard | PassedOver]) -> Iterator[_Versioned]:
    """Number what is said by versions; what has none comes with what was before it."""
    version = 0
    for one in changes:
        if isinstance(one, Heard):
            version = one.version
        yield version, one


class _Unknown:
    """A log that has nothing."""

    def __init__(self) -> None:
        """Nothing at all."""
        self.nodes: Mapping[NodeKey, Node] = {}
        self.pods: Mapping[PodKey, Pod] = {}


class _Retold:
    """A cluster, told of change by change.

    Args:
        backend: Its name.
    """

    def __init__(self, backend: str) -> None:
        """Let the cluster be empty: all lists have been read, and had nothing."""
        self._cluster = Cluster(backend)
        self._templates = Templates()
        self._clock_ms = 0
        self._cluster.begin_anew(_Unknown())
        for take in (
            self._cluster.take_revision,
            self._cluster.take_set,
            self._cluster.take_node,
            self._cluster.take_pod,
        ):
            take(Begun())
            take(Ended())

    def take(self, heard: Heard, time_ms: int) -> Iterator[Happened | PassedOver]:
        """Say what an object's change means."""
        self._clock_ms = max(self._clock_ms, time_ms)
        for observation in self._observations(heard):
            if not isinstance(observation, ListBegun | ListEnded):
                yield Happened(self._clock_ms, observation)
        while self._cluster.troubled:
            known = self._cluster.troubled.popleft()
            metadata = known.api.metadata
            yield PassedOver(f"DaemonSet {metadata.namespace}/{metadata.name}", known.problem)

    def _observations(self, heard: Heard) -> Iterator[Observation | StatusReported | StatusGone]:
        cluster, change, api = self._cluster, heard.change, heard.api
        match api:
            case ApiNode():
                yield from cluster.take_node(Changed(change, api))
            case ApiControllerRevision():
                yield from cluster.take_revision(Changed(change, api))
            case ApiDaemonSet() if change == "DELETED":
                for name in self._templates.forget(api):
                    cluster.history.drop(api.metadata.namespace, name)
                yield from cluster.take_set(Changed(change, api))
                metadata = api.metadata
                yield StatusGone(
                    namespace=metadata.namespace, daemonset=metadata.name, daemonset_uid=api.uid
                )
            case ApiDaemonSet():
                yield from cluster.take_set(Changed(change, api))
                yield from self._explained(self._templates.of_set(api), api.uid)
                known = cluster.sets.get(SetKey(api.metadata.namespace, api.metadata.name))
                if api.status is not None and known is not None and known.daemonset is not None:
                    yield StatusReported(status=_status_of(api, api.status))
            case ApiPod():
                if change != "DELETED":
                    yield from self._explained(self._templates.of_pod(api), _owner_uid(api))
                yield from cluster.take_pod(Changed(change, api))

    def _explained(
        self, versions: Iterator[ApiControllerRevision], owner_uid: str
    ) -> Iterator[Observation]:
        """Tell of versions that were not recorded, if nothing else explains what pods call them."""
        history = self._cluster.history
        for version in versions:
            label = version.metadata.label(REVISION_LABEL)
            if history.explain(version.metadata.namespace, owner_uid, label) is None:
                yield from self._cluster.take_revision(Changed("ADDED", version))


def _status_of(api: ApiDaemonSet, status: DaemonSetStatus) -> Status:
    """Translate what the cluster's own controller says of a set."""
    return Status(
        namespace=api.metadata.namespace,
        daemonset=api.metadata.name,
        daemonset_uid=api.uid,
        observed_generation=status.observed_generation,
        desired_number_scheduled=status.desired_number_scheduled,
        current_number_scheduled=status.current_number_scheduled,
        number_misscheduled=status.number_misscheduled,
        number_ready=status.number_ready,
        number_available=status.number_available,
        number_unavailable=status.number_unavailable,
        updated_number_scheduled=status.updated_number_scheduled,
    )


def _owner_uid(pod: ApiPod) -> str:
    owner = controller_of(pod.metadata)
    return "" if owner is None else owner.uid
