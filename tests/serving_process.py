"""A real server for tests: ``launch.serve`` as a process, with a model of random weights that names its labels."""

import contextlib
import io
import json
import signal
import subprocess
import time

import attrs
import httpx
import soundfile
from commands import commands
from speaking_model import CFG, RATE, model, sound

from ds2f import config, steps
from ds2f.checkpoint import Checkpoints
from ds2f.inference import Recognizer
from ds2f.optim import adamw
from ds2f.runner.device.backend import open_backend


def write_run(folder, cfg=CFG, params=None, stats=None):
    """A folder of a trained run."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.to_dict(cfg)))
    params, stats = (params, stats) if params else model()
    state = steps.init_state(cfg, adamw(0.1), key=0)._replace(params=params, stats=stats)
    written = Checkpoints(folder, cfg=cfg)
    written.save(1, state, {}, score=1.0)
    assert written.close()


def recognizer(cfg=CFG):
    """The recognizer of the run, in this process."""
    return Recognizer(cfg, *model(), backend=open_backend("cpu"))


def wav(seconds, seed=0, rate=RATE):
    """A recording as the content of a WAV file."""
    content = io.BytesIO()
    soundfile.write(content, sound(seconds, seed), rate, format="WAV", subtype="PCM_16")
    return content.getvalue()


@attrs.define
class Server:
    """A running server."""

    url: str
    process: object
    folder: object

    @property
    def log(self):
        """What it has said on standard error."""
        return (self.folder / "serve.err").read_text(errors="replace")

    @property
    def access(self):
        """The lines of its access log."""
        return [json.loads(line) for line in (self.folder / "serve.out").read_text().splitlines()]

    def stop(self, limit=30.0):
        """Ends it in order; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit)


@contextlib.contextmanager
def serving(folder, *flags, run="run", environment=None, limit=90.0):
    """Starts a server on a free port, with the run ``folder/run``, and ends it."""
    with (folder / "serve.out").open("wb") as out, (folder / "serve.err").open("wb") as err:
        arguments = (f"--run_dir={run}", "--device=cpu", "--port=0", *flags)
        process = commands().start("launch.serve", *arguments, folder=folder, out=out, err=err, environment=environment)
    try:
        server = Server(_address(folder / "serve.err", process, limit), process, folder)
        assert httpx.get(f"{server.url}/health").status_code == 200, "it tells its address once it answers"
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def _address(path, process, limit):
    end = time.monotonic() + limit
    while time.monotonic() < end and process.poll() is None:
        for line in path.read_text(errors="replace").splitlines():
            if " at http://" in line:
                return line.rpartition(" at ")[2].rstrip("/")
        time.sleep(0.05)
    raise AssertionError(path.read_text(errors="replace"))
