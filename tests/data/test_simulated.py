"""Simulated perturbations hold what they promise."""

import numpy as np
import pytest

from scldm import data


def log_shares(adata, rows):
    counts = np.asarray(adata.X[rows].sum(axis=0)).ravel() + 0.5
    return np.log(counts / counts.sum())


@pytest.fixture(scope="module")
def dosed():
    return data.simulate_dose_response(400, 60, seed=1)


def test_cells_and_their_conditions(dosed):
    obs = dosed.obs
    assert dosed.shape == (3 * (3 + 5) * 400, 60)
    assert (dosed.X.data == dosed.X.data.round()).all()
    assert set(obs["cell_type"]) == {"A", "B", "C"}
    assert (obs.loc[obs["perturbation"] == "control", "dose"] == 0).all()
    assert (obs.loc[obs["perturbation"] == "drug", "dose"] > 0).all()
    assert set(dosed.var["response"]) == {"sigmoidal", "bell", "none"}


@pytest.mark.parametrize("kind", ["A", "B", "C"])
@pytest.mark.parametrize("dose", [0.3, 3.0])
def test_the_truth_is_what_the_counts_show(dosed, kind, dose):
    """Log shares change by the truth, up to one constant for all genes."""
    of_kind = (dosed.obs["cell_type"] == kind).to_numpy()
    treated = of_kind & (dosed.obs["dose"] == dose).to_numpy()
    control = of_kind & (dosed.obs["dose"] == 0).to_numpy()
    seen = log_shares(dosed, treated) - log_shares(dosed, control)
    true = data.true_log_change(dosed, dose, kind)
    off = seen - true
    assert np.abs(off - np.median(off)).max() < 0.35
    assert np.corrcoef(seen, true)[0, 1] > 0.98


def test_responses_have_their_shapes(dosed):
    path = np.stack(
        [data.true_log_change(dosed, dose, "B") for dose in (0, *np.geomspace(0.01, 100, 201))]
    )
    amplitude = dosed.var["amplitude_B"].to_numpy()
    response = dosed.var["response"].to_numpy()
    rising = path * np.sign(amplitude)
    assert (np.diff(rising[:, response == "sigmoidal"], axis=0) >= 0).all()
    bell = rising[:, response == "bell"]
    assert (bell.max(axis=0) > 0.99 * np.abs(amplitude[response == "bell"])).all()
    assert (bell[-1] < 0.1 * bell.max(axis=0)).all()
    assert not path[:, response == "none"].any()
    assert not path[0].any()
    # half of the full change at the half dose
    gene = np.flatnonzero(response == "sigmoidal")[0]
    half = data.true_log_change(dosed, dosed.var["half_dose"].iloc[gene], "B")[gene]
    assert half == pytest.approx(amplitude[gene] / 2)


def test_only_responders_change():
    adata = data.simulate_responders(500, 60, share=0.3, seed=2)
    treated = (adata.obs["perturbation"] == "drug").to_numpy()
    responder = adata.obs["responder"].to_numpy()
    assert not responder[~treated].any()
    assert responder[treated].mean() == pytest.approx(0.3, abs=0.05)
    for kind in "ABC":
        own = (adata.obs["cell_type"] == kind).to_numpy()
        control = log_shares(adata, own & ~treated)
        silent = log_shares(adata, own & treated & ~responder) - control
        seen = log_shares(adata, own & responder) - control
        assert np.abs(silent).max() < 0.3
        assert np.corrcoef(seen, adata.var["log_change"])[0, 1] > 0.98


@pytest.mark.parametrize("simulate", [data.simulate_dose_response, data.simulate_responders])
def test_seeds(simulate):
    one, same, other = (simulate(10, 20, seed=seed) for seed in (0, 0, 1))
    assert (one.X != same.X).nnz == 0
    assert (one.X != other.X).nnz > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.simulate_dose_response(0), "`n_cells=0`"),
        (lambda: data.simulate_dose_response(5, 2.5), "`n_genes=2.5`"),
        (lambda: data.simulate_dose_response(5, 5, doses=[0.0, 1.0]), "`doses="),
        (lambda: data.simulate_responders(5, 5, share=1.2), "`share=1.2`"),
        (lambda: data.true_log_change(data.simulate_dose_response(2, 5), 1.0, "D"), "'D'"),
        (
            lambda: data.true_log_change(data.simulate_dose_response(2, 5), -1.0, "A"),
            "`dose=-1.0`",
        ),
    ],
)
def test_clear_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
