"""The recurrent kernels on a card, with a CPU in its place: their times are told and kept, and a wrong one is named."""

import attrs
import pytest
import torch

from ds2f import config
from ds2f.config import Config
from ds2f.model import paired
from ds2f.runner.device import autotune
from ds2f.runner.device.backend import Backend
from launch.doctor.all_checks import checks
from launch.doctor.check_session import Session
from launch.doctor.verdict import OK, WRONG

CPU = Backend("cpu", torch.device("cpu"), "CPU", torch.bfloat16)
CARD = attrs.evolve(CPU, name="cuda", description="a card")


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """The lines of the checks whose names begin so, on a device."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    session = Session(config.resolve(Config(device="cpu", run_dir=str(tmp_path / "runs"))))

    def run(name, backend=CARD):
        session._backend = backend
        return [line for check in checks() if check.name.startswith(name) for line in check.run(session)]

    return run


def test_the_times_on_a_card_are_told_and_a_training_finds_them(lines, monkeypatch):
    monkeypatch.setattr(autotune, "_measure", lambda names, *_, **__: dict(zip(names, (0.02, 0.012), strict=True)))
    found = lines("batch 1")
    assert [(line.name, line.verdict, line.needed) for line in found] == [
        ("lstm of 1024, batch 10, bf16", OK, True),
    ]
    assert found[0].found == "fused 20 ms, paired 12 ms: auto takes paired"
    monkeypatch.setattr(autotune, "_measure", lambda *_, **__: pytest.fail("timed again"))
    model = Config().model
    assert autotune.choose(model, batch_size=10, dtype=torch.bfloat16, backend=CARD, steps=1) == "paired"
    assert autotune.choose(model, batch_size=11, dtype=torch.bfloat16, backend=CARD, steps=1) == "fused"


def test_a_cpu_leaves_the_timing_to_a_training(lines):
    assert not lines("batch 1", CPU)
    assert not lines("lstm paired", CPU)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_both_directions_in_one_call_are_compared_with_the_reference(lines, monkeypatch, cell):
    found = lines(f"{cell} paired fp32")
    assert [(line.verdict, line.needed) for line in found] == [(OK, False)] * 2
    monkeypatch.setattr(paired, "_GATE", {"lstm": (0, 0.0), "gru": (1, 0.0)})  # nothing holds the state
    func, autograd = lines(f"{cell} paired fp32")
    assert func.verdict == autograd.verdict == WRONG
    assert "forward pass is off" in func.found
    assert func.remedy == "--model.kernel=fused"
