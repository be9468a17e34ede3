"""The benchmark: figures of a tiny run, no ratio without equality, and its counters against counts by hand."""

import json

import numpy as np
import pytest
import torch

import models
from models.networks.adjacency import normalize_adjacency
from models.networks.graph import TAGConv
from models.step.cuda_graph import RecordedStep
from models.step.runners import PlainStep
from scripts import benchmark
from scripts.benchmarking import checks, dgl_stand_in, head, levers, ours, report, step, sweep
from scripts.benchmarking.contest import Settings
from scripts.benchmarking.counting import HostReads, LiveMemory, count
from scripts.benchmarking.device import Device
from scripts.benchmarking.ours import Ours
from scripts.benchmarking.release import Release
from scripts.benchmarking.survival import Failures
from scripts.benchmarking.timing import Timing, quartiles, speed_up
from tests.helpers import run_command
from tests.recorder import CpuRecorder
from util.errors import UserError
from util.hardware.runtime import Runtime

SMALL = [
    "--ngf",
    "4",
    "--ndf",
    "4",
    "--netG",
    "resnet_4blocks",
    "--num_patches",
    "16",
    "--netF_nc",
    "16",
]
QUICK = [
    "--device",
    "cpu",
    "--size",
    "32",
    "--iters",
    "1",
    "--rounds",
    "2",
    "--flags",
    " ".join(SMALL),
]


@pytest.fixture
def settings():
    return Settings(Device("cpu"), size=32, flags=tuple(SMALL))


def test_a_tiny_run_writes_figures_with_all_that_they_depend_on(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- benchmark: here -->\nOLD TABLE\n<!-- end of benchmark: here -->\nafter\n"
    )
    files = ["--json", tmp_path / "made" / "result.json", "--markdown", page, "--section", "here"]
    parts = [
        "--part",
        "step,parts,head,translation",
        "--head_batches",
        "1,2,4",
        "--variants",
        "fp32,nhwc",
    ]
    result = run_command(["scripts/benchmark.py", *QUICK, *parts, "--batches", "1,2", *files])
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "made" / "result.json").read_text())
    assert {"command", "commit", "versions", "hardware", "before", "after", "rates"} <= found[
        "facts"
    ].keys()
    assert found["facts"]["versions"]["torch"] == torch.__version__
    assert (
        found["facts"]["rates"]["matmul_fp32_tflops"] > 0
        and found["facts"]["rates"]["copy_gbytes"] > 0
    )

    ladder = found["step"]
    assert ladder["checks"]["nhwc"]["cosine"] > 0.9999 and ladder["checks"]["nhwc"]["loss"] < 1e-5
    assert ladder["ratios"]["nhwc"]["fp32"]["ratio"] > 0
    assert ladder["first_step_s"].keys() == ladder["start_up_s"].keys() == {"fp32", "nhwc"}
    assert all(ladder["first_step_s"].values()), (
        "each row has its first step timed, the reference's too"
    )
    assert 0 < ladder["density"] <= 1
    assert all(
        len(timing["rounds_ms"]) == 2 and timing["process_ms"] > 0
        for timing in ladder["timings"].values()
    )
    assert (
        ladder["counts"]["fp32"]["host_reads"] == 0 and ladder["counts"]["fp32"]["operators"] > 100
    )
    flops = {name: row["fp32"]["gflop"] for name, row in found["parts"].items()}
    whole = ladder["counts"]["fp32"]["flops"] / 1e9
    assert sum(flops.values()) == pytest.approx(whole, rel=1e-6), "parts do not add up to the step"
    assert [row["images_per_s"] > 0 for row in found["translation"]] == [True, True]

    growth = found["head"]["growth"]
    assert [row["pairs"] for row in growth["rows"]] == [2, 4, 8]
    one, two, four = (row["memory_mb"] for row in growth["rows"])
    assert four - two == pytest.approx(
        2 * (two - one), rel=1e-3
    )  # linear, beside the weights' own gradients
    assert growth["memory_mb_per_image"] == pytest.approx((four - two) / 2)
    assert 0.5 < growth["exponents"]["memory_mb"] < 1.01 and growth["exponents"]["ms_min"] < 1.5
    assert found["head"]["checks"]["head at batch 4"]["loss"] < 1e-5

    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "OLD TABLE" not in text
    for title in ("One training step", "Its parts", "The graph head alone", "Translation"):
        assert f"**{title}" in text and f"**{title}" in result.stdout


