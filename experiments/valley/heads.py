"""How the heads of a trained decoder turn: Ω of every query–key and value–output block, at a minimum with decay.

The scores of a head know its queries and keys only through QᵀK, and the stream its values only through OV: both factors
of a block may be turned together. No gradient has a part along that turn. Still SGD turns them, as a falling cat turns
without an angular momentum: the spread of SGD across the valley circulates, Cov H − H Cov ≠ 0, and every round leaves
a piece of a turn. To first order in σ² the turn is steady, Ω from {Ω, N} = −2K (theory, "Where SGD settles").

What is assumed, and what it takes for a decoder to be where the theory is:

- *A minimum.* The softmax loss of text has none: it falls for ever. With decay L_γ has one, where ∇L = −2γθ ≠ 0. So the
  decay is put into the loss, of which the point is then a minimum to rounding (`valley_motion` says how far it is), and
  the drift is exact in γ, where `settle` would be right to first order only. Of the group GL(d) of a block decay leaves
  the rotations: least ‖θ‖² on the orbit is Q = 0. There B = 0 and N = 2Q₊, and no freedom is left in Ω.
- *A finite one.* Were the normalisations exact, the scale of the whole stream would not be seen, and decay would shrink
  it to nothing: what they divide by is the mean square plus 1. They have no gains. With gains, which are all but equal,
  turns of the stream are all but symmetries, with curvatures of 10⁻⁶ of the largest, which cannot be told from none.
- *Third derivatives.* ReLU has none, and kinks in their place: the layer is attention alone.
- *Nothing else flat.* Without gains the stream may turn too, and values may turn from head to head where decay has left
  none of them queries and keys: the valley is made of the turns of all blocks, of the stream and of such values, and as
  many curvatures vanish. Angles come from all of them at once, by least squares.
- *Small steps.* Ω is the speed at this point, to first order in σ² and for curvatures that are large beside η; the
  softest relax within some 10⁵ steps. The runs that measure it are shorter. They start in the stationary state of the
  linearised process, in which every angle moves by Ω·2σ²t in the mean at every t: exactly so as η → 0 at a fixed ηn.

Heads of two dimensions have one angle each. A block that decay has made of rank one has none: it is the same when
turned with its mirror image, and Ω = 0.
"""

import itertools
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.optimize import minimize

import noise_equilibrium as ne
from experiments._networks import Sizes, decoder_loss, decoder_start, source_windows
from experiments._runs import independent_runs

HEADS, SIZES = 2, Sizes(width=8, inside=4, neurons=0, length=8, words=12)
WINDOWS, DECAY = 64, 3e-3
GAINS = "gain", "gain1", "gain2"
NAMED = {"layers": [{name: name for name in "qkvo"}]}  # to ask a leg for the name of its parameter
RATE, TIME, RECORDS = 0.01, 40.0, 8  # the larger learning rate, ηn of a run, and its records
ROWS = 16  # of the Hessian at once
FLAT = 1e-6  # of the largest curvature; decay alone has 2γ, a hundred times as much
LEAST = 1e-6  # of the longest turn Rθ: what is shorter is none, as that of a block or an axis that decay has emptied
ENOUGH, ROUNDING, MOST_STEPS = 1e-12, 1e-14, 20  # of Newton's method: ‖∇L‖, and what is no rise of L

Turn = Callable[[Any], Any]

loss = partial(decoder_loss, heads=HEADS, floor=1.0)


class Trained(NamedTuple):
    """A decoder at a minimum of its loss with decay, and its blocks.

    Attributes:
        problem: as SGD sees it.
        held: with the decay in the loss.
        params: the minimum.
        hessian: of the loss with decay.
        names: of the blocks.
        turns: params ↦ Rθ for the quarter turn R of every block.
    """

    problem: ne.Problem
    held: ne.Problem
    params: Any
    hessian: np.ndarray
    names: list[str]
    turns: list[Turn]


def few_words(windows: Array, words: int) -> Array:
    """The commonest bytes as words of their own, and all others as one."""
    counts = np.bincount(np.asarray(windows).ravel())
    table = np.full(len(counts), words - 1)
    table[np.argsort(-counts, kind="stable")[: words - 1]] = np.arange(words - 1)
    return jnp.asarray(table[np.asarray(windows)])


def trained(seed: int) -> Trained:
    """A decoder of one layer on text, trained to the last digit."""
    data = few_words(source_windows(WINDOWS, seed)[:, : SIZES.length + 1], SIZES.words)
    start = without_gains(decoder_start(jax.random.key(seed), 1, SIZES))
    start = jax.tree_util.tree_map(lambda leaf: leaf.astype(jnp.float64), start)
    problem = ne.Problem(loss, data, DECAY)
    held = ne.Problem(lambda params, z: loss(params, z) + DECAY * jnp.sum(ne.flatten(params)[0] ** 2), data)
    names, turns = heads_of(ne.find_symmetries(ne.Problem(loss, data), start), start)
    theta, unflatten = ne.flatten(start)
    theta, hessian = minimum(lambda q: held.risk(unflatten(q)), theta)
    return Trained(problem, held, unflatten(theta), hessian, names, turns)


