"""Catalogue: every route of the API, from the lists that the groups of routes keep.

A new group adds its own list here and its blueprint in `api.app`; a test holds the two together.
"""

from api import (
    batches,
    bulk,
    dead_letters,
    docs,
    files,
    job_events,
    job_list,
    jobs,
    models,
    openai,
    operations,
    queues,
    responses,
)

ROUTES = (
    *jobs.ROUTES,
    *bulk.ROUTES,
    *job_list.ROUTES,
    *job_events.ROUTES,
    *openai.ROUTES,
    *responses.ROUTES,
    *models.ROUTES,
    *dead_letters.ROUTES,
    *files.ROUTES,
    *batches.ROUTES,
    *operations.ROUTES,
    *queues.ROUTES,
    *docs.ROUTES,
)
