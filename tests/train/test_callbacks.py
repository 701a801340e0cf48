from types import SimpleNamespace

import pytest
import torch

from scldm.train import RestoreBest


def _run(losses):
    """Set a weight to the epoch's number, report the epoch's loss, and end training."""
    plan = torch.nn.Linear(1, 1)
    callback = RestoreBest("loss")
    for epoch, loss in enumerate(losses):
        torch.nn.init.constant_(plan.weight, float(epoch))
        metrics = {} if loss is None else {"loss": torch.tensor(loss)}
        trainer = SimpleNamespace(callback_metrics=metrics, current_epoch=epoch)
        callback.on_validation_epoch_end(trainer, plan)
    callback.on_train_end(trainer, plan)
    return plan.weight.item(), callback


@pytest.mark.parametrize(
    ("losses", "kept"),
    [([3.0, 1.0, 2.0], 1), ([3.0, 2.0, 1.0], 2), ([1.0, 1.0], 0), ([2.0, float("nan")], 0)],
)
def test_the_weights_of_the_best_epoch_come_back(losses, kept):
    weight, callback = _run(losses)
    assert weight == kept
    assert callback.best_epoch == kept


def test_without_a_metric_the_last_weights_stay():
    assert _run([None, None])[0] == 1
