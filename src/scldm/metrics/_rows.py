"""The rows of the table: each source against the reference, as a whole and within types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from scldm.metrics._split import draw
from scldm.metrics._statistic import Estimate, NotApplicable, bootstrap
from scldm.metrics._table import Cells, Comparison, Metric, Reference

__all__ = ["ALL", "FLOOR", "rows_of_all", "rows_of_types"]

FLOOR = "floor"
ALL = "all"
MIN_CELLS = 30

Row = dict[str, object]

_MISSING = Estimate(np.nan, np.empty(0))


def rows_of_all(
    reference: Reference,
    samples: Mapping[str, Cells],
    metrics: Mapping[str, Metric],
    n_bootstrap: int,
) -> list[Row]:
    """A row for each source and metric, the floor first.

    Parameters
    ----------
    reference
        The real cells.
    samples
        Generated cells by source.
    metrics
        What to compute, by name.
    n_bootstrap
        Draws for the intervals.
    """
    table = _Table(metrics, n_bootstrap)
    for source, sides in _comparisons(reference, samples).items():
        for name, metric in metrics.items():
            table.add(source, ALL, name, sides[metric.floor])
    return table.rows


def rows_of_types(
    reference: Reference,
    samples: Mapping[str, Cells],
    metrics: Mapping[str, Metric],
    n_bootstrap: int,
) -> list[Row]:
    """A row for each type, source and metric that is computed within types.

    Within a type all samples have one size; those with too few cells say so and have no value.

    Parameters
    ----------
    reference, samples, metrics, n_bootstrap
        As for :func:`rows_of_all`.
    """
    metrics = {name: metric for name, metric in metrics.items() if metric.per_group}
    sources = {FLOOR: reference.seen, **samples}
    table = _Table(metrics, n_bootstrap)
    for group in np.unique(reference.test.labels).tolist() if metrics else []:
        own = {source: _of_type(cells, group) for source, cells in sources.items()}
        test = _of_type(reference.test, group)
        enough = [c.n_cells for c in own.values() if c.n_cells >= MIN_CELLS]
        n = min(test.n_cells, *enough) if enough else test.n_cells
        within = replace(reference, test=_some(test, n, (reference.seed,)))
        for source, cells in own.items():
            note, found = "", min(test.n_cells, cells.n_cells)
            if found < MIN_CELLS:
                note = f"too few cells: {found} of at least {MIN_CELLS}"
            else:
                cells = _some(cells, n, (reference.seed, 3))
            comparison = Comparison(within, cells)
            for name in metrics:
                table.add(source, group, name, comparison, note)
    return table.rows


def _of_type(cells: Cells, label: str) -> Cells:
    return cells[np.flatnonzero(cells.labels == label)]


def _some(cells: Cells, n: int, seed: tuple[int, ...]) -> Cells:
    return cells[draw(cells.n_cells, n, np.random.default_rng(seed))]


def _comparisons(
    reference: Reference, samples: Mapping[str, Cells]
) -> dict[str, dict[str, Comparison]]:
    """For each source, what is compared where the floor takes which part of the real cells."""
    parts = Reference.PARTS
    found = {FLOOR: {part: Comparison(reference, getattr(reference, part)) for part in parts}}
    for name, cells in samples.items():
        equal = Comparison(reference, _some(cells, reference.test.n_cells, (reference.seed, 2)))
        whole = Comparison(reference, cells)
        found[name] = {part: whole if part == "test" else equal for part in parts}
    return found


class _Table:
    """Rows, each source's set against the floor's, which comes first.

    Parameters
    ----------
    metrics
        What may be computed, by name.
    n_bootstrap
        Draws for the intervals.
    """

    def __init__(self, metrics: Mapping[str, Metric], n_bootstrap: int) -> None:
        self.metrics = metrics
        self.n_bootstrap = n_bootstrap
        self.rows: list[Row] = []
        self.floor: dict[tuple[str, str], Estimate] = {}

    def add(
        self, source: str, group: str, name: str, comparison: Comparison, note: str = ""
    ) -> None:
        """Add a row; a note given stands in the place of a value."""
        metric = self.metrics[name]
        found = _MISSING
        if not note:
            try:
                sizes = comparison.test.n_cells, comparison.cells.n_cells
                statistic = metric.statistic(comparison)
                found = bootstrap(statistic, *sizes, self.n_bootstrap, comparison.seed)
            except NotApplicable as reason:
                note = str(reason)
        floor = self.floor.setdefault((group, name), found)
        gap = _MISSING if source == FLOOR else found.less(floor)
        low, high = found.interval(metric.bounds)
        gap_low, gap_high = gap.interval()
        self.rows.append(
            {
                "source": source,
                "group": group,
                "metric": name,
                "value": found.value,
                "low": low,
                "high": high,
                "gap": gap.value,
                "gap_low": gap_low,
                "gap_high": gap_high,
                "better": metric.better,
                "n_cells": comparison.cells.n_cells,
                "note": note,
            }
        )
