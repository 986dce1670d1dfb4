"""What the checks share: settings, the device, opened when the first check needs it, and the form of a check."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ds2f.config import Config
from ds2f.errors import InputError
from launch.doctor.verdict import Line

if TYPE_CHECKING:
    from ds2f.runner.device.backend import Backend


class Session:
    """The settings of the checks, and their device."""

    def __init__(self, cfg: Config) -> None:
        """Takes a resolved configuration; ``cfg.device`` may be ``auto``."""
        self.cfg = cfg
        self.problem = ""  # why the device does not open
        self._backend: Backend | None = None

    @cached_property
    def kind(self) -> str:
        """The type of the devices: npu, cuda or cpu; for ``auto`` the type that the machine seems to have."""
        from ds2f.runner.device import inspection

        return inspection.likely_kind(self.cfg.device)

    def backend(self) -> "Backend":
        """The device.

        Raises:
          InputError: it does not open.
        """
        from ds2f.runner.device.backend import open_backend

        if self.problem:
            raise InputError(self.problem)
        if self._backend is None:
            try:
                self._backend = open_backend(self.kind)
            except InputError as error:
                self.problem = str(error)
                raise
        return self._backend


class Check(NamedTuple):
    """One check; it gives lines, and runs in a process that may crash or hang."""

    group: str  # heading
    name: str  # of its line, where it gives none of its own because it crashes or hangs
    run: Callable[[Session], Iterable[Line]]
    seconds: float = 20.0  # limit; afterwards the check counts as hanging
    device: bool = True  # whether it is left out where the device does not open
    remedy: str = ""  # where it crashes or hangs
    needed: bool = True  # whether a training with default flags needs what it checks
    gate: bool = False  # whether the checks after it are left out where it crashes or hangs
