"""Models to pass on: the files that scvi-tools' hub expects beside a saved model.

``scvi.hub.HubModel`` reads three files: the saved model, required metadata that name its class, and a
model card. Its helper that writes cards knows scvi-tools' own classes only, so the card is written here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from scvi import settings

from scldm._version import __version__

from ._files import MODEL_FILE

__all__ = ["HubMixin"]

_METADATA_FILE = "_scvi_required_metadata.json"
_CARD_FILE = "README.md"
_PACKAGE = "scldm"

_INTENDED_USE = (
    "Generating, translating or changing cells of the kind that the model was trained on, to explore "
    "data, to plan experiments, or to add to training data of other methods."
)
_LIMITS = """\
- The model knows cells like its training cells. What it makes for combinations of conditions that no
  training cell has is extrapolation.
- Generated cells are no measurements: effects seen in them are hypotheses, and their number is no
  sample size.
- Few training cells of a category mean generated ones that resemble each other, and them.
- The weights may let facts about single training cells be inferred. Cells of people who did not agree
  to have them shared are not made anonymous by a model."""

_MOST_CATEGORIES = 50


class HubMixin:
    """``to_hub`` and ``model_card``."""

    def to_hub(
        self,
        dir_path: str | os.PathLike,
        *,
        license: str,
        description: str = "",
        intended_use: str = _INTENDED_USE,
        limits: str = _LIMITS,
        training_data_url: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
    ) -> None:
        """Save the model with all that ``scvi.hub.HubModel`` needs.

        The directory gets ``model.pt`` as :meth:`save` writes it, ``_scvi_required_metadata.json`` and the
        card, ``README.md``. Nothing is sent anywhere; ``HubModel.push_to_huggingface_hub`` does that.

        Parameters
        ----------
        dir_path
            Directory to make.
        license, description, intended_use, limits
            As in :meth:`model_card`.
        training_data_url
            Where the training data can be had.
        overwrite
            Whether to replace what an existing directory holds.
        save_anndata
            Whether to save the data too. Without, ``HubModel(dir).load_model(adata=False)`` loads the
            model, and ``HubModel(dir).model`` looks for data first.

        Raises
        ------
        FileExistsError
            If the directory exists and ``overwrite`` is false.
        RuntimeError
            If the model is not trained.

        Examples
        --------
        >>> model.to_hub("hub/", license="cc-by-4.0", description="Blood of two donors.")
        >>> hub = scvi.hub.HubModel("hub/")  # pip install "scvi-tools[hub]"
        >>> hub.load_model(adata=False)
        >>> hub.model.generate(1000)
        """
        card = self.model_card(
            license=license, description=description, intended_use=intended_use, limits=limits
        )
        metadata = {
            "scvi_version": self.registry_["scvi_version"],
            "anndata_version": version("anndata"),
            "model_cls_name": type(self).__name__,
            "training_data_url": training_data_url,
            "model_parent_module": _PACKAGE,
        }
        self.save(dir_path, overwrite=overwrite, save_anndata=save_anndata)
        folder = Path(dir_path).expanduser()
        (folder / _METADATA_FILE).write_text(json.dumps(metadata, indent=4), encoding="utf-8")
        (folder / _CARD_FILE).write_text(card, encoding="utf-8")

    def model_card(
        self,
        *,
        license: str,
        description: str = "",
        intended_use: str = _INTENDED_USE,
        limits: str = _LIMITS,
    ) -> str:
        """Describe the model in Markdown, with the header that model hubs read.

        The card says what the model was trained on (numbers of cells and genes, conditions, categories
        and how many cells each has), which stages are trained, settings, versions and seed.

        Parameters
        ----------
        license
            Of the model, such as ``"cc-by-4.0"``.
        description
            What the data are: tissue, species, technology, where they are from.
        intended_use, limits
            What the model is good for, and what it is not.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        self._require("diffusion")
        frame = self.training_frame_
        sections = {
            "": description or "A latent diffusion model of single cells.",
            "Use": _how_to_load(type(self).__name__),
            "Training data": "\n".join(
                _data(len(frame), len(self.var_names), self.conditions, frame)
            ),
            "Training": "\n".join(self._training_lines()),
            "Settings": _settings(self.init_params_, self.registry_["setup_args"]),
            "Intended use": intended_use,
            "Limits": limits,
        }
        parts = [_header(license, type(self).__name__, self.registry_["scvi_version"])]
        parts += [f"# {type(self).__name__}"]
        parts += [f"## {title}\n\n{text}" if title else text for title, text in sections.items()]
        return "\n\n".join(parts) + "\n"

    def _training_lines(self) -> Iterator[str]:
        names = [
            name for name in vars(self) if name.endswith("_trained_") and name != "is_trained_"
        ]
        trained = [name.removesuffix("_trained_") for name in names if getattr(self, name)]
        yield f"- Stages trained: {', '.join(trained)}"
        if (query := getattr(self, "query_", None)) is not None:
            frozen = ", ".join(query["frozen"]) or "nothing"
            yield f"- Adapted from a trained model with {frozen} frozen; the data are those of both"
        yield f"- Seed (`scvi.settings.seed` when this was written): {settings.seed}"
        yield f"- scldm {__version__}, scvi-tools {self.registry_['scvi_version']}"
        yield f"- torch {version('torch')}, anndata {version('anndata')}"


