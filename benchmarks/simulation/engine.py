"""The simulated engine: of the order of an 8B model in 16 bits on one GPU with 80 GB.

An assumption, not a measurement: 8 ms to read the weights, 0.5 PFLOP/s in prefill, 128 KiB of KV a
token, read at 3 TB/s, and 50 GiB for it.
"""

from gpu_worker.step_model import Capacity, StepCost

STEP_COST = StepCost(step_s=8e-3, prefill_token_s=32e-6, decode_s=20e-6, kv_token_s=40e-9)
ENGINE = Capacity(seats=256, kv_tokens=400_000, step_tokens=2048)
