"""Benchmarks: each measures a claim against its baseline in the same run.

    python -m benchmarks.NAME [--json]

The last line under `--json` is one object: the benchmark's name, its figures, the environment.
"""
