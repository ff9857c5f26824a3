"""Exactly one pod of each DaemonSet on every node that should have one, on any backend.

The subpackages are the layers: `core` decides and is pure, `runtime` connects it to the log and to
the adapters, `cli` is what people type, and `testing` is what adapter authors test with. Which
layer may import which is fixed in `.importlinter`. This module knows nothing but the version.
"""

from everynode._version import __version__

__all__ = ["__version__"]