def without_gains(params: dict[str, Any]) -> dict[str, Any]:
    """The same decoder; its normalisations do not know any axis of the stream from others."""
    layers = [{name: leaf for name, leaf in layer.items() if name not in GAINS} for layer in params["layers"]]
    return {**{name: leaf for name, leaf in params.items() if name not in GAINS}, "layers": layers}


def heads_of(found: Any, params: Any) -> tuple[list[str], list[Turn]]:
    """Names of the blocks of every symmetry of matrices, and their quarter turns Rθ, linear in the parameters."""
    names, turns = [], []
    for one in found:
        if one.algebra != "symmetric":
            continue
        what = "query–key" if one.legs[0].where(NAMED) in ("q", "k") else "value–output"
        for head in range(len(one.charge(params))):
            names.append(f"head {head + 1}, {what}")
            turns.append(partial(turned_block, one.legs, head))
    return names, turns


def turned_block(legs: Any, head: int, params: Any) -> Any:
    """Rθ: U R and Wᵀ R, R a quarter of a turn, for the factors of one block of the legs; 0 elsewhere."""

    def factors(params: Any) -> list[Array]:
        rows = [jnp.moveaxis(leg.where(params), leg.axis, -1) for leg in legs]
        return [part.reshape(len(part), leg.blocks, -1)[:, head] for part, leg in zip(rows, legs, strict=True)]

    parts, back = jax.vjp(factors, params)
    return back([jnp.stack([-part[:, 1], part[:, 0]], axis=1) for part in parts])[0]


def turned_stream(plane: Array, params: Any) -> Any:
    """The same for the stream, turned by an antisymmetric matrix."""
    (layer,) = params["layers"]
    inside = {name: leaf @ plane for name, leaf in layer.items() if name != "o"} | {"o": -plane @ layer["o"]}
    return {name: leaf @ plane for name, leaf in params.items() if name != "layers"} | {"layers": [inside]}


def turned_values(plane: Array, params: Any) -> Any:
    """The same for the values of all heads, side by side."""
    (layer,), still = params["layers"], jax.tree_util.tree_map(jnp.zeros_like, params)
    return still | {"layers": [still["layers"][0] | {"v": plane @ layer["v"], "o": -layer["o"] @ plane}]}


def planes_of_values(params: Any) -> list[np.ndarray]:
    """The planes of two axes of values, of different heads without queries and keys.

    Such heads attend to all alike: together they are one head, whose values may be turned by any rotation.
    """
    (layer,) = params["layers"]
    per_head = {name: np.asarray(layer[name]).reshape(HEADS, -1) for name in "qkv"}
    size = {name: np.linalg.norm(leaf, axis=1) for name, leaf in per_head.items()}
    empty = np.flatnonzero(size["q"] * size["k"] < LEAST * np.max(size["v"]) ** 2)
    each = SIZES.inside // HEADS
    axes = [range(head * each, (head + 1) * each) for head in empty]
    pairs = [pair for one, other in itertools.combinations(axes, 2) for pair in itertools.product(one, other)]
    return planes(SIZES.inside, pairs)


def planes(size: int, pairs: Iterable[tuple[int, int]]) -> list[np.ndarray]:
    """Antisymmetric matrices: a quarter of a turn from one axis to another."""
    found = []
    for i, j in pairs:
        plane = np.zeros((size, size))
        plane[i, j], plane[j, i] = 1, -1
        found.append(plane)
    return found


