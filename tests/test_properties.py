"""Properties that hold for any section: order, sections, batches, masks, files, and the user's AnnData."""

from collections.abc import Iterator

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import scvi
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sagefm
from sagefm.data import Normalization
from sagefm.data._units import PRIOR_SPOTS
from sagefm.module import Encoder

GRAPH = "spatial_connectivities"
SEEDS = st.integers(0, 2**32 - 1)
several = settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def two_sections(seed: int = 0) -> ad.AnnData:
    adata = sagefm.datasets.simulated_tissue(
        8, 8, n_genes=60, n_layers=2, n_niches=1, n_interactions=1, n_sections=2, outline="rectangle", seed=seed
    )
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    graph = adata.obsp[GRAPH].tolil()
    graph[5] = graph[:, 5] = 0  # an isolated spot
    adata.obsp[GRAPH] = graph.tocsr()
    adata.uns.clear()
    return adata


PLAIN = two_sections()
FIRST = (PLAIN.obs["sample"] == PLAIN.obs["sample"].iloc[0]).to_numpy()


@pytest.fixture(scope="module", params=["default", "published"])
def model(request: pytest.FixtureRequest) -> Iterator[sagefm.SAGEFM]:
    seed, scvi.settings.seed = scvi.settings.seed, 0
    adata = PLAIN.copy()
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    published = {"conv": "gcn", "normalization": "none", "scale_genes": False, "n_layers": 3}
    kind = published if request.param == "published" else {}
    trained = sagefm.SAGEFM(adata, n_hidden=16, n_latent=4, **kind)
    trained.train(max_epochs=3, accelerator="cpu", enable_progress_bar=False)
    scvi.settings.seed = seed
    yield trained


def embed(model: sagefm.SAGEFM, adata: ad.AnnData, **kwargs) -> np.ndarray:
    return model.get_latent_representation(adata, key_added=None, **kwargs)


def near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * max(np.nanstd(expected), 1e-6))


GENES = ["GENE0001", "GENE0007"]


def random_mask(seed: int, adata: ad.AnnData, share: float = 0.2) -> np.ndarray:
    return np.random.default_rng(seed).random(adata.shape) < share


# Order.


@several
@given(seed=SEEDS)
def test_permuting_spots_permutes_results(model, seed):
    order = np.random.default_rng(seed).permutation(PLAIN.n_obs)
    other, mask = PLAIN[order].copy(), random_mask(seed, PLAIN)
    near(embed(model, other), embed(model, PLAIN.copy())[order])
    # Without a fit to the section, since the masks of that are drawn by position.
    found, expected = (
        model.impute_masked(adata, mask=mask, fit_section=False)
        for adata, mask in ((other, mask[order]), (PLAIN.copy(), mask))
    )
    near(found, expected.iloc[order])


@several
@given(seed=SEEDS)
def test_permuting_genes_permutes_results(model, seed):
    order = np.random.default_rng(seed).permutation(PLAIN.n_vars)
    other, mask = PLAIN[:, order].copy(), random_mask(seed, PLAIN)
    near(embed(model, other), embed(model, PLAIN.copy()))
    near(model.impute_masked(other, mask=mask[:, order]), model.impute_masked(PLAIN.copy(), mask=mask).iloc[:, order])


# Sections.


@several
@given(seed=SEEDS, depth=st.integers(1, 50))
def test_sections_never_influence_one_another(model, seed, depth):
    other, mask = PLAIN.copy(), random_mask(seed, PLAIN)
    counts = other.X.toarray()
    counts[~FIRST] = np.random.default_rng(seed).poisson(depth, counts[~FIRST].shape)
    other.X = sp.csr_matrix(counts)
    np.testing.assert_array_equal(embed(model, other)[FIRST], embed(model, PLAIN.copy())[FIRST])
    found, expected = (model.impute_masked(adata, mask=mask)[FIRST] for adata in (other, PLAIN.copy()))
    near(found, expected)
    found, expected = (model.impute_masked(adata, genes=GENES)[FIRST] for adata in (other, PLAIN.copy()))
    near(found, expected)


@several
@given(seed=st.integers(1, 1000))
def test_adding_a_far_section_changes_nothing(model, seed):
    far = two_sections(seed)
    far.obs["sample"] = far.obs["sample"].astype(str) + "-far"
    far.obs_names = far.obs_names + "-far"
    both = ad.concat([PLAIN, far], pairwise=True)
    near(embed(model, both)[: PLAIN.n_obs], embed(model, PLAIN.copy()))


# Batches and precision.


