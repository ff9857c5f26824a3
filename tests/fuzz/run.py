"""``make fuzz``: fuzzes everything that reads what others wrote, and prints what came of it.

Findings are printed, and kept in tests/fuzz/corpus once they are as small as they can be made.
"""

# A script that reports to a person.
# ruff: noqa: T201

from __future__ import annotations

import argparse
import logging
import platform
import sys

import structlog
from tests.fuzz import campaign
from tests.fuzz.targets import targets

INPUTS = 200_000


def main() -> int:
    """Run a campaign; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="how many inputs at most")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="processor time at most"
    )
    parser.add_argument("--seed", type=int, default=1, help="the same one makes the same inputs")
    parser.add_argument("--target", action="append", help="one of them only")
    parser.add_argument("--keep", action="store_true", help="write findings to tests/fuzz/corpus")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))

    chosen = [each for each in targets() if not options.target or each.name in options.target]

    def report(tally: campaign.Tally) -> None:
        show(tally)
        if options.keep:  # now: a long campaign may be ended before its end
            campaign.keep(list(tally.findings.values()))

    tally = campaign.run(
        chosen, options.seed, options.inputs, seconds_max=options.seconds, report=report
    )
    report(tally)
    for finding in tally.findings.values():
        times = tally.repeats[finding.what]
        print(f"\nFOUND {times} times: {finding.what}\n{finding.text}\n{finding.content[:2_000]!r}")
        version = platform.python_version()
        print(f"seed={options.seed} python={version}: make fuzz SEED={options.seed}")
    return 1 if tally.findings else 0


def show(tally: campaign.Tally) -> None:
    """Print a table of how far it is."""
    total, seconds = tally.inputs.total(), tally.cpu_seconds
    print(f"{total:,} inputs in {seconds:.0f} s of processor time")
    for name, count in sorted(tally.inputs.items()):
        accepted = 100 * tally.accepted[name] / count
        mean = tally.bytes[name] / count
        slowest = tally.slowest_ms[name]
        print(
            f"  {name:<12}{count:>12,} inputs  {accepted:5.1f} % accepted  "
            f"{mean:8,.0f} bytes each  slowest {slowest:8,.1f} ms"
        )
    print(f"{len(tally.findings)} findings", *tally.findings, sep="\n  ", flush=True)


if __name__ == "__main__":
    sys.exit(main())
