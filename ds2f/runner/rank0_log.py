"""The log of a job of several ranks: rank 0 writes the messages of all ranks."""

from collections.abc import Iterable

from ds2f.runner.distributed.collectives import Group
from ds2f.runner.telemetry import Telemetry


class RankZeroLog:
    """Logs messages of all ranks through rank 0's telemetry."""

    def __init__(self, telemetry: Telemetry, group: Group) -> None:
        """Takes this rank's telemetry."""
        self._telemetry, self._group = telemetry, group

    def log(self, message: str) -> None:
        """Logs a message that all ranks have, once."""
        if self._group.rank == 0:
            self._telemetry.log(message)

    def flush(self) -> None:
        """Logs the messages that the other ranks have buffered. All ranks call it together."""
        for line in self._union(self._telemetry.take()):
            self.log(line)

    def log_unreadable(self, reasons: Iterable[str]) -> None:
        """Logs the recordings that some rank could not read during training. All ranks call it together.

        Args:
          reasons: a line for each recording that this rank could not read.
        """
        excluded = self._union(reasons)
        if excluded:
            recordings = "recording" if len(excluded) == 1 else "recordings"
            self.log("\n  ".join([f"{len(excluded)} {recordings} excluded, could not be read:", *excluded]))

    def _union(self, lines: Iterable[str]) -> list[str]:
        """The lines of all ranks, in order and without repetitions."""
        return list(dict.fromkeys(line for rank_lines in self._group.gather(list(lines)) for line in rank_lines))
