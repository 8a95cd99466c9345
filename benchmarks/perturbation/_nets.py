"""Ground truth for perturbations: nets of sources and signed targets, from public resources in one folder."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

# Pathways of CellChat whose ligands activate a pathway of PROGENy.
CELLCHAT = {
    "EGF": "EGFR",
    "IFN-II": "JAK-STAT",
    "TGFb": "TGFb",
    "TNF": "TNFa",
    "TRAIL": "Trail",
    "VEGF": "VEGF",
    "WNT": "WNT",
}


class Net(NamedTuple):
    """A net, its regulators (other sources are genes or complexes), and how many targets a source has.

    `n_targets` is the number of strongest targets that are read, `min_targets` the fewest that a source needs. In large
    nets targets are not `masked` while they are predicted, which changes the AUROC by less than 0.001.
    """

    table: pd.DataFrame
    regulators: dict[str, list[str]]
    n_targets: int = 40
    min_targets: int = 10
    masked: bool = True


def progeny(folder: Path) -> Net:
    """Return the genes that a pathway raises; those of several pathways belong to the one they respond most to."""
    table = pd.read_csv(folder / "pathways" / "progeny_human.csv")
    return Net(_once(table[table["weight"] > 0]), {})


def progeny_signed(folder: Path) -> Net:
    """Return the genes that a pathway raises or lowers, each in one pathway."""
    return Net(_once(pd.read_csv(folder / "pathways" / "progeny_human.csv")), {})


def collectri(folder: Path) -> Net:
    """Return transcription factors and their targets, at least ten of which are expressed."""
    table = pd.read_csv(folder / "tf" / "collectri_visiumms.csv")
    return Net(table.drop_duplicates(["source", "target"]), {}, masked=False)


def liana(folder: Path) -> Net:
    """Return ligands and the parts of their receptors, of the consensus resource."""
    table = pd.read_csv(folder / "liana" / "omni_resource.csv")
    pairs = table.loc[table["resource"] == "consensus", ["source_genesymbol", "target_genesymbol"]]
    pairs = pairs.set_axis(["source", "target"], axis=1)
    pairs = pairs.assign(target=pairs["target"].str.split("_"), weight=1.0).explode("target").drop_duplicates()
    return Net(pairs, {}, min_targets=1, masked=False)


def cellchat(folder: Path) -> Net:
    """Return the ligands of a pathway of CellChat, set together, and the targets of PROGENy's pathway."""
    pairs = pd.read_csv(folder / "cellchat" / "CellChatDB.ligrec.human.csv", index_col=0)
    footprints = progeny(folder).table
    tables = [footprints[footprints["source"] == response].assign(source=name) for name, response in CELLCHAT.items()]
    ligands = {name: sorted(set(pairs.loc[pairs["2"] == name, "0"])) for name in CELLCHAT}
    return Net(pd.concat(tables), ligands)


def _once(table: pd.DataFrame) -> pd.DataFrame:
    """Keep each target for the source with the largest weight."""
    strongest = table["weight"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[strongest, ["source", "target", "weight"]].drop_duplicates("target")


NETS: dict[str, Callable[[Path], Net]] = {
    function.__name__: function for function in (progeny, progeny_signed, collectri, liana, cellchat)
}
