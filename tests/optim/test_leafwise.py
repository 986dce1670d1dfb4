"""The step leaf after leaf against the step of all leaves; ``test_optimizers`` runs it for every optimizer too."""

import pytest
import torch

from ds2f import optim, tree
from ds2f.optim.leafwise import leafwise_step

RATE = 0.05


def draw(seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"conv": {"weight": (4, 1, 3, 3), "bias": (4,)}, "rnn_0": {"w": (6, 5)}, "output": {"weight": (3, 5)}}
    return {
        name: {part: torch.randn(shape, generator=generator) for part, shape in parts.items()}
        for name, parts in shapes.items()
    }


MAKERS = {
    "lamb": lambda: optim.lamb(RATE),
    "novograd": lambda: optim.novograd(RATE),
    "muon": lambda: optim.muon(RATE),
    "muon of no matrices": lambda: optim.muon(RATE, matrices=lambda path, leaf: False),
    "momentum": lambda: optim.chain(optim.transforms.trace(0.9), optim.transforms.scale_by_learning_rate(RATE)),
}


@pytest.mark.parametrize("bad_step", [None, 0, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_parameters_and_state_have_the_bits_of_all_leaves_together(name, bad_step):
    plain = MAKERS[name]()._replace(step=None)
    leafwise = plain._replace(step=leafwise_step(plain))
    ours, theirs = draw(0), draw(0)
    our_state, their_state = plain.init(ours), plain.init(theirs)
    for step in range(4):
        grads, finite = draw(step + 1), torch.tensor(step != bad_step)
        ours, our_state = optim.base.apply_step(leafwise, grads, our_state, ours, finite=finite, donate=True)
        theirs, their_state = optim.base.apply_step(plain, grads, their_state, theirs, finite=finite)
    for mine, other in ((ours, theirs), (our_state, their_state)):
        assert tree.flatten_with_names(mine).keys() == tree.flatten_with_names(other).keys()
        for one, two in zip(tree.leaves(mine), tree.leaves(other), strict=True):
            assert torch.equal(one, two)


def test_it_holds_the_updates_of_one_leaf_at_a_time_and_writes_into_the_buffers():
    plain, seen = optim.muon(RATE)._replace(step=None), []

    def update(grads, state, params):
        seen.append([len(tree.leaves(part)) for part in (grads, params)])
        return plain.update(grads, state, params)

    params = draw(0)
    state = plain.init(params)
    buffers = [leaf.data_ptr() for leaf in tree.leaves((params, state)) if leaf.dim()]
    step = leafwise_step(plain._replace(update=update))
    params, state = step(draw(1), state, params, finite=torch.tensor(True), donate=True)
    assert seen == [[1, 1]] * 4
    assert [leaf.data_ptr() for leaf in tree.leaves((params, state)) if leaf.dim()] == buffers


def test_without_donation_the_arguments_keep_their_values():
    params, tx = draw(0), optim.lamb(RATE)
    state = tx.init(params)
    tx.step(draw(1), state, params, finite=torch.tensor(True), donate=False)
    for mine, start in zip(tree.leaves(params), tree.leaves(draw(0)), strict=True):
        assert torch.equal(mine, start)
    assert not any(leaf.any() for leaf in tree.leaves(state))
