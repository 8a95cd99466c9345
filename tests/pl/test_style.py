"""Colours of categories are those of scanpy and squidpy."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from matplotlib.colors import to_hex

import sagefm


@pytest.fixture(params=[3, 10, 11, 25, 40, 105])
def groups(request: pytest.FixtureRequest) -> AnnData:
    """Spots of so many groups, in two sections: the first has only the second half of the groups."""
    n_groups = request.param
    group = np.concatenate([np.arange(n_groups // 2, n_groups), np.arange(n_groups)])
    names = [f"group {number:03}" for number in group]
    section = np.repeat(["one", "two"], [n_groups - n_groups // 2, n_groups])
    places = np.stack([np.arange(len(group)), np.zeros(len(group))], axis=1)
    obs = pd.DataFrame({"group": pd.Categorical(names), "section": section})
    return AnnData(obs=obs.set_axis(obs.index.astype(str)), obsm={"spatial": places})


def drawn(adata: AnnData, ax: mpl.axes.Axes, section: str) -> dict[str, str]:
    """Return the colour of every group in a panel."""
    faces = ax.collections[0].get_facecolor()
    return dict(zip(adata.obs["group"][adata.obs["section"] == section], map(to_hex, faces), strict=True))


@pytest.mark.parametrize("cycle", [None, ["#000000", "#ff0000", "#00ff00", "#0000ff"]])
def test_colours_are_those_that_scanpy_stores(groups: AnnData, cycle: list[str] | None):
    with mpl.rc_context({} if cycle is None else {"axes.prop_cycle": mpl.cycler(color=cycle)}):
        axes = sagefm.pl.domains(groups, "group", sample_key="section")
        sc.pl.embedding(groups, "spatial", color="group", show=False)
    expected = dict(zip(groups.obs["group"].cat.categories, map(to_hex, groups.uns["group_colors"]), strict=True))
    for ax, section in zip(axes[:, 0], ["one", "two"], strict=True):
        assert drawn(groups, ax, section).items() <= expected.items()
