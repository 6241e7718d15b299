"""Neurons whose rescaling is broken: by GELU, by tanh, by the ε of a normalisation, by a bias left out.

Along a broken orbit the noise pulls at the charge with κ_noise, and the loss holds it with κ_loss: their ratio Π says
who wins (`ne.pinning`), and the least entropic loss on the orbit where SGD rests (`ne.rest_on_orbit`), if all else
stays. What else can give way, does, and lets SGD go further: it rests where the entropic loss is least over all
parameters. All of them are asked at the minimum, before any training. Every network has the teacher for its minimum,
as each x has the labels f(x) ± σ_ε. Charges are told by their place: 0 at the minimum of the loss, 1 at the
equilibrium of the noise.

    bias    The rescaling of u and w alone leaves out the bias of the neuron, which scales with w: the loss pins the
            candidate, but not the symmetry that it is a part of. SGD rests at the equilibrium of that one, for every η.
    ε       f = v·h/√(‖h‖² + ε), h = w x: the scale of w is a symmetry for ε = 0, and noise drives it outwards without
            end. Its charge w² is told by how far it is above that of the minimum, relative to that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array
from matplotlib.figure import Figure
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, extrapolated, standard_error
from noise_equilibrium import plots

Params = dict[str, Array]
SAMPLES, NOISE = 24, 1.0  # inputs, each with two labels; σ_ε
RECORDS = 100


class Case(NamedTuple):
    """A network with a symmetry that does not hold.

    Attributes:
        name: for tables.
        predict: f(params, x).
        teacher: the parameters at which the labels are made; they are the minimum.
        inputs: rows of x from standard normal numbers.
        rates: η of SGD, the largest first; less where an input lies far out, see `rates_of`.
        color: in the figure.
        symmetry: the candidate.
    """

    name: str
    predict: Callable[[Params, Array], Array]
    teacher: dict[str, Any]
    inputs: Callable[[np.ndarray], np.ndarray]
    rates: tuple[float, float]
    color: str
    symmetry: ne.Symmetry


def _gelu(params: Params, x: Array) -> Array:
    return params["u"] * jax.nn.gelu(params["w"] * x)


def _tanh(params: Params, x: Array) -> Array:
    return params["u"] * jnp.tanh(params["w"] * x)


def _normalised(params: Params, x: Array) -> Array:
    """A readout of h/√(‖h‖² + ε), h = w x ∈ R², with ε = 0.3."""
    hidden = params["w"] * x
    return jnp.vdot(params["v"], hidden) / jnp.sqrt(jnp.sum(hidden**2) + 0.3)


def _biased(params: Params, x: Array) -> Array:
    """A linear unit with a bias, which a rescaling of u and w leaves out."""
    return params["u"] * (params["w"] * x + params["b"])


RESCALING = ne.rescaling(lambda params: params["u"], lambda params: params["w"])
WHOLE = ne.rescaling(lambda params: params["u"], [lambda params: params["w"], lambda params: params["b"]])
CASES = (
    Case("GELU", _gelu, {"u": 0.6, "w": 1.5}, lambda z: 1.5 * z[:, 0], (0.02, 0.01), "#0072B2", RESCALING),
    Case("tanh", _tanh, {"u": 1.6, "w": 0.6}, lambda z: 0.6 * z[:, 0], (0.02, 0.01), "#009E73", RESCALING),
    Case(
        "normalisation with ε",
        _normalised,
        {"v": np.array([1.0, 0.5]), "w": 0.5},
        lambda z: z[:, :2],
        (0.02, 0.01),
        "#CC79A7",
        ne.scaling(lambda params: params["w"]),
    ),
    Case(
        "bias left out", _biased, {"u": 0.6, "w": 1.4, "b": 0.3}, lambda z: z[:, 0], (0.02, 0.01), "#E69F00", RESCALING
    ),
)


@dataclass(frozen=True)
class Preset:
    """The size of the study.

    Attributes:
        chains: independent runs for each network and η.
        least: η × steps of each run is at least this; the second half is averaged over.
    """

    chains: int = 256
    least: float = 1200.0


FULL = Preset()
QUICK = Preset(chains=48, least=400.0)
# Of each run: at half of them e⁻⁶ of the way is left, and a mean over what follows lags by a sixth of that.
RELAXATIONS = 12
# ηh of a single sample. At 2 its steps diverge; nearer to that the mean of many runs is far from what is expanded in η.
STEEPEST = 1.2


class Loss(eqx.Module):
    """(f(x) − y)²."""

    predict: Callable[[Params, Array], Array] = eqx.field(static=True)

    def __call__(self, params: Params, sample: tuple[Array, Array]) -> Array:
        """The loss of one sample."""
        return (self.predict(params, sample[0]) - sample[1]) ** 2


def run(*, quick: bool, seed: int) -> tuple[list[Metric], dict[str, np.ndarray], Figure]:
    """The metrics, the arrays behind the figure, and the figure."""
    preset = QUICK if quick else FULL
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    arrays: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        for place, case in enumerate(tqdm(CASES, disable=None)):
            problem, minimum = task(case, rng)
            rates = rates_of(case, problem, minimum)
            arrays[f"{case.name}_rates"] = np.array(rates)
            for number, rate in enumerate(rates):
                found = at_rate(case, problem, minimum, rate, jax.random.fold_in(key, 10 * place + number), preset)
                arrays |= {f"{case.name}_{number}_{what}": np.asarray(value) for what, value in found.items()}
            curve = [predicted(case, problem, minimum, rate) for rate in np.geomspace(rates[1], rates[0], 4)]
            for what in ("number", "orbit", "all"):
                arrays[f"{case.name}_curve_{what}"] = np.array([float(of[what]) for of in curve])
    return _metrics(arrays), arrays, draw(arrays)


def task(case: Case, rng: np.random.Generator) -> tuple[ne.Problem, Params]:
    """The problem, of which the teacher is the minimum, and the teacher."""
    x = jnp.asarray(case.inputs(rng.normal(size=(SAMPLES, 2))))
    teacher = {name: jnp.asarray(value, jnp.float64) for name, value in case.teacher.items()}
    clean = jax.vmap(case.predict, (None, 0))(teacher, x)
    data = jnp.concatenate([x, x]), jnp.concatenate([clean + NOISE, clean - NOISE])
    return ne.Problem(Loss(case.predict), data), teacher


def rates_of(case: Case, problem: ne.Problem, minimum: Params) -> list[float]:
    """The rates of a case, or as many times less as the steepest sample is too steep for a step of the largest."""
    flat, unflatten = ne.flatten(minimum)
    curvature = jax.vmap(jax.hessian(lambda flat, z: problem.loss(unflatten(flat), z)), (None, 0))(flat, problem.data)
    steepest = float(jnp.max(jnp.linalg.eigvalsh(curvature)))
    return [rate * min(1.0, STEEPEST / (case.rates[0] * steepest)) for rate in case.rates]


def predicted(case: Case, problem: ne.Problem, minimum: Params, rate: float) -> dict[str, Any]:
    """Π, κ, the places of the least entropic loss on the orbit and of all parameters, `unit` and `zero` of a place."""
    law, charge = ne.SGD(rate, 1), case.symmetry.charge
    pins = ne.pinning(problem, minimum, case.symmetry, law)
    rest = ne.rest_on_orbit(problem, minimum, case.symmetry, law).params
    zero = charge(minimum)
    noise = minimum if "v" in minimum else ne.find_equilibrium(problem, minimum, case.symmetry, law).params
    unit = charge(noise) - (0 if "v" in minimum else zero)  # a scale of its own has no equilibrium of the noise
    traced = jnp.asarray(rate, jnp.float64)  # for one program of all rates
    least = mean_charge(problem, least_entropic(problem, rest, traced), traced, case.symmetry)
    places = {"orbit": (charge(rest) - zero) / unit, "all": (least - zero) / unit}
    if "b" in minimum:
        whole = ne.find_equilibrium(problem, minimum, WHOLE, law).params
        places["whole"] = (charge(whole) - zero) / unit
    return {"number": pins.number, "kappa": pins.noise + pins.loss, "zero": zero, "unit": unit, **places}


@eqx.filter_jit
def least_entropic(problem: ne.Problem, start: Params, rate: Array) -> Params:
    """The least entropic loss near a point."""
    flat, unflatten = ne.flatten(start)

    def objective(flat: Array, _: Any) -> Array:
        return ne.entropic_loss(problem, unflatten(flat), ne.SGD(rate, 1))

    solver = optx.BFGS(rtol=1e-9, atol=1e-9)
    return unflatten(optx.minimise(objective, solver, flat, max_steps=2000, throw=False).value)


@eqx.filter_jit
def mean_charge(problem: ne.Problem, centre: Params, rate: Array, symmetry: ne.Symmetry) -> Array:
    """C at the least entropic loss F, and what SGD spreads around it: Tr[A Cov], HCov + CovH = 2σ²Σ, H = ∇²F."""
    flat, unflatten = ne.flatten(centre)
    law = ne.SGD(rate, 1)
    hessian = jax.hessian(lambda flat: ne.entropic_loss(problem, unflatten(flat), law))(flat)
    generator = jax.hessian(lambda flat: symmetry.charge(unflatten(flat)))(flat) / 2
    eye, sigma = jnp.eye(len(flat)), ne.gradient_covariance(problem, centre)
    spread = jnp.linalg.solve(jnp.kron(hessian, eye) + jnp.kron(eye, hessian), 2 * law.noise_scale * sigma.ravel())
    return symmetry.charge(centre) + jnp.vdot(generator.ravel(), spread)


def at_rate(
    case: Case, problem: ne.Problem, minimum: Params, rate: float, key: Array, preset: Preset
) -> dict[str, Any]:
    """What is predicted at one η, and the place of the mean charge of every run of SGD from the minimum."""
    says = predicted(case, problem, minimum, rate)
    time = max(preset.least, RELAXATIONS / float(says["kappa"]))
    steps = RECORDS * round(time / rate / RECORDS)

    @jax.jit
    @jax.vmap
    def one(key: Array) -> Array:
        watch = {"charge": ne.running(case.symmetry.charge, 0.5, 10)}
        return ne.simulate(problem, ne.SGD(rate, 1), minimum, steps, key=key, observe=watch).observed["charge"].mean

    charges = one(jax.random.split(key, preset.chains))
    return {**says, "measured": (charges - says["zero"]) / says["unit"]}


def _metrics(arrays: dict[str, np.ndarray]) -> list[Metric]:
    metrics = []
    for case in CASES:
        beyond: dict[str, list[np.ndarray]] = {"all": [], "whole": []}
        rates = arrays[f"{case.name}_rates"]
        for number, rate in enumerate(rates):
            get = {what: arrays[f"{case.name}_{number}_{what}"] for what in ("number", "orbit", "all", "measured")}
            title, runs = f"{case.name}, η = {rate:.3g}:", get["measured"]
            metrics.append(Metric(f"{title} pinning number Π", None, float(get["number"])))
            for what, words in (("orbit", "on the orbit"), ("all", "of all")):
                name = f"{title} place of SGD, against the least entropic loss {words}"
                metrics.append(
                    Metric(name, float(get[what]), float(runs.mean()), error=standard_error(runs)),
                )
            for what, found in beyond.items():
                found.append(runs - arrays.get(f"{case.name}_{number}_{what}", np.nan))
        # The entropic loss is the first order in η of what moves the mean, and the spread that of a Gaussian: what is
        # left at one rate is of the next order, ηh with h ≈ 5 of these losses, and (ηh)²/2 of their limit.
        left = (5 * rates[0]) ** 2 / 2
        words = {"all": "the least entropic loss of all", "whole": "the symmetry with the bias"}
        metrics += [
            extrapolated(f"{case.name}, η → 0: place of SGD less that of {words[what]}", 0, *found, bias=left)
            for what, found in beyond.items()
            if what == "all" or "b" in case.teacher
        ]
    return metrics


def draw(arrays: dict[str, np.ndarray]) -> Figure:
    """The place of SGD against the pinning number, with its prediction."""
    with plots.figure(6.4, 3.8, columns=1) as (drawing, (whole,)):
        axes = whole.subplots()
        for case in CASES:
            for what, line in (("orbit", (0, (1, 1))), ("all", "-")):
                curve = [arrays[f"{case.name}_curve_{name}"] for name in ("number", what)]
                axes.plot(*curve, color=case.color, lw=1, ls=line)
            for number in range(len(case.rates)):
                get = {what: arrays[f"{case.name}_{number}_{what}"] for what in ("number", "measured")}
                error, label = 3 * standard_error(get["measured"]), case.name if number == 0 else None
                where = float(get["number"])
                axes.errorbar(where, get["measured"].mean(), error, fmt="o", color=case.color, ms=5, label=label)
        axes.plot([], [], color="black", lw=1, ls=(0, (1, 1)), label="least entropic loss on the orbit")
        axes.plot([], [], color="black", lw=1, label="least entropic loss of all")
        for height in (0, 1):
            axes.axhline(height, color="0.7", lw=0.8)
        axes.set(xscale="log", xlabel="pinning number $\\Pi$ at the minimum", ylabel="place: 0 loss … 1 noise")
        axes.set_title("SGD between the minimum of the loss and the balance of the noise")
        axes.legend(fontsize=7, loc="upper left", ncols=2)
    return drawing
