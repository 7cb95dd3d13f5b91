"""YAML faults: what is wrong with a file that a person wrote, each with its line.

A fault is a place in the document (keys and list indexes) and a sentence. The place becomes a line
by YAML's own nodes, so that an error is `file:line: key: what, and how to mend it`.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

Place = tuple[str | int, ...]
Fault = tuple[Place, str]


class UnreadableYaml(Exception):
    """The file cannot be read, or is no YAML; the message names it and says why."""


class _Loader(yaml.SafeLoader):
    """Safe, with dates as the text they are: no file here has any.

    Said here and not left to SafeLoader, whose own reading of them vLLM's lm-format-enforcer
    switches off for the whole process that imports it.
    """


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: str(node.value))


def read(path: Path) -> tuple[yaml.Node | None, Any]:
    """Return the nodes of the file, which know their lines, and its content."""
    try:
        text = path.read_text(encoding="utf-8")
        return yaml.compose(text, Loader=_Loader), yaml.load(text, Loader=_Loader)
    except OSError as error:
        raise UnreadableYaml(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableYaml(f"{path}: is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise UnreadableYaml(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error


def of_pydantic(error: ValidationError) -> list[Fault]:
    """Return what breaks a schema."""
    return [
        (e["loc"], f"{dotted(e['loc'])}: {_advice(e)}") for e in error.errors(include_url=False)
    ]


def repeated_keys(node: yaml.Node | None, path: Place = ()) -> list[Fault]:
    """Return keys written twice in one mapping: YAML would silently keep the last."""
    if isinstance(node, yaml.SequenceNode):
        return [f for i, child in enumerate(node.value) for f in repeated_keys(child, (*path, i))]
    if not isinstance(node, yaml.MappingNode):
        return []
    seen: set[str] = set()
    faults: list[Fault] = []
    for key, value in node.value:
        here = (*path, key.value)
        if key.value in seen:
            faults.append((here, f"{dotted(here)}: written twice; keep one"))
        seen.add(key.value)
        faults += repeated_keys(value, here)
    return faults


def lines(path: Path, root: yaml.Node | None, faults: list[Fault]) -> str:
    """Return the faults as text, one line each."""
    return "\n".join(f"{path}:{_line_of(root, place)}: {text}" for place, text in faults)


def dotted(place: Place) -> str:
    """Return a place as people write it."""
    return ".".join(map(str, place)) or "the file"


def _advice(error: Any) -> str:
    if error["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return "unknown key; remove it or correct its spelling"
    if error["type"] == "missing":
        return "missing; every entry of its kind needs it"
    return str(error["msg"]).removeprefix("Value error, ")


def _line_of(node: yaml.Node | None, place: Place) -> int:
    """Return the line of the deepest part of `place` that the file has."""
    line = 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [(k, v) for k, v in node.value if k.value == str(part)]
            if not found:
                break
            line, node = found[-1][0].start_mark.line + 1, found[-1][1]
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
