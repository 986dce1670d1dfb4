"""Streaming sessions against whole recordings; finals exactly once; batches of sessions."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speaking_model import CFG, RATE, model, sound

from ds2f import decode
from ds2f.config import Config, EndpointConfig, ModelConfig
from ds2f.errors import InputError
from ds2f.inference import Recognizer, Segment, Word
from ds2f.inference.chain import Grid
from ds2f.inference.endpoint import Limits
from ds2f.inference.session import Final, OpenSegment, Partial, Result, Rules, Session, hear, step_sessions
from ds2f.model import deepspeech2
from ds2f.runner.device.backend import open_backend
from ds2f.types import Logits

RECOGNIZER = Recognizer(CFG, *model(), backend=open_backend("cpu"))
ONE_SEGMENT = EndpointConfig(silence=3600.0, no_text=3600.0, longest=3600.0)
SHORT = EndpointConfig(silence=0.2, no_text=0.4, longest=1.0)
SOUND = sound(8)


def finals(results: Sequence[Result]) -> list[Final]:
    return [each for each in results if isinstance(each, Final)]


def whole(samples: np.ndarray) -> str:
    return RECOGNIZER.transcribe(samples, rate=RATE).text


def fed(session: Session, samples: np.ndarray, cuts: Sequence[int] = ()) -> list[Result]:
    return [each for chunk in np.split(samples, sorted(cuts)) for each in session.feed(chunk)] + session.finish()


def chunks(samples: np.ndarray, seed: int) -> list[int]:
    """Cuts into chunks of 20 ms to 2 s."""
    sizes = np.random.default_rng(seed).uniform(0.02, 2.0, 500)
    return [int(cut) for cut in (RATE * sizes).astype(int).cumsum() if cut < len(samples)]


@pytest.mark.parametrize("seed", range(4))
def test_a_stream_has_the_text_of_the_whole_recording(seed: int) -> None:
    samples = SOUND[: len(SOUND) - 313 * seed]
    assert len(whole(samples)) > 20, "there is text to compare"
    results = fed(Session(RECOGNIZER, endpointing=ONE_SEGMENT), samples, chunks(samples, seed))
    (found, last) = finals(results)
    assert found.segment.text == whole(samples)
    assert (last.last, last.segment.words) == (True, ())


def test_results_do_not_depend_on_the_chunks_or_on_other_streams() -> None:
    alone = [fed(Session(RECOGNIZER, endpointing=SHORT), SOUND[700 * n :]) for n in range(5)]
    assert all(len(finals(results)) > 3 for results in alone)
    sessions, together = [Session(RECOGNIZER, endpointing=SHORT) for _ in alone], [[] for _ in alone]
    draw = np.random.default_rng(0)
    given_samples = [700 * n for n in range(5)]
    while any(session.ready or not session.ended for session in sessions):
        for n, session in enumerate(sessions):
            size = int(RATE * draw.uniform(0.02, 2))
            if given_samples[n] < len(SOUND):
                session.accept(SOUND[given_samples[n] : given_samples[n] + size])
            elif not session.ended:
                session.end()
            given_samples[n] += size
        for results, found in zip(together, step_sessions(sessions), strict=True):
            results += found
    for one, other in zip(alone, together, strict=True):
        assert [texts(each) for each in one] == [texts(each) for each in other]
        assert finals(one)[-1] == finals(other)[-1]


def texts(result: Result) -> tuple[object, ...]:
    return (result.text,) if isinstance(result, Partial) else (result.segment.text, result.last)


@pytest.mark.parametrize("samples", [0, 1, 100, 3 * RATE])
def test_the_end_is_told_exactly_once(samples: int) -> None:
    session = Session(RECOGNIZER, endpointing=SHORT)
    results = fed(session, SOUND[:samples])
    assert [each.last for each in finals(results)] == [False] * (len(finals(results)) - 1) + [True]
    assert finals(results)[-1].segment == Segment(samples / RATE, samples / RATE, ())
    assert session.finish() == step_sessions([session])[0] == []
    assert not session.ready
    with pytest.raises(ValueError, match="begin another Session"):
        session.accept(SOUND[:1])


def test_finals_lie_one_after_the_other_and_hold_their_words() -> None:
    results = fed(Session(RECOGNIZER, endpointing=SHORT), SOUND)
    found, before = finals(results), 0.0
    for segment in (each.segment for each in found):
        assert before <= segment.start <= segment.end <= len(SOUND) / RATE
        assert segment.end - segment.start <= SHORT.longest + 1e-9
        before = segment.end
        for word in segment.words:
            assert segment.start <= word.start <= word.end <= segment.end
            assert 0 < word.confidence < 1
    assert sum(len(each.segment.words) for each in found) > 10


def test_a_partial_is_followed_by_the_final_of_its_segment() -> None:
    open_text = ""
    for result in fed(Session(RECOGNIZER, endpointing=SHORT), SOUND):
        if isinstance(result, Partial):
            assert result.text not in ("", open_text), "only what is new is told"
            open_text = result.text
        elif not result.last:
            open_text = ""
    assert open_text == "", "no partial is left without a final"


def test_finals_are_the_decoders() -> None:
    def shouting(logits: Logits, labels: Sequence[str]) -> list[decode.Hypothesis]:
        return [each._replace(tokens=each.tokens[:1]) for each in decode.greedy(logits, labels)]

    recognizer = Recognizer(CFG, *model(), backend=open_backend("cpu"), decoder=shouting)
    results = fed(Session(recognizer, endpointing=SHORT), SOUND)
    assert {len(each.segment.text) for each in finals(results)} <= {0, 1}
    assert max(len(each.text) for each in results if isinstance(each, Partial)) > 1


LABELS = ("_", "A", " ")


def scores(path: Sequence[int]) -> np.ndarray:
    return np.log(np.full((len(path), 3), 0.05, np.float32) + 0.85 * np.eye(3, dtype=np.float32)[list(path)])


def decoded(log_probs: torch.Tensor, start: float, end: float) -> Segment:
    (found,) = decode.greedy(Logits(log_probs[None], torch.tensor([len(log_probs)])), LABELS)
    return Segment(start, end, tuple(Word(word, start, end, 0.5) for word in found.text.split()))


RULES = Rules(LABELS, Grid(samples=1, rate=1, blank=0, space=2), decoded, Limits(3, 10, 25), silent=0.8)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0, 0, 1, 2]), max_size=120), st.lists(st.integers(0, 120), max_size=6))
def test_segments_are_the_frames_in_their_order_and_no_word_is_lost(path: list[int], cuts: list[int]) -> None:
    segment, results = OpenSegment(0, np.zeros((0, 3), np.float32)), []
    for block in np.split(scores(path), sorted(min(cut, len(path)) for cut in cuts)):
        segment, found = hear(segment, block, rules=RULES)
        results += found
    assert segment.begin + len(segment.log_probs) == len(path)
    spoken = "".join(each.segment.text for each in finals(results)) + segment.partial
    expected = decoded(torch.from_numpy(scores(path)), 0.0, 1.0).text
    if LONG_RUN not in "".join(map(str, path)):  # a run that fills the quarter with the cut is divided
        assert spoken.replace(" ", "") == expected.replace(" ", "")


LONG_RUN = 7 * "1"


def test_samples_that_are_no_sound_are_refused_and_the_stream_goes_on() -> None:
    session = Session(RECOGNIZER, endpointing=ONE_SEGMENT)
    samples = SOUND[:3000]
    for wrong in (np.array([np.nan]), np.zeros((3, 2)), np.array(["a"]), np.array([np.inf, 0])):
        session.feed(samples[:1000])
        samples = samples[1000:] if len(samples) > 1000 else samples[:0]
        with pytest.raises(InputError, match="stream: "):
            session.feed(wrong)
    (found, _) = finals(session.finish())
    assert found.segment.text == whole(SOUND[:3000])


def test_integers_are_samples_as_well() -> None:
    pcm = np.round(SOUND[:5000] * 20000).astype(np.int16)
    whole_numbers, floating = (fed(Session(RECOGNIZER), each) for each in (pcm, pcm.astype(np.float32) / 32768))
    assert whole_numbers == floating == fed(Session(RECOGNIZER), torch.from_numpy(pcm))  # type: ignore[arg-type]


def test_a_bidirectional_model_is_refused_with_the_remedy() -> None:
    cfg = Config(model=ModelConfig(hidden_size=4, hidden_layers=1, num_bins=CFG.spect.num_bins), spect=CFG.spect)
    params, stats = deepspeech2.init(cfg.model, key=0)
    with pytest.raises(InputError, match=r"transcribe whole recordings, or train with --nomodel\.bidirectional"):
        Session(Recognizer(cfg, params, stats, backend=open_backend("cpu")))
