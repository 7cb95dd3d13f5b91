"""The baseline of `benchmarks.api`: the same route, writing straight to Redis with RQ.

What somebody would write who needs no tiers: the body is JSON and has a prompt, RQ keeps it as a
job, the answer is its id. Served by gunicorn with Slalom's own configuration.
"""

from flask import Flask, Response, jsonify, request
from rq import Queue
from rq.serializers import JSONSerializer

from config import connections
from config.settings import load
from scheduler.jobs import FUNCTION

QUEUE = "plain"


def create_app() -> Flask:
    """Return the application."""
    connection = connections.commands(load().redis)
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    app = Flask("plain", static_folder=None)

    def submit() -> tuple[Response, int]:
        body = request.get_json()
        if not isinstance(body, dict) or not isinstance(body.get("prompt"), str):
            return jsonify(error="give a prompt"), 422
        job = queue.enqueue_call(
            FUNCTION,
            args=({"endpoint": "/v1/completions", "body": body},),
            timeout=1800,
            result_ttl=86_400,
        )
        return jsonify(id=job.id, status="queued"), 202

    app.add_url_rule("/v1/jobs", "submit", submit, methods=["POST"])
    app.add_url_rule("/healthz", "healthz", lambda: jsonify(status="ok"))
    return app
