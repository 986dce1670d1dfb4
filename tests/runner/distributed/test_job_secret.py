"""The job's secret: which files are refused, and that a state without its tag is never unpickled."""

import base64
import pickle
from datetime import timedelta

import pytest
from strangers import Malice
from torch.distributed import HashStore
from torch.distributed.elastic.rendezvous import RendezvousConnectionError
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import C10dRendezvousBackend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler, RendezvousTimeout

from ds2f.config import Config
from ds2f.errors import InputError
from ds2f.runner.distributed.job_secret import SignedBackend, read_secret, sign, verify

SECRET = b"a secret of these tests"
KEY = "torch.rendezvous.job"


def file_of(folder, content, mode=0o600):
    path = folder / "job.secret"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_a_secret_is_the_content_of_a_private_file(tmp_path):
    assert read_secret(file_of(tmp_path, SECRET + b"\r\n")) == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_may_read_or_write_is_refused_with_the_remedy(tmp_path, mode):
    with pytest.raises(InputError, match=r"other users may read or write.*chmod 600 .*job\.secret"):
        read_secret(file_of(tmp_path, SECRET, mode))


@pytest.mark.parametrize("content", [b"", b"short\n", b" " * 100, b"x" * 2**17])
def test_a_content_that_is_no_secret_is_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"16 to 65536 bytes is needed\. Make one"):
        read_secret(file_of(tmp_path, content))


def test_a_missing_file_and_a_folder_are_refused_with_the_remedy(tmp_path):
    with pytest.raises(InputError, match=r"none cannot be read: No such file.*token_hex"):
        read_secret(str(tmp_path / "none"))
    with pytest.raises(InputError, match="--rdzv_secret_file="):
        read_secret(str(tmp_path))


def test_several_machines_without_a_secret_are_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"nnodes=2: several machines need --rdzv_secret_file=FILE.*chmod 600"):
        Config(nnodes="2", rdzv_endpoint="10.0.0.1:29500", rdzv_id="job")


@pytest.mark.parametrize(("secret", "purpose"), [(b"another secret of tests", "a"), (SECRET, "b")])
def test_a_value_of_another_secret_or_purpose_is_not_accepted(secret, purpose):
    signed = sign(SECRET, "a", b"value")
    assert verify(SECRET, "a", signed) == b"value"
    assert verify(secret, purpose, signed) is None
    for position in range(len(signed)):
        changed = bytearray(signed)
        changed[position] ^= 1
        assert verify(SECRET, "a", bytes(changed)) is None


def join(store):
    backend = SignedBackend(C10dRendezvousBackend(store, "job"), SECRET, "job")
    timeout = RendezvousTimeout(join=timedelta(seconds=20), last_call=timedelta(seconds=0.1))
    handler = DynamicRendezvousHandler.from_backend(
        run_id="job", store=store, backend=backend, min_nodes=1, max_nodes=2, local_addr="127.0.0.1", timeout=timeout
    )
    return handler, backend


@pytest.fixture
def pickle_bomb(tmp_path):
    """A state that makes a folder when it is unpickled, and the folder."""
    return base64.b64encode(pickle.dumps(Malice(tmp_path / "made"))).decode(), tmp_path / "made"


def test_the_bomb_of_these_tests_is_live(pickle_bomb):
    bomb, made = pickle_bomb
    store = HashStore()
    backend = C10dRendezvousBackend(store, "job")
    store.set(KEY, bomb)
    pickle.loads(backend.get_state()[0])
    assert made.exists()


def test_a_forged_state_before_and_during_a_rendezvous_is_replaced_and_never_unpickled(
    pickle_bomb, monkeypatch, caplog
):
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    bomb, made = pickle_bomb
    store = HashStore()
    store.set(KEY, bomb)
    handler, backend = join(store)
    assert backend.get_state() is None
    info = handler.next_rendezvous()
    assert (info.rank, info.world_size) == (0, 1)
    for _ in range(3):
        store.set(KEY, bomb)
        handler._state_holder._last_sync_time = -1  # torch reads the state once a second
        assert handler.num_nodes_waiting() == 0
        assert not handler.is_closed()
    assert backend.get_state() is not None
    handler.shutdown()
    assert handler.is_closed()
    assert not made.exists()
    assert caplog.text.count("holds a state that no machine with this --rdzv_secret_file has written") == 1


def test_a_state_that_is_no_base64_counts_as_a_server_that_cannot_be_used():
    store = HashStore()
    backend = SignedBackend(C10dRendezvousBackend(store, "job"), SECRET, "job")
    store.set(KEY, "x")
    with pytest.raises(RendezvousConnectionError, match="cannot be read"):
        backend.get_state()
