"""Models to pass on, as scvi-tools' hub reads them."""

import json

import pytest
import torch

from scldm import SCLDM

QUIET = {"enable_progress_bar": False}


@pytest.fixture
def model(adata):
    SCLDM.setup_anndata(adata, layer="counts", cell_type_key="type", time_key="day")
    model = SCLDM(adata, n_hidden=8, n_latent=2, width=8, depth=1)
    model.train(max_epochs=2, max_steps=10, trajectory_kwargs={"max_steps": 2}, **QUIET)
    return model


def test_the_hub_reads_it_and_it_makes_the_same_cells(model, tmp_path):
    hub_of = pytest.importorskip("scvi.hub", exc_type=ImportError)
    folder = str(tmp_path / "hub")
    model.to_hub(folder, license="cc-by-4.0", description="Simulated cells.")
    hub = hub_of.HubModel(folder)
    assert hub.metadata.model_cls_name == "SCLDM"
    assert hub.metadata.model_parent_module == "scldm"
    assert hub.model_card.data.license == "cc-by-4.0"
    assert "model_cls_name:SCLDM" in hub.model_card.data.tags
    hub.load_model(adata=False)
    made = hub.model.generate(20, seed=0)
    assert (made.X != model.generate(20, seed=0).X).nnz == 0
    # what scvi-tools makes of the files by itself, and what it cannot
    own = hub_of.HubMetadata.from_dir(folder, "0", model_parent_module="scldm")
    assert own.model_cls_name == "SCLDM"
    assert own.scvi_version == hub.metadata.scvi_version
    with pytest.raises(ValueError, match="SCLDM not recognized"):
        hub_of.HubModelCardHelper.from_dir(folder, "cc-by-4.0", "0")
    hub_of.HubModel(folder, metadata=own, model_card=hub.model_card).save(overwrite=True)
    hub_of.HubModel(folder).load_model(adata=False)


def test_with_its_data_it_loads_by_itself(model, tmp_path):
    hub_of = pytest.importorskip("scvi.hub", exc_type=ImportError)
    model.to_hub(tmp_path / "hub", license="mit", save_anndata=True)
    loaded = hub_of.HubModel(str(tmp_path / "hub")).model
    assert loaded.adata.n_obs == model.adata.n_obs


def test_files_are_plain_and_nothing_is_replaced_unasked(model, tmp_path):
    folder = tmp_path / "hub"
    model.to_hub(folder, license="mit", training_data_url="https://example.org/cells")
    assert {f.name for f in folder.iterdir()} == {
        "model.pt",
        "README.md",
        "_scvi_required_metadata.json",
    }
    torch.load(folder / "model.pt", weights_only=True)
    metadata = json.loads((folder / "_scvi_required_metadata.json").read_text())
    assert metadata["training_data_url"] == "https://example.org/cells"
    with pytest.raises(FileExistsError, match="set `overwrite=True`"):
        model.to_hub(folder, license="mit")
    model.to_hub(folder, license="other", overwrite=True)
    assert 'license: "other"' in (folder / "README.md").read_text()


def test_the_card_says_what_the_model_was_trained_on(model):
    card = model.model_card(license="mit", description="Simulated cells.", limits="- None known.")
    counts = model.adata.obs["type"].value_counts()
    assert "Simulated cells." in card
    assert "- Cells: 400" in card
    assert "- Genes or other features: 40" in card
    assert f"B ({counts['B']})" in card
    assert "- `time`: numbers from 0 to 3" in card
    assert "- Stages trained: autoencoder, diffusion, trajectory" in card
    assert '"n_latent": 2' in card
    assert '"time_key": "day"' in card
    assert "## Limits\n\n- None known." in card


def test_an_untrained_model_has_no_card(adata, tmp_path):
    SCLDM.setup_anndata(adata, layer="counts")
    model = SCLDM(adata, n_hidden=8, n_latent=2, width=8, depth=1)
    with pytest.raises(RuntimeError, match="not trained"):
        model.to_hub(tmp_path / "hub", license="mit")
    assert not (tmp_path / "hub").exists()
