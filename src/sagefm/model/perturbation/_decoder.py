"""Decode some genes, with affine maps that follow one another folded into one."""

from torch import Tensor
from torch.nn.functional import linear

from sagefm.data import Units
from sagefm.module import MaskedCenterModule


class GeneDecoder:
    """Decoder of some genes, from the output of the first layer.

    The last layer of the encoder and the decoder are affine. For few genes their product is smaller than the two and
    replaces them. Units that are the same for all spots are folded in as well.

    Parameters
    ----------
    module
        The network.
    genes
        Positions of the genes.
    units
        Mean and scale of the genes, each (1, genes), if all spots are from one section; otherwise none.
    """

    def __init__(self, module: MaskedCenterModule, genes: Tensor, units: Units) -> None:
        encoder = module.encoder
        self._encode, weight, bias = encoder.after_first_layer, module.decoder.weight[genes], module.decoder.bias[genes]
        if encoder.n_layers > 1:
            last_weight, last_bias = encoder.affine(encoder.n_layers)
            n_latent, n_before = last_weight.shape
            if len(genes) * n_before < (len(genes) + n_before) * n_latent:
                self._encode = encoder.before_last_layer
                weight, bias = weight @ last_weight, bias + weight @ last_bias
        if units.mean is not None and units.scale is not None:
            weight, bias = weight * units.scale.T, bias * units.scale[0] + units.mean[0]
        self._weight, self._bias = weight, bias

    def __call__(self, hidden: Tensor, units: Units) -> Tensor:
        """Predict the genes on the log scale from the output of the first layer, (..., n, hidden): (..., n, genes).

        Negative values are not set to zero.

        `units`, each (n, genes), are those that are not folded in.
        """
        return units.restore(linear(self._encode(hidden), self._weight, self._bias).float())
