"""The command line without a server: times, lines, the output of jobs, how it is installed."""

import json
import tomllib
from importlib.metadata import EntryPoint

import pytest

from client import given, tables, times
from client.failure import Misused
from client.following import Seen
from client.main import main
from client.many import MOST_BYTES, MOST_JOBS, BadLine, Line, chunks, read
from client.terminal import plain
from client.wait import Shown
from config.settings import ROOT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0", 0), ("1.5h", 5_400), ("15m", 900), ("7d", 604_800), ("30s", 30)],
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert times.seconds("--older-than", text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1", "1 h", "1w", "1h30m", "inf", "1e3", "9" * 30])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(Misused, match="write 90, 15m, 2h or 7d"):
        times.seconds("--older-than", text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0ms"),
        (0.0382, "38ms"),
        (1.44, "1.4s"),
        (12.4, "12s"),
        (60, "1m"),
        (200, "3m20s"),
        (7_200, "2h"),
        (3_599, "59m59s"),
        (187_200, "2d4h"),
    ],
)
def test_durations_are_told_in_their_fitting_units(seconds: float, text: str) -> None:
    assert times.duration(seconds) == text


def test_an_instant_that_is_none_is_a_dash() -> None:
    assert [times.age(at) for at in (None, "", "yesterday")] == ["-", "-", "-"]


def chunk(attempt: int, number: int, text: str) -> Seen:
    return Seen("chunk", f"{attempt}-{number}", {"choices": [{"index": 0, "text": text}]})


def written(shown: Shown, *events: Seen) -> str:
    return "".join(shown.more(event) for event in events)


def test_output_grows_by_what_comes_and_ends_with_what_is_missing() -> None:
    shown = Shown()

    begun = written(shown, chunk(1, 1, "to "), chunk(1, 2, "be"))

    assert begun == "to be"
    assert shown.rest("to be or not") == " or not\n"


def test_a_new_attempt_repeats_nothing_that_is_written() -> None:
    shown = Shown()
    first = written(shown, chunk(1, 1, "to "), chunk(1, 2, "be"))

    again = written(shown, chunk(2, 1, "to "), chunk(2, 2, "be or"))

    assert (first, again) == ("to be", " or")


def test_a_new_attempt_with_another_text_is_written_on_a_line_of_its_own() -> None:
    shown = Shown()
    written(shown, chunk(1, 1, "to be"))

    assert written(shown, chunk(2, 1, "to do")) == "\nto do"


@pytest.mark.parametrize(
    ("answer", "rest"), [("", ""), ("42", "42\n"), ("4\n", "4\n")], ids=["none", "text", "line"]
)
def test_an_answer_that_nobody_streamed_is_written_at_the_end(answer: str, rest: str) -> None:
    assert Shown().rest(answer) == rest


def test_only_the_first_choice_is_written() -> None:
    other = Seen("chunk", "1-1", {"choices": [{"index": 1, "text": "no"}]})
    chat = Seen("chunk", "1-2", {"choices": [{"index": 0, "delta": {"content": "yes"}}]})
    usage = Seen("chunk", "1-3", {"choices": [], "usage": {}})

    assert [event.text for event in (other, chat, usage)] == ["", "yes", ""]


def test_a_line_has_the_last_word_and_options_the_rest() -> None:
    job = given.job_in(b'\xef\xbb\xbf{"prompt": "1", "tier": "batch"}\n', {"tier": "x", "seed": 1})

    assert job == {"prompt": "1", "tier": "batch", "seed": 1}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "not JSON: Expecting property name"),
        (b"null", "a line must be an object"),
        (b'"\xff"', "not UTF-8: byte 1"),
        (b'{"a": Infinity}', "Infinity is no number"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 10_000, "too many digits"),
        (b" " * (given.MOST_BYTES + 1), "longer than 16 MiB"),
    ],
    ids=["cut", "null", "bytes", "infinity", "deep", "digits", "long"],
)
def test_a_line_that_holds_no_job_says_why_and_repeats_nothing(line: bytes, said: str) -> None:
    found = read(7, line, {})

    assert found.body is None
    assert isinstance(found.failure, BadLine)
    assert said in str(found.failure)
    assert len(str(found.failure)) < 120


def test_lines_go_in_requests_of_bounded_size() -> None:
    small = [Line(n, 10) for n in range(MOST_JOBS + 1)]
    large = [Line(n, MOST_BYTES // 2) for n in range(3)]
    huge = [Line(0, 10), Line(1, 2 * MOST_BYTES), Line(2, 10)]

    assert [len(chunk) for chunk in chunks(small)] == [MOST_JOBS, 1]
    assert [len(chunk) for chunk in chunks(large)] == [2, 1]
    assert [len(chunk) for chunk in chunks(huge)] == [1, 1, 1]
    assert list(chunks([])) == []


def test_text_from_elsewhere_controls_no_terminal() -> None:
    controls = "".join(map(chr, [*range(32), *range(127, 160)]))

    assert set(plain(controls)) == {"\n", "\t", "\N{REPLACEMENT CHARACTER}"}
    assert plain("zażółć 四 🦊") == "zażółć 四 🦊"


def test_an_outcome_is_one_line_whatever_the_answer() -> None:
    body = {"id": "a", "status": "succeeded", "output": {"text": "one\n\ntwo\r\x1b[2J"}}

    line = tables.outcome(json.loads(json.dumps(body))).plain

    assert line == "a  succeeded  one two\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J"


def test_the_program_is_installed_with_its_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    entry = EntryPoint("slalom", project["project"]["scripts"]["slalom"], "console_scripts")

    assert entry.load() is main
    assert "client" in project["tool"]["setuptools"]["packages"]
