"""The report: every statement has a place in the code and a measurement, and finished runs are used again."""

import ast
import json
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

import noise_equilibrium as ne
from experiments._metrics import Metric
from experiments._output import Output
from experiments._registry import STUDIES
from experiments.report import build as building
from experiments.report import runs as running
from experiments.report.about import about
from experiments.report.captions import CAPTIONS, DEVIATIONS
from experiments.report.page import text
from experiments.report.rows import Row, Verdict, join
from experiments.report.runs import Result, Run, all_runs, key, load, make
from experiments.report.statements import SECTIONS, Statement

STATEMENTS = [statement for section in SECTIONS for statement in section.statements]
RUNS = all_runs(quick=True, seed=3)


def test_every_numbered_statement_of_the_paper_has_a_row():
    labels = " ".join(statement.label for statement in STATEMENTS)
    spans = [(int(a), int(b or a)) for a, b in re.findall(r"\((\d+)\)(?:–\((\d+)\))?", labels)]
    numbers = {n for first, last in spans for n in range(first, last + 1)}
    assert numbers >= set(range(1, 25)) | set(range(26, 30)) | set(range(93, 101))
    for name in ("Definition 4.1", "Definition 4.2", "Definition 4.6", "Theorem 4.3", "Theorem 4.5", "Theorem 5.2"):
        assert name in labels
    for name in ("Theorem 5.4", "Theorem B.6", "Theorem D.1", "Theorem E.1", "Proposition 5.1", "Proposition 5.3"):
        assert name in labels
    for name in ("Lemma B.1", "B.2", "B.3", "B.4", "B.5", *(f"Figure {number}" for number in (1, 2, 3, 4, 5, 7, 8))):
        assert name in labels
    assert "Figures 6 and 9" in labels


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.label)
def test_the_code_of_a_statement_exists(statement):
    assert statement.code
    for name in statement.code:
        reduce(getattr, name.split("."), ne)


def test_every_study_is_in_the_report():
    names = {run.name for run in RUNS}
    assert names == STUDIES.keys() | {"alignment-digits"}
    assert {statement.run for statement in STATEMENTS} == names


def test_the_key_of_a_run_follows_options_and_code_but_not_words(tmp_path, monkeypatch):
    one = tmp_path / "one.py"
    monkeypatch.setattr(running, "sources", lambda study: [one])
    one.write_text('"""Words."""\nx = 1\n')
    first = key(RUNS[0])
    one.write_text('"""Other words."""\n\n# and a comment\nx = 1\n')
    assert key(RUNS[0]) == first
    one.write_text("x = 2\n")
    assert key(RUNS[0]) != first
    one.write_text("x = 1\n")
    assert key(RUNS[0]) == first != key(all_runs(quick=True, seed=4)[0])


def test_the_code_a_run_depends_on():
    files = running.sources("optimizers")
    names = {f"{path.parent.name}/{path.name}" for path in files}
    assert {
        "optimizers/study.py",
        "neuron_charges/study.py",
        "experiments/_metrics.py",
        "noise_equilibrium/_problem.py",
    } <= names
    assert not any("alignment" in name or "report" in name for name in names)
    assert all(isinstance(ast.parse(path.read_text(encoding="utf-8")), ast.Module) for path in files)


def finish(run: Run, folder, passed: bool = True) -> None:
    """What a run leaves where it is made: metrics that begin as the statements say, and a figure."""
    work = running._work(folder)
    names = {start or "all" for statement in STATEMENTS if statement.run == run.name for start in statement.metrics}
    metrics = [Metric(f"{name} <measured>", 0, 0.0 if passed else 1.0, high=1e-9) for name in sorted(names)]
    Output("", work).write(metrics, {}, Figure())
    (work / "made.json").write_text('{"seconds": 1.5, "machine": "a machine"}')


def test_finished_runs_are_used_again_and_broken_ones_lose_nothing_else(tmp_path, monkeypatch):
    executed = []

    def execute(run, folder, cores):
        executed.append(run.name)
        if run.name == "warmup" and executed.count("warmup") == 1:
            return "Traceback: no memory"
        finish(run, folder)
        return ""

    monkeypatch.setattr(running, "_execute", execute)
    results, failures = make(RUNS, tmp_path, 2)
    assert failures == {"warmup": "Traceback: no memory"}
    assert [result.run for result in results] == [run for run in RUNS if run.name != "warmup"]
    results, failures = make(RUNS, tmp_path, 2)
    assert not failures
    assert len(results) == len(RUNS)
    assert sorted(executed) == sorted([*(run.name for run in RUNS), "warmup"])


