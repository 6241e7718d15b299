"""The frame around the experiments: metrics that can fail, folders that are never overwritten, the command line."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

import noise_equilibrium as ne
from experiments.__main__ import EXPERIMENTS, use_devices
from experiments._extrapolate import limit
from experiments._metrics import Metric, extrapolated, of_runs, table, within, worst_of
from experiments._output import Output
from experiments._registry import STUDIES
from experiments.alignment._network import relative_distance, worst
from experiments.stationary_law.laws import Law
from experiments.warmup.tasks import Task


@pytest.mark.parametrize(
    ("measured", "passed"),
    [(1.0, True), (0.9, True), (1.2, False), (math.nan, False)],
    ids=["in", "edge", "out", "nan"],
)
def test_a_metric_passes_inside_its_interval_only(measured, passed):
    assert Metric("m", 1.0, measured, 0.9, 1.1).passed is passed


def test_a_mark_from_errors_is_four_of_them_and_the_bias():
    metric = within("m", 1.0, 1.2, 0.04, bias=0.05)
    np.testing.assert_allclose([metric.low, metric.high], [0.79, 1.21])
    assert metric.passed
    assert metric.error == 0.04
    assert not within("m", 1.0, 1.3, 0.04, bias=0.05).passed
    assert not within("m", 1.0, 1.0, math.nan).passed  # an error that could not be estimated proves nothing


def test_a_mark_from_runs_has_their_standard_error():
    metric = of_runs("m", 2.0, np.array([1.0, 2.0, 3.0, 4.0]), bias=0.5)
    error = np.std([1, 2, 3, 4], ddof=1) / 2
    assert metric.error == pytest.approx(error)
    assert metric.measured == 2.5
    assert metric.high == pytest.approx(2.5 + stats.t.isf(stats.norm.sf(4), 3) * error)
    many = np.random.default_rng(0).normal(1.0, 1.0, 10_000)
    assert of_runs("m", 1.0, many).high == pytest.approx(1 + 4 * 0.01, abs=1e-3)
    assert not of_runs("m", 1.0, np.array([1.0])).passed  # one run tells nothing of its error


def test_the_limit_of_a_small_rate_is_free_of_what_is_linear_in_it():
    noise = np.random.default_rng(0).normal(0, 0.01, (2, 32))
    metric = extrapolated("m", 2.0, 2.0 + 0.4 + noise[0], 2.0 + 0.2 + noise[1])
    assert metric.passed
    assert metric.error == pytest.approx(5**0.5 * 0.01 / 32**0.5, rel=0.3)
    assert not of_runs("m", 2.0, 2.2 + noise[1]).passed


def test_the_worst_metric_is_the_one_with_the_least_room():
    near, far, none = (
        within("a", 1, 1.1, 0.01, bias=0.2),
        within("b", 1, 1.1, 0.01, bias=0.07),
        Metric("c", 1, math.nan),
    )
    assert worst_of([near, far]) is far
    assert worst_of([near, within("n", 1.0, math.nan, 0.1)]).name == "n"
    assert none.result == "FAIL"


def test_what_is_reported_is_not_passed():
    assert Metric("m", 1, 5.0).result == "reported"
    assert "pass" not in table([Metric("m", 1, 5.0)])
    assert Metric("m", 1, 5.0, 0, 6).result == "pass"


def test_clouds_of_points_are_pixels_in_a_vector_figure(tmp_path):
    drawing = Figure()
    axes = drawing.subplots()
    axes.scatter(*np.random.default_rng(0).normal(size=(2, 5000)))
    axes.plot(np.arange(100))
    Output("unused", tmp_path / "new").write([], {}, drawing)
    assert (tmp_path / "new" / "figure.svg").stat().st_size < 200_000


def test_two_rates_leave_the_second_order():
    """m(η) = 3 + η + η²/4 at η = 0.2: half of the second order of η is left, within what is said to be left."""
    noise = np.array([-0.1, 0.1])
    coarse, fine = (3 + rate + rate**2 / 4 + noise for rate in (0.2, 0.1))
    found = limit(coarse, fine)
    np.testing.assert_allclose(found.value - 3, -(0.2**2) / 8, rtol=1e-9)
    np.testing.assert_allclose(found.error, 0.1 * 5**0.5, rtol=1e-9)
    assert 0.2**2 / 8 < found.remainder(3.0) < 0.01


@pytest.mark.parametrize(("depth", "noise"), [(2, 0.125), (2, 0.3)])
def test_the_law_of_two_factors_is_a_gamma_law(depth, noise):
    law = Law(depth, lambda v: 2 * (v - 1), lambda v: 0 * v + 4 * noise, 1.0, 8.0)
    shares = np.array([0.05, 0.5, 0.95])
    expected = stats.gamma.ppf(shares, 1 / (4 * noise) - 0.5, scale=4 * noise)
    np.testing.assert_allclose(law.quantile(shares), expected, rtol=1e-4)


def test_an_output_folder_holds_figure_data_and_strict_json(tmp_path):
    metrics = [Metric("a", None, 0.5, high=1), Metric("b", 0, math.nan, low=1)]
    Output("unused", tmp_path / "new").write(metrics, {"x": np.arange(3)}, Figure())
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == ["data.npz", "figure.png", "figure.svg", "metrics.json"]
    entries = json.loads((tmp_path / "new" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert [entry["pass"] for entry in entries] == [True, False]
    assert {"predicted", "measured", "tolerance"} <= entries[0].keys()
    assert "FAIL" in table(metrics)


def test_nothing_is_overwritten(tmp_path, monkeypatch):
    (tmp_path / "kept").write_text("data")
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        Output("unused", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert [Output("name", None).folder.name for _ in range(3)] == ["name", "name-2", "name-3"]


def test_the_list_names_the_experiments():
    listed = subprocess.run([sys.executable, "-m", "experiments", "--list"], capture_output=True, text=True, check=True)
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert names == list(EXPERIMENTS) == sorted(EXPERIMENTS)
    assert listed.stdout.split(maxsplit=1)[1].startswith("Figure 2: ")


def test_a_taken_folder_is_an_error_before_any_work(tmp_path):
    (tmp_path / "kept").write_text("data")
    command = [sys.executable, "-m", "experiments", "alignment", "--out", str(tmp_path)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "nothing is overwritten" in refused.stderr


def test_distances():
    eye = np.eye(2)
    assert relative_distance(eye, eye) == 0
    assert relative_distance(eye, 0 * eye) == 1
    assert worst(np.array([1.02, 0.9, 1.1])) == 0.9


def test_devices_are_taken_out_of_the_command_line(monkeypatch):
    set_to = {}
    monkeypatch.setattr("jax.config.update", set_to.__setitem__)
    assert use_devices(["alignment", "--devices", "4", "--quick"]) == ["alignment", "--quick"]
    assert use_devices(["alignment"]) == ["alignment"]
    assert set_to == {"jax_num_cpu_devices": 4}
    for wrong in (["--devices"], ["--devices", "0"], ["--devices", "two"]):
        with pytest.raises(SystemExit, match="expected a number of devices"):
            use_devices(wrong)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_frontier_of_stability_against_the_dense_second_moment(rank):
    """The second moment of the gap, E[Δ ⊗ Δ], neither grows nor shrinks there; x with exact fourth moments."""
    d, width, rate = 3, 1 if rank == 1 else 4, 0.05
    task = Task("", d, rank, width, rate, rate, 1, 1, rate, 1, batch=4)
    total = float(task.frontier(np.array([rate]))[0]) / (2 * d)  # ‖U‖² + ‖W‖²
    if rank == 1:
        a = total / 2 + np.sqrt(total**2 / 4 - 1)
        up, down = np.diag([a, 0, 0]), np.diag([1 / a, 0, 0])
    else:
        up, down = np.eye(d) * 0.7 * total / d, np.eye(d) * 0.3 * total / d
    x = np.asarray(ne.data.LinearTeacher(np.eye(d), np.eye(d), np.eye(d)).noise_matched()[0])
    squares = x[:, :, None] * x[:, None, :]
    # Row-major: vec(A Δ X) = (A ⊗ Xᵀ) vec Δ.
    moves = np.stack([np.kron(np.eye(d), (square @ down).T) + np.kron(up, square.T) for square in squares])
    inside = np.diag(((np.diag(up) > 0)[:, None] | (np.diag(down) > 0)[None, :]).ravel().astype(float))
    mean, one = moves.mean(axis=0), np.eye(d * d)
    pairs = np.einsum("nab,ncd->acbd", moves, moves).reshape(d**4, d**4) / len(moves)
    pairs = pairs / task.batch + (1 - 1 / task.batch) * np.kron(mean, mean)
    step = np.kron(one, one) - 2 * rate * (np.kron(mean, one) + np.kron(one, mean)) + 4 * rate**2 * pairs
    project = np.kron(inside, inside)  # on gaps that a change of U or W makes
    radius = np.max(np.abs(np.linalg.eigvals(project @ step @ project)))
    np.testing.assert_allclose(radius, 1, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STUDIES.keys() - {"alignment"}))  # which has tests of its own
def test_a_quick_study_passes_every_metric(name, tmp_path):
    command = [sys.executable, "-m", "experiments", name, "--quick", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out" / "metrics.json").exists()


def test_seeds_that_nobody_chose_follow_from_the_last_commit():
    path = Path(__file__).parents[1] / "tools" / "fresh_seeds.py"
    specification = importlib.util.spec_from_file_location("fresh_seeds", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    first, again, later = (module.fresh_seeds(moment, 5) for moment in ("1700000000", "1700000000", "1700000001"))
    assert first == again
    assert len(set(first)) == 5
    assert not set(first) & set(later)
    assert module.last_commit()
