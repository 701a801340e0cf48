"""Default sizes and training lengths, by number of cells."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["MOVING_KEYS", "Recipe"]

MOVING_KEYS = ("perturbation_key", "time_key", "spatial_key")
"""Arguments of the setup that ask for latents to be moved."""


@dataclass(frozen=True)
class Recipe:
    """Settings that depend on how many cells there are to learn from.

    Parameters
    ----------
    n_latent, n_hidden, n_layers, dropout_rate, thinning
        Of the autoencoder.
    kl_weight
        Weight of its KL term.
    max_epochs
        Epochs of stage 1.
    width
        Width of the denoiser.
    max_steps
        Optimiser steps of stage 2.
    """

    n_latent: int
    n_hidden: int
    n_layers: int
    dropout_rate: float
    thinning: float
    kl_weight: float
    max_epochs: int
    width: int
    max_steps: int

    @classmethod
    def for_cells(cls, n_cells: int, moved: bool = False) -> Recipe:
        """Return the settings for a number of cells.

        Parameters
        ----------
        n_cells
            The number.
        moved
            Whether the latents of cells are moved: to other times, places or perturbations.
        """
        return cls(
            n_latent=16,
            n_hidden=128 if n_cells < 4000 else 256,
            # the nearer a decoder is to a linear one, the more a step in latents does what it did elsewhere
            n_layers=1 if moved else 2,
            dropout_rate=0.1,
            thinning=0.8,
            kl_weight=0.1,
            max_epochs=int(max(10, min(400, round(400_000 / n_cells)))),
            width=128,
            # with more steps for the cells it has, the denoiser begins to recite them
            max_steps=int(max(600, min(4000, round(2.4 * n_cells)))),
        )

    @classmethod
    def for_query(cls, n_cells: int) -> Recipe:
        """Return the settings for few cells that a trained model is adapted to."""
        max_epochs = int(max(10, min(600, round(80_000 / n_cells))))
        return replace(cls.for_cells(n_cells), max_epochs=max_epochs, max_steps=600)

    def kl_weight_of(self, autoencoder: str) -> float:
        """Return the weight of the KL term, or of the commitment that stands in its place."""
        return 1.0 if autoencoder == "vq" else self.kl_weight
