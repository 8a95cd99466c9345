"""Validation spots are whole sections, or blocks of tissue that no training spot has among its neighbours."""

import re
from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import scvi

import sagefm
from sagefm.data import NeighborhoodDataset, SectionSplitter, Spots, whole_groups
from sagefm.data._graph import spots_adjacent_to


def tissue_of(n_sections: int, size: int = 20) -> ad.AnnData:
    return sagefm.datasets.simulated_tissue(
        size, size, n_genes=70, n_interactions=1, n_sections=n_sections, outline="rectangle"
    )


def irregular_section() -> ad.AnnData:
    """A section whose graph of the 14 nearest spots is directed."""
    adata = tissue_of(1)
    adata.obsm["spatial"] = np.random.default_rng(0).random((adata.n_obs, 2))
    return adata


TISSUES: dict[str, Callable[[], ad.AnnData]] = {
    "one section": lambda: tissue_of(1),
    "two sections": lambda: tissue_of(2),
    "directed": irregular_section,
}


@pytest.fixture(scope="module", params=TISSUES)
def few_sections(request: pytest.FixtureRequest) -> ad.AnnData:
    """Too few sections to hold one out as a whole."""
    adata = TISSUES[request.param]()
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    return adata


@pytest.fixture(scope="module")
def spots(few_sections: ad.AnnData, spots_of) -> Spots:
    return spots_of(few_sections)


@pytest.fixture(scope="module")
def many_sections(spots_of) -> Spots:
    adata = tissue_of(5, size=8)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    return spots_of(adata)


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scvi.settings, "seed", 0)


