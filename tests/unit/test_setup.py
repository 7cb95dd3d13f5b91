import re
import shutil
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from onebox import interpreter, stamp
from onebox.installer import count, explain
from onebox.interpreter import SetupError
from onebox.machine import CPU, CUDA, Machine, choose
from onebox.plan import choose_engine
from onebox.setup import TORCH, check_disk, outcome, settled_engine
from onebox.stamp import Stamp

ROOT = Path(__file__).resolve().parents[2]
HERE = "x86_64 nvidia=False"


@pytest.mark.parametrize(
    ("machine", "builds", "reason"),
    [
        (Machine(), [CPU], None),
        (Machine(processor="aarch64", has_avx2=False), [CPU], None),
        (Machine(gpus=1, driver=580), [CUDA, CPU], None),
        (Machine(gpus=1, driver=0), [CUDA, CPU], None),
        (Machine(gpus=2, driver=535), [CPU], "driver is 535 and CUDA 13 needs 580"),
        (Machine(has_avx2=False), [], "needs a processor with AVX2"),
        (Machine(has_avx2=False, gpus=1, driver=590), [CUDA], "needs a processor with AVX2"),
        (Machine(system="Darwin", processor="aarch64"), [], "this is Darwin on aarch64"),
        (Machine(processor="riscv64"), [], "this is Linux on riscv64"),
    ],
)
def test_the_build_of_vllm_follows_from_the_machine(machine, builds, reason):
    choice = choose(machine)

    assert list(choice.builds) == builds
    assert (reason is None) == (not choice.reasons)
    assert reason is None or reason in choice.reasons[0]


@pytest.mark.parametrize(
    ("ask", "state", "engine"),
    [
        ("auto", Stamp("v"), None),
        ("vllm", Stamp("v"), None),
        ("sim", Stamp("v"), "sim"),
        ("auto", Stamp("v", {"vllm-cpu": "new"}, choice_made_on=HERE), "vllm"),
        ("auto", Stamp("v", {"vllm-cuda": "new"}, choice_made_on=HERE), "vllm"),
        ("sim", Stamp("v", {"vllm-cpu": "new"}, choice_made_on=HERE), "sim"),
        ("auto", Stamp("v", {"vllm-cpu": "old"}, choice_made_on=HERE), None),
        ("auto", Stamp("v", {"vllm-cpu": "new"}, choice_made_on="before the GPU came"), None),
        ("auto", Stamp("v", why_sim="no AVX2", choice_made_on=HERE), "sim"),
        ("vllm", Stamp("v", why_sim="no AVX2", choice_made_on=HERE), None),
        ("auto", Stamp("v", why_sim="no AVX2", choice_made_on="another machine"), None),
    ],
)
def test_an_engine_is_settled_once_for_the_same_locks_and_machine(ask, state, engine):
    wanted = {"vllm-cpu": "new", "vllm-cuda": "new"}

    assert settled_engine(ask, state, wanted, HERE) == engine


def test_a_disk_without_room_stops_the_large_installation():
    check_disk(6e9, CPU)

    with pytest.raises(SetupError, match=r"about 14 GB .* 6\.0 GB are free .* ENGINE=sim make run"):
        check_disk(6e9, CUDA)


@pytest.mark.parametrize(
    ("state", "ask", "line"),
    [
        (Stamp("v", {"vllm-cpu": "d"}, "vllm"), "auto", "Engine: vLLM for CPU."),
        (Stamp("v", {"vllm-cuda": "d"}, "vllm"), "auto", "Engine: vLLM for CUDA."),
        (Stamp("v", engine="sim"), "sim", "Engine: simulated, as asked; no model runs."),
        (
            Stamp("v", engine="sim", why_sim="no AVX2"),
            "auto",
            "Engine: simulated, because vLLM cannot be had: no AVX2."
            " `ENGINE=vllm make setup` tries again.",
        ),
    ],
)
def test_set_up_ends_by_naming_the_engine(state, ask, line):
    assert outcome(ask, state) == line


