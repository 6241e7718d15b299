"""Captions of the figures, and what each study does otherwise than the paper.

The text of the paper that this library was written from had lost most of its numbers: "not known" below means that the
paper's value could not be read there.
"""

BANDS = "Lines are means over the runs, bands reach from the lowest to the highest run."
COLOURS = "Blue: SGD; orange, dashed: the SDE; brown, dash-dotted: GD; black: theory."

CAPTIONS = {
    "alignment": (
        "Two-layer linear network UW. Left: loss and charge Q = UᵀU − WWᵀ, as its overlap with that of the start. "
        f"{COLOURS} {BANDS} Middle: ten elements of Q along one run of SGD. Right: the two sides of Eq. (14) at the "
        "end of tasks with one start and different teachers and covariances: one element of each run, as in the paper, "
        "blue of SGD and brown crosses of GD; pale, all other elements."
    ),
    "alignment-digits": (
        "The same on handwritten digits. Left: loss, and how far the noise M₊ of U is from the noise M₋ of W. "
        f"{COLOURS} {BANDS} Middle: eigenvalues of Q along one run of SGD (grey), and those of the equilibrium on the"
        " orbit of GD's minimum (dotted), which is another minimum. Right: elements of M₊ against those of M₋ at the"
        " end."
    ),
    "approximate_symmetry": (
        "ℓ₀ + ζℓ₁ with a rescaling that only ℓ₀ has. Left: mean charge of SGD with three standard errors, at two "
        "learning rates; lines: Eq. (20), its first order in ζ, and the corrected (23). Right: drift by the noise over "
        "drift by ℓ₁, which is 1 in a stationary state: filled, with the exact discrete law; open, as Eq. (20) has it, "
        "which errs by O(η)."
    ),
    "attention_charges": (
        "Softmax attention with one and with two heads. Left: entries of the charges, QQᵀ − KKᵀ, measured change "
        "against the predicted integral, of runs on a calm teacher. Others: how far the noise of queries and keys is "
        f"from balance along runs on another teacher, SGD (blue) and GD (brown) over the same time. {BANDS}"
    ),
    "convergence": (
        "‖A − B‖/√(‖A‖‖B‖), A and B the sides of Eq. (14), along runs of SGD at different learning rates, batch "
        "sizes and widths, one of them changed at a time; black: where it rests by its closed form, to leading order"
        f" in η. {BANDS}"
    ),
    "deep_linear": (
        "Deep linear networks. Left, above: the largest error of a Gram matrix against Theorem 5.4 of every run, "
        "filled from an aligned start, open from a standard one; below: singular values of the layers in the middle "
        "over their predicted common value. Middle: covariances of the activations h and of the errors δ at the hidden "
        "layers of one run, of trace 1: equal at the equilibrium, which SGD reaches and GD does not. Right, above: the "
        "rate at which a dead mode grows, over the strength of its inner links; points with three standard errors, SGD "
        "extrapolated to η → 0. Below: runs from standard starts; left of the dashed line the rank is lost for good."
    ),
    "equalisation": (
        "Weights rounded to few bits. Left: measured against predicted error of the logits, with one step for every "
        "array; each point is a network, circles with ReLU layers, squares with normalised convolutions. Others: errors"
        " of all networks as they were trained, moved along their orbits to equal largest entries, with random factors "
        "that the function does not see, and with these undone; black: geometric means."
    ),
    "flat_or_sharp": (
        "A linear autoencoder whose inputs have variance φ_x in half of the directions. Above: ‖U‖²/‖W‖², below: Tr∇²L "
        "over that of the balanced minimum. Points with three standard errors: SGD without decay extrapolated to "
        "η → 0, the others at η; lines: theory."
    ),
    "identities": (
        "Exact statements on random instances: each dot is the relative error of one instance, each black bar the mark "
        "it has to stay below. Errors that are exactly zero lie at the left edge."
    ),
    "initialisation": (
        "Left: distance of UUᵀ and WᵀW between runs with the same minibatches from different starts (solid) and of "
        "different widths (dashed); blue: SGD, brown: GD; black: the slowest predicted rate. Right: change of the "
        "charge under gradient flow and GD, one cross for each task."
    ),
    "pinning": (
        "Where SGD rests between the minimum of the loss (0) and the equilibrium of the noise (1), against the "
        "pinning number, for four neurons with a broken rescaling: points with three standard errors; lines: the "
        "least entropic loss on the orbit (dotted) and of all parameters (solid). Of the normalisation: w² over that"
        " of the minimum, less one."
    ),
    "valley": (
        "The two-layer linear network under label noise, minima without gradient. Above: angle of the hidden axis "
        "along runs of SGD, with uneven noise, which turns it for ever, and with isotropic noise, which does not; "
        "how far apart the Grams are at rest and at the noise equilibrium, over the spread of the spectra: "
        "predicted for six tasks (grey) and another (crosses), measured in that one (blue, two standard errors); "
        "and where SGD is after some time, from either start: 0 is the noise equilibrium, 1 where it settles. "
        "Below: valleys without a symmetry, mean of SGD at η and η/2 (blue) along the path of `valley_drift` "
        "(black). Right: how fast the heads of a small trained decoder turn (crosses), and the mean of short runs "
        "of SGD (blue, two standard errors), which the full preset makes."
    ),
    "stationary_law": (
        "ℓ = (u w x − y)². Histograms of v = uw over many runs of SGD (blue) or of the SDE (orange, for inputs that "
        "vary), with the density in closed form (black); grey: before the charge has decayed. Others: the charge's "
        "decay; the growth of log v near 0, whose sign decides between a law and collapse; three factors, which do "
        "not collapse; shares of runs below each quantile."
    ),
    "entropic": (
        "Left: E‖g‖² of each layer over the mean of all, along training on digits, by SGD and by GD; 1 is "
        "equipartition. Right: distance of the mean of shuffled SGD from the flows of F and of L at the same time, "
        "over the learning rate; dotted: first and second order."
    ),
    "platonic": (
        "Two deep linear networks of different depth, width and view of the inputs, on one task. Left: least "
        "alignment of the kernels of two hidden layers along training. Middle: alignment of all pairs at the end, "
        "of SGD and of GD; 1 is parallel. Right: least alignment at the equilibrium with weight decay, predicted "
        "without training."
    ),
    "weak_order": (
        "(u w x − y)²: distance of the means of SGD and of its SDE after one time, with three standard errors, against "
        "the learning rate."
    ),
    "lora": (
        "Adapters W + BA of rank 4 on a network for digits, adapted to digits turned by a quarter. Left: charge of the "
        "first layer along SGD from four starts, mean of the runs, with the sum of its expected steps (dotted). Middle:"
        " condition number of the map from changes of (B, A) to those of BA; dashed and dotted: moved every k steps to "
        "least norm, or to the noise equilibrium, and recorded there. Right: loss in the last quarter of the run over "
        "that of the usual start on the same minibatches, with two standard errors, at one learning rate (filled) and "
        "each at its best (open)."
    ),
    "moving_target": (
        "Left: E(C − C*)² of a synthetic flow with a target that drifts, diffuses or does both, with three standard "
        "errors, under the bound of Theorem B.6. Middle: medians of |C − C*|/|C*|. Right: SGD on a linear network "
        "whose teacher grows in time, so that C* moves: charge C and equilibrium C* in the mean over runs."
    ),
    "neuron_charges": (
        "ReLU networks: one charge C_j for each hidden neuron. Left: measured change of every C_j against its "
        "predicted integral; circles ReLU, squares leaky ReLU, crosses GD. Middle, right: charges along one run "
        "(solid), and those of the equilibrium on the orbit of the moment (dotted), in the colour of their neuron."
    ),
    "norm_growth": (
        "Normalised networks, Net-A above and Net-B below. Left: squared norms under SGD and GD; middle: growth of "
        f"each neuron's charge in one run (grey) and its prediction (dotted); right: ‖θ‖² with weight decay. {BANDS}"
    ),
    "optimizers": (
        "Left: ‖W‖²/‖U‖² of a linear network with twelve inputs and four outputs, which SGD takes to 3 and Adam to "
        "9. Middle: change of the charge without noise, at η and at η/4 over the same time; bars are means over "
        "starts with standard errors, black bars the prediction (1+β)/(1−β) times that of SGD. Right: changes of the"
        " charges of ReLU neurons against the SDE of η/(1−β)."
    ),
    "rebalancing": (
        "Above: share of the runs that train, to half the loss of the start, at each learning rate; ticks on top: 2 "
        "over the largest eigenvalue of ∇²L where a run begins. Below: steps to the loss named there, geometric means "
        "over seeds with their standard errors, where all seeds reach it. Black: plain; orange: with a warmup, whose "
        "steps count; green and blue: moved once, at the start; pink: moved every k steps too. Open, dashed: from a "
        "skewed start, every neuron or filter by a random factor up to 4; what is moved is the same from both. In "
        "the linear network all that is moved coincides. A convolutional filter with a normalisation behind it has no "
        "point of least norm. The decoder, on source text and moved along all symmetries that are found in it, is in "
        "the full report only."
    ),
    "real_networks": (
        "Above, a 64–32–32–10 network on digits. Left: charges of four neurons along a run of SGD (blue), as the law "
        "has them from their start and the measured noise (dashed), and at the equilibrium on the orbit of single "
        "points (dots). Middle: mean charge of every neuron over the late half of all runs against the law at the mean "
        "noise (blue) and against the mean of equilibria (orange). Right: the same of a heavy ball, against the law "
        "that knows the momentum (blue) and the one for a mean gradient that changes slowly (pink). Below: ‖W_c‖² of "
        "filters behind a normalisation, under SGD and AdamW; of a decoder the flow of each symmetry that was found, "
        "over its two terms, along training (second layer dashed), and the share of decay in its rates κ, from the "
        "fastest to the slowest direction."
    ),
    "representations": (
        "Two-layer networks with a nonlinearity. Above: entries of the two sides of Eq. (14), after division by "
        "their traces, at the end of SGD (blue) and of GD (brown); equal matrices lie on the diagonal. Below: cosine"
        " of the traceless parts over √N η/S for different N, η and σ_x, with the value that random minima have "
        "without any noise; and on digits with leaky ReLU, diagonal (protected by a symmetry) and off-diagonal "
        "entries of M₊ and M₋."
    ),
    "scale_circle": (
        "Left: the first steps of a scale-invariant loss in the plane (dark: high loss). Middle: ‖θ‖⁴, with and "
        "without weight decay. Right: the charge of a rescaling in units of its predicted time, at three learning "
        f"rates. {COLOURS} {BANDS}"
    ),
    "sign_alignment": (
        "Rank-one network with eight neurons. Left: norm of all charges C_kl, one line for each run. Right: "
        "|Σ u_k w_k|/Σ|u_k w_k|, which is 1 where all neurons have one sign. Blue: SGD; brown: GD."
    ),
    "time_scales": (
        "Left: overlap of the charge with that of the start, at several noise scales, in units of the predicted "
        "time, with three standard errors. Right: rate of the charge (points) and of the loss (line) against the "
        "noise scale; black: κ and h by theory. Where they cross, the slow phase becomes a fast one."
    ),
    "warmup": (
        "Tr∇²L along runs of SGD with a warmup from three initialisations (blue), of SGD at the high rate at once, "
        "until it diverges (orange, crosses), and of GD (brown). Black: the value at the noise equilibrium, and above "
        f"which SGD is not stable. {BANDS}"
    ),
}

DEVIATIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "alignment": (
        ("one start, other covariances", "8 (full: 16) tasks from one start with other covariances and teachers"),
        ("sizes not known", "d = 10, d_h = 14 in the quick report; isotropic part d = 30, d_h = 40 in the full one"),
        (
            "spread of the spectra not known",
            "eigenvalues within a factor of 4, where turning axes shift Eq. (14) < 1 %",
        ),
    ),
    "alignment-digits": (("no real data", "scikit-learn's digits, S = 2, half the usual spread of the start"),),
    "approximate_symmetry": (("no experiment", "two parameters, 64 samples"),),
    "attention_charges": (
        ("no experiment", "one layer, d = 4, five tokens, 400 samples; no mask, no bias, no normalisation"),
        ("", "the flow is followed on a calmer teacher than the balance: there the SDE holds at a larger η"),
    ),
    "deep_linear": (
        (
            "widths, depths and spectra not known",
            "d = 5; two networks of three layers in the quick report, six in the full",
        ),
        ("alignment of all runs", "runs that lose rank are counted, and not compared with Theorem 5.4"),
    ),
    "initialisation": (("a claim of the abstract", "linear networks, d = 4, widths 4 and 8, the same minibatches"),),
    "pinning": (
        ("no experiment", "neurons with two or three parameters, 24 inputs, each with both labels f(x) ± σ_ε"),
    ),
    "weak_order": (("no experiment", "two parameters, 8 samples"),),
    "flat_or_sharp": (
        ("d, d_h and η not known", "d = 6, d_h = 10; η depends on φ_x, and every cell is run at η and 1.5 η"),
    ),
    "moving_target": (("no experiment", "a synthetic flow, and a teacher that grows while SGD runs"),),
    "norm_growth": (
        ("formulas of Net-A and Net-B lost", "guessed; they may have more invariances than those of the paper"),
    ),
    "equalisation": (("no experiment", "beyond the paper; after Nagel et al. (2019)"),),
    "lora": (("no experiment", "beyond the paper"),),
    "optimizers": (("no experiment", "beyond the paper"),),
    "rebalancing": (
        ("no experiment", "beyond the paper; a linear network, two on digits, and a decoder in full, S = 8"),
    ),
    "representations": (
        ("x isotropic, presumably of unit variance", "σ_x = 0.3, and 1 in the table"),
        ("one set-up for SGD and GD", "SGD on fresh samples at η = 0.01, GD on 8000 samples at 5 times the rate"),
        ("Figure 9: only the activation changes", "d_h = 10 for tanh as in Figure 6, 20 for the others"),
        ("no real data", "digits with tanh and with leaky ReLU"),
    ),
    "warmup": (
        ("also of CNNs and language models", "linear networks only"),
        ("sizes not known", "d = 40 of rank one; d = 10, d_h = 100"),
    ),
}