def test_memory_is_measured_in_a_process_of_its_own():
    found = sweep.in_fresh_process(
        [flag for flag in QUICK if flag not in ("--rounds", "2")], "fp32", 2, timeout=200
    )
    assert found["allocated_gb"] > 0.03, found  # VGG16 alone has 7.6 M weights
    assert found["ms_per_pair"] == pytest.approx(found["ms"] / 2)
    assert found["pairs_per_s"] == pytest.approx(1e3 / found["ms_per_pair"])
    assert "not done" in sweep.in_fresh_process(QUICK, "fp32", 1, timeout=0.01)["failed"]


def spoil(monkeypatch, factor):
    """Change G of every contestant but the reference."""
    real = checks.copy_weights

    def copy(source, target):
        real(source, target)
        with torch.no_grad():
            target.networks()["G"].model[1].weight[0] *= factor

    monkeypatch.setattr(checks, "copy_weights", copy)


@pytest.mark.parametrize("factor", [-1.0, torch.nan])
def test_steps_that_differ_get_no_ratio(monkeypatch, capsys, tmp_path, factor):
    spoil(monkeypatch, factor)
    path = tmp_path / "result.json"
    assert (
        benchmark.main([*QUICK, "--part", "step", "--variants", "fp32,nhwc", "--json", str(path)])
        == 1
    )
    out, err = capsys.readouterr()
    assert out == "" and not path.exists()
    assert (
        err.startswith("error: nhwc: ")
        and err.endswith("no ratio is printed\n")
        and err.count("\n") == 1
    )


def test_the_others_can_be_measured_all_the_same(monkeypatch, capsys, tmp_path):
    spoil(monkeypatch, -1.0)
    path = tmp_path / "result.json"
    flags = ["--part", "step", "--variants", "fp32,nhwc", "--keep_going", "--json", str(path)]
    assert benchmark.main([*QUICK, *flags]) == 1
    found = json.loads(path.read_text())["step"]
    assert list(found["timings"]) == ["fp32"] and found["ratios"] == {}
    assert "no ratio is printed" in found["failed"]["nhwc"]
    out, err = capsys.readouterr()
    assert "| nhwc | no figure: nhwc: " in out and err.count("\n") == 1


SECTIONS = {
    "step": "measure_step", "parts": "take_apart", "levers": "measure_levers", "memory": "alone", "sweep": "alone",
    "head": "measure_head", "files": "measure_files", "translation": "measure_translation",
}  # fmt: skip


@pytest.mark.parametrize("section", SECTIONS)
def test_an_error_in_one_section_loses_no_other(section, monkeypatch, capsys, tmp_path):
    """Results are on the disk after each section; the one that fails says why, and the status is 1."""
    path, written = tmp_path / "result.json", []

    def found(*_):
        written.append(json.loads(path.read_text()) if path.exists() else {})
        return {}

    def fail(*_):
        raise IndexError("list index out of range")

    for name in SECTIONS.values():
        place = benchmark if hasattr(benchmark, name) else benchmark.sweep
        monkeypatch.setattr(place, name, found)
    place = benchmark if hasattr(benchmark, SECTIONS[section]) else benchmark.sweep
    monkeypatch.setattr(place, SECTIONS[section], fail)
    monkeypatch.setattr(benchmark, "gather_facts", lambda *_: {"rates": {}})
    monkeypatch.setattr(report, "to_markdown", lambda result: "tables")

    parts = ["--part", ",".join(SECTIONS), "--dataroot", "photos", "--json", str(path)]
    assert benchmark.main([*QUICK, *parts]) == 1
    failing = {name for name, function in SECTIONS.items() if function == SECTIONS[section]}
    result = json.loads(path.read_text())
    assert result["failed"] == dict.fromkeys(failing, "IndexError: list index out of range")
    assert result.keys() - {"facts", "failed"} == SECTIONS.keys() - failing
    assert len(written[-1]) >= len(SECTIONS) - len(failing), "published at the end only"
    out, err = capsys.readouterr()
    assert out == "tables\n" and err.count("Traceback") == len(failing)
    assert err.endswith(": IndexError: list index out of range\n")


