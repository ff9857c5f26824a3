"""The version of the distribution, in the one place where it is written.

The build and the CLI read it from here. It imports nothing, so that every layer may import it.
"""

__version__ = "0.1.0"
