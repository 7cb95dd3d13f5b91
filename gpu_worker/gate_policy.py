"""Gate policy: whether low requests take part in a step of the engine that high ones are in.

A step with more requests in it takes longer, and every high request in it waits for the whole step.
So while a high request runs or waits, low ones are left out of the steps, but for those that the
mode opens to all of them:

    strict        none
    share         a fixed share of the steps
    slo           those that no high request will notice: each one's next token still comes by its
                  due time, `first token + i * TPOT` (the first: `arrival + TTFT`)

and, in every mode, the share of the steps that is their floor. Steps without high ones pay the
floor too, for up to `FLOOR_MEMORY` steps ahead: a high tier that pauses now and then never meets
it, one that never pauses loses that share.

All or none, because the time of a step mostly grows less than its batch. In runs, because an engine
may need time to take requests into its batch that a step before left out: a share is paid in runs
of some length, and `slo` opens once high requests are ahead enough for a run, and shuts when a step
would leave them less than `IN_HAND`.

Pure but for `gate_options`: instants come in as arguments (s, any one clock), nothing here knows
vLLM.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, cast

from config.settings import Settings

Mode = Literal["strict", "share", "slo"]

FLOOR_MEMORY = 2_000
"""Steps over which the floor's share is kept."""
RUN, PERIOD = 8, 64
"""Steps in a run, and from one run that pays a share to the next: at least."""
FORGET = 0.98
"""Weight of the past at every new step time."""
IN_HAND = 1.0
"""Tokens, at the pace of its objective, that `slo` keeps a high request ahead of its due times."""
MOST_AHEAD = 4.0
"""As many more let a run of `slo`'s begin in any case, though it will be shorter than `RUN`."""
GAINING = 0.75
"""A step so much shorter than a token's pace opens all the same: it puts high requests ahead."""
ROUNDING = 1e-12
"""Relative variance of step sizes below which they are all the same."""


@dataclass(frozen=True, slots=True)
class GateOptions:
    """What the gate is told at its start; JSON-able."""

    mode: Mode = "slo"
    share: float = 0.0
    """Of `share` mode: the share of the steps with a high one that low requests take part in."""
    floor: float = 0.05
    high_priority: int = 0
    """Requests with this priority or a smaller one are high."""
    ttft_s: float = 1.0
    tpot_s: float = 0.1
    margin: float = 0.95
    """How much of an objective `slo` uses up."""
    reserve: int | None = None
    """Seats that low ones leave free while high ones come and go; None: an eighth of them."""


def gate_options(settings: Settings) -> GateOptions | None:
    """Return what the settings and the SLA table ask for; None if there is nothing to gate.

    `slo` without objectives of the high tiers is `strict`.
    """
    tiers = settings.tiers().high_tiers
    mode, _, share = settings.gate.partition(":")
    if not tiers or mode == "off":
        return None
    ttfts = [t.objectives.ttft_s for t in tiers if t.objectives.ttft_s]
    tpots = [t.objectives.tpot_ms / 1e3 for t in tiers if t.objectives.tpot_ms]
    if mode == "slo" and not (ttfts and tpots):
        mode = "strict"
    return GateOptions(
        mode=cast(Mode, mode),
        share=float(share or 0),
        floor=settings.low_floor,
        high_priority=max(t.priority for t in tiers),
        ttft_s=min(ttfts, default=math.inf),
        tpot_s=min(tpots, default=math.inf),
        reserve=settings.reserve_seats,
    )


@dataclass(frozen=True, slots=True)
class High:
    """A high request: when it came, when its first token did, how many tokens it will have had."""

    arrival_at: float
    first_token_at: float | None
    num_tokens: int

    def due_at(self, options: GateOptions) -> float:
        """Return until when its next token should be there."""
        if self.first_token_at is None:
            return self.arrival_at + options.margin * options.ttft_s
        return self.first_token_at + self.num_tokens * options.margin * options.tpot_s


@dataclass(slots=True)
class StepTime:
    """What a step of so many tokens takes: a line, fitted to the latest steps."""

    _weight: float = 0.0
    _n: float = 0.0
    _t: float = 0.0
    _nn: float = 0.0
    _nt: float = 0.0

    def learn(self, num_tokens: int, took_s: float) -> None:
        """Take one measured step into account."""
        self._weight = FORGET * self._weight + 1
        self._n = FORGET * self._n + num_tokens
        self._t = FORGET * self._t + took_s
        self._nn = FORGET * self._nn + num_tokens * num_tokens
        self._nt = FORGET * self._nt + num_tokens * took_s

    def of(self, num_tokens: int) -> float:
        """Return the expected time (s) of a step; 0 before any was measured."""
        base_s, token_s = self._line()
        return max(base_s + token_s * num_tokens, 0.0)

    def num_within(self, seconds: float) -> float:
        """Return how many tokens a step of so many seconds can have; inf if they cost nothing."""
        base_s, token_s = self._line()
        return (seconds - base_s) / token_s if token_s > 0 else math.inf

    def _line(self) -> tuple[float, float]:
        """Return what a step takes without a token, and more for each (s)."""
        if not self._weight:
            return 0.0, 0.0
        n, t = self._n / self._weight, self._t / self._weight
        variance = self._nn / self._weight - n * n
        is_known = variance > ROUNDING * n * n
        slope = (self._nt / self._weight - n * t) / variance if is_known else 0.0
        slope = max(0.0, slope)
        return t - slope * n, slope


