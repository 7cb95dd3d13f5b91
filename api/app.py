"""Application: the Flask application of the API, one per web process.

    gunicorn -c config/gunicorn.py "api.app:create_app()"

Everything a request needs is in one `Context`, handed to the routes. The server calls
`app.extensions["on_stop"]` when it is told to stop, before it waits for its requests to end.
"""

from flask import Flask

from api import access_log, auth, catalogue, cors, problem_answers, security, tenancy
from api.batches import BatchRoutes
from api.bulk import Bulk
from api.context import Context
from api.dead_letters import DeadLetterRoutes
from api.docs import Docs
from api.files import FileRoutes
from api.job_events import JobEvents
from api.job_list import JobLists
from api.jobs import Jobs
from api.models import ModelRoutes
from api.openai import OpenAIRoutes
from api.operations import Operations
from api.queues import Queues
from api.responses import ResponseRoutes
from config import logs
from config.settings import Settings, load


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application; without settings, those of this process, whose logs it sets up."""
    if settings is None:
        settings = load()
        logs.configure(settings.log_level)
    context = Context.build(settings)
    app = Flask("api", static_folder=None)
    problem_answers.register(app)
    access_log.register(app)
    security.register(app, hsts_s=settings.hsts_s)
    cors.register(app, settings.origins)
    auth.register(app, context.connection, context.tiers)
    tenancy.register(app)
    app.register_blueprint(Jobs(context).blueprint())
    app.register_blueprint(Bulk(context).blueprint())
    app.register_blueprint(JobLists(context).blueprint())
    app.register_blueprint(JobEvents(context).blueprint())
    app.register_blueprint(DeadLetterRoutes(context).blueprint())
    app.register_blueprint(FileRoutes(context).blueprint())
    app.register_blueprint(BatchRoutes(context).blueprint())
    app.register_blueprint(Operations(context).blueprint())
    app.register_blueprint(Queues(context).blueprint())
    app.register_blueprint(ModelRoutes(context).blueprint())
    app.register_blueprint(OpenAIRoutes(context).blueprint())
    app.register_blueprint(ResponseRoutes(context).blueprint())
    app.register_blueprint(Docs(context, catalogue.ROUTES).blueprint())
    app.extensions["slalom"] = context
    app.extensions["on_stop"] = context.waiters.close
    return app