def minimum(risk: Any, theta: Array) -> tuple[Array, np.ndarray]:
    """A minimum of a function, by L-BFGS and Newton's steps, and the Hessian there."""
    slope_of = jax.grad(risk)

    def curvatures(q: Array) -> Array:
        def row(unit: Array) -> Array:
            return jax.jvp(slope_of, (q,), (unit,))[1]

        return jax.lax.map(row, jnp.eye(len(q)), batch_size=ROWS)

    both, curve = jax.jit(jax.value_and_grad(risk)), jax.jit(curvatures)

    def of(q: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = both(jnp.asarray(q))
        return float(value), np.asarray(slope)

    options = {"maxiter": 8000, "maxfun": 16000, "gtol": 1e-8, "ftol": 0.0, "maxcor": 30}
    theta = jnp.asarray(minimize(of, np.asarray(theta), jac=True, method="L-BFGS-B", options=options).x)
    damping, hessian = 1e-7, np.asarray(curve(theta))
    for _ in range(MOST_STEPS):
        value, slope = both(theta)
        if np.linalg.norm(slope) < ENOUGH:
            break
        values, vectors = np.linalg.eigh(hessian)
        ahead = theta - vectors @ ((vectors.T @ slope) / (np.abs(values) + damping))
        if both(ahead)[0] <= value + ROUNDING:
            theta, hessian = ahead, np.asarray(curve(ahead))
        else:
            damping *= 100
    return theta, (hessian + hessian.T) / 2


class Turning(NamedTuple):
    """Predicted turns, per unit of 2σ²t.

    Attributes:
        omega: of every block, from Tr[R Cov H], without third derivatives.
        directions: how many all turns span.
        flat: how many curvatures vanish.
        softest: the least other curvature.
        steepest: the largest.
        root: of Cov.
        alive: which blocks have something to turn.
        fields: Rθ of all turns, those of the blocks first.
        inverse: of the fields: the angles of a motion.
    """

    omega: np.ndarray
    directions: int
    flat: int
    softest: float
    steepest: float
    root: np.ndarray
    alive: np.ndarray
    fields: np.ndarray
    inverse: np.ndarray


def predict(one: Trained) -> Turning:
    """Ω of every block from the circulation: ⟨Rθ, v⟩ = 2σ² Tr[R Cov H] for all turns R at once."""
    theta, unflatten = ne.flatten(one.params)
    stream = planes(SIZES.width, itertools.combinations(range(SIZES.width), 2))
    turns = [
        *one.turns,
        *(partial(turned_stream, jnp.asarray(plane)) for plane in stream),
        *(partial(turned_values, jnp.asarray(plane)) for plane in planes_of_values(one.params)),
    ]

    @jax.jit
    def turned(points: Array) -> Array:
        """Rθ of all turns, (turns, points, parameters)."""
        return jnp.stack([jax.vmap(lambda q, turn=turn: ne.flatten(turn(unflatten(q)))[0])(points) for turn in turns])

    fields = np.asarray(turned(theta[None]))[:, 0]
    inverse = np.linalg.pinv(fields.T, rtol=LEAST)
    values, vectors = np.linalg.eigh(one.hessian)
    across = values > FLAT * values[-1]
    slopes = jax.jit(jax.vmap(jax.grad(lambda q, z: loss(unflatten(q), z)), (None, 0)))(theta, one.problem.data)
    slopes = (np.asarray(slopes) - np.mean(slopes, axis=0)) @ vectors
    sums = np.where(across[:, None] & across, values[:, None] + values, np.inf)
    inside = slopes.T @ slopes / len(slopes) / sums
    weights, axes = np.linalg.eigh(inside)
    root = vectors @ (axes * np.sqrt(np.maximum(weights, 0)))
    pushes = np.einsum("rpi,pi->r", np.asarray(turned(jnp.asarray(root.T))), root.T @ one.hessian)
    lengths = np.linalg.norm(fields, axis=1)[: len(one.names)]
    return Turning(
        omega=(inverse @ inverse.T @ pushes)[: len(one.names)],
        directions=int(np.linalg.matrix_rank(fields, rtol=LEAST)),
        flat=int(np.sum(~across)),
        softest=float(values[across][0]),
        steepest=float(values[-1]),
        root=root,
        alive=lengths > LEAST * lengths.max(),
        fields=fields,
        inverse=inverse,
    )


def drift(one: Trained, found: Turning) -> tuple[np.ndarray, float, float]:
    """Ω of every block from `valley_drift`, the share of it that is no turn, and how far from a minimum it is."""
    motion = ne.valley_motion(one.held, one.params, 0.5, method="dense")
    velocity = np.asarray(ne.flatten(motion.velocity)[0])
    angles = found.inverse @ velocity
    left = np.linalg.norm(velocity - found.fields.T @ angles) / np.linalg.norm(velocity)
    return angles[: len(one.names)], float(left), float(motion.slope)


def turns(one: Trained, found: Turning, rate: float, runs: int, key: Array) -> np.ndarray:
    """Angles by which SGD with S = 1 has turned every block, from its stationary state: (runs, records, blocks)."""
    theta, unflatten = ne.flatten(one.params)
    for_start, for_noise = jax.random.split(key)
    away = rate**0.5 * jax.random.normal(for_start, (runs, len(theta))) @ found.root.T
    starts = jax.vmap(unflatten)(theta + away)
    angles = jnp.asarray(found.inverse[: len(one.names)])

    def turned(params: Any) -> Array:
        return angles @ (ne.flatten(params)[0] - theta)

    steps = RECORDS * round(TIME / rate / RECORDS)
    keys = jax.random.split(for_noise, runs)
    run = independent_runs(one.problem, ne.SGD(rate, 1), starts, keys, steps, {"angles": turned}, records=RECORDS)
    seen = np.asarray(run.observed["angles"])
    return seen - seen[:, :1]
