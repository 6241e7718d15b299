"""What `noise_moments` does with a loss: which path each leg takes, why, and what that costs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._parameters import accumulation_dtype, split, without_numbers
from .._problem import Problem
from .._symmetry import AbstractSymmetry, BoundSymmetry, bind_each
from ._chunks import samples_in
from ._gram_plan import Plan, plan
from ._outer_products import LegGram


@dataclass(frozen=True)
class LegPath:
    """The path of one leg.

    Attributes:
        name: the parameter, as a path into params; with the pattern of a leg that is a part of it.
        path: "factors" (outer products of activations, never a per-sample gradient), "summed" (per-sample gradients,
            summed up from the factors of different uses), "tapped" (at the parameter itself, one gradient per sample),
            "full" (the same, of all parameters, for an exponential symmetry) or "ignored" (the loss does not depend on
            it: no noise).
        uses: how often the parameter meets an input.
        positions: the number of outer products in the gradient of a sample (tokens, uses, places of an image).
        culprit: the primitive that is not understood, for a tapped leg.
        flops: of the Grams of this leg, over all samples.
        bytes: of what is held per sample for this leg, over the samples of a chunk.
    """

    name: str
    path: str
    uses: int
    positions: int
    culprit: str | None
    flops: float
    bytes: int


@dataclass(frozen=True)
class Explanation:
    """What `noise_moments` does; `print` it for a table.

    Attributes:
        legs: the legs of all symmetries, in order.
        samples: N.
        chunk: the largest number of samples that are taken at once.
        flops: an estimate for the whole call.
        gradient_flops: the same for one full-batch gradient.
        bytes: an estimate of the temporary memory of the whole call.
    """

    legs: tuple[LegPath, ...]
    samples: int
    chunk: int
    flops: float
    gradient_flops: float
    bytes: int

    def __str__(self) -> str:
        head = ("parameter", "path", "uses", "positions", "flops", "bytes", "because of")
        rows: list[tuple[str, ...]] = [head]
        for leg in self.legs:
            cost = f"{leg.flops:.3g}", f"{leg.bytes:.3g}"
            rows.append((leg.name, leg.path, str(leg.uses), str(leg.positions), *cost, leg.culprit or ""))
        widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        ratio = self.flops / self.gradient_flops if self.gradient_flops else float("nan")
        lines.append(
            f"{self.samples} samples, {self.chunk} at once; about {self.flops:.3g} flops, {ratio:.2f} of a full-batch "
            f"gradient, and {self.bytes:.3g} bytes of temporary memory"
        )
        return "\n".join(lines)


def explain(problem: Problem, params: PyTree, symmetry: AbstractSymmetry | Sequence[AbstractSymmetry]) -> Explanation:
    """Which path `noise_moments` takes for each leg, which primitive caused a fallback, and estimates of the cost.

    Nothing is run and nothing is compiled: the loss is traced, and its program read.

    Args:
        problem: a finite problem.
        params: the parameters, any pytree; shapes alone matter.
        symmetry: as for `noise_moments`.

    Returns:
        An `Explanation`. The flops of the loss are the compiler's count before optimisation, where the body of a loop
        counts once.

    Raises:
        ValueError: as `noise_moments`.

    Examples:
        >>> import jax.numpy as jnp, noise_equilibrium as ne
        >>> problem = ne.Problem(lambda p, z: jnp.sum(jnp.sin(p["u"]) @ (p["w"] @ z)), jnp.ones((5, 3)))
        >>> params = {"u": jnp.ones((1, 2)), "w": jnp.ones((2, 3))}
        >>> found = ne.explain(problem, params, ne.double_rotation(lambda p: p["u"], lambda p: p["w"]))
        >>> [(leg.name, leg.path, leg.culprit) for leg in found.legs]
        [("params['u']", 'tapped', 'sin'), ("params['w']", 'factors', None)]
    """
    problem.require_finite("explain")
    bound = bind_each(symmetry, params, "explain").each
    arrays, rebuild = split(params)
    wanted = [LegGram(leg, one.algebra.rank) for one in bound if isinstance(one, BoundSymmetry) for leg in one.legs]
    count, size = problem.num_samples, sum(array.size for array in arrays)
    data = jax.tree_util.tree_map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype), problem.data)
    gradient_flops = _flops(
        jax.vmap(jax.grad(lambda a, z: problem.sample_loss(rebuild(list(a)), z)), in_axes=(None, 0)), arrays, data
    )
    legs, flops, chunk, held = [], 0.0, count, 0
    if wanted:
        made = plan(problem, params, wanted, accumulation_dtype([arrays[one.leg.index] for one in wanted]))
        paths = [_path(made, one) for one in wanted]
        legs += paths
        flops += _flops(lambda a, z: made.tapped.derivatives(a, z), arrays, data)
        flops += sum(path.flops for path in paths) + _flops_of_means(made)
        chunk, held = made.most, made.memory
        made.silence.warn()
    matrices = [one for one in bound if not isinstance(one, BoundSymmetry)]
    if matrices:
        dtype = accumulation_dtype(arrays)
        most = samples_in(4 * size * dtype.itemsize, count)
        # n_iᵀg for every eigenvector n_i: a P × P matrix times a vector, two flops an entry.
        products = 2 * size**2
        full = LegPath("params", "full", 0, 1, None, float(count * products), most * size * dtype.itemsize)
        legs += [full] * len(matrices)
        flops += gradient_flops + len(matrices) * count * products
        chunk, held = min(chunk, most), max(held, 4 * most * size * dtype.itemsize)
    return Explanation(tuple(legs), count, chunk, flops, gradient_flops, held)


def _path(made: Plan, wanted: LegGram) -> LegPath:
    """The path of one leg, and what it costs."""
    leg = wanted.leg
    form = made.forms.get(leg.index)
    if form is None:
        return LegPath(leg.title, "ignored", 0, 0, None, 0.0, 0)
    uses = sum(len(part.uses) for part in form.parts)
    if form.slot is not None:
        path, culprit = "tapped", made.tapped.culprits[form.slot]
    else:
        path, culprit = ("summed" if any(part.is_dense for part in form.forms) else "factors"), None
    flops = sum(gram.flops() for _, _, gram in form.grams(wanted, made.total))
    held = sum(part.numbers_per_sample() for part in form.forms) * made.dtype.itemsize * made.most
    positions = sum(part.positions for part in form.forms)
    return LegPath(leg.title, path, uses, positions, culprit, flops, held)


def _flops_of_means(made: Plan) -> float:
    """Of Σ_i g_i from the factors: two per entry, position and sample."""
    parts = [part for form in made.forms.values() for part in form.forms]
    sizes = [(1 if part.is_dense else 2 * part.positions) * math.prod(part.shape) for part in parts]
    return float(made.total * sum(sizes))


def _flops(function: Any, arrays: Any, data: Any) -> float:
    """The compiler's count for a function of parameters and samples, before any optimisation."""
    cost = jax.jit(function).lower(without_numbers(arrays), data).cost_analysis()
    # A list of one in some versions of JAX.
    cost = cost[0] if isinstance(cost, list) else cost
    return float((cost or {}).get("flops", 0.0))
