"""The job's secret: it authenticates the machines of a job to each other, and the values that torch unpickles."""

import hmac
import logging
import os
import stat
from pathlib import Path

from torch.distributed.elastic.rendezvous import RendezvousConnectionError, RendezvousStateError
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import RendezvousBackend, Token

from ds2f.errors import InputError

log = logging.getLogger(__name__)

MIN_BYTES, MAX_BYTES = 16, 2**16
TAG_BYTES = 32
HOW_TO_MAKE = (
    "Make one and copy it to all machines: python -c 'import secrets; print(secrets.token_hex(32))' > job.secret && "
    "chmod 600 job.secret"
)


def read_secret(path: str) -> bytes:
    """Reads ``--rdzv_secret_file``, without spaces and line ends around it.

    Raises:
      InputError: when there is no such file, other users may read or write it, or its content is short.
    """
    flag = f"--rdzv_secret_file={path}"
    try:
        descriptor = os.open(Path(path).expanduser(), os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            facts = os.fstat(file.fileno())
            content = file.read(MAX_BYTES + 1).strip() if stat.S_ISREG(facts.st_mode) else b""
    except OSError as error:
        raise InputError(f"{flag} cannot be read: {error.strerror}. {HOW_TO_MAKE}") from error
    if facts.st_mode & 0o077 or facts.st_uid not in (0, os.geteuid()):
        raise InputError(f"{flag}: other users may read or write the file. It must be yours alone: chmod 600 {path}")
    if not MIN_BYTES <= len(content) <= MAX_BYTES:
        raise InputError(f"{flag}: a file of {MIN_BYTES} to {MAX_BYTES} bytes is needed. {HOW_TO_MAKE}")
    return content


def sign(secret: bytes, purpose: str, value: bytes) -> bytes:
    """``value`` with its tag in front, HMAC-SHA256 over purpose and value."""
    return _tag(secret, purpose, value) + value


def verify(secret: bytes, purpose: str, signed: bytes) -> bytes | None:
    """The value that ``sign`` got; None when somebody without the secret made ``signed``, or for another purpose.

    >>> verify(b"k" * 16, "job", sign(b"k" * 16, "job", b"value"))
    b'value'
    >>> verify(b"k" * 16, "job", b"?" * 32 + b"value") is None
    True
    """
    tag, value = signed[:TAG_BYTES], signed[TAG_BYTES:]
    return value if hmac.compare_digest(tag, _tag(secret, purpose, value)) else None


def _tag(secret: bytes, purpose: str, value: bytes) -> bytes:
    name = purpose.encode()
    return hmac.digest(secret, len(name).to_bytes(8, "big") + name + value, "sha256")


class SignedBackend(RendezvousBackend):
    """torch's backend of a rendezvous, with signed states: torch unpickles a state, which can execute code.

    A state without a valid tag counts as absent: the last valid state that this machine has seen takes its place.
    """

    def __init__(self, backend: RendezvousBackend, secret: bytes, job: str) -> None:
        """Takes the backend that stores the states."""
        self._backend, self._secret, self._purpose = backend, secret, f"state of {job}"
        self._last: bytes | None = None  # the last valid state, signed
        self._warned = False

    @property
    def name(self) -> str:
        """The name of the backend below."""
        return self._backend.name

    def get_state(self) -> tuple[bytes, Token] | None:
        """The stored state and its version; None where there is none."""
        with _translating_junk():
            found = self._backend.get_state()
        if found is None:
            return None
        state = self._verify(found[0])
        if state is not None:
            return state, found[1]
        if self._last is None:
            return None
        with _translating_junk():
            repaired = self._backend.set_state(self._last, found[1])
        state = None if repaired is None else self._verify(repaired[0])
        return None if repaired is None or state is None else (state, repaired[1])

    def set_state(self, state: bytes, token: Token | None = None) -> tuple[bytes, Token, bool] | None:
        """Stores a state if the stored one still has the version ``token``, and returns what is stored afterwards."""
        signed = sign(self._secret, self._purpose, state)
        with _translating_junk():
            answer = self._backend.set_state(signed, token)
            if answer is not None and self._verify(answer[0]) is None:
                answer = self._backend.set_state(signed, answer[1])  # in the place of the forged state
        stored = None if answer is None else self._verify(answer[0])
        return None if answer is None or stored is None else (stored, answer[1], answer[2])

    def _verify(self, signed: bytes) -> bytes | None:
        state = verify(self._secret, self._purpose, signed)
        if state is not None:
            self._last = signed
        elif not self._warned:
            self._warned = True
            log.warning(
                "the rendezvous holds a state that no machine with this --rdzv_secret_file has written; it is ignored "
                "and replaced. Either a machine has another secret, or somebody else writes there"
            )
        return state


class _translating_junk:  # noqa: N801  # used like a function
    """Turns torch's error for a state that is no base64 into the error of a server that cannot be used."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, RendezvousStateError):
            raise RendezvousConnectionError("the rendezvous holds a state that cannot be read") from error
