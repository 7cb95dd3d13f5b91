"""API keys: random, shown once, and stored as their hash.

A key has 256 random bits, so nobody finds it by guessing, and SHA-256 is enough: a slow hash with a
salt protects secrets that people choose, and would cost every request what it costs a thief. Keys
are looked up by their hash, so how long a look takes tells nothing of a key.

    slalom:api-keys            hash   hash of the key -> tenant
    slalom:api-keys:{tenant}   hash   hash of the key -> JSON: prefix, created_at, expires_at
    slalom:key-uses:{tenant}   hash   hash of the key -> when it was last used (epoch s)

Every request reads these in one step (`lua/identify.lua`), and nothing of them is kept: a key that
is revoked is refused from the next request on, by every process. A tenant may have several, so
that one can replace another while both are in use. When a key was last used is written once a
minute at most.
"""

import logging
import secrets
import time
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any, ClassVar, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from redis import Redis
from redis.client import Pipeline

from config.connections import UNAVAILABLE
from scheduler import keys
from scheduler.tenant_store import NotStored, UnknownTenant
from scheduler.tenants import STRICT

logger = logging.getLogger(__name__)

MARK = "sk-slalom-"
NUM_BYTES = 32
NUM_SHOWN = 6
"""Characters behind the mark that stay visible, by which a key is told from others."""
MOST_KEYS = 20
USE_NOTED_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is known of a key: its first characters and its instants (epoch s)."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    prefix: Annotated[str, Field(max_length=64)]
    created_at: float
    expires_at: float | None = None


_RECORD = TypeAdapter(ApiKey)


@dataclass(frozen=True, slots=True)
class Caller:
    """What stands in Redis behind a key; `num_tenants` 0: nobody needs one.

    `tenant` and its `record` are None for a key that is not known.
    """

    num_tenants: int
    now: float
    tenant: str | None = None
    record: bytes | None = None
    key: ApiKey | None = None

    @property
    def is_expired(self) -> bool:
        """Whether the key's time has passed."""
        return bool(self.key and self.key.expires_at and self.key.expires_at <= self.now)


def hash_of(key: str) -> str:
    """Return what is stored of a key."""
    return sha256(key.encode(errors="replace")).hexdigest()


def identify(connection: Redis, key: str | None) -> Caller:
    """Return whose key it is; without one, whether there are tenants."""
    digest = hash_of(key) if key else ""
    reply = keys.script(connection, "identify")(keys=[keys.TENANTS, keys.API_KEYS], args=[digest])
    num_tenants, now, *found = reply
    if not found:
        return Caller(int(num_tenants), float(now))
    name, record, text, used_at = cast(list[bytes | None], found)
    tenant = (name or b"").decode(errors="replace")
    api_key = _read(tenant, text)
    if record is None or api_key is None:
        return Caller(int(num_tenants), float(now))
    caller = Caller(int(num_tenants), float(now), tenant, record, api_key)
    if not caller.is_expired:
        _note_use(connection, tenant, digest, float(now), used_at)
    return caller


def create(connection: Redis, tenant: str, *, expires_in_s: float | None = None) -> str:
    """Return a new key of `tenant`; nobody can read it again. UnknownTenant or NotStored."""
    key = MARK + secrets.token_urlsafe(NUM_BYTES)
    now = time.time()
    record = ApiKey(visible(key), now, None if expires_in_s is None else now + expires_in_s)

    def step(pipeline: Pipeline) -> None:
        if not pipeline.hexists(keys.TENANTS, tenant):
            raise UnknownTenant(f"there is no tenant {tenant}")
        if pipeline.hlen(keys.api_keys_of(tenant)) >= MOST_KEYS:
            raise NotStored(f"{tenant} has {MOST_KEYS} keys already; revoke one")
        pipeline.multi()
        pipeline.hset(keys.api_keys_of(tenant), hash_of(key), _RECORD.dump_json(record))
        pipeline.hset(keys.API_KEYS, hash_of(key), tenant)

    connection.transaction(step, keys.TENANTS, keys.api_keys_of(tenant))
    extra = {"event": "key.created", "tenant": tenant, "prefix": record.prefix}
    logger.info("API key created", extra=extra)
    return key


def revoke(connection: Redis, tenant: str, prefix: str) -> None:
    """Revoke the key of `tenant` that has this visible part; NotStored if there is none."""
    found = [digest for digest, key, _ in _all(connection, tenant) if key.prefix == prefix]
    if not found:
        raise NotStored(f"{tenant} has no key {prefix}; see `key list {tenant}`")
    with connection.pipeline() as pipeline:
        pipeline.hdel(keys.API_KEYS, *found)
        pipeline.hdel(keys.api_keys_of(tenant), *found)
        pipeline.hdel(keys.api_key_uses(tenant), *found)
        pipeline.execute()
    extra = {"event": "key.revoked", "tenant": tenant, "prefix": prefix}
    logger.info("API key revoked", extra=extra)


def of_tenant(connection: Redis, tenant: str) -> list[dict[str, Any]]:
    """Return what is known of the keys of `tenant`, the oldest first."""
    found = sorted(_all(connection, tenant), key=lambda entry: entry[1].created_at)
    return [{**_RECORD.dump_python(key), "used_at": used_at} for _, key, used_at in found]


def visible(key: str) -> str:
    """Return the part of a key that is no secret."""
    return key[: len(MARK) + NUM_SHOWN]


def _all(connection: Redis, tenant: str) -> list[tuple[bytes, ApiKey, float | None]]:
    records = cast(dict[bytes, bytes], connection.hgetall(keys.api_keys_of(tenant)))
    uses = cast(dict[bytes, bytes], connection.hgetall(keys.api_key_uses(tenant)))
    found = [(digest, _read(tenant, text) or _damaged(digest)) for digest, text in records.items()]
    return [(digest, key, _instant(uses.get(digest))) for digest, key in found]


def _damaged(digest: bytes) -> ApiKey:
    """Return what to show of a key whose record cannot be read, so that it can be revoked."""
    return ApiKey(f"damaged-{digest[:8].decode(errors='replace')}", 0.0)


def _read(tenant: str, text: bytes | None) -> ApiKey | None:
    """Return the record of a key; None where there is none, or a damaged one, which is logged."""
    if text is None:
        return None
    try:
        return _RECORD.validate_json(text)
    except ValidationError:
        extra = {"event": "key.damaged", "tenant": tenant}
        logger.error("the record of an API key is damaged; revoke it", extra=extra)
        return None


def _instant(text: bytes | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def _note_use(
    connection: Redis, tenant: str, digest: str, now: float, used_at: bytes | None
) -> None:
    if now - (_instant(used_at) or 0.0) < USE_NOTED_EVERY_S:
        return
    try:
        connection.hset(keys.api_key_uses(tenant), digest, f"{now:.3f}")
    except UNAVAILABLE as error:  # a full or read-only Redis: the request itself may do without
        extra = {"event": "key.use_not_noted", "tenant": tenant, "error": error}
        logger.warning("the use of a key was not noted", extra=extra)
