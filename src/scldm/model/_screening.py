"""Many perturbations of the same cells, ranked by what they do."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi.utils import track

from scldm.metrics._energy import energy_statistic
from scldm.metrics._statistic import Statistic, Weights, bootstrap, point

from ._blocks import resolved_seed
from ._cells import encoded, selected
from ._choices import positive
from ._conditions import one_dimensional
from ._fields import shortened
from ._perturbation_methods import PerturbationMethod
from ._perturbations import PerturbationSet
from ._ranges import BEYOND, warn_of_doses

__all__ = ["ScreeningMixin"]

_TARGET_SUM = 1e4
_FEWEST = 5


class ScreeningMixin:
    """``screen``."""

    def screen(
        self,
        adata: AnnData | None = None,
        perturbations: Sequence[str] | None = None,
        doses: float | str | Sequence[float | str] | None = None,
        *,
        target: AnnData | Sequence[str] | Mapping[str, float],
        indices: Sequence[int] | None = None,
        method: str | PerturbationMethod = "flow",
        n_samples: int = 1,
        n_bootstrap: int = 200,
        max_cells: int = 500,
        seed: int | None = None,
        show_progress: bool = True,
    ) -> pd.DataFrame:
        """Rank perturbations by how far they move control cells towards a target.

        Parameters
        ----------
        adata, indices, method, n_samples
            As in :meth:`predict_perturbation`.
        perturbations
            Which to try, combinations among them; by default all that cells have.
        doses
            Doses at which to try each; left out, each gets the one that its cells have.
        target
            What to move towards. Cells: the score is the energy distance to them, in standardised
            latents, that the perturbation takes away; below 0 it leads away from them, and all that
            can be taken away is in ``attrs["distance"]`` of the result. Genes, or weights by gene:
            the score is the change of their mean, or weighted sum, of log-normalised expression.
        n_bootstrap
            Draws of cells for the intervals.
        max_cells
            At most so many control cells, and cells of the target, are used, chosen at random.
        seed
            Of all that is random. All perturbations are tried on the same cells with the same
            numbers.
        show_progress
            Whether to show a progress bar.

        Returns
        -------
        A row for each perturbation and dose, the best first: ``perturbation``, ``dose`` (where doses
        are registered), ``score``, and ``low`` and ``high``, its 95% interval over cells (control
        cells, however many samples of each, and those of the target). The interval knows nothing of how
        wrong the model may be.

        Raises
        ------
        ValueError
            If a perturbation, a dose or the target is not allowed, or there are less than five control
            cells, or cells of the target.
        RuntimeError
            If the model is not trained.

        Warns
        -----
        UserWarning
            If a dose lies above those that training cells of the perturbation have.
        """
        condition = self._perturbation_condition()
        self._require("perturbation")
        seed = resolved_seed(seed)
        positive("n_bootstrap", n_bootstrap)
        rng = np.random.default_rng(seed)
        cells = self._control_cells(adata, indices, condition)
        few = np.sort(rng.permutation(len(cells.rows))[: positive("max_cells", max_cells)])
        cells = cells.at(few)
        if (n_cells := len(np.unique(cells.rows))) < _FEWEST:
            raise ValueError(
                f"`adata`, `indices` and `max_cells` leave {n_cells} control cells, and intervals need "
                f"{_FEWEST} or more."
            )
        aim = self._target(target, max_cells, rng)
        tried = self._tried(perturbations, doses)
        settings = {"indices": cells.rows, "n_samples": n_samples, "seed": seed}
        before = self.predict_perturbation(
            cells.adata, condition.control, **settings, method="arithmetic"
        )
        self._warn_of_tried(condition, tried)
        rows = []
        for label, dose in track(tried, "Screening", disable=not show_progress):
            with warnings.catch_warnings():
                # said of all of them before
                warnings.filterwarnings("ignore", message=f".*{BEYOND}")
                made = self.predict_perturbation(
                    cells.adata, label, dose, **settings, method=method
                )
            statistic = aim.statistic(made, before, n_samples)
            score = bootstrap(statistic, len(few), aim.n_cells, n_bootstrap, seed)
            low, high = score.interval()
            row = {"perturbation": label, "score": score.value, "low": low, "high": high}
            if condition.dose is not None:
                row["dose"] = made.obs[condition.dose.column].iloc[0]
            rows.append(row)
        table = pd.DataFrame(rows)
        if condition.dose is not None:
            table.insert(1, "dose", table.pop("dose"))
        table = table.sort_values("score", ascending=False, ignore_index=True)
        table.attrs |= aim.about(before)
        return table

    def _tried(
        self,
        perturbations: Sequence[str] | None,
        doses: float | str | Sequence[float | str] | None,
    ) -> list[tuple[str, float | str | None]]:
        condition = self._perturbation_condition()
        if isinstance(perturbations, str):
            perturbations = [perturbations]
        if perturbations is None:
            perturbations = [label for label in condition.labels if label != condition.control]
        if not len(perturbations):
            raise ValueError("`perturbations` is empty; at least one is needed.")
        levels: list[float | str | None] = [None]
        if doses is not None:
            levels = list(one_dimensional("doses", doses))
        if not levels:
            raise ValueError("`doses` is empty; leave it out, or give at least one.")
        # before any compute
        condition.parse("perturbation", list(perturbations))
        tried = [(label, dose) for label in perturbations for dose in levels]
        for label, dose in tried:
            if isinstance(dose, str):
                condition.doses_of(str(label), dose)
        return tried

    def _warn_of_tried(
        self, condition: PerturbationSet, tried: Sequence[tuple[str, float | str | None]]
    ) -> None:
        given = [pair for pair in tried if pair[1] is not None]
        asked = pd.DataFrame(given, columns=["perturbation", "dose"])
        warn_of_doses(condition, asked, self.training_frame_)

    def _target(
        self,
        target: AnnData | Sequence[str] | Mapping[str, float],
        max_cells: int,
        rng: np.random.Generator,
    ) -> _Target:
        if isinstance(target, AnnData):
            cells = selected(self, target, None)
            cells = cells.at(np.sort(rng.permutation(len(cells.rows))[:max_cells]))
            if len(cells.rows) < _FEWEST:
                raise ValueError(
                    f"`target` has {len(cells.rows)} cells, and intervals need {_FEWEST} or more."
                )
            known = encoded(self, cells)
            # drawn from their posteriors, as predicted cells are
            noise = rng.standard_normal(known.mean.shape)
            drawn = known.mean.numpy() + np.sqrt(known.variance.numpy()) * noise
            return _State(self._scaled(drawn), self._scaled)
        if isinstance(target, str):
            target = [target]
        if not isinstance(target, Mapping):
            genes = dict.fromkeys(target)
            target = dict.fromkeys(genes, 1 / max(len(genes), 1))
        weights = dict(target)
        if not weights:
            raise ValueError("`target` is empty; give cells, genes, or weights of genes.")
        unknown = [gene for gene in weights if gene not in self.var_names]
        if unknown:
            raise ValueError(f"`target` has genes that the model has not: {shortened(unknown)}.")
        if not np.isfinite(np.array(list(weights.values()), dtype=float)).all():
            raise ValueError("`target` has weights that are no finite numbers.")
        places = self.var_names.get_indexer(list(weights))
        return _Expression(places, np.array(list(weights.values()), dtype=float))

    def _scaled(self, z: np.ndarray) -> np.ndarray:
        return z / self.module.perturbation.flow.scale[:-1].cpu().numpy()


class _Target(ABC):
    """What a screen moves cells towards.

    Parameters
    ----------
    n_cells
        Number of its cells.
    """

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells

    @abstractmethod
    def statistic(self, made: AnnData, before: AnnData, n_samples: int) -> Statistic:
        """Return the score as a function of the weights of control cells and of the target's.

        Parameters
        ----------
        made, before
            The same cells with and without the perturbation, ``n_samples`` of each in a row.
        n_samples
            How many.
        """

    def about(self, before: AnnData) -> dict[str, float]:
        """Return what helps to read the scores."""
        return {}


class _State(_Target):
    """Cells, as scaled latents."""

    def __init__(self, latents: np.ndarray, scaled: Callable[[np.ndarray], np.ndarray]) -> None:
        super().__init__(len(latents))
        self.latents = latents
        self.scaled = scaled

    def _distance(self, cells: AnnData) -> Statistic:
        return energy_statistic(self.scaled(cells.obsm["X_scldm"]), self.latents)

    def statistic(self, made: AnnData, before: AnnData, n_samples: int) -> Statistic:
        near, far = self._distance(made), self._distance(before)

        def taken_away(w: Weights, v: Weights) -> np.ndarray:
            each = np.repeat(w, n_samples, axis=1) / n_samples
            return far(each, v) - near(each, v)

        return taken_away

    def about(self, before: AnnData) -> dict[str, float]:
        return {"distance": point(self._distance(before), before.n_obs, self.n_cells)}


class _Expression(_Target):
    """A weighted sum of log-normalised expression."""

    def __init__(self, places: np.ndarray, weights: np.ndarray) -> None:
        super().__init__(1)
        self.places = places
        self.weights = weights

    def statistic(self, made: AnnData, before: AnnData, n_samples: int) -> Statistic:
        change = self._scores(made) - self._scores(before)
        by_cell = change.reshape(-1, n_samples).mean(axis=1)
        return lambda w, v: w @ by_cell

    def _scores(self, cells: AnnData) -> np.ndarray:
        counts = sparse.csr_matrix(cells.X)
        sizes = np.maximum(np.asarray(counts.sum(axis=1)), 1)
        return np.log1p(_TARGET_SUM * counts[:, self.places].toarray() / sizes) @ self.weights
