"""The nodes of a simulated fleet: from a generator, or from v1 Node manifests.

Used by `up` and `adapter simulated`.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import typer

from everynode.cli.documents import Refused, refused_document, refused_file
from everynode.cli.files import Source, read_sources
from everynode.cli.terminal import note_line, warning_line
from everynode.core.values import Node
from everynode.errors import InvalidObjectError, Problem
from everynode.manifest import read_nodes
from everynode_simulated import generate_nodes

NODE_COUNT_DEFAULT = 60
NODE_COUNT_MAX = 200_000
NO_NODE = "has no v1 Node in it"

NodeCount = Annotated[
    int | None,
    typer.Option(
        "--nodes",
        metavar="N",
        min=0,
        max=NODE_COUNT_MAX,
        help="How many nodes to generate.",
        show_default=str(NODE_COUNT_DEFAULT),
    ),
]
NodeFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--nodes-from",
        metavar="FILE|DIR",
        help="Take the nodes from v1 Node manifests instead, as `kubectl get nodes -o yaml` writes them.",
        show_default=False,
    ),
]
Seed = Annotated[
    int,
    typer.Option("--seed", help="What is generated, and what looks like chance, comes from it."),
]


class FoundNodes(NamedTuple):
    """The nodes, and the documents that are refused."""

    nodes: list[Node]
    refused: list[Refused]

    @property
    def usable(self) -> bool:
        """There is a fleet to simulate: nodes, or nobody asked for any."""
        return bool(self.nodes) or not self.refused


def find_nodes(count: int | None, files: list[str] | None, seed: int, backend: str) -> FoundNodes:
    """Generate nodes or read them; says on stderr what is wrong with files.

    Raises:
        typer.BadParameter: A number and files are given.
    """
    if files and count is not None:
        raise typer.BadParameter("give --nodes or --nodes-from, not both", param_hint="--nodes")
    if not files:
        wanted = NODE_COUNT_DEFAULT if count is None else count
        return FoundNodes(generate_nodes(wanted, seed, backend), [])
    return _read_nodes(files, backend)


def _read_nodes(paths: list[str], backend: str) -> FoundNodes:
    found_at = {path: list(read_sources([path])) for path in paths}
    everything = [each for found in found_at.values() for each in found]
    refused = [refused_file(each) for each in everything if not isinstance(each, Source)]
    found = read_nodes([each for each in everything if isinstance(each, Source)], backend)
    refused += [refused_document(rejected) for rejected in found.rejected]
    mentioned = {each.file for each in (*found.accepted, *found.rejected)}
    refused += [
        refused_file(InvalidObjectError(path, (Problem("", NO_NODE),)))
        for path, sources in found_at.items()
        if all(isinstance(each, Source) and each.name not in mentioned for each in sources)
    ]
    for each in refused:
        each.report()
    for accepted in found.accepted:
        for warning in accepted.warnings:
            warning_line(f"{accepted.place}: {accepted.subject}: {warning}")
    if found.skipped:
        note_line(f"skipped {len(found.skipped)} documents that are no Node")
    return FoundNodes([accepted.node for accepted in found.accepted], refused)
