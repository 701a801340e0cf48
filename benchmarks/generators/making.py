"""One family at work, in a process of its own, so that its time and memory are its own."""

from __future__ import annotations

import logging
import multiprocessing
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import anndata as ad

from . import FAMILIES

__all__ = ["make"]


def make(
    family: str, train: ad.AnnData, test: ad.AnnData, seed: int, reference: float
) -> dict[str, ad.AnnData]:
    """Train a family in a fresh process and return the cells of each of its methods.

    Parameters
    ----------
    family
        Key of :data:`FAMILIES`.
    train
        Training cells; every column of ``obs`` is a condition.
    test
        Cells under whose conditions to generate, one for one.
    seed
        Seed of training and drawing.
    reference
        Seconds of the processor in which scldm learned from these cells.

    Returns
    -------
    Cells by method; ``uns`` has ``train_seconds``, ``cells_per_second`` and ``peak_mib``, besides
    what the family measures itself. Seconds are those of the processor, in all threads, so that
    other work on the machine hardly matters.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_make, family, train, test, seed, reference).result()


def _make(
    family: str, train: ad.AnnData, test: ad.AnnData, seed: int, reference: float
) -> dict[str, ad.AnnData]:
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)
    generator, loaded = FAMILIES[family], peak_memory()
    start = time.process_time()
    generator.fit(train, seed, reference)
    trained = time.process_time() - start
    made = {}
    for name in generator.methods:
        start = time.process_time()
        cells = generator.generate(name, test, seed)
        per_second = cells.n_obs / (time.process_time() - start)
        cells.uns = {"train_seconds": trained, "cells_per_second": per_second}
        made[name] = cells
    peak, measured = peak_memory() - loaded, generator.measure(test.obs, seed)
    for cells in made.values():
        cells.uns |= {"peak_mib": peak, **measured}
    return made


def peak_memory() -> float:
    """Return the most memory that this process has held, in MiB; not a number but on Linux.

    Of all ways to ask, only this file forgets the parent's memory when a new program starts.
    """
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    kib = [float(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return kib[0] / 1024 if kib else float("nan")
