"""Names that the examples in docstrings use: `sagefm`, a section `adata`, and a `model` trained on it."""

import pytest

import sagefm


@pytest.fixture(scope="session")
def example_model() -> sagefm.SAGEFM:
    """A model trained for one epoch on a simulated section; `model.adata` is the section."""
    adata = sagefm.datasets.simulated_tissue(12, 12, n_genes=200)
    sagefm.SAGEFM.setup_anndata(adata)
    model = sagefm.SAGEFM(adata)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    return model


@pytest.fixture(autouse=True)
def names_of_examples(request: pytest.FixtureRequest) -> None:
    """Put the names into the namespace of an example."""
    if isinstance(request.node, pytest.DoctestItem):
        model = request.getfixturevalue("example_model")
        names = {"sagefm": sagefm, "adata": model.adata, "model": model}
        request.getfixturevalue("doctest_namespace").update(names)
