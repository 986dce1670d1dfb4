"""Packages that are missing or broken: what does not need them goes on, what needs them ends with one message."""

import subprocess
import sys

import pytest
from commands import ROOT, variables
from test_faults import TONES, assert_same_end

from ds2f import serving, warp_ctc
from ds2f.checkpoint import safetensors_file
from ds2f.data.corpora import synthetic
from ds2f.data.manifest_parquet import read_parquet
from ds2f.decode.flashlight_text import import_flashlight
from ds2f.errors import InputError
from ds2f.runner.distributed import etcd_server
from launch import models

ERRORS = ["ImportError", "TypeError", "AttributeError", "RuntimeError"]
OTHERS = ["onnx", "onnxruntime", "flashlight", "warpctc_pytorch", "torchaudio", "etcd", "espeakng_loader"]
NEEDED = {
    "fastapi": (serving.require_packages, "pip install 'ds2f[serve]'"),
    "prometheus_client": (serving.require_packages, "pip install 'ds2f[serve]'"),
    "flashlight": (lambda: import_flashlight("decoder"), "pip install 'ds2f[lm]'"),
    "pyarrow": (lambda: read_parquet(ROOT, b"", 0, {}), "pip install 'ds2f[parquet]'"),
    "safetensors": (safetensors_file._package, "pip install 'ds2f[export]'"),
    "onnx": (models._onnx_session, "pip install 'ds2f[export]'"),
    "onnxruntime": (models._onnx_session, "pip install 'ds2f[export]'"),
    "warpctc_pytorch": (lambda: warp_ctc._binding("cpu_ctc"), "--model.ctc=native"),
    "etcd": (lambda: etcd_server.open_etcd("localhost", 1, "job"), "pip install 'ds2f[etcd]'"),
    "espeakng_loader": (synthetic._locate_espeak, "pip install 'ds2f[quickstart]'"),
}


def broken(folder, names, error):
    """A folder with packages whose import raises ``error``."""
    for name in names:
        (folder / "packages" / name).mkdir(parents=True)
        (folder / "packages" / name / "__init__.py").write_text(f"raise {error}('no {name} {{here}}')\n")
    return folder / "packages"


@pytest.fixture(scope="module")
def undisturbed(launch, tone_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    ended = launch("train", *TONES, f"--data_path={tone_corpus}", "--run_dir=run", folder=folder)
    assert ended.status == 0, ended.err
    return folder / "run"


@pytest.mark.parametrize(("tensorboard", "error"), [("tensorflow", "TypeError"), ("tensorboard", "AttributeError")])
def test_a_training_beside_broken_packages_goes_on(tone_corpus, tmp_path, undisturbed, tensorboard, error):
    packages = broken(tmp_path, [*OTHERS, tensorboard], error)
    command = [sys.executable, "-m", "launch.train", *TONES, f"--data_path={tone_corpus}", "--run_dir=run"]
    paths = {"PYTHONPATH": f"{packages}:{ROOT}"}  # the server of commands has imported TensorBoard already
    ended = subprocess.run(command, cwd=tmp_path, env=variables(paths), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert ended.stdout.count("TensorBoard gets no more scalars (metrics.jsonl goes on)") == 1
    assert_same_end(undisturbed, tmp_path / "run")


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", NEEDED)
def test_what_needs_a_broken_package_ends_with_package_cause_and_remedy(tmp_path, monkeypatch, name, error):
    use, remedy = NEEDED[name]
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(broken(tmp_path, [name], error))
    with pytest.raises(InputError) as told:
        use()
    assert f"which cannot be imported ({'' if error == 'ImportError' else f'{error}: '}no {name} {{here}}" in str(
        told.value
    )
    assert remedy in str(told.value)
    assert "\n" not in str(told.value)
