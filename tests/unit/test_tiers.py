"""The SLA table is checked whole: each fault with file, line, key and fix."""

from pathlib import Path

import pytest

from config.settings import ROOT
from config.tiers import TierTable, TierTableError

SHIPPED = ROOT / "config" / "tiers.yaml"


def broken(tmp_path: Path, old: str, new: str) -> Path:
    """Return the shipped table with one change."""
    text = SHIPPED.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "tiers.yaml"
    path.write_text(text.replace(old, new), encoding="utf-8")
    return path


def line_of(path: Path, part: str) -> int:
    return next(
        n for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if part in line
    )


def test_the_shipped_table_routes_premium_high_and_the_rest_low() -> None:
    table = TierTable.load(SHIPPED)

    assert {name: tier.queue for name, tier in table.tiers.items()} == {
        "premium": "high",
        "standard": "low",
        "batch": "low",
    }
    assert list(table.queues) == ["high", "low"]
    assert [table.tier_for(s) for s in ("priority", "auto", "default", "flex", "scale")] == [
        "premium",
        "standard",
        "standard",
        "batch",
        None,
    ]


@pytest.mark.parametrize(
    ("old", "new", "where", "said"),
    [
        ("queue: high", "queue: hihg", "queue: hihg", "tiers.premium.queue: no queue 'hihg'"),
        ("    queue: high\n", "", "premium:", "tiers.premium.queue: missing"),
        ("priority: 0 ", "priorty: 0 ", "priorty", "tiers.premium.priorty: unknown key"),
        ("[flex]", "[flex, auto]", "[flex, auto]", "'auto' already means 'standard'"),
        ("priority: 200", "priority: fast", "priority: fast", "tiers.batch.priority:"),
        ("priority: 0 ", "priority: 150 ", "priority: 100", "tiers.standard.priority: must be ab"),
        ("priority: 200", "priority: 0  # !", "# !", "tiers.batch.priority: must be above 0"),
        ("default_tier: standard", "default_tier: gold", "default_tier: gold", "no tier 'gold'"),
        ("  batch:", "  premium:", "  premium:", "tiers.premium: written twice"),
        ("scale_down_at: 8", "scale_down_at: 80", "scale_down_at: 80", "must be below scale_up_at"),
        (
            "workers_serve: [low]",
            "workers_serve: [high]",
            "workers_serve: [high]",
            "must contain 'low'",
        ),
        ("max: 2,", "max: 2, wait: 1,", "wait: 1", "tiers.premium.retry.wait: unknown key"),
        ("max: 2,", "max: 21,", "max: 21", "tiers.premium.retry.max: Input should be less"),
        ("base_s: 5", "base_s: 0", "base_s: 0", "tiers.batch.retry.base_s: Input should be gr"),
        ("base_s: 5", "base_s: .nan", "base_s: .nan", "tiers.batch.retry.base_s: Input should be"),
        ("cap_s: 60", "cap_s: .inf", "cap_s: .inf", "tiers.standard.retry.cap_s: Input should be"),
        ("cap_s: 10", "cap_s: 0.5", "cap_s: 0.5", "tiers.premium.retry: cap_s must not be below"),
    ],
)
def test_a_fault_is_named_with_its_line_and_key(
    tmp_path: Path, old: str, new: str, where: str, said: str
) -> None:
    path = broken(tmp_path, old, new)

    with pytest.raises(TierTableError) as error:
        TierTable.load(path)

    message = str(error.value)
    assert said in message
    expected = line_of(path, where)
    if "written twice" in said:  # the second of the two
        lines = path.read_text(encoding="utf-8").splitlines()
        expected = max(n for n, line in enumerate(lines, 1) if line == "  premium:")
    assert f"{path}:{expected}:" in message


@pytest.mark.parametrize(("standard", "batch"), [(1, 1), (200, 1), (1, 200)])
def test_tiers_of_one_queue_may_have_any_priorities_above_those_of_the_queue_before(
    tmp_path: Path, standard: int, batch: int
) -> None:
    path = broken(tmp_path, "priority: 100", f"priority: {standard}")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("priority: 200", f"priority: {batch}"), encoding="utf-8")

    assert TierTable.load(path).tiers["batch"].priority == batch


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    path = broken(tmp_path, "queue: high", "queue: hihg\n    colour: red")

    with pytest.raises(TierTableError) as error:
        TierTable.load(path)

    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [("queues: [", "not valid YAML"), ("", "the file"), ("- a\n", "the file")],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "tiers.yaml"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(TierTableError, match=said):
        TierTable.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TierTableError, match="cannot be read"):
        TierTable.load(tmp_path / "nowhere.yaml")
