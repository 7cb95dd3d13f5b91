"""Scheduling: what becomes of a job between the API and a worker, and after a worker died.

jobs        a job's states and what may be said of it
submit      tier -> queue, through RQ
claim       a worker takes jobs, renews their leases, hands them back
fair_share  whose jobs of a queue are next, by weight
finish      a worker writes how its jobs ended
events      what comes of a streamed job while it runs: its log and its channel
chunks      the pieces of a streamed response, and how they make the whole
retry       whether a failed job runs again, and when
postpone    it waits for that
cancel      a caller takes a job back
tenants     customers: what each may ask for; tenant_store, tenants_file, and their command line
api_keys    how a tenant is known
limits      how much of a tier a tenant has had; charge, what a job costs; open_jobs, which count
dead_letters  what is parked for a person, with its command line
rescue      jobs of dead workers go back to their queue, or become dead letters
workers     who serves which queue
starting    who soon will
models      what the workers serve
files       what is uploaded for batches and what they leave, in pieces
listing     pages of what a tenant has
batches     many requests in one file, as their tenant sees them
  batch_record      all that is kept of one, and the one way of changing it
  batch_lines       its input, line by line
  batch_inspection  the first look at all of it
  batch_steps       what is next to be done
  batch_advance     one step of one whose jobs are under way
  batch_results     how its jobs ended, as lines
  batch_drafts      its result files in the making
  batch_keeper      the thread that works batches off
maintenance the process that does the periodic duties
autoscaler  the process that adds and drains workers
keys, lua/  every Redis key and every script
"""
