"""The text of one YAML document to plain values of JSON.

Used by ``documents``; knows nothing of Kubernetes. Values are made straight from the parser's events, so that what a
document can cost is limited while it is being read: how deep it nests, and how much its aliases expand to. They
are counted, not expanded: a value that an alias names is shared.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple, cast

import yaml
from yaml.composer import ComposerError

from everynode.errors import Problem
from everynode.manifest import scalars
from everynode.manifest.names import printable, quoted

DEPTH_MAX = 100
"""How many mappings and lists may stand inside each other."""

PROBLEMS_MAX = 100
"""How many problems of one document, or of one object, are reported."""

_KEY_IN_PATH_LENGTH_MAX = 64
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MERGE = "<<"
_MAP_TAGS = frozenset({None, "!", f"{scalars.TAG_PREFIX}map"})
_LIST_TAGS = frozenset({None, "!", f"{scalars.TAG_PREFIX}seq"})


class Parsed(NamedTuple):
    """What a text says.

    Attributes:
        line: The line of the file on which its content begins, from 1.
        value: In the types that JSON has; ``None`` if there is nothing in it, or it cannot be read at all.
        problems: What is wrong with the text; a value may still be there, as far as it could be read.
    """

    line: int
    value: Any
    problems: tuple[Problem, ...]


def child_path(path: str, key: str) -> str:
    """Name a field as kubectl does: ``spec.template``; ``metadata.labels[a.b/c]`` for a key with a dot in it."""
    if len(key) > _KEY_IN_PATH_LENGTH_MAX:
        key = f"{key[:_KEY_IN_PATH_LENGTH_MAX]}..."
    if not _PLAIN_KEY.fullmatch(key):
        return f"{path}[{printable(key)}]"
    return f"{path}.{key}" if path else key


def read_yaml(text: bytes, line: int, size_max: int) -> Parsed:
    """Read one document; whatever is wrong with it is in the result.

    Args:
        text: UTF-8.
        line: The line of the file on which the text begins.
        size_max: How much its aliases may add if they are expanded: characters, plus one for each value.
    """
    reader = _Reader(text, line, size_max)
    try:
        start, value = reader.read()
    except yaml.YAMLError as error:
        fatal = Problem("", _syntax_message(error, text, line))
        return Parsed(line, None, (*reader.problems, fatal))
    return Parsed(line + start, value, tuple(reader.problems))


def _syntax_message(error: yaml.YAMLError, text: bytes, line: int) -> str:
    """Say in one line where the text cannot be read, and why."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        where = f"line {line + mark.line}, column {mark.column + 1}"
        at_fault = text.decode().splitlines()[mark.line : mark.line + 1]
        if at_fault and at_fault[0][mark.column :].startswith("\t"):
            return f"{where}: there is a tab: YAML is indented with spaces only"
        context = f" ({error.context})" if error.context else ""
        return f"{where}: {error.problem}{context}"
    position = getattr(error, "position", 0)
    reason = getattr(error, "reason", None) or error
    lines_before = text.count(b"\n", 0, position)
    return f"line {line + lines_before}: {reason}"


class _Anchored(NamedTuple):
    value: Any
    size: int


