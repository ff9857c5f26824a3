"""README.md does what it says: every line of its ```console blocks is run, in order, and must succeed.

`everynode up` without `--once` is what the README keeps running in another terminal: here it runs beside what comes
after it. tests/kubernetes/test_readme_cluster.py runs what needs a Kubernetes cluster. `make test` and its like are not
run, because this is one of the tests that they run.
"""

import os
import re
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
SCRIPTS = sysconfig.get_path("scripts")

NOT_RUN = ("make test", "make check", "make setup", "make bench")
BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROMPT = "$ "
ON_A_CLUSTER = "## On a Kubernetes cluster"

COMMANDS_SECONDS_MAX = 100
UP_SECONDS_MAX = 60
STOP_SECONDS_MAX = 15


def commands() -> list[str]:
    """The lines after a prompt, in the order of the README; `.venv` is where these tests run from."""
    before, heading, rest = README.read_text(encoding="utf-8").partition(ON_A_CLUSTER)
    assert heading
    text = before + rest.partition("\n## ")[2]
    lines = [line for block in BLOCK.findall(text) for line in block.splitlines()]
    found = [line.removeprefix(PROMPT) for line in lines if line.startswith(PROMPT)]
    return [command.replace(".venv/bin/", f"{SCRIPTS}/") for command in found]


def stays_up(command: str) -> bool:
    """Say whether a command goes on until somebody ends it."""
    words = command.split()
    return words[0].endswith("everynode") and words[1] == "up" and "--once" not in words


def environment(address: str | None = None) -> dict[str, str]:
    """The environment of a new terminal, after the `export` that `up` asks for; nothing of a `make` around us."""
    foreign = ("EVERYNODE_", "MAKE", "MFLAGS", "ARGS")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | ({"EVERYNODE_NATS": address} if address else {})


def run(lines: list[str], address: str | None = None) -> None:
    """Run lines in one shell, as somebody would type them; each must succeed."""
    script = "\n".join(["set -euo pipefail", "set -x", *(as_run(line) for line in lines)])
    ended = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env=environment(address),
        capture_output=True,
        text=True,
        timeout=COMMANDS_SECONDS_MAX,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stderr}\n{ended.stdout}"


def as_run(line: str) -> str:
    """Make what is set up already not be set up again, where `make` would."""
    words = line.split()
    if words[0] != "make":
        return line
    return " ".join(["make", f"BIN={SCRIPTS}", "--old-file=.venv/.stamp", *words[1:]])


@pytest.fixture
def running() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that are ended with the test."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_SECONDS_MAX) == 0


def start_up(command: str, output: Path, running: list[subprocess.Popen[bytes]]) -> str:
    """Start an `up`, wait until it has covered everything, and return where its log is."""
    with output.open("wb") as stream:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=ROOT, env=environment(), stdout=stream
        )
    running.append(process)
    deadline = time.monotonic() + UP_SECONDS_MAX
    while "all covered" not in (text := output.read_text(encoding="utf-8")):
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.05)
    return text.partition(" at ")[2].partition(";")[0]


def test_the_readme_has_commands() -> None:
    """The blocks are found: the first thing to do is in them, and so is something to keep running."""
    found = commands()
    assert found[0].startswith("make ")
    assert any(stays_up(command) for command in found)
    assert sum("everynode" in command for command in found) > 5


def test_every_command_of_the_readme_works(
    tmp_path: Path, running: list[subprocess.Popen[bytes]]
) -> None:
    """Whoever types what the README says sees each command succeed."""
    address: str | None = None
    waiting: list[str] = []
    for command in [*commands(), None]:
        if command is not None and command.startswith(NOT_RUN):
            continue
        if command is not None and not stays_up(command):
            waiting.append(command)
            continue
        if waiting:
            run(waiting, address)
            waiting = []
        if command is not None:
            address = start_up(command, tmp_path / "up.txt", running)
