"""What kubectl wrote of a cluster into a file, as changes of objects.

Used by ``recorded``. Taken are the events of a watch (``--watch --output-watch-events``), lists and single objects, in
any order; of lists that follow each other in a file, a later one says what is gone. Objects of kinds that the fleet has
no use for are counted; what cannot be read is named, and hides nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, cast

import msgspec

from everynode.ports import PassedOver, RecordedFile
from everynode_kubernetes.documents import Document, documents_of
from everynode_kubernetes.moments import moments_of
from everynode_kubernetes.nesting import decoded
from everynode_kubernetes.objects import (
    ApiObject,
    parse_controller_revision,
    parse_daemonset,
    parse_node,
    parse_pod,
)

Change = Literal["ADDED", "MODIFIED", "DELETED"]
Kind = Literal["Node", "ControllerRevision", "DaemonSet", "Pod"]


class _Readable(NamedTuple):
    """A kind of object that the fleet has a use for."""

    api_version: str
    parse: Callable[[msgspec.Raw], ApiObject]


KINDS: dict[str, _Readable] = {
    "Node": _Readable("v1", parse_node),
    "ControllerRevision": _Readable("apps/v1", parse_controller_revision),
    "DaemonSet": _Readable("apps/v1", parse_daemonset),
    "Pod": _Readable("v1", parse_pod),
}
"""In this order they are told of if they are equally old: what tells what another one means comes first."""


class Heard(NamedTuple):
    """An object that was added, changed or deleted.

    Attributes:
        version: The version of its store at which it was; of what a list does not name any more, the list's.
        created_ms: When it was made.
        changed_ms: When it was last changed, as far as it can tell.
    """

    change: Change
    kind: Kind
    api: ApiObject
    version: int
    created_ms: int
    changed_ms: int


class _Document(msgspec.Struct):
    """A list, the event of a watch, or an object; ``type`` and ``object`` are those of an event."""

    kind: Any = ""
    api_version: Any = msgspec.field(name="apiVersion", default="")
    items: msgspec.Raw = msgspec.Raw()
    type: Any = None
    object: msgspec.Raw = msgspec.Raw()


class _Name(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class _Head(msgspec.Struct):
    """What says which object this is; of a Status, what it says."""

    kind: str = ""
    api_version: str = msgspec.field(name="apiVersion", default="")
    metadata: _Name = msgspec.field(default_factory=_Name)
    message: str = ""


_Place = tuple[str, str, str]  # kind, namespace and name

_documents = msgspec.json.Decoder(_Document)
_items = msgspec.json.Decoder(list[msgspec.Raw] | None)
_heads = msgspec.json.Decoder(_Head)
_raw = msgspec.json.Decoder(msgspec.Raw)


class Watched:
    """One file.

    Args:
        file: The file; it is read once.
    """

    def __init__(self, file: RecordedFile) -> None:
        """Nothing has been read."""
        self._file = file
        self._others: Counter[str] = Counter()
        self._known: dict[_Place, ApiObject] = {}
        self._version = 0  # the newest that was read

    def heard(self) -> Iterator[Heard | PassedOver]:
        """Say what the file says.

        Raises:
            RecordingError: It was cut off; all before that was handed out.
        """
        for document in documents_of(self._file):
            if isinstance(document, PassedOver):
                yield document
            else:
                yield from self._read(document)
        if self._others:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self._others.items()))
            yield PassedOver(self._file.name, f"objects of no concern: {kinds}", is_fault=False)

    def _read(self, document: Document) -> Iterator[Heard | PassedOver]:
        whole = decoded(_documents, document.text)
        if bytes(whole.object) and isinstance(whole.type, str):
            yield from self._event(document, whole.type, whole.object)
        elif bytes(whole.items) and str(whole.kind).endswith("List"):
            yield from self._list(document, whole)
        else:
            yield from self._alone(document)

    def _event(
        self, document: Document, type_: str, raw: msgspec.Raw
    ) -> Iterator[Heard | PassedOver]:
        if type_ in {"ADDED", "MODIFIED", "DELETED"}:
            yield from self._object(document, cast("Change", type_), raw, "", "")
        elif type_ == "ERROR":
            said = _head_of(raw)
            message = said.message if said else ""
            yield self._passed_over(document, f"the watch ended with an error: {message}")
        elif type_ != "BOOKMARK":
            yield self._passed_over(document, f"events of type {type_!r} are not known")

    def _alone(self, document: Document) -> Iterator[Heard | PassedOver]:
        """Read an object that is no event's; the second time it would hide what was deleted in between."""
        head = _head_of(document.text)
        if head is None or not head.kind:
            yield self._passed_over(document, "it is no object, list or event of Kubernetes")
        elif _place_of(head) in self._known:
            text = f"{_title(head)} is there again, and not as an event: what was deleted could not be told"
            yield self._passed_over(document, f"{text}; watch with --output-watch-events")
        else:
            yield from self._object(document, "ADDED", decoded(_raw, document.text), "", "")

    def _list(self, document: Document, whole: _Document) -> Iterator[Heard | PassedOver]:
        """Read a list, and say what it does not name any more of the kinds that it has.

        If there is something without a readable name in it, nothing can be taken for gone.
        """
        kind = str(whole.kind).removesuffix("List")
        named: set[_Place] = set()
        kinds = {kind}
        for raw in decoded(_items, whole.items) or ():
            head = _head_of(raw)
            if head is None:
                named.update(self._known)
            else:
                head.kind = head.kind or kind
                kinds.add(head.kind)
                named.add(_place_of(head))
            yield from self._object(document, "ADDED", raw, kind, str(whole.api_version))
        for place in [each for each in self._known if each[0] in kinds and each not in named]:
            api = self._known.pop(place)
            yield Heard("DELETED", cast("Kind", place[0]), api, self._version, 0, 0)

    def _object(
        self, document: Document, change: Change, raw: msgspec.Raw, kind: str, api_version: str
    ) -> Iterator[Heard | PassedOver]:
        """Read an object.

        Args:
            document: What it stands in.
            change: What has become of it.
            raw: The object.
            kind: Its kind if it does not say so itself, as in lists that an API server writes.
            api_version: Likewise.
        """
        head = _head_of(raw)
        if head is None:
            yield self._passed_over(document, "an object without a readable name")
            return
        head.kind = head.kind or kind
        readable = KINDS.get(head.kind)
        if readable is None or (head.api_version or api_version) != readable.api_version:
            self._others[head.kind or "nameless"] += 1
            return
        try:
            api = readable.parse(raw)
        except msgspec.DecodeError as error:
            yield self._passed_over(document, f"{_title(head)} cannot be read: {error}")
            return
        place = _place_of(head)
        if change == "DELETED":
            self._known.pop(place, None)
        else:
            known = self._known.get(place)
            if known is not None:
                if 0 < api.resource_version <= known.resource_version:
                    return  # it is there once more
                change = "MODIFIED"
            self._known[place] = api
        version = api.resource_version
        self._version = max(self._version, version)
        yield Heard(change, cast("Kind", head.kind), api, version, *moments_of(raw))

    def _passed_over(self, document: Document, why: str) -> PassedOver:
        return PassedOver(f"{self._file.name}: line {document.line}", why)


def _head_of(raw: bytes | msgspec.Raw) -> _Head | None:
    try:
        return decoded(_heads, raw)
    except msgspec.DecodeError:
        return None


def _place_of(head: _Head) -> _Place:
    return head.kind, head.metadata.namespace, head.metadata.name


def _title(head: _Head) -> str:
    namespace, name = head.metadata.namespace, head.metadata.name
    return f"{head.kind} {namespace}/{name}" if namespace else f"{head.kind} {name}"
