"""Files: upload, list, look at, read, delete; what `client.files` of OpenAI's SDK calls.

    POST   /v1/files                200 with the file; 413 if it is too large
    GET    /v1/files                200 a page
    GET    /v1/files/{id}           200
    GET    /v1/files/{id}/content   200 its bytes
    DELETE /v1/files/{id}           200

A file is written while it comes and sent while it is read: no process holds the whole of one.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flask import Blueprint, Response, request
from pydantic import BaseModel

from api import auth, multipart, openai_errors, query
from api.context import Context
from api.file_schemas import (
    MAX_FILENAME,
    FileBody,
    FileDeleted,
    FileForm,
    FileList,
    FileQuery,
    FileUpload,
)
from api.problems import (
    BodyTooLarge,
    FileMissing,
    Invalid,
    MalformedForm,
    NotMultipart,
    TooManyStored,
)
from api.route import Answer, Route
from scheduler.files import Files, FileTooLarge, NoSuchFile, TooManyFiles, Upload
from scheduler.listing import UnknownCursor

logger = logging.getLogger(__name__)

_GROUP = "Files"
ROUTES = (
    Route(
        "POST",
        "/v1/files",
        "upload_file",
        _GROUP,
        "Upload the requests of a batch",
        {200: Answer("the file", FileBody)},
        takes=FileUpload,
        takes_type="multipart/form-data",
        problems=(NotMultipart, MalformedForm, BodyTooLarge, Invalid, TooManyStored),
        is_openai=True,
    ),
    Route(
        "GET",
        "/v1/files",
        "list_files",
        _GROUP,
        "List files, newest first",
        {200: Answer("a page of files", FileList)},
        query=FileQuery,
        problems=(Invalid,),
        is_openai=True,
    ),
    Route(
        "GET",
        "/v1/files/{file_id}",
        "show_file",
        _GROUP,
        "Show a file",
        {200: Answer("the file", FileBody)},
        problems=(FileMissing,),
        is_openai=True,
    ),
    Route(
        "GET",
        "/v1/files/{file_id}/content",
        "read_file",
        _GROUP,
        "Read what is in a file",
        {200: Answer("its bytes", media_type="application/octet-stream")},
        problems=(FileMissing,),
        is_openai=True,
    ),
    Route(
        "DELETE",
        "/v1/files/{file_id}",
        "delete_file",
        _GROUP,
        "Delete a file",
        {200: Answer("that it is gone", FileDeleted)},
        problems=(FileMissing,),
        is_openai=True,
    ),
)


@dataclass(frozen=True, slots=True)
class FileRoutes:
    """The routes of files."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("files", __name__, url_prefix="/v1/files")
        routes.add_url_rule("", "upload", self.upload, methods=["POST"])
        routes.add_url_rule("", "list", self.list, methods=["GET"])
        routes.add_url_rule("/<file_id>", "show", self.show, methods=["GET"])
        routes.add_url_rule("/<file_id>", "delete", self.delete, methods=["DELETE"])
        routes.add_url_rule("/<file_id>/content", "content", self.content, methods=["GET"])
        openai_errors.register(routes)
        return routes

    def upload(self) -> Response:
        """Keep a file."""
        settings, tenant = self.context.settings, auth.caller().name
        upload = Upload(self.context.connection, settings.max_file_bytes)
        fields, filename = multipart.receive(request, upload)
        try:
            form = query.read(FileForm, fields)
            stored = upload.keep(
                tenant=tenant,
                filename=filename[:MAX_FILENAME],
                purpose=form.purpose,
                ttl_s=min(form.expires_after_seconds or settings.file_ttl_s, settings.file_ttl_s),
            )
        except FileTooLarge:
            raise multipart.too_large(upload) from None
        except TooManyFiles as error:
            upload.discard()
            raise TooManyStored(str(error)) from error
        except Exception:
            upload.discard()
            raise
        extra = {"event": "file.stored", "file_id": stored.id, "bytes": stored.size}
        logger.info("file stored", extra={**extra, "tenant": tenant})
        return answer(FileBody.of(stored))

    def list(self) -> Response:
        """List the caller's files."""
        wanted = query.read(FileQuery, request.args)
        with cursor_checked():
            page = self._files.page(
                auth.caller().name,
                after=wanted.after,
                limit=wanted.limit,
                newest_first=wanted.order == "desc",
                purpose=wanted.purpose,
            )
        return answer(FileList.of(page.items, has_more=page.has_more))

    def show(self, file_id: str) -> Response:
        """Show a file."""
        with files_found():
            return answer(FileBody.of(self._files.fetch(file_id, auth.caller().name)))

    def content(self, file_id: str) -> Response:
        """Send what is in a file."""
        with files_found():
            stored = self._files.fetch(file_id, auth.caller().name)
        sent = Response(self._files.content(stored), mimetype="application/octet-stream")
        sent.content_length = stored.size
        return sent

    def delete(self, file_id: str) -> Response:
        """Delete a file; a batch that still reads it ends early."""
        with files_found():
            self._files.delete(file_id, auth.caller().name)
        logger.info("file deleted", extra={"event": "file.deleted", "file_id": file_id})
        return answer(FileDeleted(id=file_id))

    @property
    def _files(self) -> Files:
        return Files(self.context.connection)


def answer(body: BaseModel) -> Response:
    """Answer with a body."""
    return Response(body.model_dump_json(), mimetype="application/json")


@contextmanager
def files_found() -> Iterator[None]:
    """Turn the lack of a file into the problem that it is."""
    try:
        yield
    except NoSuchFile as error:
        text = "there is no file of this id: it never was, has expired, or was deleted"
        raise FileMissing(text) from error


@contextmanager
def cursor_checked() -> Iterator[None]:
    """Turn a cursor that is not listed into the problem that it is."""
    try:
        yield
    except UnknownCursor as error:
        text = "nothing of this id is listed; begin again without it"
        raise Invalid([{"field": "after", "message": text}]) from error
