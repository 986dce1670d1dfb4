"""Programs of ``torch.export``: they compute what the model computes, and a forged file executes nothing."""

import io
import json
import pickle
import random
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ds2f import tree
from ds2f.checkpoint.exported import About, portable, to_metadata, weights_digest
from ds2f.config import Config, ModelConfig, SpectConfig
from ds2f.errors import InputError
from ds2f.export import program_archive, program_check, program_names, torch_program
from ds2f.model import deepspeech2
from ds2f.types import Batch, Params, Stats

BINS = 33
SPECT = SpectConfig(sample_rate=3200)
MODELS: dict[str, tuple[dict[str, Any], tuple[int, int] | None]] = {
    "lstm": ({}, None),
    "lstm forward": ({"bidirectional": False, "time_stride": 4, "intermediate_ctc": 0.3}, None),
    "lstm 2x61": ({"frequency_stride": 8}, (2, 61)),
    "gru 3x40": ({"rnn_type": "gru"}, (3, 40)),
    "gru forward 1x50": ({"rnn_type": "gru", "bidirectional": False}, (1, 50)),
    "rnn 1x50": ({"rnn_type": "rnn", "time_stride": 4}, (1, 50)),
}
FORGED = "gru 3x40"  # of fixed sizes: it is written quickly
SYMBOLIC = "lstm"


def configuration(**model: Any) -> Config:
    return Config(
        model=ModelConfig(hidden_size=6, hidden_layers=2, num_bins=BINS, **model),
        spect=SPECT,
        run_dir="/home/ann/runs/a",
    )


