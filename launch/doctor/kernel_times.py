"""Times of the recurrent kernels that ``--model.kernel=auto`` chooses from, on a card; a training finds them again."""

from collections.abc import Iterator

from ds2f.precision import short_name
from ds2f.runner.device import autotune
from launch.doctor.check_session import Check, Session
from launch.doctor.verdict import OK, Line

KERNELS = "recurrent kernels"
_BATCHES = (10, 32, 64)


def checks() -> list[Check]:
    """A check per batch size; each takes about a second."""
    return [
        Check(KERNELS, f"batch {size}", lambda session, size=size: times(session, size), needed=False)  # type: ignore[misc]
        for size in _BATCHES
    ]


def times(session: Session, size: int) -> Iterator[Line]:
    """The time of a layer of the flags' model with each kernel, and the kernel that ``auto`` takes. None on a CPU."""
    backend = session.backend()
    cfg, policy = session.cfg.model, backend.policy(session.cfg.apex)
    if backend.name == "cpu" or len(autotune.candidates(cfg, dtype=policy.compute, backend=backend)) == 1:
        return  # on a CPU, timing takes longer and is left to a training
    seconds = autotune.measure(cfg, batch_size=size, dtype=policy.compute, backend=backend)
    found = ", ".join(f"{name} {1000 * value:.3g} ms" for name, value in seconds.items())
    name = f"{cfg.rnn_type} of {cfg.hidden_size}, batch {size}, {short_name(policy.compute)}"
    yield Line(KERNELS, name, OK, f"{found}: auto takes {autotune.fastest(seconds)}")
