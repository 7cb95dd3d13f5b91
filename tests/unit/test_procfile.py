from pathlib import Path

import pytest

from onebox.procfile import ProcfileError, counts, formation, parse, read

ROOT = Path(__file__).resolve().parents[2]


def test_commands_come_by_name_in_the_files_order():
    text = """
    # one process type a line
    web: gunicorn -c config/gunicorn.py "api.app:create_app()"

    low-1:   rq worker low
    """

    commands = parse(text)

    assert list(commands.items()) == [
        ("web", 'gunicorn -c config/gunicorn.py "api.app:create_app()"'),
        ("low-1", "rq worker low"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("web: a\nnonsense", "Procfile:2: not of the form `name: command`: nonsense"),
        ("web:", "Procfile:1: not of the form `name: command`: web:"),
        ("a b: c", "Procfile:1: not of the form `name: command`: a b: c"),
        ("web: a\n\nweb: b", "Procfile:3: a second process named web"),
        ("# nothing", "Procfile: names no process"),
    ],
)
def test_a_bad_line_is_named_with_its_file_and_number(text, message):
    with pytest.raises(ProcfileError) as error:
        parse(text)

    assert str(error.value) == message


def test_a_missing_procfile_is_named(tmp_path):
    with pytest.raises(ProcfileError, match="No such file"):
        read(tmp_path / "Procfile")


def test_each_process_runs_once_unless_scaled():
    commands = {"web": "w", "fast": "f", "slow": "s"}

    instances = formation(commands, {"fast": 2, "slow": 0})

    assert instances == {"web": "w", "fast.1": "f", "fast.2": "f"}


def test_scaling_a_process_that_is_not_there_names_those_that_are():
    with pytest.raises(ProcfileError, match="no process named slwo; there are web, slow"):
        formation({"web": "w", "slow": "s"}, {"slwo": 1})


def test_a_scale_is_read_from_name_and_number():
    assert counts("fast=2, slow=0") == {"fast": 2, "slow": 0}
    assert counts("") == {}


@pytest.mark.parametrize("text", ["fast", "fast=", "=2", "fast=-1", "fast=two"])
def test_a_scale_of_another_form_is_refused(text):
    with pytest.raises(ProcfileError, match="not of the form name=number"):
        counts(text)


def test_every_command_of_slaloms_procfile_begins_with_a_program():
    commands = read(ROOT / "Procfile")

    assert {"redis", "web", "fast", "maintenance"} <= commands.keys()
    assert {command.split()[0] for command in commands.values()} <= {"python", "gunicorn", "rq"}
