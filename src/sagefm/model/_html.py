"""Summary of a model for notebooks: a plain table in HTML."""

from collections.abc import Mapping
from html import escape

from sagefm.data import gene_names, keys_of, registered_adata
from sagefm.model._base import SpotModel, setup_call


def html_table(title: str, rows: Mapping[str, str]) -> str:
    """Return a table with one row per entry; text is escaped."""
    cells = "".join(f"<tr>{_cell('th', name)}{_cell('td', text)}</tr>" for name, text in rows.items())
    return f"<table>{_cell('caption', title)}{cells}</table>"


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="text-align: left; vertical-align: top">{escape(text, quote=False)}</{tag}>'


def described(model: SpotModel) -> dict[str, str]:
    """Return where the weights come from, and which genes, spots and sections the model has."""
    rows = {"weights": _provenance(model), "genes": f"{len(model.genes):,}"}
    if model.adata is not None:
        section, keys = registered_adata(model.adata_manager), keys_of(model.registry_)
        n_known = int(model.genes.isin(gene_names(section, keys.gene_symbols)).sum())
        rows["genes"] += f", {n_known:,} of them in the data"
        rows["spots"] = _spots(section.n_obs, len(set(keys.sections(section))))
        rows["set up by"] = setup_call(type(model), model.registry_)
    return rows


def _provenance(model: SpotModel) -> str:
    """Return where the weights come from."""
    n_epochs = len((model.history_ or {}).get("train_loss", ()))
    trained = f"trained for {n_epochs} epoch{'s' * (n_epochs != 1)}"
    if not model.is_trained_:
        return "untrained"
    if model.weights_source_ is None:
        return trained
    return f"{model.weights_source_}, {f'then {trained}' if n_epochs else 'not trained further'}"


def _spots(n_spots: int, n_sections: int) -> str:
    return f"{n_spots:,} in {n_sections} section{'s' * (n_sections != 1)}"
