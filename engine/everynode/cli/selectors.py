"""Label selectors as people type them: `tier=web,zone!=a,env in (prod, test),!legacy`.

Used by `get -l`. The grammar is the manifest's, the matching is the core's.
"""

from __future__ import annotations

import typer

from everynode.core.eligibility import matches
from everynode.core.values import Requirement


def parse_selector(text: str) -> tuple[Requirement, ...]:
    """Read a selector; the empty one matches everything.

    Raises:
        typer.BadParameter: A part of it is no requirement.
    """
    if not text:
        return ()
    from everynode.manifest.selectortext import parse_requirements  # noqa: PLC0415 - takes long

    try:
        return parse_requirements(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def selects(selector: tuple[Requirement, ...], labels: dict[str, str]) -> bool:
    """Say whether labels meet every requirement."""
    return all(matches(requirement, labels) for requirement in selector)
