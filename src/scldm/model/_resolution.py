"""Between spots, between sections, and where cells might be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse
from scipy.spatial import Delaunay, KDTree

from ._blocks import Stream, resolved_seed
from ._cells import selected
from ._choices import positive
from ._keys import KEYS
from ._point_process import area_of, inside, spread_out

__all__ = ["ResolutionMixin"]

_CANDIDATES_EACH = 40
_CLOSEST = 0.05


class ResolutionMixin:
    """``super_resolve``, ``impute_sections`` and ``propose_places``."""

    def super_resolve(
        self,
        adata: AnnData | None = None,
        *,
        factor: int | None = None,
        coordinates: np.ndarray | Sequence[Sequence[float]] | None = None,
        conserve: bool = False,
        n_samples: int = 1,
        seed: int | None = None,
        **kwargs: Any,
    ) -> AnnData:
        """Return expression between the spots that were measured.

        Parameters
        ----------
        adata
            Registered spots; ``None`` takes the training data.
        factor
            Into how many places each spot is divided along each axis of the plane, on a grid of the
            spacing of spots: 2 makes four of one.
        coordinates
            The places instead, ``(n_places, 2 or 3)``.
        conserve
            Whether the counts of each spot are divided among its places, those to which it is the nearest,
            by what is expected at each, so that they add up to it. If not, places are drawn as spots of
            their own.
        n_samples, seed, **kwargs
            As in :meth:`impute_region`, with ``return_mean`` for counts that are not conserved only.

        Returns
        -------
        As from :meth:`impute_region`, with the name of the nearest spot in ``obs["spot"]``.

        Raises
        ------
        ValueError
            If not exactly one of ``factor`` and ``coordinates`` is given, or as
            :meth:`impute_region` does.
        RuntimeError
            If the stage is not trained.
        """
        self._spatial_condition()
        self._require("spatial")
        if (factor is None) == (coordinates is None):
            raise ValueError("Give either `factor` or `coordinates`.")
        if conserve and kwargs.get("return_mean"):
            raise ValueError("`return_mean` has no meaning for counts that are conserved.")
        seed = resolved_seed(seed)
        cells = selected(self, adata, kwargs.get("indices"))
        name = self.spatial_["section"]
        spots = self._places_of(cells.frame, name)
        if factor is not None:
            steps = self._sub_places(positive("factor", factor), spots.coordinates.shape[1])
            coordinates = (spots.coordinates[:, None] + steps).reshape(-1, steps.shape[1])
            if name is not None and name not in kwargs:
                kwargs[name] = cells.frame[name].repeat(len(steps)).tolist()
        new = self.impute_region(adata, coordinates, n_samples=n_samples, seed=seed, **kwargs)
        asked = self._places_of(self._frame_of_new(new), name)
        spot = self._tissue().nearest(spots, asked, 1)[1][:, 0]
        new.obs["spot"] = cells.names[spot].to_numpy()
        if conserve:
            manager = self.get_anndata_manager(cells.adata, required=True)
            counts = manager.get_from_registry(KEYS.COUNTS)[cells.rows]
            # draws of one spot go together: each divides its counts anew
            group = spot * n_samples + new.obs["sample"].to_numpy()
            new.X = self._divided(new, sparse.csr_matrix(counts), spot, group, seed)
        new.uns["scldm"]["conserve"] = conserve
        return new

    def impute_sections(
        self,
        adata: AnnData | None = None,
        *,
        z: float | Sequence[float],
        coordinates: np.ndarray | Sequence[Sequence[float]] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> AnnData:
        """Return sections of a stack at depths where none was cut.

        Parameters
        ----------
        adata
            Registered cells with coordinates in three dimensions; ``None`` takes the training data.
        z
            The depth of the section, or of each of several.
        coordinates
            The places in each section, ``(n_places, 2)``; ``None`` proposes as many as the sections
            above and below have, see :meth:`propose_places`.
        seed, **kwargs
            As in :meth:`impute_region`.

        Returns
        -------
        As from :meth:`impute_region`, with coordinates in three dimensions.

        Raises
        ------
        ValueError
            If coordinates are not those of a stack of sections, or as :meth:`impute_region` does.
        RuntimeError
            If the stage is not trained.
        """
        self._spatial_condition()
        self._require("spatial")
        self._check_stacked("impute_sections")
        seed = resolved_seed(seed)
        depths = np.atleast_1d(np.asarray(z, dtype=float))
        if depths.ndim != 1 or not len(depths) or not np.isfinite(depths).all():
            raise ValueError(f"`z={z!r}` must be a finite number, or several.")
        if coordinates is None:
            indices = kwargs.get("indices")
            parts = [
                self.propose_places(adata, indices=indices, z=float(d), seed=seed) for d in depths
            ]
        else:
            plane = np.asarray(coordinates, dtype=float)
            if plane.ndim != 2 or plane.shape[1] != 2:
                raise ValueError(
                    f"`coordinates` has shape {plane.shape}, but must be (n_places, 2): the depth is `z`."
                )
            parts = [np.column_stack([plane, np.full(len(plane), d)]) for d in depths]
        return self.impute_region(adata, np.concatenate(parts), seed=seed, **kwargs)

    def propose_places(
        self,
        adata: AnnData | None = None,
        n_places: int | None = None,
        *,
        indices: Sequence[int] | None = None,
        within: np.ndarray | Sequence[Sequence[float]] | None = None,
        z: float | None = None,
        seed: int | None = None,
    ) -> np.ndarray:
        """Return places where cells might be, of a point process fitted to the tissue.

        Its density is that of the observed cells, smoothed over the spacing of cells or, in a region
        where none are, their mean density. Places keep the distance from one another that nineteen of
        twenty observed cells keep.

        Parameters
        ----------
        adata
            Registered cells of one section, or of one stack; ``None`` takes the training data.
        n_places
            How many; ``None`` takes as many as there are cells, as the neighbouring sections have, or as
            the region would have at the mean density.
        indices
            Which cells of ``adata``; ``None`` takes all.
        within
            Corners of a region, ``(n_corners, 2)``.
        z
            In a stack, the depth of a section.
        seed
            Of the draw.

        Returns
        -------
        ``(n_places, 2 or 3)``; fewer where they do not fit.

        Raises
        ------
        ValueError
            If cells are of several sections that do not lie in one space, ``z`` is not given for a stack
            or given for none, or ``within`` is no polygon.
        RuntimeError
            If the stage is not trained.
        """
        self._spatial_condition()
        self._require("spatial")
        tissue = self._tissue()
        rng = np.random.default_rng((resolved_seed(seed), Stream.REQUEST))
        cells = selected(self, adata, indices)
        name = self.spatial_["section"]
        if name is not None and cells.frame[name].nunique() > 1:
            raise ValueError(
                f"The cells are of several sections (`{name}`), which do not lie in one space. Give those "
                "of one, by `adata` or `indices`."
            )
        x = self._places_of(cells.frame, None).coordinates
        weight = np.ones(len(x))
        if z is not None:
            self._check_stacked("z")
            weight = _shares_by_depth(x[:, 2], float(z))
        elif tissue.stacked:
            raise ValueError("`z` is missing: the depth of the section in the stack.")
        plane = x[:, :2] if tissue.stacked else x
        spacing = tissue.spacing[: plane.shape[1]]
        if within is None:
            n = positive("n_places", n_places, max(1, round(weight.sum())))
            rows = rng.choice(len(x), n * _CANDIDATES_EACH, p=weight / weight.sum())
            draw = plane[rows] + rng.normal(size=(len(rows), plane.shape[1])) * spacing
        else:
            corners = _checked_corners(within, plane.shape[1])
            occupied = spacing[0] ** 2 * _area_of_a_cell(plane[weight > 0] / spacing)
            n = positive("n_places", n_places, max(1, round(area_of(corners) / occupied)))
            low, high = corners.min(axis=0), corners.max(axis=0)
            draw = rng.uniform(low, high, size=(2 * n * _CANDIDATES_EACH, 2))
            draw = draw[inside(corners, draw)]
        places = spread_out(draw, n, _least_distance(plane[weight > 0] / spacing), spacing)
        return places if z is None else np.column_stack([places, np.full(len(places), float(z))])

    def _check_stacked(self, argument: str) -> None:
        if not self._tissue().stacked:
            raise ValueError(
                f"`{argument}` needs cells in sections of a stack: coordinates with a third column that "
                "has one value for each section."
            )

    def _sub_places(self, factor: int, n_dims: int) -> np.ndarray:
        """Return the steps from a spot to its places, ``(factor ** 2, n_dims)`` in a plane."""
        tissue = self._tissue()
        along = (np.arange(factor) + 0.5) / factor - 0.5
        axes = [along * step for step in tissue.spacing]
        if tissue.stacked:
            axes[2] = np.zeros(1)
        grid = np.meshgrid(*axes, indexing="ij")
        return np.stack([axis.ravel() for axis in grid], axis=1)

    def _frame_of_new(self, new: AnnData) -> Any:
        """Return the conditions that new cells were written with."""
        kept = [c for c in self.conditions if c.name in ("spatial", self.spatial_["section"])]
        frame = kept[0].read(new)
        for condition in kept[1:]:
            frame = frame.join(condition.read(new))
        return frame

    def _divided(
        self,
        new: AnnData,
        counts: sparse.csr_matrix,
        spot: np.ndarray,
        group: np.ndarray,
        seed: int,
    ) -> sparse.csr_matrix:
        """Divide each spot's counts among its places by what is expected at them."""
        rng = np.random.default_rng((seed, Stream.COUNTS))
        expected = self._expected_at(new)
        divided = sparse.lil_matrix(new.shape, dtype=np.float32)
        order = np.argsort(group, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
            own = counts[spot[rows[0]]]
            genes, values = own.indices, own.data.astype(np.int64)
            share = expected[rows][:, genes].astype(np.float64) + 1e-12
            parts = rng.multinomial(values, (share / share.sum(axis=0)).T)
            for row, part in zip(rows, parts.T, strict=True):
                some = part > 0
                divided.rows[row] = np.sort(genes[some]).tolist()
                divided.data[row] = part[some][np.argsort(genes[some])].astype(float).tolist()
        return divided.tocsr()

    def _expected_at(self, new: AnnData) -> np.ndarray:
        """Return expected counts of new cells, ``(n, n_genes)``."""
        what = {
            c.name: new.obs[c.column].to_numpy()
            for c in self.conditions
            if c.in_decoder or c.name == "cell_type"
        }
        size = np.maximum(np.asarray(new.X.sum(axis=1)).ravel(), 1.0)
        return self.decode(new.obsm["X_scldm"], size, return_mean=True, seed=0, **what)


def _shares_by_depth(depths: np.ndarray, z: float) -> np.ndarray:
    """Return each cell's weight for a section at z: those of the sections around it, by nearness."""
    known = np.unique(depths)
    if len(known) == 1:
        return np.ones(len(depths))
    above = int(np.clip(np.searchsorted(known, z), 1, len(known) - 1))
    low, high = known[above - 1], known[above]
    share = float(np.clip((z - low) / (high - low), 0, 1))
    return np.where(depths == low, 1 - share, np.where(depths == high, share, 0.0))


def _checked_corners(within: Any, n_dims: int) -> np.ndarray:
    corners = np.asarray(within, dtype=float)
    if n_dims != 2 or corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise ValueError(
            f"`within` has shape {corners.shape}; it must be three or more corners in a plane, "
            "(n_corners, 2)."
        )
    if not np.isfinite(corners).all():
        raise ValueError("`within` has NaN or infinite values; finite ones are allowed.")
    return corners


def _least_distance(x: np.ndarray) -> float:
    """Return the distance below which one of twenty cells has its nearest, in steps."""
    apart = np.unique(x, axis=0)
    return float(np.quantile(KDTree(apart).query(apart, 2)[0][:, 1], _CLOSEST))


def _area_of_a_cell(x: np.ndarray) -> float:
    """Return the area that a cell has, in square steps, where cells are as dense as at the median.

    A third of the triangles that meet at the cell, of which all of the tissue is made.
    """
    x = np.unique(x, axis=0)
    corners = Delaunay(x).simplices
    a, b = x[corners[:, 1]] - x[corners[:, 0]], x[corners[:, 2]] - x[corners[:, 0]]
    area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    return float(np.median(np.bincount(corners.ravel(), np.repeat(area, 3), len(x)) / 3))
