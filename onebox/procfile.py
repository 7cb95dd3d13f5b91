"""The Procfile: one `name: command` a line, as honcho and Heroku read it."""

import re
from pathlib import Path

ENTRY = re.compile(r"(?P<name>[A-Za-z0-9_-]+):\s*(?P<command>\S.*)")


class ProcfileError(Exception):
    """A Procfile cannot be read; the message names the file and the line."""


def read(path: Path) -> dict[str, str]:
    """Return the commands of a Procfile by process name, in its order."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ProcfileError(f"{path}: {error.strerror}") from error
    return parse(text, path.name)


def parse(text: str, file: str = "Procfile") -> dict[str, str]:
    """Return the commands of a Procfile's text; `file` is for the messages."""
    commands: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        entry = ENTRY.fullmatch(line.strip())
        if entry is None:
            raise ProcfileError(f"{file}:{number}: not of the form `name: command`: {line.strip()}")
        if entry["name"] in commands:
            raise ProcfileError(f"{file}:{number}: a second process named {entry['name']}")
        commands[entry["name"]] = entry["command"]
    if not commands:
        raise ProcfileError(f"{file}: names no process")
    return commands


def formation(commands: dict[str, str], counts: dict[str, int]) -> dict[str, str]:
    """Return the command of each instance: `fast`, or `fast.1` and `fast.2` where there are more.

    A process that `counts` does not name runs once.
    """
    unknown = ", ".join(counts.keys() - commands.keys())
    if unknown:
        raise ProcfileError(f"no process named {unknown}; there are {', '.join(commands)}")
    instances = {}
    for name, command in commands.items():
        count = counts.get(name, 1)
        for number in range(1, count + 1):
            instances[name if count == 1 else f"{name}.{number}"] = command
    return instances


def counts(text: str) -> dict[str, int]:
    """Read `fast=2,slow=1`; ProcfileError where it is not of that form."""
    result = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.strip().partition("=")
        if not name or not number.isdecimal():
            raise ProcfileError(f"not of the form name=number: {part.strip()}")
        result[name] = int(number)
    return result
