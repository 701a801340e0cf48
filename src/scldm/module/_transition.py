r"""From cells of one population to those of another.

Source cells :math:`c` and target cells :math:`p`, control and perturbed ones or those of one time and the
next, are two samples, and no cell is in both. Two models learn the way between them. The *flow* starts
at source cells moved by a shift :math:`\delta` that is known beforehand,

.. math:: x_t = (1 - t)\, p + t\, (c + \delta), \qquad v = c + \delta - p,

and as its network begins at zero, an untrained flow is the shift alone: with the mean change of a
perturbation, latent arithmetic. The *conditional* model starts at noise and is given the source cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from scldm.diffusion import Flow, RectifiedFlow, UniformTimes
from scldm.nn import MLP, ConditionEmbedder, VectorEmbedder

from ._latent_diffusion import LatentDiffusion

__all__ = ["SOURCE", "TransitionDiffusion"]

SOURCE = "source"
"""Name of the condition that the source cell is."""


class TransitionDiffusion(nn.Module):
    """Two models of target cells given source cells.

    Parameters
    ----------
    embedders
        By condition that the way depends on, what makes the module that embeds it, given a width.
    n_latent
        Number of latent dimensions, without the library size.
    width, depth, dropout_rate
        Of the networks. Small ones by default: where what they learn has to hold for contexts of
        which no target was seen, the shift is the best guess until there is evidence for another.
    ema_decay
        Decay of the average of their weights.

    Attributes
    ----------
    flow
        Starts at moved source cells.
    conditional
        Starts at noise, given the source cell.

    References
    ----------
    Liu et al. (2023), *Flow straight and fast*, ICLR (flows between two samples); Tong et al.
    (2024), TMLR (pairs by optimal transport); Lotfollahi et al. (2019), Nature Methods 16:715
    (latent arithmetic).
    """

    def __init__(
        self,
        embedders: Mapping[str, Callable[[int], nn.Module]],
        n_latent: int,
        width: int = 64,
        depth: int = 2,
        dropout_rate: float = 0.3,
        ema_decay: float = 0.99,
    ) -> None:
        super().__init__()

        def model(**others: nn.Module) -> LatentDiffusion:
            own = {name: embedder(width) for name, embedder in embedders.items()}
            conditions = ConditionEmbedder({**own, **others}, width)
            network = MLP(n_latent + 1, conditions, depth, dropout_rate=dropout_rate)
            return LatentDiffusion(
                network,
                n_latent,
                RectifiedFlow(),
                Flow(),
                UniformTimes(),
                condition_dropout=0.0,
                ema_decay=ema_decay,
            )

        self.flow = model()
        self.conditional = model(**{SOURCE: VectorEmbedder(n_latent + 1, width)})

    def fit_standardisation(self, mean: Tensor, variance: Tensor, log_library: Tensor) -> None:
        """Set what both models hold of the cells, see :class:`LatentDiffusion`."""
        for model in (self.flow, self.conditional):
            model.fit_standardisation(mean, variance, log_library)

    def loss(
        self, target: Tensor, source: Tensor, shift: Tensor, conditions: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of the two models, ``(n,)`` each.

        Parameters
        ----------
        target, source
            Standardised cells in pairs, ``(n, n_latent + 1)``.
        shift
            What is known beforehand of each pair's change, in the same units.
        conditions
            What the way depends on, encoded.
        """
        given = {**conditions, SOURCE: source}
        return (
            self.flow.loss(target, conditions, start=source + shift),
            self.conditional.loss(target, given),
        )

    def update_average(self) -> None:
        """Move the averaged weights of both; call after each training step."""
        self.flow.update_average()
        self.conditional.update_average()
