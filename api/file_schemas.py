"""File schemas: what the routes of files take and answer, as OpenAI has it."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from scheduler.files import StoredFile

MAX_FILENAME = 255


class _Form(BaseModel):
    """Fields of forms and queries are text: numbers are read from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileForm(_Form):
    """The fields of a form that uploads a file, beside the file."""

    purpose: Literal["batch"]
    expires_after_anchor: Annotated[
        Literal["created_at"] | None, Field(alias="expires_after[anchor]")
    ] = None
    expires_after_seconds: Annotated[
        int | None, Field(alias="expires_after[seconds]", ge=3600, le=30 * 86_400)
    ] = None


class FileUpload(FileForm):
    """The form as it is documented, with its file."""

    file: Annotated[str, WithJsonSchema({"type": "string", "format": "binary"})]


class FileQuery(_Form):
    """Which files are listed."""

    after: Annotated[str, Field(max_length=80)] | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 1_000
    order: Literal["asc", "desc"] = "desc"
    purpose: Literal["batch", "batch_output"] | None = None


class FileBody(BaseModel):
    """A file; instants in epoch s."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, stored: StoredFile) -> Self:
        """Return the body for a file."""
        return cls(
            id=stored.id,
            bytes=stored.size,
            created_at=stored.created_at,
            expires_at=stored.expires_at,
            filename=stored.filename,
            purpose=stored.purpose,
        )


class FileList(BaseModel):
    """A page of files; the id of the last one is the cursor of the next page."""

    object: Literal["list"] = "list"
    data: list[FileBody]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, files: list[StoredFile], *, has_more: bool) -> Self:
        """Return the page."""
        data = [FileBody.of(stored) for stored in files]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return cls(data=data, first_id=first, last_id=last, has_more=has_more)


class FileDeleted(BaseModel):
    """What is said of a file that was deleted."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