@pytest.mark.parametrize(
    ("output", "advice", "is_unavailable"),
    [
        (
            "WARNING: Retrying ... NewConnectionError\nERROR: No matching distribution found for a",
            "The package index does not answer",
            False,
        ),
        (
            "ERROR: No matching distribution found for torch==2.13.0+cpu",
            "no torch==2.13.0+cpu for this Python and machine",
            True,
        ),
        ("OSError: [Errno 28] No space left on device", "The disk is full", False),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "not the one that was locked", False),
        ("[Errno 13] Permission denied: '.venv'", "belong to another user", False),
        ("Segmentation fault", "The installation failed", False),
    ],
)
def test_a_failed_installation_is_explained_in_a_sentence(output, advice, is_unavailable):
    error = explain(output)

    assert advice in str(error)
    assert error.is_unavailable == is_unavailable


def test_a_python_too_old_is_told_which_ones_will_do(tmp_path):
    with pytest.raises(SetupError, match=r"needs Python 3\.11, 3\.12 or 3\.13, and this is 3\.9"):
        interpreter.find(running=(3, 9), path=str(tmp_path))


def test_beside_a_python_too_old_a_fitting_one_on_path_is_found(tmp_path):
    fitting = tmp_path / "python{}.{}".format(*sys.version_info)
    fitting.symlink_to(sys.executable)

    assert interpreter.find(running=(3, 9), path=str(tmp_path)) == str(fitting)


def test_a_stamp_counts_only_in_the_environment_it_was_made_for(tmp_path):
    venv, copy = tmp_path / "venv", tmp_path / "copy"
    venv.mkdir()
    Stamp(str(venv), {"core": "digest"}, engine="sim").save()
    shutil.copytree(venv, copy)

    assert stamp.load(venv).has("core", "digest")
    assert not stamp.load(copy).parts


def test_a_broken_stamp_counts_as_none(tmp_path):
    (tmp_path / stamp.FILE).write_text('{"colour": "blue"}')

    assert stamp.load(tmp_path) == Stamp(str(tmp_path))


def test_a_digest_changes_with_any_of_its_files(tmp_path):
    lock, other = tmp_path / "a.txt", tmp_path / "b.txt"
    lock.write_text("rq==2.12.0")
    before = stamp.digest([lock, other])

    other.write_text("")

    assert stamp.digest([lock, other]) != before


@pytest.mark.parametrize(
    ("environment", "env_file", "engine"),
    [
        ({}, {}, "sim"),
        ({"SLALOM_ENGINE": "vllm"}, {}, "vllm"),
        ({"SLALOM_ENGINE": ""}, {}, "sim"),
        ({}, {"SLALOM_ENGINE": "vllm"}, None),
    ],
)
def test_set_ups_engine_runs_unless_the_person_names_one(environment, env_file, engine):
    choose_engine(environment, env_file, "sim")

    assert environment.get("SLALOM_ENGINE") == engine


def test_the_locks_agree_and_name_no_index():
    versions: dict[str, set[str]] = {}
    for lock in ("core", "dev", "vllm-cpu", "vllm-cuda"):
        text = (ROOT / "requirements" / f"{lock}.txt").read_text()
        assert "://" not in text
        assert count(ROOT / "requirements" / f"{lock}.txt") > 10
        for name, version in re.findall(r"^(\S+)==(\S+)(?! ;) \\$", text, re.MULTILINE):
            versions.setdefault(name, set()).add(version)

    shared = ("openai", "transformers", "pydantic", "rq", "numba", "fastapi", "tokenizers")
    assert {name: len(versions[name]) for name in shared} == dict.fromkeys(shared, 1)


def test_pytorch_for_cpu_is_the_one_that_vllm_names():
    try:
        wanted = metadata.requires("vllm-cpu") or []
    except metadata.PackageNotFoundError:
        pytest.skip("vLLM for CPU is not installed")

    assert any(line.startswith(f"{TORCH.read_text().split()[-1]};") for line in wanted)


def test_every_package_of_slalom_is_in_its_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    roots = {name.partition(".")[0] for name in listed}

    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for root in roots
        for file in (ROOT / root).rglob("*.py")
    }

    assert found <= listed
