"""What the bar of a long run costs: `simulate` with and without `progress`, in turn, as ratios of pairs."""

import contextlib
import io
import statistics
import sys
import time

import jax

import noise_equilibrium as ne
from noise_equilibrium.models import two_layer_linear

SIZE, BATCH, RATE = 32, 16, 0.005
RECORDS = 500


def main(steps: int = 200_000, repeats: int = 7) -> None:
    """Print the table."""
    d = SIZE

    def sample(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, noise = jax.random.normal(key, (2, d))
        return x, x + noise

    problem, sgd = ne.Problem(two_layer_linear.loss, ne.Stream(sample)), ne.SGD(RATE, BATCH)
    start = two_layer_linear.init(jax.random.key(0), d, d, d)
    observe = {"charge": two_layer_linear.symmetry.charge}

    def run(*, progress: bool) -> tuple[float, float]:
        begun = time.perf_counter(), time.process_time()
        with contextlib.redirect_stderr(io.StringIO()):  # a terminal has a cost of its own
            jax.block_until_ready(
                ne.simulate(
                    problem,
                    sgd,
                    start,
                    steps,
                    key=jax.random.key(1),
                    observe=observe,
                    every=steps // RECORDS,
                    progress=progress,
                )
            )
        return time.perf_counter() - begun[0], time.process_time() - begun[1]

    first = {progress: run(progress=progress) for progress in (False, True)}
    pairs = []
    for repeat in range(repeats):
        # In either order by turns: where a machine slows down, neither is always the second.
        order = (False, True) if repeat % 2 else (True, False)
        pairs.append({progress: run(progress=progress) for progress in order})
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, float32; {steps} steps at ({d}, {d}, {BATCH})")
    for place, clock in enumerate(("wall", "CPU")):
        plain, bar = (statistics.median(pair[progress][place] for pair in pairs) for progress in (False, True))
        ratios = sorted(pair[True][place] / pair[False][place] for pair in pairs)
        shortest = min(pair[True][place] for pair in pairs) / min(pair[False][place] for pair in pairs)
        print(
            f"{clock:4}  without {plain:6.2f} s, with {bar:6.2f} s, first calls {first[False][place]:.2f} and "
            f"{first[True][place]:.2f} s; ratio of pairs {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f}), of the shortest {shortest:.3f}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
