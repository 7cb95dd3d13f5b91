"""Find a Chromium for the tests marked `browser`, or install one.

In this order: one on PATH; Debian's, where apt can install it; Playwright's own download. Where
none can be had it says so in one line and ends well: a laptop's run then skips those tests, and
CI's fails.
"""

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
APT = ("apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "chromium")


def main() -> None:
    """Make sure that there is a browser, or say that there is none."""
    if find() is None and not (install_with_apt() or install_with_playwright()):
        print("No Chromium here and none can be installed: tests marked `browser` cannot run.")


def find() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None) or of_playwright()


def of_playwright() -> str | None:
    """Return the path of the Chromium that Playwright downloaded, if it did."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if os.path.exists(path) else None


def install_with_apt() -> bool:
    """Install Debian's Chromium; only root can."""
    if os.geteuid() or not shutil.which("apt-get"):
        return False
    print("Installing Chromium with apt-get, for the browser tests.", flush=True)
    return works(*APT) or (works("apt-get", "update", "--quiet") and works(*APT))


def install_with_playwright() -> bool:
    """Let Playwright download its own Chromium."""
    print("Installing Playwright's Chromium, for the browser tests.", flush=True)
    return works(sys.executable, "-m", "playwright", "install", "chromium")


def works(*command: str) -> bool:
    """Run a command in silence; tell whether it succeeded."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, **quiet, stderr=subprocess.DEVNULL, env=environment, check=False)
    return done.returncode == 0


if __name__ == "__main__":
    main()
