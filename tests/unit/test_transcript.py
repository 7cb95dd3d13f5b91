"""Transcript: a client gets each character of a stream once, whichever attempts write it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.transcript import Differs, Transcript

TEXTS = st.text(alphabet="aé\U0001f600 ", max_size=12)


def chunk(text: str, finish_reason: str | None = None, index: int = 0) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish_reason}
    return {"id": "chatcmpl-1", "created": 5, "choices": [choice]}


def completion(text: str) -> dict[str, Any]:
    return {"id": "cmpl-1", "created": 5, "choices": [{"index": 0, "text": text}]}


def contents(passed: list[dict[str, Any] | None]) -> list[str]:
    return [p["choices"][0]["delta"]["content"] for p in passed if p]


def pieces(text: str, cuts: list[int]) -> list[str]:
    """Return `text` in pieces that end at `cuts`, some of them empty."""
    ends = [*sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def test_a_first_attempt_passes_as_it_comes() -> None:
    transcript = Transcript()
    sent = [chunk(""), chunk("4"), chunk("2"), chunk("", "stop")]

    assert [transcript.pass_on("1", c) for c in sent] == sent


def test_what_was_sent_is_left_out_of_the_next_attempt_in_the_middle_of_a_chunk_too() -> None:
    transcript = Transcript()
    for text in ("", "1", "23"):
        transcript.pass_on("1", chunk(text))

    passed = [transcript.pass_on("2", chunk(text)) for text in ("", "12", "3456", "7")]

    assert passed[:2] == [None, None]
    assert contents(passed) == ["456", "7"]


def test_completions_are_cut_like_chats() -> None:
    transcript = Transcript()
    transcript.pass_on("1", completion("12"))

    passed = transcript.pass_on("2", completion("123"))

    assert passed == completion("3")


@given(TEXTS, st.lists(st.tuples(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=4))))
def test_attempts_that_end_anywhere_make_the_text_once(
    text: str, attempts: list[tuple[int, list[int]]]
) -> None:
    transcript, got = Transcript(), ""
    whole = [(len(text), [])]
    for number, (length, cuts) in enumerate([*attempts, *whole]):
        for piece in pieces(text[:length], cuts):
            got += "".join(contents([transcript.pass_on(str(number), chunk(piece))]))

    assert got == text


def test_another_text_cannot_go_on() -> None:
    transcript = Transcript()
    transcript.pass_on("1", chunk("123"))
    transcript.pass_on("2", chunk("12"))

    with pytest.raises(Differs):
        transcript.pass_on("2", chunk("4"))


def test_a_shorter_text_cannot_go_on() -> None:
    transcript = Transcript()
    transcript.pass_on("1", chunk("123"))
    transcript.pass_on("2", chunk("12"))

    with pytest.raises(Differs):
        transcript.pass_on("2", chunk("", "stop"))


def test_nothing_follows_an_end_that_was_sent() -> None:
    transcript = Transcript()
    transcript.pass_on("1", chunk("123", "stop"))

    assert transcript.pass_on("2", chunk("123", "stop")) is None
    with pytest.raises(Differs):
        transcript.pass_on("3", chunk("1234"))


def test_the_end_of_an_attempt_that_was_cut_off_is_left_to_the_next() -> None:
    transcript = Transcript()
    transcript.pass_on("1", chunk("1"))
    passed = transcript.pass_on("1", chunk("2", "abort"))
    rest = transcript.pass_on("2", chunk("123", "stop"))

    assert passed is None
    assert rest == chunk("23", "stop")


def test_each_choice_is_followed_by_itself() -> None:
    transcript = Transcript()
    transcript.pass_on("1", chunk("ab", index=0))
    transcript.pass_on("1", chunk("x", index=1))

    passed = [
        transcript.pass_on("2", chunk("xy", index=1)),
        transcript.pass_on("2", chunk("abc", index=0)),
    ]

    assert contents(passed) == ["y", "c"]


def test_log_probabilities_go_on_only_where_a_chunk_begins() -> None:
    def told(text: str) -> dict[str, Any]:
        made = chunk(text)
        made["choices"][0]["logprobs"] = {"content": [{"token": text}]}
        return made

    transcript = Transcript()
    transcript.pass_on("1", told("a"))

    assert transcript.pass_on("2", told("a")) is None
    assert transcript.pass_on("2", told("b")) == told("b")
    with pytest.raises(Differs):
        transcript.pass_on("3", told("abc"))


def test_tool_calls_that_were_sent_cannot_be_sent_again() -> None:
    call = {"index": 0, "function": {"name": "add", "arguments": "{"}}
    made = chunk("")
    made["choices"][0]["delta"] = {"tool_calls": [call]}
    transcript = Transcript()

    assert transcript.pass_on("1", made) == made
    with pytest.raises(Differs):
        transcript.pass_on("2", made)
