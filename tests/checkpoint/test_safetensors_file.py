"""Models in files of the format safetensors: complete, the same bytes every time, refused when damaged."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import safetensors
import torch

from ds2f import checkpoint, tree
from ds2f.checkpoint import safetensors_file
from ds2f.checkpoint.exported import About, portable, weights_digest
from ds2f.config import Config, ModelConfig, SpectConfig
from ds2f.errors import InputError
from ds2f.model import deepspeech2
from ds2f.types import Params, Stats

CFG = Config(
    model=ModelConfig(hidden_size=4, hidden_layers=2, num_bins=33),
    spect=SpectConfig(sample_rate=3200),
    run_dir="runs/a",
)


def model(cfg: Config = CFG, key: int = 0) -> tuple[About, Params, Stats]:
    params, stats = deepspeech2.init(cfg.model, key=key)
    stats = tree.map(lambda leaf: leaf + 0.5, stats)
    return About(portable(cfg), weights_digest(params, stats), "a", "best", {"val": {"wer": 10.5}}), params, stats


@pytest.fixture
def written(tmp_path: Path) -> Path:
    safetensors_file.write(tmp_path / "model.safetensors", *model())
    return tmp_path / "model.safetensors"


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and values."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header: Any, values: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


@pytest.mark.parametrize(
    "change", [{}, {"rnn_type": "gru"}, {"bidirectional": False, "intermediate_ctc": 0.3}, {"time_stride": 4}], ids=str
)
def test_a_model_comes_back_bit_for_bit(tmp_path: Path, change: dict[str, Any]) -> None:
    about, params, stats = model(attrs.evolve(CFG, model=attrs.evolve(CFG.model, **change)))
    safetensors_file.write(tmp_path / "a.safetensors", about, params, stats)

    found, read_params, read_stats = safetensors_file.read(tmp_path / "a.safetensors")

    assert found == safetensors_file.about(tmp_path / "a.safetensors") == about
    expected, read = (tree.flatten_with_paths(each) for each in ((params, stats), (read_params, read_stats)))
    assert expected.keys() == read.keys()
    assert all(torch.equal(leaf, read[path]) and read[path].dtype == torch.float32 for path, leaf in expected.items())


def test_the_package_of_the_format_reads_the_file(written: Path) -> None:
    _, params, stats = model()
    with safetensors.safe_open(written, framework="pt") as file:
        assert file.metadata()["ds2f.weights"] == weights_digest(params, stats)
        assert torch.equal(file.get_tensor("params/rnn_1/backward/w_hh"), params["rnn_1"]["backward"]["w_hh"])
        assert torch.equal(file.get_tensor("stats/output/norm/var"), stats["output"]["norm"]["var"])


def test_the_same_model_gives_the_same_bytes_in_another_process(written: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/checkpoint'); from pathlib import Path; "
        "import test_safetensors_file as t; t.safetensors_file.write(Path(sys.argv[1]), *t.model())"
    )
    root = Path(__file__).parents[2]
    path = tmp_path / "again.safetensors"
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, path], check=True, cwd=root, env=environment)
    assert path.read_bytes() == written.read_bytes()


def test_a_description_of_another_model_is_not_written(tmp_path: Path) -> None:
    about, params, stats = model()
    with pytest.raises(ValueError, match="another model"):
        safetensors_file.write(tmp_path / "a.safetensors", about, *deepspeech2.init(CFG.model, key=1))
    wide = tree.map(lambda leaf: leaf.double(), params)
    with pytest.raises(ValueError, match="float32"):
        safetensors_file.write(
            tmp_path / "a.safetensors", about._replace(weights=weights_digest(wide, stats)), wide, stats
        )
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_neither_written_nor_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about, params, stats = model()
    params["rnn_0"]["forward"]["w_ih"][0, 0] = float("nan")
    about = about._replace(weights=weights_digest(params, stats))
    path = tmp_path / "a.safetensors"
    with pytest.raises(InputError, match=r"NaN or infinite weights in params/rnn_0/forward/w_ih"):
        safetensors_file.write(path, about, params, stats)
    assert not path.exists()
    with monkeypatch.context() as forged:
        forged.setattr(safetensors_file, "require_finite", lambda *_: None)
        safetensors_file.write(path, about, params, stats)
    with pytest.raises(InputError, match=r"a\.safetensors: NaN or infinite weights .*launch\.export\.$"):
        safetensors_file.read(path)


def _changed_header(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def damage(content: bytes) -> bytes:
        header, values = header_of(content)
        change(header)
        return joined(header, values)

    return damage


def _entry(**values: Any) -> Callable[[bytes], bytes]:
    return _changed_header(lambda header: header["params/output/weight"].update(values))


def _metadata(**values: str) -> Callable[[bytes], bytes]:
    return _changed_header(
        lambda header: header["__metadata__"].update({f"ds2f.{name}": value for name, value in values.items()})
    )


def _larger_model(content: bytes) -> bytes:
    """A header of a model of tens of gigabytes, in step with its configuration, before the values of a small one."""
    header, values = header_of(content)
    cfg = json.loads(header["__metadata__"]["ds2f.config"])
    cfg["model"] |= {"hidden_size": 1 << 16, "hidden_layers": 1}
    large = {"__metadata__": header["__metadata__"] | {"ds2f.config": json.dumps(cfg)}}
    place = 0
    for name, shape in safetensors_file._shapes(ModelConfig(hidden_size=1 << 16, hidden_layers=1, num_bins=33)).items():
        end = place + 4 * torch.Size(shape).numel()
        large[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [place, end]}
        place = end
    return joined(large, values)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "0 bytes are not the whole"),
    "stub": (lambda content: content[:7], "7 bytes are not the whole"),
    "half a header": (lambda content: content[:500], "not the whole"),
    "cut": (lambda content: content[:-1], "its header tells of"),
    "longer": (lambda content: content + b"\0", "its header tells of"),
    "a flipped bit": (lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:], "SHA-256 differs"),
    "a header of exabytes": (lambda content: b"\xff" * 8 + content[8:], "not the whole"),
    "a header beyond the limit": (lambda content: joined(b" " * (17 << 20), b""), "the limit is 16,777,216"),
    "a page": (lambda content: b"<html><body>404 Not Found</body></html>\n", "not the whole"),
    "no JSON": (lambda content: joined(b"{" * 64, b""), "no JSON"),
    "deep JSON": (lambda content: joined(b"[" * 1_000_000, b""), "no JSON"),
    "no text": (lambda content: joined(b"\xff\xfe" * 32, b""), "no JSON"),
    "a list": (lambda content: joined([], b""), "no object"),
    "metadata of another kind": (lambda content: joined({"__metadata__": []}, b""), "no object"),
    "other labels": (_metadata(config='{"model": {"labels": ["_"]}}'), "missing, unknown, or of another shape"),
    "a larger model": (_larger_model, "its header tells of"),
    "another type": (_entry(dtype="F64"), "params/output/weight: missing, unknown, or of another shape or type"),
    "a type of torch": (_entry(dtype="float32"), "params/output/weight: missing"),
    "another shape": (_entry(shape=[4, 29]), "params/output/weight: missing"),
    "a negative place": (_entry(data_offsets=[-464, 0]), "params/output/weight: missing"),
    "a place of another size": (_entry(data_offsets=[0, 8]), "params/output/weight: missing"),
    "a place of fractions": (_entry(data_offsets=[0.0, 464.0]), "params/output/weight: missing"),
    "an overlap": (_entry(data_offsets=[0, 464]), "overlap"),
    "another entry": (_entry(more=1), "params/output/weight: missing"),
    "a missing tensor": (_changed_header(lambda header: header.pop("stats/output/norm/var")), "stats/output/norm/var"),
    "an unknown tensor": (
        _changed_header(lambda header: header.update({"\x1b[2J": header["params/output/weight"]})),
        r"\x1b[2J: missing, unknown",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_refused(written: Path, name: str) -> None:
    damage, problem = DAMAGES[name]
    written.write_bytes(damage(written.read_bytes()))
    with pytest.raises(InputError) as refused:
        safetensors_file.read(written)
    message = str(refused.value)
    assert message.startswith(f"{written} is damaged: ")
    assert problem in message
    assert "python -m launch.export" in message
    assert "\x1b" not in message
    assert len(message) < 1000


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(joined({}, b""))
    for reader in (safetensors_file.about, safetensors_file.read):
        with pytest.raises(InputError, match="not a model that ds2f exported"):
            reader(path)


def test_a_file_that_grows_or_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"a\.safetensors: a pipe"):
        safetensors_file.read(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"b\.safetensors: No such file or directory; check the path"):
        safetensors_file.read(tmp_path / "b.safetensors")


def test_without_the_package_the_message_names_the_extra(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(InputError, match=r"need safetensors.*pip install 'ds2f\[export\]'"):
        safetensors_file.read(written)
    assert safetensors_file.about(written) == model()[0]


def test_a_file_or_its_folder_takes_the_place_of_a_run(written: Path) -> None:
    about, params, _ = model()
    for place in (written, written.parent, str(written)):
        assert checkpoint.load_config(place) == about.cfg
        cfg, loaded, _ = checkpoint.load_model(place)
        assert cfg == about.cfg
        assert torch.equal(loaded["output"]["weight"], params["output"]["weight"])


def test_in_the_folder_of_a_run_the_run_counts(written: Path) -> None:
    (written.parent / "config.json").write_text("{}")
    assert checkpoint.load_config(written.parent) == Config()
    assert checkpoint.load_config(written) == model()[0].cfg


@pytest.mark.parametrize("which", ["last", "best:5", 12])
def test_an_exported_model_has_one_checkpoint(written: Path, which: str | int) -> None:
    with pytest.raises(InputError, match=rf"of the checkpoint 'best'; leave out --which={which}"):
        checkpoint.load_model(written.parent, which=which)


def test_files_of_other_formats_hold_no_parameters(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    for place in (tmp_path, tmp_path / "model.onnx"):
        with pytest.raises(InputError, match=r"holds no run: .*exported with --format=safetensors"):
            checkpoint.load_model(place)
