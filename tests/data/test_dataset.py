from pathlib import Path

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ds2f import ctc
from ds2f.config import AugmentationConfig, Config, DataConfig, ModelConfig, SpectConfig
from ds2f.data import added_recordings, dataset, padding
from ds2f.data.manifests import Utterance
from ds2f.errors import InputError

CFG = Config()


def _utterance(row, transcript="HELLO", duration=1.0):
    return Utterance(row, Path(f"{row}.wav"), transcript, duration)


def _with_data(**settings):
    return attrs.evolve(CFG, data=DataConfig(**settings))


def test_training_leaves_out_short_and_long_utterances_and_says_so():
    utterances = [_utterance(row, duration=duration) for row, duration in enumerate([0.5, 1.0, 15.0, 15.1, 0.2])]
    built = dataset.build(utterances, _with_data(min_duration=1.0, max_duration=15.0), train=True)
    assert [example.row for example in built.examples] == [1, 2]
    assert {(remark.utterances, remark.recordings) for remark in built.remarks} == {
        (2, ("0.wav", "4.wav")),
        (1, ("3.wav",)),
    }
    assert str(built.remarks[0]) == "2 utterance(s) left out, shorter than data.min_duration=1 s: 0.wav, 4.wav"


def test_evaluation_keeps_every_utterance():
    utterances = [_utterance(row, duration=duration) for row, duration in enumerate([0.5, 1.0, 99.0])]
    built = dataset.build(utterances, _with_data(min_duration=1.0, max_duration=15.0), train=False)
    assert [example.row for example in built.examples] == [0, 1, 2]
    assert not built.remarks


def test_an_unknown_character_stops_and_the_recording_is_named():
    with pytest.raises(InputError, match=r"1\.wav.*'7'"):
        dataset.build([_utterance(0), _utterance(1, "ROUTE 77")], CFG, train=True)


def test_all_transcripts_with_unknown_characters_and_long_recordings_are_found_at_once():
    found = []
    utterances = [_utterance(0), _utterance(1, "ROUTE 77"), _utterance(2, "CAFÉ 7"), _utterance(3, duration=9e9)]
    built = dataset.build(utterances, CFG, train=True, found=found)
    assert [example.row for example in built.examples] == [0]
    assert [problem.where for problem in found] == ["1.wav", "2.wav", "3.wav"]
    assert [dict(problem.characters) for problem in found] == [{"7": 2}, {"7": 1, "É": 1}, {}]
    assert "the limit is 1,800 s" in found[2].reason


def test_as_many_as_the_limit_allows_are_left_out_with_a_remark():
    utterances = [_utterance(0), _utterance(1, "ROUTE 77"), _utterance(2, "CAFÉ 7")]
    built = dataset.build(utterances, _with_data(max_unusable=2), train=True)
    assert [example.row for example in built.examples] == [0]
    assert "data.max_unusable" in built.remarks[0].what
    with pytest.raises(InputError, match="2 of 3 rows cannot be used"):
        dataset.build(utterances, _with_data(max_unusable=1), train=True)


def test_labels_that_tell_cases_apart_are_remarked_on_where_the_other_case_is_no_label():
    cfg = attrs.evolve(CFG, model=ModelConfig(labels=tuple("_abAB ")))
    found = []
    dataset.build([_utterance(0, "ab"), _utterance(1, "abC")], cfg, train=True, found=found)
    assert "tell upper and lower case apart" not in found[0].reason, "c is no label either"
    found = []
    cfg = attrs.evolve(CFG, model=ModelConfig(labels=tuple("_abcAB ")))
    dataset.build([_utterance(0, "ab"), _utterance(1, "abC")], cfg, train=True, found=found)
    assert "tell upper and lower case apart" in found[0].reason


@pytest.mark.parametrize("train", [True, False])
def test_a_set_of_empty_transcripts_is_remarked_on(train):
    built = dataset.build([_utterance(0, ""), _utterance(1, " ")], CFG, train=train)
    assert "nothing to learn and no error rate" in built.remarks[0].what
    assert not dataset.build([_utterance(0, ""), _utterance(1)], CFG, train=train).remarks


@pytest.mark.parametrize(("policy", "rows"), [("drop_character", [0, 1, 2]), ("drop_utterance", [0])])
def test_unknown_characters_are_dropped_as_asked_and_counted(policy, rows):
    utterances = [_utterance(0), _utterance(1, "ROUTE 77"), _utterance(2, "ROUTE {7}")]
    built = dataset.build(utterances, _with_data(unknown_characters=policy), train=True)
    assert [example.row for example in built.examples] == rows
    (remark,) = built.remarks
    assert (remark.utterances, remark.recordings) == (2, ("1.wav", "2.wav"))
    assert "'7' 3" in remark.what
    assert "'{' 1" in remark.what


