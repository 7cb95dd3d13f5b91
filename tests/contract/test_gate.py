"""The step gate on vLLM's own scheduler: high requests get through, and none is lost."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_worker.gate_policy import GateOptions

if TYPE_CHECKING:
    from tests.contract.stepping import Stepping

pytestmark = pytest.mark.vllm

HIGH, LOW = 0, 100
STRICT = GateOptions(mode="strict", floor=0)
MODES = [
    STRICT,
    GateOptions(mode="strict", floor=0.2, reserve=1),
    GateOptions(mode="share", share=0.3, floor=0, reserve=2),
    GateOptions(mode="slo", floor=0.05, ttft_s=0.05, tpot_s=0.012),
]

New = Callable[..., "Stepping"]


@pytest.fixture(scope="module")
def new() -> Iterator[New]:
    """Make schedulers, whose clock stands still between steps."""
    from gpu_worker import gate
    from tests.contract import stepping

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "time", stepping.CLOCK)
        yield stepping.Stepping


ARRIVAL = st.tuples(st.sampled_from([HIGH, LOW, LOW]), st.integers(1, 60), st.integers(1, 24))
ABORT = st.integers(0, 30)
STEPS = st.integers(1, 12).map(lambda n: "." * n)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("caches", [False, True], ids=["", "prefix caching"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(ARRIVAL | ARRIVAL | ABORT | STEPS, max_size=40),
    st.sampled_from(MODES),
    st.sampled_from([24, 40, 200]),
    st.sampled_from([16, 200]),
    st.sampled_from([None, 3]),
)
def test_whatever_comes_and_goes_every_step_keeps_the_rules_and_every_request_ends(
    new: New,
    depth: int,
    caches: bool,
    life: list[tuple[int, int, int] | int | str],
    options: GateOptions,
    num_blocks: int,
    most_tokens: int,
    active: int | None,
) -> None:
    engine = new(options, 4, active, most_tokens, num_blocks, caches=caches, depth=depth)

    for event in life:
        if isinstance(event, tuple):
            engine.add(*event)
        elif isinstance(event, str):
            for _ in event:
                engine.step()
        elif engine.requests:
            engine.abort(list(engine.requests)[event % len(engine.requests)])

    engine.finish()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_high_request_takes_a_seat_in_the_next_step(new: New, depth: int) -> None:
    engine = new(depth=depth)
    for _ in range(8):
        engine.add(LOW, prompt=8, output=20)
    for _ in range(5):
        engine.step()

    high = engine.add(HIGH, prompt=8, output=5)

    assert engine.step() == {high.request_id}
    assert engine.low_seats == 3
    engine.finish()


def test_low_requests_that_stay_aside_are_looked_at_once(new: New) -> None:
    engine = new()
    for _ in range(2):
        engine.add(LOW, prompt=4, output=9)
    engine.step()
    engine.add(HIGH, prompt=4, output=9)
    engine.step()
    engine.step()
    parts = engine.scheduler._parts

    assert engine.step() == {"high-2"}
    assert engine.scheduler._parts is parts
    assert [r.request_id for r in parts.low] == ["low-0", "low-1"]

    engine.abort("low-1")
    engine.step()
    assert [r.request_id for r in engine.scheduler._parts.low] == ["low-0"]
    engine.finish()


def test_the_floor_lets_a_low_request_begin_though_a_high_one_starts_in_every_step(
    new: New,
) -> None:
    engine = new(GateOptions(mode="strict", floor=0.1))
    low = engine.add(LOW, prompt=8, output=4)

    for _ in range(60):
        engine.add(HIGH, prompt=8, output=1)
        engine.step()

    assert low.is_finished()
    engine.finish()


@pytest.mark.parametrize(("watermark", "evicted"), [(0.0, ["low-2"]), (0.25, ["low-2", "low-1"])])
def test_a_high_request_takes_the_blocks_of_as_few_low_ones_as_it_needs(
    new: New, watermark: float, evicted: list[str]
) -> None:
    engine = new(num_blocks=24, watermark=watermark)
    for _ in range(3):
        engine.add(LOW, prompt=20, output=12)
    engine.step()

    high = engine.add(HIGH, prompt=36, output=5)

    assert engine.step() == {high.request_id}
    assert engine.scheduler.evicted == evicted
    engine.finish()


def test_a_long_prompt_keeps_the_blocks_it_needs_from_low_ones_that_go_on(new: New) -> None:
    options = GateOptions(mode="share", share=0.5, floor=0)
    engine = new(options, seats=8, num_blocks=24, most_tokens=8)
    for _ in range(6):
        engine.add(LOW, prompt=1, output=60)
    for _ in range(12):
        engine.step()
    high = engine.add(HIGH, prompt=40, output=5)

    while not high.is_finished():
        engine.step()

    assert high.num_preemptions == 0
    engine.finish()


def test_a_high_request_displaces_nobody_before_its_grammar_is_compiled(new: New) -> None:
    from vllm.sampling_params import StructuredOutputsParams

    engine = new()
    for _ in range(8):
        engine.add(LOW, prompt=8, output=20)
    engine.step()
    high = engine.add(HIGH, 8, 5, structured_outputs=StructuredOutputsParams(json_object=True))

    assert engine.step() == {"low-0", "low-1", "low-2", "low-3"}
    assert engine.scheduler.evicted == []

    grammar = SimpleNamespace(accept_tokens=lambda *_: True)
    high.structured_output_request.grammar = grammar
    assert engine.step() == {high.request_id}
    engine.finish()


@pytest.mark.parametrize(("reserve", "kept"), [(5, 5), (None, 3), (0, 0)])
def test_the_reserve_holds_while_high_ones_come_and_go_and_is_gone_a_second_later(
    new: New, reserve: int | None, kept: int
) -> None:
    options = GateOptions(mode="strict", floor=0, reserve=reserve)
    engine = new(options, seats=24, most_tokens=400, num_blocks=400)
    for _ in range(300):
        engine.add(LOW, prompt=8, output=40)
    engine.step()
    assert engine.low_seats == 24, "nothing is reserved before the first high request"

    for _ in range(5):
        high = engine.add(HIGH, prompt=8, output=5)
        while not high.is_finished():
            engine.step()
        for _ in range(45):
            before = engine.low_seats
            engine.step()
            assert engine.low_seats <= max(before, 24 - kept)
    assert engine.low_seats == 24 - kept

    engine.step(took_s=1.1)
    engine.step()

    assert engine.low_seats == 24
    engine.finish()


def test_low_requests_leave_some_blocks_free_while_high_ones_come_and_go(new: New) -> None:
    engine = new(num_blocks=24, most_tokens=200)
    for _ in range(3):
        engine.add(LOW, prompt=25, output=20)
    engine.step()
    engine.add(HIGH, prompt=4, output=1)
    engine.step()
    low = engine.add(LOW, prompt=4, output=4)

    assert low.request_id not in engine.step(took_s=1.1)
    assert low.request_id in engine.step()

    engine.finish()


def test_low_requests_start_few_at_a_time_while_high_ones_come_and_go(new: New) -> None:
    from gpu_worker.gate import START_SHARE, STARTS

    engine = new(seats=32, most_tokens=2000, num_blocks=2000)
    high = engine.add(HIGH, prompt=8, output=3)
    for _ in range(32):
        engine.add(LOW, prompt=200, output=5)
    while not high.is_finished():
        engine.step()
    before = engine.low_seats

    scheduled = engine.step()

    assert before == 0
    most = int(START_SHARE * engine.scheduler.max_num_scheduled_tokens)
    assert len(scheduled) == min(STARTS, -(-most // 200)) == 3
    engine.finish()


def test_without_high_requests_every_step_is_vllms_own(new: New) -> None:
    engine = new(GateOptions(mode="strict", floor=0, reserve=3), seats=8, most_tokens=200)
    for _ in range(20):
        engine.add(LOW, prompt=8, output=5)

    assert len(engine.step()) == 8

    engine.finish()
    assert engine.scheduler.evicted == []
