"""Sections 3 and 4 and Appendices B and D, on a loss with a symmetry of any spectrum.

ℓ = (θ₁θ₂ a + θ₃²θ₄ b − y)² does not change under θ → e^{λA}θ with A = diag(1, −1, ½, −1), turned to other axes so that
nothing is diagonal by luck. Inequalities are reported as the least slack, relative to what is bounded.
"""

from itertools import combinations, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne
from experiments._metrics import Metric
from noise_equilibrium.models import scale_invariant

POWERS = np.array([1.0, -1.0, 0.5, -1.0])
DECAY, LAW = 0.02, 0.05  # γ and σ²
RATE, SAMPLES, BATCH = 0.02, 7, 3
GRID = np.linspace(-2, 2, 41)  # λ


class Orbits:
    """One random instance: data, parameters, axes.

    Args:
        seed: of all of them.
    """

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.axes = np.linalg.qr(rng.normal(size=(4, 4)))[0]
        self.A = self.axes @ np.diag(POWERS) @ self.axes.T
        self.symmetry = ne.exponential_symmetry(self.A)
        self.data = jnp.asarray(rng.normal(size=(SAMPLES, 3)))
        self.problem = ne.Problem(self.loss, self.data, DECAY)
        self.params = jnp.asarray(self.axes @ (rng.choice([-1, 1], 4) * rng.uniform(0.5, 1.5, 4)))
        self.rng = rng

    def loss(self, params: Array, sample: Array) -> Array:
        """ℓ of one sample (a, b, y)."""
        p = self.axes.T @ params
        return (p[0] * p[1] * sample[0] + p[2] ** 2 * p[3] * sample[1] - sample[2]) ** 2

    def at(self, shift: Any, params: Array | None = None) -> Array:
        """θ_λ."""
        return self.symmetry.act(self.params if params is None else params, shift)

    def function(self, powers: np.ndarray) -> np.ndarray:
        """The matrix with the axes of A and these eigenvalues."""
        return self.axes @ np.diag(powers) @ self.axes.T

    def flow(self, params: Any, law: object = LAW) -> float:
        """G(θ)."""
        return float(ne.noether_flow(self.problem, params, self.symmetry, law))

    def covariance(self, params: Any) -> np.ndarray:
        """Σ(θ)."""
        return np.asarray(ne.gradient_covariance(self.problem, params))


def metrics(seed: int) -> list[Metric]:
    """All of them; call it in double precision."""
    orbit = Orbits(seed)
    return [*_symmetry(orbit), *_fixed_point(orbit), *_convergence(orbit), *_discrete(orbit)]


