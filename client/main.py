"""Entry point: `slalom`. Ctrl-C is answered in one line even while the program still loads."""

import sys


def main() -> None:
    """Run one command; ends the process with its exit status."""
    try:
        from client.commands import app
        from client.terminal import prepare

        prepare()
        app(prog_name=_name())
    except KeyboardInterrupt:
        sys.exit(130)


def _name() -> str:
    """Return what the program was called as."""
    return "python -m client" if sys.argv[0].endswith("__main__.py") else "slalom"
