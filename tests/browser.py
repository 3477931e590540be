"""Headless Chromium, and what axe finds in a page."""

import os
import shutil
from pathlib import Path

import pytest

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
ARGUMENTS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def chromium():
    """The browser; skips where it, or playwright, is not there."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    program = os.environ.get("ALIGNBENCH_CHROMIUM") or shutil.which("chromium")
    if program is None or not Path(program).exists():
        pytest.skip("no chromium: install it, or set ALIGNBENCH_CHROMIUM")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def violations():
    """A function of a page: (rule, impact, element) of each violation that axe finds."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python").Axe()

    def find(page):
        found = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
        return [(own["id"], own["impact"], own["nodes"][0]["html"][:120]) for own in found]

    return find


@pytest.fixture(scope="session")
def serious_violations(violations):
    """A function of a page: each serious or critical violation that axe finds."""
    return lambda page: [own for own in violations(page) if own[1] in ("serious", "critical")]
