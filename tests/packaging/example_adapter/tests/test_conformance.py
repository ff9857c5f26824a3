"""The directory adapter passes everynode's conformance kit."""

from __future__ import annotations

import tempfile
import uuid
from pathlib import Path

import msgspec
from everynode_directory import DirectoryAdapter  # type: ignore[import-not-found]  # installed by the test

from everynode.core.values import Pod
from everynode.ports import Adapter
from everynode.testing.conformance import AdapterConformance, Harness, SeenPod


class DirectoryHarness(Harness):
    """A directory, looked at and changed past the adapter."""

    def __init__(self) -> None:
        """Begin with two nodes."""
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name)
        (self.path / "nodes").mkdir()
        for name in ("node-a", "node-b"):
            self.write_node(name)

    def write_node(self, name: str) -> None:
        """Write a node's file."""
        content = msgspec.json.encode(
            {"uid": uuid.uuid4().hex, "labels": {"kubernetes.io/hostname": name}}
        )
        (self.path / "nodes" / name).write_bytes(content)

    async def make_adapter(self) -> Adapter:
        """Make a further adapter for the same directory."""
        adapter: Adapter = DirectoryAdapter.from_options("directory", {"path": str(self.path)})
        return adapter

    async def node_names(self) -> list[str]:
        """List the files."""
        return [path.name for path in (self.path / "nodes").iterdir()]

    async def pods(self) -> list[SeenPod]:
        """Read the files."""
        seen = []
        for path in sorted((self.path / "pods").glob("*/*")):
            fields = msgspec.json.decode(path.read_bytes())
            seen.append(SeenPod(path.parent.name, path.name, fields.get("uid", ""), fields["node"]))
        return seen

    async def add_node(self, name: str) -> None:
        """Write a node's file."""
        self.write_node(name)

    async def remove_node(self, name: str) -> None:
        """Remove a node's file."""
        (self.path / "nodes" / name).unlink()

    async def remove_pod(self, namespace: str, name: str) -> None:
        """Remove a pod's file."""
        (self.path / "pods" / namespace / name).unlink()

    async def add_foreign_pod(self, namespace: str, name: str, node: str) -> None:
        """Write a file that is not a pod of ours."""
        path = self.path / "pods" / namespace / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(msgspec.json.encode({"node": node}))

    async def add_orphan(
        self, namespace: str, name: str, node: str, labels: dict[str, str]
    ) -> None:
        """Write a pod without an owner."""
        pod = Pod(
            backend="directory",
            namespace=namespace,
            name=name,
            uid=uuid.uuid4().hex,
            node=node,
            labels=labels,
        )
        path = self.path / "pods" / namespace / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(msgspec.json.encode(pod))

    async def close(self) -> None:
        """Remove the directory."""
        self.directory.cleanup()


class TestDirectory(AdapterConformance):
    """All cases of the kit."""

    async def make_harness(self) -> Harness:
        """Make a directory."""
        return DirectoryHarness()