def _symmetry(orbit: Orbits) -> list[Metric]:
    shifts = [orbit.at(shift) for shift in (-1.0, 0.5, 1.0)]
    losses = [np.asarray(jax.vmap(orbit.loss, (None, 0))(place, orbit.data)) for place in (orbit.params, *shifts)]
    drift = np.max([np.abs(other - losses[0]) / losses[0] for other in losses[1:]])
    violation = float(ne.symmetry_violation(orbit.problem, orbit.params, orbit.symmetry))

    def after(problem: ne.Problem, steps: int) -> Array:
        return ne.simulate(problem, ne.GradientFlow(0.01), orbit.params, steps).params

    free = ne.Problem(orbit.loss, orbit.data)
    scale = float(orbit.params @ jnp.asarray(orbit.function(np.abs(POWERS))) @ orbit.params)
    kept = abs(float(orbit.symmetry.charge(after(free, 200)) - orbit.symmetry.charge(orbit.params))) / scale
    decayed = float(orbit.symmetry.charge(after(orbit.problem, 200)) / orbit.symmetry.charge(orbit.params))
    power = np.linalg.matrix_power(np.eye(4) + orbit.A / 2**26, 2**26) @ orbit.params
    limit = float(np.linalg.norm(power - orbit.at(1.0)) / np.linalg.norm(power))
    direct = -4 * DECAY * orbit.params @ orbit.A @ orbit.params + 2 * LAW * np.trace(
        orbit.covariance(orbit.params) @ orbit.A
    )
    hessian = jax.hessian(orbit.symmetry.charge)(orbit.params)
    general = LAW * np.trace(orbit.covariance(orbit.params) @ hessian) - 2 * DECAY * orbit.params @ jax.grad(
        orbit.symmetry.charge
    )(orbit.params)
    flow = orbit.flow(orbit.params)
    sigma, generator = orbit.covariance(orbit.params), orbit.A @ orbit.params
    crossing = np.linalg.norm(sigma @ generator) / (np.linalg.norm(sigma) * np.linalg.norm(generator))
    return [
        Metric("Eq. (2): relative change of ℓ(θ_λ, z), any λ and z", 0, float(drift), high=1e-11),
        Metric("Eq. (3): |⟨Aθ, ∇ℓ⟩|/(‖Aθ‖‖∇ℓ‖), worst sample", 0, violation, high=1e-12),
        Metric("Eq. (4): change of C under gradient flow, relative", 0, kept, high=1e-10),
        Metric(
            "Definition 4.2: C(t)/C(0) under gradient flow with decay over e^{−4γt}",
            1,
            decayed / float(np.exp(-4 * DECAY * 2)),
            1 - 1e-9,
            1 + 1e-9,
        ),
        Metric("Eq. (5): σ²Tr[Σ∇²C] − 2γθᵀ∇C off the flow, relative", 0, _off(general, flow), high=1e-12),
        Metric("Eq. (29): ‖ΣAθ‖/(‖Σ‖‖Aθ‖), the martingale part", 0, float(crossing), high=1e-12),
        Metric("Eq. (7): −4γθᵀAθ + 2σ²Tr[ΣA] off the flow, relative", 0, _off(direct, flow), high=1e-12),
        Metric("Eq. (8): (I + A/n)ⁿθ off e^Aθ, n = 2²⁶, relative", 0, limit, high=1e-6),
    ]


def _fixed_point(orbit: Orbits) -> list[Metric]:
    sigma, shift = orbit.covariance(orbit.params), 0.7
    moved = np.trace(orbit.covariance(orbit.at(shift)) @ orbit.A)
    through = np.trace(orbit.function(np.exp(-2 * shift * POWERS)) @ sigma @ orbit.A)
    flows = np.array([orbit.flow(orbit.at(float(shift))) for shift in GRID])
    charges = np.array([float(orbit.symmetry.charge(orbit.at(float(shift)))) for shift in GRID])

    def find(params: Array, decay: float = DECAY) -> ne.Equilibrium:
        return ne.find_equilibrium(ne.Problem(orbit.loss, orbit.data, decay), params, orbit.symmetry, LAW)

    found, other = find(orbit.params), find(orbit.at(shift))
    sides = (
        float(orbit.symmetry.charge(found.params)),
        LAW / (2 * DECAY) * np.trace(orbit.covariance(found.params) @ orbit.A),
    )
    direction, h = jnp.asarray(orbit.rng.normal(size=4)), 1e-5
    slope = jax.jvp(lambda params: find(params).element, (orbit.params,), (direction,))[1]
    finite = (find(orbit.params + h * direction).element - find(orbit.params - h * direction).element) / (2 * h)
    free = find(orbit.params, 0.0)
    noise = orbit.covariance(free.params)
    plus, minus = (np.trace(noise @ orbit.function(np.maximum(sign * POWERS, 0))) for sign in (1, -1))
    return [
        Metric("Lemma B.1: Tr[Σ(θ_λ)A] off Tr[e^{−2λA}ΣA], relative", 0, _off(through, moved), high=1e-11),
        Metric("Theorem 4.3 (1): largest rise of G along λ, over max |G|", None, _rise(flows), high=0.0),
        Metric("Theorem 4.3 (1): largest fall of C along λ, over max |C|", None, _rise(-charges), high=0.0),
        Metric(
            "Theorem 4.3 (2): flow at the equilibrium by the dense Σ, relative",
            0,
            _dense_flow(orbit, found),
            high=1e-10,
        ),
        Metric("Theorem 4.3 (3): sign changes of G on the grid", 1, int(np.sum(np.diff(np.sign(flows)) != 0)), 1, 1),
        Metric(
            "Theorem 4.3 (3): λ*(e^{sA}θ) + s off λ*(θ)",
            0,
            abs(float(other.element + shift - found.element)),
            high=1e-10,
        ),
        Metric(
            "Theorem 4.3 (4): ∂λ* off finite differences, relative", 0, _off(float(slope), float(finite)), high=1e-6
        ),
        *_monotone(orbit),
        Metric("Eq. (9): C(θ*) off σ²Tr[Σ(θ*)A]/2γ, relative", 0, _off(*sides), high=1e-9),
        Metric("Eq. (9), γ = 0: Tr[Σ(θ*)A₊] off Tr[Σ(θ*)A₋], relative", 0, _off(plus, minus), high=1e-9),
    ]


