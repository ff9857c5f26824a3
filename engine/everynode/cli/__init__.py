"""What people type: the command `everynode`, one module for each group of commands.

This is the outermost layer: it reads files and options, starts the parts of `everynode.runtime`, and prints. It
decides nothing and knows no NATS. A command's module is imported only when that command is called, so that
`everynode version` does not wait for what `everynode up` needs.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process and end with an exit code (see `everynode --help`)."""
    from everynode.cli.starting import start_quickly  # noqa: PLC0415 - whoever imports one command decides for itself

    start_quickly()
    from everynode.cli.main import run  # noqa: PLC0415 - whoever imports a single command needs no other

    run()
