"""The autoencoder's kind and what belongs to it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scldm.module import AUTOENCODERS, CountAutoencoder

from ._cells import encoded, selected
from ._choices import chosen, positive, weight

__all__ = ["CodebookMixin", "build_autoencoder"]


def build_autoencoder(
    kind: str,
    *,
    free_bits: float,
    n_codes: int | None,
    code_dims: int | None,
    **kwargs: Any,
) -> CountAutoencoder:
    """Return an untrained autoencoder.

    Parameters
    ----------
    kind
        One of :data:`scldm.module.AUTOENCODERS`.
    free_bits
        Of the variational one.
    n_codes, code_dims
        Of the vector-quantised one, ``None`` for its defaults.
    **kwargs
        Of :class:`scvi.module.VAE`.

    Raises
    ------
    ValueError
        If the kind is not known, or an argument belongs to another kind or does not fit.
    """
    autoencoder = chosen("autoencoder", kind, AUTOENCODERS)
    codes = {"n_codes": n_codes, "code_dims": code_dims}
    codes = {name: positive(name, n) for name, n in codes.items() if n is not None}
    free_bits = weight("free_bits", free_bits)
    bits = {"free_bits": free_bits} if free_bits else {}
    own, foreign, other = (codes, bits, "vae") if kind == "vq" else (bits, codes, "vq")
    for name, value in foreign.items():
        raise ValueError(f"`{name}={value!r}` needs `autoencoder={other!r}`, not {kind!r}.")
    return autoencoder(**own, **kwargs)


class CodebookMixin:
    """``get_codebook_usage``."""

    def get_codebook_usage(self) -> pd.DataFrame:
        r"""Say how the training cells use the codes of a vector-quantised autoencoder.

        The perplexity of a codebook, :math:`\exp(-\sum_k p_k \log p_k)` with the shares
        :math:`p_k` of cells, is the number of codes that, used alike, would carry as much.

        Returns
        -------
        A row for each code: ``group``, ``code``, ``share`` of cells, and the ``perplexity`` of
        the group.

        Raises
        ------
        ValueError
            If the model's autoencoder has no codes.
        RuntimeError
            If stage 1 is not trained or the model has no data.
        """
        quantiser = getattr(self.module.autoencoder, "quantiser", None)
        if quantiser is None:
            raise ValueError("The model has no codebooks; they come with `autoencoder='vq'`.")
        self._require("autoencoder")
        adata = self._adata_manager_or_raise().adata
        mean = encoded(self, selected(self, adata, self._split_of(adata)[0])).mean
        chosen_codes = quantiser.nearest(mean.to(self.device)).cpu().numpy()
        return usage(chosen_codes, quantiser.n_codes)


def usage(codes: np.ndarray, n_codes: int) -> pd.DataFrame:
    """Return share and perplexity of codes.

    Parameters
    ----------
    codes
        Codes of cells, ``(n_cells, n_groups)``.
    n_codes
        Codes in each codebook.
    """
    frames = []
    for group, column in enumerate(codes.T):
        share = np.bincount(column, minlength=n_codes) / len(column)
        entropy = -(share[share > 0] * np.log(share[share > 0])).sum()
        frame = {"group": group, "code": np.arange(n_codes), "share": share}
        frames.append(pd.DataFrame(frame | {"perplexity": np.exp(entropy)}))
    return pd.concat(frames, ignore_index=True)
