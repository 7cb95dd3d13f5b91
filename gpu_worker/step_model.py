"""Step model: continuous batching as vLLM's scheduler does it, step by step and without a clock.

A step serves what runs, in admission order: a token for each sequence that decodes, then chunks of
prompts, up to the step's tokens; what is left of them admits waiting sequences by (priority,
arrival) while a seat is free and the whole prompt fits the KV cache. A waiting sequence never
displaces a running one. Where the next tokens do not fit the KV cache, the running sequence with
the largest (priority, arrival) is preempted and will be computed again.

    batch.add(sequence)
    took_s = batch.plan()                  what the next step does, and how long it takes
    first, finished = batch.complete()     it is done

Sequences are open or gated. A rule says what the gated ones may do in a step; set aside, they keep
seat and KV. All that decode in a lane make their steps together, so that planning a step costs what
changes in it, however many run. A prompt's KV is taken whole at its admission, in tokens, not
blocks.
"""

import heapq
import itertools
import sys
from dataclasses import dataclass
from typing import NamedTuple

NOT_DECODING = -1


@dataclass(frozen=True, slots=True)
class StepCost:
    """Seconds of a step: a + b * prefill tokens + c * decodes + d * KV tokens they attend to."""

    step_s: float
    prefill_token_s: float = 0.0
    decode_s: float = 0.0
    kv_token_s: float = 0.0

    def __call__(self, prefill_tokens: int, num_decodes: int, kv_tokens: int) -> float:
        """Return how long the step takes."""
        return (
            self.step_s
            + self.prefill_token_s * prefill_tokens
            + self.decode_s * num_decodes
            + self.kv_token_s * kv_tokens
        )


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one engine holds: vLLM's max_num_seqs, KV cache and max_num_batched_tokens."""

    seats: int
    kv_tokens: int
    step_tokens: int

    def __post_init__(self) -> None:
        if self.seats > self.step_tokens:
            raise ValueError(f"{self.seats} seats need as many tokens in a step")


class Rule(NamedTuple):
    """What gated sequences may do in a step."""

    run: bool = True
    """Take part at all."""
    prompt_tokens: int = sys.maxsize
    """Prefill so many tokens, all together."""
    seats: int = sys.maxsize
    """Enter while fewer seats than these are taken."""


FREE = Rule()
ASIDE = Rule(run=False)


@dataclass(eq=False, slots=True)
class Sequence:
    """One request in the engine."""

    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    is_gated: bool = False
    order: int = 0
    num_tokens: int = 0
    """Output tokens, up to date while it does not decode."""
    missing: int = 0
    """Tokens to prefill before the next output token."""
    end_tick: int = NOT_DECODING
    is_running: bool = False
    num_preemptions: int = 0


class Lane:
    """Sequences that decode together: in a step each gets a token, or none does."""

    def __init__(self) -> None:
        self.ticks = 0
        self.num_running = 0
        self.num_decodes = 0
        self.kv_tokens = 0
        self.missing = 0
        """Tokens to prefill, of those that run and those that wait."""
        self._ends: list[tuple[int, int, Sequence]] = []
        self._entries = itertools.count()

    @property
    def num_prefilling(self) -> int:
        """Those with a seat that do not decode yet."""
        return self.num_running - self.num_decodes

    def join(self, sequence: Sequence) -> None:
        """Let it decode from the next step on."""
        sequence.end_tick = self.ticks + sequence.output_tokens - sequence.num_tokens
        self.num_decodes += 1
        self.kv_tokens += sequence.prompt_tokens + sequence.num_tokens
        heapq.heappush(self._ends, (sequence.end_tick, next(self._entries), sequence))

    def leave(self, sequence: Sequence) -> None:
        """End its decoding, complete or not."""
        sequence.num_tokens = sequence.output_tokens - (sequence.end_tick - self.ticks)
        sequence.end_tick = NOT_DECODING
        self.num_decodes -= 1
        self.kv_tokens -= sequence.prompt_tokens + sequence.num_tokens

    def tick(self) -> list[Sequence]:
        """Give each a token; return those that have all of theirs."""
        self.ticks += 1
        self.kv_tokens += self.num_decodes
        ended = []
        while self._ends and self._ends[0][0] <= self.ticks:
            end_tick, _, sequence = heapq.heappop(self._ends)
            if sequence.end_tick == end_tick:  # else it left before
                self.leave(sequence)
                ended.append(sequence)
        return ended


