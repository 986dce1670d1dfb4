"""The same code on an NPU or CUDA device: compared with the CPU in float32, and training in half precision."""

import attrs
import pytest
import torch

from ds2f import optim, precision, steps, tree
from ds2f.config import ApexConfig, AugmentationConfig, Config, ModelConfig, OptimConfig, TrainingConfig
from ds2f.errors import InputError
from ds2f.model import deepspeech2
from ds2f.runner import program
from ds2f.runner.device.backend import open_backend
from ds2f.types import Batch

pytestmark = pytest.mark.hardware

CFG = Config(
    model=ModelConfig(hidden_size=64, hidden_layers=3),
    optim=OptimConfig(schedule="constant", learning_rate=1e-3),
    apex=ApexConfig(opt_level="O0", loss_scale="1"),
)


@pytest.fixture(params=["cuda", "npu"])
def backend(request):
    try:
        opened = open_backend(request.param)
    except InputError as error:
        pytest.skip(str(error))
    if opened.name == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return opened


def make_batch():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([200, 133, 90, 160])
    return Batch(
        features=torch.randn(4, 161, 200, generator=generator),
        lengths=lengths,
        labels=torch.randint(1, 29, (4, 12), generator=generator),
        label_lengths=torch.tensor([12, 7, 5, 9]),
        ids=torch.arange(4),
        weight=torch.tensor(0.25),
    )


def test_logits_are_those_of_the_cpu(backend):
    params, stats = deepspeech2.init(CFG.model, key=1)
    batch = make_batch()
    placed = backend.place(batch)
    expected, _ = deepspeech2.apply(params, stats, batch.features, batch.lengths, cfg=CFG.model, train=False)
    logits, _ = deepspeech2.apply(
        *tree.to((params, stats), backend.device), placed.features, placed.lengths, cfg=CFG.model, train=False
    )
    for row, length in enumerate(expected.lengths.tolist()):
        torch.testing.assert_close(
            logits.values[row, :length].cpu(), expected.values[row, :length], rtol=1e-3, atol=1e-3
        )


def test_a_step_has_the_gradient_norm_and_loss_of_the_cpu(backend):
    cfg = attrs.evolve(CFG, training=TrainingConfig(engine=backend.engine))
    tx, batch = optim.sgd(0.1), make_batch()
    state, loss = steps.init_state(cfg, tx, key=1), steps.objective(cfg.model)
    _, expected = steps.train_step(state, batch, loss=loss, tx=tx, cfg=cfg)
    _, metrics = steps.train_step(backend.place_state(state), backend.place(batch), loss=loss, tx=tx, cfg=cfg)
    torch.testing.assert_close(metrics.losses.cpu(), expected.losses, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(metrics.grad_norm.cpu(), expected.grad_norm, rtol=1e-2, atol=1e-3)


def test_half_precision_learns_a_batch_by_heart(backend):
    cfg = attrs.evolve(CFG, training=TrainingConfig(engine=backend.engine), apex=ApexConfig(opt_level="O2"))
    policy = precision.policy("O2", backend.dtype("auto"))
    tx = optim.from_config(cfg.optim, 1e-3, fused=backend.fused_optimizer)
    state, batch = backend.place_state(steps.init_state(cfg, tx, key=1)), backend.place(make_batch())
    loss, values = steps.objective(cfg.model, policy=policy), []
    for _ in range(60):
        backend.clear_overflow()
        state, metrics = steps.train_step(
            state, batch, loss=loss, tx=tx, cfg=cfg, donate=True, overflowed=backend.overflowed
        )
        values.append(metrics.loss)
    assert float(values[-1]) < 0.5 * float(values[0])
    assert tree.all_finite(state.params)
    assert backend.memory() > 0


def test_a_step_waits_for_the_device_nowhere_but_in_torchs_ctc(backend):
    """torch raises where an operator waits. Its CTC copies the lengths and waits: the scan takes its place."""
    if backend.name != "cuda":
        pytest.skip("torch_npu does not tell where an operator waits")
    model = attrs.evolve(CFG.model, ctc="scan", dropout=0.1)
    cfg = attrs.evolve(CFG, model=model, augmentation=AugmentationConfig(frequency_masks=1, time_masks=1))
    made = program.build(cfg, backend)
    state = backend.place_state(made.init())
    batches = [type(batch)(*(x.pin_memory() for x in batch)) for batch in [make_batch()] * 3]
    state, _ = made.step(state, batches[:1], key=0)  # libraries start at the first step
    torch.cuda.set_sync_debug_mode("error")
    try:
        for index, batch in enumerate(batches[1:]):
            state, metrics = made.step(state, [batch], key=index)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert metrics.finite
