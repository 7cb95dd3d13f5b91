"""Configuration: read once per process, validated, frozen, passed in.

settings         what the operator sets, from the environment and `.env`
tiers            the SLA table, from `tiers.yaml`
yaml_faults      what is wrong with a YAML file, by line
connections      the one factory of Redis clients
embedded_redis   a real server on loopback where no REDIS_URL is given
gunicorn, rq     the same settings in the form those programs read
logs             one line per event
daemon           what every process without a server does around its loop
"""
