"""Batches: create, look at, list, cancel; what `client.batches` of OpenAI's SDK calls.

    POST   /v1/batches               200 with the batch, which `scheduler.maintenance` works off
    GET    /v1/batches               200 a page, newest first
    GET    /v1/batches/{id}          200
    POST   /v1/batches/{id}/cancel   200 it is being cancelled; 409 it had ended

With an `Idempotency-Key` a request makes one batch, however often it is sent: the id of the batch
comes from the tenant and the key.
"""

import hashlib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import uuid4

from flask import Blueprint, Response, request

from api import auth, idempotency, openai_errors, query
from api.batch_schemas import BatchBody, BatchList, BatchQuery, BatchRequest
from api.context import Context
from api.files import answer, cursor_checked
from api.jobs import json_body
from api.problems import (
    BadIdempotencyKey,
    BatchEnded,
    BatchMissing,
    BodyTooLarge,
    BrokenBody,
    IdempotencyKeyReused,
    Invalid,
    MalformedJson,
    NotJson,
    TierForbidden,
    TooManyStored,
)
from api.route import Answer, Route
from scheduler.batch_record import Batch, BatchOrder, Draft, NoSuchBatch
from scheduler.batches import Batches, BatchOver, OtherBatch, TooManyBatches
from scheduler.files import Files, NoSuchFile, StoredFile, new_id
from scheduler.tenants import Tenant

logger = logging.getLogger(__name__)

FLEX = "flex"
_NO_PREFERENCE = (None, "auto")
_GROUP = "Batches"
ROUTES = (
    Route(
        "POST",
        "/v1/batches",
        "create_batch",
        _GROUP,
        "Have the requests in a file answered",
        {200: Answer("the batch", BatchBody)},
        takes=BatchRequest,
        headers=(idempotency.PARAMETER,),
        problems=(
            MalformedJson,
            BrokenBody,
            BadIdempotencyKey,
            IdempotencyKeyReused,
            BodyTooLarge,
            NotJson,
            Invalid,
            TooManyStored,
            TierForbidden,
        ),
        is_openai=True,
    ),
    Route(
        "GET",
        "/v1/batches",
        "list_batches",
        _GROUP,
        "List batches, newest first",
        {200: Answer("a page of batches", BatchList)},
        query=BatchQuery,
        problems=(Invalid,),
        is_openai=True,
    ),
    Route(
        "GET",
        "/v1/batches/{batch_id}",
        "show_batch",
        _GROUP,
        "Show a batch",
        {200: Answer("the batch", BatchBody)},
        problems=(BatchMissing,),
        is_openai=True,
    ),
    Route(
        "POST",
        "/v1/batches/{batch_id}/cancel",
        "cancel_batch",
        _GROUP,
        "Cancel a batch; what is done stays",
        {200: Answer("the batch, which is being cancelled", BatchBody)},
        problems=(BatchMissing, BatchEnded),
        is_openai=True,
    ),
)


