"""Saving and loading: whole files or none, and data only."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import zipfile
import zlib
from pathlib import Path
from typing import Any, Self, cast

import anndata
import mudata
import torch
from anndata import AnnData
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only
from scvi.model._utils import parse_device_args

from scldm._version import __version__
from scldm._warnings import warn

from ._choices import flag, place, text
from ._plain import from_plain, to_plain

__all__ = ["MODEL_FILE", "FilesMixin"]

FORMAT = 7
"""Version of the layout of a saved model; raised when older code could not read a newer file."""

MODEL_FILE = "model.pt"
"""Name of the file of a model, after its prefix, in its directory."""

_MOST_DEVICES = 1024
_READERS = {"adata.h5ad": anndata.read_h5ad, "mdata.h5mu": mudata.read_h5mu}
"""Files of data beside a model, named as scvi-tools names them."""


class FilesMixin:
    """``save`` and ``load``."""

    def save(
        self,
        dir_path: str | os.PathLike,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model.

        The directory gets the files that scvi-tools writes, ``model.pt`` and on request
        ``adata.h5ad`` or ``mdata.h5mu``, but ``model.pt`` holds tensors and plain data only. Everything is written
        beside the target and moved there when complete, so a failure leaves no half file.

        Parameters
        ----------
        dir_path
            Directory to make.
        prefix
            Goes before the names of the files.
        overwrite
            Whether to replace what an existing directory holds.
        save_anndata
            Whether to save the data with the model.
        **anndata_write_kwargs
            For :meth:`anndata.AnnData.write_h5ad` or :func:`mudata.write_h5mu`.

        Raises
        ------
        FileExistsError
            If the directory exists and ``overwrite`` is false, or there is a file in its place.
        OSError
            If it cannot be written, for want of room or of leave; what was there stays.
        """
        if rank_zero_only.rank:
            return  # of several processes that train together the first writes
        target = place("dir_path", dir_path).resolve()
        overwrite, save_anndata = flag("overwrite", overwrite), flag("save_anndata", save_anndata)
        prefix = _checked_prefix(prefix)
        if target.exists() and not target.is_dir():
            raise FileExistsError(f"`dir_path={str(dir_path)!r}` is a file, not a directory.")
        if target.exists() and not overwrite:
            raise FileExistsError(f"`dir_path={str(dir_path)!r}` exists; set `overwrite=True`.")
        content = self._to_file()
        if save_anndata:
            self._adata_manager_or_raise()
        # on the same file system as the target, so that moving is one step
        beside = target if target.exists() else target.parent
        partial = beside / f".{target.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(parents=True)
            _write_model(content, partial / f"{prefix}{MODEL_FILE}")
            if save_anndata:
                self._write_data(partial, prefix, **anndata_write_kwargs)
            target.mkdir(exist_ok=True)
            for file in partial.iterdir():
                os.replace(file, target / file.name)
            if not save_anndata:
                # data saved with an earlier model are not this one's
                for name in _READERS:
                    (target / f"{prefix}{name}").unlink(missing_ok=True)
        except OSError as error:
            raise OSError(
                error.errno or errno.EIO,
                f"`dir_path={str(dir_path)!r}` could not be written ({error.strerror or error}). What was "
                "there before is kept",
            ) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike,
        adata: AnnData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
    ) -> Self:
        """Load a saved model.

        Parameters
        ----------
        dir_path
            Directory that :meth:`save` made.
        adata
            Data to attach, with the genes and keys of the training data. ``None`` takes those
            saved with the model, if any; ``False`` takes none, which is enough to generate.
        accelerator, device
            Where to put the model.
        prefix
            Of the names of the files.

        Raises
        ------
        FileNotFoundError
            If there is no model at ``dir_path``.
        ValueError
            If the file is damaged, holds more than data, is of another class or of a newer
            version, ``adata`` does not fit, or there is no such device.
        TypeError
            If an argument is of the wrong type.
        """
        folder, prefix = place("dir_path", dir_path), _checked_prefix(prefix)
        if not isinstance(adata, AnnData | mudata.MuData | None) and adata is not False:
            raise TypeError(
                f"`adata` is a {type(adata).__name__}, but must be data, None for those saved with the "
                "model, or False for none."
            )
        torch_device = _checked_device(accelerator, device)
        path = folder / f"{prefix}{MODEL_FILE}"
        if not path.is_file():
            raise FileNotFoundError(
                f"`dir_path={str(dir_path)!r}`, `prefix={prefix!r}`: there is no saved model at "
                f"{str(path)!r}."
            )
        attributes, state = cls._from_file(path)
        registry = attributes["registry_"]
        if adata is None:
            adata = _saved_data(folder, prefix)
        if adata is False:
            adata = None
        else:
            setup = getattr(cls, registry["setup_method_name"])
            setup(adata, source_registry=registry, **registry["setup_args"])
        model = cls._built_as(attributes, adata)
        model._set_state(attributes, state, path)
        model._loaded_without_data = adata is None
        model.to_device(torch_device)
        model.module.eval()
        return model

    @classmethod
    def _built_as(cls, attributes: dict[str, Any], adata: Any) -> Self:
        """Return an untrained model built as a saved one, on registered data or on none."""
        registry, arguments = attributes.pop("registry_"), attributes.pop("init_params_")
        # where a model is loaded there may be no compiler
        arguments["non_kwargs"]["compile_network"] = False
        kwargs = {**arguments["non_kwargs"], **arguments["kwargs"].get("module_kwargs", {})}
        return cast(Any, cls)(adata, registry=registry, **kwargs)

    def _set_state(
        self, attributes: dict[str, Any], state: dict[str, torch.Tensor], path: Path
    ) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)
        if self.student_ is not None:
            self.module.diffusion.add_student(self.student_["steps"])
        try:
            self.module.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{str(path)!r} is damaged: its weights are not those of the model it describes. {error}"
            ) from error

    def _restore(self, folder: Path) -> None:
        """Become what was saved from a model of the same arguments and data."""
        path = folder / MODEL_FILE
        attributes, state = self._from_file(path)
        # whether the network is compiled is this process's own choice
        del attributes["registry_"], attributes["init_params_"]
        self._set_state(attributes, state, path)

    def _write_data(self, folder: Path, prefix: str, **kwargs: Any) -> None:
        """Write the user's data beside the model."""
        self._adata_manager_or_raise().adata.write_h5ad(folder / f"{prefix}adata.h5ad", **kwargs)

    def _to_file(self) -> dict[str, Any]:
        names = [name for name in vars(self) if name.endswith("_") and not name.endswith("__")]
        attributes = {name: to_plain(getattr(self, name)) for name in names}
        attributes |= {"scldm_version_": __version__, "format_": FORMAT}
        return {
            "model_state_dict": self.module.state_dict(),
            "var_names": to_plain(self.var_names),
            "attr_dict": attributes,
        }

    @classmethod
    def _from_file(cls, path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        content = _read_model(path)
        try:
            attributes, state = content["attr_dict"], content["model_state_dict"]
            written_by, file_format = attributes.pop("scldm_version_"), attributes.pop("format_")
            newer = file_format > FORMAT
            lacking = [name for name in ("registry_", "init_params_") if name not in attributes]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(path)!r} is not a model that scldm saved: it lacks parts of one ({error})."
            ) from error
        if newer:
            raise ValueError(
                f"{str(path)!r} was saved by scldm {written_by}, which is newer than this one, "
                f"{__version__}. Upgrade to read it."
            )
        if file_format < FORMAT:
            raise ValueError(
                f"{str(path)!r} was saved by an early version of scldm, {written_by}, whose networks "
                "were built differently. Train the model anew, or read it with that version."
            )
        if lacking:
            raise ValueError(f"{str(path)!r} is damaged: it lacks {lacking}.")
        attributes = from_plain(attributes)
        saved_class = attributes["registry_"]["model_name"]
        if saved_class != cls.__name__:
            raise ValueError(f"{str(path)!r} holds a {saved_class}, not a {cls.__name__}.")
        return attributes, state


