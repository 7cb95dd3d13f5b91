"""The autoscaler: adds workers to a deep queue, and drains them when it no longer is.

policy      the decision, a pure function of numbers
local_pool  worker processes on this machine, started as a user would start them
__main__    the loop: read, decide, act, log

python -m scheduler.autoscaler
"""
