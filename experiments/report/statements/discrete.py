"""What Appendix D states of discrete time."""

from experiments.report.statements._statement import Section, Statement

DISCRETE = Section(
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
)
