"""What `up` has to say in the end: one object for machines, a table and a sentence for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from everynode.cli.documents import Documents, Refused, plain_name
from everynode.cli.listing import status_cells
from everynode.cli.local import is_covered
from everynode.cli.tables import BAD, Cell, Columns, Row
from everynode.core.values import SetKey, Status
from everynode.runtime.counts import WorkerCounts

HEADER = (
    "NAMESPACE",
    "NAME",
    "DESIRED",
    "CURRENT",
    "READY",
    "UP-TO-DATE",
    "AVAILABLE",
    "MISSCHEDULED",
)


@dataclass(frozen=True, kw_only=True)
class Report:
    """How far a fleet has come.

    Attributes:
        nodes: How many nodes the simulated backend has.
        seconds: How long it took, from the start of the command.
        converged: Each node that should have a pod of a set has one that is ready, for every set.
        statuses: Of every set in the fleet.
        refused_nodes: Documents that were to become nodes.
    """

    fleet: str
    nodes: int
    seconds: float
    converged: bool
    statuses: dict[SetKey, Status]
    counts: WorkerCounts
    documents: Documents
    refused_nodes: list[Refused]

    @property
    def succeeded(self) -> bool:
        """Everything that was asked for is so."""
        return self.converged and not self.documents.refused and not self.refused_nodes

    def as_document(self) -> dict[str, Any]:
        """Write it as the one object of `-o json`."""
        rejected = [*self.refused_nodes, *self.documents.refused]
        return {
            "fleet": self.fleet,
            "nodes": self.nodes,
            "converged": self.converged,
            "seconds": round(self.seconds, 3),
            "daemonsets": [_set_document(key, status) for key, status in self.statuses.items()],
            "decisions": self.counts.decisions,
            "commands": {"create": self.counts.creates, "delete": self.counts.deletes},
            "rejected": [refused.as_document() for refused in rejected],
            "skipped": [
                {
                    "file": skipped.file,
                    "document": skipped.document,
                    "kind": skipped.kind,
                    "name": plain_name(skipped.name),
                }
                for skipped in self.documents.skipped
            ],
        }

    def print(self, *, timed: bool) -> None:
        """Print the table and the sentence."""
        if self.statuses:
            status_columns(self.statuses).print()
            print()
        print(self.sentence(timed=timed), flush=True)

    def sentence(self, *, timed: bool) -> str:
        """Say in a sentence how far it is.

        Args:
            timed: This is how it ended, so say after how long.
        """
        sets = _count(len(self.statuses), "DaemonSet")
        nodes = _count(self.nodes, "node")
        after = f" after {self.seconds:.1f} s" if timed else ""
        done = (
            f"{_count(self.counts.decisions, 'decision')}, {_count(self.counts.creates, 'create')}, "
            f"{_count(self.counts.deletes, 'delete')}"
        )
        if self.converged:
            return f"{sets} on {nodes}: all covered{after} ({done})"
        behind = [str(key) for key, status in self.statuses.items() if not is_covered(status)]
        which = f", behind: {', '.join(behind)}" if behind else ""
        return f"{sets} on {nodes}: not covered{after}{which} ({done})"


def status_columns(statuses: dict[SetKey, Status]) -> Columns:
    """Make the table of statuses."""
    rows: list[Row] = []
    for key, status in statuses.items():
        misscheduled = status.number_misscheduled
        last = Cell(str(misscheduled), BAD if misscheduled else "")
        rows.append([key.namespace, key.name, *status_cells(status), last])
    return Columns(HEADER, rows)


def _set_document(key: SetKey, status: Status) -> dict[str, Any]:
    return {
        "namespace": key.namespace,
        "name": key.name,
        "desired": status.desired_number_scheduled,
        "current": status.current_number_scheduled,
        "ready": status.number_ready,
        "updated": status.updated_number_scheduled,
        "available": status.number_available,
        "misscheduled": status.number_misscheduled,
    }


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
