"""Swapping an optimizer, a CTC or a recurrent kernel is passing another function: nothing else changes."""

import itertools

import pytest
import torch
from test_ctc import warpctc_binding  # noqa: F401 - its fixture puts a stand-in for the binding in place

from ds2f import ctc, optim, steps
from ds2f.config import ApexConfig, Config, ModelConfig
from ds2f.model import recurrent
from ds2f.types import Batch

CFG = Config(
    model=ModelConfig(hidden_size=5, hidden_layers=2, num_bins=9, labels=tuple("_AB")), apex=ApexConfig(loss_scale="1")
)
OPTIMIZERS = {
    "sgd": optim.sgd(0.003),
    "adamw": optim.adamw(0.02),
    "lamb": optim.lamb(0.02),
    "muon": optim.muon(0.02),
    "novograd": optim.novograd(0.02),
}
CRITERIA = {"native": ctc.native, "warpctc": ctc.warpctc, "scan": ctc.scan}
KERNELS = {name: make("lstm") for name, make in recurrent.KERNELS.items()}


def train(tx, criterion, kernel):
    """Trains the same tiny model on the same batch; returns the loss of each step."""
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        features=torch.randn(3, 9, 12, generator=generator),
        lengths=torch.tensor([12, 11, 8]),
        labels=torch.tensor([[1, 2, 1], [2, 2, 0], [1, 0, 0]]),
        label_lengths=torch.tensor([3, 2, 1]),
        ids=torch.arange(3),
        weight=torch.tensor(1 / 3),
    )
    loss = steps.objective(CFG.model, criterion=criterion, kernel=kernel)
    state, losses = steps.init_state(CFG, tx, key=0), []
    for _ in range(12):
        state, metrics = steps.train_step(state, batch, loss=loss, tx=tx, cfg=CFG)
        losses.append(metrics.loss)
    return torch.stack(losses)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_with_every_ctc_and_kernel(name):
    curves = {
        pair: train(OPTIMIZERS[name], CRITERIA[pair[0]], KERNELS[pair[1]])
        for pair in itertools.product(CRITERIA, KERNELS)
    }
    reference = curves["native", "fused"]
    assert reference[-1] < 0.8 * reference[0]
    for pair, curve in curves.items():
        torch.testing.assert_close(
            curve, reference, rtol=1e-3, atol=1e-4, msg=lambda text, pair=pair: f"{pair}: {text}"
        )
