"""A file of tenants: each fault has its line, and what it changes can be seen before."""

from pathlib import Path

import pytest

from config.settings import Settings
from scheduler.tenants import Tenant, TierLimits
from scheduler.tenants_file import TenantsFileError, changes, load

TIERS = Settings().tiers()
GOOD = """
tenants:
  acme:
    weight: 2
    ceiling: standard
    models: [adder]
    limits:
      standard: {requests_per_min: 600}
  "42": {}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "tenants.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_the_whole_of_each_tenant(tmp_path: Path) -> None:
    tenants = load(written(tmp_path, GOOD), TIERS)

    limits = {"standard": TierLimits(requests_per_min=600)}
    acme = Tenant("acme", 2.0, ceiling="standard", models=("adder",), limits=limits)
    assert tenants == [acme, Tenant("42")]


@pytest.mark.parametrize(
    ("text", "line", "fault"),
    [
        ("tenants:\n  acme: {weight: -1}\n", 2, "tenants.acme.weight"),
        ("tenants:\n  acme:\n    weigth: 1\n", 3, "unknown key"),
        ("tenants:\n  acme:\n    weight: '2'\n", 3, "tenants.acme.weight"),
        ("tenants:\n  acme:\n    limits:\n      gold: {}\n", 4, "no tier 'gold'"),
        ("tenants:\n  acme:\n    limits:\n      batch:\n        speed: 1\n", 5, "unknown key"),
        ("tenants:\n  acme:\n    ceiling: gold\n", 3, "no tier 'gold'"),
        ("tenants:\n  acme:\n    default_tier: premium\n    ceiling: batch\n", 3, "above"),
        ("tenants:\n  acme: {}\n  acme: {}\n", 3, "written twice"),
        ("tenants:\n  Acme: {}\n", 2, "tenants.Acme"),
        ("tenants:\n  default: {}\n", 2, "rename"),
        ("tenants:\n  acme: 5\n", 2, "mapping"),
        ("tenants:\n  acme:\n    name: b\n", 2, "no name in it"),
        ("tenants: [acme]\n", 1, "tenants"),
        ("customers: {}\n", 1, "tenants: missing"),
        ("", 1, "the file"),
        ("tenants:\n  ? !!binary aGk=\n  : {}\n", 1, "plain data"),
        ("tenants: &a\n  acme: *a\n", 1, "plain data"),
    ],
)
def test_a_fault_has_its_line(tmp_path: Path, text: str, line: int, fault: str) -> None:
    path = written(tmp_path, text)

    with pytest.raises(TenantsFileError) as caught:
        load(path, TIERS)

    [*found] = str(caught.value).splitlines()
    assert any(said.startswith(f"{path}:{line}:") and fault in said for said in found), found


def test_a_date_is_a_name_like_any_other(tmp_path: Path) -> None:
    assert load(written(tmp_path, "tenants:\n  2026-11-21: {}\n"), TIERS) == [Tenant("2026-11-21")]


@pytest.mark.parametrize("text", ["tenants: {", "\tx", "\x00"])
def test_what_is_no_yaml_is_said_so(tmp_path: Path, text: str) -> None:
    with pytest.raises(TenantsFileError, match="not valid YAML"):
        load(written(tmp_path, text), TIERS)


def test_a_file_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(TenantsFileError, match="cannot be read"):
        load(tmp_path / "none.yaml", TIERS)


def test_only_what_changes_is_a_change() -> None:
    old = Tenant("acme", 1.0, ceiling="batch")
    after = [Tenant("acme", 2.0, ceiling="batch"), Tenant("same"), Tenant("new")]

    found = list(changes({"acme": old, "same": Tenant("same")}, after))

    assert [(change.tenant.name, change.is_new) for change in found] == [
        ("acme", False),
        ("new", True),
    ]
    assert found[0].fields == {"weight": (1.0, 2.0)}
