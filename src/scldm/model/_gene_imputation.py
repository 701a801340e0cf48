"""Genes that were not measured in space, from cells in which they were."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scldm._randomness import kept_choices
from scldm._warnings import warn

from ._blocks import resolved_seed
from ._cells import Cells, selected
from ._choices import flag, positive
from ._fields import check_counts, shortened
from ._keys import KEYS
from ._multi import MultiLDM
from ._provenance import provenance, recorded
from ._storage import read_rows

__all__ = ["GeneImputationMixin"]

_SHARED, _FURTHER = "rna", "protein"
_TECHNOLOGY, _SPACE, _REFERENCE = "technology", "space", "reference"
_FEWEST_SHARED = 2


class GeneImputationMixin:
    """``impute_genes``."""

    @recorded
    def impute_genes(
        self,
        adata: AnnData | None = None,
        reference: AnnData | None = None,
        *,
        genes: Sequence[str] | None = None,
        reference_layer: str | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 1,
        return_mean: bool = False,
        seed: int | None = None,
        batch_size: int = 1024,
        train_kwargs: Mapping[str, Any] | None = None,
    ) -> AnnData:
        """Return counts of genes that the cells of this model lack and a reference has.

        A :class:`MultiLDM` is trained on both: the genes that cells and reference share are one modality,
        the reference's further genes another that the cells of this model lack. So both have one latent
        space, and the further genes are drawn given the shared ones, in the units of the reference. Where
        cells and what they lie among matter more than their shared genes, this cannot know it.

        Parameters
        ----------
        adata
            Registered cells; ``None`` takes the training data.
        reference
            Cells with raw counts of the genes that are asked for and of some that this model has.
        genes
            Genes to return; ``None`` takes all that the reference has and this model lacks. Genes of the
            model that are named here are predicted as if they had not been measured.
        reference_layer
            Layer of the reference with the counts; ``None`` is ``X``.
        indices
            Which cells of ``adata``; ``None`` takes all.
        n_samples
            Draws for each cell.
        return_mean
            Return expected counts, means over the draws, in place of counts, and in
            ``layers["spread"]`` the standard deviation of counts over draws.
        seed, batch_size
            As in :meth:`generate`; training takes the seed too.
        train_kwargs
            For :meth:`MultiLDM.train`.

        Returns
        -------
        Counts of the genes for each cell and draw, with ``obs`` and ``obsm`` of the cell, its name in
        ``obs["source_cell"]``, and the genes that were shared in ``uns["scldm"]["shared_genes"]``.

        Raises
        ------
        ValueError
            If the reference is missing, is no raw counts, shares less than two genes, or lacks one that is
            asked for.
        TypeError
            If the reference is not an AnnData.

        Warns
        -----
        UserWarning
            If cells have no count of a shared gene, or cells of the reference none of a shared or of a
            further one; they are left out.
        """
        if reference is None:
            raise ValueError("`reference` is missing: cells with the genes that are asked for.")
        if not isinstance(reference, AnnData):
            raise TypeError(f"`reference` is a {type(reference).__name__}, not an AnnData.")
        n_samples = positive("n_samples", n_samples)
        batch_size = positive("batch_size", batch_size)
        return_mean = flag("return_mean", return_mean)
        seed = resolved_seed(seed)
        genes = [genes] if isinstance(genes, str) else genes
        shared, further = self._shared_and_further(reference, genes)
        cells = selected(self, adata, indices)
        own = self._shared_counts(cells, shared)
        measured = np.asarray(own.X.sum(axis=1)).ravel() > 0
        if not measured.all():
            warn(
                f"{(~measured).sum()} of {len(measured)} cells have no count of a shared gene; they are "
                "left out."
            )
            cells, own = cells.at(np.flatnonzero(measured)), own[measured].copy()
        with kept_choices():
            both = _joined(own, _counts_of(reference, reference_layer), shared, further)
        MultiLDM.setup_mudata(
            both,
            modalities={"rna_layer": _SHARED, "protein_layer": _FURTHER},
            batch_key=_TECHNOLOGY,
        )
        with _own_randomness(seed):
            model = MultiLDM(both)
            model.train(**{"enable_progress_bar": False, **(train_kwargs or {})})
            new = model.translate(
                {_SHARED: own},
                source=_SHARED,
                target=_FURTHER,
                n_samples=n_samples,
                return_mean=return_mean,
                seed=seed,
                batch_size=batch_size,
                batch=_REFERENCE,
            )
        if genes is not None:
            new = new[:, list(genes)].copy()
        return _like_cells(new, cells, 1 if return_mean else n_samples, seed, shared)

    def _shared_and_further(
        self, reference: AnnData, genes: Sequence[str] | None
    ) -> tuple[list[str], list[str]]:
        """Return the genes to predict from, and those that are predicted."""
        names = reference.var_names
        if not names.is_unique:
            raise ValueError("`reference.var_names` has a name twice; genes are matched by name.")
        asked = set() if genes is None else set(genes)
        if genes is not None and not 0 < len(asked) == len(genes):
            raise ValueError("`genes` must name one gene or more, each once.")
        if lacking := sorted(asked - set(names)):
            raise ValueError(f"`genes` has {shortened(lacking)}, which the reference lacks.")
        own = set(self.var_names) - asked
        shared = [gene for gene in names if gene in own]
        if len(shared) < _FEWEST_SHARED:
            raise ValueError(
                f"`reference` shares {len(shared)} genes with the model by name; {_FEWEST_SHARED} or more "
                f"are needed. The model has {shortened(self.var_names)}, the reference {shortened(names)}."
            )
        further = [gene for gene in names if gene not in own]
        if not further:
            raise ValueError("`reference` has no gene that the model lacks.")
        return shared, further

    def _shared_counts(self, cells: Cells, shared: Sequence[str]) -> AnnData:
        counts = self.get_anndata_manager(cells.adata, required=True).get_from_registry(
            KEYS.COUNTS
        )
        columns = self.var_names.get_indexer(shared)
        return AnnData(
            sparse.csr_matrix(read_rows(counts, cells.rows))[:, columns],
            obs=pd.DataFrame(index=cells.names.astype(str)),
            var=pd.DataFrame(index=list(shared)),
        )


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Let what runs inside draw from a seed, and put the global random states back afterwards."""
    before = scvi.settings.seed
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(list(range(torch.cuda.device_count()))):
        try:
            # scvi-tools splits cells by its own seed, which sets all the others
            scvi.settings.seed = seed % 2**32
            yield
        finally:
            scvi.settings.seed = before
            random.setstate(states[0])
            np.random.set_state(states[1])


