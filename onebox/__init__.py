"""The whole of Slalom on one machine: `make run`.

    setup       python3 -m onebox.setup: make .venv and install what is locked
    __main__    python -m onebox: start every process of the Procfile, show a first job, serve

It starts programs and talks HTTP, as a user would; it imports no other part of Slalom but `config`.
The set-up (setup, machine, interpreter, installer, stamp, terminal) runs before anything is
installed, on the system's Python: standard library only, and readable by Python 3.8 so that an old
one can be told so.
"""