def _monotone(orbit: Orbits) -> list[Metric]:
    """|C(θ*)| over decays and noise scales, and the flow of a charge with A ≺ 0, which cannot rise."""
    decays, scales = np.geomspace(0.002, 0.2, 9), np.geomspace(0.005, 0.5, 9)

    def charge(decay: float, scale: float) -> float:
        problem = ne.Problem(orbit.loss, orbit.data, decay)
        return float(orbit.symmetry.charge(ne.find_equilibrium(problem, orbit.params, orbit.symmetry, scale).params))

    by_decay = np.abs([charge(decay, LAW) for decay in decays])
    by_noise = np.abs([charge(DECAY, scale) for scale in scales])
    both = abs(charge(DECAY, LAW) / charge(3 * DECAY, 3 * LAW) - 1)
    places = [jnp.asarray(orbit.rng.normal(size=2)) for _ in range(20)]
    down = ne.Problem(
        scale_invariant.loss, (jnp.asarray(orbit.rng.normal(size=(9, 2))), jnp.asarray(orbit.rng.normal(size=9)))
    )
    falls = [-float(ne.noether_flow(down, place, ne.scaling(), LAW)) for place in places]
    return [
        Metric(
            "Eq. (9): largest rise of |C(θ*)| from one γ to the next larger, over the largest",
            None,
            _rise(by_decay),
            high=0.0,
        ),
        Metric(
            "Eq. (9): largest fall of |C(θ*)| from one σ² to the next larger, over the largest",
            None,
            _rise(-by_noise),
            high=0.0,
        ),
        Metric("Eq. (9): C(θ*) depends on σ²/γ alone, relative", 0, both, high=1e-9),
        Metric(
            "Eq. (5), ∇²C ≺ 0: largest dC/dt of C = −‖θ‖² of a scale-invariant loss",
            None,
            float(np.max(falls)),
            high=0.0,
        ),
    ]


def _dense_flow(orbit: Orbits, found: ne.Equilibrium) -> float:
    """|G| at θ* over the sum of its parts, with Σ as a matrix and no part of the library that found θ*."""
    there = np.asarray(found.params)
    slopes = np.asarray(jax.vmap(jax.grad(orbit.loss), (None, 0))(found.params, orbit.data))
    sigma = np.cov(slopes.T, bias=True)
    parts = -4 * DECAY * there @ orbit.A @ there, 2 * LAW * np.trace(sigma @ orbit.A)
    return float(abs(sum(parts)) / sum(map(abs, parts)))


def _convergence(orbit: Orbits) -> list[Metric]:
    """Lemmas B.2 to B.4 from many places on the orbit, on both sides of θ*; where λ* < 0, A and −A change places."""
    found = ne.find_equilibrium(orbit.problem, orbit.params, orbit.symmetry, LAW)
    slack: dict[str, list[float]] = {"B.2": [], "B.3": [], "B.4": []}
    for shift in np.concatenate([np.linspace(-1.5, -0.05, 20), np.linspace(0.05, 1.5, 20)]):
        sign = np.sign(shift)
        here, there = (np.asarray(p) for p in (orbit.at(-float(shift), found.params), found.params))
        sigma, sigma_there = orbit.covariance(here), orbit.covariance(there)
        A = sign * orbit.A
        plus, minus = (orbit.function(np.maximum(sign * part * POWERS, 0) ** 2) for part in (1, -1))
        noise = np.trace(sigma_there @ plus) + np.trace(sigma @ minus)
        weight = there @ plus @ there + here @ minus @ here
        gap, force = there @ A @ there - here @ A @ here, sign * orbit.flow(here)
        length = 2 * abs(shift)
        slack["B.2"].append((np.trace((sigma - sigma_there) @ A) - length * noise) / (length * noise))
        slack["B.3"] += [(length * weight - gap) / (length * weight), gap]
        bound = (4 * DECAY + 2 * LAW * noise / weight) * gap
        slack["B.4"].append((force - bound) / bound)
    says = {
        "B.2": "Tr[ΣA] − Tr[Σ*A] ≥ 2λ*(Tr[Σ*A₊²] + Tr[ΣA₋²])",
        "B.3": "0 ≤ C* − C ≤ 2λ*(θ*ᵀA₊²θ* + θᵀA₋²θ)",
        "B.4": "|G| ≥ c₀|C − C*|",
    }
    return [
        Metric(f"Lemma {name}: least slack of {says[name]}", None, float(np.min(slack[name])), low=0) for name in slack
    ]


