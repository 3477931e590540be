"""A headless Chromium that opens pages from disk: fixtures for the tests of the report's page."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; skips where it, or playwright, is not there."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    program = os.environ.get("ALIGNBENCH_CHROMIUM") or shutil.which("chromium")
    if program is None or not Path(program).exists():
        pytest.skip("no chromium: install it, or set ALIGNBENCH_CHROMIUM")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield browser
        browser.close()


class Watched:
    """A page of the browser, with everything that it asked for or complained about."""

    def __init__(self, browser: Any, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        scheme, size = "dark" if dark else "light", {"width": width, "height": height}
        self.context = browser.new_context(color_scheme=scheme, viewport=size, accept_downloads=True)
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.route(lambda url: not url.startswith(("file:", "data:", "blob:")), lambda route: route.abort())

    def open(self, file: Path, place: str = "") -> Any:
        """The page, once its script has done its work."""
        self.page.goto(f"{file.resolve().as_uri()}{place}")
        self.page.wait_for_selector("html[data-ready=yes]")
        return self.page
