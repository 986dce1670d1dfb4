"""One step of eight processes on shards of a batch against one step of one process on the whole batch."""

import itertools

import attrs
import pytest
import torch
from job import run

from ds2f import optim, steps, tree
from ds2f.config import ApexConfig, Config, ModelConfig, OptimConfig
from ds2f.optim import GradientTransformation
from ds2f.precision import Policy
from ds2f.types import SINGLE, Batch

MODEL = ModelConfig(hidden_size=6, hidden_layers=2, num_bins=17, labels=tuple("_AB "))
CFG = Config(model=MODEL, optim=OptimConfig(max_norm=1e9), apex=ApexConfig(loss_scale="1"))
SHARDS = {
    "even": [4, 4, 4, 4, 4, 4, 4, 4],
    "with a tail": [4, 4, 4, 4, 4, 4, 4, 1],
    "with an empty rank": [4, 4, 4, 0, 4, 4, 3, 4],
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}
CASES = list(itertools.product(SHARDS, DTYPES, ["func"])) + [("with an empty rank", "float64", "autograd")]


def keep_gradients():
    """An optimizer that leaves the parameters alone and whose state is the last gradient."""
    return GradientTransformation(tree.zeros_like, lambda grads, _, params: (tree.zeros_like(params), grads))


def utterances(first, count, of, dtype):
    """The batch of ``count`` utterances from the ``first``, padded to the longest of them, out of ``of`` in all."""
    lengths = torch.tensor([17 + 5 * row % 24 for row in range(first, first + count)], dtype=torch.int64)
    frames = int(lengths.max()) if count else 0
    features = torch.full((count, MODEL.num_bins, frames), 7.0, dtype=dtype)  # padding must not matter
    for index, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(first + index)
        features[index, :, :length] = torch.randn(MODEL.num_bins, int(length), generator=generator, dtype=torch.float64)
    rows = torch.arange(first, first + count)
    return Batch(
        features=features,
        lengths=lengths,
        labels=1 + torch.stack([rows % 3, rows // 2 % 3, rows // 3 % 3], dim=1),
        label_lengths=rows % 4,
        ids=rows,
        weight=torch.tensor(1 / of, dtype=dtype),
    )


def one_step(batch, dtype, engine, collectives=SINGLE, overlap=True):
    cfg = attrs.evolve(
        CFG,
        model=attrs.evolve(MODEL, sync_batch_norm=collectives.size > 1),
        training=attrs.evolve(CFG.training, engine=engine),
    )
    tx = keep_gradients()
    state = steps.init_state(cfg, tx, key=1)
    params, stats = tree.cast((state.params, state.stats), dtype)
    state = state._replace(params=params, stats=stats, opt_state=tx.init(params))
    loss = steps.objective(cfg.model, policy=Policy(dtype, dtype), reduce_moments=collectives.all_reduce)
    state, metrics = steps.train_step(state, batch, loss=loss, tx=tx, collectives=collectives, cfg=cfg, overlap=overlap)
    found = {"gradient": state.opt_state, "statistics": state.stats, "loss": metrics.loss, "finite": metrics.finite}
    return tree.flatten_with_paths(found)


def all_cases(group):
    results = {}
    for case in CASES:
        shards, dtype, engine = SHARDS[case[0]], DTYPES[case[1]], case[2]
        batch = utterances(sum(shards[: group.rank]), shards[group.rank], sum(shards), dtype)
        results[case] = [one_step(batch, dtype, engine, group, overlap) for overlap in (True, False)]
    return results


# One test for all cases: in several, each worker would start eight ranks of its own.
def test_eight_ranks_with_shards_of_a_batch_have_the_bits_of_each_other_and_the_step_of_one_rank_with_all_of_it(
    tmp_path,
):
    results = run(all_cases, ranks=8, folder=tmp_path)
    for result in results:
        assert isinstance(result, dict), result
    for case in CASES:
        first = results[0][case][0]
        takes_the_step_of_the_whole_batch(first, *case)
        for found in itertools.chain.from_iterable(result[case] for result in results):  # with and without overlap
            for path, leaf in first.items():
                assert torch.equal(found[path], leaf), (case, path)


def takes_the_step_of_the_whole_batch(found, shards, dtype, engine):
    whole = utterances(0, sum(SHARDS[shards]), sum(SHARDS[shards]), DTYPES[dtype])
    expected = one_step(whole, DTYPES[dtype], engine)
    tolerance = {"float32": 1e-5, "float64": 1e-10}[dtype]
    assert bool(found["finite",])
    for path, leaf in expected.items():
        # Batch norm takes the mean away, and with it a convolution's bias: its gradient is nothing but rounding.
        if path not in (("finite",), *(("gradient", "conv", "layers", layer, "bias") for layer in (0, 1))):
            assert leaf.norm() > 0, path
            assert found[path].dtype == leaf.dtype
            error = (found[path] - leaf).norm() / leaf.norm()
            assert error < tolerance, f"{shards} {dtype} {engine} {path}: {error:.1e}"


def three_steps_with_an_overflow(group, reduce_dtype):
    """The states before and after each of three steps, in the second of which rank 1 alone has an infinite feature."""
    apex = ApexConfig(initial_scale=1024, reduce_dtype=reduce_dtype)
    cfg = attrs.evolve(CFG, apex=apex)
    tx = optim.adamw(1e-3)
    states, verdicts = [steps.init_state(cfg, tx, key=1)], []
    for index in range(3):
        batch = utterances(3 * group.rank, 3, 9, torch.float32)
        if index == 1 and group.rank == 1:
            batch.features[2, 4, 5] = torch.inf
        state, metrics = steps.train_step(
            states[-1], batch, loss=steps.objective(cfg.model), tx=tx, collectives=group, cfg=cfg
        )
        states.append(state)
        verdicts.append(bool(metrics.finite))
    return states, verdicts


@pytest.mark.parametrize("reduce_dtype", ["fp32", "bf16", "fp16"])
def test_an_overflow_on_one_rank_is_skipped_by_all_and_training_goes_on(tmp_path, reduce_dtype):
    results = run(three_steps_with_an_overflow, ranks=3, folder=tmp_path, arguments=(reduce_dtype,))
    for states, verdicts in results:
        assert verdicts == [True, False, True]
        assert [float(state.loss_scale.value) for state in states] == [1024, 1024, 512, 512]
        assert [int(state.step) for state in states] == [0, 1, 1, 2]
        before, after = (tree.flatten_with_paths(state._replace(loss_scale=())) for state in states[1:3])
        for path, leaf in before.items():
            assert torch.equal(after[path], leaf), path
        moved = tree.flatten_with_paths(states[3].params)
        assert any(
            not torch.equal(moved[path], leaf) for path, leaf in tree.flatten_with_paths(states[2].params).items()
        )
        for path, leaf in tree.flatten_with_paths(results[0][0][3]).items():
            assert torch.equal(tree.flatten_with_paths(states[3])[path], leaf), path
