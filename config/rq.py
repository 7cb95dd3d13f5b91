"""Configuration of RQ's command line: `rq worker -c config.rq …`, `rq info -c config.rq`."""

import sys

from config.settings import SettingsError, load

try:
    REDIS_URL = load().redis
except SettingsError as error:
    sys.exit(f"invalid configuration:\n{error}")

QUEUES = ["high", "low"]
