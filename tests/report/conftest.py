"""A browser, if Playwright and Chromium are installed."""

import shutil

import pytest


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not (chromium := shutil.which("chromium")):
        pytest.skip("no chromium")
    with playwright.sync_playwright() as library:
        started = library.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()
