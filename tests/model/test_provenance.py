"""What is written beside cells."""

import threading
from importlib.metadata import version

import anndata as ad
import numpy as np
import pytest

from scldm import SCLDM
from scldm.model._provenance import provenance, recorded


def test_cells_know_the_call_and_the_versions(trained, tmp_path):
    new = trained.generate(4, cell_type=["B", "NK", "B", "T"], seed=3, batch_size=np.int64(2))
    record = new.uns["scldm"]
    expected = "SCLDM.generate(n_cells=4, cell_type=['B', 'NK', 'B', 'T'], seed=3, batch_size=2)"
    assert record["call"] == expected
    assert record["versions"]["torch"] == version("torch")
    assert record["versions"]["scvi-tools"] == version("scvi-tools")
    new.write_h5ad(tmp_path / "new.h5ad")
    assert ad.read_h5ad(tmp_path / "new.h5ad").uns["scldm"]["call"] == expected
    # the call can be made again
    again = eval(f"model.{expected.split('.', 1)[1]}", {"model": trained})
    assert (again.X != new.X).nnz == 0


def test_large_arguments_are_named_by_their_size(trained):
    spatial = np.random.default_rng(0).normal(100, 20, (30, 2))
    called = trained.generate(30, spatial=spatial, seed=0).uns["scldm"]["call"]
    assert called == "SCLDM.generate(n_cells=30, spatial=<ndarray 30 x 2>, seed=0)"


def test_a_file_knows_the_call(trained, tmp_path):
    path = tmp_path / "new.h5ad"
    trained.generate(3, seed=0, out=path)
    called = ad.read_h5ad(path).uns["scldm"]["call"]
    assert called == f"SCLDM.generate(n_cells=3, seed=0, out={str(path)!r})"


class Caller:
    def __init__(self):
        self.wait = threading.Barrier(2, timeout=10)

    @recorded
    def outer(self, x):
        return self.inner(y=2)

    @recorded
    def inner(self, y):
        return provenance()["call"]

    @recorded
    def together(self, i):
        self.wait.wait()
        return provenance()["call"]

    @recorded
    def fails(self):
        raise KeyError


def test_the_users_own_call_is_kept():
    caller = Caller()
    assert caller.outer(1) == "Caller.outer(x=1)"
    assert caller.inner(5) == "Caller.inner(y=5)"
    with pytest.raises(KeyError):
        caller.fails()
    assert "call" not in provenance()


def test_threads_do_not_mix_their_calls():
    caller, found = Caller(), {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: caller.together(i)})) for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {0: "Caller.together(i=0)", 1: "Caller.together(i=1)"}


def test_the_signature_stays():
    assert "n_cells" in SCLDM.generate.__wrapped__.__code__.co_varnames
    assert SCLDM.generate.__doc__
