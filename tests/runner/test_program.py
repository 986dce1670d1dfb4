"""Training, benchmark and scaling take one program, in which every setting of the step takes effect."""

import ast
from pathlib import Path

import attrs
import pytest
import torch

from ds2f import ctc, objective, tree
from ds2f.config import AugmentationConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainingConfig, sections
from ds2f.config.settings import OneOf
from ds2f.model import recurrent
from ds2f.runner import program
from ds2f.runner.device import autotune
from ds2f.runner.device.backend import open_backend
from ds2f.runner.distributed.collectives import ALONE, Group
from launch import slow_network
from launch.bench import ranks
from launch.bench.comparison import Ours
from launch.synthetic_batches import make_batch

ROOT = Path(__file__).parents[2]
CFG = Config(
    device="cpu",
    model=ModelConfig(hidden_size=8, hidden_layers=2, dropout=0.1),
    data=DataConfig(batch_size=2),
    optim=OptimConfig(name="adamw", schedule="constant", learning_rate=0.01, average_decay=0.5),
    augmentation=AugmentationConfig(frequency_masks=1),
    training=TrainingConfig(epochs=3),
)

# For every setting another value, and the settings without which it has no effect.
OTHER = {
    "model.rnn_type": ("gru", {}),
    "model.hidden_size": (9, {}),
    "model.hidden_layers": (3, {}),
    "model.bidirectional": (False, {}),
    "model.lookahead_context": (5, {"model.bidirectional": False}),
    "model.time_stride": (4, {}),
    "model.frequency_stride": (8, {}),
    "model.dropout": (0.3, {}),
    "model.variational_dropout": (True, {}),
    "model.label_smoothing": (0.1, {}),
    "model.intermediate_ctc": (0.3, {}),
    "model.consistency": (0.2, {}),
    "optim.name": ("lamb", {}),
    "optim.schedule": ("exponential", {"optim.learning_anneal": 0.5}),
    "optim.learning_rate": (0.02, {}),
    "optim.warmup": (7.0, {"optim.schedule": "noam"}),
    "optim.learning_anneal": (0.9, {"optim.schedule": "exponential"}),
    "optim.weight_decay": (0.5, {}),
    "optim.decay_matrices_only": (True, {"optim.weight_decay": 0.5}),
    "optim.average_decay": (0.01, {}),
    "optim.max_norm": (0.01, {"optim.name": "sgd"}),
    "optim.momentum": (0.5, {"optim.name": "sgd"}),
    "optim.nesterov": (False, {"optim.name": "sgd"}),
    "optim.beta1": (0.5, {}),
    "optim.beta2": (0.5, {}),
    "optim.eps": (1.0, {}),
    "apex.opt_level": ("O1", {"apex.dtype": "bf16"}),
    "apex.dtype": ("fp16", {"apex.dtype": "bf16"}),
    "apex.loss_scale": ("8", {}),
    "apex.initial_scale": (4.0, {}),
    "apex.min_scale": (16.0, {"apex.initial_scale": 4.0}),
    "apex.max_scale": (2.0, {}),
    "apex.growth_interval": (1, {}),
}
SAME_BITS = {"model.remat"}  # may change no number
NAMED = {"model.kernel", "model.ctc", "model.sync_batch_norm", "apex.reduce_dtype"}  # have their own tests


def changed(cfg, settings):
    for flag, value in settings.items():
        section, _, name = flag.partition(".")
        cfg = attrs.evolve(cfg, **{section: attrs.evolve(getattr(cfg, section), **{name: value})})
    return cfg


def test_every_setting_of_the_step_has_a_test_here():
    classes = sections()
    settings = {
        f"{section}.{field.name}"
        for section in ("model", "optim", "apex")
        for field in attrs.fields(classes[section])
        if not field.metadata["derived"]
    }
    assert settings == OTHER.keys() | SAME_BITS | NAMED


