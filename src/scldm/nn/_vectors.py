"""One vector for each of a known list of things: learned, or projected from a given table."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["TableVectors", "standardised", "vectors_for"]


class TableVectors(nn.Module):
    """Rows of a given table, through a small network.

    Nothing is learned for a row alone, so rows that training never saw mean something: what
    their likeness to others says (GEARS, Roohani et al. 2023, and chemCPA, Hetzel et al. 2022,
    reach new perturbations in this way).

    Parameters
    ----------
    table
        Embeddings from elsewhere, ``(n_items, d)``; standardised here, dimension by dimension.
    width
        Length of the vectors.
    """

    table: Tensor

    def __init__(self, table: Tensor, width: int) -> None:
        super().__init__()
        table = table.detach().float()
        self.register_buffer("table", standardised(table, like=table))
        self.network = nn.Sequential(
            nn.Linear(table.shape[1], width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes ``(...)`` to ``(..., width)``."""
        return self.network(self.table[codes])


def standardised(table: Tensor, like: Tensor) -> Tensor:
    """Return a table, ``(n_items, d)``, less the mean of another and over its spread."""
    spread = like.std(0, correction=0)
    # a dimension without spread says nothing and becomes zero
    return (table - like.mean(0)) / spread.clamp_min(1e-8)


def vectors_for(n_items: int, width: int, table: Tensor | None) -> nn.Module:
    """Return what maps codes to vectors: learned ones without a table, projected ones with it.

    Raises
    ------
    ValueError
        If the table has another number of rows or values that are not finite.
    """
    if table is None:
        return nn.Embedding(n_items, width)
    if table.ndim != 2 or len(table) != n_items:
        raise ValueError(
            f"`table` has shape {tuple(table.shape)}, but must have one row for each of the "
            f"{n_items} items: ({n_items}, d)."
        )
    if not table.isfinite().all():
        raise ValueError("`table` has NaN or infinite values; give finite embeddings.")
    return TableVectors(table, width)
