"""Rows about training."""

import math
import os
import signal

import numpy as np
import scvi
import torch
from lightning import Callback
from misuse.table import Gives, Raises, Row, Warns

import sagefm

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def model(w) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    section = w.section()
    sagefm.SAGEFM.setup_anndata(section)
    return sagefm.SAGEFM(section, n_hidden=16, n_latent=4)


def train(w, **kwargs) -> sagefm.SAGEFM:
    trained = model(w)
    trained.train(**{"max_epochs": 5, **QUIET, **kwargs})
    return trained


class At(Callback):
    """Run an action at the first step of an epoch."""

    def __init__(self, epoch: int, action) -> None:
        self.epoch, self.action = epoch, action

    def on_train_batch_start(self, trainer, plan, *args) -> None:
        if trainer.current_epoch == self.epoch:
            self.action(plan.module)


def interrupt(module) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def run_out(module) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def spoil(module) -> None:
    with torch.no_grad():
        module.decoder.bias[:] = 99


def interrupted(w) -> bool:
    """Good epochs, a bad one, then Ctrl-C: the model has the weights of a good epoch."""
    stopped = model(w)
    try:
        stopped.train(max_epochs=9, callbacks=[At(4, spoil), At(6, interrupt)], **QUIET)
        return False
    except KeyboardInterrupt as error:
        assert "after 6 epochs; the model can be used with its best weights so far" in str(error)
    usable = np.isfinite(stopped.get_latent_representation(key_added=None)).all() and stopped.is_trained_
    best = stopped.history["validation_loss"].to_numpy(float).min()
    kept = float(stopped.module.decoder.bias.detach().abs().max()) < 50
    signal_is_back = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    stopped.save(w.folder() / "model")
    decoder = stopped.module.decoder.weight.detach()
    lengths = (decoder.T @ decoder).numpy()
    orthogonal = np.allclose(lengths, lengths[0, 0] * np.eye(len(lengths)), atol=1e-4 * lengths[0, 0])
    usable = usable and orthogonal and len(stopped.validation_indices) > 0
    return bool(usable and kept and math.isfinite(best) and signal_is_back)


def interrupted_at_once(w) -> None:
    train(w, callbacks=[At(0, interrupt)])


def diverged_later(w) -> bool:
    """A trained model that diverges in further training keeps its weights."""
    trained = train(w)
    before = trained.get_latent_representation(key_added=None)
    for early_stopping in (True, False):
        try:
            trained.train(max_epochs=3, early_stopping=early_stopping, plan_kwargs={"lr": 1e30}, **QUIET)
            return False
        except RuntimeError as error:
            assert "Training diverged" in str(error)
        if not np.array_equal(trained.get_latent_representation(key_added=None), before):
            return False
    return True


def three_sections(w) -> bool:
    folder = w.folder()
    for name in "ABC":
        w.section().write_h5ad(folder / f"{name}.h5ad")
    data = sagefm.pretraining.CorpusDataModule(sagefm.pretraining.Corpus(folder), validation_size=0.1)
    return (data.n_spots, data.n_validation) == (128, 64)


def same_seed(w) -> bool:
    first, second = (train(w).get_latent_representation(key_added=None) for _ in range(2))
    return np.array_equal(first, second)


def other_threads(w) -> bool:
    """The order of sums depends on the number of threads, and training amplifies float32 rounding differences."""
    n_threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(train(w).get_latent_representation(key_added=None))
    finally:
        torch.set_num_threads(n_threads)
    return np.allclose(*found, atol=1e-3)


def resumed(w) -> bool:
    path = w.folder() / "last.ckpt"
    point = sagefm.pretraining.ResumePoint(path, every_n_steps=1)
    try:
        train(w, max_epochs=6, callbacks=[point, At(3, interrupt)])
        return False
    except KeyboardInterrupt:
        pass
    continued = model(w)
    continued.train(max_epochs=6, ckpt_path=path, **QUIET)
    latent = continued.get_latent_representation(key_added=None)
    return continued.trainer.current_epoch == 6 and bool(np.isfinite(latent).all())


ROWS = [
    Row(
        "a learning rate of 10^6",
        lambda w: train(w, plan_kwargs={"lr": 1e6}),
        Raises(RuntimeError, r"Training diverged: .* is .* in epoch 1, at a learning rate of 1e\+06. Lower it"),
    ),
    Row(
        "the same without early stopping",
        lambda w: train(w, plan_kwargs={"lr": 1e30}, early_stopping=False),
        Raises(RuntimeError, "Training diverged"),
    ),
    Row(
        "a trained model that diverges in further training",
        diverged_later,
        Gives("the error, and the previous weights"),
    ),
    Row("Ctrl-C", interrupted, Gives("`KeyboardInterrupt`, and a model with the best weights so far")),
    Row(
        "Ctrl-C in the first epoch",
        interrupted_at_once,
        Raises(KeyboardInterrupt, "after 0 epochs; the model is still untrained"),
    ),
    Row(
        "a GPU that runs out of memory",
        lambda w: train(w, callbacks=[At(0, run_out)], batch_size=64),
        Raises(torch.OutOfMemoryError, "too little memory for steps of 64 spots; try `batch_size=32`"),
    ),
    Row(
        "a `validation_size` above what is held out",
        lambda w: train(w, train_size=0.9, validation_size=0.5),
        Raises(ValueError, r"validation_size=0.5 must lie between 0 and 1 - train_size = 0.1"),
    ),
    Row(
        "so much held out that no spot is left to train on",
        lambda w: train(w, train_size=0.05),
        Raises(ValueError, "None of the 64 spots is left to train on.*train_size=1"),
    ),
    Row(
        "a tenth of a corpus of three equal sections for validation",
        three_sections,
        Warns("0.33 instead of 0.1 for validation; 0.67 are left for training", "one section is held out"),
    ),
    Row("the same seed twice", same_seed, Gives("exactly the same embedding")),
    Row("one thread and two threads", other_threads, Gives("the same embedding within 0.001")),
    Row("an interrupted run that is resumed", resumed, Gives("the remaining epochs")),
]
