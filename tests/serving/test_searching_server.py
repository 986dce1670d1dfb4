"""A server of a bidirectional model that searches: alternatives, hot words, results after pauses."""

import io
import json
import time

import attrs
import httpx
import numpy as np
import pytest
from serving_process import serving, wav, write_run
from speaking_model import CFG, RATE, sound
from websockets.sync.client import connect

from ds2f import config, features
from ds2f.inference import Recognizer
from ds2f.model import deepspeech2
from ds2f.runner.device.backend import open_backend

torch = pytest.importorskip("torch")
pytest.importorskip("flashlight.lib.text")

BOTH = config.resolve(attrs.evolve(CFG, model=attrs.evolve(CFG.model, bidirectional=True)))


def weights():
    """A bidirectional model that names its labels."""
    params, stats = deepspeech2.init(BOTH.model, key=3)
    params["output"]["weight"] *= 10
    values = features.log_spectrogram(torch.from_numpy(sound(5, seed=1)), BOTH.spect)[None]
    for _ in range(30):
        _, stats = deepspeech2.apply(params, stats, values, torch.tensor([values.shape[2]]), cfg=BOTH.model, train=True)
    return params, stats


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searching")
    write_run(folder / "run", BOTH, *weights())
    with serving(folder, "--lm.decoder=beam", "--endpoint.silence=0.3") as running:
        yield running


def ask(server, content, **fields):
    fields = {"response_format": "verbose_json", **fields}
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions", files={"file": ("a", content)}, data=fields, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_segments_have_alternatives_if_they_are_asked_for(server):
    (segment,) = ask(server, wav(3), nbest=4)["segments"]
    assert segment["alternatives"][0] == segment["text"]
    assert 1 < len(set(segment["alternatives"])) <= 4
    assert "alternatives" not in ask(server, wav(3))["segments"][0]


def test_hot_words_of_a_request_change_its_text_only(server):
    plain = ask(server, wav(3))["text"]
    phrase = "CAC"
    assert phrase not in plain
    assert phrase in ask(server, wav(3), prompt=f"{phrase}, ñandú")["text"], "what the labels cannot spell is left out"
    assert ask(server, wav(3))["text"] == plain


def test_results_come_after_pauses_and_are_those_of_the_parts(server):
    loud = (sound(1.9, seed=8) * 32767).clip(-32768, 32767).astype("<i2")
    results, sent = [], 0
    with connect(f"{server.url.replace('http', 'ws')}/v1/stream") as stream:

        def ask(samples):
            nonlocal sent
            sent += len(samples)
            stream.send(samples.tobytes())
            return json.loads(stream.recv(timeout=60))

        stream.send(json.dumps({"config": {"sample_rate": RATE}}))
        for part in (loud, loud[::-1].copy(), loud):
            begin = sent / RATE
            answers = [ask(chunk) for chunk in np.array_split(part, 10)]
            for _ in range(600):  # silence, until the server has heard the part
                answers.append(ask(np.zeros(RATE // 5, "<i2")))
                if answers[-1].get("text"):
                    break
                time.sleep(0.05)
            results.append((begin, answers.pop()))
            assert all(answer == {"partial": ""} for answer in answers)
        stream.send('{"eof" : 1}')
        assert json.loads(stream.recv(timeout=60)) == {"text": ""}
    for begin, result in results:
        starts = [word["start"] for word in result["result"]]
        assert starts == sorted(starts)
        assert begin - 1.0 <= starts[0]  # a margin of the pause is heard, too; the part before is 1.9 s long
        assert starts[-1] < begin + 1.9 + 0.3


def test_the_model_is_one_that_greedy_search_hears_words_of():
    heard = Recognizer(BOTH, *weights(), backend=open_backend("cpu")).transcribe(io.BytesIO(wav(3)))
    assert len(heard.words) > 2
