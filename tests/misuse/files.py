"""Files of weights and checkpoints."""

import json
import os
import pickle

import anndata as ad
import numpy as np
import torch
from misuse.table import Gives, Raises, Row
from rich.console import Console
from safetensors.torch import save

import sagefm
from sagefm.cli import _embed
from sagefm.pretraining import Corpus, CorpusDataModule, ResumePoint

CARD, WEIGHTS = "card.json", "model.safetensors"


def load(path, w):
    return sagefm.SAGEFM.from_pretrained(path, w.section())


def spoilt(w, name: str, change) -> None:
    path = w.weights()
    (path / name).write_bytes(change((path / name).read_bytes()))
    load(path, w)


def card(w, **entries) -> None:
    path = w.weights()
    about = json.loads((path / CARD).read_text())
    (path / CARD).write_text(json.dumps({**about, **entries}))
    load(path, w)


def architecture(w, **entries) -> None:
    card(w, architecture={**w.model.init_params_["non_kwargs"], **entries})


def flipped(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[-100] ^= 1
    return bytes(changed)


def poisoned(content: bytes) -> bytes:
    """A pickle that would run a command when read."""

    class Touch:
        def __reduce__(self):
            return os.mkdir, ("ran",)

    return pickle.dumps(Touch())


def without(w, name: str) -> None:
    path = w.weights()
    (path / name).unlink()
    load(path, w)


def over_another(w) -> None:
    w.model.save_pretrained(w.weights())


def full_disk(w) -> None:
    w.model.save_pretrained("/dev/full/weights")


def rights(w) -> bool:
    mask = os.umask(0o022)
    try:
        path = w.weights()
    finally:
        os.umask(mask)
    return all((path / name).stat().st_mode & 0o777 == 0o644 for name in (CARD, WEIGHTS))


def reference(w, content: object) -> None:
    path = w.folder() / "weights.pt"
    torch.save(content, path)
    sagefm.SAGEFM.from_reference_checkpoint(path, list(w.section().var_names), w.section())


def reference_bytes(w, content: bytes) -> None:
    path = w.folder() / "weights.pt"
    path.write_bytes(content)
    sagefm.SAGEFM.from_reference_checkpoint(path, list(w.section().var_names), w.section())


def pickled_names(w) -> None:
    path = w.folder() / "genes.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    sagefm.SAGEFM.from_reference_checkpoint(w.folder() / "weights.pt", path, w.section())


def pretrain(folder, **kwargs) -> sagefm.SAGEFM:
    """Train an epoch on the sections in a folder, or resume that with other arguments."""
    corpus, path = Corpus(folder, genes=kwargs.pop("genes", None)), folder / "last.ckpt"
    model = sagefm.SAGEFM(registry=corpus.registry, n_hidden=16, n_latent=4)
    model.train(
        datamodule=CorpusDataModule(corpus, batch_size=16, validation_size=0, seed=0, **kwargs),
        max_epochs=1 + path.exists(),
        accelerator="cpu",
        callbacks=[] if path.exists() else [ResumePoint(path)],
        ckpt_path=path if path.exists() else None,
        enable_progress_bar=False,
    )
    return model


def resumed(w, change=None, **kwargs) -> bool:
    folder = w.folder()
    for name in "AB":
        w.section().write_h5ad(folder / f"{name}.h5ad")
    pretrain(folder)
    if change is not None:
        change(folder)
    return pretrain(folder, **kwargs).trainer.current_epoch == 2


def recount(folder) -> None:
    section = ad.read_h5ad(folder / "B.h5ad")
    section.X[0, 0] += 1
    section.write_h5ad(folder / "B.h5ad")


def embedded_again(w) -> bool:
    folder, weights = w.folder(), w.weights()
    section = w.section()
    section.layers["half"] = (section.X / 2).floor()
    section.write_h5ad(folder / "section.h5ad")
    found = []
    for layer in (None, "half"):
        sections, keys = [folder / "section.h5ad"], {"layer": layer}
        _embed.run(weights, sections, folder / "out", keys, "X_sagefm", None, Console(quiet=True))
        found.append(ad.read_h5ad(folder / "out" / "section.h5ad").obsm["X_sagefm"])
    section.X = section.layers["half"]
    has_counts = np.asarray(section.X.sum(axis=1)).ravel() > 0
    return not np.allclose(*found) and np.allclose(found[1][has_counts], w.embed(section[has_counts].copy()), atol=1e-3)


ROWS = [
    Row(
        "truncated weights",
        lambda w: spoilt(w, WEIGHTS, lambda b: b[:1000]),
        Raises(ValueError, "is damaged or not a safetensors file"),
    ),
    Row("weights with a flipped bit", lambda w: spoilt(w, WEIGHTS, flipped), Raises(ValueError, "its hash differs")),
    Row(
        "a pickle instead of the weights",
        lambda w: spoilt(w, WEIGHTS, poisoned),
        Raises(ValueError, "is damaged or not a safetensors file"),
    ),
    Row(
        "an empty weights file",
        lambda w: spoilt(w, WEIGHTS, lambda b: b""),
        Raises(ValueError, "is damaged or not a safetensors file"),
    ),
    Row(
        "a safetensors file of another network",
        lambda w: spoilt(w, WEIGHTS, lambda b: save({"weight": torch.ones(2)})),
        Raises(ValueError, "does not hold the weights of a SAGEFM model"),
    ),
    Row("a folder without weights", lambda w: without(w, WEIGHTS), Raises(FileNotFoundError, WEIGHTS)),
    Row("a folder without a card", lambda w: without(w, CARD), Raises(FileNotFoundError, CARD)),
    Row(
        "a truncated card",
        lambda w: spoilt(w, CARD, lambda b: b[:100]),
        Raises(ValueError, "is damaged or not a JSON file"),
    ),
    Row(
        "a card that is a list",
        lambda w: spoilt(w, CARD, lambda b: b"[1]"),
        Raises(ValueError, "is not the card of a SAGEFM model"),
    ),
    Row(
        "a card of a later format",
        lambda w: card(w, format=2),
        Raises(ValueError, "has format 2; this version of sagefm reads 1. Update sagefm"),
    ),
    Row(
        "a card with another architecture",
        lambda w: architecture(w, n_latent=5),
        Raises(ValueError, "do not fit the architecture on the card"),
    ),
    Row(
        "a card with an unknown argument",
        lambda w: architecture(w, n_heads=5),
        Raises(ValueError, "card.json .*architecture.*n_heads"),
    ),
    Row(
        "a card whose architecture is a list",
        lambda w: card(w, architecture=[1]),
        Raises(ValueError, "card.json: expected `architecture` to be an object; found list"),
    ),
    Row(
        "a card with fewer genes",
        lambda w: card(w, genes=list(w.model.genes[:-1])),
        Raises(ValueError, r"do not fit the architecture on the card: decoder.bias is \(60,\), expected \(59,\)"),
    ),
    Row(
        "a card with a duplicated gene",
        lambda w: card(w, genes=[*w.model.genes[:-1], w.model.genes[0]]),
        Raises(ValueError, "genes in .*card.json appear more than once"),
    ),
    Row(
        "a card with a target depth of NaN",
        lambda w: card(w, target_depth=float("nan")),
        Raises(ValueError, "card.json .*target_depth"),
    ),
    Row(
        "a card with a target depth that is text",
        lambda w: card(w, target_depth="deep"),
        Raises(ValueError, "card.json .*target_depth"),
    ),
    Row(
        "a card with a renamed gene",
        lambda w: card(w, genes=["OTHER", *w.model.genes[1:]]),
        Raises(ValueError, "card.json is damaged or was changed: its checksum is wrong"),
    ),
    Row(
        "a name that is neither a folder nor packaged weights",
        lambda w: load("tissue-maxi", w),
        Raises(FileNotFoundError, "neither a folder nor the name of weights that come with sagefm"),
    ),
    Row(
        "`SAGEFM.load` of a folder of `save_pretrained`",
        lambda w: sagefm.SAGEFM.load(w.weights(), w.section()),
        Raises(FileNotFoundError, "model.pt does not exist.*use `SAGEFM.from_pretrained`"),
    ),
    Row(
        "saving over an existing folder", over_another, Raises(FileExistsError, "exists already; pass `overwrite=True`")
    ),
    Row("saving to a path that cannot be written", full_disk, Raises(OSError, "/dev/full")),
    Row("saving under umask 022", rights, Gives("files with mode 0644")),
    Row(
        "a checkpoint with code in it",
        lambda w: reference_bytes(w, poisoned(b"")),
        Raises(ValueError, "more than tensors and plain values.*it was not read"),
    ),
    Row("an empty checkpoint", lambda w: reference_bytes(w, b""), Raises(ValueError, "is empty")),
    Row(
        "a checkpoint that is text",
        lambda w: reference_bytes(w, b"hello"),
        Raises(ValueError, "is not a torch file or is damaged"),
    ),
    Row(
        "a checkpoint of another network",
        lambda w: reference(w, {"model_state_dict": {"linear.weight": torch.ones(2)}}),
        Raises(ValueError, "is not a SAGE-FM checkpoint: expected conv1.lin.weight"),
    ),
    Row(
        "a checkpoint without `model_state_dict`",
        lambda w: reference(w, {"weights": 1}),
        Raises(ValueError, r"has no `model_state_dict`; found \['weights'\]"),
    ),
    Row("pre-training resumed with the same corpus", resumed, Gives("the remaining epochs")),
    Row(
        "pre-training resumed with another number of shards",
        lambda w: resumed(w, n_shards=2),
        Raises(ValueError, "The run to resume had n_shards=1, this one has 2.*Resume with n_shards=1"),
    ),
    Row(
        "pre-training resumed after a section changed",
        lambda w: resumed(w, recount),
        Raises(ValueError, r"The corpus of the run to resume had other sections.*for example 'B'; 1 in total"),
    ),
    Row(
        "pre-training resumed with other genes",
        lambda w: resumed(w, genes=list(w.section().var_names[:30])),
        Raises(ValueError, "The corpus of the run to resume had other genes.*the same files and options"),
    ),
    Row(
        "`sagefm embed` again, with another layer",
        embedded_again,
        Gives("the embedding of that layer, not the first one"),
    ),
    Row("a gene list of objects", pickled_names, Raises(ValueError, "is not a NumPy file of plain strings")),
    Row(
        "a gene list of another length",
        lambda w: _short(w),
        Raises(ValueError, "The checkpoint has 60 genes, the list of gene names 59"),
    ),
]


def _short(w) -> None:
    weights = {"conv1.lin.weight": torch.rand(8, 60), "conv1.bias": torch.rand(8), "conv2.lin.weight": torch.rand(4, 8)}
    weights |= {"conv2.bias": torch.rand(4), "fc_gene.weight": torch.rand(60, 4), "fc_gene.bias": torch.rand(60)}
    path = w.folder() / "weights.pt"
    torch.save({"model_state_dict": weights}, path)
    sagefm.SAGEFM.from_reference_checkpoint(path, list(w.section().var_names[:59]), w.section())
