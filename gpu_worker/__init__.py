"""The GPU worker: RQ's worker, made concurrent, around one inference engine.

worker       what RQ sees: start, record, heartbeat, commands, drain
inference    one job: request in, ending out
claiming     keeps the engine full
inflight     the jobs that run now
doorbell     an idle worker learns of a job
callables    any other function a job names
finish       endings into Redis, in batches
tokens       the chunks of streamed jobs into Redis, as they come
engine       the seam: what an engine must do
vllm_engine  vLLM in this process; the only module that imports it
leash        vLLM's processes end with this one
sim_engine   an engine that needs no GPU and no weights; what it says is in simulated
step_model   continuous batching step by step: what benchmarks.simulate goes by

rq worker -c config.rq -w gpu_worker.GPUWorker high low
"""

from gpu_worker.inference import generate
from gpu_worker.worker import GPUWorker

__all__ = ["GPUWorker", "generate"]
