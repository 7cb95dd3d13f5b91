"""Context: what every request needs, built once per process and handed to each group of routes."""

from dataclasses import dataclass
from typing import Self

from redis import Redis

from api.door import Door
from api.follow import Follower
from api.hangup import Hangups
from api.hub import Hub
from api.intake import Intake
from api.prompt_length import PromptLength
from api.tenancy import Tenancy
from api.waiting import Waiters
from config import connections
from config.settings import Settings
from config.tiers import TierTable
from scheduler.estimator import Estimator
from scheduler.models import Lengths
from scheduler.submit import Submitter


@dataclass(frozen=True, slots=True)
class Context:
    """The parts of one web process."""

    settings: Settings
    tiers: TierTable
    connection: Redis
    door: Door
    intake: Intake
    waiters: Waiters
    follower: Follower
    hangups: Hangups

    @classmethod
    def build(cls, settings: Settings) -> Self:
        """Return the context of this process; nothing is connected and no thread started yet."""
        tiers = settings.tiers()
        connection = connections.commands(settings.redis)
        door = Door(tiers, Estimator(connection, tiers))
        hub = Hub(
            connection,
            connections.listener(settings.redis),
            capacity=_waiting_threads(settings.web_threads),
        )
        return cls(
            settings=settings,
            tiers=tiers,
            connection=connection,
            door=door,
            intake=Intake(
                connection,
                settings.served_model,
                PromptLength.of(settings),
                door,
                Submitter(connection, tiers),
                Tenancy(connection, tiers),
                Lengths(connection),
            ),
            waiters=Waiters(hub),
            follower=Follower(connection, hub),
            hangups=Hangups(),
        )


def _waiting_threads(threads: int) -> int:
    """Return how many of a process's threads may wait: some always answer others."""
    return threads - min(64, max(1, threads // 8))
