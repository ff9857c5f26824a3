"""An adapter in a package of its own: installed beside everynode, found by its entry point, conformant, usable.

The engine's source knows nothing of it, and it needs nothing of the engine but what docs/adapters.md names.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = Path(__file__).with_name("example_adapter")
CASES_MIN = 15
EVERYNODE = "from everynode.cli import main; main()"
PROCESS_TIMEOUT_S = 200

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PROCESS_TIMEOUT_S)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which the package is installed, as it would be beside everynode's."""
    directory = tmp_path_factory.mktemp("example")
    source = directory / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__"))
    target = directory / "installed"
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    run("-m", "pip", "install", *options, "--target", target, source, cwd=directory)
    return target


def run(*arguments: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run this Python away from the source tree; returns what it printed."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))
    }
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PROCESS_TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, f"{arguments}:\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def test_it_passes_the_conformance_kit(installed: Path, tmp_path: Path) -> None:
    """Its own tests, run as its author would run them, pass every case of the kit."""
    tests = shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    report = tmp_path / "report.xml"
    options = ("-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", f"--junitxml={report}")
    printed = run("-m", "pytest", *options, tests, cwd=tmp_path, path=installed)
    assert "skipped" not in printed
    assert report.read_text(encoding="utf-8").count("<testcase ") >= CASES_MIN


def test_it_is_found_by_its_entry_point(installed: Path, tmp_path: Path) -> None:
    """The engine lists it beside its own, without knowing it."""
    printed = run("-c", EVERYNODE, "adapter", "list", cwd=tmp_path, path=installed)
    names = [line.split()[0] for line in printed.splitlines()]
    assert {"directory", "simulated"} <= set(names)


BEHIND_A_HOST = """
import asyncio, json, sys
from importlib.metadata import entry_points
from pathlib import Path

from everynode.core.values import Node
from everynode.runtime.embedded import EmbeddedServer
from everynode.runtime.jetstream import connect
from everynode.runtime.settings import Connection, StreamSettings
from everynode.testing.hosting import create, outcomes, revision, running, say

async def main(path):
    (entry_point,) = entry_points(group="everynode.adapters", name="directory")
    adapter = entry_point.load().from_options("files", {"path": str(path)})
    (path / "nodes" / "a").write_text('{"uid": "1"}')
    small = StreamSettings(log_max_bytes=2**26)
    async with EmbeddedServer(None, 0) as server:
        connection = Connection(servers=(server.url,))
        async with await connect(connection, "test", create=small) as bus, running(bus, adapter):
            await say(bus, revision(), create(Node(backend="files", name="a", uid="1")))
            (outcome,) = await outcomes(bus, 1)
    pods = [json.loads(file.read_text()) for file in path.glob("pods/*/*")]
    print(json.dumps({"result": outcome.result, "nodes": [pod["node"] for pod in pods]}))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_it_works_behind_the_host(installed: Path, tmp_path: Path) -> None:
    """On a real log, its nodes are published and a command makes a file."""
    printed = run("-c", BEHIND_A_HOST, tmp_path / "files", cwd=tmp_path, path=installed)
    assert json.loads(printed.splitlines()[-1]) == {"result": "done", "nodes": ["a"]}
