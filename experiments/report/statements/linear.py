"""What Section 5 states of linear networks."""

from experiments.report.statements._statement import Section, Statement

LINEAR = Section(
    "Section 5: linear networks",
    (
        Statement(
            "Eq. (10)",
            "ℓ(UP, P⁻¹W) = ℓ(U, W) for every invertible P: the double rotation.",
            ("double_rotation", "models.two_layer_linear"),
            "identities",
            ("Eq. (10)",),
        ),
        Statement(
            "Eq. (11)",
            "Gradient flow conserves UᵀU − WWᵀ.",
            ("double_rotation", "GradientFlow"),
            "identities",
            ("Eq. (11)",),
        ),
        Statement(
            "Proposition 5.1",
            "dC_B/dt = −4γC_B + 2σ²(Σ_i Tr[Σ(ũ_i)B] − Σ_j Tr[Σ(w̃_j)B]), for all B at once dQ/dt = −4γQ + 2σ²(M₊ − M₋).",
            ("noether_flow", "noise_moments"),
            "identities",
            ("Proposition 5.1",),
        ),
        Statement(
            "Section 5.1",
            "Rank one: C_kl decays at the rate 2σ²Var(a), all neurons end with one sign of u_k w_k.",
            ("models.rank_one", "exact.sign_alignment_rate"),
            "sign_alignment",
            ("",),
        ),
        Statement(
            "Section 5.1, the law",
            "dC_kl/dt = −2σ²Var(a)C_kl for every pair of neurons.",
            ("models.rank_one", "noether_flow"),
            "identities",
            ("Section 5.1",),
        ),
        Statement(
            "Eqs. (12), (13), Theorem 5.2",
            "W Γ_W Wᵀ = Uᵀ Γ_U U at the equilibrium; at the global minimum it has a closed form.",
            ("exact.two_layer_equilibrium", "exact.residual_moments", "find_equilibrium"),
            "identities",
            ("Eq. (13)", "Theorem 5.2"),
            "Exact as a zero of the Noether flow.",
            corrected="Γ contains the mean gradient, −KᵀK, which the paper leaves out; at the minimum K = 0, and "
            "Theorem 5.2 is as printed.",
        ),
        Statement(
            "Theorem 5.2, as the end of SGD",
            "SGD settles there if Σ and H commute, as for isotropic label noise. Otherwise its drift has an "
            "antisymmetric part: the hidden axis turns steadily, and the Grams rest elsewhere, as η → 0 too.",
            ("settle", "valley_drift", "exact.two_layer_equilibrium"),
            "valley",
            ("turning", "isotropic label noise", "Σ_x and Σ_ε commute", "spread", "predicted shift"),
            "The paper has no rotation. At the spread 4 of the tasks of Figure 2 the shift is about 1 %, at "
            "256 tens of per cent.",
        ),
        Statement(
            "Eq. (14), Figure 2",
            "W Σ̄_x Wᵀ = Uᵀ Σ̄_ε U: SGD aligns the layers, GD does not.",
            ("exact.two_layer_equilibrium", "simulate"),
            "alignment",
            ("isotropic, SGD:", "isotropic, GD", "isotropic, η", "isotropic, find", "isotropic, from", "tasks"),
        ),
        Statement(
            "Eq. (14) on digits",
            "The same on handwritten digits: SGD balances the noise, GD does not, and `find_equilibrium` takes "
            "GD's end to the balanced point of its orbit.",
            ("find_equilibrium", "data.digits"),
            "alignment-digits",
            ("",),
        ),
        Statement(
            "Eq. (14), identity",
            "The closed form satisfies it to rounding.",
            ("exact.two_layer_equilibrium",),
            "identities",
            ("Eq. (14)",),
        ),
        Statement(
            "Proposition 5.3",
            "Tr∇²L = 2(d_y Tr[W Σ_x Wᵀ] + Tr[Σ_x]Tr[UᵀU]); for isotropic noise the equilibrium is the "
            "flattest minimum (γ = 0, d_h ≥ rank V).",
            ("exact.hessian_trace", "exact.flattest_hessian_trace"),
            "identities",
            ("Proposition 5.3", "Section 5.2"),
        ),
        Statement(
            "Eq. (15)",
            "Tr∇²L at initialisation against that at equilibrium: variance 1/(d + d_h) is flatter, 1/fan-in sharper.",
            ("exact.initial_hessian_trace", "exact.equilibrium_hessian_trace"),
            "identities",
            ("Eq. (15)",),
            corrected="For d_h < d the unfitted part of x is noise too: Tr∇²L is 2dd_h(a² + a⁻²), not the 4dd_h of "
            "the paper's rank argument. For d_h ≥ d it is as printed.",
        ),
        Statement(
            "Figure 3",
            "SGD is sharper or flatter than the balanced minimum, depending on the data.",
            ("exact.two_layer_equilibrium", "exact.hessian_trace", "exact.balanced_minimum"),
            "flat_or_sharp",
            ("",),
        ),
        Statement(
            "Figure 4",
            "Warmup: from a flat equilibrium a learning rate is stable that diverges at initialisation.",
            ("exact.equilibrium_hessian_trace", "SGD"),
            "warmup",
            ("",),
        ),
        Statement(
            "Figure 8",
            "The residual to Theorem 5.2 against learning rate, batch size and width.",
            ("exact.two_layer_equilibrium",),
            "convergence",
            ("",),
            "Marks are the closed form ± errors ± O(η); for S ≤ d/2 it lies above the 1.8√ρ of larger batches.",
        ),
        Statement(
            "Eqs. (16)–(19), Theorem 5.4",
            "Deep linear networks: one equilibrium for all pairs of layers, intermediate layers rescaled "
            "orthogonal matrices.",
            ("exact.deep_linear_equilibrium", "models.deep_linear"),
            "identities",
            ("Theorem 5.4", "Eq. (16)", "Eq. (18)", "Eq. (19)"),
            corrected="The printed formula needs Tr Σ_x = Tr Σ_ε = d, and for (19) rank V = d; the general form is "
            "checked, and that the printed one fails for other traces.",
        ),
        Statement(
            "Theorem E.1",
            "Pair i is in equilibrium iff E[‖δ_{i+1}‖² h_i h_iᵀ] = E[‖h_{i−1}‖² δ_i δ_iᵀ].",
            ("noise_moments", "exact.deep_linear_equilibrium"),
            "identities",
            ("Theorem E.1",),
            corrected="With raw second moments it is the equilibrium at a minimum, or at S = 1; elsewhere the mean "
            "gradient has to be taken off.",
        ),
        Statement(
            "Figure 5",
            "Theorem 5.4 in training: SGD aligns and balances deep linear networks, GD does not.",
            ("exact.deep_linear_equilibrium", "simulate"),
            "deep_linear",
            ("D = 3: largest", "D = 3: intermediate", "traces 2 and 5"),
            "Compared are runs that keep the rank of the product.",
        ),
        Statement(
            "Section 5.3, rank",
            "From standard initialisations SGD goes to the solution of Theorem 5.4 at every depth.",
            ("simulate", "models.deep_linear"),
            "deep_linear",
            ("D = 3: share", "D = 3: runs", "D = 5: share", "D = 5: runs"),
            fails="At five layers the noise of SGD lets a weak mode of the product die in many of the runs, so "
            "that they end at another function; GD keeps the rank, but for the odd run that still waits at the "
            "end. At three layers nearly all keep it. Why: “A mode that has died”.",
        ),
    ),
)
