"""The elementwise part of an LSTM's frame: the C extension, for each kind of processor, and the torch path."""

import importlib.metadata
import json
import shutil
import types
from pathlib import Path

import pytest
import torch

from ds2f.errors import InputError
from ds2f.model import lstm_cell

ROOT = Path(__file__).parents[2]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BUILD = "the extension is not built: pip install -e . (or python setup.py build_ext --inplace)"


@pytest.fixture(params=range(len(lstm_cell.KINDS)), ids=lstm_cell.KINDS)
def native(request, monkeypatch):
    """The C path as on a processor of this kind."""
    built = lstm_cell.native()
    if built is None:
        pytest.skip(BUILD)
    if request.param > built.capability:
        pytest.skip(f"no {lstm_cell.KINDS[request.param]} here")
    monkeypatch.setattr(lstm_cell, "native", lambda: built._replace(capability=request.param))


def frame(dtype, batch, units, *, frames=3):
    """Everything that the two passes take, drawn, and frames around the one that is computed."""
    generator = torch.Generator().manual_seed(units)

    def draw(*shape, dtype=dtype):
        return torch.randn(shape, generator=generator).mul(2).to(dtype)

    wide = torch.promote_types(dtype, torch.float32)
    return types.SimpleNamespace(
        gates=draw(frames, batch, 4 * units).sigmoid(),
        c=draw(batch, units, dtype=wide),
        cells=draw(frames, batch, units, dtype=wide),
        y=draw(frames, batch, units),
        dy=draw(frames, batch, units),
        dc=draw(batch, units, dtype=wide),
        inputs=draw(batch, 4 * units),
        dh=draw(batch, units),
    )


def forward(it, time):
    lstm_cell.forward(it.gates, it.c, it.cells, it.y)(it.inputs, time)
    return [it.gates, it.cells, it.y]


def backward(it, time):
    lstm_cell.backward(it.gates, it.c, it.cells, it.dy, it.dc)(it.dh, time)
    return [it.gates, it.dc]


@pytest.mark.parametrize("time", [0, 1])
@pytest.mark.parametrize(("batch", "units"), [(0, 4), (1, 1), (5, 3), (2, 7), (3, 127), (2, 129), (2, 300)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_paths_compute_the_same_and_write_to_one_frame_only(native, monkeypatch, dtype, batch, units, time):
    found = [frame(dtype, batch, units) for _ in range(2)]
    forward(found[0], time)
    backward(found[1], time)
    monkeypatch.setattr(lstm_cell, "native", lambda: None)
    expected = [frame(dtype, batch, units) for _ in range(2)]
    forward(expected[0], time)
    backward(expected[1], time)
    given, others = frame(dtype, batch, units), [each for each in range(3) if each != time]
    for mine, theirs in zip(found, expected, strict=True):
        for name, drawn in vars(given).items():
            value, rounding = getattr(mine, name), torch.finfo(drawn.dtype).eps
            torch.testing.assert_close(value, getattr(theirs, name), rtol=max(rounding, 4e-6), atol=4e-6)
            if drawn.ndim == 3:
                assert torch.equal(value[others], drawn[others])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_torch_path_follows_the_definition_and_its_derivative(monkeypatch, dtype):
    monkeypatch.setattr(lstm_cell, "native", lambda: None)
    it = frame(dtype, 3, 5)
    inputs, c = it.inputs.double().clone().requires_grad_(), it.cells[0].double().clone().requires_grad_()
    i, f, g, o = inputs.chunk(4, dim=1)
    new_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    new_h = o.sigmoid() * new_c.tanh()
    dh, dc = it.dh.double() + it.dy[1].double(), it.dc.double()
    dinputs, dold = torch.autograd.grad([new_h, new_c], [inputs, c], [dh, dc])
    _, cells, y = forward(it, time=1)
    gates, dc = backward(it, time=1)
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    for mine, truth in ((cells[1], new_c), (y[1], new_h), (gates[1], dinputs), (dc, dold)):
        torch.testing.assert_close(mine.double(), truth.detach(), rtol=tolerance, atol=tolerance)


def all_kinds_of_floats():
    """Numbers from the whole range of float32: both signs, subnormal numbers, infinities, NaN, and many below 100."""
    patterns = torch.arange(-(2**31), 2**31, 65521, dtype=torch.int64).to(torch.int32).view(torch.float32)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, -1e-45, 88.3, -88.7, 3.4e38])
    return torch.cat([patterns, torch.linspace(-100, 100, 50_001), torch.linspace(-1, 1, 50_001), special])