@several
@given(batch_size=st.integers(1, 200), seed=SEEDS)
def test_the_batch_size_does_not_change_results(model, batch_size, seed):
    mask, whole = random_mask(seed, PLAIN), PLAIN.copy()
    near(embed(model, whole, batch_size=batch_size), embed(model, whole))
    near(model.impute_masked(whole, mask=mask, batch_size=batch_size), model.impute_masked(whole, mask=mask))
    found, expected = (model.get_masked_recovery(whole, seed=seed, batch_size=size)["r"] for size in (batch_size, None))
    near(found, expected)


@several
@given(seed=SEEDS, size=st.integers(1, 127))
def test_results_for_some_spots_equal_those_for_all(model, seed, size):
    rows = np.random.default_rng(seed).choice(PLAIN.n_obs, size, replace=False)
    near(embed(model, PLAIN.copy(), indices=rows), embed(model, PLAIN.copy())[rows])


def in_float64(model: sagefm.SAGEFM, adata: ad.AnnData) -> np.ndarray:
    """The embedding by the formulas of the user guide, in float64, one spot at a time."""
    weights = {name: value.double().numpy() for name, value in model.module.state_dict().items()}
    counts = adata[:, model.genes].X.toarray().astype(float)
    published = model.module.encoder.conv == "gcn"
    if not published:
        counts *= model.target_depth / counts.sum(axis=1, keepdims=True)
    x = np.log1p(counts)
    for section in () if published else np.unique(adata.obs["sample"]):
        rows = (adata.obs["sample"] == section).to_numpy()
        n, prior_mean, prior_scale = rows.sum(), weights["normalization.gene_mean"], weights["normalization.gene_scale"]
        mean = (x[rows].sum(axis=0) + PRIOR_SPOTS * prior_mean) / (n + PRIOR_SPOTS)
        variance = (n * x[rows].var(axis=0) + PRIOR_SPOTS * prior_scale**2) / (n + PRIOR_SPOTS)
        x[rows] = (x[rows] - mean) / np.sqrt(variance + Normalization.scale_floor**2)
    latent = []
    for spot, edges in enumerate(adata.obsp[GRAPH].toarray() > 0):
        neighbors = x[edges] if edges.any() else x[[spot]]
        if published:
            own = x[edges | (np.arange(len(x)) == spot)].mean(axis=0)
            hidden = weights["encoder.conv1.lin.weight"] @ own + weights["encoder.conv1.bias"]
        else:
            hidden = (
                weights["encoder.conv1.lin_l.weight"] @ neighbors.mean(axis=0) + weights["encoder.conv1.lin_l.bias"]
            )
            hidden += weights["encoder.conv1.lin_r.weight"] @ x[spot]
        for number in range(2, model.module.encoder.n_layers + 1):
            hidden, layer = np.where(hidden > 0, hidden, 0.01 * hidden), f"encoder.conv{number}"
            weight = weights[f"{layer}.lin.weight" if published else f"{layer}.weight"]
            hidden = weight @ hidden + weights[f"{layer}.bias"]
        latent.append(hidden)
    return np.array(latent)


@several
@given(seed=st.integers(0, 1000))
def test_float32_is_near_a_float64_reference(model, seed):
    adata = two_sections(seed)
    found, expected = embed(model, adata), in_float64(model, adata)
    assert np.abs(found - expected).max() < 1e-4 * expected.std()


# Masks.


@several
@given(data=st.data(), count=st.integers(0, 1000))
def test_a_masked_count_never_changes_its_prediction(model, data, count):
    spot, gene = data.draw(st.integers(0, PLAIN.n_obs - 1)), data.draw(st.integers(0, PLAIN.n_vars - 1))
    mask, other = random_mask(data.draw(SEEDS), PLAIN), PLAIN.copy()
    mask[spot, gene] = True
    counts = other.X.toarray()
    counts[spot, gene] = count
    other.X = counts
    found, expected = (model.impute_masked(adata, mask=mask).iloc[spot, gene] for adata in (other, PLAIN.copy()))
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@several
@given(genes=st.lists(st.sampled_from(sorted(PLAIN.var_names)), min_size=1, max_size=20, unique=True), seed=SEEDS)
def test_counts_of_masked_genes_never_change_predictions(model, genes, seed):
    other = PLAIN.copy()
    counts, masked = other.X.toarray(), other.var_names.isin(genes)
    counts[:, masked] = np.random.default_rng(seed).poisson(30, (PLAIN.n_obs, len(genes)))
    other.X = counts
    found, expected = (model.impute_masked(adata, genes=genes, level="training") for adata in (other, PLAIN.copy()))
    near(found, expected)


