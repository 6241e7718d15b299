"""Every equation, theorem and figure of the paper: what it says, where it lives in the code, and what measures it."""

from typing import NamedTuple


class Statement(NamedTuple):
    """One row of the report.

    Attributes:
        label: its name in the paper.
        says: the statement.
        code: public names that compute it, as written after `ne.`; `experiments` for what is only measured.
        run: the run that measures it, see `runs`.
        metrics: beginnings of the names of its metrics.
        note: a caveat.
        corrected: how the printed statement differs from the one that is measured; its verdict is then "holds as
            corrected".
        fails: what of the printed statement does not hold here; its verdict is then "fails", though the measurements,
            which show it, are inside their marks.
        full: whether the quick preset of its study leaves it out.
    """

    label: str
    says: str
    code: tuple[str, ...]
    run: str
    metrics: tuple[str, ...]
    note: str = ""
    corrected: str = ""
    fails: str = ""
    full: bool = False


class Section(NamedTuple):
    """A part of the paper.

    Attributes:
        title: its heading.
        statements: its rows.
    """

    title: str
    statements: tuple[Statement, ...]


SECTIONS = (
    Section(
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
                "The paper allows any J = ∇C; here J is linear in θ, with ∇²C indefinite, or negative: C cannot rise"
                " then.",
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
    ),
    Section(
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
                "dC_B/dt = −4γC_B + 2σ²(Σ_i Tr[Σ(ũ_i)B] − Σ_j Tr[Σ(w̃_j)B]), for all B at once "
                "dQ/dt = −4γQ + 2σ²(M₊ − M₋).",
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
                "Tr∇²L at initialisation against that at equilibrium: variance 1/(d + d_h) is flatter, 1/fan-in "
                "sharper.",
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
                ("D = 3: share", "D = 3: runs", "D = 5"),
                fails="At five layers the noise of SGD lets a weak mode of the product die in many of the runs, so "
                "that they end at another function; GD keeps the rank, but for the odd run that still waits at the "
                "end. At three layers nearly all keep it.",
            ),
        ),
    ),
    Section(
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
    ),
    Section(
        "Appendix D: discrete time",
        (
            Statement(
                "Eqs. (93)–(100)",
                "C(θ') = (1 − 2ηγ)²C(θ) + η²ĝᵀAĝ at every step of SGD.",
                ("expected_charge_step", "charge_rates"),
                "identities",
                ("Appendix D",),
            ),
            Statement(
                "Theorem D.1",
                "Theorem 4.3 for SGD of any batch size, with and without replacement, and for GD.",
                ("find_equilibrium", "expected_charge_step"),
                "identities",
                ("Theorem D.1",),
                "Needs 0 ≤ ηγ < 1.",
            ),
        ),
    ),
    Section(
        "Beyond the paper",
        (
            Statement(
                "Attention",
                "Queries and keys are a double rotation in every head: their charges flow, and SGD balances their "
                "noise.",
                ("models.attention", "double_rotation"),
                "attention_charges",
                ("",),
            ),
            Statement(
                "Momentum",
                "ΔC(θ − ηβ/(1−β) m) = η²/(1−β)² [ĝᵀAĝ + 2βmᵀAĝ] in every step: the noise acts as that of SGD at "
                "η/(1−β), the mean gradient (1+β)/(1−β) times as much.",
                ("Momentum", "expected_charge_step"),
                "optimizers",
                ("momentum", "SGD: "),
            ),
            Statement(
                "Adam",
                "With one number for each matrix it rests where n₊M₊ = n₋M₋, n the number of entries: ‖W‖²/‖U‖² = "
                "(d_x/d_y)² where SGD has d_x/d_y.",
                ("Preconditioned", "Optax", "find_equilibrium"),
                "optimizers",
                ("‖W‖²", "uneven", "one v", "Adam"),
                "Ordinary Adam, with a number for each entry, is near it where gradients are even, commutes with no "
                "rotation, and moves charges at first order in η. Spectra over a factor of 64 are reported.",
            ),
            Statement(
                "Equalisation before rounding",
                "Rounding to a grid of step Δ makes an error Σ(Δ²/12)‖∂f/∂w‖², so that equal largest entries on both "
                "sides of every neuron undo any factors. Filters under a normalisation have one side only: equalised,"
                " one step for all of them is a step for each.",
                ("move_along", "neuron_rescaling", "find_symmetries"),
                "equalisation",
                (
                    *(
                        "dense: directions",
                        "dense: largest",
                        "dense: weights",
                        "dense: error²",
                        "dense: error equalised over",
                    ),
                    *(
                        "filters: directions",
                        "filters: largest",
                        "filters: weights",
                        "filters: one",
                        "filters: filter",
                        "filters: error",
                    ),
                ),
                "Networks trained with weight decay have little to gain: some 10 % of the error with one step for each "
                "array, nothing with one for each row or filter.",
            ),
            Statement(
                "What is left to gain by equalisation",
                "Accuracy at 4 bits, and the least error by that law on the whole orbit.",
                ("move_along",),
                "equalisation",
                ("dense: accuracy", "filters: accuracy", "dense: error where"),
                "Nothing is claimed of these.",
            ),
            Statement(
                "Low-rank adapters",
                "SGD moves Q = BᵀB − AAᵀ of an adapter W + BA by η²(M₊/S + M̄₊ − M₋/S − M̄₋) a step in the mean, and not"
                " at the noise equilibrium. Where Q = 0 the map from (B, A) to BA is as well conditioned as it can be.",
                ("noise_moments", "find_equilibrium", "move_along", "rebalance"),
                "lora",
                ("starts", "charge", "a step", "balanced", "other"),
            ),
            Statement(
                "Low-rank adapters, compared",
                "Loss after n steps, accuracy, distance, conditioning from four starts, and with `rebalance` to least "
                "norm or to the noise equilibrium, against the usual start, B = 0.",
                ("rebalance", "find_equilibrium", "move_along"),
                "lora",
                ("compared",),
                "Theory names none of these numbers. At the four seeds that were tried when this was written no motion "
                "lowered the loss: pooled, all raised it by a few per cent, though Q = 0 conditions adapters better.",
            ),
            Statement(
                "Valleys without a symmetry",
                "SGD moves along the minima by v = −σ²P_T∇Tr[∇²L Cov], H Cov + Cov H = Σ: a valley of three "
                "parameters, a diagonal linear network and a tanh network with label noise.",
                ("valley_drift", "valley_motion"),
                "valley",
                ("bent valley", "sparse", "tanh"),
                "Katzenberger's limit theorem; for SGD Li, Wang and Arora (2022).",
            ),
            Statement(
                "What is flat in a decoder",
                "At a minimum with decay nothing is flat but rotations: those of every query–key and value–output "
                "block, and those of the stream.",
                ("find_symmetries",),
                "valley",
                ("heads: directions", "heads: steepest", "heads: radians"),
                "One layer of attention, two heads of two dimensions, smooth and without gains. How far the blocks "
                "turn is predicted.",
            ),
            Statement(
                "Heads that turn",
                "SGD turns both factors of a query–key or value–output block by Ω, {Ω, N} = −2K, per unit of time, "
                "though no gradient has a part along the turn: at a minimum with decay, of a small decoder of text.",
                ("valley_drift", "valley_motion", "find_symmetries"),
                "valley",
                ("heads: turning", "heads: ‖", "heads: Ω", "heads: share"),
                "The decoder of the statement before; short runs of SGD.",
                full=True,
            ),
            Statement(
                "Stationary law of a balanced product",
                "v = uw has the density v^{−3/2}q⁻¹exp(−∫e/(2σ²vq)dv), and collapses for σ² > E[xy]/(2Var(xy)).",
                ("SGD", "SDE", "simulate"),
                "stationary_law",
                ("",),
                "After Ziyin, Li and Ueda (2023). Three factors do not collapse at any σ².",
            ),
            Statement(
                "Entropic loss",
                "F = L_γ + (η/4)(‖∇L_γ‖² + Tr Σ_S): −2 dF/dλ is the law of the charge over η, so that noise is equal "
                "in all layers at rest; shuffled SGD follows the flow of F one order further in η.",
                ("entropic_loss", "EntropicFlow", "find_equilibrium"),
                "entropic",
                ("",),
            ),
            Statement(
                "Moving in place of a warmup",
                "In the linear network of Figure 4 a motion to the noise equilibrium of the start makes its high "
                "rate stable without a warmup; GD stays at a minimum below 2/λ_max, λ_max = 2(a + b).",
                ("find_equilibrium", "move_along", "rebalance"),
                "rebalancing",
                ("minim", "linear autoencoder"),
                "Its noise equilibrium and its least weight norm nearly coincide: this does not tell them apart. "
                "Stability in mean square beside a minimum, of ours, does not name the rate at which a start trains.",
            ),
            Statement(
                "Moving in place of a warmup, networks on digits",
                "A ReLU and a convolutional network, from their usual start and from one skewed along the symmetries: "
                "rates, steps and sharpness with a warmup and with motions, over those of plain SGD.",
                ("find_equilibrium", "move_along", "rebalance"),
                "rebalancing",
                ("ReLU network, ", "convolutional network, "),
                "Mostly a negative answer: over sixteen starts no warmup and no motion raised the largest rate by more "
                "than a fifth in the mean, where the linear network gains a factor of 2.4. A skewed ReLU start "
                "gains about a tenth by a motion, to a fifth of its sharpness: where a run begins hardly limits "
                "its rate here. A warmup costs steps.",
            ),
            Statement(
                "Moving in place of a warmup, decoder",
                "A decoder on source text, moved along all symmetries that are found in it, none declared, to the "
                "joint noise equilibrium: no charge flows there. Rates, steps and sharpness as before.",
                ("find_symmetries", "measure", "find_equilibrium"),
                "rebalancing",
                ("decoder",),
                "A negative answer: over six starts the motion, though to a flatter point, lowered the largest rate by "
                "one step of the grid, √2, and took half as many steps more; a warmup raised it by a quarter. From a "
                "skewed start a warmup nearly doubles the rate, and a motion leaves it.",
                full=True,
            ),
            Statement(
                "One equilibrium on an orbit",
                "λ*(e^{sA}θ) = λ*(θ) − s: a start and the same one skewed are moved to one point, which computes the "
                "same.",
                ("find_equilibrium", "move_along"),
                "rebalancing",
                ("ReLU network: ", "convolutional network: "),
            ),
            Statement(
                "Platonic representations",
                "Deep linear networks of different depth, width and view of the inputs have parallel kernels in all "
                "hidden layers at the noise equilibrium, and SGD finds it.",
                ("exact.deep_linear_equilibrium", "find_equilibrium", "models.deep_linear"),
                "platonic",
                ("",),
                "Ziyin and Chuang (2025). For isotropic label noise; weight decay breaks it.",
            ),
            Statement(
                "Real networks: Eq. (9) in the mean",
                "A ReLU network with softmax loss on digits, weight decay: the mean charge of every neuron is that of "
                "the law at the mean noise, and the path of each follows from its start.",
                ("expected_charge_step", "find_equilibrium", "measure", "models.deep_relu"),
                "real_networks",
                ("ReLU network, ",),
                "Noise comes in bursts of some ten steps. The law is linear in it, the equilibrium is not: the mean of "
                "equilibria lies below the mean charge, needs thousands of records, and that of one end point says "
                "little; all three distances are reported.",
            ),
            Statement(
                "Real networks: momentum",
                "The same with a heavy ball of β = 0.9: the law that knows θ and m holds.",
                ("Momentum", "expected_charge_step"),
                "real_networks",
                ("momentum, ",),
                "The mean gradient of this network turns faster than m forgets: the law of parameters alone, in which "
                "it counts (1+β)/(1−β) times, predicts charges more than twice too large, and SGD at η/(1−β) is near.",
            ),
            Statement(
                "Real networks: filters and AdamW",
                "The scale of a filter behind a normalisation is a symmetry: ‖W_c‖² of every filter of a convolutional "
                "network is that of the law under decay, and under AdamW norms and angles per step are those of "
                "rotational equilibrium.",
                ("expected_charge_step", "find_equilibrium", "rotational_equilibrium"),
                "real_networks",
                ("filters, ", "AdamW"),
                "Here ‖W_c‖⁴ of the equilibrium is linear in the noise, and its mean is the one to take.",
            ),
            Statement(
                "Real networks: a decoder",
                "Attention and ReLU neurons on source files, byte by byte: all symmetries are found, none declared, "
                "and their mean charges are those of the law.",
                ("find_symmetries", "expected_charge_step", "relaxation_modes"),
                "real_networks",
                ("decoder: ",),
                "Not every charge is within 10 % of the law in its mean over a run, though κt ≥ 8: how many are is "
                "reported, and the others are within the error that the scatter of the noise leaves. How much of κ is "
                "decay, and how much noise, is reported too.",
            ),
        ),
    ),
)
