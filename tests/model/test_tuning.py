"""Searches for settings: what a tuner is told, and scvi-tools' search itself."""

import math

import pytest
from lightning.pytorch.callbacks import Callback

import scldm

QUICK = {"n_hidden": 8, "n_latent": 4, "width": 16, "depth": 1}


class Heard(Callback):
    """Keeps what a tuner that looks at each validation would be told of a metric."""

    def __init__(self, metric):
        self.metric = metric
        self.values = []

    def on_validation_end(self, trainer, plan):
        if not trainer.sanity_checking and self.metric in trainer.callback_metrics:
            self.values.append(float(trainer.callback_metrics[self.metric]))


@pytest.mark.parametrize(
    ("metric", "n_reports"), [("elbo_validation", 4), ("diffusion_loss_validation", 3)]
)
def test_a_callback_hears_of_a_stage_s_metric_in_its_epochs_alone(adata, metric, n_reports):
    scldm.SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type")
    heard = Heard(metric)
    model = scldm.SCLDM(adata, **QUICK)
    # as scvi-tools' search calls it
    model.train(
        max_epochs=4,
        max_steps=600,
        callbacks=[heard],
        check_val_every_n_epoch=1,
        enable_progress_bar=False,
    )
    assert len(heard.values) == n_reports
    assert all(map(math.isfinite, heard.values))


@pytest.fixture
def autotune(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    pytest.importorskip("hyperopt")
    pytest.importorskip("scib_metrics")
    from scvi import autotune, settings

    monkeypatch.setattr(settings, "logging_dir", str(tmp_path))
    yield autotune
    ray.shutdown()


def searched(autotune, kind, adata, metric, space):
    kind.setup_anndata(adata, layer="counts", cell_type_key="type")
    return autotune.run_autotune(
        kind,
        adata,
        metrics=metric,
        mode="min",
        search_space=space,
        num_samples=2,
        seed=0,
        resources={"cpu": 1},
        scheduler="fifo",
        ignore_reinit_error=True,
    ).result_grid


@pytest.mark.slow
def test_a_search_by_a_metric_of_stage_2(autotune, adata):
    from ray import tune

    rates = tune.choice([1e-4, 1e-2])
    space = {
        "model_params": QUICK,
        "train_params": {
            "max_epochs": 2,
            "max_steps": 600,
            "diffusion_kwargs": {"plan_kwargs": {"lr": rates}},
        },
    }
    grid = searched(autotune, scldm.SCLDM, adata, "diffusion_loss_validation", space)
    assert not grid.errors
    assert [result.metrics["training_iteration"] for result in grid] == [3, 3]


@pytest.mark.slow
def test_a_search_of_stage_1_alone_and_one_by_cells(autotune, adata):
    from ray import tune

    class Autoencoder(scldm.SCLDM):
        train = scldm.SCLDM.train_autoencoder

    class Judged(scldm.SCLDM):
        def train(self, **kwargs):
            super().train(**kwargs)
            tune.report({"cells": float(self.generate(20, seed=0).X.sum())})

    sizes = {**QUICK, "n_latent": tune.choice([2, 4])}
    space = {"model_params": sizes, "train_params": {"max_epochs": 3}}
    grid = searched(autotune, Autoencoder, adata, "elbo_validation", space)
    assert not grid.errors
    assert [result.metrics["training_iteration"] for result in grid] == [3, 3]
    space["train_params"] = {"max_epochs": 1, "max_steps": 10}
    grid = searched(autotune, Judged, adata, "cells", space)
    assert not grid.errors
    assert all(result.metrics["cells"] > 0 for result in grid)
