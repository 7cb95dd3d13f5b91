"""Dashboard: RQ's own view of queues, workers and jobs, for those who may see it.

    gunicorn -c config/gunicorn.py --bind 127.0.0.1:9181 "api.dashboard:create_app()"

With a password set, HTTP basic authentication is required. Without one, only this machine is
served, and only by its own names, so that no page elsewhere reaches it by pointing a name of its
own here. A GET only looks; what changes something must be a POST from the dashboard's own pages.
Whatever is named in a path must look like what it stands for: upstream copies it into scripts.
"""

import hmac
import ipaddress
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import rq_dashboard
from flask import Flask, Response, request
from rq.exceptions import NoSuchJobError
from rq_dashboard.web import blueprint
from werkzeug.exceptions import MethodNotAllowed, NotFound

from api import access_log, dashboard_views, problem_answers
from api.problems import Forbidden, Unauthorized
from config import connections, logs
from config.settings import Settings, load, mask_url

CHANGES = {
    f"{blueprint.name}.{view}"
    for view in (
        "compact_queue",
        "delete_job_view",
        "empty_queue",
        "requeue_all",
        "requeue_job_view",
    )
}
"""Upstream's views that change something."""

_NUMBER = re.compile(r"[1-9]\d{0,5}")
_IN_PATHS = {
    "instance_number": re.compile("0"),
    "job_id": re.compile(r"[\w:-]+", re.ASCII),
    "order": re.compile("asc|dsc"),
    "page": _NUMBER,
    "per_page": _NUMBER,
    "queue_name": re.compile(r"[\w.: -]+"),
    "registry_name": re.compile("queued|scheduled|deferred|started|finished|failed|canceled"),
}
_SCRIPT = b'<script type="text/javascript">'


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application; without settings, those of this process, whose logs it sets up."""
    if settings is None:
        settings = load()
        logs.configure(settings.log_level)
    dashboard_views.correct()
    static = Path(rq_dashboard.__file__).parent / "static"
    app = Flask("api.dashboard", static_folder=static)
    connection = connections.commands(settings.redis)
    app.extensions[dashboard_views.CONNECTION] = connection
    app.extensions[dashboard_views.TIERS] = settings.tiers()
    app.redis_conn = connection  # type: ignore[attr-defined]  # where upstream looks for it
    app.config["RQ_DASHBOARD_REDIS_URL"] = (mask_url(settings.redis),)
    problem_answers.register(app)
    app.register_error_handler(NoSuchJobError, problem_answers.job_not_found)
    access_log.register(app)
    app.before_request(_Guard(settings).check)
    app.after_request(_secure)
    app.register_blueprint(blueprint, url_prefix="")
    return app


@dataclass(frozen=True, slots=True)
class _Guard:
    """Who may come in, and what a request may do."""

    settings: Settings

    def check(self) -> None:
        """Raise what forbids the request; who is asked first, so that nobody else learns more."""
        self._check_who()
        if request.endpoint in CHANGES and request.method != "POST":
            raise MethodNotAllowed(["POST"])
        if request.method not in {"GET", "HEAD", "OPTIONS"} and not _same_origin():
            raise Forbidden(
                "only the dashboard's own pages may change something: send their Origin"
            )
        for name, value in (request.view_args or {}).items():
            if name in _IN_PATHS and not _IN_PATHS[name].fullmatch(str(value)):
                raise NotFound

    def _check_who(self) -> None:
        password = self.settings.dashboard_password.get_secret_value()
        if not password:
            if not (
                _is_here(request.remote_addr) and _is_here(urlsplit(request.host_url).hostname)
            ):
                text = "set SLALOM_DASHBOARD_PASSWORD to open the dashboard beyond this machine"
                raise Forbidden(text)
            return
        given = request.authorization
        user_is_right = _equal(given.username if given else None, self.settings.dashboard_user)
        password_is_right = _equal(given.password if given else None, password)
        if not (user_is_right and password_is_right):
            raise Unauthorized("give the dashboard's user name and password")


def _equal(given: str | None, expected: str) -> bool:
    """Compare in a time that does not tell where they differ."""
    return hmac.compare_digest((given or "").encode(), expected.encode())


def _is_here(host: str | None) -> bool:
    """Whether `host` is a name or an address that this machine alone has."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _same_origin() -> bool:
    """Whether a browser says that the request comes from a page of ours."""
    if site := request.headers.get("Sec-Fetch-Site"):
        return site == "same-origin"
    return urlsplit(request.headers.get("Origin", "")).netloc == request.host


def _secure(response: Response) -> Response:
    """Run no script but upstream's own, and keep no copy of what jobs say."""
    if request.endpoint == f"{blueprint.name}.job_info" and response.is_json:
        response = dashboard_views.escape_job(response)
    nonce = secrets.token_urlsafe(16)
    if response.mimetype == "text/html" and not response.is_streamed:
        response.set_data(response.get_data().replace(_SCRIPT, _with_nonce(nonce)))
    response.headers["Content-Security-Policy"] = (
        f"default-src 'self'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    response.headers["X-Content-Type-Options"] = "nosniff"
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response


def _with_nonce(nonce: str) -> bytes:
    """Return the tag of upstream's inline scripts (templates, `unsafe-eval`) with the nonce."""
    return _SCRIPT.replace(b"<script", f'<script nonce="{nonce}"'.encode())
