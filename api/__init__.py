"""API: what a client may ask for over HTTP, and nothing that needs a GPU.

app            the Flask application that gunicorn serves
context        what every request needs, built once per process
auth           who calls, by API key, and whose jobs a caller may see
tenancy        what a tenant may ask for, and how much of it
order          what a caller wants done, whichever route it came by
intake         the one way by which an order becomes a job
jobs           submit, look at, cancel a job
bulk           many jobs in one request
job_list       a tenant's jobs, latest first
idempotency    the `Idempotency-Key` header
files          upload, list, read, delete files (file_schemas, multipart)
batches        many requests in one file (batch_schemas)
job_events     follow a job: its states and its tokens, as they come
hub            the one subscription of a process, and whom it tells
waiting        requests that wait for their job to end
follow         readers of what happens to a job, from any point on
feed           what the hub tells a reader, until he comes to it
hangup         notice that a client has gone
sse            server-sent events
prefer         the `Prefer: wait=N` header
prompt_length  prompts too long for the model are refused at the door
openai         OpenAI's chat completions, completions, embeddings
responses      OpenAI's Responses API, over the job store
models         which models may be asked for
serving        an order becomes a job, its client waits or reads a stream; hang-ups cancel
answers        what a job says at OpenAI's routes
openai_*       requests, errors and streams in their forms; service_tier, transcript, response_*
operations     health, readiness
queues         how full each queue is
schemas        what comes in and what goes out
query          query strings
route          what a route takes and answers, as data; each group lists its own
catalogue      all of them
openapi        the document that is written from them
docs           the document, and a page of it that works offline
cors           which pages elsewhere may call from a browser
security       what a browser may do with an answer
problems       everything that can go wrong, and the only home of error statuses
problem_answers  the responses that problems become
access_log     one log line per request
dashboard      RQ's own view of queues, workers and jobs, behind authentication
"""