@dataclass(frozen=True, slots=True)
class BatchRoutes:
    """The routes of batches."""

    context: Context

    def blueprint(self) -> Blueprint:
        """Return the routes."""
        routes = Blueprint("batches", __name__, url_prefix="/v1/batches")
        routes.add_url_rule("", "create", self.create, methods=["POST"])
        routes.add_url_rule("", "list", self.list, methods=["GET"])
        routes.add_url_rule("/<batch_id>", "show", self.show, methods=["GET"])
        routes.add_url_rule("/<batch_id>/cancel", "cancel", self.cancel, methods=["POST"])
        openai_errors.register(routes)
        return routes

    def create(self) -> Response:
        """Create a batch."""
        wanted = BatchRequest.parse(json_body(self.context.settings.max_body_bytes))
        tenant = auth.caller()
        batch_id = _id_of(tenant)
        order = self._order(wanted, tenant)
        drafts = (Draft(new_id()), Draft(new_id()))
        with _refusals():
            batch = self._batches.create(batch_id, order, drafts)
        extra = {"event": "batch.created", "batch_id": batch.id, "tenant": tenant.name}
        logger.info("batch created", extra={**extra, "tier": order.tier})
        return answer(self._body(batch))

    def list(self) -> Response:
        """List the caller's batches."""
        wanted = query.read(BatchQuery, request.args)
        with cursor_checked():
            page = self._batches.page(auth.caller().name, after=wanted.after, limit=wanted.limit)
        data = [self._body(batch) for batch in page.items]
        return answer(BatchList.of(data, has_more=page.has_more))

    def show(self, batch_id: str) -> Response:
        """Show a batch."""
        with _refusals():
            return answer(self._body(self._batches.fetch(batch_id, auth.caller().name)))

    def cancel(self, batch_id: str) -> Response:
        """Cancel a batch: jobs that wait never run, those that run are stopped."""
        with _refusals():
            batch = self._batches.cancel(batch_id, auth.caller().name)
        logger.info("batch cancel", extra={"event": "batch.cancel", "batch_id": batch_id})
        return answer(self._body(batch))

    def _order(self, wanted: BatchRequest, tenant: Tenant) -> BatchOrder:
        settings, now = self.context.settings, int(time.time())
        source = self._source(wanted.input_file_id, tenant)
        kept_s = wanted.output_expires_after
        return BatchOrder(
            tenant=tenant.name,
            endpoint=wanted.endpoint,
            input_file_id=source.id,
            input_bytes=source.size,
            completion_window=wanted.completion_window,
            tier=self._permitted(self._tier(wanted.service_tier), tenant),
            created_at=now,
            expires_at=now + wanted.window_s,
            results_ttl_s=kept_s.seconds if kept_s else settings.file_ttl_s,
            metadata=wanted.metadata,
        )

    def _source(self, file_id: str, tenant: Tenant) -> StoredFile:
        try:
            source = Files(self.context.connection).fetch(file_id, tenant.name)
        except NoSuchFile as error:
            text = "there is no file of this id: it never was, has expired, or was deleted"
            raise Invalid([{"field": "input_file_id", "message": text}]) from error
        if source.purpose != "batch":
            text = "upload the requests as a file with the purpose batch"
            raise Invalid([{"field": "input_file_id", "message": text}])
        return source

    def _tier(self, service_tier: str | None) -> str:
        """Return the tier of the lines that name none."""
        tiers = self.context.tiers
        asked = FLEX if service_tier in _NO_PREFERENCE else service_tier
        if tier := tiers.tier_for(str(asked)):
            return tier
        if service_tier in _NO_PREFERENCE:
            return tiers.default_tier
        known = ", ".join(s for tier in tiers.tiers.values() for s in tier.service_tiers)
        text = f"there is no such service_tier; use one of {known}"
        raise Invalid([{"field": "service_tier", "message": text}])

    def _permitted(self, tier: str, tenant: Tenant) -> str:
        """Return `tier`; TierForbidden if it is above the tenant's ceiling."""
        if not tenant.may_use(tier, self.context.tiers):
            usable = tenant.usable(self.context.tiers)
            text = f"tier {tier} is above your ceiling; use one of {', '.join(usable)}"
            raise TierForbidden(text, tier=tier, allowed_tiers=usable)
        return tier

    def _body(self, batch: Batch) -> BatchBody:
        tier = self.context.tiers.tiers.get(batch.order.tier)
        return BatchBody.of(batch, tier.service_tiers[-1] if tier and tier.service_tiers else None)

    @property
    def _batches(self) -> Batches:
        return Batches(self.context.connection)


def _id_of(tenant: Tenant) -> str:
    """Return the id of a new batch, or of the one that this key has made."""
    key = request.headers.get(idempotency.HEADER)
    if key is None:
        return f"batch_{uuid4().hex}"
    if not re.fullmatch(idempotency.KEY, key):
        raise BadIdempotencyKey("give 1 to 255 visible ASCII characters, such as a UUID")
    return f"batch_{hashlib.sha256(f'{tenant.name} {key}'.encode()).hexdigest()[:32]}"


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what stands against a batch into the problem that it is."""
    try:
        yield
    except NoSuchBatch as error:
        text = "there is no batch of this id: it never was, or it has expired"
        raise BatchMissing(text) from error
    except NoSuchFile as error:
        text = "the file was deleted or has expired"
        raise Invalid([{"field": "input_file_id", "message": text}]) from error
    except BatchOver as error:
        raise BatchEnded(f"{error}: there is nothing left to cancel") from error
    except OtherBatch as error:
        text = "this key was used for another request: give each request a key of its own"
        raise IdempotencyKeyReused(text) from error
    except TooManyBatches as error:
        raise TooManyStored(str(error)) from error
