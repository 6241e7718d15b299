"""What the report adds to the paper."""

from experiments.report.statements._statement import Section, Statement

BEYOND = Section(
    "Beyond the paper",
    (
        Statement(
            "A mode that has died",
            "Near a minimum that lacks a mode the noise lets its ends in the first and the last layer decay at λ_p and "
            "λ_w, of order η, its links B through the inner layers stay, and the loss lets the ends grow in proportion "
            "to B: below B* = √(λ_pλ_w)/(2σ_x²s) the Lyapunov exponent is negative, and the rank is lost for good.",
            ("exact.deep_linear_equilibrium", "expected_charge_step", "simulate"),
            "deep_linear",
            ("exponent of a dead mode", "B/B*"),
            "Exponents for isotropic inputs and labels, extrapolated to η → 0. In the runs whose rank is counted "
            "covariances are not isotropic and B* is an estimate: those that kept their rank lie far above it.",
        ),
        Statement(
            "Attention",
            "Queries and keys are a double rotation in every head: their charges flow, and SGD balances their noise.",
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
            "λ*(e^{sA}θ) = λ*(θ) − s: a start and the same one skewed are moved to one point, which computes the same.",
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
)
