"""Metadata of exported models: complete, without a path of the machine that wrote it, and checked when read."""

import json
from typing import Any

import attrs
import pytest
import torch

from ds2f import config
from ds2f.checkpoint import exported
from ds2f.checkpoint.exported import About, from_metadata, portable, to_metadata, weights_digest
from ds2f.config import (
    AugmentationConfig,
    CheckpointingConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    SpectConfig,
)
from ds2f.config.settings import OneOf
from ds2f.errors import InputError

PLAIN = {"apex.loss_scale"}  # settings of free text that cannot name a place
CFG = Config(
    model=ModelConfig(labels=("_", "Ä", "ß", " ", "가"), hidden_size=8, num_bins=3),
    spect=SpectConfig(window_size=0.004, sample_rate=1000, normalize="global", mean=(0.5, 1.5, 2.5), deviation=0.25),
    optim=OptimConfig(learning_rate=0.1),
)
ABOUT = About(CFG, "0123456789abcdef" * 2, "an4_small", "best:5", {"name": "an4_small", "val": {"wer": 12.5}})


def changed(**values: str) -> dict[str, str]:
    return to_metadata(ABOUT) | {f"ds2f.{name}": value for name, value in values.items()}


def with_config(change: dict[str, Any]) -> dict[str, str]:
    values = config.to_dict(CFG)
    for name, value in change.items():
        section, _, setting = name.rpartition(".")
        (values[section] if section else values)[setting] = value
    return changed(config=json.dumps(values))


def free_texts(cls: type, prefix: str = "") -> list[str]:
    """The settings of free text, by flag."""
    found = []
    for field in attrs.fields(cls):
        if field.type is not None and attrs.has(field.type):
            found += free_texts(field.type, f"{prefix}{field.name}.")
        elif isinstance(field.default, str) and not isinstance(field.metadata["check"], OneOf):
            found.append(prefix + field.name)
    return found


def test_the_digest_is_that_of_older_calibration_files() -> None:
    params = {"weight": torch.arange(6.0).reshape(2, 3), "b": [torch.ones(1)]}
    assert weights_digest(params, {"mean": torch.zeros(3)}) == "77da43717e5d1d8cc07ddd874461c4dc"
    assert weights_digest(params, {"mean": torch.ones(3)}) != "77da43717e5d1d8cc07ddd874461c4dc"


def test_what_was_written_is_read() -> None:
    metadata = to_metadata(ABOUT)
    assert set(metadata) == {f"ds2f.{name}" for name in ("format", "config", "weights", "run", "which", "results")}
    assert from_metadata(metadata | {"other": "program"}, "a.onnx") == ABOUT


def test_no_setting_names_a_place_of_the_machine() -> None:
    values = config.to_dict(Config())
    names = set(free_texts(Config)) - PLAIN
    assert {"data_path", "checkpointing.folder", "augmentation.noise_dir"} <= names
    for name in names - {"nnodes"}:
        section, _, setting = name.rpartition(".")
        (values[section] if section else values)[setting] = f"/ann/{name}/last"
    cfg = attrs.evolve(config.from_dict(values), nnodes="2")

    metadata = to_metadata(ABOUT._replace(cfg=cfg))

    assert "/ann" not in str(metadata)
    read = from_metadata(metadata, "a").cfg
    assert (read.augmentation.noise_dir, read.data.dataset) == ("last", "last")
    assert read == portable(cfg) == portable(portable(cfg))


@pytest.mark.parametrize("path", ["/home/ann/music", "C:\\Users\\ann\\music", "s3://ann/music", "~ann/music", "music/"])
def test_of_a_folder_of_noises_the_name_is_kept(path: str) -> None:
    assert portable(Config(augmentation=AugmentationConfig(noise_dir=path))).augmentation.noise_dir == "music"


def test_no_result_names_a_place_of_the_machine() -> None:
    results = {
        "manifests": {"val": "runs/ann/val.csv", "test": "/home/ann/test.csv"},
        "val": {"wer": 1.5, "list": ["/home/ann/worst.wav", "C:\\ann\\b.wav", 2]},
        "device": "CPU (AVX2), 1 threads",
    }
    assert from_metadata(to_metadata(ABOUT._replace(results=results)), "a").results == {
        "manifests": {"val": "val.csv", "test": "test.csv"},
        "val": {"wer": 1.5, "list": ["worst.wav", "b.wav", 2]},
        "device": "CPU (AVX2), 1 threads",
    }


