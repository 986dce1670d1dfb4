"""Flags without effect are refused, all at once, by what their settings declare; for unknown flags others are named."""

import re

import attrs
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver
from commands import ROOT

from ds2f import __version__
from ds2f.config import BeamConfig, Config, resolve, sections
from ds2f.config.settings import OneOf
from ds2f.errors import InputError
from launch import decoding, flags
from launch.other_names import _MEANT, meant

# Flags that do not give, and flags that give, what others need.
WITHOUT = {
    "augmentation.frequency_masks": ["--augmentation.frequency_masks=0"],
    "augmentation.noise_dir": ["--augmentation.noise_dir="],
    "augmentation.band_prob": [],
    "augmentation.codec_prob": [],
    "augmentation.silence": ["--augmentation.silence=0"],
    "augmentation.speeds": ["--augmentation.speeds="],
    "augmentation.varies_gain": ["--augmentation.gain_min=0"],
    "augmentation.varies_tempo": ["--augmentation.tempo_min=1"],
    "augmentation.varies_warp": ["--augmentation.warp_min=1"],
    "augmentation.draws_rooms": ["--augmentation.reverb_prob=1", "--augmentation.reverb_dir=r"],
    "augmentation.reverb_prob": [],
    "augmentation.time_masks": ["--augmentation.time_masks=0"],
    "apex.loss_scale": ["--apex.loss_scale=8"],
    "apex.opt_level": ["--apex.opt_level=O0"],
    "checkpointing.continue_from": [],
    "checkpointing.load_auto_checkpoint": ["--nocheckpointing.load_auto_checkpoint"],
    "data.num_workers": ["--data.num_workers=0"],
    "data.train_on_val": ["--data.train_on_val"],
    "lm.decoder": ["--lm.decoder=greedy"],
    "lm.hot_words": [],
    "lm.path": [],
    "lm.searches": [],
    "max_restarts": ["--nproc_per_node=2", "--max_restarts=0"],
    "model.bidirectional": ["--model.bidirectional"],
    "model.dropout": ["--model.dropout=0"],
    "optim.decays": ["--optim.weight_decay=0"],
    "optim.momentum": ["--optim.name=sgd", "--optim.momentum=0"],
    "optim.name": ["--optim.name=NAME"],
    "optim.schedule": ["--optim.schedule=SCHEDULE"],
    "rdzv_backend": ["--rdzv_backend=c10d"],
    "several_machines": [],
    "starts_ranks": [],
}
JOB = ["--nnodes=2", "--rdzv_endpoint=a:1", "--rdzv_id=x", "--rdzv_secret_file=s"]
WITH = {
    "augmentation.frequency_masks": ["--augmentation.frequency_masks=1"],
    "augmentation.noise_dir": ["--augmentation.noise_dir=n"],
    "augmentation.band_prob": ["--augmentation.band_prob=1"],
    "augmentation.codec_prob": ["--augmentation.codec_prob=1"],
    "augmentation.silence": ["--augmentation.silence=0.5"],
    "augmentation.speeds": ["--augmentation.speeds=0.9,1.1"],
    "augmentation.varies_gain": ["--augmentation.gain_min=-3"],
    "augmentation.varies_tempo": ["--augmentation.tempo_min=0.9"],
    "augmentation.varies_warp": ["--augmentation.warp_min=0.9"],
    "augmentation.draws_rooms": ["--augmentation.reverb_prob=1"],
    "augmentation.reverb_prob": ["--augmentation.reverb_prob=1"],
    "augmentation.time_masks": ["--augmentation.time_masks=1"],
    "checkpointing.continue_from": ["--checkpointing.continue_from=r"],
    "checkpointing.load_auto_checkpoint": ["--checkpointing.load_auto_checkpoint"],
    "lm.hot_words": ["--lm.hot_words=A"],
    "lm.path": ["--lm.path=x.arpa"],
    "lm.searches": ["--lm.decoder=beam"],
    "model.bidirectional": ["--nomodel.bidirectional"],
    "model.dropout": ["--model.dropout=0.1"],
    "optim.name": ["--optim.name=NAME"],
    "optim.schedule": ["--optim.schedule=SCHEDULE"],
    "rdzv_backend": ["--rdzv_backend=etcd-v2"],
    "several_machines": JOB,
    "starts_ranks": ["--nproc_per_node=2"],
}
SETTINGS = {setting.flag: setting.field for setting in flags._settings()} | {
    f"lm.{field.name}": field for field in attrs.fields(BeamConfig)
}
DECLARED = [(flag, need) for flag, field in SETTINGS.items() for need in field.metadata["needs"]]


def parse(*arguments):
    """The configuration and the decoding of a command line."""
    flags.define()
    if "lm.path" not in absl_flags.FLAGS:
        decoding.define()
    with flagsaver.flagsaver():
        flags.parse(["train", *arguments])
        return flags.config_from_flags(), decoding.settings()


def filled(arguments, need, *, met):
    """Arguments with a name and a schedule that do, or do not, give what is needed."""
    known = {"NAME": sections()["optim"], "SCHEDULE": sections()["optim"]}
    for word, field in (("NAME", "name"), ("SCHEDULE", "schedule")):
        if not any(word in argument for argument in arguments):
            continue
        choices = attrs.fields_dict(known[word])[field].metadata["check"].choices
        value = next(each for each in choices if (each in need.values) == met)
        arguments = [argument.replace(word, value) for argument in arguments]
    return arguments


