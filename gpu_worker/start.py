"""The engine that the settings name, started."""

import logging
from importlib.util import find_spec

from config.settings import Settings
from gpu_worker.engine import Engine, EngineStartError
from gpu_worker.sim_engine import SimEngine

logger = logging.getLogger(__name__)


async def start_engine(settings: Settings) -> Engine:
    """Return a ready engine; EngineStartError with one clear line if it cannot be had."""
    extra = {"event": "engine.starting", "engine": settings.engine, "model": settings.model}
    logger.info("engine starting", extra=extra)
    if settings.engine == "sim":
        return await SimEngine.start(settings)
    if find_spec("vllm") is None:
        raise EngineStartError(
            "vLLM is not installed: run `make setup`, or simulate it with SLALOM_ENGINE=sim"
        )
    from gpu_worker.vllm_engine import VLLMEngine  # takes seconds, and only this engine needs it

    return await VLLMEngine.start(settings)
