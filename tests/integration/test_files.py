"""Files over HTTP: kept whole or not at all, and nobody else's."""

import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, g, request
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from api.app import create_app
from config.settings import Settings
from scheduler import files, keys
from scheduler.files import PIECE_BYTES
from scheduler.tenants import ANYBODY, Tenant
from tests.integration.test_full_redis import fill

CONTENT = b"".join(b'{"custom_id": "%d"}\n' % n for n in range(40_000))


def with_tenants(app: Flask) -> Flask:
    """Let the header X-Tenant say who calls."""

    def identify() -> None:
        if name := request.headers.get("X-Tenant"):
            g.tenant = Tenant(name)

    app.before_request(identify)
    return app


@pytest.fixture
def client(settings: Settings) -> Iterator[FlaskClient]:
    app = with_tenants(create_app(settings.model_copy(update={"max_file_bytes": 1 << 20})))
    yield app.test_client()
    app.extensions["on_stop"]()


TAIL = b"\r\n--cut--\r\n"


def form(parts: dict[str, Any]) -> bytes:
    """Return a form of texts and files, these as (content, name)."""
    encoded = b""
    for field, value in parts.items():
        content, name = value if isinstance(value, tuple) else (value.encode(), None)
        filename = f'; filename="{name}"' if name else ""
        head = f'--cut\r\nContent-Disposition: form-data; name="{field}"{filename}\r\n\r\n'
        encoded += head.encode() + content + b"\r\n"
    return encoded + b"--cut--\r\n"


def upload(
    client: FlaskClient, content: bytes = CONTENT, name: str = "in.jsonl", **fields: Any
) -> TestResponse:
    parts = {"purpose": "batch", "file": (content, name), **fields}
    given = {field: value for field, value in parts.items() if value is not None}
    kind = "multipart/form-data; boundary=cut"
    return client.post("/v1/files", data=form(given), content_type=kind)


def stored(client: FlaskClient, content: bytes = CONTENT, **fields: Any) -> dict[str, Any]:
    response = upload(client, content, **fields)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.get_json()
    return body


def error(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    found: dict[str, Any] = response.get_json()["error"]
    assert found["code"] == code
    return found


def test_a_file_is_read_as_it_was_written(client: FlaskClient, connection: Redis) -> None:
    file = stored(client)

    assert (file["bytes"], file["filename"], file["purpose"]) == (len(CONTENT), "in.jsonl", "batch")
    assert client.get(f"/v1/files/{file['id']}").get_json() == file
    response = client.get(f"/v1/files/{file['id']}/content")
    assert response.data == CONTENT
    assert response.content_length == len(CONTENT)
    assert len(CONTENT) > 2 * PIECE_BYTES
    kept = sum(connection.strlen(keys.piece(file["id"], n)) for n in range(4))
    assert 0 < kept < len(CONTENT) / 2


def test_all_of_a_file_expires_with_it(client: FlaskClient, connection: Redis) -> None:
    short = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "7200"}
    file = stored(client, **short)

    assert file["expires_at"] == file["created_at"] + 7200
    names = [keys.file(file["id"]), *(keys.piece(file["id"], n) for n in range(4))]
    assert {connection.expiretime(name) for name in names} == {file["expires_at"]}
    assert connection.exists(keys.piece(file["id"], 4)) == 0


class FormOfZeros(io.RawIOBase):
    """A form with a file of `size` zeros, which exist only while they are read."""

    head = form({"purpose": "batch", "file": (b"", "zeros")}).removesuffix(TAIL)

    def __init__(self, size: int) -> None:
        self._left = [(self.head, len(self.head)), (b"\0", size), (TAIL, len(TAIL))]
        self.size = sum(length for _, length in self._left)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._left:
            data, length = self._left.pop(0)
            count = min(length, len(buffer))
            buffer[:count] = (data * count)[:count] if len(data) == 1 else data[:count]
            rest = data if len(data) == 1 else data[count:]
            if length > count:
                self._left.insert(0, (rest, length - count))
            if count:
                return count
        return 0


def test_no_more_than_a_few_pieces_of_a_file_are_in_memory(settings: Settings) -> None:
    client, size = create_app(settings).test_client(), 12 << 20
    source = FormOfZeros(size)
    kind = "multipart/form-data; boundary=cut"
    client.get("/v1/files")

    tracemalloc.start()
    sent = {"wsgi.input": source, "CONTENT_LENGTH": str(source.size), "CONTENT_TYPE": kind}
    reply = client.post("/v1/files", environ_overrides=sent)
    assert reply.status_code == 200, reply.text
    file = reply.get_json()
    response = client.get(f"/v1/files/{file['id']}/content", buffered=False)
    received = sum(len(part) for part in response.response)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (file["bytes"], received) == (size, size)
    assert peak < 8 * PIECE_BYTES


def test_a_deleted_file_leaves_nothing(client: FlaskClient, connection: Redis) -> None:
    file = stored(client)

    body = client.delete(f"/v1/files/{file['id']}").get_json()

    assert body == {"id": file["id"], "object": "file", "deleted": True}
    assert connection.keys("slalom:*") == []
    error(client.get(f"/v1/files/{file['id']}"), 404, "file_not_found")
    error(client.delete(f"/v1/files/{file['id']}"), 404, "file_not_found")
    error(client.get(f"/v1/files/{file['id']}/content"), 404, "file_not_found")


