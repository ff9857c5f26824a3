"""Which objects a person means: `daemonsets`, `ds/fluentd`, `node web-1 web-2`.

Used by `get`, `describe`, `delete`, `explain` and `timeline`. The names and short names are kubectl's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import typer


class Resource(NamedTuple):
    """A kind of object that people can name.

    Attributes:
        plural: What it is called on the command line and in messages.
        qualified: How one of them is named by `-o name` and by `apply`.
        namespaced: Its objects live in namespaces.
    """

    plural: str
    singular: str
    short: str
    qualified: str
    namespaced: bool


DAEMONSETS = Resource("daemonsets", "daemonset", "ds", "daemonset.apps", namespaced=True)
NODES = Resource("nodes", "node", "no", "node", namespaced=False)
PODS = Resource("pods", "pod", "po", "pod", namespaced=True)
RESOURCES = (DAEMONSETS, NODES, PODS)

_BY_NAME = {
    name: resource
    for resource in RESOURCES
    for name in (resource.plural, resource.singular, resource.short, resource.qualified)
} | {"daemonsets.apps": DAEMONSETS}


SetKind = Annotated[str, typer.Argument(metavar="daemonset|daemonset/NAME", help="daemonset (ds).")]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="NAME", help="Their names.", show_default=False)
]


class Named(NamedTuple):
    """What was named: a kind, and objects of it; no name means all of them."""

    resource: Resource
    names: tuple[str, ...]


def resource_of(text: str, allowed: Sequence[Resource] = RESOURCES) -> Resource:
    """Find the kind of object that a word means.

    Raises:
        typer.BadParameter: It means none, or none of the allowed ones.
    """
    resource = _BY_NAME.get(text.lower())
    if resource is None or resource not in allowed:
        known = ", ".join(f"{resource.plural} ({resource.short})" for resource in allowed)
        raise typer.BadParameter(f"{text!r} is no kind of object that can be named here: {known}")
    return resource


def parse_named(words: Sequence[str], allowed: Sequence[Resource] = RESOURCES) -> Named:
    """Read `TYPE [NAME ...]` or `TYPE/NAME ...`.

    Raises:
        typer.BadParameter: The type is unknown, or the two forms or two types are mixed.
    """
    if not any("/" in word for word in words):
        return Named(resource_of(words[0], allowed), tuple(words[1:]))
    split = [word.partition("/") for word in words]
    for word, (kind, _, name) in zip(words, split, strict=True):
        if not kind or not name:
            raise typer.BadParameter(f"{word!r}: name every object as TYPE/NAME, or none of them")
    kinds = {resource_of(kind, allowed) for kind, _, _ in split}
    if len(kinds) > 1:
        raise typer.BadParameter("name objects of one kind at a time")
    return Named(kinds.pop(), tuple(name for _, _, name in split))
