"""Recognition of many recordings against one at a time, and of long ones against short ones."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ds2f import decode, features
from ds2f.config import ApexConfig, Config, ModelConfig, SpectConfig, resolve
from ds2f.errors import InputError
from ds2f.inference import Recognizer, pieces
from ds2f.inference.pieces import Cutting
from ds2f.model import deepspeech2
from ds2f.runner.device.backend import open_backend
from ds2f.types import Logits

RATE = 4000
CFG = resolve(
    Config(
        model=ModelConfig(labels=tuple("_ABC "), hidden_size=8, hidden_layers=1),
        spect=SpectConfig(sample_rate=RATE),
        apex=ApexConfig(opt_level="O0"),
    )
)
PARAMS, STATS = deepspeech2.init(CFG.model, key=3)
PARAMS["output"]["weight"] *= 30


def pieces_of(**lengths):
    return partial(pieces.cut, cutting=Cutting(**lengths))


def recognize(**options: object) -> Recognizer:
    return Recognizer(CFG, PARAMS, STATS, backend=open_backend("cpu"), **options)  # type: ignore[arg-type]


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose colour changes, so that the labels do."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * time * (300 + 900 * np.repeat(generator.random(len(time) // 400 + 1), 400)[: len(time)]))
    return (0.1 * tone + generator.normal(0, 0.01, len(time))).astype(np.float32)


def expected(samples: np.ndarray) -> str:
    values = features.log_spectrogram(torch.from_numpy(samples), CFG.spect)
    lengths = torch.tensor([values.shape[1]])
    logits, _ = deepspeech2.apply(PARAMS, STATS, values[None], lengths, cfg=CFG.model, train=False)
    return " ".join(decode.greedy(logits, CFG.model.labels)[0].text.split())


def test_many_recordings_give_what_each_gives_alone(tmp_path: Path) -> None:
    recordings = [noise(0.3 + 0.37 * (index * 7 % 11), index) for index in range(30)]
    texts = [expected(each) for each in recordings]
    assert len(set(texts)) > 20
    for index, samples in enumerate(recordings):
        soundfile.write(tmp_path / f"{index}.wav", samples, RATE, subtype="FLOAT")
    sources = [tmp_path / f"{index}.wav" for index in range(30)]

    found = list(recognize().transcribe_all(sources, workers=3))
    assert list(recognize(decoding=3).transcribe_all(sources, workers=3)) == found

    assert [each.text for each in found] == texts
    assert [each.duration for each in found] == pytest.approx([len(each) / RATE for each in recordings])


def test_paths_files_and_arrays_are_the_same(tmp_path: Path) -> None:
    samples, path = noise(2), tmp_path / "a.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    one = recognize()
    assert expected(samples)
    for source in (path, str(path), io.BytesIO(path.read_bytes())):
        assert one.transcribe(source).text == expected(samples)
    for source in (samples, np.stack((samples, samples), axis=1), torch.from_numpy(samples)):
        assert one.transcribe(source, rate=RATE).text == expected(samples)


def test_a_recording_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1), RATE)
    (tmp_path / "b.wav").write_bytes(b"no sound")
    broken = noise(9)
    broken[-1] = np.nan
    soundfile.write(tmp_path / "c.wav", broken, RATE, subtype="FLOAT")
    sources = [tmp_path / "a.wav", tmp_path / "b.wav", tmp_path / "c.wav", tmp_path / "none.wav", tmp_path / "a.wav"]
    first, second, third, fourth, fifth = recognize(cut=pieces_of(longest=2.0)).transcribe_all(sources)
    assert first == fifth
    assert first.text
    for error, word in ((second, "b.wav"), (third, "NaN"), (fourth, "none.wav")):
        assert isinstance(error, InputError)
        assert word in str(error)
    with pytest.raises(InputError, match=r"b\.wav"):
        recognize().transcribe(tmp_path / "b.wav")


def test_words_have_times_and_confidences() -> None:
    found = recognize().transcribe(noise(3), rate=RATE)
    assert [word.text for word in found.words] == found.text.split()
    times = [time for word in found.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 3.0
    assert all(0 < word.confidence < 1 for word in found.words)


def test_overlapping_pieces_give_nearly_the_text_of_one() -> None:
    samples = noise(30, seed=5)
    whole = recognize(cut=pieces_of(longest=60)).transcribe(samples, rate=RATE).text
    cut = recognize(cut=pieces_of(longest=6, overlap=2)).transcribe(samples, rate=RATE).text
    assert len(whole) > 100
    from rapidfuzz.distance import Levenshtein

    assert Levenshtein.normalized_similarity(whole, cut) > 0.9


@pytest.mark.parametrize("pause", [0.17, 0.25, 0.4, 0.9])
def test_segments_and_words_follow_each_other_over_pauses_of_any_length(pause: float) -> None:
    silence = np.zeros(int(pause * RATE), np.float32)
    samples = np.concatenate([part for seed in range(20) for part in (noise(1.03, seed), silence)])
    found = recognize(cut=pieces_of(longest=5)).transcribe(samples, rate=RATE)
    assert len(found.segments) > 3
    for spans in (found.segments, found.words):
        times = [time for span in spans for time in (span.start, span.end)]
        assert times == sorted(times)


def test_a_long_recording_without_pauses_has_segments_of_bounded_length() -> None:
    found = recognize(cut=pieces_of(longest=10, overlap=2)).transcribe(noise(200, seed=6), rate=RATE)
    assert all(segment.end - segment.start <= 70 for segment in found.segments)
    ends = [0.0, *(segment.end for segment in found.segments)]
    assert [segment.start for segment in found.segments] == ends[:-1]
    assert ends[-1] == pytest.approx(200)


def test_segments_list_alternatives_that_differ_in_words() -> None:
    def alternatives(logits: Logits, labels: tuple[str, ...]) -> list[list[decode.Hypothesis]]:
        texts = ("{}", " {}  ", "OTHER  WORDS")  # two differ in spaces only
        return [
            [each._replace(text=text.format(each.text)) for text in texts] for each in decode.greedy(logits, labels)
        ]

    found = recognize(alternatives=alternatives).transcribe(noise(2), rate=RATE)
    (segment,) = found.segments
    assert segment.alternatives == (expected(noise(2)), "OTHER WORDS")


def test_the_transcript_is_that_of_the_decoder() -> None:
    def first_label(logits: Logits, labels: tuple[str, ...]) -> list[decode.Hypothesis]:
        return [each._replace(text="A", tokens=[labels.index("A")]) for each in decode.greedy(logits, labels)]

    assert recognize(decoder=first_label).transcribe(noise(2), rate=RATE).text == "A"
