"""The WebSocket with the messages of Vosk's clients, against a running server."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving_process import recognizer
from speaking_model import RATE, sound
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from ds2f.inference import Session

SAMPLES = (sound(6) * 32767).clip(-32768, 32767).astype("<i2")
CONFIG = {"config": {"sample_rate": RATE}}


def connect_when_free(url, within=30):
    """A connection; the places of clients that left a moment ago may still be taken."""
    end = time.monotonic() + within
    while True:
        try:
            return connect(f"{url.replace('http', 'ws')}/v1/stream")
        except InvalidStatus as error:
            if error.response.status_code != 503 or time.monotonic() > end:
                raise
        time.sleep(0.05)


@pytest.fixture
def stream(server):
    with connect_when_free(server.url) as connection:
        yield connection


def expected():
    """The text of the finals of a session in this process."""
    session = Session(recognizer())
    results = session.feed(SAMPLES.astype(np.float32) / 32768) + session.finish()
    return [result.segment for result in results if hasattr(result, "segment") and result.segment.words]


def talk(stream, *, config=CONFIG, seconds=0.2):
    """What Vosk's example client does: an answer for every chunk, and one for the end."""
    stream.send(json.dumps(config))
    size, answers = int(seconds * RATE) * 2, []
    content = SAMPLES.tobytes()
    for begin in range(0, len(content), size):
        stream.send(content[begin : begin + size])
        answers.append(json.loads(stream.recv(timeout=30)))
    stream.send('{"eof" : 1}')
    answers.append(json.loads(stream.recv(timeout=30)))
    with pytest.raises(ConnectionClosed) as closed:
        stream.recv(timeout=30)
    assert closed.value.rcvd.code == 1000
    return answers


def test_every_chunk_has_one_answer_and_the_text_is_that_of_a_session(stream):
    answers = talk(stream)
    segments = expected()
    texts = [answer["text"] for answer in answers if answer.get("text")]
    assert " ".join(texts) == " ".join(segment.text for segment in segments)
    assert all(set(answer) in ({"partial"}, {"text"}, {"text", "result"}) for answer in answers)
    assert any(answer.get("partial") for answer in answers)
    words = [word for answer in answers for word in answer.get("result", [])]
    assert [(word["word"], word["start"], word["end"], word["conf"]) for word in words] == [
        (word.text, round(word.start, 3), round(word.end, 3), round(word.confidence, 4))
        for segment in segments
        for word in segment.words
    ]


def test_sessions_at_the_same_time_have_each_their_own_text(server):
    def of(seed):
        samples = (sound(3 + seed / 4, seed) * 32767).clip(-32768, 32767).astype("<i2")
        session = Session(recognizer())
        results = session.feed(samples.astype(np.float32) / 32768) + session.finish()
        words = [result.segment.text for result in results if hasattr(result, "segment") and result.segment.words]
        return samples, " ".join(words)

    def told(samples):
        texts = []
        with connect_when_free(server.url) as stream:
            stream.send(json.dumps(CONFIG))
            for chunk in np.array_split(samples, 17):
                stream.send(chunk.tobytes())
                texts.append(json.loads(stream.recv(timeout=30)).get("text", ""))
            stream.send('{"eof" : 1}')
            texts.append(json.loads(stream.recv(timeout=30))["text"])
        return " ".join(filter(None, texts))

    given = [of(seed) for seed in range(8)]
    assert len({text for _, text in given}) == 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(told, [samples for samples, _ in given])) == [text for _, text in given]


def test_words_can_be_left_out_and_alternatives_asked_for(server):
    for more, keys in (({"words": 0}, {"text"}), ({"max_alternatives": 3}, {"alternatives"})):
        with connect_when_free(server.url) as stream:
            if "max_alternatives" in more:  # the server does not search
                stream.send(json.dumps({"config": CONFIG["config"] | more}))
                stream.send(SAMPLES.tobytes())
                with pytest.raises(ConnectionClosed) as closed:
                    stream.recv(timeout=30)
                assert "alternatives" in closed.value.rcvd.reason
                continue
            answers = talk(stream, config={"config": CONFIG["config"] | more})
            assert {key for answer in answers for key in answer} == keys | {"partial"}


