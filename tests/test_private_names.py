"""The private names of scvi-tools that the package uses, each of which a release may remove without notice."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
import scvi
from anndata import AnnData
from scvi.data import AnnDataManager, fields
from scvi.dataloaders import DataSplitter
from scvi.model.base import BaseModelClass, UnsupervisedTrainingMixin
from scvi.module.base import BaseModuleClass
from scvi.train import TrainingPlan

import sagefm

USED = {
    "_get_init_params": (BaseModelClass, "`SAGEFM.__init__` records its arguments with it"),
    "_get_most_recent_anndata_manager": (BaseModelClass, "`SpotModel` overrides it to explain a missing setup"),
    "_get_setup_method_args": (BaseModelClass, "`setup_anndata` and `setup_mudata` record their arguments with it"),
    "_model_summary_string": (BaseModelClass, "`SAGEFM.__init__` sets it for `repr`"),
    "_setup_adata_manager_store": (BaseModelClass, "`SpotModel` looks up there how a copy was set up"),
    "_validate_anndata": (BaseModelClass, "`SpotModel` registers a new AnnData with it"),
    "_module_cls": (BaseModelClass, "`SAGEFM` sets it to its own network"),
    "_training_plan_cls": (UnsupervisedTrainingMixin, "`SAGEFM` sets it to its own plan"),
    "_optimizer_creator_fn": (TrainingPlan, "`MaskedCenterPlan` overrides it"),
    "_get_generative_input": (BaseModuleClass, "`MaskedCenterModule` overrides it"),
    "_get_inference_input": (BaseModuleClass, "`MaskedCenterModule` overrides it"),
    "_adata_field": (fields.BaseMuDataWrapperClass, "`ModalityField` sets it to the field of a modality"),
}
OWNERS = {owner for owner, _ in USED.values()} | {AnnDataManager, DataSplitter, fields.LayerField}
SOURCE = Path(sagefm.__file__).parent


def private_names(owner: type) -> set[str]:
    """Return the private names of a class of scvi-tools and of its bases there, attributes of instances included."""
    classes = [base for base in owner.__mro__ if base.__module__.startswith("scvi.")]
    names = {name for base in classes for name in vars(base)}
    names |= set(re.findall(r"\b(?:self|cls|model)\.(\w+)", "".join(map(inspect.getsource, classes))))
    return {name for name in names if re.match("_[a-z]", name)}


def names_in(path: Path) -> set[str]:
    """Return the attributes that a file reads, sets or defines."""
    nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    in_classes = [node for found in nodes if isinstance(found, ast.ClassDef) for node in ast.walk(found)]
    return (
        {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        | {node.name for node in in_classes if isinstance(node, ast.FunctionDef)}
        | {node.id for node in in_classes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    )


@pytest.mark.parametrize("name", USED)
def test_scvi_tools_has_the_private_name(name):
    owner, use = USED[name]
    assert name in private_names(owner), f"scvi-tools {scvi.__version__} has no {owner.__name__}.{name}, but {use}."


def test_no_other_private_name_of_scvi_tools_is_used():
    of_scvi = set.union(*map(private_names, OWNERS))
    used = {name: path.name for path in SOURCE.rglob("*.py") for name in names_in(path) & of_scvi}
    assert used.keys() == USED.keys(), "list it in USED, with the reason"


def test_one_private_module_of_scvi_tools_is_imported():
    """`ProgressOnStderr` is the progress bar of scvi-tools, which is not public."""
    private = re.compile(r"^\s*(?:from|import) scvi[.\w]*\._\w+|^\s*from scvi[.\w]* import .*\b_", re.MULTILINE)
    found = {path.name: private.findall(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {"_callbacks.py": ["from scvi.train._progress"]}
    assert hasattr(importlib.import_module("scvi.train._progress"), "ProgressBar")


def test_an_anndata_is_marked_with_the_key_by_which_a_copy_is_recognised(adata: AnnData):
    sagefm.SAGEFM.setup_anndata(adata)
    assert "_scvi_uuid" in adata.uns, f"scvi-tools {scvi.__version__} marks an AnnData in another way"