def split(spots: Spots, **kwargs: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    splitter = SectionSplitter(spots, **kwargs)
    splitter.setup()
    return splitter.train_idx, splitter.val_idx, splitter.test_idx


seeds = pytest.mark.parametrize("number", range(5))


# Whole sections.


@seeds
@pytest.mark.parametrize(("train_size", "n_held_out"), [(None, 1), (0.8, 1), (0.7, 2), (0.41, 3), (0.01, 4)])
def test_with_several_sections_whole_ones_are_held_out(many_sections, monkeypatch, number, train_size, n_held_out):
    monkeypatch.setattr(scvi.settings, "seed", number)
    training, validation, neither = split(many_sections, train_size=train_size)
    held_out = set(many_sections.sections[validation])
    assert len(held_out) == n_held_out
    assert held_out.isdisjoint(many_sections.sections[training])
    assert sorted([*training, *validation]) == list(range(many_sections.n_obs))
    assert len(neither) == 0


def test_every_section_is_held_out_for_some_seed(many_sections, monkeypatch):
    held_out = set()
    for number in range(30):
        monkeypatch.setattr(scvi.settings, "seed", number)
        held_out |= set(many_sections.sections[split(many_sections)[1]])
    assert held_out == set(many_sections.sections)


@pytest.fixture(scope="module")
def large_and_small(spots_of) -> Spots:
    """A section of 675 spots and two of 37."""
    tissue = sagefm.datasets.simulated_tissue(27, 25, n_genes=70, n_interactions=1, n_sections=3, outline="rectangle")
    small = tissue.obs["sample"] != tissue.obs["sample"].iloc[0]
    adata = tissue[~small | (tissue.obs.groupby("sample", observed=True).cumcount() < 37)].copy()
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    return spots_of(adata)


@pytest.mark.parametrize("number", range(8))
def test_a_section_far_above_the_share_is_trained_on(large_and_small, monkeypatch, number):
    monkeypatch.setattr(scvi.settings, "seed", number)
    training, validation, _ = split(large_and_small, train_size=0.9)
    assert large_and_small.n_obs == 749
    assert (len(training), len(validation)) == (675, 74)


@seeds
def test_blocks_are_held_out_where_whole_sections_are_far_below_the_share(large_and_small, monkeypatch, number):
    monkeypatch.setattr(scvi.settings, "seed", number)
    _, validation, _ = split(large_and_small, train_size=0.75)
    assert np.unique(large_and_small.sections[validation], return_counts=True)[1].tolist() == [169, 9, 9]


@seeds
def test_blocks_are_held_out_where_every_section_is_far_above_the_share(spots_of, monkeypatch, number):
    monkeypatch.setattr(scvi.settings, "seed", number)
    adata = tissue_of(3, size=8)
    sagefm.SAGEFM.setup_anndata(adata, sample_key="sample")
    spots = spots_of(adata)
    _, validation, _ = split(spots)
    assert np.unique(spots.sections[validation], return_counts=True)[1].tolist() == [6, 6, 6]
    training, validation, _ = split(spots, train_size=0.7)
    assert len(set(spots.sections[validation])) == 1
    assert len(training) == 128


def test_testing_sections_are_left_for_the_second_share(many_sections):
    training, validation, test = split(many_sections, train_size=0.6, validation_size=0.2)
    assert [len(set(many_sections.sections[rows])) for rows in (training, validation, test)] == [3, 1, 1]


def shares_of(sizes: list[int], shares: tuple[float, float], seed: int) -> list[float]:
    """Return the share of the spots in the groups that are held out for each of the shares."""
    groups = whole_groups(np.arange(len(sizes)), np.array(sizes), shares, np.random.default_rng(seed))
    assert len(np.unique(np.concatenate(groups))) == sum(map(len, groups)) < len(sizes)
    return [sum(sizes[group] for group in held_out) / sum(sizes) for held_out in groups]


@pytest.mark.parametrize("number", range(20))
def test_groups_add_up_to_about_the_share_whatever_their_sizes(number):
    sizes = np.random.default_rng(number).geometric(0.01, size=40).tolist()
    validation, test = shares_of(sizes, (0.2, 0.1), number)
    assert 0.2 <= validation <= 0.25 + 1e-9 and 0.1 <= test <= 0.15 + 1e-9


@seeds
def test_the_smallest_group_is_held_out_if_all_are_far_above_the_share(number):
    assert shares_of([500, 200, 300], (0.05, 0.0), number) == [0.2, 0]
    assert shares_of([675, 37, 37], (0.1, 0.1), number) == [37 / 749, 37 / 749]
    assert shares_of([60, 40], (0.1, 0.1), number) == [0.4, 0]
    assert shares_of([60], (0.1, 0.1), number) == [0, 0]


# Blocks of tissue.


@seeds
def test_no_training_spot_has_a_validation_spot_among_its_neighbours(spots, monkeypatch, number):
    monkeypatch.setattr(scvi.settings, "seed", number)
    training, validation, _ = split(spots)
    assert len(training) > 0 and len(validation) > 0
    assert spots.graph[training][:, validation].nnz == 0
    assert spots.graph[:, validation].nnz > 0


def test_no_count_of_a_validation_spot_is_in_a_training_batch(few_sections, spots, spots_of):
    training, validation, _ = split(spots)
    changed = few_sections.copy()
    counts = changed.X.toarray()
    counts[validation] += 100
    changed.X = sp.csr_matrix(counts)
    other = spots_of(changed, like=few_sections)
    assert not np.array_equal(other.counts(validation).toarray(), spots.counts(validation).toarray())
    for one, two in zip(spots.gene_moments(training), other.gene_moments(training), strict=True):
        assert np.array_equal(one, two)
    batch, same = NeighborhoodDataset(spots)[training], NeighborhoodDataset(other)[training]
    for key in batch:
        assert np.array_equal(batch[key], same[key])


def test_the_log_gives_the_share_that_is_trained_on(spots_of, many_sections, caplog):
    adata = tissue_of(1, size=10)
    sagefm.SAGEFM.setup_anndata(adata)
    spots = spots_of(adata)
    caplog.clear()
    training, _, _ = split(spots)
    n_left_out = 90 - len(training)
    assert n_left_out > 10
    assert f"Training on {len(training)}% of the 100 spots: 10 are held out, and {n_left_out} are left" in caplog.text
    caplog.clear()
    split(many_sections)
    assert not caplog.text


def test_all_spots_without_a_validation_spot_among_their_neighbours_are_trained_on(spots):
    training, validation, _ = split(spots)
    elsewhere = np.setdiff1d(np.arange(spots.n_obs), validation)
    assert set(training) == set(elsewhere) - set(spots_adjacent_to(spots.graph, validation))


def test_spots_next_to_validation_spots_belong_to_no_set(spots):
    training, validation, test = split(spots)
    assert set(training).isdisjoint(validation)
    assert len(training) + len(validation) < spots.n_obs
    assert len(test) == 0


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25])
def test_the_requested_share_of_every_section_is_held_out(spots, share):
    _, validation, _ = split(spots, train_size=1 - share)
    _, n_spots = np.unique(spots.sections, return_counts=True)
    _, n_held_out = np.unique(spots.sections[validation], return_counts=True)
    assert n_held_out.tolist() == [round(share * n) for n in n_spots]


