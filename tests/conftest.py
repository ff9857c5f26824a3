"""Hypothesis profiles, one seed for the whole run, and the line that reproduces a red run.

pytest loads this before any test. Every source of chance in a run hangs on two numbers: the seed
(the order of the tests, `random`, and Hypothesis) and PYTHONHASHSEED (the order of sets), which
`make test` draws. The workers of a run on several cores have both in common; which of them runs a
test depends on how fast they are. Fixtures belong to the directory that uses them, not here.
"""

import os
import random
import shlex
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

NODE_IDS_MAX = 5
"""With more failures than these, the line reproduces the whole run instead of naming each test."""

settings.register_profile("dev", max_examples=50, deadline=None, print_blob=True)
settings.register_profile("nightly", max_examples=10_000, deadline=None, print_blob=True)
settings.register_profile(
    "ci",
    max_examples=200,
    deadline=None,
    print_blob=True,
    derandomize=True,  # the same examples in each run: a red change is red because of the change
)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev")
settings.load_profile(PROFILE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draw the seed before the plugins do, so that the order and Hypothesis share it.

    A worker reads the command line anew, and takes the seed that was drawn for all of them.
    """
    handed_over = getattr(config, "workerinput", {})
    seed = handed_over.get("randomly_seed", config.getoption("randomly_seed", None))
    if seed == "default":
        seed = random.getrandbits(32)
        config.option.randomly_seed = seed
    derandomized = settings.get_profile(PROFILE).derandomize
    if isinstance(seed, int) and not derandomized and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(seed)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None]:
    """After a red run, and after pytest's own summary, print the line that reproduces it."""
    yield
    failed = {
        report.nodeid
        for outcome in ("failed", "error")
        for report in terminalreporter.stats.get(outcome, [])
    }
    if failed:
        command = reproducing_command(
            sorted(failed),
            seed=config.getoption("randomly_seed", None),
            hypothesis_seed=config.option.hypothesis_seed,
            hash_seed=os.environ.get("PYTHONHASHSEED"),
            workers=config.getoption("numprocesses", None),
        )
        terminalreporter.write_line(f"at commit {commit()}; reproduce: {command}")


def reproducing_command(
    node_ids: list[str],
    *,
    seed: int | str | None,
    hypothesis_seed: str | None,
    hash_seed: str | None,
    workers: int | None,
) -> str:
    """The shell command that repeats a run: quoted for pytest's arguments, make and the shell.

    A few tests are repeated in one process, however many workers ran them.
    """
    arguments = []
    if seed is not None:
        arguments.append(f"--randomly-seed={seed}")
    if hypothesis_seed is not None and hypothesis_seed != str(seed):
        arguments.append(f"--hypothesis-seed={hypothesis_seed}")
    if len(node_ids) <= NODE_IDS_MAX:
        arguments += node_ids
    elif workers:
        arguments += [f"--numprocesses={workers}", "--dist=worksteal"]
    for_make = shlex.join(arguments).replace("$", "$$")
    environment = f"HYPOTHESIS_PROFILE={PROFILE}"
    if hash_seed is not None:
        environment = f"PYTHONHASHSEED={hash_seed} {environment}"
    return f"{environment} make test ARGS={shlex.quote(for_make)}"


def commit() -> str:
    """The commit that the run tested, or `unknown` outside a git checkout."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    described = subprocess.run(
        [git, "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"
