"""Files as sources read them, out of texts, and what comes of them."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from everynode import wire
from everynode.core.values import DaemonSet
from everynode.errors import RecordingError
from everynode.ports import Happened, PassedOver, RecordedFile
from everynode.replay.recording import Entry
from everynode.replay.sources import recorded_file, stream_of_source
from everynode.runtime.view import FleetView
from everynode_kubernetes.recorded import read

Read = Callable[[Sequence[RecordedFile]], Iterator[Happened | PassedOver]]


def file_of(text: str | bytes, name: str = "file") -> RecordedFile:
    """A file with a content."""
    content = text.encode() if isinstance(text, str) else text
    return recorded_file(name, io.BufferedReader(io.BytesIO(content)))


class Reading(NamedTuple):
    """What came of files.

    Attributes:
        entries: The stream.
        view: What is there at its end.
        passed_over: What was not used.
        error: Why reading ended before the end; empty if it did not.
    """

    entries: list[Entry]
    view: FleetView
    passed_over: list[PassedOver]
    error: str

    @property
    def messages(self) -> list[wire.AnyMessage]:
        """What the stream says."""
        return [wire.decode(entry.received.payload) for entry in self.entries]

    @property
    def times_ms(self) -> list[int]:
        """When."""
        return [entry.received.time_ms for entry in self.entries]

    @property
    def faults(self) -> list[str]:
        """What should have been usable, with its place."""
        return [f"{each.where}: {each.why}" for each in self.passed_over if each.is_fault]


def reading_of(read: Read, *files: RecordedFile, daemonsets: Sequence[DaemonSet] = ()) -> Reading:
    """Read files to their end, or as far as that goes."""
    passed_over: list[PassedOver] = []
    stream = stream_of_source("files", "kind", read(files), passed_over.append, daemonsets)
    view, entries, error = FleetView(stream.subjects), [], ""
    try:
        for entry in stream.entries:
            entries.append(entry)
            view.fold(entry.received)
    except RecordingError as raised:
        error = str(raised)
    assert view.malformed == []
    assert [each.received.sequence for each in entries] == list(range(1, len(entries) + 1))
    return Reading(entries, view, passed_over, error)


def kubectl(*files: str | bytes | RecordedFile) -> Reading:
    """Read files of kubectl's, as those of the backend `cluster`."""
    taken = [each if isinstance(each, RecordedFile) else file_of(each) for each in files]
    return reading_of(functools.partial(read, backend="cluster"), *taken)


def node_names(reading: Reading) -> list[str]:
    """The nodes that are there at the end."""
    return sorted(key.name for key in reading.view.nodes)


# --- what kubectl writes ----------------------------------------------------------------------------------------------

Json = dict[str, Any]


def at(second: int) -> str:
    """A moment."""
    return f"2024-05-06T07:{second // 60:02}:{second % 60:02}Z"


def at_ms(second: int) -> int:
    """The same in ms since 1970."""
    return 1_714_978_800_000 + 1_000 * second


def api_object(
    kind: str, name: str, version: int, *, made: int = 0, changed: int | None = None, **fields: Any
) -> Json:
    """An object with what all have; `changed` is when its managed fields say that it was."""
    metadata: Json = {
        "name": name,
        "uid": f"uid-of-{name}",
        "resourceVersion": str(version),
        "creationTimestamp": at(made),
        **fields.pop("metadata", {}),
    }
    if kind != "Node":
        metadata.setdefault("namespace", "default")
    if changed is not None:
        metadata["managedFields"] = [{"manager": "m", "time": at(made)}, {"time": at(changed)}]
    api_version = "v1" if kind in {"Node", "Pod", "Service"} else "apps/v1"
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


def node(name: str, version: int, *, labels: Mapping[str, str] | None = None, **more: Any) -> Json:
    """A node that is ready."""
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": at(more.get("made", 0))}
    metadata = {"labels": dict(labels or {}), **more.pop("metadata", {})}
    status = {"conditions": [{**ready, **more.pop("condition", {})}]}
    return api_object("Node", name, version, metadata=metadata, status=status, **more)


def daemonset(name: str, version: int, *, image: str = "i:1", number: int = 1, **more: Any) -> Json:
    """A set, the template of which has a number."""
    labels = {"app": name}
    annotations = {"deprecated.daemonset.template.generation": str(number)}
    spec = {
        "selector": {"matchLabels": labels},
        "updateStrategy": {"type": "RollingUpdate"},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": image}]},
        },
    }
    metadata = {"generation": number, "annotations": annotations}
    return api_object("DaemonSet", name, version, metadata=metadata, spec=spec, **more)


def pod(
    name: str, version: int, *, of: str = "agent", on: str = "a", number: int = 1, **more: Any
) -> Json:
    """A pod of a set, made from the template with a number; its hash is `hash-<number>`."""
    metadata = {
        "labels": {
            "app": of,
            "controller-revision-hash": f"hash-{number}",
            "pod-template-generation": str(number),
        },
        "ownerReferences": [
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "name": of,
                "uid": f"uid-of-{of}",
                "controller": True,
            }
        ],
        **more.pop("metadata", {}),
    }
    status = more.pop("status", {"phase": "Running"})
    spec = {"nodeName": on}
    return api_object("Pod", name, version, metadata=metadata, spec=spec, status=status, **more)


def event(type_: str, api: Json) -> str:
    """A line of a watch."""
    return json.dumps({"type": type_, "object": api}) + "\n"


def watch(*events: tuple[str, Json]) -> str:
    """What a watch writes."""
    return "".join(event(type_, api) for type_, api in events)


def api_list(*items: Json) -> str:
    """What `kubectl get -o json` writes."""
    whole = {
        "apiVersion": "v1",
        "items": items,
        "kind": "List",
        "metadata": {"resourceVersion": ""},
    }
    return json.dumps(whole, indent=4) + "\n"


def lines(rows: Iterable[Sequence[object]]) -> str:
    """CSV."""
    return "".join(",".join(map(str, row)) + "\n" for row in rows)
