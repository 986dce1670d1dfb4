"""Every request has hot words of its own, beside those of the server."""

import json

import httpx
import pytest
from serving_process import serving, wav, write_run
from speaking_model import BOTH_WAYS, CFG, RATE, model, sound
from websockets.sync.client import connect

pytest.importorskip("flashlight.lib.text", reason="flashlight-text is not installed")


@pytest.fixture(scope="module", params=[False, True], ids=["unidirectional", "bidirectional"])
def server(request, tmp_path_factory):
    """A server that searches with a hot word of its own."""
    folder = tmp_path_factory.mktemp("hot")
    write_run(folder / "run", BOTH_WAYS if request.param else CFG, *model(bidirectional=request.param))
    with serving(folder, "--lm.hot_words=bab", "--lm.hot_words_boost=40") as running:
        yield running


@pytest.fixture
def heard(server):
    """Uploads a recording; returns the words of the transcript."""

    def heard(prompt, **form):
        answer = httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            files={"file": ("a.wav", wav(4))},
            data={"model": "whisper-1", "prompt": prompt, **form},
        )
        assert answer.status_code == 200, answer.text
        return answer.json()["text"].split()

    return heard


@pytest.fixture
def streamed(server):
    """Streams a recording with the messages of Vosk's clients; returns the words of the results."""

    def streamed(**config):
        words, content = [], (sound(4) * 32767).clip(-32768, 32767).astype("<i2").tobytes()
        with connect(f"{server.url.replace('http', 'ws')}/v1/stream") as stream:
            stream.send(json.dumps({"config": {"sample_rate": RATE, **config}}))
            for message in (content, '{"eof": 1}'):
                stream.send(message)
                words += json.loads(stream.recv(timeout=60)).get("text", "").split()
        return words

    return streamed


def test_phrases_of_a_session_are_its_own(streamed):
    before = streamed()
    assert "BAB" in before
    assert "CACBA" not in before
    assert "CACBA" in streamed(phrase_list=["cacba"])
    assert "CACBA" in streamed(phrase_list=["x 42", " CACBA ", ""])
    assert streamed(phrase_list=["Zürich", "42", ""]) == before  # the labels cannot spell them
    assert streamed(phrase_list=[]) == before


def test_hot_words_of_a_request_are_its_own(heard):
    before = heard("")
    assert "BAB" in before
    assert "CACBA" not in before
    assert "CACBA" in heard("cacba")
    assert "CACBA" in heard("x 42, cacba", response_format="verbose_json", nbest="2")
    assert heard("Zürich, 42") == before  # the labels cannot spell them
    assert heard("") == before
