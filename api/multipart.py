"""Multipart: a form with one file, which goes to where it is kept while it still comes.

The other fields are short. What comes beyond a file's limit is read and thrown away, up to
DRAINED_BYTES more, so that the client gets the answer that says so: one that is cut off while it
still sends may see a broken connection instead.
"""

from typing import IO, cast

from flask import Request
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser

from api.problems import BodyTooLarge, MalformedForm, NotMultipart
from scheduler.files import Upload

MAX_FIELD_BYTES = 1 << 18
"""Of a field that is no file, and of what the parser holds: more than it reads at once."""
MAX_PARTS = 16
DRAINED_BYTES = 1 << 29


def receive(request: Request, upload: Upload) -> tuple[MultiDict[str, str], str]:
    """Return the fields of the form and the name of its file, which `upload` has taken over.

    NotMultipart, BodyTooLarge, MalformedForm: what came until then is discarded.
    """
    boundary = request.mimetype_params.get("boundary")
    if request.mimetype != "multipart/form-data" or not boundary:
        raise NotMultipart("send a form: multipart/form-data with the fields `purpose` and `file`")
    request.max_content_length = upload.max_bytes + DRAINED_BYTES
    try:
        return _parse(request, upload, boundary)
    except (RequestEntityTooLarge, ValueError):  # of the body, of a field; of what is no form
        upload.discard()
        if upload.is_too_large or (request.content_length or 0) > request.max_content_length:
            raise too_large(upload) from None
        text = "the form cannot be read: it is cut off, has a field that is too long, or is none"
        raise MalformedForm(text) from None
    except BaseException:
        upload.discard()
        raise


def too_large(upload: Upload) -> BodyTooLarge:
    """Return the problem of a file over the limit."""
    return BodyTooLarge(f"a file may have {upload.max_bytes} bytes at most")


def _parse(request: Request, upload: Upload, boundary: str) -> tuple[MultiDict[str, str], str]:
    num_files = 0

    def receiver(
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        nonlocal num_files
        num_files += 1
        if num_files > 1:
            raise MalformedForm("the form has more than one file; send one at a time")
        return cast(IO[bytes], upload)

    parser = MultiPartParser(
        stream_factory=receiver, max_form_memory_size=MAX_FIELD_BYTES, max_form_parts=MAX_PARTS
    )
    fields, files = parser.parse(request.stream, boundary.encode("ascii"), request.content_length)
    if "file" not in files:
        raise MalformedForm("the form has no field `file` with a file in it")
    return fields, files["file"].filename or "upload.jsonl"