class _Reader:
    """Makes plain values of a parser's events, for one document."""

    def __init__(self, text: bytes, line: int, size_max: int) -> None:
        self.problems: list[Problem] = []
        self._parser = yaml.CSafeLoader(text)  # only for its events
        self._line = line
        self._size_max = size_max
        self._size = (
            0  # of what was read so far, aliases expanded: characters, and one for each value
        )
        self._aliased_size = 0
        self._anchors: dict[str, _Anchored] = {}

    def read(self) -> tuple[int, Any]:
        """Return on which line of the text its content begins, and the content.

        Raises:
            yaml.YAMLError: The text cannot be read any further.
        """
        self._next()  # the stream begins
        if isinstance(self._next(), yaml.StreamEndEvent):
            return 0, None
        event = self._next()
        start = event.start_mark.line
        value = self._value(event, "", 0)
        self._next()  # the document ends
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise _refusal("a second document begins here: put a line '---' before it", event)
        return start, value

    def _next(self) -> Any:
        return self._parser.get_event()

    def _problem(self, path: str, message: str, event: Any) -> None:
        mark = event.start_mark
        where = f"line {self._line + mark.line}, column {mark.column + 1}"
        if len(self.problems) >= PROBLEMS_MAX:
            raise _refusal(
                f"there are more than {PROBLEMS_MAX} problems: correct these first", event
            )
        self.problems.append(Problem(path, f"{message} ({where})"))

    def _value(self, event: Any, path: str, depth: int) -> Any:
        if isinstance(event, yaml.AliasEvent):
            return self._aliased(event)
        before = self._size
        if isinstance(event, yaml.ScalarEvent):
            self._size += 1 + len(event.value)
            value: Any = self._scalar(event, path)
        elif depth >= DEPTH_MAX:
            raise _refusal(f"mappings and lists are nested deeper than {DEPTH_MAX}", event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._size += 1
            self._expect_tag(event, _LIST_TAGS, path)
            value = self._list(path, depth + 1)
        else:
            self._size += 1
            self._expect_tag(event, _MAP_TAGS, path)
            value = self._mapping(path, depth + 1)
        if event.anchor is not None:
            self._anchors[event.anchor] = _Anchored(value, self._size - before)
        return value

    def _aliased(self, event: Any) -> Any:
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            message = f"alias *{event.anchor} has no finished anchor &{event.anchor} before it"
            raise _refusal(message, event)
        self._size += anchored.size
        self._aliased_size += anchored.size
        if self._aliased_size > self._size_max:
            message = f"aliases (*name) add more than {self._size_max} characters: write fewer"
            raise _refusal(message, event)
        return anchored.value

    def _expect_tag(self, event: Any, expected: frozenset[str | None], path: str) -> None:
        if event.tag not in expected:
            shown = scalars.shown_tag(event.tag)
            message = f"has the tag {shown}, which is not supported: remove the tag"
            self._problem(path, message, event)

    def _scalar(self, event: Any, path: str) -> scalars.Scalar:
        try:
            if event.implicit[0] and event.tag is None:
                return scalars.plain(event.value)
            if event.tag in {None, "!"}:
                return cast("str", event.value)
            return scalars.tagged(event.tag, event.value)
        except ValueError as error:
            self._problem(path, str(error), event)
            return None

    def _list(self, path: str, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            values.append(self._value(event, f"{path}[{len(values)}]", depth))
        return values

    def _mapping(self, path: str, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        inherited: dict[str, Any] = {}
        merged = False
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            merges = _is_merge(event)
            key = _MERGE if merges else self._key(event, path, depth)
            at = path if key is None else child_path(path, key)
            value = self._value(self._next(), at, depth)
            if key is None:
                continue  # reported already
            if merged if merges else key in own:
                self._problem(at, f"key {quoted(key)} already set: keep one of them", event)
            elif merges:
                merged = True
                inherited = self._to_merge(value, at, event)
            else:
                own[key] = value
        return {**inherited, **own} if inherited else own

    def _key(self, event: Any, path: str, depth: int) -> str | None:
        """Read a key as text; as in Kubernetes' tools, a number or true or false is taken as it reads in JSON."""
        key = self._value(event, path, depth)
        if isinstance(key, str):
            return key
        if isinstance(key, bool):
            return "true" if key else "false"
        if isinstance(key, int | float):
            return str(key)
        self._problem(path, "a key must be text: put it in quotes", event)
        return None

    def _to_merge(self, value: Any, path: str, event: Any) -> dict[str, Any]:
        """Put together what ``<<`` brings in: of several mappings, the first one that has a key wins."""
        sources = value if isinstance(value, list) else [value]
        result: dict[str, Any] = {}
        for source in sources:
            if isinstance(source, dict):
                for key, child in source.items():
                    result.setdefault(key, child)
            else:
                self._problem(path, "only mappings can be merged: name anchors of mappings", event)
        return result


def _is_merge(event: Any) -> bool:
    if not isinstance(event, yaml.ScalarEvent) or event.value != _MERGE:
        return False
    return event.tag == f"{scalars.TAG_PREFIX}merge" or bool(
        event.tag is None and event.implicit[0]
    )


def _refusal(message: str, event: Any) -> ComposerError:
    return ComposerError(None, None, message, event.start_mark)
