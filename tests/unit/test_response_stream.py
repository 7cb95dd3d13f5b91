"""The events of a response: numbered for good, in one story over several attempts."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from api.follow import Chunk, StatusChanged
from api.problems import StreamInterrupted
from api.response_stream import ResponseDialect
from api.transcript import Differs

QUEUED = StatusChanged("0-0", "queued", None)
RUNNING = StatusChanged("1-0", "running", None)
DONE = {"id": "resp_1", "status": "completed", "output": []}


def dialect(
    *, is_background: bool = True, after: int = -1, response: dict[str, Any] = DONE
) -> ResponseDialect:
    return ResponseDialect(lambda: response, is_background=is_background, after=after)


def read(frames: Iterator[str]) -> list[dict[str, Any]]:
    """Return the events in `frames`, which must be named as they say."""
    found = []
    for frame in frames:
        kind, data = frame.removesuffix("\n\n").split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        found.append(event)
    return found


def vllm(attempt: int, *texts: str, item: str = "msg_1", completed: bool = True) -> list[Chunk]:
    """Return what vLLM streams of a response with one message."""
    place = {"output_index": 0, "item_id": item}
    part = {"content_index": 0, **place}
    whole = "".join(texts)
    head: list[dict[str, Any]] = [
        {"type": "response.created", "response": {}},
        {"type": "response.in_progress", "response": {}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"id": item}},
        {"type": "response.content_part.added", **part},
    ]
    deltas = [{"type": "response.output_text.delta", "delta": text, **part} for text in texts]
    tail: list[dict[str, Any]] = [
        {"type": "response.output_text.done", "text": whole, **part},
        {"type": "response.content_part.done", **part},
        {"type": "response.output_item.done", "output_index": 0, "item": {"id": item}},
        {"type": "response.completed", "response": {}},
    ]
    events = [*head, *deltas, *(tail if completed else [])]
    return [Chunk(f"{attempt}-{n}", json.dumps(e)) for n, e in enumerate(events, 1)]


def story(speaker: ResponseDialect, *chunks: Chunk, ends: bool = True) -> list[dict[str, Any]]:
    found = [*read(speaker.status(QUEUED)), *read(speaker.status(RUNNING))]
    for chunk in chunks:
        found += read(speaker.chunk(chunk))
    return [*found, *(read(speaker.done()) if ends else [])]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_response_begins_and_ends_with_the_job_and_has_vllms_events_in_between() -> None:
    events = story(dialect(), *vllm(1, "4", "2"))

    assert kinds(events) == [
        "created",
        "queued",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(11))
    assert events[0]["response"]["status"] == "queued"
    assert events[2]["response"]["status"] == "in_progress"
    assert events[-1]["response"] == DONE


def test_only_a_response_in_the_background_is_told_to_be_queued() -> None:
    assert kinds(story(dialect(is_background=False), *vllm(1, "4")))[:2] == [
        "created",
        "in_progress",
    ]


def test_who_comes_back_gets_what_is_behind_the_number_it_names() -> None:
    whole = story(dialect(), *vllm(1, "4", "2"))

    for number in range(11):
        assert story(dialect(after=number), *vllm(1, "4", "2")) == whole[number + 1 :] or (
            number == 10
        )


def test_the_end_is_told_to_whoever_comes_back() -> None:
    [last] = story(dialect(after=50), *vllm(1, "4", "2"))

    assert (last["type"], last["sequence_number"]) == ("response.completed", 51)


def test_another_attempt_goes_on_where_the_first_one_ended() -> None:
    first = vllm(1, "12", "3", completed=False)
    second = vllm(2, "1", "2345", item="msg_2")

    events = story(dialect(), *first, *second)

    deltas = [event["delta"] for event in events if event["type"].endswith("delta")]
    assert deltas == ["12", "3", "45"]
    assert kinds(events).count("output_item.added") == 1
    assert {event["item_id"] for event in events if "item_id" in event} == {"msg_1"}
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


def test_the_ends_of_an_attempt_that_was_cut_off_are_left_to_the_next() -> None:
    events = story(dialect(), *vllm(1, "12"), *vllm(2, "123"))

    deltas = [event["delta"] for event in events if event["type"].endswith("delta")]
    assert deltas == ["12", "3"]
    assert [event["text"] for event in events if event["type"].endswith("text.done")] == ["123"]
    assert kinds(events)[-4:] == [
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


@pytest.mark.parametrize("texts", [("1", "9"), ("1",)], ids=["another", "shorter"])
def test_another_text_cannot_go_on(texts: tuple[str, ...]) -> None:
    with pytest.raises(Differs):
        story(dialect(), *vllm(1, "123", completed=False), *vllm(2, *texts))


@pytest.mark.parametrize(
    ("status", "kind"),
    [("incomplete", "incomplete"), ("failed", "failed"), ("cancelled", "failed")],
)
def test_the_last_event_is_named_for_the_status(status: str, kind: str) -> None:
    speaker = dialect(response={**DONE, "status": status})

    events = story(speaker, *vllm(1, "4"))

    assert kinds(events)[-1] == kind
    assert events[-1]["response"]["status"] == status


def test_a_stream_that_cannot_go_on_ends_with_an_error_event() -> None:
    speaker = dialect()
    story(speaker, *vllm(1, "4"), ends=False)

    [error] = read(speaker.failed(StreamInterrupted("it differs", job_id="1")))

    assert (error["type"], error["code"]) == ("error", "stream_interrupted")
    assert error["message"] == "it differs"
