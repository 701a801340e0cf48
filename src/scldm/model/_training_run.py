"""A training of several stages that goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from scldm.train import EpochCheckpoint, random_state, set_random_state

from ._plain import to_plain

__all__ = ["TrainingRun"]

_STATE = "state.pt"
# where and how watched a training runs changes nothing in what it asks for
_FREE = {"accelerator", "devices", "strategy", "callbacks", "logger", "enable_progress_bar"}


class TrainingRun:
    """Runs stages one after the other and keeps in a folder what has been done.

    The folder has ``state.pt``, which says what was asked for, which stages are done, where the random
    streams were then and which of the folders beside it holds the model; and a checkpoint named for
    the stage that is under way, from which it goes on. Each is replaced in one step, so a process can be killed at any
    moment. All are read as plain data, so reading them runs no code.

    Parameters
    ----------
    folder
        Where to keep it.
    model
        The model that is trained; it becomes what the folder says it was.
    asked
        The arguments of the training.
    interval
        Seconds between writings within a stage.

    Raises
    ------
    ValueError
        If the folder holds another training, or nothing that can be read.
    """

    def __init__(
        self, folder: str | os.PathLike, model: Any, asked: Mapping[str, Any], interval: float
    ) -> None:
        self.folder = Path(folder).expanduser().resolve()
        self.model = model
        self.interval = interval
        asked = {**_plain_arguments(asked), **_what_is_trained(model)}
        if (self.folder / _STATE).is_file():
            self.state = self._read()
            self._refuse_another(asked)
            model._restore(self.folder / self.state["model"])
            set_random_state(self.state["random"])
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.state = {"asked": asked, "done": [], "model": None, "random": None}
            self._keep()

    def __call__(self, stage: str, train: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        """Run a stage, from its last checkpoint if it has one, unless it is done."""
        # by the stage's name, or one that was killed before this was removed would lend it to the next
        checkpoint = self.folder / f"{stage}.ckpt"
        if stage in self.state["done"]:
            self._remove(checkpoint)
            return
        given = kwargs.pop("callbacks", None) or []
        given = [given] if isinstance(given, Callback) else list(given)
        kwargs["callbacks"] = [*given, EpochCheckpoint(checkpoint, self.interval)]
        if checkpoint.is_file():
            _refuse_unreadable(checkpoint)
            kwargs["ckpt_path"] = checkpoint
        train(*args, **kwargs)
        self.state["done"].append(stage)
        self._keep()
        self._remove(checkpoint)

    def _remove(self, checkpoint: Path) -> None:
        if not rank_zero_only.rank:
            checkpoint.unlink(missing_ok=True)

    def _keep(self) -> None:
        """Write the model and what has been done; the old ones stay until the new are whole."""
        if rank_zero_only.rank:
            return
        before = self.state["model"]
        name = f"model-{len(self.state['done'])}"
        self.model.save(self.folder / name, overwrite=True)
        self.state |= {"model": name, "random": random_state()}
        partial = self.folder / f"{_STATE}.partial"
        torch.save(self.state, partial)
        os.replace(partial, self.folder / _STATE)
        if before not in (None, name):
            shutil.rmtree(self.folder / before, ignore_errors=True)

    def _read(self) -> dict[str, Any]:
        path = self.folder / _STATE
        _refuse_unreadable(path)
        return torch.load(path, weights_only=True)

    def _refuse_another(self, asked: dict[str, Any]) -> None:
        before = self.state["asked"]
        differ = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
        if differ:
            changes = ", ".join(
                f"{name} ({_shown(before.get(name))}, now {_shown(asked.get(name))})"
                for name in differ
            )
            raise ValueError(
                f"`checkpoint_dir={str(self.folder)!r}` holds a training that differs in: {changes}. Ask "
                "for the same, or give another folder."
            )


def _plain_arguments(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as text, those that may change between processes left out."""
    kept = {name: value for name, value in asked.items() if name not in _FREE}
    return {
        name: json.dumps(
            {k: v for k, v in value.items() if k not in _FREE}
            if isinstance(value, Mapping)
            else value,
            default=lambda x: type(x).__name__,
            sort_keys=True,
        )
        for name, value in kept.items()
    }


def _what_is_trained(model: Any) -> dict[str, str]:
    """Return what tells a model and its data from others."""
    adata = model.adata
    return {
        "model": type(model).__name__,
        "its arguments": json.dumps(to_plain(model.init_params_), sort_keys=True, default=str),
        "setup": json.dumps(to_plain(model.registry_["setup_args"]), sort_keys=True, default=str),
        "cells": _digest(adata.obs_names),
        "genes": _digest(model.var_names),
        "conditions": _digest(model._read_conditions(adata)),
    }


def _digest(values: pd.Index | pd.DataFrame) -> str:
    frame = values.to_frame() if isinstance(values, pd.Index) else values
    digest = hashlib.sha256(str(len(frame)).encode())
    for name in frame:
        digest.update(pd.util.hash_pandas_object(frame[name], index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def _shown(text: str | None) -> str:
    text = "not given" if text is None else text
    return text if len(text) <= 40 else f"{text[:37]}..."


def _refuse_unreadable(path: Path) -> None:
    try:
        torch.load(path, weights_only=True, map_location="meta")
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is damaged, or holds more than data, and was not read. Remove it to go on "
            "without."
        ) from error
