"""Batch advance: one step of a batch whose jobs are under way.

Collect the jobs that ended, then queue as many more as may be queued ahead; or, in a batch that is
cancelled or past its window, write off what was not read. All of it goes into one transaction.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Protocol, cast

from redis import Redis
from redis.client import Pipeline

from config.tiers import TierTable
from scheduler import batch_drafts, models
from scheduler.batch_inspection import Inspection, is_marked
from scheduler.batch_lines import Entry, LineFault, LineRules, RawLine, read_lines
from scheduler.batch_record import Batch, BatchFault, Draft
from scheduler.batch_results import ResultLine, forget, line_of, line_of_fault, read_ends, undone
from scheduler.deadlines import Deadlines
from scheduler.files import Files, NoSuchFile
from scheduler.submit import Submission, Submitter

MOST_COLLECTED = 200
MOST_READ = 100
MOST_WRITTEN_OFF = 500
MOST_BYTES = 1 << 20
"""Bounds of one step: lines, and bytes of them."""
GIVE_UP_S = 60.0
"""How long a batch that is cancelled or expired waits for its running jobs to end."""
LOOK_EVERY_S = 5.0
"""How often every open job is looked at, should the news of an end have been missed."""
AT_ONCE, SOON_S, IDLE_S = 0.0, 0.2, 1.0
"""Pauses before the next step."""


class Allowance(Protocol):
    """What a tenant may still queue."""

    def admit(self, submission: Submission) -> Submission | LineFault | None:
        """Return the submission as it may be queued, or why it never may; None: it must wait.

        What it counts it counts once for a job, however often it is asked.
        """


class Unlimited:
    """No limits."""

    def admit(self, submission: Submission) -> Submission:
        """Return it as it is."""
        return submission


@dataclass(frozen=True, slots=True)
class Means:
    """What every step works with; `ahead` jobs of one batch are open at most."""

    connection: Redis
    submitter: Submitter
    tiers: TierTable
    served_model: str
    ahead: int
    max_lines: int
    max_line_bytes: int
    record_ttl_s: int
    allowance: Allowance = field(default_factory=Unlimited)

    def lines(self, batch: Batch) -> Iterator[RawLine]:
        """Yield the lines of the input that were not read yet."""
        files, source = Files(self.connection), batch.order.input_file_id
        return read_lines(
            lambda number: files.piece(source, number),
            batch.order.input_bytes,
            at=batch.progress.read_bytes,
            number=batch.progress.read_lines,
            max_bytes=self.max_line_bytes,
        )

    def rules(self, batch: Batch) -> LineRules:
        """Return what the lines of a batch are held to."""
        tier = batch.order.tier if batch.order.tier in self.tiers.tiers else self.tiers.default_tier
        served = [model.name for model in models.announced(self.connection)]
        return LineRules(batch.order.endpoint, tier, self.tiers, self.served_model, served)


@dataclass(slots=True)
class Work:
    """What one process remembers of a batch from step to step; nothing that must not be lost."""

    batch_id: str
    heard: set[int] = field(default_factory=set)
    """Lines whose jobs are said to have ended."""
    look_at: float = 0.0
    told: set[int] = field(default_factory=set)
    """Lines whose jobs were told to stop."""
    inspection: Inspection | None = None
    is_new: bool = True
    """Whether no step was done yet."""


class Advance:
    """One step of a batch whose jobs are under way."""

    def __init__(self, means: Means, batch: Batch, work: Work, pipeline: Pipeline) -> None:
        self.batch = batch
        self._means, self._work, self._pipeline = means, work, pipeline
        self._connection = means.connection
        self._open: dict[int, str] = {
            int(line): json.loads(custom_id)
            for line, custom_id in self._connection.hgetall(batch.key("open")).items()
        }
        self._queued: dict[int, str] = {}
        self._results: list[ResultLine] = []
        self._read = (batch.progress.read_bytes, batch.progress.read_lines)
        self._faults = batch.progress.faults
        self._outcome = batch.progress.outcome
        self._must_wait = False

    def run(self) -> float:
        """Add the step to the transaction; return the seconds until the next is due."""
        more_ended = self._collect()
        if self._outcome == "completed":
            self._queue()
        else:
            self._write_off()
        self._commit()
        has_room = len(self._open) < self._means.ahead and not self._must_wait
        if more_ended or self.is_done:
            return AT_ONCE
        if self._outcome != "completed":
            return SOON_S if self._is_all_read else AT_ONCE
        return AT_ONCE if has_room and not self._is_all_read else IDLE_S

    def to_be_stopped(self) -> Iterator[int]:
        """Yield the lines whose jobs must not go on."""
        if self._outcome != "completed":
            yield from (line for line in list(self._open) if line not in self._work.told)

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to read, and no job open."""
        return self._is_all_read and not self._open

    @property
    def _is_all_read(self) -> bool:
        was_inspected = self.batch.progress.total > 0
        is_cut = not was_inspected and self._read[1] >= self._means.max_lines
        return self._read[0] >= self.batch.order.input_bytes or is_cut

    def _collect(self) -> bool:
        """Take over how jobs ended; return whether more have."""
        work = self._work
        if time.monotonic() >= work.look_at:
            work.look_at = time.monotonic() + LOOK_EVERY_S
            work.heard |= self._open.keys()
            work.told.clear()  # a job that was rescued meanwhile must be told again
        work.heard &= self._open.keys()
        lines = sorted(work.heard)[:MOST_COLLECTED]
        if not lines:
            return False
        work.heard.difference_update(lines)
        ends = read_ends(self._connection, [self.batch.job_id(line) for line in lines])
        ended = {line: end for line, end in zip(lines, ends, strict=True) if end}
        for line, end in ended.items():
            job_id, custom_id = self.batch.job_id(line), self._open.pop(line)
            self._results.append(line_of(job_id, custom_id, end, outcome=self._outcome))
        if ended:
            self._pipeline.hdel(self.batch.key("open"), *map(str, ended))
            by_id = {self.batch.job_id(line): end for line, end in ended.items()}
            forget(self._pipeline, by_id, self.batch.order.tenant)
        return bool(work.heard)

    def _queue(self) -> None:
        """Queue what the next lines ask for, as far as there is room."""
        room = self._means.ahead - len(self._open)
        if room <= 0 or self._is_all_read:
            return
        for line, verdict in self._next_lines(min(room, MOST_READ)):
            fault = self._admit(line.number, verdict) if isinstance(verdict, Entry) else verdict
            if self._must_wait:
                return
            if fault:
                self._refuse(line.number, fault)
            self._read = (line.end, line.number)

    def _admit(self, number: int, entry: Entry) -> LineFault | None:
        """Queue a line's job in this transaction, unless its tenant must wait; or say why not."""
        submission = Submission(
            entry.request,
            entry.tier,
            self.batch.order.tenant,
            {"batch_id": self.batch.id, "custom_id": entry.custom_id},
            self.batch.job_id(number),
            Deadlines(finish_by=self.batch.order.expires_at, since=time.time()),
        )
        admitted = self._means.allowance.admit(submission)
        if isinstance(admitted, LineFault):
            return replace(admitted, custom_id=entry.custom_id)
        if admitted is None:
            self._must_wait = True
            return None
        self._means.submitter.add(self._pipeline, admitted)
        self._open[number] = self._queued[number] = entry.custom_id
        return None

    def _write_off(self) -> None:
        """Say of the next lines that they were not answered, and of jobs that do not end."""
        for line, verdict in self._next_lines(MOST_WRITTEN_OFF):
            if isinstance(verdict, Entry):
                self._give_up(line.number, verdict.custom_id)
            elif verdict is not None:
                self._refuse(line.number, verdict)
            self._read = (line.end, line.number)
        if time.time() > self._ended_at + GIVE_UP_S:
            for number in list(self._open)[:MOST_WRITTEN_OFF]:
                self._pipeline.hdel(self.batch.key("open"), str(number))
                self._give_up(number, self._open.pop(number))

    @property
    def _ended_at(self) -> float:
        """The instant from which on nothing new is done."""
        instants = self.batch.progress.instants
        return instants.get("cancelling_at", self.batch.order.expires_at)

    def _refuse(self, number: int, fault: LineFault) -> None:
        self._results.append(line_of_fault(self.batch.job_id(number), number, fault))

    def _give_up(self, number: int, custom_id: str) -> None:
        self._results.append(undone(self.batch.job_id(number), custom_id, self._outcome))

    def _next_lines(self, most: int) -> Iterator[tuple[RawLine, Entry | LineFault | None]]:
        """Yield the next lines and what they are; None for an empty one."""
        if self._is_all_read:
            return
        doubled = cast(bytes, self._connection.get(self.batch.key("doubled")) or b"")
        rules, num_bytes = self._means.rules(self.batch), 0
        try:
            for line in islice(self._means.lines(self.batch), most):
                is_doubled = is_marked(doubled, line.number)
                yield line, None if line.is_blank else rules.judge(line.data, is_doubled=is_doubled)
                num_bytes += len(line.data or b"")
                if num_bytes >= MOST_BYTES or self._is_all_read:
                    return
        except NoSuchFile:
            self._lose_input()

    def _lose_input(self) -> None:
        """Go on without the lines that cannot be read any more."""
        text = "the input file was deleted or has expired before all of it was read"
        fault = BatchFault("input_file_missing", text, self._read[1] + 1)
        self._faults, self._outcome = (*self._faults, fault), "failed"
        self._read = (self.batch.order.input_bytes, self._read[1])

    def _commit(self) -> None:
        """Add to the transaction how far the batch is now."""
        if self._queued:
            new = {str(line): json.dumps(custom_id) for line, custom_id in self._queued.items()}
            self._pipeline.hset(self.batch.key("open"), mapping=cast(dict[Any, Any], new))
        progress = self.batch.progress
        answers = [result for result in self._results if result.is_answer]
        failures = [result.text for result in self._results if not result.is_answer]
        changed = replace(
            progress,
            output=self._add("out", [result.text for result in answers]),
            errors=self._add("err", failures),
            outcome=self._outcome,
            completed=progress.completed + len(answers),
            failed=progress.failed + len(failures),
            usage=sum((result.usage for result in answers), progress.usage),
            model=progress.model or next((r.model for r in answers if r.model), None),
            read_bytes=self._read[0],
            read_lines=self._read[1],
            faults=self._faults,
        )
        if self.is_done and progress.status != "cancelling":
            changed = changed.to("finalizing")
        if changed != progress or self._pipeline.command_stack:
            self.batch.write(self._pipeline, changed)

    def _add(self, part: batch_drafts.Part, lines: list[str]) -> Draft:
        return batch_drafts.add(self._connection, self._pipeline, self.batch, part, lines)