def test_only_some_studies_are_run_and_others_shown_if_they_are_there(tmp_path, monkeypatch):
    executed = []

    def execute(run, folder, cores):
        executed.append(run.study)
        finish(run, folder)
        return ""

    monkeypatch.setattr(running, "_execute", execute)
    folder = tmp_path / "report"
    first = building.build(folder, quick=True, seed=0, workers=1, only=["identities"])
    assert set(executed) == {"identities"}
    assert [metric.name for metric in first] == ["identities: metrics that passed"]
    second = building.build(folder, quick=True, seed=0, workers=1, only=["scale_circle"])
    assert set(executed) == {"identities", "scale_circle"}
    assert [metric.passed for metric in second] == [True, True]
    with pytest.raises(ValueError, match=r"no study momentum; expected some of .*identities"):
        building.build(folder, quick=True, seed=0, workers=1, only=["momentum"])


def test_a_folder_without_metrics_is_no_finished_run(tmp_path):
    assert load(RUNS[0], tmp_path) is None


STUDY = """
import json, sys
from pathlib import Path
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
(out / "metrics.json").write_text("[]")
print("done")
sys.exit(int(sys.argv[1]))
"""


@pytest.mark.parametrize(("code", "kept"), [(0, True), (1, True), (2, False)], ids=["passed", "failed", "broke off"])
def test_a_run_is_made_in_a_process_and_moved_when_complete(tmp_path, monkeypatch, code, kept):
    (tmp_path / "root" / "experiments").mkdir(parents=True)
    (tmp_path / "root" / "experiments" / "__init__.py").touch()
    (tmp_path / "root" / "experiments" / "__main__.py").write_text(STUDY)
    monkeypatch.setattr(running, "ROOT", tmp_path / "root")
    monkeypatch.setattr(running, "sources", lambda study: [])
    store = tmp_path / "store"
    store.mkdir()
    run = Run("study", (str(code),))
    results, failures = make([run], store, 1)
    assert [path.name for path in store.iterdir()] == ([run.folder] if kept else [])
    assert [result.metrics for result in results] == ([[]] if kept else [])
    assert failures == ({} if kept else {"study": "done\n"})
    if kept:
        assert results[0].seconds > 0


@pytest.mark.parametrize("chosen", [None, "elsewhere"])
def test_the_runs_of_a_report_share_their_compiled_programs(tmp_path, monkeypatch, chosen):
    (tmp_path / "root" / "experiments").mkdir(parents=True)
    (tmp_path / "root" / "experiments" / "__init__.py").touch()
    source = "import os; print(os.environ['JAX_COMPILATION_CACHE_DIR'])"
    (tmp_path / "root" / "experiments" / "__main__.py").write_text(source)
    monkeypatch.setattr(running, "ROOT", tmp_path / "root")
    monkeypatch.setattr(running, "sources", lambda study: [])
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if chosen:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    _, failures = make([Run("one", ("one",)), Run("two", ("two",))], tmp_path, 1)
    assert failures == dict.fromkeys(("one", "two"), f"{chosen or tmp_path / '.compiled'}\n")


def test_a_run_whose_code_changes_meanwhile_is_not_kept(tmp_path, monkeypatch):
    one = tmp_path / "one.py"
    one.write_text("x = 1")
    monkeypatch.setattr(running, "sources", lambda study: [one])
    store = tmp_path / "store"
    store.mkdir()

    def execute(run, folder, cores):
        finish(run, folder)
        one.write_text("x = 2")
        return ""

    monkeypatch.setattr(running, "_execute", execute)
    results, failures = make(RUNS[:1], store, 1)
    assert not results
    assert "code changed" in failures[RUNS[0].name]
    assert not list(store.iterdir())


def test_the_pages_show_every_statement(tmp_path, monkeypatch):
    def execute(run, folder, cores):
        finish(run, folder, passed=run.name != "warmup")
        return ""

    monkeypatch.setattr(running, "_execute", execute)
    counts = building.build(tmp_path / "out", quick=True, seed=3, workers=2)
    assert [metric.passed for metric in counts] == [run.name != "warmup" for run in RUNS]
    for name in ("report.html", "report.md"):
        page = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert all(statement.label in page for statement in STATEMENTS)
        assert all(run.command in page for run in RUNS)
        assert "FAIL" in page
        assert "quick report" in page
        assert ne.__version__ in page
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert html.count("data:image/svg+xml;base64,") == len(RUNS)
    anchors = re.findall(r'id="([^"]+)"', html)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(anchors)
    assert len(re.findall(r'<article id="(?!study-)', html)) == len(STATEMENTS)
    figures = [html.rfind("<article id=", 0, found.start()) for found in re.finditer("<figure ", html)]
    assert not any(html.startswith('<article id="study-', place) or place < 0 for place in figures)  # none is orphaned
    assert "<measured>" not in html
    assert not re.findall(r'(?:src|href)="(?!data:|#)', html)  # nothing is fetched
    building.build(tmp_path / "out", quick=True, seed=3, workers=2)  # again, in its own folder


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "kept").write_text("data")
    with pytest.raises(FileExistsError, match="no report"):
        building.build(tmp_path, quick=True, seed=0, workers=1)
    with pytest.raises(ValueError, match="workers is 0"):
        building.build(tmp_path / "new", quick=True, seed=0, workers=0)


