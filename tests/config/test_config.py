"""Tests of ds2f.config and ds2f.config.settings."""

import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from ds2f import config
from ds2f.config import AugmentationConfig, Config, DataConfig, ModelConfig, OptimConfig, SpectConfig
from ds2f.errors import InputError


def test_documented_defaults_hold() -> None:
    cfg = Config()
    assert cfg.data.batch_size == 240
    assert cfg.optim.learning_rate == 1
    assert cfg.training.seed == 123456
    assert cfg.training.epochs == 70
    assert (cfg.model.hidden_size, cfg.model.hidden_layers, cfg.model.bidirectional) == (1024, 5, True)
    assert "".join(cfg.model.labels) == "_'ABCDEFGHIJKLMNOPQRSTUVWXYZ "
    assert cfg.model.num_bins == cfg.spect.num_bins == 161


def test_defaults_resolve() -> None:
    assert config.resolve(Config()) == Config()


@pytest.mark.parametrize("cls", [Config, *config.sections().values()])
def test_every_setting_has_help_and_a_default(cls: type) -> None:
    assert cls() == cls()
    for field in attrs.fields(cls):
        if field.name not in config.sections():
            assert field.metadata["help"].endswith("."), field.name


def test_configuration_survives_json() -> None:
    cfg = config.resolve(
        Config(
            device="cpu",
            model=ModelConfig(labels=("A", "_", " "), hidden_size=8),
            augmentation=AugmentationConfig(speeds=(0.9, 1.0, 1.1)),
            spect=SpectConfig(sample_rate=8000),
        )
    )
    assert config.from_dict(json.loads(json.dumps(config.to_dict(cfg)))) == cfg


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"batch_size": 0}}, "data.batch_size: 0 is out of range, it must be >= 1"),
        ({"data": {"batch_size": "9"}}, "data.batch_size: '9' is not of type int"),
        ({"training": {"seed": True}}, "training.seed: True is not of type int"),
        ({"optim": {"learning_rate": float("nan")}}, "optim.learning_rate: nan is out of range, it must be > 0"),
        ({"optim": {"learning_rate": 0}}, "optim.learning_rate: 0 is out of range, it must be > 0"),
        ({"optim": {"learning_anneal": 1.5}}, "it must be > 0 and <= 1"),
        ({"augmentation": {"speeds": [1.0, 9.0]}}, "augmentation.speeds: 9.0 is out of range"),
        ({"augmentation": {"speeds": ["fast"]}}, "augmentation.speeds: 'fast' is not a number"),
        ({"augmentation": {"codecs": ["ulaw", "amr"]}}, "augmentation.codecs: 'amr' is not one of ulaw, alaw, gsm"),
        ({"augmentation": {"codecs": [], "codec_prob": 0.5}}, "augmentation.codec_prob without codecs"),
        ({"augmentation": {"reverb_min_rt60": 2.0}}, "augmentation.reverb_min_rt60 is above reverb_max_rt60"),
        ({"augmentation": {"band_max_low": 3500, "band_prob": 0.5}}, "augmentation.band_max_low=3500 is not below"),
        ({"augmentation": {"tempo_min": 2.0}}, "augmentation.tempo_min is above tempo_max"),
        ({"device": "tpu"}, "device: 'tpu' is not one of auto, npu, cuda, cpu"),
        ({"model": {"layers": 3}}, r"unknown settings \['model.layers'\]"),
        ({"models": {}}, r"unknown settings \['models'\]"),
        ({"model": 3}, "model: 3 is not a section"),
        ({"apex": {"loss_scale": "big"}}, "loss_scale: 'big' is neither a positive number nor 'dynamic'"),
        ({"apex": {"loss_scale": "inf"}}, "loss_scale: 'inf' is neither"),
        ({"model": {"labels": ["A", "B"]}}, "exactly one label must be the CTC blank '_'"),
        ({"model": {"labels": ["_", "A", "A"]}}, "without repeats"),
        ({"model": {"labels": ["_", "A B"]}}, "without a space, without repeats, got .*A B"),
    ],
)
def test_a_wrong_setting_is_named_with_the_remedy(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        config.from_dict(values)


def test_a_setting_at_its_limit_is_accepted() -> None:
    assert OptimConfig(learning_anneal=1.0).learning_anneal == 1
    assert DataConfig(batch_size=1).batch_size == 1


@pytest.mark.parametrize("loss_scale", ["dynamic", "1", "0.5", "128.0"])
def test_loss_scale_is_a_number_or_dynamic(loss_scale: str) -> None:
    assert config.ApexConfig(loss_scale=loss_scale).dynamic == (loss_scale == "dynamic")


def test_configurations_are_frozen_and_hashable() -> None:
    cfg = Config()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        cfg.data.batch_size = 3  # type: ignore[misc]
    assert hash(cfg) == hash(Config())


def test_blank_is_looked_up_and_not_assumed_to_be_first() -> None:
    assert ModelConfig().blank == 0
    assert ModelConfig(labels=("A", " ", "_")).blank == 2


def test_resolve_takes_labels_from_their_file_and_bins_from_the_spectrogram(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text('["\u00c4", "_", " "]', encoding="utf-8-sig")
    cfg = Config(data=DataConfig(labels_path=str(path)), spect=SpectConfig(sample_rate=8000, window_size=0.032))
    resolved = config.resolve(cfg)
    assert resolved.model.labels == ("\u00c4", "_", " ")
    assert resolved.model.num_bins == 129  # a 256-point FFT
    assert cfg.model.num_bins == 161


@pytest.mark.parametrize("text", ["", "[1]", '{"_": 0}', '["A"]', "\udcff"])
def test_a_labels_file_that_cannot_be_used_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match=r"labels"):
        config.resolve(Config(data=DataConfig(labels_path=str(path))))


def test_a_label_that_no_transcript_can_have_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text('["_", "\\u095c"]', encoding="utf-8")
    with pytest.raises(InputError, match=r"'\\u095c' is spelt '\\u0921\\u093c' in Unicode's normal form"):
        config.read_labels(str(path))


def test_a_missing_labels_file_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere/labels\.json"):
        config.read_labels("nowhere/labels.json")


def test_an_absolute_rate_with_noam_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"--optim\.schedule=exponential"):
        config.resolve(Config(optim=OptimConfig(learning_rate=1.4e-4)))
    config.resolve(Config(optim=OptimConfig(learning_rate=1.4e-4, schedule="exponential")))


