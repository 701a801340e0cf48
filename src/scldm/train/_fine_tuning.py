r"""Stage 3: autoencoder and diffusion trained together, from counts.

.. math:: E_{z \sim q(z | x)} \big[-\log p(x | z) + \beta\, \mathrm{KL}
          + \lambda\, (d + 1)\, L_{\mathrm{diffusion}}([z, \log l])\big]

with the gradient of the diffusion's loss flowing through z into the encoder, as in LSGM (Vahdat et
al. 2021, *Score-based generative modeling in latent space*). The loss of stage 2 is a mean over
the d + 1 diffused dimensions; times their number it stands beside sums over genes and latents.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from scvi.module._constants import MODULE_KEYS
from torch import Tensor
from torch.utils.data import Dataset

from scldm.module import SCLDMModule

from ._latents import StepsDataModule
from ._plans import networks_and_dispersion, warm_up_and_cosine

__all__ = ["FineTuningPlan", "JointDataModule"]


class _JointDataset(Dataset):
    """Hands out minibatches of counts together with their conditions."""

    def __init__(self, cells: Any, conditions: dict[str, Tensor], rows: np.ndarray) -> None:
        self.cells = cells
        self.conditions = conditions
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> dict[str, dict[str, Tensor]]:
        # in the order of the file, as scvi-tools sorts the rows of data on disk
        rows = np.sort(self.rows[indices])
        tensors = {k: torch.as_tensor(v) for k, v in self.cells[rows.tolist()].items()}
        return {
            "tensors": tensors,
            "conditions": {name: value[rows] for name, value in self.conditions.items()},
        }


class JointDataModule(StepsDataModule):
    """Loaders over counts and conditions.

    Parameters
    ----------
    cells
        scvi-tools' data set of the registered data.
    conditions
        Encoded conditions of all cells, each ``(n, width)``.
    train_idx, val_idx, *args
        As in :class:`StepsDataModule`.
    """

    validation_batch_size = 512

    def __init__(
        self,
        cells: Any,
        conditions: dict[str, Tensor],
        train_idx: np.ndarray,
        val_idx: np.ndarray,
        *args: Any,
    ) -> None:
        train = _JointDataset(cells, conditions, train_idx)
        val = _JointDataset(cells, conditions, val_idx)
        super().__init__(train, val, train_idx, val_idx, *args)


class FineTuningPlan(pl.LightningModule):
    """Trains both parts with one loss and keeps the average of the denoiser's weights.

    Parameters
    ----------
    module
        Autoencoder and diffusion, the latter's standardisation fitted; it stays as it is.
    kl_weight
        Weight of the KL term or the commitment.
    diffusion_weight
        Weight of the diffusion's loss.
    lr
        Peak learning rate of all networks; it warms up over the first tenth and falls to zero.
    dispersion_lr
        That of the parameters that set the dispersion; ``None`` is the same.
    weight_decay
        Of AdamW, for the denoiser.
    """

    def __init__(
        self,
        module: SCLDMModule,
        *,
        kl_weight: float,
        diffusion_weight: float,
        lr: float = 1e-4,
        dispersion_lr: float | None = None,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__()
        self.module = module
        self.kl_weight = kl_weight
        self.diffusion_weight = diffusion_weight
        self.lr = lr
        self.dispersion_lr = lr if dispersion_lr is None else dispersion_lr
        self.weight_decay = weight_decay

    def _losses(
        self, minibatch: dict[str, Any], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        autoencoder, diffusion = self.module.autoencoder, self.module.diffusion
        tensors, conditions = minibatch["tensors"], minibatch["conditions"]
        outputs, _, loss = autoencoder(tensors, loss_kwargs={"kl_weight": self.kl_weight})
        z = outputs[MODULE_KEYS.Z_KEY]
        x_0 = diffusion.standardise(z, autoencoder.log_library(tensors, outputs))
        if generator is None:
            matching = diffusion.loss(x_0, conditions).mean()
        else:
            matching = diffusion.validation_loss(x_0, conditions, generator).mean()
        return {
            "loss": loss.loss + self.diffusion_weight * x_0.shape[1] * matching,
            "reconstruction": loss.reconstruction_loss_sum / len(x_0),
            "diffusion": matching,
        }

    def training_step(self, minibatch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of a minibatch.

        Raises
        ------
        RuntimeError
            If it is not finite, before it spoils any weight.
        """
        losses = self._losses(minibatch, None)
        if not losses["loss"].isfinite():
            raise RuntimeError(
                f"The loss of fine-tuning became infinite or NaN; set a rate below `lr={self.lr}`."
            )
        self._log(losses, "train", minibatch)
        return losses["loss"]

    def on_train_batch_end(self, *args: Any) -> None:
        """Update the averaged weights."""
        self.module.diffusion.update_average()

    def validation_step(self, minibatch: dict[str, Any], batch_idx: int) -> None:
        """Log the losses with the averaged weights of the denoiser."""
        generator = torch.Generator(self.device).manual_seed(batch_idx)
        self._log(self._losses(minibatch, generator), "validation", minibatch)

    def _log(self, losses: dict[str, Tensor], kind: str, minibatch: dict[str, Any]) -> None:
        self.log_dict(
            {f"fine_tune_{name}_{kind}": value for name, value in losses.items()},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=len(next(iter(minibatch["tensors"].values()))),
            sync_dist=self.trainer.world_size > 1,
        )

    def configure_optimizers(self) -> Any:
        """Return AdamW with the settings that each part had in its own stage."""
        networks, dispersion = networks_and_dispersion(self.module.autoencoder)
        denoiser = list(self.module.diffusion.trained.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": networks, "weight_decay": 1e-6, "eps": 0.01},
                {"params": dispersion, "lr": self.dispersion_lr, "weight_decay": 0.0, "eps": 0.01},
                {"params": denoiser, "weight_decay": self.weight_decay},
            ],
            lr=self.lr,
        )
        return warm_up_and_cosine(self, optimizer, warm_up=0.1)
