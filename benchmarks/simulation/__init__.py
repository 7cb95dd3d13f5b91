"""The scheduler on a virtual clock: one GPU worker, its queues, and the policies that feed it.

jobs        a job, its objectives, and whether it met them
workload    arrivals and lengths after published statistics
engine      the GPU that is assumed
loop        the clock: arrivals, claims, steps
policies    the baselines: one queue, vLLM's priority, a static limit
slalom      ours: gate, reserve, deadlines, refusal at the door
feasible    which deadlines a clairvoyant would have met
figures     capacity, attainment, goodput
"""
