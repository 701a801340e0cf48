"""What is odd about the places where cells are asked for."""

from __future__ import annotations

import numpy as np
from scipy.spatial import Delaunay, QhullError

from scldm._warnings import warn

from ._tissue import Finder, Places

__all__ = ["OBSERVED", "warn_of_depth", "warn_of_observed", "warn_of_outside", "warn_of_twins"]

OBSERVED = "there is an observed cell"
"""What a warning says of places that are no new ones."""

_FAR = 5.0
_DEEP = 0.5


def warn_of_twins(places: Places) -> None:
    """Warn of places that are asked for more than once."""
    both = np.column_stack([places.coordinates, places.section])
    n_twins = len(both) - len(np.unique(both, axis=0))
    if n_twins:
        warn(f"{n_twins} of {len(both)} `coordinates` occur more than once.")


def warn_of_observed(distance: np.ndarray) -> None:
    """Warn of places with an observed cell, by the distances to the nearest."""
    if (distance == 0).any():
        warn(
            f"At {(distance == 0).sum()} of {len(distance)} `coordinates` {OBSERVED}, which takes part in "
            "what is drawn there. To compare with it, leave it out by `indices` or `adata`."
        )


def warn_of_outside(finder: Finder, asked: Places, nearest: np.ndarray) -> np.ndarray:
    """Warn of places outside the hull of the observed cells, far from any of them, and say which."""
    observed = finder.observed
    off = asked.coordinates - observed.coordinates[nearest]
    far = np.linalg.norm(off / finder.tissue.spacing, axis=1) > _FAR
    for section in np.unique(asked.section[far]):
        rows = np.flatnonzero(far & (asked.section == section))
        cells = observed.coordinates[observed.section == section]
        try:
            inside = Delaunay(cells).find_simplex(asked.coordinates[rows]) >= 0
        except QhullError:
            # cells on one line, or too few, have no inside
            inside = np.zeros(len(rows), dtype=bool)
        far[rows] = ~inside
    if far.any():
        warn(
            f"{far.sum()} of {len(far)} `coordinates` lie outside the observed tissue, up to "
            f"{np.linalg.norm(off[far], axis=1).max():.4g} in the unit of the coordinates from the nearest "
            f"cell, where the spacing of cells is {finder.tissue.spacing[0]:.4g}. What is drawn there is a "
            "guess from afar."
        )
    return far


def warn_of_depth(finder: Finder, asked: Places, adjacent: bool) -> None:
    """Warn of places in a stack that lie above or below all of its sections.

    Parameters
    ----------
    finder
        The observed cells.
    asked
        The places.
    adjacent
        Whether cells are drawn as in the sections around.
    """
    if not finder.tissue.stacked:
        return
    observed, z = finder.observed, asked.coordinates[:, 2]
    beyond = np.zeros(len(asked))
    for section in np.unique(asked.section):
        rows = asked.section == section
        depths = observed.coordinates[observed.section == section, 2]
        beyond[rows] = np.maximum(depths.min() - z[rows], z[rows] - depths.max())
    deep = beyond > _DEEP * finder.tissue.spacing[2]
    if deep.any():
        drawn = (
            "cells are drawn as in the outer section" if adjacent else "what is drawn is a guess"
        )
        warn(
            f"{deep.sum()} of {len(deep)} `coordinates` lie above or below all observed sections, up to "
            f"{beyond.max():.4g} in the unit of the coordinates, where sections are {finder.tissue.spacing[2]:.4g} "
            f"apart. Nothing is known of what is there; {drawn}."
        )
