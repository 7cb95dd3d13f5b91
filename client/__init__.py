"""Client: the `slalom` command line, for people and scripts that use an installation over HTTP.

It imports no other part: what it knows of a server is what the server's API says. `command` turns
a coroutine into a command with the options that all have; `server` asks, with patience; `following`
learns what becomes of a job; `ordered` does many things at once and tells of them in order;
`terminal` is all that is written. A command is a module, or shares one with its neighbours.
"""