def _checked_prefix(prefix: str | None) -> str:
    prefix = text("prefix", prefix) or ""
    if Path(prefix).name != prefix and prefix or "\0" in prefix:
        raise ValueError(
            f"`prefix={prefix!r}` is the start of a file's name and can hold no folder."
        )
    return prefix


def _checked_device(accelerator: str, device: int | str) -> torch.device:
    """Return where to put a model."""
    text("accelerator", accelerator, required=True)
    if isinstance(device, bool) or not isinstance(device, int | str):
        raise TypeError(f"`device` is a {type(device).__name__}, but must be 'auto' or a number.")
    if isinstance(device, int) and not 0 <= device < _MOST_DEVICES:
        raise ValueError(f"`device={device!r}` is not the number of a device.")
    try:
        _, _, torch_device = parse_device_args(
            accelerator, device, return_device="torch", validate_single_device=True
        )
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"`accelerator={accelerator!r}` with `device={device!r}`: {error}"
        ) from error
    return torch_device


def _write_model(content: dict[str, Any], path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:
        # torch's writer says so where a disk is full
        raise OSError(errno.EIO, str(error).splitlines()[0]) from error


def _read_model(path: Path) -> Any:
    """Return what a file holds, if it is whole and data only.

    The archive that torch writes has a check sum of each of its parts, which torch does not look at.

    Raises
    ------
    ValueError
        If it is not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is not a model that scldm saved, or it is damaged: cut off, or changed. "
            f"({error})"
        ) from error
    if bad is not None:
        raise ValueError(f"{str(path)!r} is damaged: {bad!r} in it is not what was written.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(path)!r} is not a model that scldm saved: it holds more than data and was not read."
        ) from error
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error


def _saved_data(folder: Path, prefix: str) -> Any:
    for name, read in _READERS.items():
        path = folder / f"{prefix}{name}"
        if path.is_file():
            return read(path)
    warn(
        "No data were saved with the model and none were given; it is loaded without. Pass "
        "`adata=False` to say that this is meant."
    )
    return False