def _header(license: str, model: str, scvi_version: str) -> str:
    """Return the header in YAML; text in JSON is YAML too."""
    tags = ["biology", "genomics", "single-cell", f"model_cls_name:{model}"]
    tags += [f"scvi_version:{scvi_version}", f"anndata_version:{version('anndata')}"]
    lines = [f"license: {json.dumps(license)}", "library_name: scvi-tools", "tags:"]
    return "\n".join(["---", *lines, *(f"- {json.dumps(tag)}" for tag in tags), "---"])


def _how_to_load(model: str) -> str:
    return (
        f"```python\nimport scvi\n\nhub = scvi.hub.HubModel(folder)  # files of this repository\n"
        f"hub.load_model(adata=False)\ncells = hub.model.generate(1000)\n```\n\n"
        f"Or `scldm.{model}.load(folder, adata=False)`. `{MODEL_FILE}` holds tensors and plain data; "
        "loading it this way runs no code."
    )


def _data(n_cells: int, n_genes: int, conditions: Any, frame: pd.DataFrame) -> Iterator[str]:
    yield f"- Cells: {n_cells}"
    yield f"- Genes or other features: {n_genes}"
    for condition in conditions:
        for argument in condition.arguments:
            columns = condition.columns(argument)
            yield f"- `{argument}`: {_values(frame[columns])}"


def _values(values: pd.DataFrame) -> str:
    """Say which values of a condition there are."""
    first = values.iloc[:, 0]
    if isinstance(first.dtype, pd.CategoricalDtype):
        counts = first.value_counts()
        counts = counts[counts > 0]
        listed = ", ".join(f"{name} ({n})" for name, n in counts[:_MOST_CATEGORIES].items())
        more = len(counts) - _MOST_CATEGORIES
        return f"{len(counts)} categories (cells): {listed}{f', {more} more' if more > 0 else ''}"
    if values.shape[1] > 1:
        return f"vectors of {values.shape[1]} numbers"
    return f"numbers from {first.min():g} to {first.max():g}"


def _settings(init_params: dict[str, Any], setup: dict[str, Any]) -> str:
    """Return a block with the arguments that were not left out."""
    arguments = {**init_params["non_kwargs"], **init_params["kwargs"].get("module_kwargs", {})}
    blocks = {"setup": setup, "model": arguments}
    given = {
        name: {key: value for key, value in block.items() if value is not None}
        for name, block in blocks.items()
    }
    return f"```json\n{json.dumps(given, indent=2, default=str)}\n```"
