"""What a user may get wrong with a loss, and what the program says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import leaf, normal, squared

import noise_equilibrium as ne

PARAMS = {"u": normal(1, 2, 3), "w": normal(2, 3, 4), "i": normal(3, 2, 3)}
DATA = (normal(4, 5, 4), normal(5, 5, 2))
ROTATION = ne.double_rotation(leaf("u"), leaf("w"))


def linear(p, z):
    return squared(p["u"] @ (p["w"] @ z[0]), z[1])


def of_all_data(p, data):
    """A loss of all samples at once, as training code has it."""
    x, y = data
    return jnp.mean(jnp.sum((jnp.einsum("yd,dx,nx->ny", p["u"], p["w"], x) - y) ** 2, axis=1))


def with_axis_name(p, z):
    return linear(p, z) - jax.lax.pmean(z[0][0], "batch")


def residuals_of_all(p, z):
    return jnp.asarray(DATA[0]) @ p["w"].T @ p["u"].T @ jnp.ones(2) - z[1][0]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (of_all_data, r"fails on one sample .* returns a scalar for all 5 at once; expected loss\(params, sample\)"),
        (with_axis_name, "refers to an axis name .*batch.* expected a loss of one sample"),
        (residuals_of_all, r"shape \(5,\) .* The number of samples is among its lengths: does the loss use all data"),
    ],
    ids=["all-data", "axis-name", "all-residuals"],
)
@pytest.mark.parametrize("ask", ["moments", "risk"])
def test_a_loss_of_all_samples_is_told_apart(loss, message, ask):
    problem = ne.Problem(loss, DATA)
    with pytest.raises(ValueError, match=message):
        ne.noise_moments(problem, PARAMS, ROTATION) if ask == "moments" else problem.risk(PARAMS)


def test_an_error_of_the_loss_itself_is_left_as_it_is():
    def broken(p, z):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ne.Problem(broken, DATA).risk(PARAMS)
    with pytest.raises(TypeError, match="dot_general"):
        ne.Problem(lambda p, z: jnp.sum(p["u"] @ z[0]), DATA).risk(PARAMS)


def test_a_loss_without_the_sample_gets_a_note():
    def constant(p, z):
        return of_all_data(p, DATA)

    with pytest.warns(UserWarning, match="does not depend on the sample, so it has no gradient noise"):
        moments = ne.noise_moments(ne.Problem(constant, DATA), PARAMS, ROTATION)
    np.testing.assert_allclose(moments.noise_plus, 0, atol=1e-12 * float(jnp.max(moments.mean_plus)))


def test_an_ignored_parameter_gets_a_note_and_no_noise():
    symmetry = ne.rescaling(leaf("u"), leaf("i"))
    with pytest.warns(UserWarning, match=r"does not depend on params\['i'\], so there is no gradient noise there"):
        moments = ne.noise_moments(ne.Problem(linear, DATA), PARAMS, symmetry)
    assert float(moments.noise_minus) == 0
    assert float(moments.noise_plus) > 0


def logarithm(p, z):
    return linear(p, z) * jnp.log(z[1][0])


ASKED = {
    "moments": lambda problem: ne.noise_moments(problem, PARAMS, ROTATION),
    "trace": lambda problem: ne.noise_trace(problem, PARAMS),
    "covariance": lambda problem: ne.gradient_covariance(problem, PARAMS),
    "sample": lambda problem: ne.sample_noise(problem, PARAMS, jax.random.key(0)),
    "partial": lambda problem: ne.partial_moments(problem, PARAMS, ROTATION),
    "matrix": lambda problem: ne.noise_moments(problem, PARAMS, ne.exponential_symmetry(np.eye(24))),
}


@pytest.mark.parametrize("ask", ASKED)
def test_a_sample_that_spoils_the_result_is_named(ask):
    labels = np.abs(DATA[1]) + 0.1
    labels[3, 0] = -1.0
    with pytest.raises(ValueError, match=r"the loss of sample 3 is nan .* at finite parameters; expected finite"):
        ASKED[ask](ne.Problem(logarithm, (DATA[0], labels)))
    labels[1, 0] = -1.0
    with pytest.raises(ValueError, match=r"the loss of sample 1 is nan .*, and 1 other samples spoil it too"):
        ASKED[ask](ne.Problem(logarithm, (DATA[0], labels)))


def test_a_gradient_that_is_not_finite_is_named_though_the_loss_is():
    problem = ne.Problem(lambda p, z: jnp.sum(jnp.sqrt(p * z)), np.array([[1.0], [0.0], [2.0]]))
    with pytest.raises(ValueError, match=r"the loss of sample 1 is 0 and its largest gradient entry is (inf|nan)"):
        ne.noise_moments(problem, jnp.ones(1), ne.scaling())


def test_parameters_of_a_diverged_run_give_nan_and_no_error():
    spoiled = {**PARAMS, "u": np.full((2, 3), np.nan)}
    assert np.all(np.isnan(ne.noise_moments(ne.Problem(linear, DATA), spoiled, ROTATION).noise_minus))


def test_nothing_is_raised_inside_a_transformation():
    labels = np.abs(DATA[1])
    labels[3, 0] = -1.0

    @jax.jit
    def noise(labels):
        return ne.noise_moments(ne.Problem(logarithm, (DATA[0], labels)), PARAMS, ROTATION).noise_plus

    assert np.all(np.isnan(noise(labels)))


def test_a_parameter_without_entries_does_no_harm():
    params = {**PARAMS, "empty": np.zeros((0, 3))}
    problem = ne.Problem(lambda p, z: linear(p, z) + jnp.sum(p["empty"] @ z[0][:3]), DATA)
    symmetry = ne.scaling(leaf("empty"), leaf("u"), leaf("w"))
    moments = ne.noise_moments(problem, params, symmetry)
    plain = ne.noise_moments(ne.Problem(linear, DATA), PARAMS, ne.scaling(leaf("u"), leaf("w")))
    np.testing.assert_allclose(moments.noise_plus, plain.noise_plus, rtol=1e-13)


def test_one_sample_has_no_noise_anywhere():
    one = ne.Problem(linear, jax.tree.map(lambda x: x[:1], DATA))
    moments = ne.noise_moments(one, PARAMS, [ROTATION, ne.exponential_symmetry(np.eye(24))])
    for each in moments:
        np.testing.assert_array_equal(each.noise_plus, 0)
    assert float(ne.noise_trace(one, PARAMS)) == 0
    assert ne.charge_rates(one, PARAMS, ROTATION).shape == (1, 3, 3)
    assert ne.explain(one, PARAMS, ROTATION).chunk == 1


# --- symmetries ------------------------------------------------------------------------------------------------------

PROBLEM = ne.Problem(linear, DATA)
REDRAWN = ne.Problem(linear, ne.Redrawn(DATA, lambda key, sample: sample))
OF_ONE_OR_SEVERAL = {
    "noise_moments": lambda symmetry: ne.noise_moments(PROBLEM, PARAMS, symmetry),
    "partial_moments": lambda symmetry: ne.partial_moments(PROBLEM, PARAMS, symmetry),
    "estimate_moments": lambda symmetry: ne.estimate_moments(PROBLEM, PARAMS, symmetry, batches=2),
    "redrawn_moments": lambda symmetry: ne.redrawn_moments(REDRAWN, PARAMS, symmetry, key=jax.random.key(0)),
    "explain": lambda symmetry: ne.explain(PROBLEM, PARAMS, symmetry),
}
of_one_or_several = pytest.mark.parametrize("name", OF_ONE_OR_SEVERAL)


@of_one_or_several
@pytest.mark.parametrize(
    ("symmetry", "came"),
    [
        (3, "symmetry is 3"),
        (None, "symmetry is None"),
        ([], r"symmetry is \[\]"),
        ((), r"symmetry is \(\)"),
        ("scaling", "symmetry is 'scaling'"),
        ([ROTATION, 3], r"symmetry\[1\] is 3"),
        ([[ROTATION]], r"symmetry\[0\] is \[Symmetry"),
        (iter([ROTATION]), "symmetry is <list_iter"),
        (np.eye(24), r"symmetry is array\("),
    ],
    ids=["number", "None", "list", "tuple", "word", "number-inside", "nested", "iterator", "array"],
)
def test_what_is_no_symmetry_is_refused_alike(name, symmetry, came):
    with pytest.raises(ValueError, match=rf"^{came}[^;]*; expected a Symmetry, or a sequence of at least one\.$"):
        OF_ONE_OR_SEVERAL[name](symmetry)


@of_one_or_several
@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_a_generator_without_a_spectrum_is_refused_alike(name, several):
    symmetry = ne.exponential_symmetry(lambda v: v)
    with pytest.raises(ValueError, match=f"{name} needs the eigenvalues of A, and this A is a function"):
        OF_ONE_OR_SEVERAL[name]([ROTATION, symmetry] if several else symmetry)