def parts(cfg: Config) -> tuple[About, Params, Stats]:
    params, stats = deepspeech2.init(cfg.model, key=0)
    stats = tree.map(lambda leaf: leaf + 0.25, stats)
    return About(portable(cfg), weights_digest(params, stats), "a", "best", {"val": {"wer": 10.5}}), params, stats


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes each program once."""
    folder = tmp_path_factory.mktemp("programs")

    def program(name: str) -> Path:
        path = folder / f"{name}.pt2"
        if not path.exists():
            change, shape = MODELS[name]
            torch_program.write(path, *parts(configuration(**change)), shape=shape)
        return path

    return program


def batch(sizes: list[int], key: int = 0) -> Batch:
    """Utterances of drawn features, also in the padding."""
    drawn = torch.randn(len(sizes), BINS, max(sizes) + 3, generator=torch.Generator().manual_seed(key))
    none = torch.zeros(0)
    return Batch(drawn, torch.tensor(sizes), none, none, none, none)


def assert_alike(found: torch.Tensor, ends: torch.Tensor, name: str, given: Batch) -> None:
    """Compares with the model's functions on the same features, by utterance."""
    cfg = configuration(**MODELS[name][0])
    _, params, stats = parts(cfg)
    logits, _ = deepspeech2.apply(params, stats, given.features, given.lengths, cfg=cfg.model, train=False)
    assert ends.tolist() == logits.lengths.tolist()
    for row, size in enumerate(ends.tolist()):
        torch.testing.assert_close(found[row, :size], logits.values[row, :size].log_softmax(-1), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_program_computes_what_the_model_computes(programs: Callable[[str], Path], name: str) -> None:
    engine = torch_program.open_file(programs(name))
    shape = MODELS[name][1]
    assert engine.longest == (shape[1] if shape else None)
    most = shape[1] if shape else 301
    for sizes in ([1], [most], [most, 7], [5, 0, most, 20, 33, 40, 2]):
        given = batch(sizes)
        found = engine.logits(given)
        longest = deepspeech2.output_lengths(max(sizes), time_stride=engine.about.cfg.model.time_stride)
        assert found.values.shape == (len(sizes), longest, 29)
        assert_alike(found.values, found.lengths, name, given)


@pytest.mark.parametrize("name", [SYMBOLIC, FORGED])
def test_torch_alone_computes_a_program(programs: Callable[[str], Path], name: str) -> None:
    given = batch([40, 12, 40] if MODELS[name][1] else [57, 12])
    extra = dict.fromkeys(to_metadata(parts(configuration())[0]), "")
    features = given.features[..., : int(given.lengths.max())]
    module = torch.export.load(programs(name), extra_files=extra).module()
    assert_alike(*module(features, given.lengths), name, given)
    assert extra == to_metadata(parts(configuration(**MODELS[name][0]))[0])


def test_a_program_says_what_it_is_and_not_where_it_was_made(programs: Callable[[str], Path]) -> None:
    path = programs(SYMBOLIC)
    expected = parts(configuration())[0]
    assert torch_program.open_file(path).about == program_archive.about(path) == expected
    assert torch_program.describe(path) == (expected, None)
    content = path.read_bytes()
    assert b"/home/ann" not in content
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"ds2f/export" not in content
    assert entries_of(path)["data/sample_inputs/model.pt"] == b"", "no pickle"


def test_an_utterance_that_is_too_long_is_refused(programs: Callable[[str], Path]) -> None:
    engine = torch_program.open_file(programs(FORGED))
    assert torch_program.describe(programs(FORGED))[1] == engine.longest == 40
    with pytest.raises(InputError, match=r"41 frames .* takes 40 .*--shapes"):
        engine.logits(batch([41]))


def test_a_program_has_no_streams(programs: Callable[[str], Path]) -> None:
    with pytest.raises(InputError, match=r"no streams: give the run's folder"):
        torch_program.open_file(programs(FORGED)).begin()


@pytest.mark.parametrize("rnn_type", ["gru", "rnn"])
def test_other_cells_have_fixed_sizes(tmp_path: Path, rnn_type: str) -> None:
    with pytest.raises(InputError, match=rf"{rnn_type} cells with fixed sizes only\. Give --shapes="):
        torch_program.write(tmp_path / "a.pt2", *parts(configuration(rnn_type=rnn_type)))
    assert list(tmp_path.iterdir()) == []


def test_a_torch_without_loops_exports_fixed_sizes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.export._patches", None)
    with pytest.raises(InputError, match=r"exports an LSTM with fixed sizes only\. Give --shapes="):
        torch_program.write(tmp_path / "a.pt2", *parts(configuration()))


def test_a_torch_that_cannot_export_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such thing\nmore")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(InputError, match=r"cannot export this model \(RuntimeError: no such thing\)\. Give --shapes"):
        torch_program.write(tmp_path / "a.pt2", *parts(configuration(rnn_type="gru")), shape=(1, 10))


def test_a_description_of_another_model_is_not_written(tmp_path: Path) -> None:
    about, params, stats = parts(configuration())
    with pytest.raises(ValueError, match="another model"):
        torch_program.write(tmp_path / "a.pt2", about._replace(weights="0" * 32), params, stats)


# Forged and damaged files


def entries_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def written(path: Path, entries: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return path


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def in_graph(change: Callable[[dict[str, Any], Path], None]) -> Callable[[dict[str, bytes], Path], None]:
    def forge(entries: dict[str, bytes], victim: Path) -> None:
        program = json.loads(entries["models/model.json"])
        change(program, victim)
        entries["models/model.json"] = json.dumps(program).encode()

    return forge


def code(victim: Path) -> str:
    return f"__import__('pathlib').Path({str(victim)!r}).touch()"


def sample_inputs(entries: dict[str, bytes], victim: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Touches(victim), buffer)
    entries["data/sample_inputs/model.pt"] = buffer.getvalue()


def weight(entries: dict[str, bytes], victim: Path) -> None:
    listed = json.loads(entries["data/weights/model_weights_config.json"])
    first = next(iter(listed["config"].values()))
    first["use_pickle"] = True
    entries["data/weights/model_weights_config.json"] = json.dumps(listed).encode()
    buffer = io.BytesIO()
    torch.save(Touches(victim), buffer)
    entries[f"data/weights/{first['path_name']}"] = buffer.getvalue()


def constant(entries: dict[str, bytes], victim: Path) -> None:
    meta = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    entries["data/constants/model_constants_config.json"] = json.dumps({"config": {"a": meta}}).encode()
    entries["data/constants/opaque_obj_0"] = pickle.dumps(Touches(victim))


def legacy_weights(entries: dict[str, bytes], victim: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Touches(victim), buffer)
    entries["data/weights/model.pt"] = buffer.getvalue()


def guard(entries: dict[str, bytes], victim: Path) -> None:
    program = json.loads(entries["models/model.json"])
    program["guards_code"] = [f"[{code(victim)}]"]
    entries["models/model.json"] = json.dumps(program).encode()
    buffer = io.BytesIO()
    torch.save(((torch.zeros(3, BINS, 40), torch.full((3,), 40)), {}), buffer)  # with examples, torch executes guards
    entries["data/sample_inputs/model.pt"] = buffer.getvalue()


def expression(program: dict[str, Any], victim: Path) -> None:
    sizes = program["graph_module"]["graph"]["tensor_values"]["features"]["sizes"]
    sizes[0] = {"as_expr": {"expr_str": code(victim), "hint": None}}


def structure(program: dict[str, Any], victim: Path) -> None:
    victim.with_name("forged_module.py").write_text(f"{code(victim)}\n")
    context = {"__enum__": True, "fqn": "forged_module:A", "name": "b"}
    call = program["graph_module"]["module_call_graph"][0]["signature"]
    kind, specified = json.loads(call["out_spec"])
    specified["context"] = json.dumps(context)
    call["out_spec"] = json.dumps([kind, specified])


def target(program: dict[str, Any], victim: Path) -> None:
    """An operator that makes a file when the program is computed."""
    graph = program["graph_module"]["graph"]
    graph["tensor_values"]["made"] = graph["tensor_values"][graph["outputs"][1]["as_tensor"]["name"]]
    given = {"filename": {"as_string": str(victim)}, "shared": {"as_bool": True}, "size": {"as_int": 3}}
    node = {
        "target": "torch.ops.aten.from_file.default",
        "inputs": [{"name": name, "arg": each, "kind": 1} for name, each in given.items()],
        "outputs": [{"as_tensor": {"name": "made"}}],
        "metadata": {},
        "is_hop_single_tensor_return": None,
        "name": "made",
    }
    graph["nodes"].insert(0, node)


FORGERIES: dict[str, Callable[[dict[str, bytes], Path], None]] = {
    "pickled sample inputs": sample_inputs,
    "a pickled weight": weight,
    "a pickled constant": constant,
    "pickled weights of an older format": legacy_weights,
    "a guard": guard,
    "an expression": in_graph(expression),
    "a structure": in_graph(structure),
    "a target": in_graph(target),
}
REFUSED = {
    "pickled sample inputs": "pickled sample inputs",
    "a pickled weight": "is missing, or of another shape or type",
    "a pickled constant": "data/constants/opaque_obj_0",
    "pickled weights of an older format": "data/weights/model.pt",
    "a guard": "pickled sample inputs",
    "an expression": "the expression",
    "a target": "the operator 'torch.ops.aten.from_file.default'",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_file_executes_nothing_here_and_something_in_torch(
    programs: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    victim = tmp_path / "victim"
    entries = entries_of(programs(FORGED))
    FORGERIES[name](entries, victim)
    path = written(tmp_path / "forged.pt2", entries)
    monkeypatch.syspath_prepend(tmp_path)
    given = batch([40, 12, 40])

    if name in REFUSED:
        with pytest.raises(InputError) as refused:
            torch_program.open_file(path)
        assert str(refused.value).startswith(str(path))
        assert REFUSED[name] in str(refused.value)
    else:  # what would be executed is left out
        found = torch_program.open_file(path).logits(given)
        assert_alike(found.values, found.lengths, FORGED, given)
    assert not victim.exists()

    with suppress(Exception):  # the same file is dangerous to torch: otherwise this test would show nothing
        torch.export.load(path).module()(given.features[..., :40], given.lengths)
    assert victim.exists()


def test_machine_code_is_refused(programs: Callable[[str], Path], tmp_path: Path) -> None:
    entries = entries_of(programs(FORGED)) | {"data/aotinductor/model/model.so": b"\x7fELF"}
    with pytest.raises(InputError, match=r"nothing was executed\. It holds data/aotinductor/model/model\.so"):
        torch_program.open_file(written(tmp_path / "forged.pt2", entries))


def test_every_operator_and_name_outside_the_lists_is_refused(programs: Callable[[str], Path]) -> None:
    path = programs(FORGED)
    shapes = program_names.shapes(configuration(rnn_type="gru").model)
    text = entries_of(path)["models/model.json"].decode()
    guarded = json.loads(text) | {"guards_code": ["exit()"], "verifiers": ["exit()"]}
    assert "exit" not in json.dumps(program_check.checked(guarded, shapes))
    for operator in (
        "torch.ops.aten.from_file.default",
        "torch.load",
        "_operator.attrgetter",
        "#a:b",
        "print",
        "math.sin",
    ):
        program = json.loads(text)
        program["graph_module"]["graph"]["nodes"][3]["target"] = operator
        with pytest.raises(program_check.Refused, match="the operator"):
            program_check.checked(program, shapes)
    for value in ({}, {"as_tensor": {"name": "features"}, "as_int": 1}, [], None):
        program = json.loads(text)
        program["graph_module"]["graph"]["outputs"][0] = value
        with pytest.raises(program_check.Refused, match="a program of another form"):
            program_check.checked(program, shapes)
    for name in ("a b", "a;b", "class", "", "a" * 300, "é", None, 3):
        program = json.loads(text)
        program["graph_module"]["graph"]["nodes"][3]["name"] = name
        with pytest.raises(program_check.Refused, match="the name"):
            program_check.checked(program, shapes)


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('s0', positive=True, integer=True).__class__",
        "Symbol('s0')",
        "s0",
        "exit()",
        "Add(Integer(1), [])",
        "Integer(1)**Integer(9)",
        "Symbol('s0', positive=True, integer=True" + ")" * 3000,
    ],
)
def test_expressions_are_spelt_as_torch_spells_sums_and_quotients(text: str) -> None:
    with pytest.raises(program_check.Refused, match="the expression"):
        program_check._expression({"expr_str": text, "hint": None})


def test_a_changed_graph_is_refused_or_taken_over_without_what_is_executed(programs: Callable[[str], Path]) -> None:
    """Any value of the graph in the place of another: no error but a refusal, and no text but the expected."""
    draw = random.Random(0)
    cfg = configuration()
    shapes = program_names.shapes(cfg.model)
    text = entries_of(programs(SYMBOLIC))["models/model.json"].decode()
    strange = [None, True, 1.5, "x", "__import__('os')", [], {}, [[]], {"as_int": 1}, {"as_string": "a"}, 1 << 70, -1]
    refused = 0
    for _ in range(300):
        program = json.loads(text)
        place = program
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw.choice(keys)
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or draw.random() < 0.1:
                place[key] = draw.choice(strange)
                break
            place = inner
        try:
            taken = program_check.checked(program, shapes)
        except program_check.Refused:
            refused += 1
            continue
        assert "__import__" not in json.dumps(taken)
    assert refused > 50


DAMAGES: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "no graph": (lambda entries: {name: each for name, each in entries.items() if "models" not in name}, "is missing"),
    "graph without JSON": (lambda entries: entries | {"models/model.json": b"{"}, "is damaged"),
    "graph without nodes": (lambda entries: entries | {"models/model.json": b"{}"}, "a program of another form"),
    "no weights": (
        lambda entries: entries | {"data/weights/model_weights_config.json": b'{"config": {}}'},
        "other weights than its configuration says",
    ),
    "a weight without a place": (
        lambda entries: (
            entries
            | {
                "data/weights/model_weights_config.json": entries["data/weights/model_weights_config.json"].replace(
                    b'"path_name"', b'"other_name"'
                )
            }
        ),
        "is missing, or of another shape or type",
    ),
    "a flipped bit": (
        lambda entries: entries | {"data/weights/weight_3": b"\0\0\0\0" + entries["data/weights/weight_3"][4:]},
        "SHA-256 differs",
    ),
    "a short weight": (
        lambda entries: entries | {"data/weights/weight_3": entries["data/weights/weight_3"][4:]},
        "is missing, or of another shape or type",
    ),
    "a newer version": (lambda entries: entries | {"extra/ds2f.format": b"2"}, "newer version of ds2f"),
    "another configuration": (
        lambda entries: entries | {"extra/ds2f.config": to_metadata(parts(configuration())[0])["ds2f.config"].encode()},
        "is missing, or of another shape or type",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused(programs: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    damage, problem = DAMAGES[name]
    path = written(tmp_path / "damaged.pt2", damage(entries_of(programs(FORGED))))
    with pytest.raises(InputError) as refused:
        torch_program.open_file(path)
    assert str(refused.value).startswith(str(path))
    assert problem in str(refused.value)


@pytest.mark.parametrize("size", [0, 10, 5000, -1])
def test_a_file_that_is_cut_is_refused(programs: Callable[[str], Path], tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.pt2"
    path.write_bytes(programs(FORGED).read_bytes()[:size])
    with pytest.raises(InputError, match=r"cut\.pt2 is damaged"):
        torch_program.open_file(path)


def test_entries_that_unpack_to_more_than_the_file_are_refused(programs: Callable[[str], Path], tmp_path: Path) -> None:
    entries = entries_of(programs(FORGED))
    entries["extra/ds2f.results"] = b" " * 10_000_000
    path = written(tmp_path / "packed.pt2", entries, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"packed\.pt2 is damaged: [\d,]+ bytes, fewer than its entries would take"):
        torch_program.open_file(path)


def test_a_program_of_somebody_else_is_refused(tmp_path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "a.pt2")
    with pytest.raises(InputError, match=r"a\.pt2: (refused|not a model that ds2f exported)"):
        torch_program.open_file(tmp_path / "a.pt2")


def test_a_program_that_computes_something_else_is_refused(programs: Callable[[str], Path], tmp_path: Path) -> None:
    entries = entries_of(programs(FORGED))
    program = json.loads(entries["models/model.json"])
    outputs = program["graph_module"]["graph"]["outputs"]
    outputs[0] = outputs[1]
    program["graph_module"]["signature"]["output_specs"][0] = program["graph_module"]["signature"]["output_specs"][1]
    entries["models/model.json"] = json.dumps(program).encode()
    with pytest.raises(InputError, match="computes no log-probabilities"):
        torch_program.open_file(written(tmp_path / "other.pt2", entries))
