"""Gene sets: read from files, and put beside the genes of a data set."""

import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from scldm._warnings import warn

__all__ = ["add_gene_sets", "read_gmt"]


def read_gmt(path: str | os.PathLike) -> dict[str, list[str]]:
    """Read gene sets from a GMT file, the format of MSigDB.

    Each line has a set: its name, a description, and its genes, with tabs between them.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Genes by name of the set, each gene once, in the file's order.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line has no genes, two sets have the same name, or there is no set.
    """
    sets: dict[str, list[str]] = {}
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, *rest = (part.strip() for part in line.split("\t"))
        genes = list(dict.fromkeys(gene for gene in rest[1:] if gene))
        if not name or not genes:
            raise ValueError(
                f"Line {number} of {str(path)!r} is not a gene set: it must have a name, a "
                f"description and genes, with tabs between them, but starts with {line[:40]!r}."
            )
        if name in sets:
            raise ValueError(f"Line {number} of {str(path)!r} has the set {name!r} again.")
        sets[name] = genes
    if not sets:
        raise ValueError(f"{str(path)!r} has no gene sets.")
    return sets


def add_gene_sets(
    adata: AnnData,
    sets: Mapping[str, Iterable[str]],
    key: str = "gene_sets",
    min_genes: int = 1,
) -> None:
    """Write gene sets into ``adata.varm[key]``: 1 where a gene is in a set, 0 where not.

    Parameters
    ----------
    adata
        Data whose genes are named as in the sets.
    sets
        Genes by name of the set, as :func:`read_gmt` returns them.
    key
        Where to write.
    min_genes
        Sets with fewer genes in ``adata`` are left out, with a warning.

    Raises
    ------
    TypeError
        If ``sets`` is not a mapping to lists of genes.
    ValueError
        If names of genes repeat in ``adata``, a set has no gene there, or no set is left.
    """
    if not isinstance(sets, Mapping) or any(isinstance(genes, str) for genes in sets.values()):
        raise TypeError("`sets` must map names of sets to lists of genes.")
    if not adata.var_names.is_unique:
        raise ValueError("`adata` has genes of the same name. Make them unique first.")
    genes_of = {str(name): list(dict.fromkeys(genes)) for name, genes in sets.items()}
    inside = {name: adata.var_names.isin(genes) for name, genes in genes_of.items()}
    if none := [name for name in genes_of if not inside[name].any()]:
        raise ValueError(
            f"`sets` has sets of which no gene is in `adata`: {_cut(none)}. Their genes may go by "
            f"other names: `adata` has {_cut(adata.var_names, 3)}, {none[0]!r} has "
            f"{_cut(genes_of[none[0]], 3)}. Leave them out if they do not."
        )
    if small := [name for name in genes_of if inside[name].sum() < min_genes]:
        warn(f"Sets with fewer than {min_genes} genes in `adata` are left out: {_cut(small)}.")
    kept = [name for name in genes_of if name not in set(small)]
    if not kept:
        raise ValueError(f"`sets` has no set with {min_genes} or more genes in `adata`.")
    wanted = {gene for name in kept for gene in genes_of[name]}
    if missing := sorted(wanted - set(adata.var_names)):
        warn(f"{len(missing)} of {len(wanted)} genes are not in `adata`: {_cut(missing)}.")
    membership = np.column_stack([inside[name] for name in kept]).astype(np.float32)
    adata.varm[key] = pd.DataFrame(membership, index=adata.var_names, columns=kept)


def _cut(names: Collection[str], limit: int = 10) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more
