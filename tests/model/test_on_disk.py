"""Training on counts that stay on disk."""

import anndata as ad
import numpy as np
import pytest
import scvi
import torch
import zarr
from anndata.experimental import read_elem_lazy
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from scldm import SCLDM
from scldm.data import read_on_disk
from scldm.model import _loading
from scldm.model._storage import chunks_of, is_on_disk, read_rows

QUIET = {"enable_progress_bar": False}
KEYS = {"cell_type_key": "type", "batch_key": "donor", "continuous_covariate_keys": ["age"]}


@pytest.fixture
def cells(adata):
    """Cells whose counts stand in ``X``."""
    adata.X = adata.layers.pop("counts")
    return adata


@pytest.fixture
def folder(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells.write_zarr(tmp_path / "cells.zarr")
    dense = cells.copy()
    dense.X = cells.X.toarray()
    dense.write_h5ad(tmp_path / "dense.h5ad")
    dense.write_zarr(tmp_path / "dense.zarr")
    return tmp_path


def in_zarr(folder, matrix):
    group = zarr.open_group(folder / "cells.zarr", mode="r")
    rest = {name: read_elem(group[name]) for name in ("obs", "var")}
    return ad.AnnData(X=matrix(group["X"]), **rest)


OPENED = {
    "backed": lambda folder: ad.read_h5ad(folder / "cells.h5ad", backed="r"),
    "zarr": lambda folder: in_zarr(folder, sparse_dataset),
    "dask": lambda folder: in_zarr(
        folder, lambda x: read_elem_lazy(x, chunks=(64, x.attrs["shape"][1]))
    ),
    "h5ad": lambda folder: read_on_disk(folder / "cells.h5ad"),
    "dense h5ad": lambda folder: read_on_disk(folder / "dense.h5ad"),
    "dense zarr": lambda folder: read_on_disk(folder / "dense.zarr"),
}


def trained_on(data, **kwargs):
    scvi.settings.seed = 0
    SCLDM.setup_anndata(data, **KEYS)
    model = SCLDM(data, n_hidden=16, n_latent=4, width=16, depth=1)
    model.train(max_epochs=3, max_steps=200, batch_size=64, **QUIET, **kwargs)
    return model


@pytest.mark.parametrize("kind", OPENED)
def test_rows_are_those_of_the_matrix(kind, cells, folder):
    if kind == "dask":
        pytest.importorskip("dask")
    counts, truth = OPENED[kind](folder).X, cells.X.toarray()
    assert is_on_disk(counts)

    def dense(x):
        return x.toarray() if sparse.issparse(x) else x

    for rows in (np.arange(400), np.array([3, 4, 5, 200, 201, 399]), np.array([9, 2, 300, 2]), []):
        rows = np.asarray(rows, dtype=int)
        np.testing.assert_array_equal(dense(read_rows(counts, rows)), truth[rows])
    np.testing.assert_array_equal(
        np.concatenate([dense(x) for x in chunks_of(counts, 150)]), truth
    )


def test_every_kind_of_file_gives_the_same_model(folder):
    """Which shows that cells and their conditions stay together, and nothing depends on the format."""
    kinds = [k for k in OPENED if k != "dask"]
    weights = [trained_on(OPENED[kind](folder)).module.state_dict() for kind in kinds]
    for other in weights[1:]:
        for name, value in weights[0].items():
            assert torch.allclose(value, other[name], atol=1e-6), name


def test_training_from_dask(folder):
    pytest.importorskip("dask")
    lazy, backed = trained_on(OPENED["dask"](folder)), trained_on(OPENED["zarr"](folder))
    for name, value in backed.module.state_dict().items():
        assert torch.allclose(value, lazy.module.state_dict()[name], atol=1e-6), name


def test_it_learns_as_from_memory(cells, folder):
    """The order of the cells differs, so the losses are alike and not the same."""
    losses = []
    for data in (cells, read_on_disk(folder / "cells.zarr")):
        scvi.settings.seed = 0
        SCLDM.setup_anndata(data, **KEYS)
        model = SCLDM(data, n_hidden=16, n_latent=4, width=16, depth=1)
        model.train_autoencoder(30, batch_size=64, **QUIET)
        losses.append(float(model.history["reconstruction_loss_validation"].iloc[-1, 0]))
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_cells_are_encoded_in_the_order_asked_for(cells, folder):
    data = read_on_disk(folder / "cells.zarr")
    model = trained_on(data)
    whole = model.get_latent_representation(data)
    SCLDM.setup_anndata(cells, **KEYS)
    np.testing.assert_allclose(whole, model.get_latent_representation(cells), atol=1e-5)
    rows = [7, 300, 2, 8]
    np.testing.assert_allclose(
        model.get_latent_representation(data, indices=rows), whole[rows], atol=1e-5
    )


def test_minibatches_mix_a_sorted_file(cells, tmp_path):
    order = np.argsort(cells.obs["type"].cat.codes.to_numpy(), kind="stable")
    cells[order].copy().write_zarr(tmp_path / "sorted.zarr")
    data = read_on_disk(tmp_path / "sorted.zarr")
    SCLDM.setup_anndata(data, **KEYS)
    model = SCLDM(data, n_hidden=16, n_latent=4, width=16, depth=1)
    loader = model._cells_to_train_on(64, train_size=0.9, validation_size=None)
    epochs = [
        torch.cat([m["labels"] for m in loader.train_dataloader()]).ravel() for _ in range(2)
    ]
    assert not torch.equal(*epochs)
    assert torch.equal(*[e.sort().values for e in epochs])
    share = [(m["labels"] == 0).float().mean() for m in loader.train_dataloader()]
    assert max(share) - min(share) < 0.5  # 1 in a sorted order


def test_several_files_are_one_data_set(cells, folder):
    pytest.importorskip("dask")
    cells[:100, :30].copy().write_h5ad(folder / "other.h5ad")
    data = read_on_disk([folder / "cells.zarr", folder / "other.h5ad"])
    assert data.shape == (500, 30)
    assert data.obs["file"].value_counts().to_list() == [400, 100]
    assert data.obs_names.is_unique
    np.testing.assert_array_equal(
        read_rows(data.X, np.arange(390, 410)).toarray(),
        np.concatenate([cells.X[390:, :30].toarray(), cells.X[:10, :30].toarray()]),
    )
    model = trained_on(data)
    assert model.generate(5, seed=0).shape == (5, 30)


def test_large_latents_are_mapped_from_a_file(cells, monkeypatch):
    SCLDM.setup_anndata(cells, **KEYS)
    model = SCLDM(cells, n_hidden=16, n_latent=4, width=16, depth=1)
    inside = model._encode(cells)
    monkeypatch.setattr(_loading, "_MOST_IN_MEMORY", 0)
    mapped = model._encode(cells)
    assert mapped.mean.untyped_storage().data_ptr() != inside.mean.untyped_storage().data_ptr()
    for name in ("mean", "variance", "log_library"):
        assert torch.equal(getattr(inside, name), getattr(mapped, name))


def test_what_cannot_be_read_is_said(cells, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_on_disk(tmp_path / "none.h5ad")
    with pytest.raises(ValueError, match="must end in"):
        (tmp_path / "cells.csv").touch()
        read_on_disk(tmp_path / "cells.csv")
    with pytest.raises(KeyError, match="is not a layer of"):
        read_on_disk(folder / "cells.h5ad", layer="counts")
    with pytest.raises(ValueError, match="`paths` is empty"):
        read_on_disk([])
    by_columns = cells.copy()
    by_columns.X = sparse.csc_matrix(cells.X)
    by_columns.write_h5ad(tmp_path / "columns.h5ad")
    with pytest.raises(ValueError, match="by columns"):
        SCLDM.setup_anndata(read_on_disk(tmp_path / "columns.h5ad"))
    fractions = cells.copy()
    fractions.X = cells.X * 0.5
    fractions.write_zarr(tmp_path / "fractions.zarr")
    with pytest.raises(ValueError, match="fractions"):
        SCLDM.setup_anndata(read_on_disk(tmp_path / "fractions.zarr"))
