"""Checkpoints to resume from: a resumed run ends with the weights of an uninterrupted one, bit for bit."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from sagefm.pretraining import ResumePoint


class Killed(Exception):
    pass


class KillAt(Callback):
    """Stop training at a step, as a killed process would."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == self.step:
            raise Killed


@pytest.mark.parametrize(("every", "killed_at"), [(4, 11), (5, 6), (1, 17), (13, 30)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_run_resumes_to_the_same_weights(fit, assert_same_weights, tmp_path, every, killed_at, num_workers):
    data = {"num_workers": num_workers}
    model, whole = fit(data)
    assert model.trainer.global_step > killed_at
    file = tmp_path / "last.ckpt"
    with pytest.raises(Killed):
        fit(data, callbacks=[ResumePoint(file, every), KillAt(killed_at)])
    torch.manual_seed(987)
    resumed, weights = fit(data, seed=5, ckpt_path=file)
    assert resumed.trainer.global_step == model.trainer.global_step
    assert_same_weights(whole, weights)


def test_finished_run_resumes_for_more_epochs(fit, assert_same_weights, tmp_path):
    _, five = fit(max_epochs=5)
    file = tmp_path / "last.ckpt"
    fit(max_epochs=3, callbacks=[ResumePoint(file)])
    _, more = fit(max_epochs=5, ckpt_path=file)
    assert_same_weights(five, more)


def test_run_is_not_resumed_with_other_batches(fit, tmp_path):
    fit(max_epochs=1, callbacks=[ResumePoint(tmp_path / "last.ckpt")])
    with pytest.raises(ValueError, match="had batch_size=16, this one has 32.* Resume with batch_size=16"):
        fit({"batch_size": 32}, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