@several
@given(genes=st.lists(st.sampled_from(sorted(PLAIN.var_names)), min_size=2, max_size=20, unique=True), data=st.data())
def test_masking_a_gene_that_is_missing_from_the_panel_equals_masking_a_gene_of_the_panel(model, genes, data):
    missing = data.draw(st.lists(st.sampled_from(genes), min_size=1, unique=True))
    panel = PLAIN[:, ~PLAIN.var_names.isin(missing)].copy()
    found, expected = (model.impute_masked(adata, genes=genes, level="training") for adata in (panel, PLAIN.copy()))
    near(found, expected)


# Files.


@several
@given(seed=st.integers(0, 1000))
def test_a_saved_and_loaded_model_gives_identical_results(model, tmp_path_factory, seed):
    folder, adata = tmp_path_factory.mktemp("saved"), two_sections(seed)
    expected = embed(model, adata.copy())
    model.save_pretrained(folder / "shared")
    model.save(folder / "scvi")
    shared = sagefm.SAGEFM.from_pretrained(folder / "shared", adata.copy(), sample_key="sample")
    loaded = sagefm.SAGEFM.load(folder / "scvi", adata.copy())
    for again in (shared, loaded):
        np.testing.assert_array_equal(again.get_latent_representation(), expected)


# The user's AnnData.


def snapshot(adata: ad.AnnData) -> dict[str, object]:
    """Everything in an AnnData except scvi-tools' entries in `uns`."""
    parts = {"X": adata.X.toarray().copy(), "obs": adata.obs.copy(), "var": adata.var.copy()}
    for name in ("obsm", "layers", "obsp", "varm"):
        for key, value in getattr(adata, name).items():
            if key is None:  # X, from anndata 0.13 on
                continue
            parts[f"{name}/{key}"] = value.toarray() if sp.issparse(value) else np.array(value)
    return parts | {f"uns/{key}": str(value) for key, value in adata.uns.items() if not key.startswith("_scvi")}


def assert_same(before: dict[str, object], after: dict[str, object], added: set[str]) -> None:
    assert set(after) - set(before) == added
    for key, value in before.items():
        assert value.equals(after[key]) if hasattr(value, "equals") else np.array_equal(value, after[key]), key


CALLS = {
    "embed": (lambda model, adata: model.get_latent_representation(adata, key_added="Z"), {"obsm/Z"}),
    "embed, nothing written": (lambda model, adata: model.get_latent_representation(adata, key_added=None), set()),
    "impute": (
        lambda model, adata: model.impute_masked(adata, mask=random_mask(0, adata), layer_added="imputed"),
        {"layers/imputed"},
    ),
    "impute genes": (
        lambda model, adata: model.impute_masked(adata, genes=["GENE0001"], layer_added="imputed"),
        {"layers/imputed"},
    ),
    "denoise": (
        lambda model, adata: model.get_normalized_expression(adata, genes=["GENE0001"], layer_added="denoised"),
        {"layers/denoised"},
    ),
    "recover": (lambda model, adata: model.get_masked_recovery(adata), set()),
    "perturb": (lambda model, adata: model.perturb("LIG1", "TGT1", adata=adata, n_controls=5), set()),
    "influence": (lambda model, adata: model.get_gene_influence("TGT1", adata=adata, n_steps=2), set()),
}


@pytest.mark.parametrize("name", CALLS)
def test_only_documented_keys_are_written(model, name):
    call, added = CALLS[name]
    adata = PLAIN.copy()
    before = snapshot(adata)
    call(model, adata)
    assert_same(before, snapshot(adata), added)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "owner, method", [(Normalization, "log_sparse"), (Encoder, "before_last_layer")], ids=["early", "late"]
)
def test_nothing_is_written_if_a_call_fails_part_way(model, name, owner, method, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError("disk failure")

    monkeypatch.setattr(owner, method, fail)
    adata = PLAIN.copy()
    before = snapshot(adata)
    with pytest.raises(OSError, match="disk failure"):
        CALLS[name][0](model, adata)
    assert_same(before, snapshot(adata), set())


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_nothing_is_written_if_the_setup_fails(value):
    adata = PLAIN.copy()
    del adata.obsp[GRAPH]
    counts = adata.X.toarray()
    counts[-1, -1] = value
    adata.X = sp.csr_matrix(counts)
    before = {key: part for key, part in snapshot(adata).items() if key != "X"}
    with pytest.raises(ValueError, match="counts must be finite and non-negative"):
        sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    assert_same(before, {key: part for key, part in snapshot(adata).items() if key != "X"}, set())
    assert not adata.uns
