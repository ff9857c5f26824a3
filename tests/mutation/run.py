"""Do the tests of the core notice when it is wrong? ``make mutate`` changes it in thousands of ways and counts.

    make mutate                        every module of everynode.core
    make mutate MODULE=placement       one of them (several: MODULE="placement index")

Each mutant (``planning``) is given to the tests (``trial``): first those of the module, then all others of the core,
then the properties that are in reach, with few examples. A mutant is killed if a test fails, or takes much longer than
without it. Survivors are printed as ``file:line`` and a diff; those that ``docs/mutants.md`` explains are counted
apart. It ends with exit code 1 if fewer than ``KILLED_PERCENT_MIN`` per cent are killed.

cosmic-ray plans the mutants but does not run them: it would start an interpreter for each, and write each into the
tree. Here one process imports pytest and what else takes time, and forks a child for each trial, as many at a time as
there are CPUs. The mutant stays in memory, and the tree that is tested is a copy made at the beginning, so that no
mutant ever reaches the working tree, and nothing that somebody writes there the tests. Everything of chance is
fixed, by ``make mutate`` (PYTHONHASHSEED) and by the profile below: the same tree gives the same table.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import hypothesis
import msgspec
import pyroaring
from tests.mutation.explained import Explanations, read_explanations
from tests.mutation.planning import Mutant, plan
from tests.mutation.trial import Stage, attempt

ROOT = Path(__file__).resolve().parents[2]
CORE = "engine/everynode/core"

KILLED_PERCENT_MIN = 95.0
CPU_FACTOR_MAX = 5.0
CPU_SECONDS_SPARE = 3.0
"""A stage may take so many times the CPU time that it takes without a mutant, and so much more."""

WALL_SECONDS_MAX = 120.0
"""A trial that waits, instead of using CPU time, is ended after this time."""

PROFILE = "mutation"
EXAMPLES_MAX = 20

# The tests that concern a module, beside tests/unit/core/test_<module>.py; those that kill most stand first.
CONCERNS = {
    "budget": ("test_situations.py", "test_setstate.py"),
    "claims": ("test_setstate.py", "test_situations.py"),
    "commands": ("test_values.py", "test_decision.py"),
    "conditions": ("test_status_waiting.py", "test_status.py"),
    "coverage": ("test_status.py", "test_setstate.py"),
    "decision": ("test_decision_commands.py", "test_decision_limits.py", "test_new_pods.py"),
    "events": ("test_values.py", "test_state.py"),
    "machine": ("test_machine_reports.py", "test_kubernetes_cases_ownership.py"),
    "notices": ("test_kubernetes_cases_ownership.py", "test_kubernetes_cases_status.py"),
    "pacing": ("test_failures.py",),
    "placement": ("test_eligibility.py",),
    "revisions": ("test_decision.py", "test_state.py"),
    "rollout": ("test_new_pods.py", "test_situations.py", "test_setstate.py"),
    "selectors": ("test_eligibility.py",),
    "setstate": (
        "test_setstate_decisions.py",
        *("test_setstate_pods.py", "test_setstate_failing.py", "test_failures.py"),
        *("test_state.py", "test_situations.py"),
    ),
    "state": (
        "test_state_wakes.py",
        "test_state_time.py",
        "test_setstate_failing.py",
        "test_situations.py",
    ),
    "status": ("test_status_waiting.py", "test_machine_reports.py"),
}
PROPERTIES = dict.fromkeys(
    ("eligibility", "index", "placement", "selectors"), ("tests/property/test_eligibility.py",)
)

context = multiprocessing.get_context("fork")


class Result(NamedTuple):
    """What came of the mutants of one module."""

    module: str
    mutants: int
    killed: int
    survivors: tuple[Mutant, ...]
    explained: tuple[Mutant, ...]
    seconds: float

    @property
    def killed_percent(self) -> float:
        """How many are killed; all of none."""
        return 100 * self.killed / self.mutants if self.mutants else 100.0


class TestsFailError(Exception):
    """The tests fail without a mutant, so that they say nothing about one."""


def main(arguments: Sequence[str]) -> int:
    """Mutate the modules that are named, or all, and print what came of it."""
    parser = argparse.ArgumentParser(
        prog="make mutate", description="Mutation testing of the core."
    )
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="modules of everynode.core")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="trials at a time")
    options = parser.parse_args(arguments)
    there = [path.stem for path in sorted((ROOT / CORE).glob("[a-z]*.py"))]
    modules = options.modules or there
    if unknown := sorted(set(modules).difference(there)):
        parser.error(f"no module of the core: {', '.join(unknown)}; there are {', '.join(there)}")
    prepare()
    explanations = read_explanations((ROOT / "docs" / "mutants.md").read_text(encoding="utf-8"))
    results = []
    with tempfile.TemporaryDirectory(prefix="everynode-mutants-") as directory:
        root = copy_of_tree(Path(directory))
        for module in modules:
            try:
                results.append(examine(root, module, explanations, options.jobs))
            except TestsFailError as error:
                say(f"{module}: {error}")
                return 2
    say(*table(results))
    return 0 if total(results).killed_percent >= KILLED_PERCENT_MIN else 1


def say(*lines: str) -> None:
    """Print lines as soon as they are known: a run takes minutes."""
    print(*lines, sep="\n", flush=True)  # noqa: T201 - it is a script, and this is what it is for


def prepare() -> None:
    """Fix everything of chance, and make this process one that is cheap to fork."""
    assert all((msgspec, pyroaring))  # imported so that no trial has to
    os.environ["HYPOTHESIS_PROFILE"] = PROFILE
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    hypothesis.settings.register_profile(
        PROFILE,
        max_examples=EXAMPLES_MAX,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],  # no time for small examples
    )
    gc.collect()
    gc.freeze()


def copy_of_tree(directory: Path) -> Path:
    """Copy what the tests of the core need."""
    for name in ("engine", "adapters", "tests"):
        shutil.copytree(
            ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    return directory


def stages_of(root: Path, module: str, cpu_seconds: Iterable[float] = ()) -> list[Stage]:
    """Return the tests for a module in their order.

    Args:
        root: A copy of the tree.
        module: The module.
        cpu_seconds: What they take without a mutant; nothing if that is not known yet.
    """
    below = "tests/unit/core"
    everything = [f"{below}/{path.name}" for path in sorted((root / below).glob("test_*.py"))]
    own = [f"{below}/{name}" for name in (f"test_{module}.py", *CONCERNS.get(module, ()))]
    first = [name for name in own if name in everything]
    rest = [name for name in everything if name not in first]
    files = [tuple(part) for part in (first, rest, PROPERTIES.get(module, ())) if part]
    limits = [CPU_FACTOR_MAX * seconds + CPU_SECONDS_SPARE for seconds in cpu_seconds]
    limits += [WALL_SECONDS_MAX] * (len(files) - len(limits))
    return [Stage(*each) for each in zip(files, limits, strict=True)]


def examine(root: Path, module: str, explanations: Explanations, jobs: int) -> Result:
    """Try every mutant of a module.

    Raises:
        TestsFailError: The tests fail without a mutant.
    """
    began = time.monotonic()
    source = (root / CORE / f"{module}.py").read_text(encoding="utf-8")
    stages = unmutated(root, module, source)
    mutants = plan(source)
    survivors = []
    explained = []
    for mutant in surviving(root, module, mutants, stages, jobs):
        if explanations.explain(module, mutant):
            explained.append(mutant)
        else:
            survivors.append(mutant)
            say(*shown(module, mutant))
    for stale in explanations.unused(module):
        say(f"docs/mutants.md: explains what does not survive in {module}: {stale}")
    killed = len(mutants) - len(survivors) - len(explained)
    seconds = time.monotonic() - began
    result = Result(module, len(mutants), killed, tuple(survivors), tuple(explained), seconds)
    say(
        f"{module}: {killed} of {len(mutants)} killed, {len(explained)} explained, "
        f"{len(survivors)} survived, in {seconds:.0f} s"
    )
    return result


def unmutated(root: Path, module: str, source: str) -> list[Stage]:
    """Run the tests without a mutant, and return them with their limits."""
    stages = stages_of(root, module)
    trial = Trial(root, module, source, stages)
    trial.process.join(WALL_SECONDS_MAX)
    taken = trial.end()
    if len(taken) < len(stages):
        files = " ".join(stages[len(taken)].files)
        raise TestsFailError(f"the tests fail without a mutant: make test ARGS='-x {files}'")
    return stages_of(root, module, taken)


def surviving(
    root: Path, module: str, mutants: Iterable[Mutant], stages: Sequence[Stage], jobs: int
) -> Iterator[Mutant]:
    """Try mutants, ``jobs`` at a time, and return those that no test noticed."""
    running: dict[int, tuple[Trial, Mutant]] = {}
    waiting = list(reversed(list(mutants)))
    try:
        while running or waiting:
            while waiting and len(running) < jobs:
                mutant = waiting.pop()
                trial = Trial(root, module, mutant.source, stages)
                running[trial.process.sentinel] = trial, mutant
            wait(list(running), timeout=1)
            for sentinel, (trial, mutant) in list(running.items()):
                if trial.ended:
                    del running[sentinel]
                    if len(trial.end()) == len(stages):
                        yield mutant
    finally:
        for trial, _ in running.values():
            trial.end()


class Trial:
    """A child process in which one mutant is tried."""

    def __init__(self, root: Path, module: str, source: str, stages: Sequence[Stage]) -> None:
        """Start it."""
        self._began = time.monotonic()
        self._result, result = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(
            target=_in_child, args=(result, root, module, source, stages)
        )
        self.process.start()
        result.close()

    @property
    def ended(self) -> bool:
        """It has ended, or has had its time."""
        late = time.monotonic() - self._began > WALL_SECONDS_MAX
        return late or not self.process.is_alive()

    def end(self) -> list[float]:
        """End it if it has not, and return what each stage took that passed; nothing if it was killed."""
        self.process.kill()
        self.process.join()
        try:
            return list(self._result.recv()) if self._result.poll() else []
        except EOFError:
            return []
        finally:
            self._result.close()
            self.process.close()


def _in_child(
    result: Connection, root: Path, module: str, source: str, stages: Sequence[Stage]
) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.environ["PATH"] = ""  # after a failure conftest would ask git for the commit
    result.send(attempt(root, module, source, stages))
    os._exit(0)  # nothing is to be cleaned up that is not gone with the process


def shown(module: str, mutant: Mutant) -> Iterator[str]:
    """Write a mutant as a place and a diff, as ``docs/mutants.md`` has it."""
    yield f"{CORE}/{module}.py:{mutant.line}: survived"
    yield f"@@ {mutant.where or 'module'}"
    yield from (f"- {line}" for line in mutant.removed)
    yield from (f"+ {line}" for line in mutant.added)


def total(results: Sequence[Result]) -> Result:
    """Add up the results of several modules."""
    return Result(
        module="all",
        mutants=sum(result.mutants for result in results),
        killed=sum(result.killed for result in results),
        survivors=tuple(mutant for result in results for mutant in result.survivors),
        explained=tuple(mutant for result in results for mutant in result.explained),
        seconds=sum(result.seconds for result in results),
    )


def table(results: Sequence[Result]) -> Iterator[str]:
    """Write the results as the table that stands in ``docs/mutants.md``."""
    yield "| module | mutants | killed | | survived | explained | seconds |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for result in (*results, total(results)):
        yield (
            f"| {result.module} | {result.mutants} | {result.killed} | {result.killed_percent:.1f} % "
            f"| {len(result.survivors)} | {len(result.explained)} | {result.seconds:.0f} |"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
