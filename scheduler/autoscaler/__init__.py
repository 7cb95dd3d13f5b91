"""The autoscaler: adds a worker when a queue is too deep for its workers, drains one when it no longer is.

    policy      the decision, a pure function of numbers
    local_pool  worker processes on this machine, started as a user would start them
    __main__    the loop: read, decide, act, log

    python -m scheduler.autoscaler
"""
