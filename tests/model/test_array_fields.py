"""What the registry keeps of coordinates, and which arrays stand for them."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scldm import SCLDM
from scldm.model._array_fields import CoordinatesField


def grid(n_dims=2, side=8, step=2.0, depths=(0.0, 30.0)):
    x = step * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    if n_dims == 3:
        x = np.concatenate([np.column_stack([x, np.full(len(x), z)]) for z in depths])
    return x.astype(float)


def data(x, batch=None, seed=0):
    counts = np.random.default_rng(seed).poisson(3, (len(x), 6)) + 1
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.obs_names = [f"cell_{i}" for i in range(len(x))]
    adata.obs["slide"] = pd.Categorical(["a"] * len(x) if batch is None else batch)
    adata.obsm["spatial"] = x
    return adata


def state_of(adata, batch_key=None):
    return CoordinatesField("place", "spatial", "spatial_key", batch_key).register_field(adata)


def test_measures_are_kept_by_axis():
    state = state_of(data(grid()))
    np.testing.assert_allclose(state["mean"], [7, 7])
    np.testing.assert_allclose(state["spacing"], [2, 2])
    np.testing.assert_allclose(state["spread"], 2 * np.sqrt((8**2 - 1) / 12))
    assert isinstance(state["spread"], list) and isinstance(state["spacing"], list)
    stack = state_of(data(grid(3)))
    np.testing.assert_allclose(stack["spacing"], [2, 2, 30])
    np.testing.assert_allclose(stack["spread"], [*state["spread"], 15])


def test_spacing_in_a_plane_is_that_within_batches():
    """Slides on top of one another are no nearer to one another than cells of a slide are."""
    x = np.concatenate([grid(), grid() + 0.1])
    adata = data(x, np.repeat(["a", "b"], 64))
    np.testing.assert_allclose(state_of(adata, "slide")["spacing"], 2)
    np.testing.assert_allclose(state_of(adata)["spacing"], 0.1 * np.sqrt(2))
    # a stack is one space, whatever the batch
    x = grid(3)
    adata = data(x, np.repeat(["a", "b"], 64))
    np.testing.assert_allclose(state_of(adata, "slide")["spacing"], [2, 2, 30])


def test_spread_is_that_of_all_cells():
    """Coordinates of `generate()` are the user's, so a slide far away stays far away."""
    x = np.concatenate([grid(), grid() + 1000])
    adata = data(x, np.repeat(["a", "b"], 64))
    assert (np.array(state_of(adata, "slide")["spread"]) > 400).all()
    np.testing.assert_allclose(state_of(adata, "slide")["spacing"], 2)


def model_of(adata):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        SCLDM.setup_anndata(adata, batch_key="slide", spatial_key="spatial")
    return SCLDM(adata, n_latent=2, n_hidden=8, width=16, depth=1)


def framed(adata, names=("x", "y")):
    new = adata.copy()
    new.obsm["spatial"] = pd.DataFrame(
        adata.obsm["spatial"], index=adata.obs_names, columns=list(names)
    )
    return new


def test_an_array_and_a_data_frame_stand_for_each_other():
    plain = data(grid())
    frame, other_names = framed(plain), framed(plain, ("row", "column"))
    for own, other in ((plain, frame), (frame, plain), (frame, other_names)):
        model = model_of(own.copy())
        read = model._read_conditions(model._validate_anndata(other.copy()))
        np.testing.assert_array_equal(read[["spatial_0", "spatial_1"]], plain.obsm["spatial"])


@pytest.mark.parametrize("kind", ["array", "frame"])
def test_another_number_of_columns_is_refused(kind):
    model = model_of(data(grid()))
    other = data(grid(3)[:64])
    if kind == "frame":
        other = framed(other, "xyz")
    with pytest.raises(ValueError, match="has 3 columns, but the model was trained with 2"):
        model._validate_anndata(other)
    with pytest.raises(ValueError, match="coordinates have two or three columns"):
        model._validate_anndata(data(np.ones((9, 4))))
