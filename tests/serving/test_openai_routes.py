"""OpenAI's Python client, and clients of deepspeech.pytorch's server, against a running server."""

import io

import httpx
import openai
import pysubs2
import pytest
from serving_process import recognizer, wav


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(api_key="none", base_url=f"{server.url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def recording():
    """(content of a WAV file, its transcript by the library)."""
    content = wav(4)
    heard = recognizer().transcribe(io.BytesIO(content))
    assert len(heard.words) > 3
    return content, heard


@pytest.fixture
def create(client, recording):
    def ask(**fields):
        return client.audio.transcriptions.create(file=("a.wav", recording[0]), model="whisper-1", **fields)

    return ask


def test_json_and_text_have_the_text_of_the_command_line(create, recording):
    assert create().text == recording[1].text
    assert create(response_format="text") == f"{recording[1].text}\n"


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_have_the_words(create, recording, form):
    read = pysubs2.SSAFile.from_string(create(response_format=form), format_=form)
    assert " ".join(line.plaintext.replace("\n", " ") for line in read) == recording[1].text


def test_verbose_json_has_words_and_segments_as_asked_for(create, recording):
    heard = recording[1]
    found = create(response_format="verbose_json", timestamp_granularities=["word", "segment"], language="en")
    assert (found.text, found.language, found.duration) == (heard.text, "en", 4.0)
    words = [(word.word, word.start, word.end, word.confidence) for word in found.words]
    assert words == [
        (word.text, round(word.start, 3), round(word.end, 3), round(word.confidence, 4)) for word in heard.words
    ]
    assert [(each.text, each.start, each.end) for each in found.segments] == [
        (each.text, round(each.start, 3), round(each.end, 3)) for each in heard.segments
    ]
    assert all(each.avg_logprob <= 0 <= each.no_speech_prob <= 1 for each in found.segments)
    assert create(response_format="verbose_json").words is None
    assert create(response_format="verbose_json", timestamp_granularities=["word"]).segments is None


def test_other_fields_of_clients_are_accepted(create, recording):
    found = create(
        temperature=0, prompt="Kowalski, New York", extra_body={"stream": "false", "chunking_strategy": "auto"}
    )
    assert found.text == recording[1].text


def test_a_stream_has_the_text_once_in_parts_and_once_as_a_whole(create, recording):
    events = list(create(stream=True))
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert [events[0].delta, events[1].text] == [recording[1].text] * 2


def test_models_are_listed(client):
    (found,) = client.models.list()
    assert (found.id, client.models.retrieve("run").object) == ("run", "model")
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("another")
    assert error.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "xml"}, "response_format"),
        ({"timestamp_granularities": ["phoneme"], "response_format": "verbose_json"}, "timestamp_granularities[]"),
        ({"timestamp_granularities": ["word"]}, "timestamp_granularities[]"),
        ({"temperature": 3}, "temperature"),
        ({"prompt": "A" * 20_000}, "prompt"),
        ({"extra_body": {"nbest": 2}, "response_format": "verbose_json"}, "nbest"),  # the server does not search
        ({"extra_body": {"nbest": 2}}, "nbest"),
        ({"stream": True, "response_format": "text"}, "stream"),
        ({"extra_body": {"stream": "sometimes"}}, "stream"),
    ],
)
def test_a_wrong_field_is_named(create, fields, param):
    with pytest.raises(openai.BadRequestError) as error:
        create(**fields)
    assert error.value.param == param
    assert error.value.code == "invalid_value"
    assert error.value.type == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/transcribe"])
def test_recordings_that_cannot_be_read_are_refused_with_the_reason(server, path, recording):
    content = recording[0]
    broken = {b"not audio at all" * 10: 415, b"": 422, content[:-1000]: 422, content[:44]: 422}
    found = {}
    for given in broken:
        answer = httpx.post(f"{server.url}{path}", files={"file": ("/etc/passwd", given)})
        found[given] = answer.status_code
        assert answer.json()["error"]["param"] == "file"
        assert "passwd" not in answer.text
        assert "/" not in answer.json()["error"]["message"].replace("/s", "")
    assert found == broken


def test_clients_of_deepspeech_pytorch_are_answered_as_before(server, recording):
    content, heard = recording
    answer = httpx.post(f"{server.url}/transcribe", files={"file": ("a.wav", content)})
    assert answer.json() == {"status": "OK", "transcription": [[heard.text]]}
    answer = httpx.post(f"{server.url}/transcribe", files={"other": ("a.wav", content)})
    assert (answer.status_code, answer.json()["status"]) == (400, "error")


def test_a_long_recording_has_the_text_of_the_command_line(server):
    content = wav(70, seed=3)
    heard = recognizer().transcribe(io.BytesIO(content))
    assert len(heard.segments) > 1
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": ("a.wav", content)},
        data={"response_format": "verbose_json"},
        timeout=60,
    ).json()
    assert (answer["text"], len(answer["segments"])) == (heard.text, len(heard.segments))
