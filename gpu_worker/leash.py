"""Leash: the engine does not outlive its worker, however that dies.

vLLM loads `tie` as a plugin (`vllm.general_plugins` in pyproject.toml) into every process that it
starts. By itself EngineCore stays when its worker is killed with SIGKILL, for ever, and keeps the
memory of the GPU that the next worker needs.
"""

import multiprocessing
import os
import signal
import threading


def tie() -> None:
    """End this process with the one that started it, if this is EngineCore; its own follow it."""
    parent = multiprocessing.parent_process()
    if parent is None or not multiprocessing.current_process().name.startswith("EngineCore"):
        return

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=follow, name="leash", daemon=True).start()
