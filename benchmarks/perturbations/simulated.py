"""Doses and responders, simulated: the truth is known."""

from __future__ import annotations

from collections.abc import Iterator

import anndata as ad
import numpy as np
import scvi

import scldm
from scldm.data._simulated import DISPERSION

from .predictors import log_normalised, scgen
from .tasks import CONTROL, Question, Task

__all__ = ["dose_rows", "responder_rows"]

N_SAMPLES = 10
MIDDLE = 1.0
"""The dose that no model sees; its neighbours are 0.3 and 3."""
METHODS = ("flow", "delta", "arithmetic", "conditional")
RESPONDERS = 0.4

Row = dict[str, object]


def dose_rows(seed: int) -> Iterator[Row]:
    """Errors of mean log expression at a dose between those that were seen, and coverage.

    ``error`` is the mean squared difference, over genes, of the mean of predicted cells from that of
    ten times as many true cells; ``coverage`` the share of true counts between the 5% and the 95%
    quantile of predicted ones, of genes with a mean above 2.
    """
    cells = scldm.data.simulate_dose_response(seed=seed)
    seen = cells[cells.obs["dose"] != MIDDLE].copy()
    model = trained(seen, seed, cell_type_key="cell_type", dose_key="dose")
    for kind in sorted(cells.obs["cell_type"].unique()):
        true = true_cells(cells, kind, 1000, seed)
        own = seen[seen.obs["cell_type"] == kind]

        def mean(dose: float, own: ad.AnnData = own) -> np.ndarray:
            return log_normalised(own[own.obs["dose"] == dose].X).mean(axis=0)

        target = log_normalised(true).mean(axis=0)
        low, high = mean(0.3), mean(3.0)
        share = (MIDDLE - 0.3) / (3.0 - 0.3)
        log_share = np.log(MIDDLE / 0.3) / np.log(3.0 / 0.3)
        guesses = {
            "no change": mean(0.0),
            "between the doses": (1 - share) * low + share * high,
            "between their logarithms": (1 - log_share) * low + log_share * high,
        }
        for name, guess in guesses.items():
            yield {"type": kind, "method": name, "error": np.square(guess - target).mean()}
        control = own[own.obs["perturbation"] == CONTROL].copy()
        for method in METHODS:
            made = model.predict_perturbation(
                control, "drug", MIDDLE, method=method, n_samples=N_SAMPLES, seed=seed
            ).X.toarray()
            error = np.square(log_normalised(made).mean(axis=0) - target).mean()
            ends = np.quantile(made, [0.05, 0.95], axis=0)
            inside = (true >= ends[0]) & (true <= ends[1])
            coverage = inside[:, true.mean(axis=0) > 2].mean()
            yield {
                "type": kind,
                "method": f"scldm, {method}",
                "error": error,
                "coverage": coverage,
            }


def true_cells(cells: ad.AnnData, kind: str, n: int, seed: int) -> np.ndarray:
    """Draw cells of a type at the middle dose, as the simulation does."""
    share = np.exp(cells.var[f"level_{kind}"] + scldm.data.true_log_change(cells, MIDDLE, kind))
    own = (cells.obs["cell_type"] == kind).to_numpy()
    sizes = np.asarray(cells.X[own].sum(axis=1)).ravel()
    rng = np.random.default_rng((seed, 1))
    mu = rng.choice(sizes, (n, 1)) * (share / share.sum()).to_numpy()
    return rng.poisson(rng.gamma(DISPERSION, mu / DISPERSION))


def responder_rows(seed: int) -> Iterator[Row]:
    """Share of responders among predicted cells of a type, and how many cells lie between.

    Half of the treated cells of each type are held out. Cells are placed by the mean change of the
    genes that respond, from 0 (as true silent cells) to 1 (as true responders); ``between`` is the
    share of cells from 0.35 to 0.65, which the truth has none of.
    """
    cells = scldm.data.simulate_responders(400, share=RESPONDERS, seed=seed)
    rng = np.random.default_rng(seed)
    treated = (cells.obs["perturbation"] != CONTROL).to_numpy()
    held_out = treated & (rng.random(cells.n_obs) < 0.5)
    seen = cells[~held_out].copy()
    model = trained(seen, seed, cell_type_key="cell_type")
    weights = cells.var["log_change"].to_numpy()
    kinds = sorted(cells.obs["cell_type"].unique())
    questions = {
        kind: Question(
            "drug",
            seen[(seen.obs["cell_type"] == kind) & (seen.obs["perturbation"] == CONTROL)].copy(),
            cells[held_out & (cells.obs["cell_type"] == kind).to_numpy()].copy(),
        )
        for kind in kinds
    }
    task = Task("responders", seen[:, :].copy(), "cell_type", questions)
    rivals = scgen(task, seed)
    for kind, question in questions.items():
        responder = question.true.obs["responder"].to_numpy()
        score = log_normalised(question.true.X) @ weights
        silent, full = score[~responder].mean(), score[responder].mean()

        def row(
            method: str,
            x: np.ndarray,
            kind: str = kind,
            silent: float = silent,
            full: float = full,
        ) -> Row:
            place = (x @ weights - silent) / (full - silent)
            between = ((place > 0.35) & (place < 0.65)).mean()
            return {
                "type": kind,
                "method": method,
                "share": (place > 0.5).mean(),
                "between": between,
            }

        yield row("truth, held-out cells", log_normalised(question.true.X))
        of_kind = (seen.obs["cell_type"] == kind) & (seen.obs["perturbation"] != CONTROL)
        yield row("truth, training cells", log_normalised(seen[of_kind].X))
        for method in METHODS:
            made = model.predict_perturbation(
                question.control, "drug", method=method, n_samples=N_SAMPLES, seed=seed
            )
            yield row(f"scldm, {method}", log_normalised(made.X))
        for name, found in rivals.items():
            yield row(name, found[kind])


def trained(cells: ad.AnnData, seed: int, **keys: str) -> scldm.SCLDM:
    """Return a model with default settings; the diffusion from noise is not needed."""
    scvi.settings.seed = seed
    scldm.SCLDM.setup_anndata(cells, perturbation_key="perturbation", **keys)
    model = scldm.SCLDM(cells)
    model.train_autoencoder(enable_progress_bar=False)
    model.train_perturbation(enable_progress_bar=False)
    return model
