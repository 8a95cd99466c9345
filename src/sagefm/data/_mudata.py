"""One modality of a MuData, registered and read as an AnnData is."""

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

    def get_modality(self, mdata: MuData) -> AnnData:
        """Return the modality."""
        if not isinstance(mdata, MuData):
            raise ValueError(
                f"The model was set up with the modality {self.mod_key!r} of a MuData, but this is an AnnData. Wrap "
                f"it: `mudata.MuData({{{self.mod_key!r}: adata}})`."
            )
        return modality(mdata, str(self.mod_key))


def refuse_mudata(adata: object) -> None:
    """Raise if a MuData was passed in place of an AnnData."""
    if isinstance(adata, MuData):
        raise ValueError(
            f"This is a MuData with the modalities {list(adata.mod)}. Pass one modality, for example "
            f"`mdata[{next(iter(adata.mod))!r}]`, or set it up for a model with `setup_mudata`."
        )


def registered_adata(manager: AnnDataManager) -> AnnData:
    """Return the registered AnnData, of a MuData the registered modality."""
    adata = manager.adata
    return manager.fields[0].get_modality(adata) if isinstance(adata, MuData) else adata


def modality(mdata: MuData, name: str) -> AnnData:
    """Return one modality by name."""
    if name not in mdata.mod:
        raise MissingKeyError(f"{name!r} is not a modality of the MuData; found {list(mdata.mod)}.")
    return mdata.mod[name]
