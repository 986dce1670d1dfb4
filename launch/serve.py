"""Serves a trained model over HTTP and WebSockets: python -m launch.serve --run_dir=runs/an4_1p."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
from absl import flags as absl_flags

from ds2f.config import BeamConfig, EndpointConfig, ServingConfig
from ds2f.errors import InputError
from ds2f.serving import require_packages, worker_processes
from launch import cutting, decoding, flags, guard, models

if TYPE_CHECKING:
    from ds2f.decode import HotWords
    from ds2f.inference import Recognizer
    from ds2f.inference.beam_pool import BeamPool
    from ds2f.serving.recording_job import Decode
    from ds2f.serving.service import Service

_LEAST_SEARCHING = 2  # processes: a single one would be this process, which must answer meanwhile

flags.define(only=("run_dir", "device", "apex.opt_level", "apex.dtype"))
decoding.define()
decoding.define_which()
models.define()
cutting.define()
flags.define_section("serving", ServingConfig)
flags.define_section("endpoint", EndpointConfig)
absl_flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0: all addresses of the machine.")
absl_flags.DEFINE_integer("port", 8080, "Port to listen at; 0: a free one.", lower_bound=0, upper_bound=65535)
absl_flags.DEFINE_string(
    "api_keys", "", "File with a key on every line, of which clients send one; empty: all may ask."
)
absl_flags.DEFINE_integer(
    "workers", 1, "Processes, each with a model of its own; their metrics are summed.", lower_bound=1, upper_bound=1024
)
absl_flags.DEFINE_boolean("access_log", True, "Print a JSON object for every request.")


def main(_: list[str]) -> int:
    """Serves until SIGTERM or Ctrl-C; then answers what was accepted.

    Interfaces: ds2f/serving/README.md.
    """
    chosen, run_dir = absl_flags.FLAGS, models.chosen()
    limits = flags.section_from_flags("serving", ServingConfig)
    with _listener(chosen.host, chosen.port) as listener, ExitStack() as opened:
        if chosen.workers > 1:
            opened.enter_context(worker_processes.shared_counts())
        require_packages()
        if chosen.workers > 1:
            status = worker_processes.supervise(chosen.workers, listener=listener, tell=guard.tell)
            if status is not None:
                return status
        service = opened.enter_context(_service(run_dir, limits))
        from ds2f.serving.server import serve

        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        told = partial(guard.tell, f"serve: {service.model} at {address}")
        serve(service, [listener], on_listen=told, access_log=chosen.access_log)
    return 0


def _listener(host: str, port: int) -> socket.socket:
    """A bound socket.

    Raises:
      InputError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise InputError(f"--host={host} --port={port}: {error.strerror}; choose another address or port") from error
    return listener


@contextmanager
def _service(run_dir: Path, limits: ServingConfig) -> "Iterator[Service]":
    """The model of the run, with its queue and the processes of its decoder."""
    import torch

    from ds2f import decode
    from ds2f.inference import pieces
    from ds2f.processes import cpu_count
    from ds2f.serving.api_keys import read_keys
    from ds2f.serving.service import Service

    chosen, lm = absl_flags.FLAGS, decoding.settings()
    keys, model = read_keys(Path(chosen.api_keys)) if chosen.api_keys else None, models.find(run_dir)
    cfg, cut = flags.config_from_flags(model.stored), partial(pieces.cut, cutting=model.cutting())
    with ExitStack() as opened:
        searching: dict[str, Any] = {"decoder": decode.greedy}
        pool = hot = None
        if lm.searches:
            hot = decoding.hot_words(lm, cfg.model.labels)
            apart = attrs.evolve(lm, workers=max(_LEAST_SEARCHING, lm.workers or cpu_count()))
            pool = opened.enter_context(decoding.beam_pool(apart, cfg.model.labels))
            searching = {"decoder": pool.best(lm, hot_words=hot), "decoding": pool.workers}
        backend = models.backend(model, cfg)
        if chosen.workers > 1 and "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, cpu_count() // chosen.workers))
        recognizer = models.recognizer(model, cfg, backend, cut=cut, **searching)
        make_decode = partial(_decode_for, recognizer, pool, lm, hot) if pool else None
        service = Service(
            recognizer,
            cfg=limits,
            model=model.name,
            endpointing=flags.section_from_flags("endpoint", EndpointConfig),
            keys=keys,
            make_decode=make_decode,
            decoding=searching.get("decoding", 1),
        )
        yield opened.enter_context(service)


def _decode_for(
    recognizer: "Recognizer",
    pool: "BeamPool",
    lm: BeamConfig,
    own: "HotWords | None",
    phrases: tuple[str, ...],
    nbest: int,
) -> "Decode":
    """The decoder of a request, with its hot words beside the server's own, and its number of alternatives."""
    hot_words = _with_phrases(own, phrases, recognizer.cfg.model.labels, boost=lm.hot_words_boost)
    alternatives = partial(pool.beam, cfg=lm, hot_words=hot_words, most=nbest) if nbest > 1 else None
    return partial(recognizer.segment, decoder=pool.best(lm, hot_words=hot_words), alternatives=alternatives)


def _with_phrases(
    own: "HotWords | None", phrases: Sequence[str], labels: Sequence[str], *, boost: float
) -> "HotWords | None":
    """Hot words with a client's phrases, without those that the labels cannot spell: a prompt may be any text."""
    from ds2f.decode import HotWords, make_hot_words

    found = dict(own.phrases) if own else {}
    for phrase in phrases:
        with suppress(InputError):
            ((word, value),) = make_hot_words([phrase], labels, boost=boost).phrases
            found.setdefault(word, value)
    return HotWords(tuple(found.items()), tuple(labels)) if found else None


if __name__ == "__main__":
    flags.run(main, output_matters=False)