def test_two_views_that_nothing_makes_differ_are_refused() -> None:
    model = ModelConfig(consistency=0.2)
    with pytest.raises(
        InputError, match=r"model\.consistency=0\.2: .* would be the same.* --augmentation\.frequency_masks=2"
    ):
        config.resolve(Config(model=model))
    config.resolve(Config(model=model, augmentation=AugmentationConfig(time_masks=1)))
    config.resolve(Config(model=attrs.evolve(model, dropout=0.1)))


def test_a_window_shorter_than_a_sample_is_refused() -> None:
    with pytest.raises(InputError, match=r"spect\.window_size"):
        config.resolve(Config(spect=SpectConfig(window_stride=1e-6)))


def test_configuration_does_not_import_torch() -> None:
    code = "import sys, ds2f.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -float("inf")])
def test_numbers_are_finite(value):
    with pytest.raises(InputError, match="learning_rate"):
        OptimConfig(learning_rate=value)


def test_a_text_that_no_file_could_be_named_by_is_refused():
    with pytest.raises(InputError, match=r"run_dir.*not UTF-8"):
        Config(run_dir="a\udcffb")
    with pytest.raises(InputError, match=r"run_dir.*has a line break"):
        Config(run_dir="a\n--data.batch_size=1")


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"model": 3}', '{"data_path": ', "[" * 100_000, '{"x": NaN}'])
def test_a_damaged_configuration_is_refused_with_the_files_name(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        config.load(path)
    path.write_text(json.dumps(config.to_dict(Config())))
    assert config.load(path) == Config()
