"""Simulated cells of several modalities are what their truth says."""

import numpy as np
import pytest

from scldm.data import simulate_multiome


def test_counts_have_their_means():
    mdata = simulate_multiome(40, 30, 5, 20, n_rounds=300)
    for name in ("rna", "protein", "atac"):
        part = mdata[name]
        x = part.X.toarray().reshape(300, 40, -1)
        mean = part.layers["mean"][:40]
        error = 6 * x.std(axis=0) / np.sqrt(300) + 0.05
        assert (np.abs(x.mean(axis=0) - mean) < error).all()
    assert set(np.unique(mdata["atac"].X.toarray())) == {0, 1}


def test_modalities_share_the_state():
    mdata = simulate_multiome(500)
    state = np.column_stack([mdata.obsm["state"], np.ones(500)])
    for name in ("rna", "protein", "atac"):
        log_mean = np.log(mdata[name].layers["mean"])
        for kind in "ABC":
            rows = (mdata.obs["cell_type"] == kind).to_numpy()
            fitted, *_ = np.linalg.lstsq(state[rows], log_mean[rows], rcond=None)
            left = log_mean[rows] - state[rows] @ fitted
            share = left.var(axis=0).sum() / log_mean[rows].var(axis=0).sum()
            # the size of RNA and the bend of the logit are not in the state
            assert share < 0.35


def test_features_do_not_depend_on_cells():
    few, many = simulate_multiome(50), simulate_multiome(300)
    assert few["rna"].var_names.equals(many["rna"].var_names)
    for name in ("rna", "protein"):
        levels = [m[name].layers["mean"].mean(axis=0) for m in (few, many)]
        assert np.corrcoef(np.log(levels[0]), np.log(levels[1]))[0, 1] > 0.9


def test_a_modality_can_be_left_out():
    assert set(simulate_multiome(10, n_peaks=0).mod) == {"rna", "protein"}
    for wrong in ({"n_cells": 0}, {"n_genes": 0, "n_peaks": 0}, {"n_proteins": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            simulate_multiome(**{"n_cells": 5, **wrong})
