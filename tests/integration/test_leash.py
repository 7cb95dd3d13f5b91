"""EngineCore ends with the worker that started it, even when that is killed."""

import subprocess
import sys
import time
from importlib.metadata import entry_points

import psutil

from gpu_worker.leash import tie
from tests.conftest import until

PARENT = """
from multiprocessing import get_context
from tests.integration.test_leash import engine_core

process = get_context("spawn").Process(target=engine_core, name="EngineCore")
process.start()
print(process.pid, flush=True)
process.join()
"""


def engine_core() -> None:
    tie()
    sys.stdout.write("tied\n")
    sys.stdout.flush()
    time.sleep(3600)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_engine_core_whose_worker_is_killed_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        said = {worker.stdout.readline().decode().strip() for _ in range(2)}
        [pid] = map(int, said - {"tied"})

        worker.kill()

        until(lambda: not is_alive(pid))


def test_vllm_finds_it() -> None:
    [plugin] = entry_points(group="vllm.general_plugins", name="slalom_leash")

    assert plugin.load() is tie
