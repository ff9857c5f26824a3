"""The adapter host: everything that an adapter does not have to do.

The command line runs one beside each adapter. It publishes what the adapter observes where that differs from what the
log says (``observing``, ``logbook``, ``declaring``), has the commands for the backend carried out (``execution``), and
tells a backend that keeps sets of its own how they are (``reporting``). It decides
nothing about DaemonSets, and whatever it holds it reads from the log, or asks the adapter for, when it starts again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
import structlog

from everynode import wire
from everynode.core.values import SetKey
from everynode.errors import EverynodeError, MalformedMessageError, StaleError, UnavailableError
from everynode.ports import Adapter, Clock, Controllable, Reporting
from everynode.runtime.bus import FleetBus
from everynode.runtime.claim import Claim
from everynode.runtime.clock import SystemClock
from everynode.runtime.counts import Filled, HostCounts
from everynode.runtime.declaring import Declarations
from everynode.runtime.execution import Execution, ExecutionLimits
from everynode.runtime.failures import traceback_of
from everynode.runtime.logbook import Logbook
from everynode.runtime.observing import ObserveLimits, Observer
from everynode.runtime.reporting import Reporter

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class HostSettings:
    """How an adapter host behaves.

    Attributes:
        observe: How patiently the adapter is observed.
        execution: How much is carried out at once, and how long it is tried.
    """

    observe: ObserveLimits = field(default_factory=ObserveLimits)
    execution: ExecutionLimits = field(default_factory=ExecutionLimits)


class AdapterHost:
    """Runs one adapter on a fleet's log until it is cancelled.

    Args:
        bus: The fleet's log.
        adapter: The backend.
        settings: How it behaves.
        clock: Time to wait by.
        host_id: Tells this host from others of the backend; drawn if there is none.
    """

    def __init__(
        self,
        bus: FleetBus,
        adapter: Adapter,
        settings: HostSettings | None = None,
        clock: Clock | None = None,
        host_id: str = "",
    ) -> None:
        """Prepare; nothing is read before ``run``."""
        self.listed = asyncio.Event()
        """The first complete lists are on the log."""
        self.counts = HostCounts()
        self._bus = bus
        self._adapter = adapter
        self._settings = settings or HostSettings()
        self._clock = clock or SystemClock()
        self._logbook: Logbook | None = None
        self._execution: Execution | None = None
        self._reporter: Reporter | None = None
        subject = f"{bus.subjects.prefix}.host.{wire.token(adapter.backend)}"
        self._claim = Claim(bus, subject, self._clock, host_id)

    @property
    def published_sequence(self) -> int:
        """The last message that this host stored in the log; 0 before the first."""
        return 0 if self._logbook is None else self._logbook.outbox.last_sequence

    @property
    def stands_by(self) -> bool:
        """Another host of this backend is at work."""
        return self._claim.waits > 0

    def queues(self) -> dict[str, Filled]:
        """How full its queues are."""
        found = {} if self._logbook is None else {"outbox": self._logbook.outbox.filled}
        return found if self._execution is None else found | self._execution.queues()

    async def run(self) -> None:
        """Observe and carry out, until cancelled; start again from STATE when the log is not what it was.

        While another host of this backend is at work, stand by.

        Raises:
            ConfigurationError: The backend is not the one that the fleet knows under this name.
            UnavailableError: The log could not be reached at the start.
        """
        await self._bus.record_backend(self._adapter.backend, self._adapter.identity)
        failures = 0
        while True:
            observer = Observer(
                self._adapter, self._settings.observe, self._clock, self.counts, self._set_seen
            )
            try:
                await self._claim.take()
                await self._serve_control()
                await self._run_session(observer)
            except* (StaleError, UnavailableError) as errors:
                reason = str(errors.exceptions[0])
                log.warning("host starts again", backend=self._adapter.backend, reason=reason)
            finally:
                await self._claim.release()
            failures = 1 if observer.listed.is_set() else failures + 1
            await self._clock.sleep_ms(self._settings.observe.delay_ms(failures))

    def _set_seen(self, key: SetKey) -> None:
        if self._reporter is not None:
            self._reporter.again(key)

    async def _serve_control(self) -> None:
        if isinstance(self._adapter, Controllable):
            subject = control_subject(self._bus.subjects, self._adapter.backend)
            await self._bus.serve(subject, partial(_answer_request, self._adapter))

    async def _run_session(self, observer: Observer) -> None:
        """Load, then observe, follow, carry out and report."""
        backend = self._adapter.backend
        logbook = Logbook(self._bus, backend, self._clock, self.counts, observer.doubt)
        from_sequence = await logbook.load()
        self._logbook = logbook
        execution = Execution(
            bus=self._bus,
            adapter=self._adapter,
            logbook=logbook,
            clock=self._clock,
            limits=self._settings.execution,
            counts=self.counts,
            doubt=observer.doubt,
        )
        self._execution = execution

        async def observed_is_stored() -> None:
            await observer.listed.wait()
            await logbook.outbox.wait_stored()

        declarations = Declarations(
            self._bus, backend, observed_is_stored, self._clock, self.counts
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(self._claim.keep())
            group.create_task(logbook.write_out())
            group.create_task(logbook.follow(from_sequence))
            await logbook.caught_up.wait()
            group.create_task(observer.run(logbook, declarations))
            group.create_task(declarations.run())
            await observer.listed.wait()  # nothing is carried out before it is known what is
            group.create_task(execution.run())
            if isinstance(self._adapter, Reporting):
                self._reporter = Reporter(
                    self._bus, self._adapter, backend, self._clock, self.counts
                )
                group.create_task(self._reporter.run())
            await logbook.outbox.wait_stored()
            self.listed.set()


def control_subject(subjects: wire.Subjects, backend: str) -> str:
    """Name the subject beside the log on which a controllable backend is asked to do something."""
    return f"{subjects.prefix}.control.{wire.token(backend)}"


async def _answer_request(adapter: Controllable, payload: bytes) -> bytes:
    """Answer a request that came over the network with JSON, whatever it was."""
    answer: dict[str, object]
    try:
        answer = await adapter.control(_request_in(payload))
    except EverynodeError as error:
        answer = {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - a bug in an adapter stops nobody else (L3)
        log.error("adapter failed on a request", traceback=traceback_of(error))  # noqa: TRY400 - see failures
        answer = {"error": f"the adapter failed: {type(error).__name__}"}
    return msgspec.json.encode(answer)


def _request_in(payload: bytes) -> dict[str, Any]:
    try:
        request: dict[str, Any] = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(f"not a request: {error}") from error
    return request
