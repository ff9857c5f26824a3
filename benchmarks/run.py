"""Measure what everynode promises about speed and size, and print a table: ``make bench``.

Exit code 1 if a target is missed. With ``--quick`` everything is small and no target is enforced: it shows that the
benchmark itself works, and that what it measures gives right answers. docs/performance.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import cluster
import endtoend
import events
import memory
import placement
import replay
import sharing
import structlog
import throughput
import timetravel
from measuring import Row, print_table, say

Part = Callable[[], list[Row]]

FULL: dict[str, Part] = {
    "up": partial(endtoend.measure, endtoend.Sizes(nodes=5_000)),
    "placement": partial(placement.measure, placement.Sizes(sets=1_000, nodes=100_000)),
    "memory": partial(memory.measure, memory.Sizes(nodes=100_000, sets=3)),
    "throughput": partial(throughput.measure, throughput.Sizes(nodes=50_000, bus_messages=50_000)),
    "events": partial(events.measure, events.Sizes(sets=20, nodes_few=1_000, nodes_many=100_000)),
    "replay": partial(replay.measure, replay.Sizes(nodes=1_000, sets=8, events=200_000)),
    "timetravel": partial(timetravel.measure, timetravel.Sizes(nodes=10_000)),
    "sharing": partial(sharing.measure, sharing.Sizes(sets=24, nodes=500, nodes_killed=50)),
    "cluster": partial(cluster.measure, cluster.Sizes(nodes=1_000)),
}
QUICK: dict[str, Part] = {
    "up": partial(endtoend.measure, endtoend.Sizes(nodes=100)),
    "placement": partial(placement.measure, placement.Sizes(sets=100, nodes=5_000)),
    "memory": partial(memory.measure, memory.Sizes(nodes=2_000, sets=1)),
    "throughput": partial(throughput.measure, throughput.Sizes(nodes=2_000, bus_messages=3_000)),
    "events": partial(events.measure, events.Sizes(sets=5, nodes_few=500, nodes_many=2_000)),
    "replay": partial(replay.measure, replay.Sizes(nodes=200, sets=4, events=2_000)),
    "timetravel": partial(timetravel.measure, timetravel.Sizes(nodes=50)),
    "sharing": partial(sharing.measure, sharing.Sizes(sets=8, nodes=20, nodes_killed=10)),
    "cluster": partial(cluster.measure, cluster.Sizes(nodes=20)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"only these of: {', '.join(FULL)}"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, no targets enforced")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.parts if name not in FULL]
    if unknown:
        parser.error(f"there is no part {unknown[0]!r}; there are: {', '.join(FULL)}")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    parts = QUICK if options.quick else FULL
    started = time.monotonic()
    rows = [row for name in options.parts or parts for row in parts[name]()]
    cpus = os.cpu_count()
    load, _, _ = os.getloadavg()
    say(f"done in {time.monotonic() - started:.0f} s; load {load:.1f} on {cpus} CPUs at the end")
    print(
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {cpus} CPUs\n"
    )
    print_table(rows, enforced=not options.quick)
    missed = [] if options.quick else [row for row in rows if row.missed]
    for row in missed:
        say(f"MISSED: {row.part}, {row.what}: {row.figure:.3g} {row.unit}, target {row.target}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
