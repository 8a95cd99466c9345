"""Per-section standardisation of genes: mean and scale of each section, shrunk towards those of training."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from sagefm.data import Normalization, SectionUnits, Units, section_units

G = 12


def normalization(mean: float = 0.0, scale: float = 1.0) -> Normalization:
    made = Normalization("size", 100.0, np.full(G, 1 / G), scale_genes=True)
    made.set_moments(np.full(G, mean), np.full(G, scale))
    return made


def test_units_are_means_and_deviations_of_a_section_shrunk_towards_training():
    rng = np.random.default_rng(0)
    values = rng.gamma(2, size=(5000, G)).astype(np.float32)
    section = np.repeat([0, 1], [4990, 10])
    units = section_units(normalization(9, 3), section, [(np.arange(5000), values, np.zeros(G, dtype=bool))])
    large, small = values[:4990], values[4990:]
    np.testing.assert_allclose(units.mean[0], large.mean(0), atol=0.06)
    np.testing.assert_allclose(units.scale[0], np.hypot(large.std(0), 0.4), atol=0.06)
    np.testing.assert_allclose(units.mean[1], (small.sum(0) + 30 * 9) / 40, rtol=1e-5)
    np.testing.assert_allclose(units.scale[1], np.sqrt((10 * small.var(0) + 30 * 9) / 40 + 0.16), rtol=1e-5)


def test_sparse_and_dense_pieces_give_the_same_units():
    rng = np.random.default_rng(1)
    values = rng.poisson(1, size=(40, G)).astype(np.float32)
    section, masked = np.arange(40) % 3, rng.random(G) < 0.3
    values *= ~masked
    pieces = [(rows, values[rows], np.tile(masked, (len(rows), 1))) for rows in np.array_split(np.arange(40), 4)]
    whole = section_units(normalization(1, 1), section, [(np.arange(40), sp.csr_matrix(values), masked)])
    parts = section_units(normalization(1, 1), section, pieces)
    np.testing.assert_allclose(whole.mean, parts.mean, rtol=1e-6)
    np.testing.assert_allclose(whole.scale, parts.scale, rtol=1e-6)
    assert (whole.mean[:, masked] == 1).all() and np.allclose(whole.scale[:, masked], np.hypot(1, 0.4))


def test_masked_entries_do_not_count():
    rng = np.random.default_rng(2)
    values, mask = rng.gamma(2, size=(200, G)).astype(np.float32), rng.random((200, G)) < 0.4
    units = section_units(normalization(), np.zeros(200, dtype=int), [(np.arange(200), values * ~mask, mask)])
    unmasked = np.ma.array(values, mask=mask)
    n = (~mask).sum(0)
    np.testing.assert_allclose(units.mean[0], unmasked.sum(0) / (n + 30), rtol=1e-5)
    np.testing.assert_allclose(units.scale[0] ** 2, (n * unmasked.var(0) + 30) / (n + 30) + 0.16, rtol=1e-4)


def test_without_standardisation_there_are_no_units():
    raw = Normalization("size", 100.0, np.full(G, 1 / G))
    units = section_units(raw, np.zeros(4, dtype=int), [])
    assert units.of(np.arange(4)) == Units(None, None) == units.of(np.arange(4)).of_genes(slice(2))
    logged = sp.csr_matrix(np.ones((4, G)))
    assert units.scale_sparse(np.arange(4), logged) is logged


def test_standardised_values_are_restored_and_masked_ones_are_at_the_mean():
    units = Units(torch.rand(1, G), torch.rand(1, G) + 0.5)
    values, mask = torch.rand(7, G), torch.rand(7, G) < 0.5
    standard = units.standardize(values, mask)
    assert (standard[mask] == 0).all()
    torch.testing.assert_close(units.restore(standard)[~mask], values[~mask])
    torch.testing.assert_close(units.restore(standard)[mask], units.mean.expand(7, -1)[mask])
    assert torch.equal(Units().standardize(values, mask), values * ~mask) and Units().restore(values) is values


@pytest.mark.parametrize("section", [[0, 0, 0, 0], [2, 0, 1, 2]], ids=["one section", "three sections"])
@pytest.mark.parametrize("genes", [slice(None), slice(3), np.array([7, 1])], ids=["all", "slice", "positions"])
def test_units_of_some_spots_and_genes(section, genes):
    rng = np.random.default_rng(3)
    mean, scale = rng.random((2, 3, G)).astype(np.float32)
    units = SectionUnits(mean, scale, np.array(section)).of(np.array([3, 1]), genes=genes)
    for found, all_sections in zip(units, (mean, scale), strict=True):
        expected = all_sections[np.array(section)[[3, 1]]][:, genes]
        assert len(found) == (1 if section[0] == section[1] else 2)
        assert np.array_equal(np.broadcast_to(found.numpy(), expected.shape), expected)


@pytest.mark.parametrize("section", [[0, 0, 0, 0], [2, 0, 1, 2]], ids=["one section", "three sections"])
def test_sparse_values_are_divided_by_the_scales_of_their_sections(section):
    rng = np.random.default_rng(4)
    mean, scale = rng.random((2, 3, G)).astype(np.float32) + 0.5
    logged = sp.random(4, G, 0.5, format="csr", dtype=np.float32, random_state=0)
    scaled = SectionUnits(mean, scale, np.array(section)).scale_sparse(np.arange(4), logged)
    np.testing.assert_allclose(scaled.toarray(), logged.toarray() / scale[section], rtol=1e-6)
