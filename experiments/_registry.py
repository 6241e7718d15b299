"""All studies by name: one place to add a new one."""

from experiments._study import Study
from experiments.alignment import Alignment
from experiments.approximate_symmetry import ApproximateSymmetry
from experiments.attention_charges import AttentionCharges
from experiments.convergence import Convergence
from experiments.deep_linear import DeepLinear
from experiments.entropic import Entropic
from experiments.equalisation import Equalisation
from experiments.flat_or_sharp import FlatOrSharp
from experiments.identities import Identities
from experiments.initialisation import Initialisation
from experiments.lora import Lora
from experiments.moving_target import MovingTarget
from experiments.neuron_charges import NeuronCharges
from experiments.norm_growth import NormGrowth
from experiments.optimizers import Optimizers
from experiments.pinning import Pinning
from experiments.platonic import Platonic
from experiments.real_networks import RealNetworks
from experiments.rebalancing import Rebalancing
from experiments.representations import Representations
from experiments.scale_circle import ScaleCircle
from experiments.sign_alignment import SignAlignment
from experiments.stationary_law import StationaryLaw
from experiments.time_scales import TimeScales
from experiments.valley import Valley
from experiments.warmup import Warmup
from experiments.weak_order import WeakOrder

STUDIES: dict[str, type[Study]] = {
    "alignment": Alignment,
    "approximate_symmetry": ApproximateSymmetry,
    "attention_charges": AttentionCharges,
    "convergence": Convergence,
    "deep_linear": DeepLinear,
    "entropic": Entropic,
    "equalisation": Equalisation,
    "flat_or_sharp": FlatOrSharp,
    "identities": Identities,
    "initialisation": Initialisation,
    "lora": Lora,
    "moving_target": MovingTarget,
    "neuron_charges": NeuronCharges,
    "norm_growth": NormGrowth,
    "optimizers": Optimizers,
    "pinning": Pinning,
    "platonic": Platonic,
    "real_networks": RealNetworks,
    "rebalancing": Rebalancing,
    "representations": Representations,
    "scale_circle": ScaleCircle,
    "sign_alignment": SignAlignment,
    "stationary_law": StationaryLaw,
    "time_scales": TimeScales,
    "valley": Valley,
    "warmup": Warmup,
    "weak_order": WeakOrder,
}
