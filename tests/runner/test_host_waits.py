"""A step never waits for the device, and neither does the copy of its batch: shown on a device that refuses waits."""

import functools
import json
import traceback

import attrs
import pytest
import stand_in_device
import torch
from stand_in_device import OnDevice, refusing

from ds2f import ctc, optim, rng, steps, tree
from ds2f.config import ApexConfig, AugmentationConfig, Config, ModelConfig, OptimConfig, TrainingConfig
from ds2f.runner import program
from ds2f.runner.device.backend import Backend
from ds2f.runner.distributed.collectives import ALONE, Group
from ds2f.runner.progress import Meter, TrainProgress
from launch.synthetic_batches import make_batch

DEVICE = "card"
CFG = Config(
    model=ModelConfig(num_bins=33, hidden_size=8, hidden_layers=3, dropout=0.1, kernel="fused"),
    apex=ApexConfig(opt_level="O0", loss_scale="dynamic", initial_scale=64.0),
    optim=OptimConfig(name="adamw", schedule="noam", learning_rate=0.1, average_decay=0.9, max_norm=0.5),
    augmentation=AugmentationConfig(frequency_masks=1, time_masks=1),
    training=TrainingConfig(epochs=3),
)
# What differs from CFG; with "micro_batches" and "group" beside the settings.
CASES = {
    "fp32, adamw, noam": {},
    "bf16": {"apex.opt_level": "O2"},
    "fp16, sgd, bf16 all-reduce": {
        **{"apex.opt_level": "O2", "apex.dtype": "fp16", "apex.reduce_dtype": "bf16"},
        **{"optim.name": "sgd", "optim.momentum": 0.9, "group": True},
    },
    "two directions in one call": {"model.kernel": "paired"},
    "muon": {"optim.name": "muon", "optim.schedule": "constant"},
    "lamb": {"optim.name": "lamb", "optim.schedule": "exponential"},
    "novograd": {"optim.name": "novograd", "optim.schedule": "constant", "optim.weight_decay": 0.1},
    "micro-batches, sync_batch_norm": {"model.sync_batch_norm": True, "micro_batches": 2, "group": True},
    "regularised": {
        **{"model.intermediate_ctc": 0.3, "model.label_smoothing": 0.1, "model.consistency": 0.2},
        "apex.opt_level": "O2",
    },
    "remat": {"model.remat": True},
    "gru, one direction": {"model.rnn_type": "gru", "model.bidirectional": False, "model.variational_dropout": True},
    "rnn, scan": {"model.rnn_type": "rnn", "model.kernel": "scan", "model.ctc": "scan"},
}
EXCUSED = {"_ctc_loss", "_ctc_loss_backward"}  # on CUDA, both copy the lengths and wait


class OneOfTwo(Group):
    """A rank whose peer has the same numbers; sums are computed on the device."""

    size = 2

    def all_reduce_async(self, buffer):
        buffer.mul_(2)
        return super().all_reduce_async(buffer)

    def all_reduce(self, values):
        return values * 2

    def all_finite(self, flag):
        return flag.to(torch.int32, copy=True).to(torch.bool)


def configured(changes):
    cfg = CFG
    for flag, value in changes.items():
        section, _, name = flag.partition(".")
        if name:
            cfg = attrs.evolve(cfg, **{section: attrs.evolve(getattr(cfg, section), **{name: value})})
    return cfg


def backend_on(device):
    """CUDA's backend, with another device in the place of the card."""
    return Backend("cuda", device, "stand-in", torch.bfloat16, collectives="gloo", pin_memory=device.type != "cpu")


def make_card():
    """Makes the device and its streams, of this process for good."""
    libraries = stand_in_device.make(DEVICE)
    rng.generator = lambda key, device="cpu": torch.Generator().manual_seed(key)  # torch has none for the device
    return libraries, stand_in_device.make_streams()


def pinned(batch):
    return type(batch)(*map(stand_in_device.pin, batch))


def batches_of(cfg, count):
    return [make_batch(cfg, [48, 40, 26], key=index) for index in range(count)]


