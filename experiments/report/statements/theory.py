"""What Sections 3 and 4 state: symmetry, Noether flow, fixed point."""

from experiments.report.statements._statement import Section, Statement

THEORY = Section(
    "Sections 3 and 4: symmetry, Noether flow, fixed point",
    (
        Statement(
            "Eq. (1)",
            "dθ = −∇L dt + √(2σ²Σ) dW with σ² = η/(2S), time = η × steps: the SDE that SGD is compared with.",
            ("SDE", "SGD", "sample_noise", "gradient_covariance"),
            "alignment",
            ("isotropic, SDE − SGD", "isotropic, SDE:"),
            "The curves of the charge; the order in η has the next row.",
        ),
        Statement(
            "Eq. (1), order",
            "SGD and this SDE differ by first order in η.",
            ("weak_error", "WeakError", "SDE"),
            "weak_order",
            ("",),
        ),
        Statement(
            "Eq. (2)",
            "ℓ(Q_ρ(θ), z) = ℓ(θ, z) for every ρ and every sample z.",
            ("Symmetry", "exponential_symmetry", "check_symmetry"),
            "identities",
            ("Eq. (2)",),
        ),
        Statement(
            "Eq. (3)",
            "J(θ)·∇ℓ(θ, z) = 0 for every z, so that the mean gradient and the noise are orthogonal to the orbit.",
            ("symmetry_violation", "models"),
            "identities",
            (
                "Eq. (3)",
                "deep linear network: largest",
                "deep ReLU network: largest",
                "attention, two heads: largest",
                "rank one: largest",
                "scale-invariant: largest",
            ),
            "Of every model that the studies use, exactly; approximate symmetries have a row of their own.",
        ),
        Statement(
            "Eq. (4)",
            "Gradient flow conserves the charge C.",
            ("GradientFlow", "Symmetry.charge"),
            "identities",
            ("Eq. (4)",),
        ),
        Statement(
            "Eqs. (5), (26)–(29)",
            "dC/dt = σ²Tr[Σ∇²C] − 2γθᵀ∇C, without a martingale part, because ΣJ = 0.",
            ("noether_flow",),
            "identities",
            ("Eq. (5)", "Eq. (29)"),
            "The paper allows any J = ∇C; here J is linear in θ, with ∇²C indefinite, or negative: C cannot rise then.",
        ),
        Statement(
            "Definition 4.1, Eq. (8)",
            "Exponential symmetries J(θ) = Aθ, A symmetric; (I + λA/n)ⁿθ → e^{λA}θ.",
            ("exponential_symmetry", "Symmetry.act"),
            "identities",
            ("Eq. (8)",),
        ),
        Statement(
            "Definition 4.2",
            "ℓ₀ + γ‖θ‖² has the symmetry if ℓ₀ has it: the charge of gradient flow then decays as e^{−4γt}.",
            ("Problem",),
            "identities",
            ("Definition 4.2",),
        ),
        Statement(
            "Eqs. (6), (7)",
            "dC/dt = −4γC + 2σ²Tr[ΣA] for C = θᵀAθ: the Noether flow.",
            ("noether_flow", "noise_moments", "noise_trace"),
            "identities",
            ("Eq. (7)",),
        ),
        Statement(
            "Eq. (7) in training",
            "The charges of ReLU neurons follow the flow; GD hardly moves them.",
            ("noether_flow", "simulate", "models.deep_relu"),
            "neuron_charges",
            (
                *("ReLU: slope", "ReLU: change", "ReLU: correlation"),
                *("leaky: slope", "leaky: change", "leaky: correlation"),
            ),
        ),
        Statement(
            "Lemma B.1",
            "Tr[Σ(θ_λ)A] = Tr[e^{−2λA}Σ(θ)A]: gradients transform inversely to parameters.",
            ("noise_trace", "find_equilibrium"),
            "identities",
            ("Lemma B.1",),
        ),
        Statement(
            "Theorem 4.3",
            "Along every orbit G falls and C rises with λ; a unique λ* ∈ [−∞, ∞] makes the flow vanish, whatever "
            "the start, and it is a differentiable function of θ.",
            ("find_equilibrium", "Status"),
            "identities",
            ("Theorem 4.3",),
            "γ ≥ 0 is needed. λ* = ±∞ and the cases without noise have a status of their own.",
        ),
        Statement(
            "Eq. (9)",
            "C(θ*) = (σ²/2γ)Tr[Σ(θ*)A]; without decay Tr[Σ(θ*)A₊] = Tr[Σ(θ*)A₋].",
            ("find_equilibrium",),
            "identities",
            ("Eq. (9)",),
        ),
        Statement(
            "Definition 4.6",
            "The noise equilibrium of a function, reached by SGD in training: charges of neurons relax to the "
            "predicted ones, which are not zero.",
            ("find_equilibrium", "predict"),
            "neuron_charges",
            (
                "ReLU: |C_j",
                "ReLU: C_j",
                "ReLU: share",
                "leaky: |C_j",
                "leaky: C_j",
                "leaky: share",
                "two hidden layers",
            ),
            "All symmetries of a deep network are balanced jointly.",
        ),
        Statement(
            "Initialisation independence",
            "Where SGD ends does not depend on where it starts, nor on the width: runs with the same minibatches"
            " end at the same point up to rotations. Where GD ends does.",
            ("simulate", "Stream", "find_equilibrium"),
            "initialisation",
            ("same noise", "GD, "),
            "The claim of the abstract, for linear networks; pathwise, not only in the mean.",
        ),
        Statement(
            "Remark 4.4",
            "Gradient flow has no such fixed point, and GD moves charges at the order of η only; SGD, whatever the "
            "start, takes them to one place.",
            ("GradientFlow", "GD", "expected_charge_step"),
            "initialisation",
            ("Remark 4.4", "same noise, other start"),
            "The paper adds that GD has a fixed point, and that SGD reaches it more easily; see Theorem D.1.",
        ),
        Statement(
            "Section 4.2",
            "t_erm = 1/h does not depend on σ², t_equi = 1/κ ∝ 1/σ²: a fast phase, in which the noise has balanced "
            "while the loss still falls, and a slow one.",
            ("relaxation_rates", "time_scales", "orbit_flow"),
            "time_scales",
            ("",),
        ),
        Statement(
            "Lemmas B.2, B.3, Corollary B.4",
            "|G| ≥ c₀|C − C*|: the flow is never weaker than a linear restoring force.",
            ("find_equilibrium", "gradient_covariance"),
            "identities",
            ("Lemma B.2", "Lemma B.3", "Lemma B.4"),
            "The displayed formulas were derived anew; see the theory page.",
        ),
        Statement(
            "Theorem 4.5, Lemma B.5, Theorem B.6",
            "C follows a moving C*: E(C − C*)² stays below a bound in μ/c₀ and s²/(2c₀). It tends to 0 if "
            "μ = s = 0; otherwise |C − C*|/|C*| → 0 in probability.",
            ("noether_flow", "orbit_flow"),
            "moving_target",
            ("",),
            "Medians, never the mean of a squared ratio, which is infinite.",
        ),
    ),
)
