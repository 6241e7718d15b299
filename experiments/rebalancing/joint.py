"""The joint noise equilibrium of many symmetries, family by family: all from one measurement that is traced once.

`find_equilibrium` of a sequence in which matrices meet others is differentiable, and every symmetry is traced several
times for it: a decoder takes minutes to compile. Here symmetries that share no entry of a parameter form a family, and
are balanced at once, each exactly, from one measurement; families take turns. Every turn lessens the same function
Φ = 2γ‖θ‖² + σ² Tr Σ, convex along the orbits, and no turn moves anything only where no charge flows.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

import noise_equilibrium as ne

MOST = 40  # turns; some fifteen are needed
STILL = float(np.finfo(np.float32).eps) ** 0.7  # the relative flow at which a point is at rest, as in the library


def families(symmetries: Sequence[ne.Symmetry], params: PyTree) -> list[list[int]]:
    """The places of symmetries in groups that share no entry of a parameter."""

    def touched(params: PyTree) -> list[Array]:
        ones = jax.tree_util.tree_map(jnp.ones_like, params)
        moved = [one.act(ones, unit(one, params)) for one in symmetries]
        return [jnp.concatenate([jnp.ravel(leaf != 1) for leaf in jax.tree_util.tree_leaves(one)]) for one in moved]

    entries = [np.asarray(one) for one in jax.jit(touched)(params)]
    groups: list[list[int]] = []
    for place, own in enumerate(entries):
        for group in groups:
            if not any(np.any(own & entries[other]) for other in group):
                group.append(place)
                break
        else:
            groups.append([place])
    return groups


def unit(symmetry: ne.Symmetry, params: PyTree) -> Array:
    """The element that scales every direction by e."""
    charge = jax.eval_shape(symmetry.charge, params)
    one = jnp.eye(charge.shape[-1], dtype=charge.dtype) if charge.ndim == 3 else jnp.ones((), charge.dtype)
    return jnp.broadcast_to(one, charge.shape)


def equilibrium(
    problem: ne.Problem, params: PyTree, symmetries: Sequence[ne.Symmetry], groups: list[list[int]], law: ne.SGD
) -> PyTree:
    """The point of the orbit at which no charge flows; for powers of ±1.

    Args:
        problem: the problem.
        params: any point of the orbit.
        symmetries: of the loss.
        groups: their places, see `families`.
        law: SGD.
    """
    symmetries, dtype = list(symmetries), jnp.result_type(*jax.tree_util.tree_leaves(params))
    family = {place: number for number, group in enumerate(groups) for place in group}

    def measured(params: PyTree) -> tuple[list[Array], Array]:
        seen = ne.measure(problem, params, symmetries)
        # Without the problem nothing is measured where an end is: the next turn does that for all of them at once.
        ends = [ne.find_equilibrium(replace(one, problem=None), law) for one in seen]  # pyright: ignore[reportCallIssue]
        flows = [relative_flow(one, problem.weight_decay, law) for one in seen]
        return [end.element for end in ends], jnp.max(jnp.stack(flows))

    def turn(state: tuple[PyTree, list[Array], Array, Array]) -> tuple[PyTree, list[Array], Array, Array]:
        params, elements, _, count = state
        for place, (symmetry, element) in enumerate(zip(symmetries, elements, strict=True)):
            own = jnp.where(count % len(groups) == family[place], element, 0)
            params = symmetry.act(params, own.astype(dtype))
        return params, *measured(params), count + 1

    def goes_on(state: tuple[PyTree, list[Array], Array, Array]) -> Array:
        return (state[2] > STILL) & (state[3] < MOST)

    elements, flow = jax.eval_shape(measured, params)
    nothing = [jnp.zeros(one.shape, one.dtype) for one in elements]
    # The first turn moves nothing: what it measures is where the search begins.
    start = (params, nothing, jnp.full((), jnp.inf, flow.dtype), jnp.asarray(-1))
    return jax.lax.while_loop(goes_on, turn, start)[0]


def relative_flow(measured: Any, decay: Array | float, law: ne.SGD) -> Array:
    """‖T − R‖ / (‖T‖ + ‖R‖) of one step: R and T are 2γ'Q of one side and (η/2)(M/S + M̄) of the other."""
    rate, decay = (jnp.asarray(number, measured.weight[0].dtype) for number in (law.learning_rate, decay))
    lowers, raises = 0.0, 0.0
    for power, weight, noise, mean in zip(
        measured.moments.powers, measured.weight, measured.noise, measured.mean, strict=True
    ):
        of_weight = 2 * decay * (1 - rate * decay) * weight
        of_noise = rate / 2 * (noise / law.batch_size + mean)
        lowers += of_weight if power > 0 else of_noise
        raises += of_noise if power > 0 else of_weight
    return jnp.linalg.norm(jnp.ravel(raises - lowers)) / (
        jnp.linalg.norm(jnp.ravel(raises)) + jnp.linalg.norm(jnp.ravel(lowers))
    )


def charge_flows(problem: ne.Problem, params: PyTree, symmetries: Sequence[ne.Symmetry], law: ne.SGD) -> list[Array]:
    """E ΔC of one step of SGD, of each charge, from single gradients: nothing of `measure` is in it.

    C(θ(1 − 2ηγ) − ηĝ) = (1 − 2ηγ)² C(θ) + η² C(ĝ), as ĝ and θ have no charge with each other, and
    E C(ĝ) = C(ḡ) + (mean C(gᵢ) − C(ḡ))/S.
    """
    dtype = jnp.result_type(*jax.tree_util.tree_leaves(params))
    rate, decay = (jnp.asarray(number, dtype) for number in (law.learning_rate, problem.weight_decay))
    single = jax.vmap(jax.grad(problem.loss), (None, 0))(params, problem.data)
    mean = jax.tree_util.tree_map(lambda leaf: jnp.mean(leaf, axis=0), single)
    flows = []
    for one in symmetries:
        of_mean, of_single = one.charge(mean), jnp.mean(jax.vmap(one.charge)(single), axis=0)
        kept = (1 - 2 * rate * decay) ** 2
        flows.append((kept - 1) * one.charge(params) + rate**2 * (of_mean + (of_single - of_mean) / law.batch_size))
    return flows
