"""Daemons: what every process without a server of its own does around its loop."""

import signal
import sys
import threading
from collections.abc import Callable

from config import logs
from config.settings import Settings, SettingsError, load


def main(serve: Callable[[Settings, threading.Event], None]) -> None:
    """Run `serve` until TERM, INT or HUP sets its event; exit with one line on bad settings."""
    try:
        settings = load()
        settings.tiers()
    except SettingsError as error:
        sys.exit(f"invalid configuration:\n{error}")
    logs.configure(settings.log_level)
    stop = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, lambda *_: stop.set())
    serve(settings, stop)
