"""Charges in time: isotropic data, where the charge matrix decays to zero at the rate 4η²dσ_ε²/S per step."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from tqdm import tqdm

import noise_equilibrium as ne
from experiments._metrics import Metric, extrapolated, of_runs
from experiments._runs import independent_runs
from experiments.alignment._network import (
    Params,
    alignment_sides,
    double,
    first,
    invariant_grams,
    loss,
    product_change,
    relative_distance,
    relative_motion,
    symmetry,
)

RECORDS = 200


@dataclass(frozen=True)
class Preset:
    """The size of the study; d inputs and outputs, V = I, unit noise.

    Attributes:
        d: d_x = d_y.
        hidden: d_h.
        batch: S.
        rate: η.
        steps: SGD steps.
        seeds: independent runs.
        population: samples that stand for the population in the SDE; ten times as many stand for it in the moments.
        sde_seeds: independent runs of the SDE.
    """

    d: int = 30
    hidden: int = 40
    batch: int = 10
    rate: float = 0.01
    steps: int = 20_000
    seeds: int = 8
    population: int = 2_000
    sde_seeds: int = 2

    @property
    def decay(self) -> float:
        """The rate per step that theory gives the charge, 4η²dσ_ε²/S with σ_ε = 1 (theory, "Finite step sizes")."""
        return 4 * self.rate**2 * self.d / self.batch


FULL = Preset()
QUICK = Preset(d=10, hidden=14, batch=8, population=500)


@dataclass(frozen=True)
class Runs:
    """What the figure needs: stacked trajectories."""

    preset: Preset
    sgd: ne.Trajectory
    sde: ne.Trajectory
    gd: ne.Trajectory


def run(preset: Preset, key: Array, bar: tqdm) -> tuple[list[Metric], Runs]:
    """Simulate, measure, and compare with the exact rate and the closed-form equilibrium."""
    teacher = ne.data.LinearTeacher(np.eye(preset.d), np.eye(preset.d), np.eye(preset.d))
    population = ne.Problem(loss, ne.Stream(teacher))
    keys = jax.random.split(key, 6)
    exact = teacher.moment_matched(keys[5], 2 * preset.d)
    initial = jax.vmap(lambda key: ne.models.two_layer_linear.init(key, preset.d, preset.hidden, preset.d))(
        jax.random.split(keys[0], preset.seeds)
    )
    noise_keys = jax.random.split(keys[1], preset.seeds)
    # Moment-matched samples have the population's risk, so gradient descent on them is that on the population.
    observe = {"charge": symmetry.charge, "risk": ne.Problem(loss, exact).risk, "grams": invariant_grams}
    runs = functools.partial(independent_runs, observe=observe, records=RECORDS)

    bar.set_description("SGD")
    sgd = runs(population, ne.SGD(preset.rate, preset.batch), initial, noise_keys, preset.steps)
    bar.update()
    bar.set_description("SGD, half the learning rate")
    # The relaxation is followed for the same rate × steps as far as the fit below needs it.
    half = runs(population, ne.SGD(preset.rate / 2, preset.batch), initial, noise_keys, 2 * preset.steps)
    bar.update()
    bar.set_description("GD")
    gd = runs(ne.Problem(loss, exact), ne.GD(preset.rate), initial, noise_keys, preset.steps)
    bar.update()
    bar.set_description("SDE")
    sampled = teacher.moment_matched(keys[2], preset.population)
    sde = runs(
        ne.Problem(loss, sampled),
        ne.SDE(preset.rate, preset.batch),
        jax.tree_util.tree_map(lambda leaf: leaf[: preset.sde_seeds], initial),
        jax.random.split(keys[3], preset.sde_seeds),
        preset.steps,
    )
    bar.update()
    bar.set_description("equilibria")
    metrics = [*_alignment(preset, initial, sgd, gd), *_decay(preset, sgd, half, sde)]
    metrics.append(_sde_balance(ne.Problem(loss, sampled), sde))
    metrics += _equilibria(preset, teacher, keys[4], initial, sgd, gd)
    bar.update()
    return metrics, Runs(preset, sgd, sde, gd)


def overlap(charges: Array) -> np.ndarray:
    """⟨Q(t), Q(0)⟩/‖Q(0)‖², whose noise floor lies far below that of ‖Q‖; charges are (runs, rows, d, d)."""
    q = np.asarray(charges, np.float64)
    return np.einsum("srij,sij->sr", q, q[:, 0]) / np.sum(q[:, 0] ** 2, axis=(1, 2))[:, None]


def _alignment(preset: Preset, initial: Params, sgd: ne.Trajectory, gd: ne.Trajectory) -> list[Metric]:
    identity = np.eye(preset.d)
    start = relative_distance(*alignment_sides(initial, identity, identity))
    sides = {name: alignment_sides(run.params, identity, identity) for name, run in (("sgd", sgd), ("gd", gd))}
    residual = {name: relative_distance(*pair) for name, pair in sides.items()}
    a, b = (side.ravel() for side in sides["sgd"])
    charge = np.linalg.norm(np.asarray(gd.observed["charge"]), axis=(2, 3))
    return [
        Metric("isotropic, SGD: residual of Eq. (14), worst seed", 0, residual["sgd"].max(), high=0.06),
        Metric("isotropic, SGD: slope of UᵀU/d against WWᵀ/d", 1, np.polyfit(a, b, 1)[0], 0.97, 1.03),
        Metric("isotropic, SGD: correlation of UᵀU and WWᵀ", 1, np.corrcoef(a, b)[0, 1], low=0.98),
        Metric("isotropic, GD: residual of Eq. (14), least seed", start.mean(), residual["gd"].min(), low=0.30),
        Metric("isotropic, GD: share of ‖Q‖ kept, least seed", 1, (charge[:, -1] / charge[:, 0]).min(), low=0.97),
    ]


def _decay(preset: Preset, sgd: ne.Trajectory, half: ne.Trajectory, sde: ne.Trajectory) -> list[Metric]:
    whole, half_rate = measured_decays(sgd) / preset.decay, measured_decays(half) / (preset.decay / 4)
    # Runs of the SDE start from the same points as the first runs of SGD.
    gap = np.abs(overlap(sde.observed["charge"]) - overlap(sgd.observed["charge"])[: preset.sde_seeds]).max()
    excess = 4 * (1 + (preset.d + 1) / preset.batch)  # what SGD spreads around the minimum, h = 4, adds to the noise
    return [
        of_runs("isotropic, SGD: decay rate of Q against 4η²dσ²/S", 1, whole, bias=excess * preset.rate),
        of_runs("isotropic, η/2: the same", 1, half_rate, bias=excess * preset.rate / 2),
        extrapolated("isotropic, η → 0: the same", 1, whole, half_rate, bias=0.01),
        Metric("isotropic, SDE − SGD: largest gap of the charge curves", 0, gap, high=0.05),
    ]


def _sde_balance(problem: ne.Problem, sde: ne.Trajectory) -> Metric:
    """The SDE balances the noise of its own samples, whose equilibrium is not exactly that of the population."""
    moments = jax.vmap(lambda params: ne.noise_moments(problem, params, symmetry))(sde.params)
    imbalance = relative_distance(np.asarray(moments.noise_plus), np.asarray(moments.noise_minus))
    return Metric("isotropic, SDE: imbalance of the noise M₊ − M₋, worst seed", 0, imbalance.max(), high=0.06)


def measured_decays(run: ne.Trajectory) -> np.ndarray:
    """The decay rate per step of the overlap of every run, by least squares while the mean is between 0.8 and 0.08."""
    curves, step = overlap(run.observed["charge"]), np.asarray(run.step[0], np.float64)
    inside = (curves.mean(axis=0) < 0.8) & (curves.mean(axis=0) > 0.08)
    return np.array([-np.polyfit(step[inside], np.log(np.maximum(curve[inside], 1e-3)), 1)[0] for curve in curves])


def _equilibria(
    preset: Preset, teacher: ne.data.LinearTeacher, key: Array, initial: Params, sgd: ne.Trajectory, gd: ne.Trajectory
) -> list[Metric]:
    """`find_equilibrium` from three places, in double precision, on samples that stand for the population."""
    population = jax.tree_util.tree_map(np.asarray, teacher.moment_matched(key, 10 * preset.population))
    settled = np.asarray(sgd.observed["grams"], np.float64)[:, RECORDS // 2 :]
    mean = settled.mean(axis=(0, 1))
    fluctuation = np.sqrt(np.sum((settled - mean) ** 2, axis=(2, 3, 4)).mean())
    with jax.enable_x64(True):
        problem = ne.Problem(loss, jax.tree_util.tree_map(lambda leaf: jnp.asarray(leaf, jnp.float64), population))
        starts = {
            name: double(first(params)) for name, params in (("init", initial), ("sgd", sgd.params), ("gd", gd.params))
        }
        law = ne.SDE(preset.rate, preset.batch)
        found = {name: ne.find_equilibrium(problem, start, symmetry, law) for name, start in starts.items()}
        motion = relative_motion(starts["sgd"], found["sgd"].params)
        landing = np.asarray(invariant_grams(found["gd"].params))
        before = np.asarray(invariant_grams(starts["gd"]))
        moments = [ne.noise_moments(problem, there.params, symmetry) for there in found.values()]
        residual = max(
            float(relative_distance(np.asarray(of.noise_plus), np.asarray(of.noise_minus))) for of in moments
        )
        change = max(product_change(starts[name], found[name].params) for name in starts)
    distance, unmoved = (float(np.linalg.norm(grams - mean)) / fluctuation for grams in (landing, before))
    return [
        Metric("isotropic, find_equilibrium: imbalance of the noise, worst of three starts", 0, residual, high=1e-9),
        Metric("isotropic, find_equilibrium: change of UW, worst of three starts", 0, change, high=1e-12),
        Metric("isotropic, find_equilibrium: relative motion of SGD's end point", 0, motion, high=0.06),
        Metric("isotropic, from GD's end point to SGD's mean Grams, in fluctuations", 0, distance, high=1),
        Metric("isotropic, GD's end point itself, in fluctuations", None, unmoved, low=2),
    ]
