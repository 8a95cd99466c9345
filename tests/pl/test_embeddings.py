"""Share of nearest neighbours that two embeddings have in common."""

import numpy as np
import pytest
from anndata import AnnData
from scipy.stats import ortho_group

import sagefm


@pytest.fixture
def embeddings():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(300, 5)).astype(np.float32)
    rotated = 3 * first @ ortho_group.rvs(5, random_state=0) + 1
    gaps = first.copy()
    gaps[:10] = np.nan
    unrelated = rng.normal(size=(300, 5))
    return AnnData(obsm={"first": first, "rotated": rotated, "unrelated": unrelated, "gaps": gaps})


def mean_share(ax):
    return float(ax.get_legend().get_texts()[0].get_text().removeprefix("mean, "))


def test_rotation_shares_all_neighbors_and_noise_as_many_as_expected_by_chance(embeddings):
    assert mean_share(sagefm.pl.compare_embeddings(embeddings, "first", "rotated")) == 1
    ax = sagefm.pl.compare_embeddings(embeddings, "first", "unrelated")
    assert mean_share(ax) == pytest.approx(15 / 299, abs=0.02)
    assert ax.lines[1].get_xdata()[0] == pytest.approx(15 / 299)


def test_spots_without_embedding_are_left_out(embeddings):
    ax = sagefm.pl.compare_embeddings(embeddings, "first", "gaps")
    assert sum(bar.get_height() for bar in ax.patches) == 290
    assert mean_share(ax) == 1


def test_unknown_keys_and_too_many_neighbors_are_refused(embeddings):
    with pytest.raises(KeyError, match="X_pca"):
        sagefm.pl.compare_embeddings(embeddings, "first", "X_pca")
    with pytest.raises(ValueError, match="between 1 and 298"):
        sagefm.pl.compare_embeddings(embeddings, "first", "rotated", n_neighbors=299)
