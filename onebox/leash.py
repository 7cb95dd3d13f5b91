"""Run a command so that it does not outlive the supervisor: `python leash.py PARENT command…`.

The kernel sends this process SIGTERM when its parent dies, however the parent died, and the command
keeps that through exec. Signals that the supervisor has blocked are unblocked again.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> None:
    """Set one of Linux's process controls; elsewhere do without."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main() -> None:
    """Tie this process to its parent and become the command."""
    parent, *command = sys.argv[1:]
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # it died before the line above
        sys.exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
