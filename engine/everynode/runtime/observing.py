"""Has an adapter observe its backend, for ever, and turns what it says into facts for the log.

Run by ``runtime.host``, once for each adapter. The adapter lists everything at first and tells changes then; after a
failure, after any doubt and from time to time it is asked to begin anew. A list that would remove more than half of
what is known is not believed until a second one agrees (``runtime.listing``).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from everynode.core.events import (
    DaemonSetGone,
    DaemonSetObserved,
    NodeGone,
    NodeObserved,
    PodGone,
    PodObserved,
    RevisionRecorded,
)
from everynode.core.values import NodeKey, PodKey, SetKey
from everynode.errors import UnavailableError
from everynode.ports import Adapter, Clock, ListBegun, ListEnded, Observation
from everynode.runtime.counts import HostCounts
from everynode.runtime.declaring import Declarations
from everynode.runtime.failures import traceback_of
from everynode.runtime.ledger import Awaited, node_gone
from everynode.runtime.listing import Listing
from everynode.runtime.logbook import Logbook

log = structlog.get_logger(__name__)

MS_PER_SECOND = 1_000
OBSERVATIONS_PER_TURN_MAX = 200
"""After so many observations in a row, others may run."""
NOT_LISTED = "not in the backend's list"


@dataclass(frozen=True, kw_only=True)
class ObserveLimits:
    """How patiently an adapter is observed.

    Attributes:
        retry_first_ms: How long to wait after a failure; twice as long after each further one.
        retry_last_ms: The longest such wait.
        list_timeout_ms: How long the first lists may take before the adapter is asked anew.
        relist_interval_ms: How often everything is listed again without any doubt, about.
        confirm_delay_ms: How long to wait before asking for a second list that confirms a great loss.
        doubt_delay_ms: How long to wait before listing again after any doubt.
        sound_after_ms: How long an adapter must have gone on after complete lists for a failure to be a first one.
    """

    retry_first_ms: int = 200
    retry_last_ms: int = 30_000
    list_timeout_ms: int = 300_000
    relist_interval_ms: int = 600_000
    confirm_delay_ms: int = 1_000
    doubt_delay_ms: int = 2_000
    sound_after_ms: int = 60_000

    def delay_ms(self, failures: int) -> int:
        """How long to wait after so many failures, spread so that many do not return at once."""
        longest_ms: int = min(self.retry_first_ms << min(failures - 1, 16), self.retry_last_ms)
        return longest_ms // 2 + random.randrange(longest_ms // 2 + 1)  # noqa: S311 - no secret


class Observer:
    """Observes one backend while ``run`` runs.

    Args:
        adapter: The backend.
        limits: How patiently.
        clock: Time to wait by.
        counts: Where to count.
        set_seen: Called with each set of the backend's own whenever it was observed.
    """

    def __init__(
        self,
        adapter: Adapter,
        limits: ObserveLimits,
        clock: Clock,
        counts: HostCounts,
        set_seen: Callable[[SetKey], None],
    ) -> None:
        """Prepare."""
        self.listed = asyncio.Event()
        """Complete lists of nodes and pods were taken in and believed."""
        self._adapter = adapter
        self._limits = limits
        self._clock = clock
        self._counts = counts
        self._set_seen = set_seen
        self._nodes: Listing[NodeKey] = Listing()
        self._pods: Listing[PodKey] = Listing()
        self._awaited: dict[PodKey, Awaited] = {}
        self._unheard: set[tuple[NodeKey, str]] = set()
        self._lists_ended = asyncio.Event()
        self._doubted = asyncio.Event()
        self._relist_in_ms = 0

    def doubt(self) -> None:
        """Have everything listed again soon."""
        self._relist(self._limits.doubt_delay_ms)

    async def run(self, logbook: Logbook, declarations: Declarations) -> None:
        """Observe, and write what is observed, until cancelled."""
        failures = 0
        while True:
            self._nodes.complete = self._pods.complete = False
            self._lists_ended.clear()
            began_ms = self._clock.now_ms()
            taking = asyncio.create_task(self._take_all(logbook, declarations))
            ending = asyncio.create_task(self._until_relist())
            try:
                await asyncio.wait((taking, ending), return_when=asyncio.FIRST_COMPLETED)
                has_failed = taking.done()
            finally:
                taking.cancel()
                ending.cancel()
                results = await asyncio.gather(taking, ending, return_exceptions=True)
            if has_failed:
                lasted_ms = self._clock.now_ms() - began_ms
                sound = self._complete and lasted_ms > self._limits.sound_after_ms
                failures = 1 if sound else failures + 1
                await self._clock.sleep_ms(self._failed(results[0], failures))

    # --- when to begin anew -------------------------------------------------------------------------------------------

    def _relist(self, in_ms: int) -> None:
        if not self._doubted.is_set():
            self._relist_in_ms = in_ms
            self._doubted.set()

    async def _until_relist(self) -> None:
        """Wait until it is time to list again; lists that were begun may end, if they do so in time."""
        timeout_s = self._limits.list_timeout_ms / MS_PER_SECOND
        try:
            async with asyncio.timeout(timeout_s):
                await self._lists_ended.wait()
        except TimeoutError:
            log.warning(
                "no complete list in time", backend=self._adapter.backend, timeout_s=timeout_s
            )
            return
        interval_ms = self._limits.relist_interval_ms
        spread_ms = interval_ms // 2 + random.randrange(interval_ms + 1)  # noqa: S311 - no secret
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(spread_ms / MS_PER_SECOND):
                await self._doubted.wait()
                await self._clock.sleep_ms(self._relist_in_ms)
        self._doubted.clear()

    def _failed(self, result: object, failures: int) -> int:
        """Report why the adapter stopped observing; returns how long to wait."""
        self._counts.observe_failures += 1
        wait_ms = self._limits.delay_ms(failures)
        backend = self._adapter.backend
        if isinstance(result, UnavailableError):
            wait_ms = max(wait_ms, result.retry_after_ms or 0)
            log.warning("backend unavailable", backend=backend, reason=str(result), wait_ms=wait_ms)
        elif isinstance(result, BaseException):
            reason = traceback_of(result)
            log.error("adapter failed", backend=backend, traceback=reason, wait_ms=wait_ms)
        else:
            log.warning("adapter stopped observing", backend=backend, wait_ms=wait_ms)
        return wait_ms

    # --- what is observed ---------------------------------------------------------------------------------------------

    @property
    def _complete(self) -> bool:
        return self._nodes.complete and self._pods.complete

    async def _take_all(self, logbook: Logbook, declarations: Declarations) -> None:
        observing = self._adapter.observe(logbook.ledger)
        taken = 0
        try:
            async for observation in observing:
                self._take(observation, logbook, declarations)
                taken += 1
                if taken % OBSERVATIONS_PER_TURN_MAX == 0:
                    await asyncio.sleep(0)
                if logbook.outbox.is_full:
                    await logbook.outbox.wait_for_room()
        finally:
            self._nodes.interrupted()
            self._pods.interrupted()
            declarations.interrupted()
            close = getattr(observing, "aclose", None)
            if close is not None:
                await close()

    def _take(self, observation: Observation, logbook: Logbook, declarations: Declarations) -> None:
        match observation:
            case NodeObserved(node=node):
                self._nodes.named(node.key)
                logbook.publish(observation)
            case PodObserved(pod=pod):
                self._pods.named(pod.key)
                logbook.publish(observation)
            case NodeGone() | PodGone():
                logbook.publish(observation)
            case DaemonSetObserved(daemonset=daemonset):
                declarations.put(observation)
                self._set_seen(daemonset.key)
            case DaemonSetGone() | RevisionRecorded():
                declarations.put(observation)
            case ListBegun(kind="nodes"):
                self._nodes.begin(logbook.ledger.nodes)
            case ListBegun(kind="pods"):
                self._pods.begin(logbook.ledger.pods)
                self._awaited = logbook.ledger.awaited()
            case ListBegun():
                declarations.begin_list()
            case ListEnded(kind="nodes"):
                self._end_nodes(logbook)
            case ListEnded(kind="pods"):
                self._end_pods(logbook)
            case ListEnded():
                declarations.end_list()

    def _end_nodes(self, logbook: Logbook) -> None:
        known = logbook.ledger.nodes
        for key in self._nodes.end(known):
            logbook.publish(node_gone(known[key], NOT_LISTED))
        self._report_doubt("nodes", self._nodes.doubted_count, len(known))

    def _end_pods(self, logbook: Logbook) -> None:
        """Take what the list of pods did not name for gone, unless the list of nodes was not believed either."""
        known = logbook.ledger.pods
        for key in self._pods.end(known, hold=not self._nodes.complete):
            logbook.publish(logbook.ledger.end_of(known[key], NOT_LISTED))
        if (
            self._pods.complete
        ):  # a list that is not believed does not say either that nothing was created
            logbook.ledger.give_up(self._awaited)
        self._report_doubt("pods", self._pods.doubted_count, len(known))
        self._lists_ended.set()
        if self._complete:
            self._end_nodes_never_heard_of(logbook)
            self.listed.set()

    def _end_nodes_never_heard_of(self, logbook: Logbook) -> None:
        """Say that nodes are gone on which there are pods, though neither log nor lists know them, two times running.

        One list is not enough: a node may have joined after the nodes were listed and before the pods were.
        """
        unheard = {(gone.key, gone.uid): gone for gone in logbook.ledger.never_heard_of(NOT_LISTED)}
        for which, gone in unheard.items():
            if which in self._unheard:
                logbook.end_unheard_of(gone)
        fresh = unheard.keys() - self._unheard
        self._unheard = fresh
        if fresh:
            log.info(
                "pods on nodes that nobody has heard of; asking for a second list",
                backend=self._adapter.backend,
                nodes=len(fresh),
            )
            self._relist(self._limits.confirm_delay_ms)

    def _report_doubt(self, kind: str, doubted: int, known: int) -> None:
        if not doubted:
            return
        self._counts.held_back += 1
        log.warning(
            "list not believed, it would remove too much; asking for a second one",
            backend=self._adapter.backend,
            kind=kind,
            missing=doubted,
            known=known,
        )
        self._relist(self._limits.confirm_delay_ms)