def given(flag):
    """The flag with its own default, as somebody may type it."""
    default = SETTINGS[flag].default
    if isinstance(default, bool):
        return f"--{flag}={str(default).lower()}"
    check = SETTINGS[flag].metadata["check"]
    return f"--{flag}={check.choices[-1] if isinstance(check, OneOf) else default if default != '' else 'x'}"


@pytest.mark.parametrize(("flag", "need"), DECLARED)
def test_a_flag_without_what_it_needs_is_refused_and_with_it_taken(flag, need, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x", "x.arpa"):  # a language model has to be there
        (tmp_path / name).touch()
    own = f"--{flag}="
    before = [each for each in filled(WITHOUT[need.setting], need, met=False) if not each.startswith(own)]
    with pytest.raises(InputError, match=re.escape(f"--{flag} needs ") + ".*" + re.escape(str(need))):
        parse(*before, given(flag))
    after = [
        each
        for one in SETTINGS[flag].metadata["needs"]
        for each in filled(WITH.get(one.setting, []), one, met=True)
        if not each.startswith(own)
    ]
    parse(*dict.fromkeys(after), given(flag))


def test_every_need_names_a_setting_or_property_and_its_own_default_is_taken():
    whole = attrs.asdict(Config(), recurse=False) | {"lm": BeamConfig()}
    for _, need in DECLARED:
        section, _, name = need.setting.rpartition(".")
        value = getattr(whole[section], name) if section else getattr(Config(), name)
        assert not need.values or type(value) in map(type, need.values)
    resolve(Config())


def test_a_script_for_any_number_of_machines_or_devices_may_say_one():
    job = ("--rdzv_id=x", "--rdzv_endpoint=a:1", "--rdzv_secret_file=s", "--max_restarts=2")
    machines, _ = parse("--nnodes=1", *job)
    assert (machines.nnodes, machines.rdzv_id, machines.max_restarts) == ("1", "x", 2)
    devices, _ = parse("--nproc_per_node=1", "--max_restarts=2", "--restart_window=5")
    assert (devices.nproc_per_node, devices.max_restarts, devices.restart_window) == (1, 2, 5)
    with pytest.raises(InputError, match="--rdzv_id needs "):  # only who says one may
        parse(*job)


def test_all_flags_without_effect_are_told_at_once():
    with pytest.raises(InputError) as caught:
        parse("--training.finetune", "--optim.learning_anneal=0.5", "--model.lookahead_context=3", "--rdzv_id=x")
    for flag in ("training.finetune", "optim.learning_anneal", "model.lookahead_context", "rdzv_id"):
        assert f"--{flag} needs --" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_flagfile_of_the_project_has_flags_with_an_effect_only(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    for corpus in ("aishell1", "librispeech", "synthetic_cmn"):  # launch.prepare writes their labels
        (tmp_path / f"data/{corpus}_labels.json").write_text('["_", "a", " "]')
    monkeypatch.chdir(tmp_path)
    paths = sorted((ROOT / "configs").glob("*.flags"))
    assert len(paths) >= 5
    for path in paths:
        cfg, _ = parse(f"--flagfile={path}")
        assert cfg != Config(), path
        with pytest.raises(InputError, match="--rdzv_id needs "):
            parse(f"--flagfile={path}", "--rdzv_id=x", "--nproc_per_node=1")


def test_other_systems_names_lead_to_flags_that_are_there():
    flags.define()
    known = set(SETTINGS)
    for name, meanings in _MEANT.items():
        assert meant(name, known), f"{name} leads to {meanings}"
        flag = meanings if isinstance(meanings, str) else meanings[-1]
        stem, _, value = flag.partition("=")
        stem = stem if stem in known else stem.removeprefix("no")
        check = SETTINGS[stem].metadata["check"]
        assert not value or value in check.choices


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("--epochs=3", "--training.epochs ?"),
        ("--batch_size=3", "--data.batch_size ?"),
        ("--batch-size=3", "--data.batch_size ?"),
        ("--lr=3", "--optim.learning_rate ?"),
        ("--training.no_cuda=true", "--device=cpu ?"),
        ("--checkpointing.save_folder=x", "--run_dir ?"),
        ("--trainer.max_epochs=3", "--training.epochs ?"),
        ("--optim.nam=sgd", "optim.name ?"),
    ],
)
def test_an_unknown_flag_is_answered_with_the_one_that_is_meant(launch, tmp_path, typed, expected):
    ended = launch("train", typed, folder=tmp_path)
    assert ended.status == 1
    assert "Did you mean: " in ended.err
    assert expected in ended.err.splitlines()[0]


@pytest.mark.parametrize(
    ("module", "expected"),
    [("train", "run_dir"), ("transcribe", "output_dir"), ("build_lm", "output"), ("evaluate", "save_output")],
)
@pytest.mark.parametrize("typed", ["--out=x", "--output_path=x"])
def test_the_flag_for_the_output_is_the_one_of_the_command(launch, tmp_path, module, expected, typed):
    ended = launch(module, typed, folder=tmp_path)
    assert ended.err.splitlines()[0].endswith(f"Did you mean: --{expected} ?")


@pytest.mark.parametrize("module", ["train", "transcribe", "prepare"])
def test_help_and_version_are_there_by_their_usual_names(launch, tmp_path, module):
    for name in ("-h", "--help"):
        ended = launch(module, name, folder=tmp_path)
        assert ended.status == 0
        assert "--" in ended.out
    ended = launch(module, "--version", folder=tmp_path)
    assert (ended.status, ended.out) == (0, f"ds2f {__version__}\n")