def _counts_of(reference: AnnData, layer: str | None) -> AnnData:
    """Return a reference with its raw counts alone, as a sparse matrix."""
    if layer is not None and layer not in reference.layers:
        raise ValueError(
            f"`reference_layer={layer!r}` is not known. Known: {shortened(reference.layers)}."
        )
    counts = reference.X if layer is None else reference.layers[layer]
    matrix = sparse.csr_matrix(counts[:])
    try:
        check_counts(matrix.data, "`reference`")
    except ValueError as error:
        raise ValueError(str(error).replace("`layer=`", "`reference_layer=`")) from None
    return AnnData(
        matrix.astype(np.float32),
        obs=pd.DataFrame(index=[f"reference {i}" for i in range(reference.n_obs)]),
        var=pd.DataFrame(index=reference.var_names),
    )


def _joined(
    own: AnnData, reference: AnnData, shared: Sequence[str], further: Sequence[str]
) -> MuData:
    """Return cells and reference together; the cells lack the further genes."""
    seen = {name: reference[:, list(some)].copy() for name, some in ((0, shared), (1, further))}
    whole = [np.asarray(x.X.sum(axis=1)).ravel() > 0 for x in seen.values()]
    # a reference cell without a count in one of the two says nothing of it
    rows = whole[0] & whole[1]
    if not rows.all():
        warn(
            f"{(~rows).sum()} of {len(rows)} cells of the reference have no count of a shared or of a "
            "further gene; they are left out."
        )
    counts = sparse.vstack([seen[0].X[rows], own.X], format="csr")
    names = [*reference.obs_names[rows], *own.obs_names]
    first = AnnData(counts, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=list(shared)))
    both = MuData({_SHARED: first, _FURTHER: seen[1][rows].copy()})
    kinds = [_REFERENCE] * int(rows.sum()) + [_SPACE] * len(own)
    both.obs[_TECHNOLOGY] = pd.Series(kinds, index=names).reindex(both.obs_names)
    return both


def _like_cells(
    new: AnnData, cells: Cells, n_samples: int, seed: int, shared: Sequence[str]
) -> AnnData:
    """Return predicted counts with what is known of the cells."""
    rows = np.repeat(cells.rows, n_samples)
    obs = cells.adata.obs.iloc[rows]
    # columns of scvi-tools are those of the registered data
    obs = obs[[column for column in obs if not str(column).startswith("_scvi")]].copy()
    result = AnnData(
        new.X, obs=obs.set_axis(new.obs_names), var=new.var.copy(), layers=dict(new.layers)
    )
    result.obs["source_cell"] = cells.adata.obs_names[rows].to_numpy()
    for key, values in cells.adata.obsm.items():
        framed = hasattr(values, "iloc")
        result.obsm[key] = values.iloc[rows].set_axis(result.obs_names) if framed else values[rows]
    record = {k: v for k, v in new.uns["scldm"].items() if k in ("n_samples", "return_mean")}
    result.uns["scldm"] = {
        **record,
        **provenance(),
        "method": "impute_genes",
        "seed": seed,
        "shared_genes": list(shared),
    }
    return result
