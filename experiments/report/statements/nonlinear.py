"""What Section 5.4 and Appendix A state beyond linear networks."""

from experiments.report.statements._statement import Section, Statement

NONLINEAR = Section(
    "Section 5.4 and Appendix A: beyond linear networks",
    (
        Statement(
            "Eq. (20)",
            "Approximate symmetry ℓ₀ + ζℓ₁: SGD settles where ζθᵀA∇ℓ₁ = σ²Tr[ΣA].",
            ("noether_flow", "find_equilibrium"),
            "approximate_symmetry",
            ("η = ", "η → 0: Eq. (20)", "η → 0: mean charge"),
            "Exact for the SDE; for SGD 2ζE[θᵀA∇ℓ₁] = ηE[ĝᵀAĝ] is exact and (20) errs by O(η), as both learning "
            "rates show and their limit does not.",
        ),
        Statement(
            "Eqs. (21)–(23)",
            "Large ζ: (θ − θ*)ᵀHAθ* = σ²Tr[ΣA]; along an eigenvector θ − θ* = σ²Tr[ΣA]Aθ*/(h‖Aθ*‖²); θᵀAθ rises by "
            "2σ²Tr[ΣA]/h for A ≻ 0, and falls for A ≺ 0.",
            ("noether_flow", "models.scale_invariant"),
            "approximate_symmetry",
            ("η → 0: displacement", "A = "),
            corrected="(21) lacks ζTr[AH₁Cov], a term of its own order. Signs are as printed, sizes are not: for a "
            "pull ½ζ‖θ − a‖², k = h₀/(ζr²), the displacement is k/(1+k) of the printed (22), the rise of the "
            "charge (1+2k)/(2+2k) of the printed (23).",
        ),
        Statement(
            "Figures 6 and 9",
            "Two-layer networks with tanh, swish and (leaky) ReLU learn aligned layers; GD does not.",
            ("models.two_layer", "noise_moments"),
            "representations",
            ("tanh", "swish", "leaky_relu", "relu"),
            "On fresh samples of small inputs; distances and cosines are those of approximate symmetries, and "
            "theory names no numbers for them.",
        ),
        Statement(
            "Section 5.4, few samples",
            "Alignment of nonlinear networks on finite data, and where it comes from.",
            ("models.two_layer", "noise_moments"),
            "representations",
            ("samples", "null"),
            "It is the number of samples that undoes alignment, more so for small inputs. Whether alignment goes "
            "with √N η/S or with Nη/S these runs are too few to decide. A minimum without any noise has a negative "
            "cosine: U is nearly the inverse of W.",
        ),
        Statement(
            "Figure 6 on digits",
            "Layers of nonlinear networks are aligned after training on handwritten digits.",
            ("models.two_layer", "noise_moments", "data.digits"),
            "representations",
            ("digits",),
            fails="Neither tanh nor leaky ReLU align all of both noises; the cosine is about that of GD. What an "
            "exact symmetry protects does balance: the diagonal with leaky ReLU, a rescaling of every neuron.",
        ),
        Statement(
            "Who wins, noise or loss",
            "Along a broken symmetry the noise balances the charge for Π ≫ 1 and the loss holds it for Π ≪ 1.",
            ("pinning", "rest_on_orbit", "entropic_loss"),
            "pinning",
            ("",),
            "Beyond the paper. In the limit of small η SGD rests where the entropic loss is least over all "
            "parameters, for tanh further than on the orbit alone; at a finite η it is reported beside that place, "
            "and lies above it for a normalisation with ε. A candidate that is part of an exact symmetry is not "
            "held at all.",
        ),
        Statement(
            "Eq. (24), Figure 1",
            "Scale invariance: ‖θ‖⁴ grows linearly in time under SGD, and settles with weight decay.",
            ("scaling", "models.scale_invariant", "exact.scale_invariant_norm"),
            "scale_circle",
            ("",),
        ),
        Statement(
            "Figure 7",
            "Normalised networks: ‖θ‖² grows at the rate 2σ²TrΣ, that of each layer only if it has a symmetry.",
            ("models.normalized", "noise_trace"),
            "norm_growth",
            ("",),
        ),
        Statement(
            "Eq. (24), identity",
            "d‖θ‖²/dt = 2σ²Tr[Σ] where the loss does not know the scale of θ.",
            ("scaling", "models.normalized"),
            "identities",
            ("Eq. (24)", "Net-A", "Net-B"),
        ),
    ),
)
