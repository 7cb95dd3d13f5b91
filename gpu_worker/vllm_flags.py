"""Flags: what vLLM is started with: ours first, then the operator's own, which win.

`SLALOM_VLLM_ARGS` takes any flag of `vllm serve` and is read by vLLM's own parser. The step gate is
added where there are high and low tiers, and where the installed vLLM is one that it knows.
"""

import logging
import os
import shlex
import shutil
from argparse import Namespace
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from config.settings import ROOT, Settings
from gpu_worker.engine import EngineStartError
from gpu_worker.gate_policy import gate_options

logger = logging.getLogger(__name__)

ADDER = ROOT / "models" / "adder"
ADDER_FLAGS = ("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "64")
"""For the model in this repository, which is too small to gain from compilation."""

GATE = "slalom_gate"
"""Key of the gate's options in vLLM's `additional_config`."""
GATED_RELEASES = {"0.32"}
"""vLLM's releases for which `tests/contract/test_gate.py` has held the gate."""

FLAGS = ("--scheduling-policy", "priority", "--enable-prefix-caching", "--no-use-tqdm-on-load")


def prepare_environment(settings: Settings) -> None:
    """Set what vLLM reads from the environment at its import; the operator's own values stay."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")  # we have threads
    if Path(settings.model).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if _is_adder(settings):
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    if find_spec("nvidia") is None and shutil.which("g++") is None:
        # Without a compiler the first request that torch would compile for kills the engine.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


def _is_adder(settings: Settings) -> bool:
    return Path(settings.model).resolve() == ADDER


def parse_flags(settings: Settings) -> Namespace:
    """Return vLLM's own parse of our flags and the operator's; EngineStartError names a bad one."""
    parser = _parser()

    def refuse(message: str) -> NoReturn:
        raise EngineStartError(f"SLALOM_VLLM_ARGS: {message}; see `vllm serve --help`")

    parser.error = refuse
    adder = ADDER_FLAGS if _is_adder(settings) else ()
    ours = ["--model", settings.model, "--served-model-name", settings.served_model, *FLAGS, *adder]
    args: Namespace = parser.parse_args([*ours, *shlex.split(settings.vllm_args)])
    if args.scheduling_policy != "priority":
        refuse("--scheduling-policy must stay priority, or tiers would mean nothing in the engine")
    _add_gate(args, settings)
    return args


def _add_gate(args: Namespace, settings: Settings) -> None:
    """Have vLLM use our scheduler, where there are high and low tiers and this vLLM is known."""
    options = gate_options(settings)
    if options is None:
        return
    if args.scheduler_cls is not None:
        _warn_ungated(f"SLALOM_VLLM_ARGS names the scheduler {args.scheduler_cls}")
    elif (release := _release()) not in GATED_RELEASES:
        _warn_ungated(f"it is not known to work with vLLM {release}")
    else:
        args.scheduler_cls = "gpu_worker.gate.GatedScheduler"
        args.additional_config = {**(args.additional_config or {}), GATE: asdict(options)}


def _warn_ungated(reason: str) -> None:
    extra = {"event": "gate.off", "reason": reason}
    logger.warning("the step gate is off: low requests only leave seats free", extra=extra)


def _release() -> str:
    """Return major and minor of the installed vLLM, under either name of its package."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return ".".join(version(package).split(".")[:2])
        except PackageNotFoundError:
            continue
    return "unknown"


def _parser() -> Any:
    try:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    except ImportError:
        from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    return make_arg_parser(FlexibleArgumentParser(prog="SLALOM_VLLM_ARGS"))
