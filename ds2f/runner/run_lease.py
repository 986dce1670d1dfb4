"""The leases of a run: of its folder, and of its checkpoints' folder if that is another one."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ds2f.config import Config
from ds2f.files import is_local
from ds2f.runner import lease
from ds2f.runner.lease import Lease


class RunLease:
    """The leases that this process holds for its run."""

    def __init__(self, leases: Sequence[Lease]) -> None:
        """Takes the leases."""
        self._leases = leases

    @property
    def messages(self) -> list[str]:
        """Messages for the log: whose leases were taken over, and why."""
        return [message for each in self._leases for message in each.messages]

    def keep(self) -> None:
        """Starts the heartbeats, in threads; call it after the last fork."""
        for each in self._leases:
            each.keep()

    def require(self) -> None:
        """Checks that no other job has taken a lease over.

        Raises:
          InputError: another job writes the folder now.
        """
        for each in self._leases:
            each.require()


@contextmanager
def hold(run_dir: Path, cfg: Config, *, job: str = "") -> Iterator[RunLease]:
    """Holds the leases of a run inside a ``with`` statement. A bucket has none.

    Args:
      run_dir: the run's folder.
      cfg: ``checkpointing.folder`` is read.
      job: as for ``lease.hold``.

    Raises:
      InputError: another job holds a folder, or a folder cannot be written.
    """
    with ExitStack() as stack:
        leases = [stack.enter_context(lease.hold(run_dir, job=job))]
        folder = Path(cfg.checkpointing.folder or run_dir)
        if is_local(cfg.checkpointing.folder) and folder.resolve() != run_dir.resolve():
            leases.append(stack.enter_context(lease.hold(folder, job=job, flag="--checkpointing.folder")))
        yield RunLease(leases)