@dataclass(slots=True)
class Steps:
    """The engine's steps as they are scheduled and done; several may be on their way at once."""

    time: StepTime = field(default_factory=StepTime)
    _on_their_way: deque[tuple[float, int]] = field(default_factory=deque)
    _done_at: float = 0.0

    def scheduled(self, now: float, num_tokens: int) -> None:
        """Note a step that was just handed to the model."""
        self._on_their_way.append((now, num_tokens))

    def done(self, now: float) -> None:
        """Note that the oldest step on its way is done."""
        if self._on_their_way:
            scheduled_at, num_tokens = self._on_their_way.popleft()
            self.time.learn(num_tokens, now - max(scheduled_at, self._done_at))
        self._done_at = now

    def begins_at(self, now: float) -> float:
        """Return when the model will begin a step that is scheduled now."""
        if not self._on_their_way:
            return now
        first = max(self._on_their_way[0][0], self._done_at)
        return max(now, first + sum(self.time.of(n) for _, n in self._on_their_way))


@dataclass(slots=True)
class Account:
    """A share of the steps, that low requests are paid in runs."""

    share: float
    memory: float
    """Steps for which it can be paid in advance."""
    owed: float = 0.0
    """Steps; negative: paid in advance."""
    is_paying: bool = False
    """Whether the step belongs to a run, which ends as much ahead as it began behind."""

    @property
    def swing(self) -> float:
        """How many steps are owed more before a run than after it."""
        return max(RUN, PERIOD * self.share) * (1 - self.share)

    def earn(self) -> None:
        """Note a step that is about to be made."""
        self.owed += self.share
        self.is_paying = self.owed > (-0.5 if self.is_paying else 0.5) * self.swing

    def pay(self, steps: float) -> None:
        """Note how much of a step low requests had."""
        self.owed = max(self.owed - steps, -max(self.swing, self.memory * self.share))


@dataclass(slots=True)
class Gate:
    """Decides step by step whether low requests take part."""

    options: GateOptions
    steps: Steps = field(default_factory=Steps)
    _floor: Account = field(init=False)
    _share: Account = field(init=False)
    _is_open: bool = False
    """Whether low requests took part in the latest step with a high one."""

    def __post_init__(self) -> None:
        self._floor = Account(self.options.floor, FLOOR_MEMORY)
        self._share = Account(self.options.share, PERIOD)

    @property
    def owes(self) -> bool:
        """Whether low requests are being paid their floor, though high ones may be starting."""
        return self._floor.is_paying

    def opens(self, now: float, highs: Iterable[High], num_tokens: int) -> bool:
        """Whether all low requests, `num_tokens` with the high ones, join the next step."""
        self._floor.earn()
        self._share.earn()
        is_paying = self._floor.is_paying or self._share.is_paying
        self._is_open = is_paying or self._is_in_time(now, highs, num_tokens)
        if self._is_open:
            self._floor.pay(1.0)
            self._share.pay(1.0)
        return self._is_open

    def most_tokens(self, now: float, highs: Iterable[High]) -> float:
        """Return how many tokens let the next step be in time; inf if any number does."""
        return self.steps.time.num_within(self._most_s(now, highs))

    def passed_freely(self) -> None:
        """Note a step with low requests and no high one."""
        self._floor.earn()
        self._floor.pay(1.0)

    def _is_in_time(self, now: float, highs: Iterable[High], num_tokens: int) -> bool:
        if self.options.mode != "slo":
            return False
        takes_s = self.steps.time.of(num_tokens)
        run_s = RUN * max(0.0, takes_s - self._pace_s)
        ahead_s = 0.0 if self._is_open else min(run_s, MOST_AHEAD * self._pace_s)
        return takes_s + ahead_s <= self._most_s(now, highs)

    @property
    def _pace_s(self) -> float:
        return self.options.margin * self.options.tpot_s

    def _most_s(self, now: float, highs: Iterable[High]) -> float:
        """Return how long the next step may take (s)."""
        begins_at = self.steps.begins_at(now)
        return min((self._spare_s(high, begins_at) for high in highs), default=math.inf)

    def _spare_s(self, high: High, begins_at: float) -> float:
        """Return how much time a high request has for the next step (s)."""
        in_hand = high.due_at(self.options) - begins_at
        if high.first_token_at is None:
            return in_hand
        return max(in_hand - IN_HAND * self._pace_s, min(in_hand, GAINING * self._pace_s))
