"""The page in headless Chromium, against a running server."""

import io
import json
import os
import re
from itertools import pairwise
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from browser import LAYOUT, PLAYED_RATE, choose, chromium, started, until, upload, wav_content, with_microphone
from scipy.signal import correlate
from serving_process import recognizer, serving, wav, write_run
from speaking_model import BOTH_WAYS, model

from ds2f.data.pcm import PcmDecoder
from ds2f.inference import Final, Session
from ds2f.serving.api_errors import ApiError

CONTENT = wav_content(4)
SPOKEN = wav_content(3, seed=5)
KEY = "a+key/of(this)=server,0123%456789"
OTHER_HOST = "ds2f.example"  # of a page that is not secure
DROP = """([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name));
  document.querySelector("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
}"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium()  # skips before anything starts
    path = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    path.write_bytes(SPOKEN)
    with started(*with_microphone(path), f"--host-resolver-rules=MAP {OTHER_HOST} 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def opened(browser, server):
    """Opens the page of a server, by default of the shared one; no request leaves it, and no script fails."""
    contexts, problems, requests = [], [], []

    def open_page(url=server.url, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: requests.append((url, request.url)))
        page.on("websocket", lambda socket: requests.append((url.replace("http", "ws"), socket.url)))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: "Content Security Policy" in said.text and problems.append(said.text))
        page.goto(url)
        page.get_by_text("Model: ").or_(page.locator("#key-form:not([hidden])")).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []
    assert requests
    for url, asked in requests:
        assert asked.removeprefix("blob:").startswith(f"{url}/"), "a request leaves the origin"


@pytest.fixture
def page(opened):
    return opened()


@pytest.fixture(scope="module")
def heard():
    """The transcript of ``CONTENT`` by the library."""
    found = recognizer().transcribe(io.BytesIO(CONTENT))
    assert len(found.words) > 3
    return found


def texts(page, selector):
    return [text.strip() for text in page.locator(selector).all_text_contents()]


def test_a_dropped_file_is_shown_with_its_words_times_and_confidences(page, heard):
    page.evaluate(DROP, ["a.wav", list(CONTENT)])
    page.locator("#queue > [data-state=done]").wait_for()
    assert texts(page, "#words .word-text") == [word.text for word in heard.words]
    percents = [f"{round(100 * round(word.confidence, 4))} %" for word in heard.words]
    assert texts(page, "#words .number") == percents
    assert page.locator("#words .word").first.get_attribute("title").endswith(f"confidence {percents[0]}")
    starts = [float(node.get_attribute("data-start")) for node in page.locator("#words .word").all()]
    assert starts == pytest.approx([word.start for word in heard.words], abs=6e-4)
    assert page.locator("#facts").text_content().startswith(f"0:04.0 long, {len(starts)} words.")
    page.locator(".placed").first.wait_for()
    lefts = {node.text_content(): node.bounding_box()["x"] for node in page.locator(".placed:not(.bar)").all()}
    assert len(lefts) > 1
    page.get_by_label("Show confidence in percent").check()
    assert page.locator("#words .number").first.bounding_box()["width"] > 10


def test_the_microphone_is_written_down_while_it_goes_on_and_as_a_whole_afterwards(page):
    sent = []
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    page.get_by_role("button", name="Start recording").click()
    until(page, "document.querySelector('#clock').textContent >= '0:03'")
    assert page.locator("#partial, #finals").all_text_contents() != ["", ""], "text before the end"
    assert page.evaluate("document.querySelector('#level').value") >= 0
    page.get_by_role("button", name="Stop recording").click()
    page.locator("#queue > [data-state=done]").wait_for()
    config, *blocks, end = sent
    assert json.loads(config) == {"config": {"sample_rate": PLAYED_RATE, "words": False}}
    assert json.loads(end) == {"eof": 1}
    assert page.locator("#finals").text_content().split() == finals_of(blocks)
    samples = np.frombuffer(b"".join(blocks), "<i2").astype(float)
    played = np.frombuffer(SPOKEN[44:], "<i2").astype(float)
    match = np.abs(correlate(samples, played, method="fft")).max()
    assert match > 0.7 * np.linalg.norm(samples) * np.linalg.norm(played), "it is the sound of the file"
    assert texts(page, "#queue .name") == ["Recording 1.wav"]
    whole = recognizer().transcribe(samples.astype(np.float32) / 32768, rate=PLAYED_RATE)
    assert texts(page, "#words .word-text") == whole.text.split()


def finals_of(blocks):
    """The words of a session of the library that is given the same PCM."""
    model = recognizer()
    session, pcm = Session(model), PcmDecoder(PLAYED_RATE, sample_rate=model.grid.rate)
    results = [result for block in blocks for result in session.feed(pcm.decode(block))]
    results += session.feed(pcm.finish()) + session.finish()
    return [word.text for result in results if isinstance(result, Final) for word in result.segment.words]


def test_a_microphone_that_is_disconnected_leaves_what_it_has_recorded(page):
    page.evaluate(
        """() => {
          const { mediaDevices } = navigator;
          const open = mediaDevices.getUserMedia.bind(mediaDevices);
          mediaDevices.getUserMedia = async (wanted) => (window.opened = await open(wanted));
        }"""
    )
    page.get_by_role("button", name="Start recording").click()
    until(page, "document.querySelector('#clock').textContent >= '0:01'")
    page.evaluate("window.opened.getTracks()[0].dispatchEvent(new Event('ended'))")
    page.locator("#record-problem", has_text="was disconnected").wait_for()
    page.locator("#queue > [data-state=done] .name", has_text="Recording 1.wav").wait_for()


def test_a_tone_is_drawn_at_its_frequency(page):
    seconds = np.arange(2 * PLAYED_RATE) / PLAYED_RATE
    content = io.BytesIO()
    soundfile.write(content, 0.5 * np.sin(2 * np.pi * 6000 * seconds), PLAYED_RATE, format="WAV")
    choose(page, upload("tone.wav", content.getvalue()))
    read = """() => {
      const canvas = document.querySelector("#spectrogram");
      const pixels = canvas.getContext("2d").getImageData(Math.round(canvas.width / 2), 0, 1, canvas.height).data;
      return Array.from({ length: canvas.height }, (_, y) => pixels[4 * y]);
    }"""
    until(page, "document.querySelector('#spectrogram').height !== 150")  # the height before anything is drawn
    reds = page.evaluate(read)  # light colours: the louder, the darker
    assert np.argmin(reds) == pytest.approx(len(reds) * (1 - 6000 / 8000), abs=len(reds) / 40)
    assert max(reds) > 200 > 100 > min(reds)


def test_a_recording_that_the_browser_cannot_decode_has_its_words_all_the_same(page):
    content = wav(4)  # at a rate that no browser plays
    choose(page, upload("a.wav", content))
    page.locator("#no-drawing", has_text="cannot play or draw").wait_for()
    assert page.locator("#player").is_hidden()
    assert page.locator("#waveform").is_hidden()
    assert texts(page, "#words .word-text") == recognizer().transcribe(io.BytesIO(content)).text.split()
    assert page.locator(".placed").count() > 3


def test_words_are_played_by_click_and_by_keyboard(page, heard):
    choose(page, upload("a.wav", CONTENT))
    page.locator("#words .word").nth(2).click()
    played = "document.querySelector('#player').currentTime"
    until(page, f"!document.querySelector('#player').paused && {played} >= {heard.words[2].start - 0.01}")
    page.evaluate("document.querySelector('#player').pause()")
    page.keyboard.press("End")
    assert page.locator("#words .word:focus").get_attribute("data-start") == str(round(heard.words[-1].start, 3))
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    until(page, f"!document.querySelector('#player').paused && {played} < {heard.words[2].start}")
    assert page.evaluate(played) >= heard.words[1].start - 0.01
    assert page.locator("#words [tabindex='0']").count() == 1, "one stop of the Tab key"


def test_the_tab_key_reaches_every_control_and_shows_where_it_is(page):
    choose(page, upload("a.wav", CONTENT))
    page.locator(".placed").first.wait_for()
    describe = """() => {
      const { id, className, textContent, tagName } = document.activeElement;
      const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
      return [tagName, id || className || textContent, outlineStyle === "none" ? 0 : parseFloat(outlineWidth)];
    }"""
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        tag, name, outline = page.evaluate(describe)
        if tag == "BODY":  # after the last one
            break
        assert outline >= 2 or (tag == "AUDIO" and "player" in reached), "the browser's own controls follow the player"
        reached.append(name)
    first, second = ["skip", "For programs", "record", "choose", "name", "Remove"], ["player", "zoom-in", "timeline"]
    assert list(dict.fromkeys(reached)) == [*first, *second, "word", "numbers", "format", "copy", "download"]


def test_classes_of_confidence_differ_without_colour(page):
    choose(page, upload("a.wav", CONTENT))
    lines = page.locator("#legend .word-text").evaluate_all(
        "nodes => nodes.map((node) => { const s = getComputedStyle(node);"
        " return `${s.textDecorationLine} ${s.textDecorationStyle}`; })"
    )
    assert len(set(lines)) == len(lines) == 4


SUFFIXES = {"text": "txt", "srt": "srt", "vtt": "vtt", "verbose_json": "json"}


def test_what_is_copied_and_downloaded_is_the_servers_own_format(opened, server):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    choose(page, upload("my talk.wav", CONTENT))
    for form, suffix in SUFFIXES.items():
        page.get_by_label("Format").select_option(form)
        with page.expect_download() as saved:
            page.get_by_role("button", name="Download").click()
        assert saved.value.suggested_filename == f"my talk.{suffix}"
        content = Path(saved.value.path()).read_text()
        granularities = ["word", "segment"] if form == "verbose_json" else []
        expected = httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            files={"file": ("a.wav", CONTENT)},
            data={"response_format": form, "timestamp_granularities[]": granularities},
        )
        assert content == expected.text
        page.get_by_role("button", name="Copy").click()
        page.get_by_text("Copied.").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == content


FAILURES = (
    (ApiError(413, "larger than 3 MB", "x"), "too large or too long", "larger than 3 MB"),
    (ApiError(415, "not audio", "x"), "cannot read this format", "not audio"),
    (ApiError(422, "NaN in it", "x"), "cannot transcribe this recording", "NaN in it"),
    (ApiError(500, "see the log", "x"), "The server failed", "see the log"),
    (ApiError(503, "shutting down", "x"), "no more work now", "shutting down"),
    (ApiError(504, "no transcript after 600 s", "x"), "took too long", "no transcript after 600 s"),
    (ApiError(418, "<b>teapot</b>", "x"), "status 418", "<b>teapot</b>"),
)


def test_a_failure_is_told_with_its_reason_and_can_be_tried_again(page):
    answers = [error for error, _, _ in FAILURES]

    def answer(route):
        if not answers:
            return route.continue_()
        found = answers.pop(0)
        return route.fulfill(status=found.status, json=found.content(), headers=found.headers)

    page.route("**/v1/audio/transcriptions", answer)
    choose(page, upload("<i>name</i>.wav", CONTENT))
    for _, reason, detail in FAILURES:
        for place in ("#result-problem", "#queue .state"):
            page.locator(place, has_text=f"The server says: {detail}.").wait_for()
            assert reason in page.locator(place).text_content()
        assert "<i>name</i>.wav" in page.locator("#result-title").text_content()
        assert page.locator("#result-title i, #queue i, #queue b, #result-problem b").count() == 0, "names are data"
        page.get_by_role("button", name="Try again: <i>name</i>.wav").click()
    page.locator("#queue > [data-state=done]").wait_for()
    assert page.locator("#result-problem").is_hidden()


def test_an_export_that_fails_is_told_as_other_failures_are(page):
    choose(page, upload("a.wav", CONTENT))
    refused = ApiError(503, "all connections are taken", "x")
    page.route("**/v1/audio/transcriptions", lambda route: route.fulfill(status=503, json=refused.content()))
    for name in ("Download", "Copy"):
        page.get_by_label("Format").select_option("srt")
        page.get_by_role("button", name=name).click()
        page.locator("#export-state.problem", has_text="all connections are taken").wait_for()
        page.get_by_label("Format").select_option("text")
        page.get_by_role("button", name="Download").click()
        page.locator("#export-state.hint", has_text="Saved as").wait_for()


def test_a_busy_server_is_asked_again_after_the_wait_that_it_names(page):
    busy, asked = ApiError(429, "100 recordings wait", "queue_full", headers={"retry-after": "2"}), []

    def answer(route):
        asked.append(route)
        if len(asked) > 1:
            return route.continue_()
        return route.fulfill(status=429, json=busy.content(), headers=busy.headers)

    page.route("**/v1/audio/transcriptions", answer)
    page.locator("#files").set_input_files([upload("a.wav", CONTENT)])
    page.get_by_text("Next try in 2 s.").first.wait_for()
    page.get_by_text("Next try in 1 s.").first.wait_for()
    for told in ("The server is busy.", "wait for 2 s", "100 recordings wait", "tries again by itself"):
        assert told in page.locator("#result-problem").text_content()
    page.locator("#queue > [data-state=done]").wait_for()
    assert len(asked) == 2


def test_a_lost_connection_is_told_for_files_and_for_the_microphone(page):
    page.context.set_offline(True)
    choose(page, upload("a.wav", CONTENT))
    assert "connection to the server was lost" in page.locator("#result-problem").text_content()
    page.get_by_role("button", name="Start recording").click()
    page.get_by_text("The recording goes on").wait_for()
    page.context.set_offline(False)
    page.get_by_role("button", name="Stop recording").click()
    page.locator("#queue > [data-state=done] .name", has_text="Recording 1.wav").wait_for()


REFUSALS = {
    "NotAllowedError": "may not use the microphone",
    "NotFoundError": "No microphone was found",
    "NotReadableError": "Close other programs",
    "AbortError": "cannot be opened (AbortError)",
}


def test_a_microphone_that_is_refused_is_told_with_the_reason(page):
    refuse = "name => { navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', name)); }"
    for refused, reason in REFUSALS.items():
        page.evaluate(refuse, refused)
        page.get_by_role("button", name="Start recording").click()
        page.locator("#record-problem", has_text=reason).wait_for()
        assert page.get_by_role("button", name="Start recording").is_enabled()


@pytest.fixture(scope="module")
def limited_server(tmp_path_factory):
    """A server of a bidirectional model, with keys and small limits, whose decoder searches."""
    pytest.importorskip("flashlight.lib.text", reason="flashlight-text is missing: pip install -e '.[lm]'")
    folder = tmp_path_factory.mktemp("limited")
    write_run(folder / "run", BOTH_WAYS, *model(bidirectional=True))
    (folder / "keys").write_text(f"{KEY}\n")
    limits = ("--serving.upload_mb=0.2", "--serving.sessions=1", "--endpoint.silence=0.5")
    with serving(folder, "--api_keys=keys", "--lm.decoder=beam", *limits) as running:
        yield running


def give_key(page, key):
    page.get_by_label("Key of this server").fill(key)
    page.keyboard.press("Enter")


def test_a_server_with_keys_asks_for_one_and_the_page_keeps_it_in_memory_only(opened, limited_server):
    page = opened(limited_server.url)
    page.locator("#files").set_input_files([upload("a.wav", CONTENT)])
    page.locator("#result-problem", has_text="asks for a key").wait_for()
    give_key(page, "another-key-of-another-server")
    page.locator("#queue > [data-state=failed]").wait_for()
    give_key(page, KEY)
    page.locator("#queue > [data-state=done]").wait_for()
    assert page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])") == '[{},{},""]'
    page.reload()
    assert page.get_by_label("Key of this server").input_value() == ""


def test_a_server_that_searches_takes_hot_words_and_has_alternatives(opened, limited_server):
    page = opened(limited_server.url)
    give_key(page, KEY)
    page.get_by_text("Model: ").wait_for()
    choose(page, upload("a.wav", CONTENT))
    plain = " ".join(texts(page, "#words .word-text"))
    page.get_by_role("button", name="Show alternatives").click()
    page.locator("#alternatives-list ol > li").nth(1).wait_for()
    alternatives = texts(page, "#alternatives-list > li:first-child li")
    assert plain.startswith(alternatives[0])
    assert 1 < len(set(alternatives)) == len(alternatives) <= 5
    hot = next(word for word in ("CAC", "ACB", "CBC") if word not in plain)
    page.get_by_label("Names and terms to listen for").fill(f"{hot}, ")
    choose(page, upload("b.wav", CONTENT))
    page.locator("#queue .name").nth(1).click()
    page.locator("#result-title", has_text="b.wav").wait_for()
    assert hot in " ".join(texts(page, "#words .word-text"))
    choose(page, upload("long.wav", wav_content(9)))
    page.locator("#result-problem", has_text="too large or too long").wait_for()


def test_a_bidirectional_model_answers_after_pauses_and_sessions_may_all_be_taken(opened, limited_server):
    pages = [opened(limited_server.url) for _ in range(2)]
    for page in pages:
        give_key(page, KEY)
        page.get_by_text("Text appears after each pause.").wait_for()
        page.get_by_label("Names and terms to listen for").fill("CAC\nABBA")
    sent = []
    pages[0].on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(frame)))
    pages[0].get_by_role("button", name="Start recording").click()
    until(pages[0], "document.querySelector('#finals').textContent")  # the file ends: it is silent
    assert json.loads(sent[0])["config"]["phrase_list"] == ["CAC", "ABBA"]
    pages[1].get_by_role("button", name="Start recording").click()
    pages[1].locator("#record-problem", has_text="takes no more work now").wait_for()
    assert "The recording goes on" in pages[1].locator("#record-problem").text_content()


def test_a_page_over_plain_http_says_why_it_has_no_microphone(opened, server):
    page = opened(server.url.replace("127.0.0.1", OTHER_HOST))
    page.get_by_role("button", name="Start recording").click()
    page.get_by_text("secure pages only").wait_for()


def fill(page):
    """Shows everything that the page can show at a time."""
    name = f"{'a-name-without-any-space-' * 3}.wav"
    choose(page, upload("text.txt", b"no sound"), upload(name, CONTENT))
    page.locator("#queue .name").nth(1).click()
    page.locator(".placed").first.wait_for()
    page.get_by_label("Show confidence in percent").check()
    page.evaluate("document.querySelector('#key-form').hidden = false")
    page.get_by_role("button", name="Start recording").click()
    until(page, "document.querySelector('#partial').textContent")
    page.evaluate("document.querySelector('#record-problem').append('A problem.')")
    page.evaluate("document.querySelector('#record-problem').hidden = false")


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """The folder of screenshots."""
    folder = Path(os.environ.get("DS2F_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def problems_of(page):
    """What is cut or overlaps on a page, and what breaks axe's rules."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    found = axe.Axe().run(page).response["violations"]
    return page.evaluate(LAYOUT) + [(each["id"], each["nodes"][0]["html"]) for each in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_nothing_overlaps_or_is_cut_and_axe_finds_no_violation(opened, width, scheme, shots):
    page = opened(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.screenshot(path=shots / f"empty-{width}-{scheme}.png", full_page=True)
    assert page.evaluate(LAYOUT) == []
    fill(page)
    page.screenshot(path=shots / f"full-{width}-{scheme}.png", full_page=True, animations="disabled")
    assert problems_of(page) == []


def test_what_scrolls_shows_what_is_new_or_chosen(page):
    names = [f"{number}.txt" for number in range(9)]
    choose(page, *(upload(name, b"no sound") for name in names))
    choose(page, upload("last.wav", CONTENT))
    inside = """([outer, inner]) => {
      const [view, box] = [outer, inner].map((name) => document.querySelector(name).getBoundingClientRect());
      return view.top <= box.top + 1 && box.bottom <= view.bottom + 1;
    }"""
    assert page.locator("#queue .name[aria-current]").text_content() == "last.wav"
    assert page.evaluate(inside, ["#queue", "#queue .name[aria-current]"])
    assert not page.evaluate(inside, ["#queue", "#queue li:first-child .name"])
    for box in ("#live", "#words"):
        page.evaluate("box => { document.querySelector(box).style.cssText = 'max-height: 48px; width: 80px'; }", box)
    page.get_by_role("button", name="Start recording").click()
    until(page, "document.querySelector('#live').scrollHeight > document.querySelector('#live').clientHeight + 20")
    assert page.evaluate("(({ scrollTop, clientHeight, scrollHeight }) => scrollHeight - clientHeight - scrollTop)"
                         "(document.querySelector('#live'))") <= 1  # fmt: skip
    assert page.evaluate(LAYOUT) == [], "what is scrolled away overlaps nothing"


def test_the_page_for_programs_lists_the_interfaces_and_is_as_accessible(page, shots):
    page.get_by_role("link", name="For programs").click()
    page.locator("summary", has_text="POST /v1/audio/transcriptions").click()
    assert set(texts(page, "summary code")) >= {"GET /v1/models", "GET /metrics", "POST /transcribe"}
    page.locator("details[open] dd", has_text="the queue is full").wait_for()
    for scheme in ("light", "dark"):
        for width in (1440, 768, 360):
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=shots / f"docs-{width}-{scheme}.png", full_page=True)
            assert page.evaluate(LAYOUT) == []
            names = page.locator("details[open] dt code")
            assert max(names.evaluate_all("nodes => nodes.map((node) => node.getClientRects().length)")) == 1
        assert problems_of(page) == []
    for told in ("file, required", "vtt, verbose_json; default: json", "Any of: word, segment", "integer from 1 to 20"):
        page.locator("details[open] dd", has_text=told).wait_for()
    page.get_by_role("link", name="Speech to text").click()
    page.get_by_text("Model: ").wait_for()


def test_the_check_of_the_layout_finds_what_overlaps_is_cut_or_too_wide(page):
    for style in ("width: 2000px", "margin-top: -60px", "width: 60px; overflow: hidden; white-space: nowrap"):
        page.evaluate("style => { document.querySelector('#choose').style.cssText = style; }", style)
        assert page.evaluate(LAYOUT), style


def test_the_transform_of_the_spectrogram_is_fouriers(page):
    samples = np.random.default_rng(0).normal(0, 0.1, 700)
    script = """async (samples) => {
      const { Fourier } = await import("/page/fourier.js");
      return [...new Fourier(256).decibels(Float32Array.from(samples), 300)];
    }"""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    power = np.abs(np.fft.rfft(samples[172:428] * window)[:128] * 4 / 256) ** 2
    assert page.evaluate(script, samples.tolist()) == pytest.approx(10 * np.log10(power + 1e-12), abs=0.05)


def test_words_of_a_dense_recording_share_no_place_at_any_scale(page):
    generator = np.random.default_rng(0)
    starts = np.cumsum(generator.uniform(0.05, 0.5, 200))
    words = [{"word": "w" * int(generator.integers(1, 12)), "start": float(s), "end": float(s + 0.2)} for s in starts]
    script = """async ([words, scale]) => {
      const { place } = await import("/page/timeline.js");
      return place(words, scale, (text) => 8 * text.length);
    }"""
    for scale in (12.5, 100, 800):
        placed = page.evaluate(script, [words, scale])
        assert len(placed) == len(words)
        assert sum(each["shown"] for each in placed) > 10
        assert all(each["shown"] or each["lane"] == 4 for each in placed), "those without text have a row of their own"
        for lane in range(4):
            row = [(each["left"], each["left"] + each["width"]) for each in placed if each["lane"] == lane]
            assert all(one[1] < other[0] for one, other in pairwise(row))


def test_no_module_turns_text_into_markup_or_code_or_names_another_host():
    modules = list((Path(__file__).parents[2] / "ds2f" / "serving" / "page").glob("*.js"))
    assert len(modules) > 10
    forbidden = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|Function\(|https?://")
    for path in modules:
        assert not forbidden.search(path.read_text()), path.name
        assert len(path.read_text().splitlines()) <= 320, path.name
