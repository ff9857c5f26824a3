"""What installed packages bring: adapters, doctors and sources, found by their entry points.

Used by the commands that run them. The engine knows no adapter but by its name.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Literal

from everynode.errors import ConfigurationError

ADAPTERS: Final = "everynode.adapters"
DOCTORS: Final = "everynode.doctors"
SOURCES: Final = "everynode.sources"

Group = Literal["everynode.adapters", "everynode.doctors", "everynode.sources"]

_KINDS: dict[Group, str] = {ADAPTERS: "adapter", DOCTORS: "doctor", SOURCES: "source"}


def installed(group: Group) -> list[EntryPoint]:
    """List what there is, by name."""
    return sorted(entry_points(group=group), key=lambda entry: entry.name)


def load(group: Group, name: str) -> Any:
    """Import what a package calls so.

    Raises:
        ConfigurationError: No package does, or what it needs is not installed.
    """
    kind = _KINDS[group]
    found = [entry for entry in installed(group) if entry.name == name]
    if not found:
        known = ", ".join(entry.name for entry in installed(group)) or "none"
        raise ConfigurationError(f"{kind} {name!r} is not installed; there are: {known}")
    try:
        return found[0].load()
    except (
        ImportError,
        AttributeError,
    ) as error:  # the latter: what is loaded when used may be broken
        # By custom, an extra of the package has the name of the adapter that needs it.
        package = found[0].dist.name if found[0].dist else name
        text = f"{kind} {name} cannot be loaded: {error}"
        extra = _adapter_beside(found[0])
        raise ConfigurationError(f"{text}; try: pip install '{package}[{extra}]'") from error


def _adapter_beside(entry: EntryPoint) -> str:
    """Name the adapter that something belongs to: the one from the same top-level package."""
    package = entry.module.partition(".")[0]
    beside = (each.name for each in installed(ADAPTERS) if each.module.partition(".")[0] == package)
    return next(beside, entry.name)
