"""ℓ₀ = (u w x − y)² and ℓ₁ = ½‖θ − (1.6, 0.4)‖²: rescaling (u, w) is a symmetry of ℓ₀ alone.

At a stationary state the drift of C = θᵀAθ = u² − w² by ℓ₁ balances that by the noise,

    ζ E[θᵀA∇ℓ₁] = σ² E Tr[ΣA]   (SDE, Eq. 20),        2ζ E[θᵀA∇ℓ₁] = η E[ĝᵀAĝ]   (SGD, exactly),

the second by theory, "Approximate symmetry".
"""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._extrapolate import weights
from experiments._metrics import Metric, standard_error, within, worst_of
from experiments.approximate_symmetry import scaled
from noise_equilibrium import plots

RECORDS = 2000
TARGET = np.array([1.6, 0.4])
A = np.array([1.0, -1.0])  # the diagonal of the generator
SYMMETRY = ne.rescaling(lambda theta: theta[0], lambda theta: theta[1])
Theta = tuple[Array, Array]


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        rates: the learning rates η, at batch size 1.
        zetas: ζ > 0, ascending.
        samples: N.
        chains: independent runs for each ζ and η.
        time: η × steps of each run; the second half is averaged over.
    """

    rates: tuple[float, ...] = (0.02, 0.005)
    zetas: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    samples: int = 64
    chains: int = 256
    time: float = 1500.0


FULL = Preset()
QUICK = Preset(zetas=(0.01, 0.1, 1.0), chains=256, time=600.0)


class Loss(eqx.Module):
    """ℓ₀ + ζ ℓ₁; ζ is a number of the computation."""

    zeta: Any

    def __call__(self, theta: Theta, sample: tuple[Array, Array]) -> Float[Array, ""]:
        """The loss of one sample."""
        return (theta[0] * theta[1] * sample[0] - sample[1]) ** 2 + self.zeta * breaking(jnp.stack(theta))


def breaking(theta: Float[Array, " 2"]) -> Float[Array, ""]:
    """ℓ₁."""
    return jnp.sum((theta - jnp.asarray(TARGET, theta.dtype)) ** 2) / 2


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    keys = jax.random.split(jax.random.key(seed), 3)
    with jax.enable_x64(True):
        draws = ne.data.LinearTeacher(np.eye(1), np.eye(1), 0.25 * np.eye(1)).moment_matched(keys[0], preset.samples)
        data = jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf[:, 0], jnp.float64), draws)
        theory = {rate: [predictions(data, zeta, rate) for zeta in preset.zetas] for rate in preset.rates}
        dense = np.geomspace(preset.zetas[0] / 3, preset.zetas[-1] * 3, 60)
        curve = [[predictions(data, zeta, rate) for zeta in dense] for rate in preset.rates]
        measured = {}
        cells = [(rate, place) for rate in preset.rates for place in range(len(preset.zetas))]
        for rate, place in tqdm(cells):
            start = theory[rate][place]["theta"]
            key = jax.random.fold_in(keys[1], place)
            measured[rate, place] = settle(data, preset, preset.zetas[place], rate, start, key)
        arrays = {"zeta": np.array(preset.zetas), "zeta_dense": dense, "rate": np.array(preset.rates)}
        for name in ("charge", "small", "large"):
            arrays[f"theory_{name}"] = np.array([[float(point[name]) for point in row] for row in curve])
        for name in next(iter(measured.values())):
            arrays[name] = np.array(
                [[measured[rate, place][name] for place in range(len(preset.zetas))] for rate in preset.rates]
            )
        arrays |= scaled.run(preset.chains, keys[2])
    return _metrics(preset, theory, arrays), arrays, draw(arrays)


@eqx.filter_jit
def predictions(data: tuple[Array, Array], zeta: Any, rate: Any) -> dict[str, Array]:
    """Where SGD at batch size 1 settles, in theory: the fixed point of Eq. (20), and its two limits.

    Returns:
        theta and charge: the point without drift, on which the risk is stationary across the orbit and Eq. (20) holds.
        small: the charge to first order in ζ from the equilibrium of ℓ₀.
        large: the mean charge to first order in σ² from the minimum of the whole, corrected Eqs. (21)–(23).
        missing: what the printed (21) leaves out, ζTr[AH₁Cov], over its right side.
        bottom: θ*, the minimum of the whole; slope: HAθ* over the right side of (21).
    """
    noise_scale, generator = rate / 2, jnp.asarray(A)
    whole = ne.Problem(Loss(zeta), data)

    def risk(theta: Array) -> Array:
        return whole.risk((theta[0], theta[1]))

    def spread(theta: Array) -> Array:
        return ne.gradient_covariance(whole, (theta[0], theta[1]))

    slope_of_line = jnp.sum(data[0] * data[1]) / jnp.sum(data[0] ** 2)

    def on_valley(element: Array) -> Array:
        """The point at e^{λA} of the balanced one, on the valley where the risk is stationary across the orbit."""
        turned = jnp.exp(element * generator)

        def across(product: Array, _: Any) -> Array:
            theta = jnp.sqrt(product) * turned
            return jnp.vdot(theta[::-1], jax.grad(risk)(theta))  # (w, u) is orthogonal to Aθ

        return jnp.sqrt(_bisect(across, 1e-3, 4.0, flip=False)) * turned

    def drift(element: Array, _: Any) -> Array:
        """Eq. (20): what is left of the drift of the charge."""
        theta = on_valley(element)
        push = noise_scale * jnp.sum(generator * jnp.diag(spread(theta)))
        return push - zeta * jnp.vdot(theta * generator, jax.grad(breaking)(theta))

    target = jnp.asarray(TARGET)
    point = on_valley(_bisect(drift, -1.0, 2.0, flip=True))
    solver = optx.Newton(rtol=1e-12, atol=1e-12)
    bottom = optx.root_find(
        lambda theta, _: jax.grad(risk)(theta), solver, 1.2 * target, max_steps=200, throw=False
    ).value
    # The limit ζ → 0: the equilibrium of ℓ₀ and the slope of λ* in ζ.
    plain = ne.Problem(Loss(0.0), data)
    balanced = jnp.sqrt(slope_of_line) * jnp.ones(2)
    squares = jnp.sum(jnp.diag(ne.gradient_covariance(plain, (balanced[0], balanced[1]))))
    shift = -zeta * jnp.vdot(balanced * generator, jax.grad(breaking)(balanced)) / (2 * noise_scale * squares)
    small = jnp.sum(generator * balanced**2 * jnp.exp(2 * shift * generator))
    # The limit of small σ²: Gaussian fluctuations and their mean shift.
    hessian, third = jax.hessian(risk)(bottom), jax.jacfwd(jax.hessian(risk))(bottom)
    sigma = spread(bottom)
    eye = jnp.eye(2)
    covariance = jnp.linalg.solve(
        jnp.kron(hessian, eye) + jnp.kron(eye, hessian), 2 * noise_scale * sigma.ravel()
    ).reshape(2, 2)
    mean = jnp.linalg.solve(hessian, -0.5 * jnp.einsum("ijk,jk->i", third, covariance))
    large = jnp.sum(generator * bottom**2) + 2 * jnp.sum(generator * bottom * mean)
    large += jnp.sum(generator * jnp.diag(covariance))
    missing = zeta * jnp.sum(generator * jnp.diag(covariance))
    push = noise_scale * jnp.sum(generator * jnp.diag(sigma))
    return {
        "theta": point,
        "charge": jnp.sum(generator * point**2),
        "small": small,
        "large": large,
        "missing": missing / push,
        "bottom": bottom,
        "slope": hessian @ (generator * bottom) / push,
    }


def _bisect(function: Any, low: float, high: float, *, flip: bool) -> Array:
    solver, options = optx.Bisection(rtol=1e-13, atol=1e-13, flip=flip), {"lower": low, "upper": high}
    start = jnp.asarray((low + high) / 2)
    return optx.root_find(function, solver, start, options=options, max_steps=60, throw=False).value


def settle(data: Any, preset: Preset, zeta: float, rate: float, start: Array, key: Array) -> dict[str, float]:
    """Time and ensemble averages of SGD, and the standard error of the mean charge over chains.

    The pull of ℓ₁ is averaged over every step. It is cheap, has to be known to a fraction of a percent of a small mean,
    and at large ζ forgets its value much faster than the records follow; the noise is smooth and averaged over records.
    """
    steps = RECORDS * round(preset.time / rate / RECORDS)
    averages = _averages(data, zeta, rate, start, jax.random.split(key, preset.chains), steps)
    averages = {name: np.asarray(value) for name, value in averages.items()}
    return {
        "charge": averages["charge"].mean(),
        "charge_error": standard_error(averages["charge"]),
        **_balance("discrete", rate * averages["step"], 2 * zeta * averages["pull"]),
        **_balance("sde", rate / 2 * averages["noise"], zeta * averages["pull"]),
        **{f"place_{name}": averages["place"][:, row].mean() for row, name in enumerate("uw")},
        **{f"place_error_{name}": standard_error(averages["place"][:, row]) for row, name in enumerate("uw")},
    }


def _balance(name: str, noise: np.ndarray, pull: np.ndarray) -> dict[str, float]:
    """The ratio of two means that are equal in theory, and its error: that of their difference, chain by chain."""
    return {name: noise.mean() / pull.mean(), f"{name}_error": standard_error(noise - pull) / abs(pull.mean())}


@eqx.filter_jit
def _averages(data: Any, zeta: Any, rate: Any, start: Array, keys: Array, steps: int) -> dict[str, Array]:
    problem = ne.Problem(Loss(zeta), data)
    generator = jnp.asarray(A)

    def along(theta: Theta) -> dict[str, Array]:
        point = jnp.stack(theta)
        turned = generator * point
        pull = jnp.vdot(turned, jax.grad(breaking)(point))
        return {"charge": jnp.vdot(turned, point), "pull": pull, "place": point}

    def noise(theta: Theta) -> dict[str, Array]:
        moments = ne.noise_moments(problem, theta, SYMMETRY)
        noise = moments.noise_plus - moments.noise_minus
        return {"noise": noise, "step": noise + moments.mean_plus - moments.mean_minus}

    observe = {"along": ne.running(along, 0.5), "noise": ne.running(noise, 0.5, steps // RECORDS)}

    def one(key: Array) -> dict[str, Array]:
        seen = ne.simulate(problem, ne.SGD(rate, 1), (start[0], start[1]), steps, key=key, observe=observe, every=steps)
        return {**seen.observed["along"].mean, **seen.observed["noise"].mean}

    return jax.vmap(one)(keys)


def _metrics(preset: Preset, theory: dict[float, list[Any]], arrays: dict[str, np.ndarray]) -> list[Metric]:
    """Of every cell, the one that is nearest to failing; and the limit η → 0 of each ζ from both learning rates."""
    metrics = []
    zetas, rates = list(preset.zetas), preset.rates
    predicted = np.array([[float(point["charge"]) for point in theory[rate]] for rate in rates])
    inside = [place for place, zeta in enumerate(zetas) if zeta >= 0.03]
    for row, rate in enumerate(rates):
        name = f"η = {rate:g}: "
        curvature = 5.5  # 2(u² + w²)E[x²] at the minimum of ℓ₁; what (20) leaves out is of order η times it

        def cells(label: str, what: str, bias: float, row: int = row) -> Metric:
            pairs = zip(arrays[what][row], arrays[f"{what}_error"][row], strict=True)
            return worst_of([within(label, 1, value, error, bias=bias) for value, error in pairs])

        metrics += [
            cells(name + "exact discrete condition, worst ζ", "discrete", 0),
            cells(name + "Eq. (20) of the SDE, worst ζ", "sde", curvature * rate),
        ]
        charge, error = arrays["charge"][row], arrays["charge_error"][row]
        rises = np.diff(predicted[row])  # not everywhere upwards: at large ζ the charge comes down by O(σ²)
        label = name + "rise of the mean charge from one ζ to the next, worst pair"
        steps = zip(rises, np.diff(charge), np.hypot(error[1:], error[:-1]), strict=True)
        metrics.append(
            worst_of([within(label, rise, step, off, bias=2 * curvature * rate) for rise, step, off in steps])
        )
    both = weights(rates[0] / rates[-1])
    second = 2 * (5.5 * rates[0]) ** 2  # what is of order η²: of (ηh)² at the larger of both, with room for its factor

    def limit(label: str, places: list[int], values: np.ndarray, errors: np.ndarray, target: np.ndarray) -> Metric:
        """The one that is nearest to failing of these ζ."""
        return worst_of(
            [
                within(
                    label,
                    float(target[place]),
                    float(both @ values[[0, -1], place]),
                    float(np.linalg.norm(both * errors[[0, -1], place])),
                    bias=second * abs(float(target[place])),
                )
                for place in places
            ]
        )

    ones, everywhere = np.ones(len(zetas)), list(range(len(zetas)))
    relative = arrays["charge"] / predicted, arrays["charge_error"] / predicted
    pulls, errors, corrected = _displacements(theory, arrays, rates)
    return [
        *metrics,
        limit("η → 0: Eq. (20), worst ζ", everywhere, arrays["sde"], arrays["sde_error"], ones),
        limit("η → 0: mean charge over that of Eq. (20), worst ζ ≥ 0.03", inside, *relative, ones),
        limit("η → 0: displacement over the printed (21), largest ζ", [len(zetas) - 1], pulls, errors, corrected),
        *scaled.metrics(arrays),
    ]


def _displacements(
    theory: dict[float, list[Any]], arrays: dict[str, np.ndarray], rates: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """θ*ᵀAH E[θ − θ*]/σ²Tr[ΣA] as SGD has it, with its error, and what the corrected (21) says of it, for every ζ."""
    values, errors = [], []
    for row, rate in enumerate(rates):
        slopes = np.stack([np.asarray(point["slope"]) for point in theory[rate]])  # HAθ*/σ²Tr[ΣA]
        bottoms = np.stack([np.asarray(point["bottom"]) for point in theory[rate]])
        places, spreads = (
            np.stack([arrays[f"{what}_{name}"][row] for name in "uw"], axis=1) for what in ("place", "place_error")
        )
        values.append(np.sum(slopes * (places - bottoms), axis=1))
        errors.append(np.linalg.norm(slopes * spreads, axis=1))
    corrected = np.array([1 - float(point["missing"]) for point in theory[rates[-1]]])
    return np.array(values), np.array(errors), corrected


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """The mean charge against ζ, and the two balances."""
    zeta, dense = arrays["zeta"], arrays["zeta_dense"]
    series = [plots.Series("", "#4B9FD1", marker="s"), plots.SGD]
    with plots.figure(8, 3.4, columns=2) as (drawing, (left, right)):
        axes = left.subplots()
        for row, rate in enumerate(arrays["rate"]):
            error, label = 3 * arrays["charge_error"][row], f"SGD, $\\eta$ = {rate:g}"
            axes.errorbar(
                zeta, arrays["charge"][row], error, fmt=series[row].marker, color=series[row].color, ms=5, label=label
            )
            near, far = arrays["theory_small"][row] < 1.5, arrays["theory_large"][row] > 0.9
            for name, inside, style, label in (
                ("charge", slice(None), "-", "Eq. (20)"),
                ("small", near, ":", "first order in $\\zeta$"),
                ("large", far, (0, (5, 2)), "corrected (23), small $\\sigma^2$"),
            ):
                line = arrays[f"theory_{name}"][row][inside]
                axes.plot(dense[inside], line, color="black", lw=0.9, ls=style, label=label if row == 0 else None)
        axes.axhline(float(TARGET[0] ** 2 - TARGET[1] ** 2), color="0.6", lw=0.7)
        axes.text(dense[0], 2.43, "minimum of $\\ell_1$", fontsize=8, color="0.4", va="bottom")
        axes.set(xscale="log", xlabel="$\\zeta$", ylabel="mean charge $E[u^2 - w^2]$", title="between two equilibria")
        axes.set_ylim(0, 2.7)
        axes.legend(loc="lower right")

        axes = right.subplots()
        for row, rate in enumerate(arrays["rate"]):
            axes.errorbar(
                zeta,
                arrays["discrete"][row],
                3 * arrays["discrete_error"][row],
                fmt=series[row].marker,
                color=series[row].color,
                ms=4,
                label=f"exact, $\\eta$ = {rate:g}",
            )
            axes.plot(
                zeta,
                arrays["sde"][row],
                ("^", "v")[row],
                color=series[row].color,
                ms=5,
                mfc="none",
                label=f"Eq. (20), $\\eta$ = {rate:g}",
            )
        plots.theory(axes, np.array([zeta[0], zeta[-1]]), np.ones(2))
        axes.set(xscale="log", xlabel="$\\zeta$", ylabel="drift by noise / drift by $\\ell_1$", title="stationarity")
        axes.legend(loc="best")
    return drawing
