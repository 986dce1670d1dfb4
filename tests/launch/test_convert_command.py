"""Weights of deepspeech.pytorch become a run, and a run becomes such a file."""

import sys
import types

import attrs
import numpy as np
import pytest
import soundfile
import torch
from reference_model import ReferenceModel, lively_model

from ds2f.checkpoint import load_model
from ds2f.config import ModelConfig
from ds2f.model import deepspeech2

CFG = ModelConfig(labels=tuple("_'AB "), hidden_size=8, hidden_layers=2, num_bins=81)


@pytest.fixture
def convert(launch, tmp_path):
    def run(*arguments):
        ended = launch("convert", *arguments, folder=tmp_path)
        assert "Traceback" not in ended.err
        return ended

    return run


@pytest.fixture
def module():
    params, stats = lively_model(CFG)
    module = ReferenceModel(CFG).eval()
    from ds2f.convert import to_reference

    module.load_state_dict(to_reference(CFG, params, stats))
    return module


def v2(module, **more):
    """The package of deepspeech.pytorch V2."""
    audio = {"sample_rate": 8000, "window_size": 0.02, "window_stride": 0.01, "window": "hamming", "noise_dir": None}
    return {
        "version": "0.0.1",
        "audio_conf": audio,
        "labels": list(CFG.labels),
        "state_dict": module.state_dict(),
    } | more


def v3(module, monkeypatch):
    """The Lightning checkpoint of V3, whose settings are objects of its own classes and OmegaConf's."""
    for name in ("deepspeech_pytorch", "deepspeech_pytorch.configs", "omegaconf"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def of(name, package, **state):
        module = sys.modules[package]
        if not hasattr(module, name):
            setattr(module, name, type(name, (), {"__module__": package, "__qualname__": name}))
        made = getattr(module, name)()
        made.__dict__.update(state)
        return made

    node = lambda value: of("AnyNode", "omegaconf", _val=value)  # noqa: E731
    window = node("hamming")
    spect = of("DictConfig", "omegaconf", _content={"sample_rate": node(8000), "window": window})
    weights = {f"model.{name}": leaf for name, leaf in module.half().state_dict().items()}
    hyper = {"labels": list(CFG.labels), "spect_cfg": spect, "model_cfg": of("Bi", "deepspeech_pytorch.configs")}
    return {"epoch": 3, "state_dict": weights, "hyper_parameters": hyper, "callbacks": {}}


def logits_of(run_dir, features, lengths):
    cfg, params, stats = load_model(run_dir)
    return cfg, deepspeech2.apply(params, stats, features, lengths, cfg=cfg.model, train=False)[0].values


@pytest.mark.parametrize("version", ["V2", "V2 of DataParallel", "V2 before torch 1.6", "V3 in half precision"])
def test_a_converted_model_has_the_logits_of_the_module(convert, module, monkeypatch, tmp_path, version):
    features, lengths = torch.randn(3, 81, 60, generator=torch.Generator().manual_seed(1)), torch.tensor([60, 50, 31])
    features *= torch.arange(60) < lengths[:, None, None]
    content = v3(module, monkeypatch) if version.startswith("V3") else v2(module)
    if "Parallel" in version:
        content["state_dict"] = {f"module.{name}": leaf for name, leaf in content["state_dict"].items()}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization="before" not in version)
    monkeypatch.undo()

    ended = convert("a.pth", "--output=run")

    assert ended.status == 0, ended.err
    expected, _ = module.float()(features, lengths)
    cfg, found = logits_of(tmp_path / "run", features, lengths)
    for row, length in zip(range(3), (30, 25, 16), strict=True):
        torch.testing.assert_close(found[row, :length], expected[row, :length], rtol=0, atol=1e-4)
    assert cfg.spect.sample_rate == 8000
    assert cfg.model.labels == CFG.labels
    assert "2 x 8 lstm, bidirectional, 5 labels, 8000 Hz" in ended.err
    assert ("classes that are not here" in ended.err) == version.startswith("V3")


def test_the_run_serves_the_other_commands(convert, launch, module, tmp_path):
    torch.save(v2(module), tmp_path / "a.pth")
    assert convert("a.pth", "--output=run").status == 0
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 8000), 8000)
    ended = launch("transcribe", "--run_dir=run", "--device=cpu", "a.wav", folder=tmp_path)
    assert ended.status == 0, ended.err
    assert ended.out.startswith("a.wav\t")


def test_the_way_back_gives_the_same_weights(convert, module, tmp_path):
    torch.save(v2(module), tmp_path / "a.pth")
    assert convert("a.pth", "--output=run").status == 0
    assert convert("run", "--to=deepspeech.pytorch", "--output=b.pth").status == 0
    back = torch.load(tmp_path / "b.pth", weights_only=True)
    for name, leaf in module.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(back["state_dict"][name], leaf), name
    assert back["labels"] == list(CFG.labels)
    assert back["audio_conf"]["sample_rate"] == 8000


def test_a_bare_state_dict_brings_its_sampling_rate(convert, tmp_path):
    cfg = attrs.evolve(CFG, labels=ModelConfig().labels)
    torch.save(ReferenceModel(cfg).state_dict(), tmp_path / "a.pth")
    ended = convert("a.pth", "--output=run")
    assert ended.status == 0, ended.err
    assert "fit a sampling rate of 8000 Hz" in ended.err


def test_mistakes_leave_nothing_behind(convert, module, tmp_path):
    class Evil:
        def __reduce__(self):
            return eval, (f"open({str(tmp_path / 'executed')!r}, 'w')",)

    torch.save(v2(module, extra=Evil()), tmp_path / "evil.pth")
    torch.save(v2(module, labels=["_"]), tmp_path / "labels.pth")
    broken = {name: leaf * torch.nan for name, leaf in module.state_dict().items() if leaf.is_floating_point()}
    torch.save(v2(module, state_dict=broken), tmp_path / "nan.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "other.pth")
    torch.save({"state_dict": 3}, tmp_path / "number.pth")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    for arguments, said in (
        (("evil.pth", "--output=run"), "refused, nothing was executed"),
        (("labels.pth", "--output=run"), "labels"),
        (("nan.pth", "--output=run"), "NaN"),
        (("list.pth", "--output=run"), "no checkpoint"),
        (("other.pth", "--output=run"), "not a DeepSpeech2"),
        (("number.pth", "--output=run"), "convert: number.pth: its state_dict is int"),
        (("missing.pth", "--output=run"), "missing.pth"),
        (("labels.pth", "--output=taken"), "another folder"),
        (("labels.pth",), "--output"),
        ((), "give one file"),
        (("taken", "--output=run"), "--to=deepspeech.pytorch"),
        (("labels.pth", "--output=run", "--which=last"), "--which has no effect without --to"),
        (("taken", "--to=deepspeech.pytorch", "--output=a.pth", "--data.labels_path=l.json"), "no effect with --to"),
    ):
        ended = convert(*arguments)
        assert (ended.status, said in ended.err) == (1, True), ended.err
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "executed").exists()
