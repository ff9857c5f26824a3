"""What README.md says about a Kubernetes cluster works: each line is run in order, as somebody would type it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from tests.kubernetes.conftest import StartControlPlane
from tests.kubernetes.support_fleet import daemonset_manifest, until_covered

from everynode.runtime.embedded import EmbeddedServer

README = Path(__file__).resolve().parents[2] / "README.md"
SECTION = re.compile(r"^## On a Kubernetes cluster$(.*?)^## ", re.MULTILINE | re.DOTALL)
PROMPT = "$ .venv/bin/everynode "
PROGRAM = (sys.executable, "-c", "from everynode.cli import main; main()")
STAYING = ("worker", "adapter")
NODES = 3

pytestmark = pytest.mark.slow


def lines() -> list[list[str]]:
    """The arguments of each command of the section."""
    section = SECTION.search(README.read_text(encoding="utf-8"))
    assert section is not None
    found = [line for line in section[1].splitlines() if line.startswith("$ ")]
    assert all(line.startswith(PROMPT) for line in found)
    return [shlex.split(line.removeprefix(PROMPT)) for line in found]


async def test_every_line_about_a_cluster_works(
    start_control_plane: StartControlPlane, tmp_path: Path
) -> None:
    """Whoever types what the README says has a cluster whose DaemonSets are looked after."""
    async with (
        start_control_plane(nodes=NODES) as plane,
        EmbeddedServer(tmp_path / "nats", 0) as server,
    ):
        cleared = {key: text for key, text in os.environ.items() if "EVERYNODE" not in key}
        environment = {
            **cleared,
            "EVERYNODE_NATS": server.url,
            "KUBECONFIG": str(plane.kubeconfig),
            "HOME": str(plane.directory),
        }
        staying = []
        try:
            for words in lines():
                process = await asyncio.create_subprocess_exec(
                    *PROGRAM, *words, env=environment, stdout=asyncio.subprocess.DEVNULL
                )
                if words[0] in STAYING:
                    staying.append(process)
                else:
                    assert 0 == await process.wait(), words
            assert {words[0] for words in lines()} >= set(STAYING)
            await plane.kubectl("apply", "-f", "-", stdin=daemonset_manifest("agent"))
            nodes = [f"node-{number}" for number in range(NODES)]
            await until_covered(plane, "default", "agent", nodes)
        finally:
            for process in staying:
                process.terminate()
                await process.wait()
        assert [0, 0] == [process.returncode for process in staying]
