"""Cells written to disk as they are made."""

import os

import anndata as ad
import numpy as np
import pytest

import scldm
from scldm.model import _generation, _streaming

N = 600  # three parts, the last not whole


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(_generation, "_CELLS_OF_A_PART", 256)


@pytest.fixture(scope="module")
def cells(trained):
    return trained.generate(N, seed=3)


def read(path):
    return ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)


def assert_same(found, expected):
    assert (found.X != expected.X).nnz == 0
    np.testing.assert_array_equal(found.obsm["X_scldm"], expected.obsm["X_scldm"])
    np.testing.assert_array_equal(found.obs.to_numpy(), expected.obs.to_numpy())
    assert found.obs_names.equals(expected.obs_names)
    assert found.var_names.equals(expected.var_names)
    assert set(found.obsm) == set(expected.obsm)


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupted(trained, monkeypatch):
    """Stop in the second part."""
    whole = type(trained)._count_block
    n_blocks = 0

    def count_block(self, *args):
        nonlocal n_blocks
        n_blocks += 1
        if n_blocks == 2:
            raise Interrupted
        return whole(self, *args)

    def run(path, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(type(trained), "_count_block", count_block)
            with pytest.raises(Interrupted):
                trained.generate(N, out=path, **kwargs)

    return run


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_a_file_has_the_cells_that_are_made_in_memory(trained, cells, tmp_path, name):
    path = trained.generate(N, seed=3, out=tmp_path / name)
    assert path == tmp_path / name
    found = read(path)
    assert_same(found, cells)
    assert found.uns["scldm"]["seed"] == 3
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("most, kind", [(None, np.int32), (1000, np.int64)])
@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_indices_are_of_one_kind_that_can_count_all_entries(
    trained, cells, tmp_path, monkeypatch, name, most, kind
):
    """scipy refuses to take rows of a matrix whose pointers are of another kind than its columns."""
    if most is not None:
        monkeypatch.setattr(_streaming, "_MOST_IN_32_BITS", most)
    found = read(trained.generate(N, seed=3, out=tmp_path / name)).X
    assert found.indptr.dtype == found.indices.dtype == kind
    assert (found[::7] != cells.X[::7]).nnz == 0


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr"])
def test_what_was_cut_off_goes_on_where_it_stopped(trained, cells, interrupted, tmp_path, name):
    path = tmp_path / name
    interrupted(path, seed=3)
    assert not path.exists()
    parts = tmp_path / f".{name}.parts"
    first = parts / "000000.npz"
    assert sorted(p.name for p in parts.iterdir()) == ["000000.npz", "order.json"]
    made = first.stat().st_mtime_ns
    seen = []
    whole = trained._sample_block
    trained._sample_block = lambda order, block, rows: (
        seen.append((block, first.stat().st_mtime_ns)) or whole(order, block, rows)
    )
    try:
        trained.generate(N, seed=3, out=path)
    finally:
        del trained._sample_block
    assert [block for block, _ in seen] == [1, 2]
    assert {time for _, time in seen} == {made}
    assert_same(read(path), cells)
    assert os.listdir(tmp_path) == [name]


def test_without_a_seed_it_goes_on_with_the_one_it_began_with(trained, interrupted, tmp_path):
    path = tmp_path / "cells.h5ad"
    interrupted(path)
    found = read(trained.generate(N, out=path))
    assert_same(found, trained.generate(N, seed=int(found.uns["scldm"]["seed"])))


def test_parts_of_another_order_are_not_mixed_in(trained, interrupted, tmp_path):
    path = tmp_path / "cells.h5ad"
    interrupted(path, seed=3)
    for other in ({"seed": 4}, {"seed": 3, "steps": 2}, {"seed": 3, "cell_type": "B"}):
        with pytest.raises(ValueError, match="parts of another order"):
            trained.generate(N, out=path, **other)
    assert (tmp_path / ".cells.h5ad.parts" / "000000.npz").exists()


def test_processes_share_the_work(trained, cells, tmp_path):
    path = tmp_path / "cells.h5ad"
    for index in (1, 0):
        folder = trained.generate(N, seed=3, out=path, shard=(index, 2))
        assert not path.exists()
    assert sorted(p.name for p in folder.glob("*.npz")) == [f"{i:06d}.npz" for i in range(3)]
    assert_same(read(trained.generate(N, seed=3, out=path)), cells)


def test_a_full_disk_is_said_and_parts_are_kept(trained, cells, tmp_path, monkeypatch):
    path = tmp_path / "cells.h5ad"
    save = np.savez

    def full(file, **arrays):
        if "000001" in file.name:
            raise OSError(28, "No space left on device")
        save(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(_streaming.np, "savez", full)
        with pytest.raises(OSError, match="No space left on device.*000000.npz.*make room"):
            trained.generate(N, seed=3, out=path)
    names = sorted(p.name for p in (tmp_path / ".cells.h5ad.parts").iterdir())
    assert names == ["000000.npz", "order.json"]
    assert_same(read(trained.generate(N, seed=3, out=path)), cells)


def test_library_sizes_come_along(tmp_path):
    data = scldm.data.pbmc68k()[:100, :50].copy()
    data = data[np.asarray(data.X.sum(axis=1)).ravel() > 0].copy()
    data.obs["size"] = np.asarray(data.X.sum(axis=1)).ravel() + 10.0
    scldm.SCLDM.setup_anndata(data, library_size_key="size")
    model = scldm.SCLDM(data, n_hidden=8, n_latent=2, width=8, depth=1)
    model.train(max_epochs=1, max_steps=2, enable_progress_bar=False)
    expected = model.generate(300, seed=0)
    found = read(model.generate(300, seed=0, out=tmp_path / "cells.h5ad"))
    np.testing.assert_allclose(found.obs["size"], expected.obs["size"], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "kwargs", "error", "words"),
    [
        ("cells.csv", {}, ValueError, "must end in .h5ad or .zarr"),
        ("nowhere/cells.h5ad", {}, FileNotFoundError, "there is no folder"),
        ("cells.h5ad", {"shard": (2, 2)}, ValueError, "`shard=\\(2, 2\\)` must be"),
        ("cells.h5ad", {"shard": "all"}, ValueError, "`shard='all'` must be"),
        ("cells.h5ad", {"shard": (0, 2), "seed": None}, ValueError, "needs a `seed`"),
        (None, {"shard": (0, 2)}, ValueError, "`shard` needs `out`"),
    ],
)
def test_bad_requests_are_refused(trained, tmp_path, name, kwargs, error, words):
    out = None if name is None else tmp_path / name
    with pytest.raises(error, match=words):
        trained.generate(10, out=out, **{"seed": 0, **kwargs})
    assert not os.listdir(tmp_path)


def test_a_file_that_is_there_is_not_written_over(trained, tmp_path):
    path = tmp_path / "cells.h5ad"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="exists; remove it"):
        trained.generate(10, seed=0, out=path)
    assert path.read_text() == "mine"