def test_the_functions_are_accurate_over_the_whole_range(native):
    x = all_kinds_of_floats()
    gates, cells = torch.empty(1, 1, 4 * len(x)), torch.empty(1, 1, len(x))
    y, zero = torch.empty_like(cells), torch.zeros(1, len(x))
    lstm_cell.forward(gates, zero, cells, y)(x.repeat(1, 4), 0)
    i, f, g, o = gates[0, 0].chunk(4)
    assert torch.equal(i.nan_to_num(9), f.nan_to_num(9))
    assert torch.equal(i.nan_to_num(9), o.nan_to_num(9))
    smallest = torch.finfo(torch.float32).tiny  # below it, a result may be zero
    for mine, truth in ((i, x.double().sigmoid()), (g, x.double().tanh())):
        assert torch.equal(mine.isnan(), x.isnan())
        error, normal = (mine.double() - truth).abs(), truth.abs() >= smallest
        assert float((error / truth.abs())[normal].max()) < 2e-7
        assert float(mine[truth.abs() < smallest].abs().max()) <= smallest
    subnormal = g[(x != 0) & (x.abs() < smallest)]
    assert torch.equal(subnormal, x[(x != 0) & (x.abs() < smallest)])
    assert list(i[[-8, -7]]) == [1, 0]  # of the infinities
    assert list(g[[-8, -7]]) == [1, -1]


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half_precision_is_read_and_rounded_as_torch_does_it(native, dtype):
    # With i = 1 and g = 0, the gradient of g's input is that of the cell; with f, the gradient of the old cell is f.
    x = all_kinds_of_floats()
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    units = max(len(x), len(every))
    dc = torch.zeros(1, units)
    dc[0, : len(x)] = x
    gates = torch.zeros(1, 1, 4 * units, dtype=dtype)
    gates[..., :units] = 1
    cells, zeros = torch.zeros(1, 1, units), torch.zeros(1, 1, units, dtype=dtype)
    lstm_cell.backward(gates, cells[0], cells, zeros, dc)(zeros[0], 0)
    stored, expected = gates[0, 0, 2 * units : 2 * units + len(x)], x.to(dtype)
    assert torch.equal(stored.isnan(), expected.isnan())
    assert torch.equal(stored.nan_to_num(), expected.nan_to_num())

    gates = torch.zeros(1, 1, 4 * units, dtype=dtype)
    gates[0, 0, units : units + len(every)] = every
    dc = torch.ones(1, units)
    lstm_cell.backward(gates, cells[0], cells, zeros, dc)(zeros[0], 0)
    read, expected = dc[0, : len(every)], every.float()
    assert torch.equal(read.isnan(), expected.isnan())
    assert torch.equal(read.nan_to_num(), expected.nan_to_num())


def test_nan_in_one_unit_reaches_no_other(native):
    it = frame(torch.float32, 2, 5)
    it.inputs[1, 3], it.dh[0, 2] = float("nan"), float("nan")
    _, cells, y = forward(it, time=1)
    assert cells[1].isnan().nonzero().tolist() == y[1].isnan().nonzero().tolist() == [[1, 3]]
    gradients, dc = backward(it, time=1)
    assert dc.isnan().nonzero().tolist() == [[0, 2], [1, 3]]
    assert {(row, column % 5) for row, column in gradients[1].isnan().nonzero().tolist()} == {(0, 2), (1, 3)}


def test_float64_and_tensors_of_a_trace_take_the_torch_path(monkeypatch):
    def refuse():
        raise AssertionError("the C path was asked for")

    monkeypatch.setattr(lstm_cell, "native", refuse)
    forward(frame(torch.float64, 2, 3), time=1)
    backward(frame(torch.float64, 2, 3), time=1)

    class Traced(torch.Tensor):
        """A subclass; its numbers may be anywhere."""

    it = frame(torch.float32, 2, 3)
    it.gates = it.gates.as_subclass(Traced)
    forward(it, time=1)
    backward(it, time=1)


def test_an_extension_of_another_version_is_refused_with_the_remedy(monkeypatch, tmp_path):
    def found(path):
        lstm_cell.native.cache_clear()
        monkeypatch.setattr(
            lstm_cell.importlib.util, "find_spec", lambda _: path and types.SimpleNamespace(origin=path)
        )
        return lstm_cell.native()

    broken = tmp_path / "_lstm_cell.abi3.so"
    broken.write_bytes(b"no library")
    try:
        assert found(None) is None
        with pytest.raises(InputError, match=r"cannot be loaded: .*build it again"):
            found(str(broken))
        monkeypatch.undo()
        if lstm_cell.importlib.util.find_spec(lstm_cell._EXTENSION) is None:
            pytest.skip(BUILD)
        lstm_cell.native.cache_clear()
        monkeypatch.setattr(lstm_cell, "_INTERFACE", lstm_cell._INTERFACE + 1)
        with pytest.raises(InputError, match=r"belongs to another version of ds2f; build it again \(pip install \.\)"):
            lstm_cell.native()
    finally:
        lstm_cell.native.cache_clear()


def test_an_installation_of_this_folder_with_a_compiler_has_the_extension():
    folders = [
        json.loads(text)["url"].removeprefix("file://")
        for each in importlib.metadata.distributions(name="ds2f")
        if (text := each.read_text("direct_url.json"))
    ]
    if str(ROOT) not in folders or not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("this folder is not installed, or there is no compiler")
    assert lstm_cell.native() is not None