def test_a_tenth_is_held_out_by_default(spots):
    assert len(split(spots)[1]) == round(0.1 * spots.n_obs)


# Arguments.


def test_train_size_one_trains_on_everything(spots, many_sections):
    for of in (spots, many_sections):
        training, validation, neither = split(of, train_size=1)
        assert training.tolist() == list(range(of.n_obs))
        assert len(validation) == len(neither) == 0
        assert SectionSplitter(of, train_size=1.0).n_val == 0


@pytest.mark.parametrize("train_size", [0, -0.1, 1.01, 90])
def test_a_train_size_out_of_range_is_rejected(spots, train_size):
    message = f"train_size={train_size} must be above 0 and at most 1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SectionSplitter(spots, train_size=train_size)


def test_the_seed_of_scvi_tools_fixes_the_split(spots, many_sections, monkeypatch):
    for of in (spots, many_sections):
        splits = []
        for number in (1, 1, 2, 3, 4, 5):
            monkeypatch.setattr(scvi.settings, "seed", number)
            splits.append(split(of)[1].tolist())
        assert splits[0] == splits[1]
        assert any(other != splits[0] for other in splits[2:])


def test_external_indexing_is_used_as_it_is(spots):
    shuffled = np.random.default_rng(0).permutation(spots.n_obs)
    parts = [shuffled[:100], shuffled[100:150], shuffled[150:]]
    for expected, found in zip(parts, split(spots, external_indexing=list(parts)), strict=True):
        assert np.array_equal(expected, found)


def test_external_indexing_reaches_training_through_the_model():
    adata = tissue_of(1, size=10)
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata, n_hidden=4, n_latent=2)
    parts = [np.arange(60), np.arange(60, 90), np.arange(90, 100)]
    model.train(
        max_epochs=1, accelerator="cpu", enable_progress_bar=False, datasplitter_kwargs={"external_indexing": parts}
    )
    for expected, found in zip(parts, (model.train_indices, model.validation_indices, model.test_indices), strict=True):
        assert np.array_equal(expected, found)


def test_batches_have_the_requested_size_and_the_spots_of_their_set(spots):
    splitter = SectionSplitter(spots, batch_size=32)
    splitter.setup()
    loaders = (splitter.train_dataloader(), splitter.val_dataloader())
    for loader, rows in zip(loaders, (splitter.train_idx, splitter.val_idx), strict=True):
        counts = [batch["X"].numpy() for batch in loader]
        assert max(len(batch) for batch in counts) == min(32, len(rows))
        found, expected = np.concatenate(counts), spots.counts(rows).toarray()
        assert np.array_equal(np.unique(found, axis=0), np.unique(expected, axis=0))
        assert len(found) == len(rows)


# What training needs of the split.


def test_moments_and_the_sample_are_of_training_spots(spots):
    splitter = SectionSplitter(spots)
    splitter.setup()
    assert (splitter.n_spots, splitter.n_validation) == (spots.n_obs, len(splitter.val_idx))
    for found, expected in zip(splitter.gene_moments(), spots.gene_moments(splitter.train_idx), strict=True):
        assert np.array_equal(found, expected)
    training = spots.inputs(splitter.train_idx, spots.units.of(splitter.train_idx)).numpy()
    sample = splitter.sample(20).numpy()
    assert sample.shape == (20, len(spots.genes))
    assert (sample[:, None] == training).all(axis=2).any(axis=1).all()


def test_counts_are_released_at_the_end(spots):
    splitter = SectionSplitter(spots)
    splitter.teardown("fit")
    for use in (splitter.gene_moments, lambda: splitter.sample(1)):
        with pytest.raises(RuntimeError, match="The counts were released at the end of training; make a new splitter"):
            use()
