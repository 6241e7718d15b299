"""The frame around the experiments: metrics that can fail, folders that are never overwritten, the command line."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.__main__ import EXPERIMENTS, use_devices
from experiments._metrics import Metric, table
from experiments._output import Output
from experiments.alignment._network import relative_distance, worst


@pytest.mark.parametrize(
    ("measured", "passed"),
    [(1.0, True), (0.9, True), (1.2, False), (math.nan, False)],
    ids=["in", "edge", "out", "nan"],
)
def test_a_metric_passes_inside_its_interval_only(measured, passed):
    assert Metric("m", 1.0, measured, 0.9, 1.1).passed is passed


def test_an_output_folder_holds_figure_data_and_strict_json(tmp_path):
    metrics = [Metric("a", None, 0.5, high=1), Metric("b", 0, math.nan, low=1)]
    Output("unused", tmp_path / "new").write(metrics, {"x": np.arange(3)}, Figure())
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["data.npz", "figure.png", "metrics.json"]
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


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(EXPERIMENTS.keys() - {"alignment"}))  # which has tests of its own
def test_a_quick_study_passes_every_metric(name, tmp_path):
    command = [sys.executable, "-m", "experiments", name, "--quick", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "out" / "metrics.json").exists()
