"""The rows of the table: each source against the reference, as a whole and within types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from scldm.metrics._split import draw
from scldm.metrics._statistic import NotApplicable, bootstrap
from scldm.metrics._table import Cells, Comparison, Metric, Reference

__all__ = ["ALL", "FLOOR", "rows_of_all", "rows_of_types"]

FLOOR = "floor"
ALL = "all"
MIN_CELLS = 30

Row = dict[str, object]


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
    return [
        _row(source, ALL, name, metric, sides[metric.floor], n_bootstrap)
        for source, sides in _comparisons(reference, samples).items()
        for name, metric in metrics.items()
    ]


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
    rows = []
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
            rows += [
                _row(source, group, name, metric, comparison, n_bootstrap, note)
                for name, metric in metrics.items()
            ]
    return rows


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


def _row(
    source: str,
    group: str,
    name: str,
    metric: Metric,
    comparison: Comparison,
    n_bootstrap: int,
    note: str = "",
) -> Row:
    """One row; a note given stands in the place of a value."""
    value = low = high = np.nan
    n_cells = comparison.cells.n_cells
    if not note:
        try:
            statistic = metric.statistic(comparison)
            sizes = comparison.test.n_cells, n_cells
            value, low, high = bootstrap(statistic, *sizes, n_bootstrap, comparison.seed)
        except NotApplicable as reason:
            note = str(reason)
    return {
        "source": source,
        "group": group,
        "metric": name,
        "value": value,
        "low": low,
        "high": high,
        "better": metric.better,
        "n_cells": n_cells,
        "note": note,
    }
