"""What becomes of cells: probabilities of fates, where they part, and what drives them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.stats import norm
from scipy.stats import t as student

from scldm._warnings import warn
from scldm.diffusion import Sampler

from ._blocks import resolved_seed
from ._branches import (
    BranchPoints,
    correlation,
    crossings,
    curve_of,
    differing,
    log_normalised,
    q_values,
)
from ._cells import Cells, encoded, selected
from ._choices import positive
from ._editing import deterministic
from ._fate_labels import FateLabels, label_names
from ._fields import shortened
from ._storage import read_rows
from ._trajectory_methods import Rollout

__all__ = ["FatesMixin"]

_STATISTICS = ("probability", "low", "high")
_SURE = 0.8
_FEWEST_CELLS = 5


class FatesMixin:
    """``fate_probabilities``, ``branch_points`` and ``driver_genes``."""

    def fate_probabilities(
        self,
        adata: AnnData | None = None,
        targets: str | None = None,
        at: float | None = None,
        *,
        fates: Sequence[str] | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 50,
        level: float = 0.95,
        seed: int | None = None,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
    ) -> pd.DataFrame:
        """Return how likely cells are to become each of some kinds of cells.

        Each cell is taken ``n_samples`` times to the time of the targets by stochastic rollouts, see
        :meth:`predict_trajectory`; where it arrives, the nearest training cells of that time say what it
        has become.

        Parameters
        ----------
        adata
            Registered cells; ``None`` takes the training data. Cells of the time of the targets or
            later are where they are.
        targets
            Column of the training data's ``obs`` with the fates; ``None`` is that of the registered cell
            types. Cells without a value do not count.
        at
            The time of the targets, the nearest of the model's time points; ``None`` is the last.
        fates
            Which values of that column are fates; ``None`` takes all that cells of that time have.
        indices
            Which cells; ``None`` takes all.
        n_samples
            Rollouts of each cell.
        level
            Level of the intervals.
        seed, sampler, steps
            As in :meth:`predict_trajectory`.

        Returns
        -------
        One row for each cell. The columns are pairs: ``("probability", fate)``, which sum to 1 over
        fates, and the ends ``("low", fate)`` and ``("high", fate)`` of Wilson's interval, which tells
        the error by the number of rollouts, not that of the model; cells that were not followed
        have none. ``result["probability"]`` is a
        table of fates that CellRank's ``Lineage`` takes.

        Raises
        ------
        KeyError
            If ``targets`` is not a column of ``obs``.
        ValueError
            If a fate is not known or has less than five cells, or a value is not allowed.
        RuntimeError
            If no trajectory is trained.
        """
        self._require("trajectory")
        n_samples = positive("n_samples", n_samples)
        if not (isinstance(level, Real) and 0 < level < 1):
            raise ValueError(f"`level={level!r}` must be a number between 0 and 1.")
        rule, n_steps = deterministic(sampler, steps, default=None)
        cells = selected(self, adata, indices)
        arrived = self._fate_classifier(targets, at, fates)
        p = self._fates_of(cells, arrived, n_samples, resolved_seed(seed), rule, n_steps)
        z = norm.ppf(0.5 + level / 2)
        centre = (p + z**2 / (2 * n_samples)) / (1 + z**2 / n_samples)
        half = np.sqrt(p * (1 - p) / n_samples + z**2 / (4 * n_samples**2)) * z
        half /= 1 + z**2 / n_samples
        low, high = np.minimum(centre - half, p).clip(0), np.maximum(centre + half, p).clip(max=1)
        # who is there already was not followed
        there = self._knot_of(cells) >= arrived.knot
        low[there], high[there] = np.nan, np.nan
        parts = (p, low, high)
        columns = pd.MultiIndex.from_product(
            [_STATISTICS, arrived.names], names=["statistic", arrived.column]
        )
        return pd.DataFrame(np.concatenate(parts, axis=1), index=cells.names, columns=columns)

    def branch_points(
        self,
        targets: str | None = None,
        at: float | None = None,
        *,
        fates: Sequence[str] | None = None,
        n_samples: int = 50,
        max_cells: int = 300,
        seed: int | None = None,
        sampler: str | Sampler = "heun",
        steps: int | None = None,
    ) -> BranchPoints:
        """Find where fates part, and by which genes.

        Parameters
        ----------
        targets, at, fates, n_samples, seed, sampler, steps
            As in :meth:`fate_probabilities`.
        max_cells
            Training cells of each time point to look at, at most, drawn at random.

        Returns
        -------
        Times, curves and genes for each pair of fates, see :class:`BranchPoints`.

        Raises
        ------
        ValueError
            If there are less than two fates, or as :meth:`fate_probabilities` says.
        RuntimeError
            If no trajectory is trained.
        """
        self._require("trajectory")
        max_cells = positive("max_cells", max_cells)
        rule, n_steps = deterministic(sampler, steps, default=None)
        arrived = self._fate_classifier(targets, at, fates)
        if len(arrived.names) < 2:
            raise ValueError(
                f"`targets={arrived.column!r}` has one fate, {arrived.names}; two part."
            )
        seed = resolved_seed(seed)
        cells = self._some_of_each_time(max_cells, np.random.default_rng(seed))
        p = self._fates_of(cells, arrived, positive("n_samples", n_samples), seed, rule, n_steps)
        line = self._timeline()
        knot = self._knot_of(cells)
        x = self._coordinates(cells)
        expression = log_normalised(self._counts_at(cells))
        curves, rows, genes = [], [], []
        for i, j in itertools.combinations(range(len(arrived.names)), 2):
            pair = {"first": arrived.names[i], "second": arrived.names[j]}
            curve = curve_of(p[:, [i, j]], knot, x, line.knots[: arrived.knot + 1])
            curves.append(curve.assign(**pair))
            row = crossings(curve)
            rows.append({**pair, **row})
            after = knot == int(np.searchsorted(line.knots, row["half"], side="left"))
            after &= np.isfinite(row["half"])
            first, second = (after & (p[:, k] > _SURE) for k in (i, j))
            genes.append(differing(expression, first, second, self.var_names).assign(**pair))
        table = pd.DataFrame(rows).sort_values("time", ignore_index=True)
        ends = ["first", "second"]
        return BranchPoints(
            table,
            pd.concat(curves, ignore_index=True).set_index(ends),
            pd.concat(genes).set_index(ends, append=True).swaplevel(0, 2).swaplevel(0, 1),
        )

    def driver_genes(
        self,
        fates: pd.DataFrame | pd.Series,
        adata: AnnData | None = None,
    ) -> pd.DataFrame:
        """Return how the expression of genes goes with the probabilities of fates.

        Parameters
        ----------
        fates
            From :meth:`fate_probabilities`, of cells of any times; or the column of one fate.
        adata
            Registered data that have these cells; ``None`` takes the training data.

        Returns
        -------
        For each fate and gene the ``correlation`` of log-normalised expression with the fate's
        probability over cells, its ``p_value`` (Student's t) and ``q_value``
        (Benjamini-Hochberg over genes), the highest first within a fate.

        Raises
        ------
        KeyError
            If cells of ``fates`` are not in the data.
        ValueError
            If there are less than three cells, one stands there twice, or a probability is missing.

        References
        ----------
        Lange et al. (2022), *CellRank for directed single-cell fate mapping*, Nature Methods 19:159.
        """
        p = _probabilities(fates)
        everything = selected(self, adata, None)
        if not everything.names.is_unique:
            raise ValueError("`adata` has names of cells that are not unique.")
        places = everything.names.get_indexer(p.index)
        if (places < 0).any():
            missing = fates.index[places < 0]
            raise KeyError(f"`fates` has cells that are not in the data: {shortened(missing)}.")
        if len(places) < 3:
            raise ValueError(f"`fates` has {len(places)} cells; correlations need three or more.")
        x = log_normalised(self._counts_at(everything.at(places)))
        parts = []
        for fate in p:
            r = correlation(x, p[fate].to_numpy(float))
            df = len(places) - 2
            statistic = r * np.sqrt(df / np.maximum(1 - r**2, 1e-12))
            p_value = 2 * student.sf(np.abs(statistic), df)
            table = pd.DataFrame(
                {"correlation": r, "p_value": p_value, "q_value": q_values(p_value)},
                index=pd.MultiIndex.from_product([[fate], self.var_names], names=["fate", "gene"]),
            )
            parts.append(table.sort_values("correlation", ascending=False))
        return pd.concat(parts)

    def _fate_classifier(
        self, targets: str | None, at: float | None, fates: Sequence[str] | None
    ) -> FateLabels:
        adata = self._adata_manager_or_raise().adata
        targets = self._column_of_fates(targets, adata)
        line = self._timeline()
        if at is not None and not isinstance(at, Real):
            raise ValueError(f"`at={at!r}` is not a number.")
        when = line.knots[-1] if at is None else float(at)
        if not line.knots[0] < when <= line.knots[-1]:
            raise ValueError(
                f"`at={at!r}` must lie after {line.knots[0]:g} and not after {line.knots[-1]:g}, the "
                "first and the last time point."
            )
        knot = int(line.of(np.array([when]))[0])
        everything = selected(self, None, None)
        labels = pd.Series(label_names(adata.obs[targets]))
        here = np.zeros(len(labels), dtype=bool)
        here[self._split_of(adata)[0]] = True
        here &= (self._knot_of(everything) == knot) & labels.notna().to_numpy()
        number = labels[here].value_counts()
        known = sorted(number.index)
        if not known:
            raise ValueError(
                f"No fate: `targets={targets!r}` has no value for any training cell of time "
                f"{line.knots[knot]:g}."
            )
        wanted = known
        if fates is not None:
            asked = label_names(pd.Series([fates] if np.isscalar(fates) else fates))
            wanted = list(dict.fromkeys(asked))
        if unknown := [fate for fate in wanted if fate not in known]:
            raise ValueError(
                f"`fates` has {unknown}, which no training cell of time {line.knots[knot]:g} is. "
                f"Known: {shortened(known)}."
            )
        few = [fate for fate in wanted if number[fate] < _FEWEST_CELLS]
        if few and fates is not None:
            raise ValueError(
                f"`fates` has {few}, of which there are less than {_FEWEST_CELLS} cells."
            )
        if few:
            warn(
                f"{shortened(few)} are no fates: less than {_FEWEST_CELLS} training cells of time "
                f"{line.knots[knot]:g} are of them."
            )
        chosen = [fate for fate in wanted if fate not in few]
        if not chosen:
            raise ValueError(
                f"No fate has {_FEWEST_CELLS} training cells of time {line.knots[knot]:g}."
            )
        here &= labels.isin(chosen).to_numpy()
        x = self._coordinates(everything.at(np.flatnonzero(here)))
        return FateLabels(targets, chosen, knot, x, labels[here].to_numpy())

    def _column_of_fates(self, targets: str | None, adata: AnnData) -> str:
        if targets is None:
            targets = self.registry_["setup_args"]["cell_type_key"]
        if targets is None:
            raise ValueError(
                "`targets` is missing: no cell types are registered. Give a column of `obs`. Known: "
                f"{shortened(adata.obs)}."
            )
        if not isinstance(targets, str) or targets not in adata.obs:
            raise KeyError(
                f"`targets={targets!r}` is not a column of the training data's `obs`. Known: "
                f"{list(adata.obs)}."
            )
        return targets

    def _fates_of(
        self,
        cells: Cells,
        arrived: FateLabels,
        n_samples: int,
        seed: int,
        rule: Sampler,
        steps: Any,
    ) -> np.ndarray:
        """Return the probability of each fate, ``(n_cells, n_fates)``."""
        knot = self._knot_of(cells)
        p = np.empty((len(knot), len(arrived.names)))
        there = knot >= arrived.knot
        if there.any():
            p[there] = arrived.votes(self._coordinates(cells.at(np.flatnonzero(there))))
        if not there.all():
            earlier = cells.at(np.flatnonzero(~there))
            end = self._ends_of_rollouts(earlier, arrived.knot, n_samples, seed, rule, steps)
            votes = arrived.votes(end)
            p[~there] = votes.reshape(len(earlier.rows), n_samples, -1).mean(axis=1)
        return p

    def _ends_of_rollouts(
        self, cells: Cells, knot: int, n_samples: int, seed: int, rule: Sampler, steps: Any
    ) -> np.ndarray:
        """Return where cells arrive, ``(n_cells * n_samples, n_latent)``, cell by cell."""
        when = self._timeline().knots[[knot]]
        job = self._trajectory_job(cells, when, n_samples, seed, rule, steps)
        ends = torch.from_numpy(Rollout().paths(job)[:, 0, :-1])
        return self._expression_space().coordinates(self, ends)

    def _knot_of(self, cells: Cells) -> np.ndarray:
        """Return the time point that each cell counts for."""
        return self._timeline().of(cells.frame[self._time_condition().name].to_numpy(float))

    def _coordinates(self, cells: Cells) -> np.ndarray:
        """Return where cells are in expression, ``(n, n_components)``."""
        return self._expression_space().coordinates(self, encoded(self, cells).mean)

    def _some_of_each_time(self, most: int, rng: np.random.Generator) -> Cells:
        """Return training cells, at most so many of each time point."""
        everything = selected(self, None, None)
        places = self._split_of(everything.adata)[0]
        line = self._timeline()
        time = everything.frame[self._time_condition().name].to_numpy(float)[places]
        order = rng.permutation(len(places))
        rank = pd.Series(line.of(time)[order]).groupby(line.of(time)[order]).cumcount()
        return everything.at(np.sort(places[order[rank.to_numpy() < most]]))

    def _counts_at(self, cells: Cells) -> Any:
        counts = self.get_anndata_manager(cells.adata, required=True).get_from_registry("X")
        return read_rows(counts, cells.rows)


def _probabilities(fates: pd.DataFrame | pd.Series) -> pd.DataFrame:
    """Return the table of probabilities of what ``fate_probabilities`` returned.

    Raises
    ------
    ValueError
        If a value is missing or a cell stands there twice.
    """
    if isinstance(fates, pd.Series):
        fates = fates.to_frame("fate" if fates.name is None else fates.name)
    p = fates["probability"] if fates.columns.nlevels > 1 else fates
    if not np.isfinite(p.to_numpy(float)).all():
        raise ValueError("`fates` has cells whose probabilities are missing.")
    if not p.index.is_unique:
        raise ValueError("`fates` has cells twice.")
    return p
