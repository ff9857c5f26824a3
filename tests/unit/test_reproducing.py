"""The line at the end of a red run: it names what the run drew, on one core and on several."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import NODE_IDS_MAX, reproducing_command

CONFTEST = Path(__file__).parents[1] / "conftest.py"
RED = f"""
import pytest

@pytest.mark.parametrize("number", range({NODE_IDS_MAX + 1}))
def test_red(number, pytestconfig):
    option = pytestconfig.option
    pytest.fail(f"drew {{option.randomly_seed}} and {{option.hypothesis_seed}}")
"""


@pytest.mark.parametrize(
    ("failed", "workers", "expected"),
    [
        (1, None, "make test ARGS='--randomly-seed=7 a.py::t0'"),
        (1, 2, "make test ARGS='--randomly-seed=7 a.py::t0'"),
        (NODE_IDS_MAX + 1, None, "make test ARGS=--randomly-seed=7"),
        (NODE_IDS_MAX + 1, 0, "make test ARGS=--randomly-seed=7"),
        (
            NODE_IDS_MAX + 1,
            2,
            "make test ARGS='--randomly-seed=7 --numprocesses=2 --dist=worksteal'",
        ),
    ],
)
def test_a_few_are_repeated_alone_and_many_as_they_ran(
    failed: int, workers: int | None, expected: str
) -> None:
    """A few tests are named, and need no workers; more of them are repeated with as many as there were."""
    command = reproducing_command(
        [f"a.py::t{number}" for number in range(failed)],
        seed=7,
        hypothesis_seed="7",
        hash_seed="3",
        workers=workers,
    )
    assert command.startswith("PYTHONHASHSEED=3 HYPOTHESIS_PROFILE=")
    assert command.endswith(expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_every_process_has_the_seed_that_the_line_names(workers: int, tmp_path: Path) -> None:
    """The seed is drawn once, wherever the tests run."""
    shutil.copy(CONFTEST, tmp_path)
    (tmp_path / "test_red.py").write_text(RED)
    environment = {  # without what makes this a worker, and without CI, where Hypothesis draws nothing
        name: value
        for name, value in os.environ.items()
        if name != "CI" and not name.startswith("PYTEST_")
    }
    options = ("-p", "no:cacheprovider", "--rootdir", tmp_path, "--numprocesses", str(workers))
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, tmp_path],
        cwd=tmp_path,
        env=environment | {"HYPOTHESIS_PROFILE": "dev"},
        capture_output=True,
        text=True,
        check=False,
    )
    named = re.search(r"reproduce: .*--randomly-seed=(\d+)", ended.stdout)
    assert named is not None, ended.stdout + ended.stderr
    drawn = re.findall(r"^E +Failed: drew (\d+) and (\d+)$", ended.stdout, re.MULTILINE)
    assert [(named[1], named[1])] * (NODE_IDS_MAX + 1) == drawn
