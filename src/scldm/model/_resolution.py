"""Between spots, and between sections."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from scldm._warnings import warn

from ._blocks import Stream, resolved_seed
from ._cells import Cells, selected
from ._choices import flag, positive
from ._keys import KEYS
from ._place_warnings import OBSERVED
from ._proposals import ProposalsMixin, checked_depths
from ._provenance import recorded
from ._storage import read_rows
from ._tissue import UNLIKE, Places, measured

__all__ = ["ResolutionMixin"]

_DRAWS_TO_EXPECT = 20


class ResolutionMixin(ProposalsMixin):
    """``super_resolve`` and ``impute_sections``."""

    @recorded
    def super_resolve(
        self,
        adata: AnnData | None = None,
        *,
        indices: Sequence[int] | None = None,
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
        indices
            With ``factor``, which spots to divide, the others being around them; with ``coordinates``, which
            are observed. ``None`` takes all.
        factor
            Into how many places each spot is divided along each axis of the plane, on a grid of the
            spacing of spots: 2 makes four of one.
        coordinates
            The places instead, ``(n_places, 2 or 3)``.
        conserve
            Whether the counts of each spot are divided among its places, in proportion to what is expected
            at each, the mean of 20 draws, so that they add up to it. Its places are those made of it by
            ``factor`` or, of ``coordinates``, those to which it is the nearest spot. If not, places are
            drawn as spots of their own.
        n_samples, seed, **kwargs
            As in :meth:`impute_region`, with ``return_mean`` for counts that are not conserved only.

        Returns
        -------
        As from :meth:`impute_region`, with the name of the spot in ``obs["spot"]``.

        Raises
        ------
        ValueError
            If not exactly one of ``factor`` and ``coordinates`` is given, a section is given with
            ``factor``, or as :meth:`impute_region` does.
        RuntimeError
            If the stage is not trained.

        Warns
        -----
        UserWarning
            If counts are to be conserved and spots have no place; or as :meth:`impute_region` does.
        """
        self._spatial_condition()
        self._require("spatial")
        if (factor is None) == (coordinates is None):
            raise ValueError("Give either `factor` or `coordinates`.")
        if flag("conserve", conserve) and kwargs.get("return_mean"):
            raise ValueError("`return_mean` has no meaning for counts that are conserved.")
        seed = resolved_seed(seed)
        cells = selected(self, adata, indices)
        observed = None if factor is not None else indices
        name = self.spatial_["section"]
        spots = self._places_of(cells.frame, name)
        if factor is not None:
            all_spots = self._places_of(selected(self, adata, None).frame, name)
            steps = self._sub_places(positive("factor", factor), spots, all_spots)
            n_parts, n_dims = steps.shape[1:]
            coordinates = (spots.coordinates[:, None] + steps).reshape(-1, n_dims)
            if name is not None:
                if kwargs.get(name) is not None:
                    raise ValueError(
                        f"`{name}` has no meaning with `factor`: places are in the sections of their spots. "
                        "Choose spots by `adata` or `indices`."
                    )
                kwargs[name] = cells.frame[name].repeat(n_parts).tolist()
        with warnings.catch_warnings():
            if factor is not None:
                # the place in the middle of a spot is the spot's
                warnings.filterwarnings("ignore", message=f".*{OBSERVED}")
            new = self.impute_region(
                adata, coordinates, indices=observed, n_samples=n_samples, seed=seed, **kwargs
            )
        place = new.obs["place"].to_numpy()
        if factor is not None:
            spot = place // n_parts
        else:
            asked = self._places_of(self._frame_of_new(new), name)
            spot = self._tissue().among(spots).nearest(asked, 1)[1][:, 0]
        new.obs["spot"] = cells.names[spot].to_numpy()
        new.uns["scldm"]["conserve"] = conserve
        if conserve:
            with warnings.catch_warnings():
                # what is wrong with the places has been said
                warnings.simplefilter("ignore", UserWarning)
                mean = self.impute_region(
                    adata,
                    coordinates,
                    indices=observed,
                    n_samples=_DRAWS_TO_EXPECT,
                    return_mean=True,
                    seed=seed,
                    **kwargs,
                )
            self._conserve(new, cells, spot, mean.X, seed)
        return new

    @recorded
    def impute_sections(
        self,
        adata: AnnData | None = None,
        *,
        z: float | Sequence[float],
        coordinates: np.ndarray | Sequence[Sequence[float]] | None = None,
        adjacent: bool = True,
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
        adjacent, seed, **kwargs
            As in :meth:`impute_region`.

        Returns
        -------
        As from :meth:`impute_region`, with coordinates in three dimensions.

        Raises
        ------
        ValueError
            If coordinates are not those of a stack of sections, ``z`` is no number or has one twice, or as
            :meth:`impute_region` does.
        RuntimeError
            If the stage is not trained.
        """
        self._spatial_condition()
        self._require("spatial")
        self._check_stacked("impute_sections")
        seed = resolved_seed(seed)
        depths = checked_depths(z)
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
        return self.impute_region(
            adata, np.concatenate(parts), adjacent=adjacent, seed=seed, **kwargs
        )

    def _sub_places(self, factor: int, spots: Places, all_spots: Places) -> np.ndarray:
        """Return the steps from spots to their places, ``(n_spots, factor ** 2, n_dims)`` in a plane.

        Parameters
        ----------
        factor
            Places along each axis of the plane.
        spots
            The spots.
        all_spots
            Those and the others of their sections. A section whose spacing is quite unlike that of the
            tissue is taken to be in units of its own.
        """
        tissue = self._tissue()
        n_dims = spots.coordinates.shape[1]
        flat = np.ptp(all_spots.coordinates, axis=0) == 0
        flat[2:] |= tissue.stacked
        along = (np.arange(factor) + 0.5) / factor - 0.5
        grid = np.meshgrid(*(np.zeros(1) if off else along for off in flat), indexing="ij")
        parts = np.stack([axis.ravel() for axis in grid], axis=1)
        step = np.empty((len(spots), n_dims))
        for section in np.unique(spots.section):
            own = all_spots.at(np.flatnonzero(all_spots.section == section))
            spacing = measured(own, tissue.stacked)[1]
            like = 1 / UNLIKE < spacing[0] / tissue.spacing[0] < UNLIKE
            step[spots.section == section] = tissue.spacing if like else spacing
        return parts * step[:, None]

    def _frame_of_new(self, new: AnnData) -> Any:
        """Return the conditions that new cells were written with."""
        kept = [c for c in self.conditions if c.name in ("spatial", self.spatial_["section"])]
        frame = kept[0].read(new)
        for condition in kept[1:]:
            frame = frame.join(condition.read(new))
        return frame

    def _conserve(
        self, new: AnnData, cells: Cells, spot: np.ndarray, expected: np.ndarray, seed: int
    ) -> None:
        """Put each spot's counts, divided among its places, in the place of those that were drawn."""
        manager = self.get_anndata_manager(cells.adata, required=True)
        counts = sparse.csr_matrix(read_rows(manager.get_from_registry(KEYS.COUNTS), cells.rows))
        size = np.asarray(counts.sum(axis=1)).ravel()
        without = np.setdiff1d(np.arange(len(size)), spot)
        if len(without):
            warn(
                f"{len(without)} of {len(size)} spots, with {size[without].sum() / size.sum():.3g} of all "
                "counts, have no place; their counts are left out."
            )
        new.X = _divided(
            counts, spot, new.obs, expected, np.random.default_rng((seed, Stream.COUNTS))
        )
        if key := self.registry_["setup_args"]["library_size_key"]:
            own = cells.adata.obs[key].to_numpy(float)[cells.rows][spot]
            share = np.asarray(new.X.sum(axis=1)).ravel() / np.maximum(size[spot], 1)
            new.obs[key] = own * share


def _divided(
    counts: sparse.csr_matrix,
    spot: np.ndarray,
    obs: Any,
    expected: np.ndarray,
    rng: np.random.Generator,
) -> sparse.csr_matrix:
    """Divide each spot's counts among its places, anew for each sample.

    Parameters
    ----------
    counts
        Of the spots, ``(n_spots, n_genes)``.
    spot
        That of each row of the result.
    obs
        Rows of the result, with ``place`` and ``sample``.
    expected
        Expected counts at each place, ``(n_places, n_genes)``.
    rng
        Source of the draws.
    """
    place, sample = obs["place"].to_numpy(), obs["sample"].to_numpy()
    rows, columns, values = [], [], []
    order = np.lexsort((sample, spot))
    group = spot[order] * (sample.max() + 1) + sample[order]
    for own in np.split(order, np.flatnonzero(np.diff(group)) + 1):
        spot_counts = counts[spot[own[0]]]
        genes = spot_counts.indices
        share = expected[place[own]][:, genes].astype(np.float64) + 1e-12
        parts = rng.multinomial(spot_counts.data.astype(np.int64), (share / share.sum(axis=0)).T)
        gene, part = np.nonzero(parts)
        rows.append(own[part])
        columns.append(genes[gene])
        values.append(parts[gene, part])
    data = np.concatenate(values).astype(np.float32)
    where = np.concatenate(rows), np.concatenate(columns)
    return sparse.csr_matrix((data, where), shape=(len(spot), counts.shape[1]))
