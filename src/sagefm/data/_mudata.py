"""One modality of a MuData, registered and read as an AnnData is."""

from __future__ import annotations

from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.data.fields import BaseAnnDataField, BaseMuDataWrapperClass

from sagefm._errors import MissingKeyError


class ModalityField(BaseMuDataWrapperClass):
    """A field of AnnData, read from one modality."""

    def __init__(self, field: BaseAnnDataField, mod_key: str) -> None:
        super().__init__(mod_key, mod_required=True)
        self._adata_field = field

    def validate_field(self, mdata: MuData) -> None:
        """Check that the modality is there, and the field in it."""
        self.adata_field.validate_field(self.get_modality(mdata))

    def get_modality(self, mdata: MuData) -> AnnData:
        """Return the modality."""
        if not isinstance(mdata, MuData):
            raise ValueError(
                f"The model was set up with the modality {self.mod_key!r} of a MuData, and this is an AnnData. Wrap "
                f"it: `mudata.MuData({{{self.mod_key!r}: adata}})`."
            )
        return modality(mdata, str(self.mod_key))


def refuse_mudata(adata: object) -> None:
    """Raise where a MuData came for an AnnData."""
    if isinstance(adata, MuData):
        raise ValueError(
            f"This is a MuData with the modalities {list(adata.mod)}. Use `setup_mudata`, or pass one modality, for "
            f"example `mdata[{next(iter(adata.mod))!r}]`."
        )


def adata_and_fields(manager: AnnDataManager) -> tuple[AnnData, list[BaseAnnDataField]]:
    """Return the AnnData that the model works on, and its fields."""
    if not isinstance(manager.adata, MuData):
        return manager.adata, manager.fields
    return manager.fields[0].get_modality(manager.adata), [field.adata_field for field in manager.fields]


def modality(mdata: MuData, name: str) -> AnnData:
    """Return one modality by name."""
    if name not in mdata.mod:
        raise MissingKeyError(f"{name!r} is not a modality of the MuData; there are {list(mdata.mod)}.")
    return mdata.mod[name]