def run(changes, device, *, steps_taken=2):
    """Trains on a device; the state and metrics at the end, and what was excused."""
    cfg, backend = configured(changes), backend_on(device)
    cfg = attrs.evolve(cfg, training=attrs.evolve(cfg.training, engine="autograd"))
    group = OneOfTwo() if changes.get("group") else ALONE
    made = program.build(cfg, backend, group, steps_per_epoch=4)
    state, excused = backend.place_state(made.init()), set()
    for index in range(steps_taken):
        batches = batches_of(cfg, changes.get("micro_batches", 1))
        if device.type == "cpu":
            state, metrics = made.step(state, batches, key=index)
            continue
        batches = [pinned(batch) for batch in batches]
        with refusing() as found:
            state, metrics = made.step(state, batches, key=index)
        excused |= set(found)
        assert len(OnDevice.done) > 100
        small = 64 * sum(len(batch.ids) for batch in batches)
        assert max(OnDevice.unpinned, default=0) <= small, (
            "a copy of more than lengths and masks' ends from memory that is not page-locked"
        )
    return state, metrics, excused


def on_cpu(values):
    return {
        path: leaf.inner if isinstance(leaf, OnDevice) else leaf
        for path, leaf in tree.flatten_with_paths(values).items()
    }


def check_case(changes, _):
    state, metrics, excused = run(changes, torch.device(DEVICE, 0))
    expected_state, expected_metrics, _ = run(changes, torch.device("cpu"))
    assert excused == (set() if changes.get("model.ctc") == "scan" else EXCUSED)
    for found, expected in ((state, expected_state), (metrics, expected_metrics)):
        expected = on_cpu(expected)
        for path, leaf in on_cpu(found).items():
            torch.testing.assert_close(leaf, expected[path], msg=lambda text, path=path: f"{path}: {text}")


def check_evaluation(_):
    for opt_level in ("O0", "O2"):
        cfg = configured({"apex.opt_level": opt_level})
        found = []
        for device in (torch.device(DEVICE, 0), torch.device("cpu")):
            backend = backend_on(device)
            made = program.build(cfg, backend)
            state = backend.place_state(made.init())
            (batch,) = batches_of(cfg, 1)
            batch = backend.place(pinned(batch))
            with refusing() as excused:
                options = {"cfg": cfg.model, "policy": made.policy, "criterion": made.criterion}
                logits, losses = steps.eval_step(*state.model, batch, **options)
            found.append((logits.values, losses))
        assert set(excused) <= {"_ctc_loss"}
        for ours, theirs in zip(*map(on_cpu, found), strict=True):
            torch.testing.assert_close(on_cpu(found[0])[ours], on_cpu(found[1])[theirs])


def check_the_checker(_):
    """Steps that wait in the loss or the schedule: each is caught, with the line that waits in its traceback."""
    device = torch.device(DEVICE, 0)
    cfg, backend = configured({}), backend_on(device)
    made = program.build(cfg, backend)

    def waits_in_the_loss(logits, labels, lengths, *, blank):
        losses = ctc.ctc_loss(logits, labels, lengths, blank=blank)
        return losses if losses.sum().item() > 0 else losses * 2

    def with_mask(logits, labels, lengths, *, blank):
        losses = ctc.ctc_loss(logits, labels, lengths, blank=blank)
        losses[losses > 1e9] = 0
        return losses

    def with_a_constant(logits, labels, lengths, *, blank):
        return ctc.ctc_loss(logits, labels, lengths, blank=blank) * torch.tensor([1.0, 2.0, 3.0]).to(device)

    def from_the_host(logits, labels, lengths, *, blank):
        return ctc.ctc_loss(logits, labels, lengths, blank=blank) + lengths.to(device)

    def synchronises(logits, labels, lengths, *, blank):
        backend.synchronize()
        return ctc.ctc_loss(logits, labels, lengths, blank=blank)

    def to_the_host(logits, labels, lengths, *, blank):
        return ctc.ctc_loss(logits, labels, lengths, blank=blank) + logits.values.detach().cpu().sum()

    bad = (waits_in_the_loss, with_mask, with_a_constant, from_the_host, synchronises, to_the_host)
    attempts = {
        each.__name__: attrs.evolve(made, loss=steps.objective(cfg.model, criterion=each, policy=made.policy))
        for each in bad
    }
    attempts["schedule"] = attrs.evolve(made, tx=optim.from_config(cfg.optim, lambda step: 0.1 * float(step)))
    for name, attempt in attempts.items():
        state, batches = backend.place_state(made.init()), [pinned(batch) for batch in batches_of(cfg, 1)]
        with pytest.raises(stand_in_device.HostWaited) as raised, refusing():
            attempt.step(state, batches, key=0)
        named = "<lambda>" if name == "schedule" else name
        assert named in {entry.name for entry in raised.traceback}, name
    large = torch.zeros(2 * stand_in_device.SMALL_COPY, dtype=torch.uint8)
    with refusing():
        stand_in_device.pin(large).to(device, non_blocking=True)
        large[:100].to(device, non_blocking=True)
        for copy in (lambda: large.to(device, non_blocking=True), lambda: stand_in_device.pin(large).to(device)):
            with pytest.raises(stand_in_device.HostWaited):
                copy()


