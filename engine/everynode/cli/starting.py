"""How the program starts quickly: what is done before anything else of it is imported.

Called by `everynode.cli.main` and by nobody else: a program that uses the packages of this one decides such things
for itself. It imports nothing of ours and next to nothing of Python's.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

GARBAGE_THRESHOLD = 50_000
"""After how many new objects Python looks for cycles. What a worker keeps is large, long-lived and free of them, and so
is what is imported: looking through it after every 700 new objects, as Python does by default, takes a fifteenth of all
time, and more of the start."""


def start_quickly() -> None:
    """Do what makes the rest of the start quicker; no garbage is collected before `spare_garbage_collection`."""
    gc.disable()
    sys.meta_path.insert(0, LoadsQuickly())


def spare_garbage_collection() -> None:
    """Let Python look for garbage seldom, and never again among what is there by now: see `GARBAGE_THRESHOLD`."""
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 20)
    gc.enable()


class LoadsQuickly(MetaPathFinder):
    """Has some packages loaded in a way of their own, that of `LOADERS`.

    Of one that is loaded when it is used, only whoever is the first to import it is spared it; who imports it after
    that has asked for something. It is to be one thread that does.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find one of these packages as Python does; all others are left to Python."""
        loader = LOADERS.get(fullname)
        if loader is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = loader(spec.loader)
        return spec


class WithoutRich(Loader):
    """Loads a package as where rich is not installed; for all others it is there, before and after."""

    def __init__(self, loader: Loader) -> None:
        """Remember who loads it."""
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Make it as Python does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Load it, and let nobody find rich meanwhile."""
        # Who asks the module about itself, asks Python's own loader.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        rich = sys.modules.get("rich")
        sys.modules["rich"] = None  # type: ignore[assignment] # to an import this says that there is none
        try:
            self._loader.exec_module(module)
        finally:
            del sys.modules["rich"]
            if rich is not None:
                sys.modules["rich"] = rich


LOADERS: dict[str, Callable[[Loader], Loader]] = {
    # The NATS library imports this whenever it is there, and needs it for servers that are reached by WebSocket only.
    "aiohttp": LazyLoader,
    # It imports what rich writes tracebacks with, and that takes longer than all the rest of it; `cli.logs` asks for
    # tracebacks that it writes itself.
    "structlog": WithoutRich,
}
