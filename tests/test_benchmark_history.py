"""The history of benchmarks: what is kept, and how two results are compared."""

import pytest

from benchmarks import history

BEFORE = """jax 0.10.2, cpu
network        time  flops
  gradient   7.0 ms
  symmetric    1.20   1.60
  symmetric    0.80   1.00
"""
AFTER = BEFORE.replace("1.20", "1.60").replace("0.80", "0.82").replace("7.0", "7.1")


def test_rows_are_matched_by_their_words_and_large_changes_marked():
    rows = list(history.compare(BEFORE, AFTER))
    assert rows[1] == "network time flops"
    assert rows[2] == "gradient ms  7.0 → 7.1"
    assert rows[3] == "symmetric  1.20 → 1.60!   1.60 → 1.60"
    assert rows[4] == "symmetric  0.80 → 0.82   1.00 → 1.00"


def test_a_result_is_kept_and_one_is_not_enough_to_compare(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(history, "RESULTS", tmp_path)
    monkeypatch.setattr(history.sys, "executable", "echo")
    kept = history.run("draws", ["3"])
    assert kept.read_text() == "$ python -m benchmarks.draws 3\n-m benchmarks.draws 3\n"  # what was run, and what it printed
    with pytest.raises(SystemExit, match="1 results of draws"):
        history.main(["compare", "draws"])


def test_a_benchmark_that_fails_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "RESULTS", tmp_path)
    monkeypatch.setattr(history.sys, "executable", "false")
    with pytest.raises(SystemExit, match="nothing was kept"):
        history.run("draws", [])
    assert not list(tmp_path.rglob("*.txt"))
