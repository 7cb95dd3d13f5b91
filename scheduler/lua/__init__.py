"""Scripts: one atomic step each. The header of a script gives its KEYS, ARGV and reply.

Scripts reach `rq:job:{id}` and its neighbours by ids they find in lists, so those keys are not
declared in KEYS: a single Redis or Valkey server (or one primary with replicas) is required, as RQ
itself requires.
"""
