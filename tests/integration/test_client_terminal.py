"""The `slalom` command on a terminal: colours, width, progress, completion."""

import pytest

from tests.integration.slalom_command import on_a_terminal, without_colours
from tests.integration.slalom_site import Site


def test_the_terminal_shows_colours_unless_told_not_to(site: Site) -> None:
    job_id = site.submitted("--tier", "premium")
    site("wait", job_id)

    coloured = on_a_terminal(site.url, "show", job_id)
    plain = on_a_terminal(site.url, "show", job_id, NO_COLOR="1")
    piped = site("show", job_id)

    assert "\x1b[32msucceeded" in coloured
    assert "\x1b[32m" not in plain
    assert "\x1b" not in piped.out


@pytest.mark.parametrize(
    "arguments",
    [["queues"], ["models"], ["dead-letters", "list"], ["show"], ["--help"], ["submit", "--help"]],
    ids=" ".join,
)
def test_80_columns_are_enough(site: Site, arguments: list[str]) -> None:
    if arguments == ["show"]:
        arguments = ["show", site.submitted("--metadata", f"note={'long ' * 40}")]
    site("wait", site.failed())

    screen = without_colours(on_a_terminal(site.url, *arguments))

    assert screen.strip()
    assert max(len(line) for line in screen.splitlines()) <= 80


def test_a_list_of_jobs_fits_80_columns(site: Site) -> None:
    site.submitted("--tier", "standard")

    screen = without_colours(on_a_terminal(site.url, "list"))

    table, _, _ = screen.partition("there may be more")  # where to go on is told in one piece
    assert max(len(line) for line in table.splitlines()) <= 80
    assert "standard" in table


def test_long_work_shows_its_progress_on_a_terminal_only(site: Site) -> None:
    ids = [site.submitted() for _ in range(3)]

    seen = on_a_terminal(site.url, "wait", *ids)

    assert "waiting" in seen
    assert [without_colours(line).split()[:2] for line in seen.splitlines() if ids[0] in line]
    assert site("wait", *ids).err == ""


def test_the_shell_completes_commands(site: Site) -> None:
    asked = {"COMP_WORDS": "slalom dead-letters re", "COMP_CWORD": "2"}

    done = site(_SLALOM_COMPLETE="complete_bash", **asked)

    assert done.lines == ["replay"]