def _discrete(orbit: Orbits) -> list[Metric]:
    sgd = ne.SGD(RATE, BATCH, replacement=False)
    seen = ne.simulate(
        orbit.problem, sgd, orbit.params, 200, key=jax.random.key(0), observe={"place": lambda params: params}
    ).observed["place"]
    without = jnp.array(list(combinations(range(SAMPLES), BATCH)))
    drawn = jnp.array(list(product(range(SAMPLES), repeat=BATCH)))
    whole = jnp.arange(SAMPLES)[None]

    def charge(params: Array) -> np.ndarray:
        return np.asarray(params @ jnp.asarray(orbit.A) @ params)

    def step(params: Array, batch: Array) -> Array:
        slope = jax.grad(lambda p: jnp.mean(jax.vmap(orbit.loss, (None, 0))(p, orbit.data[batch])))(params)
        return params - RATE * (slope + 2 * DECAY * params)

    def expected(params: Array, batches: Array) -> float:
        """The mean over these minibatches, which are all there are."""
        return float(np.mean(charges(jax.vmap(step, (None, 0))(params, batches))) - charge(params))

    def charges(params: Array) -> np.ndarray:
        return np.einsum("na,ab,nb->n", params, orbit.A, params)

    # ĝ is read off the step that was made: θ' = θ − η(ĝ + 2γθ).
    slopes = (seen[:-1] * (1 - 2 * RATE * DECAY) - seen[1:]) / RATE
    law = np.array(
        [(1 - 2 * RATE * DECAY) ** 2 * charge(p) + RATE**2 * charge(g) for p, g in zip(seen, slopes, strict=False)]
    )
    after = np.array([charge(p) for p in seen[1:]])
    size = np.array([float(p @ p) for p in seen[1:]])
    laws = ((sgd, without), (ne.SGD(RATE, BATCH), drawn), (ne.GD(RATE), whole))
    steps, remains = [], []
    for dynamics, batches in laws:
        step_here = expected(orbit.params, batches)
        formula = ne.expected_charge_step(orbit.problem, orbit.params, orbit.symmetry, dynamics)
        there = ne.find_equilibrium(orbit.problem, orbit.params, orbit.symmetry, dynamics).params
        steps.append(_off(float(formula), step_here))
        remains.append(abs(expected(there, batches) / step_here))
    flows = np.array([orbit.flow(orbit.at(float(shift)), sgd) for shift in GRID])
    return [
        Metric(
            "Appendix D: C(θ') off (1 − 2ηγ)²C + η²ĝᵀAĝ over ‖θ‖², worst of 200 steps",
            0,
            float(np.max(np.abs(after - law) / size)),
            high=1e-13,
        ),
        Metric(
            "Appendix D: expected step off the mean over all minibatches, three samplings, relative",
            0,
            float(np.max(steps)),
            high=1e-9,
        ),
        Metric("Theorem D.1: largest rise of G_d along λ, over max |G_d|", None, _rise(flows), high=0.0),
        Metric(
            "Theorem D.1: mean step over all minibatches at θ*, over that at θ, worst of three samplings",
            0,
            float(np.max(remains)),
            high=1e-9,
        ),
    ]


def _off(a: float, b: float) -> float:
    return float(abs(a - b) / abs(b))


def _rise(values: np.ndarray) -> float:
    return float(np.max(np.diff(values)) / np.max(np.abs(values)))
