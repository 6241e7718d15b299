"""Section 5 and Appendices A and E: matrix symmetries, and the closed forms of linear networks.

All on data sets whose gradient noise is exactly that of the population, so that closed forms of the population hold to
rounding (`LinearTeacher.noise_matched`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

import noise_equilibrium as ne
from experiments._metrics import Metric
from noise_equilibrium.models import (
    attention,
    deep_linear,
    deep_relu,
    normalized,
    rank_one,
    scale_invariant,
    two_layer_linear,
)

LAW, DECAY = 0.01, 0.02  # σ² and γ
D_IN, D_OUT, HIDDEN, DEEP = 3, 4, 5, (4, 5)


def metrics(seed: int) -> list[Metric]:
    """All of them; call it in double precision."""
    rng = np.random.default_rng(seed)
    return [*_symmetries(rng), *_two_layer(rng), *_sharpness(rng), *_deep(rng)]


def _covariance(rng: np.random.Generator, d: int, trace: float | None = None) -> np.ndarray:
    vectors, _ = np.linalg.qr(rng.normal(size=(d, d)))
    values = np.exp(rng.uniform(np.log(0.5), np.log(2.0), d))
    return (vectors * (values if trace is None else trace * values / values.sum())) @ vectors.T


def _double(tree: Any) -> Any:
    return jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def _symmetries(rng: np.random.Generator) -> list[Metric]:
    """That the models have the symmetries that stand next to them, for every sample."""
    keys = list(jax.random.split(jax.random.key(int(rng.integers(2**31))), 8))
    x, y = jnp.asarray(rng.normal(size=(20, D_IN))), jnp.asarray(rng.normal(size=(20, D_OUT)))
    tokens = jnp.asarray(rng.normal(size=(10, 5, D_IN))), jnp.asarray(rng.normal(size=(10, 5, D_OUT)))
    net_a, net_b, heads = normalized.net_a, normalized.net_b, attention.Network(2)
    two, relu = (
        two_layer_linear.init(keys[0], D_IN, HIDDEN, D_OUT),
        deep_relu.init(keys[1], D_IN, DEEP, D_OUT, bias=0.5),
    )
    cases = {
        "Eq. (10), U → UP, W → P⁻¹W": (two_layer_linear.loss, (x, y), two, [two_layer_linear.symmetry]),
        "deep linear network": (
            deep_linear.loss,
            (x, y),
            deep_linear.init(keys[2], D_IN, DEEP, D_OUT),
            deep_linear.symmetries(3),
        ),
        "deep ReLU network": (deep_relu.relu.loss, (x, y), relu, deep_relu.symmetries(3)),
        "Net-A, Appendix A.1": (net_a.loss, (x, y), two, net_a.symmetries),
        "Net-B, Appendix A.1": (net_b.loss, (x, y), two, net_b.symmetries),
        "rank one": (
            rank_one.loss,
            (x[:, 0], y[:, 0]),
            rank_one.Params(jax.random.normal(keys[4], (3,)), jax.random.normal(keys[5], (3,))),
            [rank_one.symmetry],
        ),
        "scale-invariant": (
            scale_invariant.loss,
            (x, y[:, 0]),
            jax.random.normal(keys[6], (D_IN,)),
            [scale_invariant.symmetry],
        ),
        "attention, two heads": (
            heads.loss,
            tokens,
            attention.init(keys[3], D_IN, 2, D_OUT, 2),
            [heads.query_key, heads.value_output],
        ),
    }
    found = []
    for name, (loss, data, params, symmetries) in cases.items():
        problem, params = ne.Problem(loss, data), _double(params)
        worst = np.max([ne.symmetry_violation(problem, params, symmetry) for symmetry in symmetries])
        found.append(Metric(f"{name}: largest violation of Eq. (3)", 0, float(worst), high=1e-12))
    problem, params = ne.Problem(net_a.loss, (x, y)), _double(two)
    P = rng.normal(size=(HIDDEN, HIDDEN)) + 2 * np.eye(HIDDEN)
    moved = two_layer_linear.Params(_double(two).up @ P, np.linalg.solve(P, _double(two).down))
    losses = [np.asarray(jax.vmap(two_layer_linear.loss, (None, 0))(at, (x, y))) for at in (_double(two), moved)]
    found.append(Metric("Eq. (10): change of ℓ under a random P, relative", 0, _off(losses[1], losses[0]), high=1e-11))
    flow = float(ne.noether_flow(problem, params, ne.scaling(), LAW))
    trace = 2 * LAW * float(np.trace(ne.gradient_covariance(problem, params)))
    return [*found, Metric("Eq. (24): d‖θ‖²/dt of Net-A off 2σ²TrΣ, relative", 0, abs(flow / trace - 1), high=1e-12)]


def _two_layer(rng: np.random.Generator) -> list[Metric]:
    V, cov_x, cov_noise = rng.normal(size=(D_OUT, D_IN)), _covariance(rng, D_IN), _covariance(rng, D_OUT)
    data = ne.data.LinearTeacher(V, cov_x, cov_noise).noise_matched()
    problem, symmetry = ne.Problem(two_layer_linear.loss, data), two_layer_linear.symmetry
    decaying = ne.Problem(two_layer_linear.loss, data, DECAY)
    params = two_layer_linear.Params(
        jnp.asarray(rng.normal(size=(D_OUT, HIDDEN))), jnp.asarray(rng.normal(size=(HIDDEN, D_IN)))
    )
    flow = np.asarray(ne.noether_flow(decaying, params, symmetry, LAW))
    by_vectors = _flow_by_vectors(problem, params) - 4 * DECAY * (params.up.T @ params.up - params.down @ params.down.T)
    after = ne.simulate(problem, ne.GradientFlow(0.002), params, 300).params
    start, end = (np.asarray(symmetry.charge(place)) for place in (params, after))

    # Eq. (13): Γ of the current product, away from the minimum, with the term of the mean gradient.
    moments = ne.exact.residual_moments(params.up @ params.down, V, cov_x, cov_noise)
    gamma_down, gamma_up = (side + DECAY / (2 * LAW) * np.eye(len(side)) for side in (moments.down, moments.up))
    found = ne.find_equilibrium(decaying, params, symmetry, LAW)
    sides = [
        np.asarray(found.params.down @ gamma_down @ found.params.down.T),
        np.asarray(found.params.up.T @ gamma_up @ found.params.up),
    ]

    cross = (np.asarray(params.up @ params.down) - V) @ cov_x  # K, which vanishes at the minimum only
    printed = [
        np.asarray(found.params.down @ (gamma_down + cross.T @ cross) @ found.params.down.T),
        np.asarray(found.params.up.T @ (gamma_up + cross @ cross.T) @ found.params.up),
    ]

    up, down = ne.exact.two_layer_equilibrium(V, cov_x, cov_noise, HIDDEN)
    share_x, share_noise = cov_x / np.trace(cov_x), cov_noise / np.trace(cov_noise)
    aligned = [np.asarray(down @ share_x @ down.T), np.asarray(up.T @ share_noise @ up)]
    there = two_layer_linear.Params(up, down)
    residual = _relative_flow(problem, there, symmetry)

    single = rank_one.Params(jnp.asarray(rng.normal(size=HIDDEN)), jnp.asarray(rng.normal(size=HIDDEN)))
    pairs = jnp.asarray(rng.normal(size=(30, 2)))
    one = ne.Problem(rank_one.loss, (pairs[:, 0], pairs[:, 1]))
    factors = np.asarray(jax.vmap(rank_one.factor, (None, 0))(single, (pairs[:, 0], pairs[:, 1])))
    decay = np.asarray(ne.noether_flow(one, single, rank_one.symmetry, LAW))
    charge = np.asarray(rank_one.symmetry.charge(single))
    return [
        Metric(
            "Proposition 5.1: sums over rows and columns off the matrix flow, relative",
            0,
            _off(by_vectors, flow),
            high=1e-11,
        ),
        Metric("Eq. (11): change of UᵀU − WWᵀ under gradient flow, relative", 0, _off(end, start), high=1e-10),
        Metric(
            "Section 5.1: dC_kl/dt off −2σ²Var(a)C_kl, relative",
            0,
            _off(-2 * LAW * factors.var() * charge, decay),
            high=1e-11,
        ),
        Metric("Eq. (13): W Γ_W Wᵀ off Uᵀ Γ_U U at the equilibrium, relative", 0, _off(*sides), high=1e-8),
        Metric("Eq. (13) as printed, without KᵀK: the same", None, _off(*printed), low=1e-3),
        Metric("Theorem 5.2: relative flow at the closed form", 0, residual, high=1e-10),
        Metric("Theorem 5.2: its UW off V, relative", 0, _off(np.asarray(up @ down), V), high=1e-10),
        Metric("Eq. (14): W Σ̄_x Wᵀ off Uᵀ Σ̄_ε U, relative", 0, _off(*aligned), high=1e-10),
    ]


def _flow_by_vectors(problem: ne.Problem, params: two_layer_linear.Params) -> np.ndarray:
    """2σ²(Σ_i Σ(ũ_i) − Σ_j Σ(w̃_j)) from the covariance of every row of U and every column of W, without decay."""
    sigma, size = np.asarray(ne.gradient_covariance(problem, params)), params.up.size
    up = sigma[:size, :size].reshape(D_OUT, HIDDEN, D_OUT, HIDDEN)
    down = sigma[size:, size:].reshape(HIDDEN, D_IN, HIDDEN, D_IN)
    return 2 * LAW * (np.einsum("iaib->ab", up) - np.einsum("ajbj->ab", down))


def _sharpness(rng: np.random.Generator) -> list[Metric]:
    V, cov_x, cov_noise = rng.normal(size=(D_OUT, D_IN)), _covariance(rng, D_IN), _covariance(rng, D_OUT)
    up, down = jnp.asarray(rng.normal(size=(D_OUT, HIDDEN))), jnp.asarray(rng.normal(size=(HIDDEN, D_IN)))
    problem = ne.Problem(two_layer_linear.loss, ne.data.LinearTeacher(V, cov_x, cov_noise).noise_matched())

    def trace(params: two_layer_linear.Params) -> float:
        vector, unflatten = ne.flatten(params)
        return float(jnp.trace(jax.hessian(lambda flat: problem.risk(unflatten(flat)))(vector)))

    formula = float(ne.exact.hessian_trace(up, down, cov_x))
    there = ne.exact.two_layer_equilibrium(V, cov_x, np.eye(D_OUT), HIDDEN)
    isotropic = float(ne.exact.hessian_trace(*there, cov_x))
    flattest = float(ne.exact.flattest_hessian_trace(V, cov_x))
    gauges = [np.eye(HIDDEN) + 0.3 * rng.normal(size=(HIDDEN, HIDDEN)) for _ in range(50)]
    others = [float(ne.exact.hessian_trace(there[0] @ P, np.linalg.solve(P, there[1]), cov_x)) for P in gauges]
    d, width = 6, 9
    code = float(ne.exact.equilibrium_hessian_trace(np.eye(d), np.eye(d), 0.5 * np.eye(d), width))
    xavier = float(ne.exact.initial_hessian_trace(np.eye(d), width, d, 1 / (d + width), 1 / (d + width)))
    kaiming = float(ne.exact.initial_hessian_trace(np.eye(d), width, d, 1 / width, 1 / d))
    square = float(ne.exact.initial_hessian_trace(np.eye(d), d, d, 1 / d, 1 / d))
    draws = [
        float(ne.exact.hessian_trace(up / width**0.5, down / d**0.5, np.eye(d)))
        for up, down in zip(rng.normal(size=(200, d, width)), rng.normal(size=(200, width, d)), strict=True)
    ]
    sampled = (np.mean(draws) - kaiming) / (np.std(draws) / len(draws) ** 0.5)
    narrow, noise = 4, 0.5
    fourth = (d - narrow + d * noise**2) / (d * noise**2)
    bottle = float(ne.exact.equilibrium_hessian_trace(np.eye(d), np.eye(d), noise**2 * np.eye(d), narrow))
    expected = 2 * d * narrow * (fourth**0.5 + fourth**-0.5)
    return [
        Metric(
            "Proposition 5.3: the formula off jax.hessian, relative",
            0,
            abs(formula / trace(two_layer_linear.Params(up, down)) - 1),
            high=1e-11,
        ),
        _ratio(
            "Section 5.2: Tr∇²L at equilibrium over that of the flattest minimum, isotropic noise",
            1,
            isotropic / flattest,
        ),
        Metric(
            "Section 5.2: least Tr∇²L of 50 other minima of its orbit, over it",
            None,
            float(np.min(others) / isotropic),
            low=1,
        ),
        Metric("Eq. (15): Tr∇²L at equilibrium over 4d², d_h ≥ d", 1, code / (4 * d**2), 1 - 1e-10, 1 + 1e-10),
        _ratio("Eq. (15): Tr∇²L of variance 1/(d + d_h) over that at equilibrium", width / (d + width), xavier / code),
        _ratio("Eq. (15): Tr∇²L of variance 1/fan-in over that at equilibrium", (d + width) / (2 * d), kaiming / code),
        _ratio("Eq. (15), d_h = d: Tr∇²L of variance 1/fan-in equals that at equilibrium", 1, square / (4 * d**2)),
        Metric("Eq. (15): mean over 200 initialisations off the formula, in standard errors", 0, float(sampled), -4, 4),
        Metric("Eq. (15), d_h < d: over 2dd_h(a² + a⁻²)", 1, bottle / expected, 1 - 1e-9, 1 + 1e-9),
    ]


def _deep(rng: np.random.Generator) -> list[Metric]:
    d = 3
    V, cov_x, cov_noise = rng.normal(size=(d, d)), _covariance(rng, d), _covariance(rng, d)
    symmetries = deep_linear.symmetries(len(DEEP) + 1)

    def flow(weights: list[Array], cov_x: np.ndarray, cov_noise: np.ndarray) -> float:
        problem = ne.Problem(deep_linear.loss, ne.data.LinearTeacher(V, cov_x, cov_noise).noise_matched())
        return float(np.max([_relative_flow(problem, weights, symmetry) for symmetry in symmetries]))

    weights = ne.exact.deep_linear_equilibrium(V, cov_x, cov_noise, DEEP)
    middle = np.linalg.svd(np.asarray(weights[1]), compute_uv=False)[:d]
    norms = [
        np.trace(weights[0] @ cov_x @ weights[0].T) / np.trace(cov_x),
        np.sum(np.asarray(weights[1]) ** 2) / d,
        np.trace(weights[2].T @ cov_noise @ weights[2]) / np.trace(cov_noise),
    ]
    same = _covariance(rng, d, trace=d), _covariance(rng, d, trace=d)
    other = _covariance(rng, d, trace=4 * d), _covariance(rng, d, trace=d)
    printed = {traces: flow(_printed(V, *covs), *covs) for traces, covs in (("d", same), ("other", other))}
    data = ne.data.LinearTeacher(V, cov_x, cov_noise).noise_matched()
    return [
        Metric(
            "Theorem 5.4: relative flow of all pairs at the closed form", 0, flow(weights, cov_x, cov_noise), high=1e-10
        ),
        Metric(
            "Eq. (16): loss at the closed form over Tr Σ_ε",
            1,
            float(ne.Problem(deep_linear.loss, data).risk(weights) / np.trace(cov_noise)),
            1 - 1e-10,
            1 + 1e-10,
        ),
        Metric(
            "Eq. (18): spread of the singular values of W_2, relative",
            0,
            float(np.ptp(middle) / middle.mean()),
            high=1e-10,
        ),
        Metric(
            "Eq. (19): spread of the balanced norms of all layers, relative",
            0,
            float(np.ptp(norms) / np.mean(norms)),
            high=1e-10,
        ),
        Metric("Theorem 5.4 as printed, TrΣ_x = TrΣ_ε = d: relative flow", 0, printed["d"], high=1e-10),
        Metric("Theorem 5.4 as printed, TrΣ_x = 4d: relative flow", None, printed["other"], low=0.05),
        Metric(
            "Theorem E.1: E‖δ‖²hhᵀ off E‖h‖²δδᵀ at the closed form, relative",
            0,
            _raw_residual(data, weights),
            high=1e-10,
        ),
    ]


def _printed(V: np.ndarray, cov_x: np.ndarray, cov_noise: np.ndarray) -> list[Array]:
    """Theorem 5.4 as the paper prints it, for three layers and V of full rank d."""
    d = len(V)
    root_x, root_noise = (_root(cov) for cov in (cov_x, cov_noise))
    left, values, right = np.linalg.svd(root_noise @ V @ root_x)
    outer = np.diag((d / values.sum()) ** (1 / 6) * np.sqrt(values))
    inner = (values.sum() / d) ** (1 / 3) * np.eye(d)
    first, middle = np.zeros((DEEP[0], d)), np.zeros((DEEP[1], DEEP[0]))
    last = np.zeros((d, DEEP[1]))
    first[:d], middle[:d, :d] = outer @ right @ np.linalg.inv(root_x), inner
    last[:, :d] = np.linalg.inv(root_noise) @ left @ outer
    return [jnp.asarray(layer) for layer in (first, middle, last)]


def _raw_residual(data: tuple[Array, Array], weights: list[Array]) -> float:
    """The two sides of Theorem E.1 for every pair, from the samples."""
    x, y = (np.asarray(part) for part in data)
    layers = [np.asarray(layer) for layer in weights]
    states = [x]
    for layer in layers:
        states.append(states[-1] @ layer.T)
    errors = [states[-1] - y]  # δ of the last layer, then backwards
    for layer in layers[:0:-1]:
        errors.insert(0, errors[0] @ layer)
    errors_of_pairs = []
    for place in range(1, len(layers)):
        after, before = errors[place], errors[place - 1]
        left = np.einsum("n,na,nb->ab", np.sum(after**2, axis=1), states[place], states[place])
        right = np.einsum("n,na,nb->ab", np.sum(states[place - 1] ** 2, axis=1), before, before)
        errors_of_pairs.append(_off(left, right))
    return float(np.max(errors_of_pairs))


def _ratio(name: str, predicted: float, measured: float) -> Metric:
    """A number that is predicted to rounding."""
    return Metric(name, predicted, measured, predicted - 1e-10, predicted + 1e-10)


def _relative_flow(problem: ne.Problem, params: object, symmetry: ne.Symmetry) -> float:
    """‖M₊ − M₋‖/(‖M₊‖ + ‖M₋‖), without weight decay."""
    moments = ne.noise_moments(problem, params, symmetry)
    plus, minus = (np.asarray(side) for side in (moments.noise_plus, moments.noise_minus))
    return float(np.linalg.norm(plus - minus) / (np.linalg.norm(plus) + np.linalg.norm(minus)))


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def _off(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / np.linalg.norm(np.asarray(b)))
