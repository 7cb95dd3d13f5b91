"""What the API costs: a submission against plain RQ's, thousands of waiting clients, a stream.

Everything on loopback: gunicorn with the product's configuration and one web process, the embedded
Redis (which syncs its file at every reply), clients in a process of their own.

    submit_cost_vs_plain_rq      CPU of the web process per submission ÷ that of a minimal Flask
                                 application that writes the job with RQ, in pairs
    memory_per_waiter_kib        growth of the web processes while `--waiters` clients wait
    wakeup_p50_ms, wakeup_p99_ms from the end of a job to its waiting client's last byte
    stream_ttfb_vs_engine_ttft   from the submission of a streamed job to its first token at the
                                 client ÷ from the worker's claim to the engine's first token
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks import api_stream, api_submits, api_waiters, report
from config import embedded_redis

NAME = "api"


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Return all figures, each part with a Redis server of its own."""
    flags = ["-k", args.worker_class] if args.worker_class else []
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="slalom-benchmark-") as name:
        directory = Path(name)
        if "submits" in args.parts:
            with embedded_redis.running(directory / "submits") as url:
                figures |= api_submits.measure(url, directory, args.pairs, args.requests, flags)
        if "waiters" in args.parts:
            with embedded_redis.running(directory / "waiters") as url:
                figures |= api_waiters.measure(url, directory, args.waiters, flags)
        if "stream" in args.parts:
            with embedded_redis.running(directory / "stream") as url:
                figures |= api_stream.measure(url, directory, args.streams)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parts = ["submits", "waiters", "stream"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--requests", type=int, default=1000, help="of each of a pair's four turns")
    parser.add_argument("--waiters", type=int, default=2000, help="clients that wait at once")
    parser.add_argument("--streams", type=int, default=40, help="streamed jobs, one after another")
    parser.add_argument("--worker-class", help="another of gunicorn's than the configured one")
    args = parser.parse_args()
    report.emit(NAME, measure(args), as_json=args.json)


if __name__ == "__main__":
    main()