def test_labels_and_the_frames_that_they_need():
    (example,) = dataset.build([_utterance(0, "BOOK KEEPER")], CFG, train=True).examples
    assert [CFG.model.labels[label] for label in example.labels] == list("BOOK KEEPER")
    assert example.min_frames == 11 + 2
    labels = torch.tensor([example.labels])
    assert ctc.feasible(torch.tensor([13]), labels, torch.tensor([11])).item()
    assert not ctc.feasible(torch.tensor([12]), labels, torch.tensor([11])).item()


@given(text=st.text("AB ", max_size=12).map(lambda text: " ".join(text.split())))
def test_the_frames_that_a_transcript_needs_are_those_of_the_loss(text):
    (example,) = dataset.build([_utterance(0, text)], CFG, train=True).examples
    labels, length = torch.tensor([example.labels], dtype=torch.int64), torch.tensor([len(example.labels)])
    assert example.min_frames == ctc.min_frames(labels, length)


def test_a_transcript_that_cannot_fit_is_kept_and_remarked_on():
    built = dataset.build([_utterance(0, "A" * 60), _utterance(1)], CFG, train=True)
    assert len(built.examples) == 2
    (remark,) = built.remarks
    assert "too short for their transcripts" in remark.what
    assert remark.recordings == ("0.wav",)
    # 101 frames become 51 of logits, or 26: room for 30 characters, which repeat nowhere, or not.
    thirty = _utterance(0, "AB" * 15)
    assert not dataset.build([thirty], CFG, train=True).remarks
    longer_stride = attrs.evolve(CFG, model=ModelConfig(time_stride=4))
    assert "too short" in dataset.build([thirty], longer_stride, train=True).remarks[0].what


def test_a_manifest_that_leaves_nothing_is_an_error_with_the_reason():
    with pytest.raises(InputError, match=r"(?s)no utterance.*shorter than data\.min_duration=5"):
        dataset.build([_utterance(0)], _with_data(min_duration=5.0), train=True)


def test_samples_are_counted_at_the_rate_of_the_spectrogram():
    cfg = attrs.evolve(CFG, spect=SpectConfig(sample_rate=8000))
    (example,) = dataset.build([_utterance(0, duration=44101 / 44100)], cfg, train=True).examples
    assert example.num_samples == 8000
    assert dataset.build([_utterance(0)], CFG, train=True).num_frames(0).tolist() == [101]


def test_draws_depend_on_seed_epoch_and_row_and_not_on_the_company():
    cfg = attrs.evolve(CFG, augmentation=AugmentationConfig(tempo_min=0.8, tempo_max=1.2))
    everyone = dataset.build([_utterance(row) for row in range(5)], cfg, train=True)
    alone = dataset.build([_utterance(3)], cfg, train=True)
    assert alone.perturbation(0, 7) == everyone.perturbation(3, 7)
    assert len({everyone.perturbation(index, epoch) for index in range(5) for epoch in range(5)}) == 25
    other_seed = attrs.evolve(cfg, training=attrs.evolve(cfg.training, seed=1))
    assert dataset.build([_utterance(3)], other_seed, train=True).perturbation(0, 7) != alone.perturbation(0, 7)


def test_masks_are_left_to_the_two_views_where_an_utterance_is_seen_twice():
    masks = AugmentationConfig(speeds=(0.9, 1.1), frequency_masks=2, time_masks=1)
    for consistency, expected in ((0.0, masks), (0.2, AugmentationConfig(speeds=(0.9, 1.1)))):
        cfg = attrs.evolve(CFG, augmentation=masks, model=ModelConfig(consistency=consistency))
        built = dataset.build([_utterance(0)], cfg, train=True)
        assert built.augmentation == expected


def test_nothing_is_drawn_in_evaluation():
    cfg = attrs.evolve(CFG, augmentation=AugmentationConfig(speeds=(0.5, 2.0), gain_min=3, gain_max=6))
    built = dataset.build([_utterance(row) for row in range(5)], cfg, train=False)
    assert {built.perturbation(index, epoch).num_samples(100) for index in range(5) for epoch in range(5)} == {100}
    assert {built.perturbation(index, 0).gain for index in range(5)} == {0.0}


