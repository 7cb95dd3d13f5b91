"""Lines of a batch: each is a request or a fault of its own, wherever the file is cut."""

import json
from random import Random
from typing import Any

import pytest

from config.settings import Settings
from scheduler.batch_inspection import Inspection, is_marked
from scheduler.batch_lines import Entry, LineFault, LineRules, RawLine, read_lines
from scheduler.files import PIECE_BYTES
from scheduler.jobs import Request

ENDPOINT = "/v1/completions"
GOOD: dict[str, Any] = {
    "custom_id": "a",
    "method": "POST",
    "url": ENDPOINT,
    "body": {"prompt": "1+1="},
}
MAX_LINE = 1000


@pytest.fixture
def rules() -> LineRules:
    return LineRules(ENDPOINT, "batch", Settings().tiers(), "adder", ["adder", "other"])


def data(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def body(**changes: Any) -> bytes:
    return data(body={**GOOD["body"], **changes})


def test_a_line_becomes_a_request_for_the_served_model(rules: LineRules) -> None:
    entry = rules.judge(data())

    request = Request(endpoint=ENDPOINT, body={"prompt": "1+1=", "model": "adder"})
    assert entry == Entry("a", request, "batch")


@pytest.mark.parametrize(
    ("line", "custom_id", "code", "param"),
    [
        (None, None, "line_too_long", None),
        (b"{", None, "invalid_json_line", None),
        (b"[1]", None, "invalid_json_line", None),
        (b"[" * 100_000, None, "invalid_json_line", None),
        (b'{"custom_id": NaN}', None, "invalid_json_line", None),
        (b"\xff", None, "invalid_json_line", None),
        (b"{}", None, "invalid_custom_id", "custom_id"),
        (data(custom_id=""), None, "invalid_custom_id", "custom_id"),
        (data(custom_id=7), None, "invalid_custom_id", "custom_id"),
        (data(custom_id="x" * 513), None, "invalid_custom_id", "custom_id"),
        (data(method="GET"), "a", "invalid_method", "method"),
        (data(url="/v1/embeddings"), "a", "invalid_url", "url"),
        (data(body=[]), "a", "invalid_body", "body"),
        (data(body=None), "a", "invalid_body", "body"),
        (body(stream=True), "a", "invalid_stream", "body.stream"),
        (body(model="none"), "a", "model_not_found", "body.model"),
        (body(model=3), "a", "invalid_model", "body.model"),
        (body(service_tier="gold"), "a", "invalid_service_tier", "body.service_tier"),
        (body(service_tier=[]), "a", "invalid_service_tier", "body.service_tier"),
        (body(max_tokens=10_000), "a", "invalid_max_tokens", "body.max_tokens"),
    ],
)
def test_what_is_wrong_with_a_line_is_said(
    rules: LineRules, line: bytes | None, custom_id: str | None, code: str, param: str | None
) -> None:
    fault = rules.judge(line)

    assert isinstance(fault, LineFault)
    assert (fault.custom_id, fault.code, fault.param) == (custom_id, code, param)


def test_a_repeated_custom_id_fails_its_line_and_keeps_its_name(rules: LineRules) -> None:
    fault = rules.judge(data(), is_doubled=True)

    assert isinstance(fault, LineFault)
    assert (fault.custom_id, fault.code) == ("a", "duplicate_custom_id")


@pytest.mark.parametrize(
    ("of_batch", "of_line", "served"),
    [
        ("batch", None, "batch"),
        ("batch", "auto", "batch"),
        ("batch", "priority", "batch"),
        ("standard", "flex", "batch"),
        ("standard", "default", "standard"),
        ("premium", "default", "standard"),
    ],
)
def test_a_line_may_name_a_tier_that_is_less_urgent_than_that_of_its_batch(
    of_batch: str, of_line: str | None, served: str
) -> None:
    rules = LineRules(ENDPOINT, of_batch, Settings().tiers(), "adder")

    entry = rules.judge(body(service_tier=of_line))

    assert isinstance(entry, Entry)
    assert entry.tier == served


def lines_of(content: bytes, at: int = 0, number: int = 0) -> list[RawLine]:
    def piece(n: int) -> bytes:
        return content[n * PIECE_BYTES : (n + 1) * PIECE_BYTES]

    found = read_lines(piece, len(content), at=at, number=number, max_bytes=MAX_LINE)
    return list(found)


def test_a_file_read_from_the_end_of_any_line_goes_on_there() -> None:
    random = Random(5)
    texts = [b"x" * random.choice([0, 1, 50, MAX_LINE, 3 * MAX_LINE]) for _ in range(800)]
    content = b"\n".join(texts)
    assert len(content) > 2 * PIECE_BYTES

    whole = lines_of(content)

    assert [line.number for line in whole] == list(range(1, len(whole) + 1))
    told = [(b"" if line.is_blank else line.data) for line in whole]
    stripped = [None if data is None else data.rstrip(b"\n") for data in told]
    assert stripped == [text if len(text) <= MAX_LINE else None for text in texts][: len(whole)]
    assert whole[-1].end == len(content)
    for line in random.sample(whole, 20):
        assert lines_of(content, line.end, line.number) == whole[line.number :]


def test_a_line_longer_than_a_piece_is_skipped_and_the_next_one_read() -> None:
    content = b"x" * (3 * PIECE_BYTES) + b"\n" + b"next"

    first, second = lines_of(content)

    assert first == RawLine(1, 3 * PIECE_BYTES + 1, None)
    assert second == RawLine(2, len(content), b"next")


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    [line] = lines_of(b"\xef\xbb\xbf{}")

    assert line == RawLine(1, 5, b"{}")


def inspect(content: bytes, max_lines: int = 100) -> Inspection:
    inspection = Inspection(iter(lines_of(content)), max_lines)
    while not inspection.look_on():
        pass
    return inspection


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"", "empty_file", None),
        (b"\n \n\n", "empty_file", None),
        (b"{}\n" * 101, "too_many_lines", None),
        (b"{}\n\xff\xfe\n", "invalid_encoding", 2),
    ],
)
def test_a_useless_file_is_told_from_a_useful_one(
    content: bytes, code: str, line: int | None
) -> None:
    fault = inspect(content).fault

    assert fault
    assert (fault.code, fault.line) == (code, line)


def test_only_the_lines_that_repeat_a_custom_id_are_marked() -> None:
    ids = ["a", "b", "a", "\ud800", "c", "b", "\ud800", "a"]
    content = b"\n".join(data(custom_id=custom_id) for custom_id in ids)

    inspection = inspect(content)

    assert (inspection.fault, inspection.total) == (None, 8)
    marked = [n for n in range(1, 20) if is_marked(bytes(inspection.doubled), n)]
    assert marked == [3, 6, 7, 8]


def test_a_file_without_faults_has_as_many_lines_as_are_not_empty() -> None:
    inspection = inspect(b"\n" + data() + b"\n\n" + data(custom_id="b"))

    assert (inspection.fault, inspection.total, inspection.doubled) == (None, 2, bytearray())