def test_reset_gives_the_result_and_begins_again(stream):
    stream.send(json.dumps(CONFIG))
    texts = []
    for _ in range(2):
        stream.send(SAMPLES.tobytes())
        first = json.loads(stream.recv(timeout=30)).get("text", "")
        stream.send('{"reset": 1}')
        texts.append(f"{first} {json.loads(stream.recv(timeout=30))['text']}".strip())
    assert texts == [" ".join(segment.text for segment in expected())] * 2


def test_the_end_without_samples_has_an_empty_result(stream):
    stream.send('{"eof": 1}')
    assert json.loads(stream.recv(timeout=30)) == {"text": ""}
    with pytest.raises(ConnectionClosed) as closed:
        stream.recv(timeout=30)
    assert closed.value.rcvd.code == 1000


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        (["no JSON"], 1007),
        (["[" * 100_000], 1007),
        (['"config"'], 1007),
        (['{"hello": 1}'], 1007),
        (['{"config": 1}'], 1007),
        (['{"config": {"sample_rate": "fast"}}'], 1008),
        (['{"config": {"sample_rate": 1e99}}'], 1008),
        (['{"config": {"sample_rate": NaN}}'], 1008),
        (['{"config": {"phrase_list": "a"}}'], 1008),
        (['{"config": {"phrase_list": [1]}}'], 1008),
        (['{"config": {"max_alternatives": -1}}'], 1008),
        ([bytes(2000), json.dumps(CONFIG)], 1008),  # out of order
        ([b"RIFF" + bytes(2000)], 1008),  # a file in place of samples
    ],
    ids=range(13),
)
def test_messages_that_are_wrong_close_the_connection_with_the_reason(stream, messages, code):
    for message in messages:
        stream.send(message)
    with pytest.raises(ConnectionClosed) as closed:
        list(iter(lambda: stream.recv(timeout=30), None))
    assert closed.value.rcvd.code == code
    assert closed.value.rcvd.reason


def test_a_message_that_is_too_large_closes_the_connection(server, stream):
    def send_and_read():  # the rest of the message may reset the connection while it is sent
        stream.send(bytes(2_000_000))
        while True:
            stream.recv(timeout=30)

    with pytest.raises(ConnectionClosed) as closed:
        send_and_read()
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    with connect_when_free(server.url) as another:
        assert "text" in talk(another)[-1]


@pytest.mark.parametrize("content", [b"", b"\x00", bytes(3)])
def test_half_samples_and_none_are_answered(stream, content):
    stream.send(content)
    assert json.loads(stream.recv(timeout=30)) == {"partial": ""}


def test_a_client_that_leaves_at_once_frees_its_session(server):
    for number in range(60):  # more than there may be at a time
        with connect_when_free(server.url) as stream:
            stream.send(SAMPLES.tobytes()[: 1000 * number])
            stream.socket.close() if number % 2 else None
    assert "Traceback" not in server.log


MASK = b"\x00\x00\x00\x00"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"\x80\x82" + MASK + b"ab", 1002),  # goes on with nothing
        (b"\x01\x81" + MASK + b"a" + b"\x81\x81" + MASK + b"b", 1002),  # a message within another
        (b"\x82\x02ab", 1002),  # not masked
        (b"\x83\x82" + MASK + b"ab", 1002),  # of no kind
        (b"\xf2\x82" + MASK + b"ab", 1002),  # of an extension
        (b"\x09\x80" + MASK, 1002),  # a ping in parts
        (b"\x82\xff\x3f" + b"\xff" * 7 + MASK, 1009),  # announces 4 exabytes
        (b"\x81\x82" + MASK + b"\xff\xfe", 1007),  # text that is not UTF-8
    ],
    ids=range(8),
)
def test_frames_that_break_the_protocol_close_the_connection(server, stream, frames, code):
    stream.socket.sendall(frames)
    with pytest.raises(ConnectionClosed) as closed:
        stream.recv(timeout=30)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == code
    assert "Traceback" not in server.log