def test_a_noise_folder_is_searched_in_depth_and_must_hold_recordings(tmp_path):
    cfg = attrs.evolve(CFG, augmentation=AugmentationConfig(noise_dir=str(tmp_path)))
    with pytest.raises(InputError, match=r"augmentation\.noise_dir"):
        dataset.build([_utterance(0)], cfg, train=True)
    assert dataset.build([_utterance(0)], cfg, train=False).added == added_recordings.Folders()
    (tmp_path / "street").mkdir()
    (tmp_path / "street" / "b.WAV").touch()
    (tmp_path / "a.flac").touch()
    (tmp_path / "readme.txt").touch()
    assert dataset.build([_utterance(0)], cfg, train=True).added.noises == (
        tmp_path / "a.flac",
        tmp_path / "street" / "b.WAV",
    )


@pytest.mark.parametrize("silence", [0.0, 0.02])
def test_the_longest_is_what_the_slowest_draw_makes_of_an_utterance(silence):
    utterances = [_utterance(row, duration=1 + row / 7) for row in range(5)]
    stretched = AugmentationConfig(speeds=(1.1, 0.8), tempo_min=0.9, tempo_max=1.2, silence=silence)
    cfg = attrs.evolve(CFG, augmentation=stretched)
    training, evaluation = (dataset.build(utterances, cfg, train=train) for train in (True, False))
    assert evaluation.longest().tolist() == evaluation.num_frames(0).tolist()
    drawn = [training.num_frames(epoch) for epoch in range(200)]
    for longest, *frames in zip(training.longest(), *drawn, strict=True):
        assert 0.97 * longest <= max(frames) <= longest
    assert training.longest()[0] == round(16000 / 0.8 / 0.9 + 2 * 16000 * silence) // 160 + 1


@pytest.mark.parametrize("faster", [{"speeds": (1.2, 1.5)}, {"tempo_min": 1.2, "tempo_max": 1.5}])
def test_an_utterance_that_only_sometimes_is_made_shorter_may_stay_as_long_as_it_is(faster):
    for probability, longest in ((1.0, 101 / 1.2), (0.5, 101)):
        name = "speed_prob" if "speeds" in faster else "tempo_prob"
        cfg = attrs.evolve(CFG, augmentation=AugmentationConfig(**faster, **{name: probability}))
        built = dataset.build([_utterance(0)], cfg, train=True)
        assert built.longest().tolist() == pytest.approx([longest], abs=1)
        frames = [int(built.num_frames(epoch)[0]) for epoch in range(100)]
        assert max(frames) <= built.longest()[0]
        assert (max(frames) == 101) == (probability < 1)


def test_an_utterance_that_is_longer_than_a_whole_batch_may_be_is_named_with_the_remedy():
    utterances = [_utterance(0), _utterance(1, duration=3.0), _utterance(2, duration=2.5)]
    assert dataset.build(utterances, _with_data(max_frames=304), train=True).longest().tolist() == [101, 301, 251]
    with pytest.raises(
        InputError,
        match=r"^1\.wav: up to 304 frames with padding, more than data\.max_frames=303 .*=304 or more.*max_duration",
    ):
        dataset.build(utterances, _with_data(max_frames=303), train=True)
    with pytest.raises(InputError, match=r"and so have 1 others\. Take --data\.max_frames=304 or more$"):
        dataset.build(utterances, _with_data(max_frames=200), train=False)
    slower = attrs.evolve(_with_data(max_frames=304), augmentation=AugmentationConfig(speeds=(0.5, 1.0)))
    with pytest.raises(InputError, match="up to 608 frames"):
        dataset.build(utterances, slower, train=True)


def test_padded_shapes_follow_from_the_lengths_and_speeds_and_not_from_the_seed():
    utterances = [_utterance(row, duration=1 + row % 7) for row in range(30)]
    cfg = attrs.evolve(_with_data(padded_shapes=3), augmentation=AugmentationConfig(speeds=(0.5, 1.0)))
    built = dataset.build(utterances, cfg, train=True)
    assert built.shapes == padding.choose(
        [101 + 100 * (row % 7) for row in range(30)] + built.longest().tolist(), count=3
    )
    reseeded = attrs.evolve(cfg, training=attrs.evolve(cfg.training, seed=9))
    assert dataset.build(utterances[::-1], reseeded, train=True).shapes == built.shapes
    assert dataset.build(utterances, cfg, train=False).shapes[-1] == 704
    assert dataset.build(utterances, CFG, train=True).shapes == ()
