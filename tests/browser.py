"""Chromium for tests of the server's page, with a microphone that plays a file."""

import contextlib
import io
import os
import shutil
import time
from pathlib import Path

import pytest
import soundfile
import soxr
from speaking_model import RATE, sound

PLAYED_RATE = 16000  # hertz: browsers play nothing below 3000
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
LAYOUT = (Path(__file__).parent / "page_layout.js").read_text()


def chromium():
    """The path of the browser; skips the test where there is none."""
    pytest.importorskip("playwright", reason="playwright is missing: pip install -e '.[test]'")
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        pytest.skip("chromium is missing: apt-get install chromium")
    return found


@contextlib.contextmanager
def started(*arguments):
    """A headless browser."""
    program = chromium()
    from playwright.sync_api import sync_playwright

    if os.geteuid() == 0:
        arguments = (*arguments, "--no-sandbox")  # its sandbox refuses root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(arguments))
        yield browser
        browser.close()


def with_microphone(path):
    """Arguments of a browser whose microphone plays a file once, and whose user allows it."""
    return (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={path}%noloop",
    )


def wav_content(seconds, seed=0):
    """A recording that browsers play, as the content of a WAV file."""
    content = io.BytesIO()
    samples = soxr.resample(sound(seconds, seed), RATE, PLAYED_RATE)
    soundfile.write(content, samples, PLAYED_RATE, format="WAV", subtype="PCM_16")
    return content.getvalue()


def upload(name, content):
    """A file for the input of a page."""
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


def choose(page, *files):
    """Chooses files on the page, and waits until nothing waits any more."""
    count = page.locator("#queue > li").count() + len(files)
    page.locator("#files").set_input_files(list(files))
    until(
        page,
        f"document.querySelectorAll('#queue > li').length === {count}"
        " && !document.querySelector('#queue > [data-state=waiting], #queue > [data-state=sending]')",
    )
    page.locator("#track canvas, #no-drawing:not([hidden]), #result-problem:not([hidden])").first.wait_for()


def until(page, expression, seconds=20):
    """Waits until an expression holds; the page's policy forbids Playwright's own way, which makes code of text."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, expression
        page.wait_for_timeout(20)
