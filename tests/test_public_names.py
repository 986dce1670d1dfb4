"""Tests of the names that programs outside import: ``import ds2f``, and the functions whose signatures stay."""

import importlib
import inspect
import subprocess
import sys

import attrs
import pytest

import ds2f

PROBE = """
import sys, time
start = time.process_time()
import ds2f
print(time.process_time() - start, "torch" in sys.modules, ds2f.__version__)
ds2f.Config, ds2f.config.ModelConfig, dir(ds2f)
print("torch" in sys.modules)
"""

# Module -> its fixed names; for a function: positional arguments, "*", keyword arguments.
FIXED = {
    "config": {"Config": None, "ModelConfig": None},
    "model.deepspeech2": {
        "init": "cfg * key",
        "apply": "params stats features lengths * cfg train key policy kernel reduce_moments",
        "stages": "cfg stats lengths * train key policy kernel reduce_moments",
    },
    "ctc": {
        "native": "logits labels label_lengths * blank",
        "warpctc": "logits labels label_lengths * blank",
        "scan": "logits labels label_lengths * blank",
        "ctc_loss": "logits labels label_lengths * blank impl",
    },
    "grad": {"value_and_grad": "fn * has_aux engine", "staged_value_and_grad": "stages * on_grads engine"},
    "optim": {
        "GradientTransformation": "init update step",
        "chain": None,
        "apply_updates": "params updates",
        "sgd": None,
        "adamw": None,
        "lamb": None,
        "novograd": None,
        "muon": None,
        "from_config": None,
    },
    "precision": {"Policy": None, "FULL": None, "LossScale": None, "adjust": "scale finite * cfg"},
    "steps": {
        "init_state": "cfg tx * key",
        "train_step": "state batch * loss tx collectives cfg key donate",
        "eval_step": "params stats batch * cfg",
        "objective": "cfg",
    },
    "types": {
        "Batch": "features lengths labels label_lengths ids weight",
        "Logits": "values lengths",
        "TrainState": "step params stats opt_state loss_scale average",
        "Stage": "name fn",
        "Collectives": None,
        "SINGLE": None,
    },
    "convert": {"from_reference": "state_dict", "to_reference": "cfg params stats"},
    "checkpoint": {"load_model": "run_dir * which", "load_config": "run_dir"},
    "decode": {"greedy": "logits labels", "beam": "logits labels * cfg lm"},
    "metrics": {"count_errors": "reference hypothesis"},
    "features": {"log_spectrogram": "samples cfg"},
}
MODEL_SETTINGS = {
    *("labels", "rnn_type", "hidden_size", "hidden_layers", "bidirectional", "lookahead_context", "num_bins"),
}


def test_the_library_is_imported_in_milliseconds_and_without_torch():
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    (seconds, torch_at_import, version), (torch_after_config,) = map(str.split, result.stdout.splitlines())
    assert float(seconds) < 0.3, "seconds of processor time"
    assert (torch_at_import, torch_after_config, version) == ("False", "False", ds2f.__version__)


@pytest.mark.parametrize("name", ds2f.__all__)
def test_every_public_name_is_there(name):
    assert getattr(ds2f, name) is not None
    assert name in dir(ds2f)


def test_an_unknown_name_is_refused_as_by_any_module():
    with pytest.raises(AttributeError, match="module 'ds2f' has no attribute 'train_stop'"):
        ds2f.train_stop  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'train_stop'"):
        from ds2f import train_stop  # noqa: F401


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in FIXED.items() for name in names])
def test_a_fixed_name_is_imported_and_takes_the_arguments_that_programs_pass(module, name):
    found = getattr(importlib.import_module(f"ds2f.{module}"), name)
    arguments = FIXED[module][name]
    if arguments is None:
        return
    positional, _, keywords = arguments.partition("*")
    parameters = inspect.signature(found).parameters
    assert list(parameters)[: len(positional.split())] == positional.split()
    assert set(keywords.split()) <= set(parameters)
    required = {name for name, each in parameters.items() if each.default is each.empty and name != "self"}
    assert required <= set(arguments.split()), "a new argument has a default"


def test_the_defaults_that_programs_rely_on():
    defaults = {
        ("checkpoint", "load_model", "which"): "best",
        ("ctc", "ctc_loss", "impl"): "native",
        ("ctc", "native", "blank"): 0,
        ("grad", "value_and_grad", "engine"): "func",
        ("grad", "staged_value_and_grad", "engine"): "func",
        ("model.deepspeech2", "apply", "policy"): ds2f.precision.FULL,
        ("steps", "train_step", "collectives"): ds2f.types.SINGLE,
    }
    for (module, name, argument), default in defaults.items():
        found = getattr(importlib.import_module(f"ds2f.{module}"), name)
        assert inspect.signature(found).parameters[argument].default == default, (module, name, argument)


def test_model_settings_keep_their_names():
    assert {field.name for field in attrs.fields(ds2f.ModelConfig)} >= MODEL_SETTINGS