def test_a_file_of_another_tenant_is_not_there(client: FlaskClient) -> None:
    file = stored(client)
    they = {"X-Tenant": "they"}

    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        response = client.open(f"/v1/files/{file['id']}{path}", method=method, headers=they)
        error(response, 404, "file_not_found")
    assert client.get("/v1/files", headers=they).get_json()["data"] == []
    assert client.get(f"/v1/files/{file['id']}").status_code == 200


def test_pages_go_through_all_files_in_either_order(client: FlaskClient) -> None:
    ids = [stored(client, b"{}", name=f"{n}.jsonl")["id"] for n in range(7)]

    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        seen: list[str] = []
        has_more, after = True, {}
        while has_more:
            query = {"order": order, "limit": "3", **after}
            page = client.get("/v1/files", query_string=query).get_json()
            seen += [file["id"] for file in page["data"]]
            has_more, after = page["has_more"], {"after": page["last_id"]}
        assert seen == expected
    nothing = client.get("/v1/files?purpose=batch_output").get_json()
    assert (nothing["data"], nothing["has_more"]) == ([], False)


def test_a_file_that_expired_is_in_no_list(client: FlaskClient, connection: Redis) -> None:
    gone, kept = stored(client, b"{}")["id"], stored(client, b"{}")["id"]
    connection.delete(keys.file(gone))

    page = client.get("/v1/files?limit=1").get_json()

    assert [file["id"] for file in page["data"]] == [kept]
    assert connection.zrange(keys.files_of(ANYBODY.name), 0, -1) == [kept.encode()]


def test_a_file_over_the_limit_is_refused_and_nothing_of_it_kept(
    client: FlaskClient, connection: Redis
) -> None:
    fitting = upload(client, b"x" * (1 << 20))
    over = upload(client, b"x" * ((1 << 20) + 1))
    far_over = upload(client, b"x" * (4 << 20))
    sent = {"CONTENT_LENGTH": str(1 << 40), "CONTENT_TYPE": "multipart/form-data; boundary=cut"}
    endless = client.post("/v1/files", environ_overrides=sent)

    assert fitting.status_code == 200
    assert "1048576 bytes" in error(over, 413, "body_too_large")["message"]
    error(far_over, 413, "body_too_large")
    error(endless, 413, "body_too_large")
    fitting_id = fitting.get_json()["id"]
    assert all(fitting_id.encode() in key for key in connection.keys("slalom:file:*"))


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"purpose": "fine-tune"}, 400, "invalid_request"),
        ({"purpose": None}, 400, "invalid_request"),
        ({"extra": "1"}, 400, "invalid_request"),
        ({"expires_after[seconds]": "5"}, 400, "invalid_request"),
        ({"purpose ": "batch"}, 400, "invalid_request"),
        ({"file": None}, 400, "malformed_form"),
        ({"file": "text"}, 400, "malformed_form"),
        ({"second": (b"{}", "b")}, 400, "malformed_form"),
    ],
)
def test_a_form_that_breaks_the_rules_leaves_nothing(
    client: FlaskClient, connection: Redis, fields: dict[str, Any], status: int, code: str
) -> None:
    response = upload(client, **fields)

    error(response, status, code)
    assert connection.keys("slalom:*") == []


def test_what_is_no_form_is_refused(client: FlaskClient, connection: Redis) -> None:
    cut_off = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nabc'

    no_form = client.post("/v1/files", json={"purpose": "batch"})
    broken = client.post("/v1/files", data=cut_off, content_type="multipart/form-data; boundary=b")

    other = client.post(
        "/v1/files", data=b"x" * (1 << 20), content_type="multipart/form-data; boundary=b"
    )

    error(no_form, 415, "not_multipart")
    error(other, 400, "malformed_form")
    error(broken, 400, "malformed_form")
    assert connection.keys("slalom:*") == []


def test_a_query_that_breaks_the_rules_names_the_field(client: FlaskClient) -> None:
    for query, param in (("limit=0", "limit"), ("order=up", "order"), ("after=none", "after")):
        assert error(client.get(f"/v1/files?{query}"), 400, "invalid_request")["param"] == param


@pytest.fixture
def _room(connection: Redis) -> Iterator[None]:
    """Give the server its memory back after the test."""
    yield
    connection.config_set("maxmemory", 0)


@pytest.mark.usefixtures("_room")
def test_a_full_redis_refuses_a_file_and_keeps_no_half_of_it(
    client: FlaskClient, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = iter([None, None])
    compress = files.zlib.compress

    def fill_up(data: bytes, level: int) -> bytes:
        if next(pieces, "full") == "full":
            fill(connection)
        return compress(data, level)

    monkeypatch.setattr(files.zlib, "compress", fill_up)
    response = upload(client)

    error(response, 503, "redis_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    assert connection.keys("slalom:file*") == []


def test_no_more_than_so_many_files_are_kept(
    client: FlaskClient, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(client, b"{}")
    monkeypatch.setattr(files, "MOST_FILES", 1)

    error(upload(client, b"{}"), 429, "too_many_stored")
    assert len(connection.keys("slalom:file:*")) == 2


def test_an_answer_names_its_fields_as_openai_does(client: FlaskClient) -> None:
    file = stored(client, b"{}")

    expected = {
        "id",
        "object",
        "bytes",
        "created_at",
        "expires_at",
        "filename",
        "purpose",
        "status",
    }
    assert set(json.loads(client.get(f"/v1/files/{file['id']}").text)) == expected
