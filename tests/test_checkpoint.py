"""Checkpoints read back what was written, keep the best and the newest, and refuse what does not fit."""

import errno
import json

import pytest
import torch

from ds2f import checkpoint, config, optim, steps, tree
from ds2f.config import Config, ModelConfig
from ds2f.errors import InputError
from ds2f.types import LossScale

CFG = Config(model=ModelConfig(hidden_size=4, hidden_layers=2, num_bins=9))


def make_state(value=0.0, tx=None):
    state = steps.init_state(CFG, tx or optim.adamw(0.1), key=3)
    return state._replace(params=tree.map(lambda leaf: leaf + value, state.params))


@pytest.fixture
def checkpoints(tmp_path):
    opened = checkpoint.Checkpoints(tmp_path, keep=1)
    yield opened
    opened.close()


def assert_same_bits(a, b):
    assert tree.flatten_with_paths(a).keys() == tree.flatten_with_paths(b).keys()
    for path, leaf in tree.flatten_with_paths(a).items():
        other = tree.flatten_with_paths(b)[path]
        assert leaf.dtype == other.dtype, path
        assert torch.equal(leaf, other), path


def test_a_state_and_its_position_come_back_as_they_were(checkpoints):
    state = make_state()._replace(loss_scale=LossScale(torch.tensor(512.0), torch.tensor(7, dtype=torch.int32)))
    position = {"epoch": 2, "batch": 17, "best_score": float("inf")}
    checkpoints.save(5, state, position)
    restored, place = checkpoints.restore(5, make_state(value=1.0))
    assert_same_bits(restored, state)
    assert place == position


def test_the_best_and_the_newest_are_kept(checkpoints):
    for iteration, score in ((1, 50.0), (2, 20.0), (3, None), (4, 30.0)):
        checkpoints.save(iteration, make_state(), {}, score=score)
    assert (checkpoints.find("best"), checkpoints.find("last")) == (2, 4)
    assert checkpoints.find(2) == 2
    assert checkpoints.find(1) is None
    assert checkpoints.find(3) is None


def test_saving_an_iteration_again_replaces_it(checkpoints):
    checkpoints.save(1, make_state(), {"epoch": 0})
    checkpoints.save(1, make_state(value=2.0), {"epoch": 1}, score=3.0)
    restored, position = checkpoints.restore(1, make_state())
    assert position == {"epoch": 1}
    assert_same_bits(restored, make_state(value=2.0))


def test_a_state_saved_while_its_buffers_are_reused_keeps_its_numbers(checkpoints):
    state = make_state()
    expected = tree.map(torch.clone, state)
    checkpoints.save(1, state, {})
    for leaf in tree.leaves(state.params):
        leaf.zero_()
    assert_same_bits(checkpoints.restore(1, expected)[0], expected)


def test_a_full_disk_is_an_oserror_that_names_the_folder(checkpoints, monkeypatch, tmp_path):
    checkpoints.save(1, make_state(), {})

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 181 bytes to file 34: No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(OSError, match="No space left") as raised:
        checkpoints.save(2, make_state(), {})
    assert raised.value.errno == errno.ENOSPC
    assert raised.value.filename == str(tmp_path / "checkpoints")
    assert checkpoints.find("last") == 1


def test_a_checkpoint_of_another_optimizer_is_refused_by_leaf(checkpoints):
    checkpoints.save(1, make_state(), {})
    with pytest.raises(InputError, match=r"opt_state.*flags\.txt"):
        checkpoints.restore(1, make_state(tx=optim.sgd(0.1)))


def test_load_model_takes_the_best_the_last_or_a_number(tmp_path, checkpoints):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(CFG)))
    for iteration, score in ((1, 20.0), (2, 30.0)):
        checkpoints.save(iteration, make_state(value=float(iteration)), {}, score=score)
    for which, value in (("best", 1.0), ("last", 2.0), (2, 2.0)):
        cfg, params, stats = checkpoint.load_model(tmp_path, which=which)
        assert cfg == CFG
        assert_same_bits((params, stats), (make_state(value=value).params, make_state().stats))
    with pytest.raises(InputError, match="7"):
        checkpoint.load_model(tmp_path, which=7)


def test_reading_a_run_leaves_the_checkpoint_that_it_is_writing_alone(tmp_path, checkpoints):
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(CFG)))
    checkpoints.save(1, make_state(), {}, score=20.0)
    under_way = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    (under_way / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    checkpoint.load_model(tmp_path)
    assert under_way.exists()
    going_on = checkpoint.Checkpoints(tmp_path)
    going_on.save(3, make_state(), {})  # waits until what the run's last life left is cleared
    going_on.close()
    assert not under_way.exists()


@pytest.mark.parametrize("content", [None, "{", '{"model": {"colour": 1}}'])
def test_a_folder_without_a_readable_run_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"no run|damaged|colour"):
        checkpoint.load_config(tmp_path)
