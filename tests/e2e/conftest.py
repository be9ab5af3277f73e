"""A real browser, for the tests that open pages."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
    " --no-first-run --disable-dev-shm-usage --enable-logging=stderr"
).split()


@pytest.fixture(scope="session")
def open_page() -> Callable[..., tuple[str, str]]:
    """Opens a page, with further options of the browser; its document after loading, and what went to the log."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")

    def open_it(page: Path, *options: str) -> tuple[str, str]:
        command = [browser, *OPTIONS, *options, f"--user-data-dir={page.parent / 'profile'}"]
        done = subprocess.run(
            [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout, done.stderr

    return open_it
