import numpy as np
import torch

from scldm.train import LatentDataModule, Latents


def _latents(n=100):
    ids = torch.arange(n, dtype=torch.float32).unsqueeze(1)
    return Latents(ids.repeat(1, 2), torch.zeros(n, 2), ids, {"c": ids})


def _data(n_val=20, batch_size=16, steps=7):
    split = np.arange(n_val, 100), np.arange(n_val), np.arange(0)
    return LatentDataModule(_latents(), *split, batch_size, steps)


def test_an_epoch_is_a_number_of_steps_and_rows_stay_together():
    batches = list(_data().train_dataloader())
    assert len(batches) == 7
    for batch in batches:
        assert batch["mean"].shape == (16, 2)
        assert torch.equal(batch["mean"][:, :1], batch["log_library"])
        assert torch.equal(batch["conditions"]["c"], batch["log_library"])
        assert (batch["log_library"] >= 20).all()


def test_every_training_cell_is_seen_about_as_often():
    batches = list(_data(steps=15).train_dataloader())
    ids = torch.cat([batch["log_library"] for batch in batches]).flatten().long()
    counts = torch.bincount(ids, minlength=100)
    assert (counts[:20] == 0).all()
    assert (counts[20:] == 3).all()


def test_validation_cells_come_once_and_in_order():
    (batch,) = _data().val_dataloader()
    assert batch["log_library"].flatten().tolist() == list(range(20))


def test_no_validation_cells_and_few_training_cells():
    assert _data(n_val=0).val_dataloader() == []
    data = _data(batch_size=1000, steps=2)
    assert data.batch_size == 80
    assert [len(batch["mean"]) for batch in data.train_dataloader()] == [80, 80]
