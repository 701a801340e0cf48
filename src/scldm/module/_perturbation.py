r"""From control cells to perturbed ones.

Control cells :math:`c` and perturbed cells :math:`p` of the same context are two samples, and no cell
is in both. Two models learn the way between them. The *flow* starts at control cells moved by the mean
change :math:`\delta` of the perturbation, which is latent arithmetic,

.. math:: x_t = (1 - t)\, p + t\, (c + \delta), \qquad v = c + \delta - p,

and as its network begins at zero, an untrained flow is latent arithmetic. The *conditional* model starts
at noise and is given the control cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from scldm.diffusion import Flow, RectifiedFlow, UniformTimes
from scldm.nn import MLP, ConditionEmbedder, VectorEmbedder

from ._latent_diffusion import LatentDiffusion

__all__ = ["SOURCE", "PerturbationDiffusion"]

SOURCE = "source"
"""Name of the condition that the control cell is."""


class PerturbationDiffusion(nn.Module):
    """Two small models of perturbed cells given control cells.

    Small, and trained for few steps: what they learn has to hold for contexts of which no perturbed
    cell was seen, and there the mean change is the best guess until there is evidence for another.

    Parameters
    ----------
    embedder
        Makes the module that embeds a perturbation, given a width.
    n_latent
        Number of latent dimensions, without the library size.
    width, depth, dropout_rate
        Of the networks.
    ema_decay
        Decay of the average of their weights.

    Attributes
    ----------
    flow
        Starts at moved control cells.
    conditional
        Starts at noise, given the control cell.

    References
    ----------
    Liu et al. (2023), *Flow straight and fast*, ICLR (flows between two samples); Tong et al.
    (2024), TMLR (pairs by optimal transport); Lotfollahi et al. (2019), Nature Methods 16:715
    (latent arithmetic).
    """

    def __init__(
        self,
        embedder: Callable[[int], nn.Module],
        n_latent: int,
        width: int = 64,
        depth: int = 2,
        dropout_rate: float = 0.3,
        ema_decay: float = 0.99,
    ) -> None:
        super().__init__()

        def model(**others: nn.Module) -> LatentDiffusion:
            conditions = ConditionEmbedder({"perturbation": embedder(width), **others}, width)
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
        self, perturbed: Tensor, control: Tensor, shift: Tensor, conditions: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the losses of the two models, ``(n,)`` each.

        Parameters
        ----------
        perturbed, control
            Standardised cells in pairs, ``(n, n_latent + 1)``.
        shift
            Mean change of each pair's perturbation, in the same units.
        conditions
            The encoded perturbation.
        """
        given = {**conditions, SOURCE: control}
        return (
            self.flow.loss(perturbed, conditions, start=control + shift),
            self.conditional.loss(perturbed, given),
        )

    def update_average(self) -> None:
        """Move the averaged weights of both; call after each training step."""
        self.flow.update_average()
        self.conditional.update_average()
