"""What workers, hosts and connections count, in the form that Prometheus reads. docs/metrics.md lists all of it.

Used by the command line, which has ``runtime.monitoring`` show them. Nothing is counted here and nothing is kept:
whenever somebody asks, the numbers are read where they stand. No label has values that come from outside, so that the
number of time series is fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from everynode import __version__
from everynode.runtime.counts import Durations, Filled, HostCounts, LinkCounts, WorkerCounts
from everynode.runtime.host import AdapterHost
from everynode.runtime.jetstream import JetStreamBus
from everynode.runtime.worker import Worker

PREFIX = "everynode_"
RESULTS = ("done", "refused", "failed", "superseded")


@dataclass(frozen=True)
class Source:
    """Somebody whose numbers are shown.

    Attributes:
        metrics: Reads them.
        queues: Reads how full its queues are.
    """

    metrics: Callable[[], Iterable[Metric]]
    queues: Callable[[], Mapping[str, Filled]] = dict


class _Sources(Collector):
    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = tuple(sources)

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(f"{PREFIX}info", "Always 1.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        length = GaugeMetricFamily(f"{PREFIX}queue_length", "What is in a queue.", labels=["queue"])
        limit = GaugeMetricFamily(f"{PREFIX}queue_limit", "What may be in it.", labels=["queue"])
        for source in self._sources:
            yield from source.metrics()
            for name, filled in source.queues().items():
                length.add_metric([name], filled.length)
                limit.add_metric([name], filled.limit)
        yield from (length, limit)


def exposition(*sources: Source) -> bytes:
    """Read all numbers, and write them in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Sources(sources))
    return generate_latest(registry)


def of_worker(worker: Worker) -> Source:
    """Show what a worker does."""

    def collect() -> Iterator[Metric]:
        counts: WorkerCounts = worker.counts
        yield _counter("decisions", "Decisions that the log took.", counts.decisions)
        yield _counters(
            "commands",
            "Commands in them.",
            "verb",
            {"create": counts.creates, "delete": counts.deletes},
        )
        yield _counter(
            "decisions_refused",
            "Proposals that the log refused because another decision came first.",
            counts.refused,
        )
        yield _counter("messages_malformed", "Messages that could not be used.", counts.malformed)
        yield _counter("messages_loaded", "Messages read from STATE.", counts.loaded)
        yield _counter("messages_folded", "Messages read from LOG.", counts.folded)
        yield _counter("restarts", "New beginnings from STATE.", counts.restarts)
        yield _counter(
            "handovers", "Readings because shards came to this worker or left it.", counts.handovers
        )
        yield _gauge("messages_behind", "Messages on the log, not read for seconds.", worker.behind)
        yield _gauge("shards_owned", "Shards that this worker decides for.", len(worker.owned))
        yield _gauge("ready", "1 once it has caught up and decides.", int(worker.caught_up))

    return Source(collect)


def of_host(host: AdapterHost) -> Source:
    """Show what an adapter's host does."""

    def collect() -> Iterator[Metric]:
        counts: HostCounts = host.counts
        observed = {
            "published": counts.published,
            "suppressed": counts.suppressed,
            "invalid": counts.invalid,
        }
        yield _counters("observations", "What the backend showed.", "result", observed)
        yield _counter("messages_malformed", "Messages that could not be read.", counts.malformed)
        yield _counter("lists_held_back", "Lists that were not believed.", counts.held_back)
        yield _counter("observe_failures", "Ends of observing.", counts.observe_failures)
        outcomes = {result: counts.outcomes[result] for result in RESULTS}
        yield _counters("outcomes", "Outcomes of commands.", "result", outcomes)
        yield _counter("commands_retried", "Tries that are to be repeated.", counts.retried)
        yield _counter("commands_given_up", "Commands given up.", counts.dead_lettered)
        yield _counter("commands_repeated", "Commands that came again.", counts.repeated)
        yield _counter("declared", "Sets and revisions of the backend's own.", counts.declared)
        reports = {"shown": counts.reported, "failed": counts.reports_failed}
        yield _counters("reports", "What was to be shown in the backend.", "result", reports)
        yield _histogram("apply_seconds", "How long calls to the backend took.", counts.applied)
        yield _gauge(
            "ready", "1 once the backend's lists are on the log.", int(host.listed.is_set())
        )
        yield _gauge("stands_by", "1 while another host is at work.", int(host.stands_by))

    return Source(collect, host.queues)


def of_connection(bus: JetStreamBus) -> Source:
    """Show what the connection to NATS has been through."""

    def collect() -> Iterator[Metric]:
        counts: LinkCounts = bus.counts
        yield _gauge("connected", "1 while there is a connection to NATS.", int(bus.connected))
        yield _counter("reconnects", "Connections in the place of a lost one.", counts.reconnects)
        yield _counter("reconnect_failures", "Tries that failed.", counts.reconnect_failures)
        yield _counter("subscriptions_revived", "Dead subscriptions made anew.", counts.revived)
        yield _counter("served_dropped", "Messages beside the log not heard.", counts.dropped)
        yield _counter("served_given_up", "Messages beside the log given up.", counts.given_up)

    return Source(collect, bus.queues)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}{name}", text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(f"{PREFIX}{name}", text, labels=[label])
    for labelled, value in values.items():
        family.add_metric([labelled], value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}{name}", text, value=value)


def _histogram(name: str, text: str, durations: Durations) -> Metric:
    bounds = [*(f"{bound:g}" for bound in durations.bounds), "+Inf"]
    total, buckets = 0, []
    for bound, count in zip(bounds, durations.counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return HistogramMetricFamily(
        f"{PREFIX}{name}", text, buckets=buckets, sum_value=durations.sum_seconds
    )