def test_a_statement_without_metrics_is_an_error(tmp_path):
    run = next(run for run in RUNS if run.name == "identities")
    (tmp_path / "x").mkdir()
    entries = json.loads(json.dumps([Metric("something else", 0, 0.0).entry()]))
    with pytest.raises(ValueError, match="no metric of identities begins with 'Eq"):
        join([Result(run, tmp_path / "x", entries, 1.0, "here")])


def test_what_the_full_preset_alone_measures_is_left_out_of_a_quick_report(tmp_path, monkeypatch):
    large = {start for statement in STATEMENTS if statement.full for start in statement.metrics}
    runs = {statement.run for statement in STATEMENTS if statement.full}
    assert runs

    def execute(run, folder, cores):
        finish(run, folder)
        path = running._work(folder) / "metrics.json"
        entries = [e for e in json.loads(path.read_text()) if not e["name"].startswith(tuple(large))]
        path.write_text(json.dumps(entries))
        return ""

    monkeypatch.setattr(running, "_execute", execute)
    building.build(tmp_path / "out", quick=True, seed=3, workers=2, only=sorted(runs))
    for name in ("report.html", "report.md"):
        page = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert page.count("The quick preset leaves it out") == sum(statement.full for statement in STATEMENTS)
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert html.count("data:image/svg+xml;base64,") == len(runs)
    with pytest.raises(ValueError, match="no metric of"):
        building.build(tmp_path / "full", quick=False, seed=3, workers=2, only=sorted(runs))


def test_indices_and_powers_on_the_page():
    assert text("θ_λ, C_kl, σ_ε²") == "θ<sub>λ</sub>, C<sub>kl</sub>, σ<sub>ε</sub>²"
    assert text("e^{−2λA}, δ_{i+1}") == "e<sup>−2λA</sup>, δ<sub>i+1</sub>"
    assert text("leaky_relu, orbit_flow") == "leaky_relu, orbit_flow"
    assert text("`weak_error` < 1") == "<code>weak_error</code> &lt; 1"


def row(metrics: list[Metric], **fields: Any) -> Row:
    statement = Statement("A", "says", ("SGD",), RUNS[0].name, ("",), **fields)
    return Row(
        statement, Result(RUNS[0], Path(RUNS[0].folder), [], 1.0, "here"), [metric.entry() for metric in metrics]
    )


def test_verdicts():
    inside, outside, shown = Metric("m", 1, 1.0, 0, 2), Metric("m", 1, 3.0, 0, 2), Metric("m", None, 3.0)
    assert row([inside, shown]).verdict == Verdict.HOLDS
    assert row([shown]).verdict == Verdict.REPORTED
    assert row([inside], corrected="otherwise").verdict == Verdict.CORRECTED
    assert row([inside], fails="not here").verdict == Verdict.FAILS
    for fields in ({}, {"corrected": "otherwise"}, {"fails": "not here"}):
        assert row([inside, outside], **fields).verdict == Verdict.OUTSIDE
    assert row([]).verdict == Verdict.OUTSIDE
    assert row([], full=True).verdict == Verdict.FULL
    assert row([inside], full=True).verdict == Verdict.HOLDS
    assert Row(row([inside]).statement, None, []).verdict == Verdict.MISSING


def test_what_is_reported_never_passes(tmp_path, monkeypatch):
    def execute(run, folder, cores):
        finish(run, folder)
        path = running._work(folder) / "metrics.json"
        names = [entry["name"] for entry in json.loads(path.read_text())]
        path.write_text(json.dumps([Metric(name, None, 1.0, error=0.25).entry() for name in names]))
        return ""

    monkeypatch.setattr(running, "_execute", execute)
    building.build(tmp_path / "out", quick=True, seed=3, workers=2)
    markdown = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "| pass |" not in markdown
    assert ">pass<" not in html
    assert "1 ± 0.2" in markdown
    assert "1 ± 0.2" in html


def test_every_figure_has_a_caption_and_every_preset_its_words():
    assert {run.name for run in RUNS} == CAPTIONS.keys()
    assert CAPTIONS.keys() >= DEVIATIONS.keys()
    for run in RUNS:
        found = about(run)
        assert found.caption
        assert all(setting.says for setting in found.settings), run.name
