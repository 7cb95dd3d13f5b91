"""`python -m onebox [--scale fast=2,slow=1] [--no-demo] [--verbose]`: what `make run` executes.

Exit code 0 after a stop that was asked for, 1 if the system could not start, 2 if its settings are
wrong.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from dotenv import dotenv_values

from config.settings import Settings, SettingsError, load
from onebox import first_run, plan, procfile, stamp
from onebox.first_run import FirstRunError, Site
from onebox.plan import ROOT, VENV
from onebox.preflight import PreflightError, check_ports, only_run
from onebox.process import Service
from onebox.procfile import ProcfileError
from onebox.supervisor import Supervisor
from onebox.terminal import Terminal


def main() -> int:
    """Start everything that the Procfile names and serve until told to stop."""
    arguments = _arguments()
    os.chdir(ROOT)
    plan.choose_engine(os.environ, dotenv_values(".env"), stamp.load(VENV).engine)
    terminal = Terminal()
    try:
        settings = load()
        services = plan.services(settings, procfile.counts(arguments.scale))
        with only_run(settings.data_dir):
            check_ports(plan.ports(settings))
            return serve(settings, services, terminal, arguments)
    except SettingsError as error:
        print(f"invalid configuration:\n{error}", file=sys.stderr)
        return 2
    except (PreflightError, ProcfileError) as error:
        print(error, file=sys.stderr)
        return 1


def serve(
    settings: Settings, services: list[Service], terminal: Terminal, arguments: argparse.Namespace
) -> int:
    """Supervise the services, with the first run's demonstration beside."""
    logs = settings.data_dir / "logs"
    supervisor = Supervisor(
        services,
        logs=logs,
        environment=plan.environment(settings),
        terminal=terminal,
        is_verbose=arguments.verbose,
    )
    terminal.say(f"Starting {', '.join(s.name for s in services)}; logs in {nice(logs)}/")
    beside = partial(guide, settings, supervisor, terminal, with_jobs=not arguments.no_demo)
    return supervisor.run(beside)


def guide(
    settings: Settings, supervisor: Supervisor, terminal: Terminal, *, with_jobs: bool
) -> None:
    """Take a person from the start to the first answers; runs beside the supervisor."""
    site = Site(f"http://{plan.address(settings.host, settings.port)}")
    dashboard = f"http://{plan.address(settings.dashboard_bind, settings.dashboard_port)}"
    try:
        if not first_run.wait_until_ready(site, terminal, lambda: supervisor.is_stopping):
            return
    except FirstRunError as error:
        supervisor.give_up(str(error))
        return
    supervisor.is_ready = True
    with_key = first_run.needs_key(site)
    if with_jobs and not with_key:
        first_run.do_first_jobs(site, terminal)
    is_simulated = settings.engine == "sim"
    terminal.say(
        first_run.where_to_go(site, dashboard, is_simulated=is_simulated, with_key=with_key)
    )


def nice(path: Path) -> str:
    """Return a path as seen from the repository, where it is inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m onebox", description="Run Slalom on one box.")
    parser.add_argument("--scale", default="", help="how many of which process: fast=2,slow=1")
    parser.add_argument("--no-demo", action="store_true", help="send no first jobs")
    parser.add_argument("--verbose", action="store_true", help="show every process's output")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
