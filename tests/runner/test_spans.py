"""Spans show the time of a step by stage, and recording changes no bit."""

import json

import attrs
import pytest
import torch
from threads import in_ranks

from ds2f import tree
from ds2f.config import Config, DataConfig, ModelConfig, OptimConfig, VisualizationConfig
from ds2f.runner import program, spans, trace
from ds2f.runner.device.backend import open_backend
from ds2f.runner.distributed.collectives import ALONE, Group
from ds2f.runner.spans import Spans
from launch.synthetic_batches import make_batch

CFG = Config(
    device="cpu",
    model=ModelConfig(hidden_size=8, hidden_layers=2, dropout=0.1),
    data=DataConfig(batch_size=2),
    optim=OptimConfig(schedule="constant", learning_rate=1e-3),
    visualization=VisualizationConfig(trace=True),
)
CHAIN = ["conv", "rnn_0/forward", "rnn_0/backward", "rnn_1", "output", "losses"]


class OneOfTwo(Group):
    """A rank whose peer contributes nothing: every stage has an all-reduce."""

    size = 2


def steps(count, *, spans=None, cfg=CFG):
    backend = open_backend("cpu")
    ours = program.build(cfg, backend, OneOfTwo())
    state = backend.place_state(ours.init())
    for key in range(count):
        state, metrics = ours.step(state, [make_batch(cfg, [60, 50], key=key)], key=key, spans=spans)
    return state, metrics


@pytest.mark.parametrize("remat", [False, True])
def test_a_recorded_step_has_the_bits_of_any_other(remat):
    cfg = attrs.evolve(CFG, model=attrs.evolve(CFG.model, remat=remat))
    plain, recorded = steps(2, cfg=cfg)[0], steps(2, spans=Spans(), cfg=cfg)[0]
    for path, leaf in tree.flatten_with_paths(plain).items():
        assert torch.equal(leaf, tree.flatten_with_paths(recorded)[path]), path


def test_every_stage_is_recorded_both_ways_in_the_order_of_the_step():
    found = Spans()
    state, _ = steps(1, spans=found)
    names = list(found.seconds())
    assert names[: len(CHAIN)] == [f"{name} forward" for name in CHAIN]
    assert [name for name in names if name.endswith(" backward")] == [f"{name} backward" for name in reversed(CHAIN)]
    assert names[-1] == "optimizer"
    reduced = found.on(spans.COMMUNICATION)
    assert [span.name for span in reduced][:5] == [f"all-reduce {name}" for name in reversed(CHAIN[:-1])]
    assert reduced[0].bytes == 4 * tree.size(state.params["output"])
    for span in found.found:
        assert span.end >= span.start


def test_the_reductions_after_the_last_stage_are_named_for_what_they_hold():
    found = Spans()
    steps(1, spans=found)
    names = [span.name for span in found.on(spans.COMMUNICATION)]
    assert names.count("all-reduce conv") == 1
    assert set(names[5:]) == {"all-reduce statistics"}


def test_torchs_profiler_shows_the_same_names():
    with torch.profiler.profile() as profile:
        steps(1, spans=Spans())
    names = {event.key for event in profile.key_averages()}
    assert {f"{name} forward" for name in CHAIN} | {"optimizer"} <= names


def test_a_trace_is_an_event_a_line_of_every_rank(tmp_path):
    logged = []

    def work(group):
        backend = open_backend("cpu")
        ours = program.build(CFG, backend, group)
        state = backend.place_state(ours.init())
        recorded = trace.StepTrace(CFG, backend, group, tmp_path, log=logged.append)
        for key in range(8):
            with recorded.step() as found:
                assert (found is not None) == (3 <= key < 6)
                state, _ = ours.step(state, [make_batch(CFG, [60, 50], key=key)], key=key, spans=found)

    assert in_ranks(2, work) == [None, None]
    text = (tmp_path / "trace.json").read_text()
    events = json.loads(text)
    assert len(text.splitlines()) == len(events) + 2
    for rank in (0, 1):
        mine = [event for event in events if event["pid"] == rank]
        assert sum(event["name"] == "conv backward" for event in mine) == 3
        assert {event["tid"].split()[0] for event in mine} == {"compute", "all-reduce"}
        for tid in {event["tid"] for event in mine}:
            ends = 0.0
            for event in (event for event in mine if event["tid"] == tid):
                assert event["ts"] >= ends, "viewers drop events of one thread that overlap"
                ends = event["ts"] + event["dur"]
        assert min(event["ts"] for event in mine) >= 0
    assert len(logged) == 1
    assert "trace.json" in logged[0]


def test_without_the_flag_nothing_is_recorded(tmp_path):
    cfg = attrs.evolve(CFG, visualization=VisualizationConfig())
    recorded = trace.StepTrace(cfg, open_backend("cpu"), ALONE, tmp_path, log=lambda _: None)
    for _ in range(8):
        with recorded.step() as found:
            assert found is None
    assert list(tmp_path.iterdir()) == []


def test_a_start_too_short_for_a_trace_says_so(tmp_path):
    logged = []
    recorded = trace.StepTrace(CFG, open_backend("cpu"), ALONE, tmp_path, log=logged.append)
    for _ in range(4):
        with recorded.step():
            pass
    recorded.close()
    recorded.close()
    assert logged == ["no trace was written: it takes 6 steps after a start, and this start took 4"]
