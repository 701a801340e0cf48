r"""Stage 1 with a discriminator of sampled expression.

The likelihood judges genes one by one; a discriminator sees whole cells. To the loss of
reconstruction and KL come :math:`\lambda` times the loss of deceiving the discriminator, and the
discriminator's own loss, whose gradients go to different parameters: one backward pass and one
optimiser train both sides (see :class:`scldm.module.Discriminator`).

As in Ganin et al. (2016, *Domain-adversarial training of neural networks*, section 5.2.2)
:math:`\lambda` grows as :math:`2 / (1 + e^{-10 p}) - 1` with the share p of training done, so the
discriminator learns before it is heard.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from scvi import REGISTRY_KEYS
from scvi.module._constants import MODULE_KEYS
from torch import Tensor

from scldm.module import CountAutoencoder, Discriminator, log_normalised, sampled_expression

from ._plans import AutoencoderPlan

__all__ = ["AdversarialPlan"]


def ramp(done: float) -> float:
    """Return the share of the full weight after a share of the training."""
    return 2 / (1 + math.exp(-10 * done)) - 1


class AdversarialPlan(AutoencoderPlan):
    """Trains the autoencoder against a discriminator, which ends with the plan.

    Parameters
    ----------
    module
        The autoencoder.
    adversarial_weight
        Weight of the adversarial term after its warm-up, in nats a cell.
    discriminator_lr
        Peak learning rate of the discriminator.
    **kwargs
        Of :class:`AutoencoderPlan`.
    """

    def __init__(
        self,
        module: CountAutoencoder,
        *,
        adversarial_weight: float,
        discriminator_lr: float = 3e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, **kwargs)
        self.adversarial_weight = adversarial_weight
        self.discriminator_lr = discriminator_lr
        self.discriminator = Discriminator(module.n_input)

    def forward(self, batch: dict[str, Tensor], **kwargs: Any) -> Any:
        """Run the autoencoder and, in training, add both adversarial terms to its loss."""
        inference, generative, loss = super().forward(batch, **kwargs)
        if self.training:
            log_library = self.module.log_library(batch, inference)
            real = log_normalised(batch[REGISTRY_KEYS.X_KEY])
            sampled = sampled_expression(generative[MODULE_KEYS.PX_KEY])
            own = self.discriminator.loss(real, sampled, log_library)
            deception = self.discriminator.deception(sampled, log_library)
            metrics = {"discriminator_loss": own.detach(), "deception": deception.detach()}
            loss = replace(
                loss,
                loss=loss.loss + own + self._weight() * deception,
                extra_metrics=loss.extra_metrics | metrics,
            )
        return inference, generative, loss

    def _weight(self) -> float:
        total = max(1, int(self.trainer.estimated_stepping_batches))
        return self.adversarial_weight * ramp(self.global_step / total)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Add the discriminator to the groups."""
        parameters = list(self.discriminator.parameters())
        own = {"params": parameters, "lr": self.discriminator_lr, "weight_decay": 1e-2}
        return [*super().parameter_groups(), own | {"eps": 1e-8}]