def test_a_step_that_breaks_while_it_is_timed_leaves_the_others(settings, monkeypatch):
    contest = step.Contest(settings, checks.Agreements(), Failures(keep_going=True))
    contest.contestants = {"fp32": Ours("fp32", settings), "control": Ours("control", settings)}
    monkeypatch.setattr(contest.contestants["control"], "run_on", lambda batch: 1 // 0)
    timings = contest.time(step.Turns(iterations=1, rounds=2, warm_up=1))
    assert list(timings) == ["fp32"] and len(timings["fp32"].wall) == 2
    assert contest.failed["control"].startswith("ZeroDivisionError: ")
    assert list(contest.count()) == ["fp32"]


def test_translation_is_measured_in_the_precision_that_it_is_named_after(settings):
    pictures = [sweep.translation(settings, v, 1)()["fake_B"].float() for v in ("fp32", "bf16")]
    difference = (pictures[0] - pictures[1]).abs().max()
    assert 1e-4 < difference < 0.1, "bfloat16 rounds to 8 bits"


def test_batches_are_swept_without_compiling():
    """Each batch size would be compiled anew."""
    assert benchmark.uncompiled(ours.ON_GPU) == "bf16+nhwc+graph"
    assert benchmark.uncompiled(["compile"]) == "compile"


def test_a_ratio_needs_a_check(settings):
    contest = step.Contest(settings, checks.Agreements())
    timing = Timing(wall=[1.0], process=[1.0])
    contest.agreements.found["fp32"] = {}
    with pytest.raises(checks.Refused, match="nhwc was not compared"):
        contest.ratios({"fp32": timing, "nhwc": timing})


def test_first_steps_are_counted_beyond_settled_ones_and_beside_those_of_the_reference(settings):
    contest = step.Contest(settings, checks.Agreements(), first={"fp32": 3.0, "compile": 10.0})
    timings = {
        "fp32": Timing(wall=[2.0, 2.5], process=[1.0], setup=0.5),
        "compile": Timing(wall=[1.5, 1.0], process=[1.0]),
    }
    start_up = contest.start_up(timings)
    assert start_up == {"fp32": 1.5, "compile": 9.0}

    shown = {"fp32": {"ms": 2000.0}, "compile": {"ms": 1000.0}, "slow": {"ms": 3000.0}}
    start_up["slow"] = 0.0
    paid = [report._break_even(name, start_up, shown) for name in shown]
    assert paid == [None, 7.5, None]
    start_up["compile"] = 1.0
    assert report._break_even("compile", start_up, shown) == 0


def test_a_head_that_mixes_pairs_is_found(monkeypatch, capsys):
    real = Ours.head_losses
    monkeypatch.setattr(
        Ours, "head_losses", lambda self, a, b: (losses := real(self, a, b)) + 0.01 * losses.mean()
    )
    assert benchmark.main([*QUICK, "--part", "head", "--head_batches", "1,2"]) == 1
    assert "head at batch" in capsys.readouterr().err


def test_recorded_steps_are_compared_step_by_step(settings, monkeypatch):
    """Two plain steps stand for both sides; one that moves less is found."""
    monkeypatch.setattr(checks, "STEPS", 6)
    ids = Ours("fp32", settings).draw_positions()
    agreements = checks.Agreements(found={"fp32": {}})
    checks.compare_recorded(Ours("fp32", settings), Ours("fp32", settings), ids, agreements)
    assert agreements.found["fp32"] == {
        "recorded_steps": 6,
        "recorded_loss": 0.0,
        "recorded_bits": True,
    }
    slow = Ours("fp32", settings, flags="--amp off --lr 0.00001")
    with pytest.raises(checks.Refused, match="6 recorded steps"):
        checks.compare_recorded(Ours("fp32", settings), slow, ids, agreements)


def test_recorded_variants_take_part(settings, monkeypatch):
    """A recorder that replays operators on the CPU stands for CUDA graphs."""

    def recorded(model, runtime, say):
        if runtime.capture:
            return RecordedStep(PlainStep(model), CpuRecorder(model.changing_tensors), pytest.fail)
        return PlainStep(model)

    real = Runtime.from_options.__func__

    def from_options(cls, opt):
        runtime = real(cls, opt)
        runtime.capture = opt.cuda_graph == "on"
        return runtime

    monkeypatch.setattr(checks, "STEPS", 6)
    monkeypatch.setattr(Runtime, "from_options", classmethod(from_options))
    monkeypatch.setattr(ours, "create_step", recorded)
    monkeypatch.setitem(ours.LADDER, "graph", "--amp off --cuda_graph on")
    contest = step.Contest(settings, checks.Agreements())
    contest.admit(["graph"], None)
    contestant = contest.contestants["graph"]
    assert contest.agreements.found["graph"]["recorded_bits"] is True
    assert isinstance(contestant.stepper, RecordedStep) and not contestant.stepper.recordings
    timings = contest.time(step.Turns(iterations=2, rounds=2, warm_up=5))
    assert contestant.stepper.recordings
    assert contest.ratios(timings)["graph"]["fp32"]["ratio"] > 0
    assert "flops" not in contest.count()["graph"]


def test_levers_are_measured_beside_equal_forms_only(settings):
    turns = step.Turns(iterations=1, rounds=2, warm_up=1)
    found = levers.measure_levers(settings, turns)
    assert {len(forms) for forms in found.values()} == {2, 3, 4} and len(found) == 8
    assert all(
        row["ms"] > 0 and row["ratio"]["ratio"] > 0 for forms in found.values() for row in forms[1:]
    )
    shown = report.show_levers({"forms": found, "failed": {"blur": "IndexError: 3"}})
    assert "| blur | no figure: IndexError: 3 |" in shown
    assert shown.count("| ours |") == 8 and "transposed convolution" in shown
    down = levers.BlurDown(4)
    forms = {"a": down, "b": lambda x: levers.sliced(down, 1.001 * x)}
    with pytest.raises(checks.Refused, match=r"halving: a and b differ by 0\.00"):
        levers.require_equal("halving", torch.rand(1, 4, 8, 8), forms)


def test_a_probe_leaves_no_trace(settings):
    own = Ours("fp32", settings)
    before = {key: value.clone() for key, value in own.networks()["G"].state_dict().items()}
    ids = own.draw_positions()
    first = checks.take_probe(own, ids)
    small = checks.probe_in_double(own, [layer[:, :16] for layer in ids])
    again = checks.take_probe(own, ids)
    assert first.losses == again.losses and small.losses != first.losses
    assert next(iter(small.gradients.values())).dtype == torch.float64
    assert all(
        torch.equal(value, before[key]) for key, value in own.networks()["G"].state_dict().items()
    )
    assert all(not optimizer.state for optimizer in own.optimizers())
    assert own.optimizers()[0].param_groups[0]["lr"] == own.opt.lr


def test_nan_is_never_overlooked():
    good = checks.Probe({"G": 1.0}, {"w": torch.ones(3)})
    for bad in (
        checks.Probe({"G": torch.nan}, good.gradients),
        checks.Probe({"G": 1.0}, {"w": torch.full((3,), torch.nan)}),
    ):
        with pytest.raises(checks.Refused):
            checks.Agreements().compare("x", good, bad, "fp32")
        with pytest.raises(checks.Refused):
            checks.Agreements().compare_in_double("x", good, bad)


def test_counters_count():
    a, b = torch.randn(8, 16), torch.randn(16, 4)
    assert count(lambda: (a @ b).t()) == {
        "flops": 2 * 8 * 16 * 4, "operators": 2, "bytes": 4 * (128 + 64 + 32), "host_reads": 0,
    }  # fmt: skip
    layer = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(layer.parameters(), foreach=False)
    layer(b).sum().backward()
    with HostReads() as reads:
        b.sum().item()
        b.tolist()
        b.cpu().numpy()
        bool(b[0, 0] > 0)
        optimizer.step()  # reads its own counters, which are on the host
    assert reads.names == {"item": 1, "tolist": 1, "cpu": 1, "numpy": 1, "__bool__": 1}
    assert count(lambda: torch.nonzero(b))["host_reads"] == 1


def test_live_memory_is_that_of_living_tensors():
    a = torch.zeros(1000)
    with LiveMemory() as memory:
        b = a + 1
        assert memory.now == 4000
        c = b.view(10, 100).t()
        b += 1
        a.view(10, 100)
        assert memory.now == 4000
        d = torch.cat([b, c.flatten()])  # flattening a transposed view copies
        assert (memory.now, memory.peak) == (12000, 16000)
        del b, c
        assert memory.now == 8000
        del d
        assert (memory.now, memory.peak) == (0, 16000)


def test_ratios_are_of_medians_with_extremes_of_rounds():
    slow, fast = Timing([2.0, 4.0, 6.0], [9.0, 6.0, 6.0]), Timing([1.0, 4.0, 2.0], [2.0, 2.0, 3.0])
    found = speed_up(slow, fast)
    assert (found["ratio"], found["ratio_low"], found["ratio_high"]) == (2.0, 1.0, 3.0)
    assert (found["ratio_of_minima"], found["ratio_process"]) == (2.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0) and quartiles([7.0]) == (
        7.0,
        7.0,
        7.0,
    )
    assert head.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert head.exponent([1], [3.0]) is None


def test_the_stand_in_for_dgl_convolves_as_the_dense_head_does():
    sparse = pytest.importorskip("scipy.sparse", reason="only the released code needs SciPy")
    torch.manual_seed(0)
    matrix = (torch.rand(12, 12) < 0.3).float()
    matrix[:, 3] = 0  # a node without predecessors
    dense = TAGConv(5, 7, hops=2)
    loose = dgl_stand_in.TAGConv(5, 7, k=2)
    loose.load_state_dict(dense.state_dict())
    graph = dgl_stand_in.Graph(sparse.csr_matrix(matrix.numpy()), readonly=True).to("cpu")
    x = torch.randn(12, 5)
    expected = dense(x[None], normalize_adjacency(matrix[None], extra_loop=True))[0]
    torch.testing.assert_close(loose(graph.with_self_loops(), x), expected)
    weighted = sparse.csr_matrix(
        np.array([[0.0, 0.5], [0.25, 0.0]])
    )  # weights do not count, only where they are
    hops, degree = dgl_stand_in.Graph(weighted).sum_of_predecessors(torch.float32)
    assert hops.to_dense().tolist() == [[0.0, 1.0], [1.0, 0.0]] and degree.tolist() == [1.0, 1.0]


def write_release(folder):
    """Packages with the names of the released ones, that can be told from ours."""
    for name, text in {
        "models/__init__.py": "OWNER = 'release'\ndef create_model(options): return options",
        "models/PatchGCL.py": "import dgl\ndef top_k_graph(scores, matrix, nodes, keep): return scores.cuda()",
        "options/__init__.py": "",
        "options/train_options.py": "class TrainOptions:\n    def __init__(self, cmd_line): self.line = cmd_line\n"
        "    def parse(self):\n        import sys\n"
        "        if 'odd' in self.line:\n            sys.exit(print('usage\\ntrain.py: error: no', file=sys.stderr))\n"
        "        print('noise')\n        return self.line, list(sys.argv)",
        "data/__init__.py": "def create_dataset(options): pass",
        "util/__init__.py": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_checkout_is_imported_beside_this_project(settings, tmp_path, capsys):
    release = Release(write_release(tmp_path / "their"), settings, "stand-in")
    try:
        line, argv = release.options()
        assert (
            argv == ["train.py"] and "--nonzero_th 0.1" in line and line.endswith(" ".join(SMALL))
        )
        assert "--gpu_ids -1" in line and "--crop_size 32" in line
        assert capsys.readouterr().out == ""
        with pytest.raises(
            UserError, match=r"the released code refuses them \(train.py: error: no\)"
        ):
            release.options("odd")
        assert capsys.readouterr() == ("", "")
        assert release.head_module.top_k_graph(torch.ones(2), None, None, 1).tolist() == [1, 1]
        assert models.find_model("patchgcl") and not hasattr(models, "OWNER")
        with release.importable():
            import models as theirs

            assert theirs.OWNER == "release"
        assert any("stand-in" in patch for patch in release.patches)
        assert any(".cuda()" in patch for patch in release.patches)
    finally:
        release.close()
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError)):
            torch.ones(1).cuda()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--official", "nowhere"], "no models/PatchGCL.py there"),
        (["--official", "nowhere", "--preset", "paper"], "--preset official"),
        (["--part", "files"], "give --dataroot"),
        (["--device", "cuda"], "finds no GPU"),
    ],
)
def test_bad_input_is_one_line(capsys, flags, words):
    if "cuda" in flags and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert benchmark.main([*QUICK, *flags]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_unknown_names_are_refused():
    for flags in (["--part", "stepp"], ["--variants", "fp33"]):
        with pytest.raises(SystemExit) as stop:
            benchmark.main(flags)
        assert stop.value.code == 2


def test_a_page_without_markers_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n")
    with pytest.raises(UserError, match="<!-- benchmark: gpu -->"):
        report.insert(page, "gpu", "table\n")
    assert page.read_text() == "text\n"
    report.insert(tmp_path / "new.md", "gpu", "a\\1\n")
    report.insert(tmp_path / "new.md", "gpu", "b\\1\n")
    assert (
        tmp_path / "new.md"
    ).read_text() == "<!-- benchmark: gpu -->\nb\\1\n<!-- end of benchmark: gpu -->\n"
