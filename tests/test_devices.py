"""Everything that runs on the network's device, on each kind of hardware at hand: the CPU, a CUDA GPU, Apple's MPS."""

from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scvi
import torch
from torch.overrides import TorchFunctionMode

import sagefm
from sagefm.pretraining import Corpus, CorpusDataModule, ResumePoint

AVAILABLE = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
DEVICES = [
    pytest.param(name, marks=pytest.mark.skipif(not here, reason=f"{name} is not available on this machine"))
    for name, here in AVAILABLE.items()
]
QUIET = {"devices": 1, "enable_progress_bar": False}


@pytest.fixture(params=DEVICES)
def accelerator(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def section() -> ad.AnnData:
    """Two sections of one tissue. Do not change it."""
    return sagefm.datasets.simulated_tissue(14, 14, n_genes=120, n_interactions=2, n_sections=2)


def trained(section: ad.AnnData, accelerator: str, *, conv: str = "sage", **options) -> sagefm.SAGEFM:
    scvi.settings.seed = 0
    adata = section.copy()
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    model = sagefm.SAGEFM(adata, n_hidden=24, n_latent=6, conv=conv)
    model.train(accelerator=accelerator, **{"max_epochs": 2, **QUIET, **options})
    return model


def results(model: sagefm.SAGEFM) -> dict[str, np.ndarray]:
    """Return what each method that runs the network computes."""
    adata = model.adata
    genes = list(adata.var_names[np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel())[:12]])
    mask = sp.csr_matrix(np.random.default_rng(0).random(adata.shape) < 0.1)
    net = pd.DataFrame({"source": genes[0], "target": genes[4:12], "weight": 1.0})
    perturbed = model.perturb(genes[:2], genes[4:6], n_controls=5), model.perturb(genes[:2], genes[4:6], where="self")
    tables = {
        "perturbation of the neighbours": perturbed[0][["effect", "slope"]],  # not p, which is a rank
        "perturbation of the spot": perturbed[1][["effect", "slope"]],
        "pathway response": model.get_pathway_response(net)[["effect"]],
        "influence": model.get_gene_influence(genes[2]).sort_values("gene"),
        "recovery": model.get_masked_recovery(indices=np.arange(adata.n_obs))[["r", "r_neighbors"]],
    }
    return {
        "latent": model.get_latent_representation(key_added=None),
        "genes": model.impute_masked(genes=genes[:3]).to_numpy(),
        "entries": model.impute_masked(mask=mask).data,
        "entries, network alone": model.impute_masked(mask=mask, fit_section=False).data,
        "expression": model.get_normalized_expression(genes=genes[:3]).to_numpy(),
        "dose": model.get_dose_response(genes[0], genes[5]).select_dtypes("number").to_numpy(),
    } | {name: table.select_dtypes("number").to_numpy() for name, table in tables.items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("conv", ["sage", "gcn"])
def test_a_model_trained_on_a_device_gives_the_same_results_there_and_on_the_cpu(section, accelerator, conv):
    model = trained(section, accelerator, conv=conv)
    model.to_device(accelerator)
    assert model.device.type == accelerator
    found = results(model)
    model.to_device("cpu")
    assert_same(found, results(model))


def test_files_are_read_on_another_device_than_they_were_written_on(section, accelerator, tmp_path):
    model = trained(section, accelerator)
    model.save(tmp_path / "saved")
    model.save_pretrained(tmp_path / "pretrained")
    expected = model.get_latent_representation(key_added=None)
    loaded = [
        sagefm.SAGEFM.load(tmp_path / "saved", model.adata, accelerator="cpu"),
        sagefm.SAGEFM.load(tmp_path / "saved", model.adata, accelerator=accelerator),
        sagefm.SAGEFM.from_pretrained(tmp_path / "pretrained", section.copy(), sample_key="sample"),
    ]
    for other in loaded:
        np.testing.assert_allclose(other.get_latent_representation(key_added=None), expected, atol=1e-3)
    for other in loaded:  # and trained further on the device
        other.train(max_epochs=1, accelerator=accelerator, **QUIET)
        assert np.isfinite(other.get_latent_representation(key_added=None)).all()


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16", "16-mixed"])
def test_mixed_precision_trains_as_full_precision_does_with_or_without_clipping(section, accelerator, precision):
    if precision == "16-mixed" and accelerator == "cpu":
        pytest.skip("Lightning has no float16 on the CPU")

    def loss(**options) -> float:
        history = trained(section, accelerator, max_epochs=4, **options).history
        return float(history["train_loss"]["train_loss"].iloc[-1])

    full = loss()
    for clipping in ({}, {"gradient_clip_val": 1.0}):
        assert loss(precision=precision, **clipping) == pytest.approx(full, rel=0.05)


def test_a_corpus_of_two_sections_is_trained_on_and_resumed(section, accelerator, tmp_path):
    for number, name in enumerate(section.obs["sample"].cat.categories):
        part = section[section.obs["sample"] == name, : 120 - 20 * number].copy()
        part.write_h5ad(tmp_path / f"{name}.h5ad")

    def run(max_epochs: int, **options) -> sagefm.SAGEFM:
        scvi.settings.seed = 0
        corpus = Corpus(tmp_path, min_share=0.4)
        model = sagefm.SAGEFM(registry=corpus.registry, n_hidden=24, n_latent=6)
        data = CorpusDataModule(corpus, batch_size=32, validation_size=0, num_workers=1)
        model.train(max_epochs, datamodule=data, accelerator=accelerator, early_stopping=False, **QUIET, **options)
        return model

    run(2, callbacks=[ResumePoint(tmp_path / "run.ckpt")])
    whole, resumed = run(4), run(4, ckpt_path=tmp_path / "run.ckpt")
    for name, weights in whole.module.state_dict().items():
        torch.testing.assert_close(resumed.module.state_dict()[name], weights, rtol=1e-3, atol=1e-4, msg=name)


# Apple's MPS has no doubles.


class NoDoubles(TorchFunctionMode):
    """Refuse doubles that are moved to a device or made on one, as MPS does; only `.cpu()` may return them."""

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        result = func(*args, **(kwargs or {}))
        moved = func is torch.Tensor.to and any(isinstance(arg, torch.device | torch.Tensor) for arg in args[1:])
        made = (kwargs or {}).get("device") is not None
        if (moved or made) and isinstance(result, torch.Tensor) and result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return result


@pytest.fixture
def without_doubles() -> Iterator[None]:
    with NoDoubles():
        with pytest.raises(TypeError, match="float64"):
            torch.zeros(2, dtype=torch.float64).to(torch.device("cpu"))
        yield


@pytest.mark.usefixtures("without_doubles")
@pytest.mark.parametrize("conv", ["sage", "gcn"])
def test_no_double_is_moved_to_the_device(section, tmp_path: Path, conv):
    model = trained(section, "cpu", conv=conv)
    assert results(model)
    model.save_pretrained(tmp_path / "weights")
    sagefm.SAGEFM.from_pretrained(tmp_path / "weights", section.copy(), sample_key="sample").to_device("cpu")
