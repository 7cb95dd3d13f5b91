"""Answers: every way a job can end, as the problem that OpenAI's routes tell."""

from datetime import UTC, datetime
from typing import Any

import pytest

from api import answers
from api.openai_errors import error_of
from api.problems import Problem
from scheduler.deadlines import Deadlines
from scheduler.jobs import Failure, JobView, Status


def view(status: Status, code: str | None = None, **changes: Any) -> JobView:
    fields: dict[str, Any] = {
        "id": "j1",
        "status": status,
        "tier": "batch",
        "tenant": "default",
        "queue": "low",
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "queued_at": None,
        "started_at": None,
        "first_token_at": None,
        "finished_at": None,
        "request": None,
        "response": None,
        "failure": Failure(code=code, message=f"said of {code}") if code else None,
        "metadata": {},
        "deadlines": Deadlines(),
    }
    return JobView(**{**fields, **changes})


def told(problem: Problem) -> tuple[int, str, str]:
    return problem.status.value, problem.code, problem.headers.get("x-should-retry", "")


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (view("failed", "invalid_request"), (400, "invalid_request", "")),
        (view("canceled"), (409, "job_canceled", "false")),
        (view("expired", "expired"), (504, "expired", "false")),
        (view("failed", "engine_failure"), (500, "engine_failure", "false")),
        (view("failed", "engine_crash"), (500, "engine_crash", "false")),
        (view("failed", "worker_died"), (500, "worker_died", "false")),
        (view("failed", "timeout"), (500, "timeout", "false")),
        (view("succeeded"), (500, "job_failed", "false")),
    ],
)
def test_each_ending_has_its_status_and_its_code(
    ended: JobView, expected: tuple[int, str, str]
) -> None:
    assert told(answers.problem_of(ended)) == expected


def test_a_failure_tells_its_cause_and_where_the_job_can_be_looked_at() -> None:
    error = error_of(answers.problem_of(view("failed", "engine_failure")))

    assert error == {
        "message": "said of engine_failure",
        "type": "server_error",
        "param": None,
        "code": "engine_failure",
        "job_id": "j1",
        "status_url": "/v1/jobs/j1",
    }


def test_what_is_not_over_is_told_once_and_not_to_be_sent_again() -> None:
    problem = answers.still_running("j1", "the job is queued after 30 s")

    assert told(problem) == (504, "still_running", "false")
    assert "/v1/jobs/j1" in problem.detail