def outcome(cfg):
    """State and gradient norms after three steps; every epoch has one step."""
    backend = open_backend("cpu")
    ours = program.build(cfg, backend)
    state, norms = backend.place_state(ours.init()), []
    for key in range(3):
        state, metrics = ours.step(state, [make_batch(cfg, [90, 70], key=key)], key=key)
        norms.append(float(metrics.grad_norm))
    return tree.flatten_with_paths(state), norms


def differs(one, other):
    (leaves, norms), (others, other_norms) = one, other
    return (
        norms != other_norms
        or leaves.keys() != others.keys()
        or any(leaf.shape != others[path].shape or not torch.equal(leaf, others[path]) for path, leaf in leaves.items())
    )


@pytest.mark.parametrize("flag", OTHER)
def test_every_setting_takes_effect_in_the_program(flag):
    value, needed = OTHER[flag]
    base = changed(CFG, needed)
    assert differs(outcome(base), outcome(changed(base, {flag: value})))


# Settings under which the settings that need others have no effect.
IDLE = {
    "model.bidirectional": {"model.bidirectional": True},
    "model.dropout": {"model.dropout": 0.0},
    "optim.schedule": {"optim.schedule": "constant"},
    "optim.decays": {"optim.weight_decay": 0.0},
    "apex.opt_level": {"apex.opt_level": "O0"},
    "apex.loss_scale": {"apex.loss_scale": "8"},
}
NEEDING = [
    (f"{section}.{field.name}", need)
    for section in ("model", "optim", "apex")
    for field in attrs.fields(sections()[section])
    for need in field.metadata["needs"]
]


@pytest.mark.parametrize(("flag", "need"), NEEDING)
def test_a_setting_has_no_effect_without_what_it_declares_to_need(flag, need):
    if need.setting == "optim.momentum":
        idle = {"optim.name": "sgd", "optim.momentum": 0.0}
    elif need.setting == "optim.name":
        idle = {"optim.name": "sgd" if "adamw" in need.values else "adamw"}
    else:
        idle = IDLE[need.setting]
    base = changed(CFG, {"optim.schedule": "constant"} | idle)
    assert not differs(outcome(base), outcome(changed(base, {flag: OTHER[flag][0]})))


def test_remat_changes_no_bit():
    assert not differs(outcome(CFG), outcome(changed(CFG, {"model.remat": True})))


@pytest.fixture
def built(monkeypatch):
    """The configurations that programs were built from, and the programs."""
    found, build = [], program.build

    def recording(cfg, *arguments, **settings):
        made = build(cfg, *arguments, **settings)
        found.append((cfg, made))
        return made

    monkeypatch.setattr(program, "build", recording)
    return found


class OneOfTwo(Group):
    """A rank whose peer contributes nothing."""

    size = 2


@pytest.mark.parametrize(
    "user",
    [
        lambda cfg: Ours(cfg, open_backend("cpu")).step(make_batch(cfg, [60, 50])),
        lambda cfg: slow_network.make_step(cfg, open_backend("cpu"), OneOfTwo())(True, 0.0),
        lambda cfg: ranks._stepper(cfg, open_backend("cpu"), ALONE)(
            [make_batch(cfg, [60, 50])], ranks.TimedCollectives(ALONE)
        ),
    ],
    ids=["bench", "scaling", "ranks"],
)
def test_benchmark_and_scaling_take_the_programs_step_with_every_setting(user, built, monkeypatch):
    every = {flag: value for flag, (value, _) in OTHER.items() if not flag.startswith(("apex.min", "apex.max"))}
    every |= {
        "model.ctc": "scan",
        "model.sync_batch_norm": True,
        "model.remat": True,
        "model.kernel": "scan",
        "apex.reduce_dtype": "bf16",
    }
    cfg, taken, step = changed(CFG, every), [], program.Program.step
    monkeypatch.setattr(
        program.Program, "step", lambda self, *args, **how: taken.append(self) or step(self, *args, **how)
    )
    user(cfg)
    assert [given for given, _ in built] == [cfg]
    assert taken == [made for _, made in built]


