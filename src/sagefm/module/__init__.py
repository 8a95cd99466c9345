"""The network, its training plan, and how it is run over a section: tensors in, tensors out."""

from sagefm.module._convolution import EgoGCNConv, EgoSAGEConv
from sagefm.module._ego_graphs import ego_graphs
from sagefm.module._encoder import Encoder
from sagefm.module._module import MASK_FRACTION, MaskedCenterModule, SectionFit
from sagefm.module._neighbor_skip import neighbor_skip
from sagefm.module._one_pass import BATCH_SIZE, Encoded, OnePass, checked_batch_size
from sagefm.module._plan import MaskedCenterPlan
from sagefm.module._section_decoder import RidgeSums, section_decoder