class ContinuousBatch:
    """The sequences of one engine and what its next step does."""

    def __init__(self, capacity: Capacity, step_cost: StepCost) -> None:
        self.capacity = capacity
        self.step_cost = step_cost
        self.open = Lane()
        self.gated = Lane()
        self.kv_used = 0
        self.num_preemptions = 0
        self._waiting: list[tuple[int, int, Sequence]] = []
        self._prefilling: list[Sequence] = []
        self._running: dict[Sequence, None] = {}
        self._orders = itertools.count(1)
        self._lanes: tuple[Lane, ...] = ()
        self._chunks: list[tuple[Sequence, int]] = []
        self._left = self._left_gated = 0
        self.num_planned = 0
        """Tokens of the planned step."""

    @property
    def running(self) -> tuple[Sequence, ...]:
        """In admission order."""
        return tuple(self._running)

    @property
    def num_running(self) -> int:
        """Seats taken."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences without a seat."""
        return len(self._waiting)

    def add(self, sequence: Sequence) -> None:
        """Let it wait for a seat; ValueError if it can never fit."""
        if sequence.prompt_tokens + sequence.output_tokens > self.capacity.kv_tokens:
            raise ValueError("the sequence is longer than the KV cache")
        sequence.order = next(self._orders)
        self._wait(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Drop it, wherever it is."""
        if sequence.is_running:
            self._prefilling = [s for s in self._prefilling if s is not sequence]
            self._chunks = [(s, chunk) for s, chunk in self._chunks if s is not sequence]
            self._stand_up(sequence)
        else:
            self._waiting = [entry for entry in self._waiting if entry[2] is not sequence]
            heapq.heapify(self._waiting)
        self._lane(sequence).missing -= sequence.missing
        sequence.missing = 0

    def preempt(self, sequence: Sequence) -> None:
        """Take its seat and its KV: it waits again, and what it had is computed again."""
        if sequence in self._prefilling:
            self._prefilling.remove(sequence)
        self._stand_up(sequence)
        self._wait(sequence)
        sequence.num_preemptions += 1
        self.num_preemptions += 1

    def plan(self, rule: Rule = FREE) -> float | None:
        """Settle what the next step does and return its seconds; None if nothing can run."""
        self._lanes = (self.open, self.gated) if rule.run else (self.open,)
        may_admit = self._make_room()
        num_decodes = sum(lane.num_decodes for lane in self._lanes)
        self._chunks = []
        self._left = self.capacity.step_tokens - num_decodes
        self._left_gated = min(self._left, rule.prompt_tokens) if rule.run else 0
        for sequence in self._prefilling:
            self._chunk(sequence)
        if may_admit:
            self._admit(rule.seats, self.capacity.kv_tokens - num_decodes)
        self.num_planned = self.capacity.step_tokens - self._left
        if not self.num_planned:
            return None
        kv_tokens = sum(lane.kv_tokens for lane in self._lanes)
        return self.step_cost(self.num_planned - num_decodes, num_decodes, kv_tokens)

    def complete(self) -> tuple[list[Sequence], list[Sequence]]:
        """Make the planned step; return those with their first token, and those that finished."""
        first, finished = [], []
        for lane in self._lanes:
            self.kv_used += lane.num_decodes
            finished += lane.tick()
        for sequence, chunk in self._chunks:
            self._lane(sequence).missing -= chunk
            sequence.missing -= chunk
            if sequence.missing:
                continue
            self._prefilling.remove(sequence)
            sequence.num_tokens += 1
            if sequence.num_tokens == 1:
                first.append(sequence)
            if sequence.num_tokens >= sequence.output_tokens:
                finished.append(sequence)
            else:
                self._lane(sequence).join(sequence)
        for sequence in finished:
            self._stand_up(sequence)
        return first, finished

    def _lane(self, sequence: Sequence) -> Lane:
        return self.gated if sequence.is_gated else self.open

    def _wait(self, sequence: Sequence) -> None:
        lane = self._lane(sequence)
        lane.missing -= sequence.missing
        sequence.missing = sequence.prompt_tokens + sequence.num_tokens
        lane.missing += sequence.missing
        heapq.heappush(self._waiting, (sequence.priority, sequence.order, sequence))

    def _admit(self, gated_seats: int, kv_tokens: int) -> None:
        while self._left and self._waiting and self.num_running < self.capacity.seats:
            sequence = self._waiting[0][2]
            if sequence.is_gated and not (self._left_gated and self.num_running < gated_seats):
                break
            if self.kv_used + _held(sequence) > kv_tokens:
                break
            heapq.heappop(self._waiting)
            self._running[sequence] = None
            self._lane(sequence).num_running += 1
            self._prefilling.append(sequence)
            sequence.is_running = True
            self.kv_used += _held(sequence)
            self._chunk(sequence)

    def _chunk(self, sequence: Sequence) -> None:
        """Give it as much of the step as it needs and may have."""
        chunk = min(sequence.missing, self._left)
        if sequence.is_gated:
            chunk = min(chunk, self._left_gated)
            self._left_gated -= chunk
        self._left -= chunk
        if chunk:
            self._chunks.append((sequence, chunk))

    def _make_room(self) -> bool:
        """Preempt until the step's decodes fit; return whether it may admit: nothing was."""
        before = self.num_preemptions
        while self.kv_used + sum(x.num_decodes for x in self._lanes) > self.capacity.kv_tokens:
            seen = [s for s in self._running if self._lane(s) in self._lanes]
            self.preempt(max(seen, key=lambda s: (s.priority, s.order)))
        return self.num_preemptions == before

    def _stand_up(self, sequence: Sequence) -> None:
        """Free its seat and its KV."""
        lane = self._lane(sequence)
        if sequence.end_tick != NOT_DECODING:
            lane.leave(sequence)
        held = sequence.prompt_tokens + sequence.num_tokens
        self.kv_used -= _held(sequence) if sequence.missing else held
        del self._running[sequence]
        sequence.is_running = False
        lane.num_running -= 1


def _held(sequence: Sequence) -> int:
    """Return the KV of one that prefills: all it had, and room for the next token."""
    return sequence.prompt_tokens + sequence.num_tokens + 1