def test_a_file_sets_no_path_and_no_limit_of_the_machine_that_reads_it() -> None:
    cfg = from_metadata(
        with_config(
            {
                "checkpointing.folder": "gs://elsewhere/a",
                "checkpointing.continue_from": "/etc",
                "data.labels_path": "/etc/passwd",
                "data.max_recording_seconds": 1e300,
                "data.max_text_bytes": 1 << 50,
            }
        ),
        "a",
    ).cfg
    assert cfg.checkpointing == CheckpointingConfig()
    assert cfg.data == DataConfig()


def test_a_lower_limit_stays() -> None:
    assert from_metadata(with_config({"data.max_recording_seconds": 10.0}), "a").cfg.data.max_recording_seconds == 10


def test_a_file_of_another_program_is_refused() -> None:
    with pytest.raises(InputError, match=r"^a\.onnx: not a model that ds2f exported .*python -m launch\.export"):
        from_metadata({"author": "somebody"}, "a.onnx")


def test_a_file_of_another_version_is_refused() -> None:
    with pytest.raises(InputError, match=r"^a\.onnx: written by a newer version .*format 2.*Update ds2f"):
        from_metadata(changed(format="2"), "a.onnx")
    with pytest.raises(InputError, match=r"^a\.onnx: written by an older version .*format 0.*\. Export the model"):
        from_metadata(changed(format="0"), "a.onnx")
    with pytest.raises(InputError, match=r"^a\.onnx is damaged: unknown settings \['model\.depth'\].*newer version"):
        from_metadata(with_config({"model.depth": 3}), "a.onnx")


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (changed(format="one"), "format is no number"),
        (changed(format="9" * 5000), "format is no number"),
        (changed(config="{"), "cannot be read"),
        (changed(config="[]"), "cannot be read"),
        (changed(config="[" * 100_000), "cannot be read"),
        (changed(config=to_metadata(ABOUT)["ds2f.config"][:-40]), "cannot be read"),
        (changed(config=" " * (exported.LIMIT + 1)), "4,194,305 characters; the limit is 4,194,304"),
        (changed(results="{" + '"a":{' * 50_000), "cannot be read"),
        (changed(results='{"wer": NaN}'), "NaN is no number"),
        (changed(results='{"wer": -Infinity}'), "-Infinity is no number"),
        (changed(results='{"wer": 1e999}'), "1e999 is no number"),
        (changed(results='{"words": ' + "9" * 4000 + "}"), "beyond all limits"),
        (changed(results="[1]"), "results is no object"),
        (changed(weights="0123"), "weights is no digest"),
        (changed(weights="../" * 10 + "aa"), "weights is no digest"),
        (changed(which="best; rm"), "which is no checkpoint"),
        (changed(run="r" * 256), "run is longer"),
        (with_config({"model.hidden_size": 1 << 40}), "hidden_size: 1099511627776 is out of range"),
        (with_config({"model.hidden_size": 8.0}), "not of type int"),
        (with_config({"model.labels": ["_", "A", 3]}), "cannot be read"),
        (with_config({"model.labels": ["_", "A", "A"]}), "without repeats"),
        (with_config({"model.labels": ["_", "\x1b"]}), "labels with control characters"),
        (with_config({"model.num_bins": 4}), "4 frequency bins, the spectrogram 3"),
        (with_config({"spect.mean": [1.0, 2.0]}), "no mean of 3 bins"),
        (with_config({"spect.mean": ["a", "b", "c"]}), "no mean of 3 bins"),
        (with_config({"model": {"labels": "_A"}}), "labels: '_A' is not of type tuple"),
        (with_config({"model": 3}), "model: 3 is not a section of settings"),
    ],
)
def test_damage_is_refused(metadata: dict[str, str], problem: str) -> None:
    with pytest.raises(InputError) as refused:
        from_metadata(metadata, "a.safetensors")
    message = str(refused.value)
    assert message.startswith("a.safetensors is damaged: ")
    assert problem in message
    assert message.endswith(
        ". Copy the file again, export the model again with python -m launch.export, or update ds2f."
    )
    assert len(message) < 1000


@pytest.mark.parametrize("name", ["config", "weights", "run", "which", "results"])
def test_a_missing_value_is_named(name: str) -> None:
    metadata = to_metadata(ABOUT)
    del metadata[f"ds2f.{name}"]
    with pytest.raises(InputError, match=rf"^a is damaged: ds2f\.{name} is missing"):
        from_metadata(metadata, "a")


def test_a_message_has_no_escape_codes() -> None:
    with pytest.raises(InputError) as refused:
        from_metadata(with_config({"model.\x1b[31mdepth": 3}), "a")
    assert "\x1b" not in str(refused.value)
