"""Docs: the API described, for programs and for people; nothing of it comes from elsewhere.

    GET /openapi.json   200 the document (`api.openapi`)
    GET /docs           200 the same as a page, on which requests can be tried
    GET /docs/{file}    200 what the page consists of

The page is Swagger UI, whose files come with the package flask-openapi-swagger; only those are
used. It works without a network and under a policy that allows no inline script and no other host.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

from flask import Blueprint, Response
from pydantic import BaseModel, ConfigDict
from werkzeug.exceptions import NotFound

from api.context import Context
from api.error_schemas import ProblemBody
from api.openapi import document
from api.route import Answer, Route

_UI = files("flask_openapi_swagger") / "templates" / "swagger"
_FILES = {
    "swagger-ui.css": (_UI / "css" / "swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": (_UI / "js" / "swagger-ui-bundle.js", "text/javascript"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Slalom: the API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#page",
  deepLinking: true,
  docExpansion: "list",
  validatorUrl: null
});
"""


class Document(BaseModel):
    """A document of OpenAPI 3.1."""

    model_config = ConfigDict(extra="allow")

    openapi: str
    info: dict[str, str]
    paths: dict[str, Any]
    components: dict[str, Any]


ROUTES = (
    Route(
        "GET",
        "/openapi.json",
        "openapi",
        "Documentation",
        "Get this document",
        {200: Answer("the document", Document)},
        needs_redis=False,
        is_open=True,
    ),
    Route(
        "GET",
        "/docs",
        "docs",
        "Documentation",
        "Read this document as a page",
        {200: Answer("the page", media_type="text/html")},
        needs_redis=False,
        is_open=True,
    ),
    Route(
        "GET",
        "/docs/{file}",
        "docs_file",
        "Documentation",
        "Get what the page consists of",
        {
            200: Answer("the file", media_type="text/*"),
            404: Answer(
                "the page has no such file", ProblemBody, media_type="application/problem+json"
            ),
        },
        needs_redis=False,
        is_open=True,
    ),
)


@dataclass(frozen=True)
class Docs:
    """The routes that describe the others."""

    context: Context
    routes: Sequence[Route]

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("docs", __name__)
        routes.add_url_rule("/openapi.json", "openapi", self.openapi)
        routes.add_url_rule("/docs", "docs", self.page)
        routes.add_url_rule("/docs/<file>", "docs_file", self.file)
        return routes

    def openapi(self) -> Response:
        """Give the document."""
        return Response(self._document, mimetype="application/json")

    def page(self) -> Response:
        """Show the page."""
        page = Response(_PAGE, mimetype="text/html")
        page.headers["Content-Security-Policy"] = _POLICY
        return page

    def file(self, file: str) -> Response:
        """Give a file of the page's."""
        if file == "start.js":
            return Response(_START, mimetype="text/javascript")
        if file not in _FILES:
            raise NotFound
        path, mimetype = _FILES[file]
        response = Response(path.read_bytes(), mimetype=mimetype)
        response.headers["Cache-Control"] = "public, max-age=86400"
        return response

    @cached_property
    def _document(self) -> str:
        return json.dumps(document(self.routes, self.context.tiers))
