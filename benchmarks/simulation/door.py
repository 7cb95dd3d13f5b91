"""The door: refuse a low job that would most likely be late, so that it does not wait in vain.

A job's wait is the work of its tier that has not begun, over the rate at which work of the tier
begins while some of it is queued: what other tiers take is in that rate. Work is counted as prompt
+ 2 * output tokens, the output as the mean of the tier's finished jobs.
"""

from dataclasses import dataclass

from benchmarks.simulation.jobs import Job

LONGEST_WINDOW_S = 300.0
"""A rate is that of so long a time, or of as long as the tier's jobs have."""
MARGIN = 0.9
"""How much of the time until the deadline the expected wait may fill."""
FIRST_GUESS = 200.0
"""Output tokens of a tier of which no job has finished yet."""


@dataclass(slots=True)
class Door:
    """One tier's, whose jobs have `horizon_s` until they are due."""

    horizon_s: float
    rate: float | None = None
    """Work begun per second while some is queued; None until it was measured."""
    ahead: float = 0.0
    _output_tokens: float = FIRST_GUESS
    _begun: float = 0.0
    _queued_s: float = 0.0

    def admits(self, job: Job) -> bool:
        """Return whether the job may wait; count it if so."""
        if self.wait_s() > MARGIN * self.horizon_s:
            return False
        job.work = job.prompt_tokens + 2 * self._output_tokens
        self.ahead += job.work
        return True

    def wait_s(self) -> float:
        """Return how long a job that comes now would wait."""
        if not self.ahead or self.rate is None:
            return 0.0
        return self.ahead / max(self.rate, 1.0)

    def began(self, job: Job, *, is_queued: bool) -> None:
        """Count its first token; it says something of the rate only while others are queued."""
        self.ahead -= job.work
        if is_queued:
            self._begun += job.work

    def expired(self, job: Job) -> None:
        """Forget one that never began."""
        self.ahead -= job.work

    def finished(self, job: Job) -> None:
        """Learn its length."""
        self._output_tokens += 0.01 * (job.num_tokens - self._output_tokens)

    def passed(self, took_s: float, *, is_queued: bool) -> None:
        """Let the time of a step pass, with jobs of the tier queued or not."""
        if not is_queued:
            return
        self._queued_s += took_s
        window_s = min(self.horizon_s, LONGEST_WINDOW_S)
        if self._queued_s >= window_s:
            self.rate = self._begun / self._queued_s
            self._queued_s /= 2  # the older half fades
            self._begun /= 2