def check_copies(streams):
    backend = backend_on(torch.device(DEVICE, 0))
    (batch,), (compute,) = batches_of(CFG, 1), streams
    compute.waits.clear()
    with refusing():
        placed = backend.place(pinned(batch))
    copies = [stream.name for stream, name in zip(OnDevice.streams, OnDevice.done, strict=True) if name[0] == "copy_"]
    assert copies == ["copies"] * 3
    assert compute.waits == ["copies"], "the step waits for the copies on the device"
    assert [(id(x), stream.name) for x, stream in OnDevice.recorded] == [
        (id(x), "compute") for x in (placed.features, placed.labels, placed.weight)
    ]


def check_loop(_):
    """Steps in a row, counted as the training loop counts them: the host is never held, so it copies batches ahead."""
    backend = backend_on(torch.device(DEVICE, 0))
    made = program.build(CFG, backend)
    state = backend.place_state(made.init())
    meter = Meter(TrainProgress(), frame_seconds=0.01, name=str, log=print)
    with refusing():
        for index in range(3):
            batches = [pinned(batch) for batch in batches_of(CFG, 1)]
            state, metrics = made.step(state, batches, key=index)
            meter.add(*meter.count(batches, metrics))
        with pytest.raises(stand_in_device.HostWaited):
            meter.read()  # what the loop does every training.log_every steps


CHECKS = {
    "loop": check_loop,
    "evaluation": check_evaluation,
    "waits are caught": check_the_checker,
    "copies": check_copies,
    **{name: functools.partial(check_case, changes) for name, changes in CASES.items()},
}


def check_all():
    """Prints a line of JSON: the problem of every check, empty for none."""
    _libraries, streams = make_card()
    problems = {}
    for name, check in CHECKS.items():
        try:
            check(streams)
            problems[name] = ""
        except Exception:  # noqa: BLE001  # the test of this name fails with it
            problems[name] = traceback.format_exc(limit=-8)
    print(json.dumps(problems))


@pytest.fixture(scope="module")
def problems():
    """What is wrong, by check; empty where nothing is."""
    return json.loads(stand_in_device.in_its_own_process("test_host_waits", "check_all()"))


@pytest.mark.parametrize("name", CASES)
def test_a_training_step_waits_nowhere_but_in_torchs_ctc_and_equals_the_cpus(problems, name):
    assert not problems[name], problems[name]


def test_an_evaluation_step_waits_nowhere_but_in_torchs_ctc(problems):
    assert not problems["evaluation"], problems["evaluation"]


def test_the_loop_waits_only_where_it_reads_the_metrics(problems):
    assert not problems["loop"], problems["loop"]


def test_a_step_that_waits_is_caught_where_it_waits(problems):
    assert not problems["waits are caught"], problems["waits are caught"]


def test_a_batch_is_copied_beside_the_step_under_way_and_its_memory_is_kept_for_the_next_step(problems):
    assert not problems["copies"], problems["copies"]