@pytest.mark.parametrize("path", ["ds2f/runner", "launch"])
def test_no_other_module_assembles_a_step(path):
    assembling = {"train_step", "objective", "staged_value_and_grad"}
    for file in (ROOT / path).rglob("*.py"):
        called = {
            node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
        }
        assert not called & assembling or file.name == "program.py", file


@pytest.mark.parametrize("name", ctc.IMPLEMENTATIONS)
def test_the_criterion_is_the_configurations_unless_one_is_passed(name, monkeypatch):
    called = []

    def implementation(logits, labels, label_lengths, *, blank):
        called.append(name)
        return ctc.native(logits, labels, label_lengths, blank=blank)

    monkeypatch.setitem(ctc.IMPLEMENTATIONS, name, implementation)
    cfg = changed(CFG, {"model.ctc": name})
    outcome(cfg)
    assert called == [name] * 3
    params, stats = program.build(cfg, open_backend("cpu")).init()[1:3]
    objective.objective(cfg.model, criterion=ctc.native)(params, stats, make_batch(cfg, [60, 50]), key=1)
    assert called == [name] * 3


def test_the_kernel_is_the_one_named_and_auto_is_resolved(monkeypatch):
    used, scan = [], recurrent.KERNELS["scan"]
    monkeypatch.setitem(recurrent.KERNELS, "scan", lambda rnn_type: used.append(rnn_type) or scan(rnn_type))
    outcome(changed(CFG, {"model.kernel": "scan"}))
    assert used
    monkeypatch.setattr(autotune, "choose", lambda cfg, **_: "scan")
    used.clear()
    assert program.build(CFG, open_backend("cpu")).cfg.model.kernel == "scan"
    outcome(CFG)
    assert used


@pytest.mark.parametrize(
    ("steps_per_epoch", "max_steps", "steps"), [(None, 0, 0), (None, 5, 0), (2, 0, 6), (2, 5, 5), (2, 9, 6)]
)
def test_the_kernel_is_chosen_for_the_length_of_the_run(monkeypatch, steps_per_epoch, max_steps, steps):
    found = []
    monkeypatch.setattr(autotune, "choose", lambda cfg, *, steps, **_: found.append(steps) or "fused")
    cfg = changed(CFG, {"training.max_steps": max_steps})
    program.build(cfg, open_backend("cpu"), steps_per_epoch=steps_per_epoch)
    assert found == [steps], "0: unknown"


def test_synchronised_batch_norm_sums_over_the_group():
    class Counting(Group):
        sums = 0

        def all_reduce(self, values):
            self.sums += 1
            return values

    group, backend = Counting(), open_backend("cpu")
    ours = program.build(changed(CFG, {"model.sync_batch_norm": True}), backend, group)
    ours.step(backend.place_state(ours.init()), [make_batch(CFG, [60, 50])], key=0)
    assert group.sums > 0


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_gradients_travel_in_the_type_that_is_asked_for(name, dtype):
    class Recording(OneOfTwo):
        def __init__(self):
            self.seen = []

        def all_reduce_async(self, buffer):
            self.seen.append(buffer.dtype)
            return super().all_reduce_async(buffer)

    group, backend = Recording(), open_backend("cpu")
    ours = program.build(changed(CFG, {"apex.reduce_dtype": name}), backend, group)
    ours.step(backend.place_state(ours.init()), [make_batch(CFG, [60, 50])], key=0)
    assert group.seen.count(dtype) >= 5, "a buffer for every stage with parameters"


def test_choices_that_are_listed_have_been_tried():
    classes = sections()
    for flag, (value, _) in OTHER.items():
        section, _, name = flag.partition(".")
        check = getattr(attrs.fields(classes[section]), name).metadata["check"]
        if isinstance(check, OneOf):
            assert value in check.choices
