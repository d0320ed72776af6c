"""`python -m benchmarks`: tiny runs through the command line, and what makes its figures honest."""

import contextlib
import csv
import importlib.metadata
import io
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
if not (ROOT / "benchmarks" / "__main__.py").is_file():
    pytest.skip("the benchmark is not part of this distribution", allow_module_level=True)

from benchmarks import (  # noqa: E402
    QUESTIONS,
    apart,
    baseline,
    children,
    clock,
    cold,
    contest,
    family,
    loops,
    memory,
    nets,
    network,
    onm,
    ours,
    peers,
    sparse,
    timing,
)
from benchmarks.__main__ import main  # noqa: E402
from benchmarks.questions import ANSWERS  # noqa: E402
from snntorch_bpsta import _torch, cli, data, functional  # noqa: E402


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """An empty working directory, one line per error, and the threads as they were."""
    monkeypatch.delenv("BPSTA_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def bench(*argv):
    """The exit code, and of each CSV file the first row of each competitor."""
    try:
        code = main([*argv, "--quick", "--device", "cpu", "--out", "out", "--skip", "torch.compile"])
    except SystemExit as end:
        code = end.code
    rows = {}
    for question in QUESTIONS:
        try:
            with open(f"out/{question}-cpu.csv", newline="") as file:
                rows[question] = {row["competitor"]: row for row in reversed(list(csv.DictReader(file)))}
        except FileNotFoundError:
            pass
    return code, rows


@pytest.fixture
def nothing_installed(monkeypatch):
    """No peer but snnTorch."""
    find = peers.importlib.util.find_spec
    gone = ("spikingjelly", "norse", "sinabs", "tether", "spyx")
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name in gone else find(name))


def test_layer(capsys, nothing_installed):
    code, rows = bench("layer")
    assert code == 0
    rows = rows["layer"]
    for name in ("bpsta", "snntorch loop", "bpsta, options off", contest.FLOOR):
        row = rows[name]
        assert 0 < float(row["p20_ms"]) <= float(row["p50_ms"]) <= float(row["p80_ms"])
        assert row["device"] and row["threads"] == "1" and row["torch"] == importlib.metadata.version("torch")
        assert row["spikingjelly"] and row["date"].endswith("UTC") and row["busy"] in ("True", "False")
    assert float(rows["snntorch loop"]["faster"]) == 1 == float(rows[contest.FLOOR]["of_floor"])
    assert float(rows["bpsta"]["spikes_differ"]) == 0 and float(rows["bpsta"]["gradient_error"]) < 1e-5
    assert not [name for name, row in rows.items() if "failed" in row["note"]]
    assert rows["bpsta, CUDA graph"]["note"] == rows["bpsta, bfloat16"]["note"] == "needs CUDA"
    for name in ("spikingjelly torch", "norse LIFBox, Lift", "sinabs LIF", "tetherpy LIF"):
        assert rows[name]["note"] == "not installed" and rows[name]["p50_ms"] == ""
    out = capsys.readouterr().out
    assert (
        out.startswith("layer: ") and "not installed" in out and f"snntorch {row['snntorch']}" in out and "load " in out
    )


@pytest.mark.parametrize("what", ["spikes", "gradient"])
def test_ours_when_wrong_gets_no_speed(what, monkeypatch, capsys, nothing_installed):
    right = functional.lif_multistep

    def wrong(x, *args, impl="auto", **options):
        out = right(x, *args, impl=impl, **options)
        if impl == "reference":
            return out
        spk = out.spk.clone()
        if what == "spikes":
            spk[-1, -1, -1] = 1 - spk[-1, -1, -1]
        else:
            spk = spk.detach() + 1.001 * (spk - spk.detach())
        return out._replace(spk=spk)

    monkeypatch.setattr(functional, "lif_multistep", wrong)
    code, rows = bench("layer")
    assert code == 2
    row = rows["layer"]["bpsta"]
    assert row["note"].startswith("WRONG") and what in row["note"] and row["p50_ms"] == row["faster"] == ""
    assert rows["layer"]["snntorch loop"]["p50_ms"]
    error = capsys.readouterr().err
    assert error.startswith("benchmarks: error: ") and error.count("\n") == 1 and what in error


def test_light_questions(nothing_installed):
    code, rows = bench("fused", "time", "neurons", "step")
    assert code == 0
    assert list(rows) == ["fused", "time", "neurons", "step"]
    assert float(rows["fused"]["bpsta, relu and in place"]["spikes_differ"]) == 0
    assert float(rows["time"]["bpsta"]["ns_per_neuron_step"]) > 0 < float(rows["neurons"]["bpsta"]["p50_ms"])
    assert float(rows["step"]["host"]["of_host"]) == 1 and 0 < float(rows["step"]["bpsta, options on"]["of_host"])


def test_network(nothing_installed):
    code, rows = bench("network")
    assert code == 0
    rows = rows["network"]
    users = rows.pop(nets.LOOP)
    assert float(users["faster"]) == 1 and users["memory"] == "as it is" and users["neuron_ms"] == ""
    assert users["rate"] == rows[nets.LOOP + network.KEPT]["rate"]  # the same network and frames, in another process
    assert float(rows[nets.BOUND + nets.LAST]["of_floor"]) == 1 != float(rows[nets.BOUND]["of_floor"])
    for layout in ("", nets.LAST):
        assert rows[f"spikingjelly, its best{layout}"]["note"] == "not installed"
        assert float(rows[nets.OURS + layout]["spikes_differ"]) <= 1e-2 < float(rows[nets.OURS + layout]["rate"])
    ran = {name: row for name, row in rows.items() if not row["note"]}
    assert len(ran) == 8
    for name, row in ran.items():
        parts = {part: float(row[f"{part}_ms"]) for part in ("convolution", "neuron", "pool", "memory", "rest")}
        assert sum(parts.values()) == pytest.approx(float(row["p50_ms"]), rel=1e-3)
        assert parts["convolution"] > 0 < parts["rest"], name
        if name.startswith(nets.OURS):
            bound = name.replace(nets.OURS, nets.BOUND)
            assert parts["neuron"] > float(ran[bound]["neuron_ms"])


def test_the_networks_in_channels_last_are_so_inside(monkeypatch):
    strides = []
    convolve = torch.nn.functional.conv2d

    def look(x, weight, *args):
        strides.append((x.is_contiguous(memory_format=torch.channels_last), weight.stride(1)))
        return convolve(x, weight, *args)

    monkeypatch.setattr(torch.nn.functional, "conv2d", look)
    x = (torch.rand(2, 3, 2, 34, 34) < 0.3).float()
    for name in (nets.LOOP, nets.FOLDED, nets.BOUND):
        nets.build(name + nets.LAST, settings())(nets.channels_last(x))
    assert len(strides) == 3 * (2 + 1 + 1) and set(strides) == {(True, 1)}


def test_a_network_when_wrong_gets_no_speed(monkeypatch, nothing_installed):
    monkeypatch.setitem(nets.NETWORKS, nets.OURS, lambda: torch.nn.Sequential(nets.NETWORKS[nets.FOLDED](), Flip()))
    code, rows = bench("network")
    assert code == 2
    for layout in ("", nets.LAST):
        row = rows["network"][nets.OURS + layout]
        assert row["note"].startswith("WRONG") and not row["p50_ms"]


class Flip(torch.nn.Module):
    def forward(self, spk):
        return 1 - spk


@pytest.mark.parametrize(
    "operator, part",
    [
        ("aten::mkldnn_convolution", "convolution"), ("aten::addmm", "convolution"), ("aten::copy_", "memory"),
        ("aten::max_pool2d_with_indices_backward", "pool"), ("_EagerBackward", "neuron"), ("aten::gt", "neuron"),
        ("benchmarks: step", "rest"),
    ],
)  # fmt: skip
def test_the_part_of_an_operator(operator, part):
    assert network._part(operator) == part


def test_sparse(monkeypatch):
    code, _ = bench("sparse")
    assert code == 0
    with open("out/sparse-cpu.csv", newline="") as file:
        rows = {(row["case"], row["competitor"]): row for row in csv.DictReader(file)}
    cases = {case for case, _ in rows}
    assert len(cases) == 4 and len(rows) == 16
    for case in cases:
        for name in (sparse.SKIPPING, sparse.DENSE, sparse.NCHW, sparse.LAST):
            row = rows[case, name]
            assert float(row["error"]) <= 1e-4 and float(row["p50_ms"]) > 0
            assert float(row["rate"]) == pytest.approx(float(case.rpartition(" ")[2]), abs=0.1)
        assert float(rows[case, sparse.LAST]["faster"]) == 1
        assert rows[case, sparse.SKIPPING]["ran"] == ("skips zeros" if case.endswith(" 0.1") else "dense")
        assert {rows[case, name]["ran"] for name in (sparse.DENSE, sparse.NCHW, sparse.LAST)} == {"dense"}


def test_sparse_switches_and_switches_back(monkeypatch):
    switched = []
    monkeypatch.setattr(sparse.snn, "skip_zeros", lambda on=True: switched.append(on))
    bench("sparse")
    assert {True, False} == set(switched) and switched[-1] is True


def test_a_convolution_when_wrong_gets_no_speed(monkeypatch):
    right = sparse.skipping.of_layer

    def wrong(*args, **options):
        y, how = right(*args, **options)
        return None if y is None else 1.001 * y, how

    monkeypatch.setattr(sparse.skipping, "of_layer", wrong)
    code, rows = bench("sparse")
    assert code == 2
    assert rows["sparse"][sparse.SKIPPING]["note"].startswith("WRONG") and not rows["sparse"][sparse.SKIPPING]["p50_ms"]
    assert rows["sparse"][sparse.LAST]["p50_ms"]


def test_onm(nothing_installed):
    code, rows = bench("onm")
    assert code == 0
    rows = rows["onm"]
    assert rows["spyx LIF, jax.jit"]["note"] == rows["sinabs LIF"]["note"] == "not installed"
    ran = {name: row for name, row in rows.items() if not row["note"]}
    assert set(ran) == {onm.SNNTORCH.name, *(peer.name for peer in onm.OURS)}
    for name, row in ran.items():
        assert 0 < float(row["forward_ms"]) < float(row["p80_ms"]) and float(row["backward_ms"]) > 0
        assert float(row["rate"]) > 0 and (name == onm.SNNTORCH.name or float(row["spikes_differ"]) <= 1e-3)


def test_onm_when_wrong_gets_no_speed(monkeypatch, nothing_installed):
    right = onm.snn.Leaky.sequence

    def wrong(self, x, **options):
        spk, *rest = right(self, x, **options)
        return (1 - spk, *rest)

    monkeypatch.setattr(onm.snn.Leaky, "sequence", wrong)
    code, rows = bench("onm")
    assert code == 2
    assert rows["onm"]["bpsta sequence"]["note"].startswith("WRONG") and not rows["onm"]["bpsta sequence"]["p50_ms"]


def test_forward_and_backward_are_timed_apart():
    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            timing.time.sleep(0.02)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            timing.time.sleep(0.1)
            return grad

    net = torch.nn.Linear(2, 2)
    turn = onm._Halves(net, lambda x: Slow.apply(net(x)), torch.ones(1, 2))
    ms = turn.ms(torch.device("cpu"))
    assert 20 <= turn.parts[0] < 90 < 100 <= turn.parts[1] and ms == sum(turn.parts)


class Own:
    """A turn that tells of its process, and fails where it is asked to."""

    prepare = None

    def __init__(self, settings, there=True):
        if not there:
            raise peers.Unavailable("not here")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self.columns, self.parts = {"pid": os.getpid(), "cores": cores}, [torch.get_num_threads()]

    def ms(self, device, number=1):
        if number == 0:
            raise KeyError("lost")
        if number < 0:
            os._exit(7)
        return 2.0 * number


def test_a_competitor_in_a_process_of_its_own():
    with apart.Apart(Own, settings(threads=1)) as turn:
        assert turn.columns["pid"] != os.getpid() and turn.columns["cores"] == 1
        with pytest.raises(RuntimeError, match="KeyError: 'lost'"):
            turn.ms(torch.device("cpu"), 0)
        assert turn.ms(torch.device("cpu"), 3) == 6 and turn.parts == [1]
        process = turn._process
    assert process.exitcode == 0


def test_a_process_that_cannot_be_or_ends_says_so():
    with pytest.raises(peers.Unavailable, match="not here"):
        apart.Apart(Own, settings(), False)
    with apart.Apart(Own, settings()) as turn, pytest.raises(ConnectionError, match="exit code 7"):
        turn.ms(torch.device("cpu"), -1)


# --- training by the clock ----------------------------------------------------------------------

CLOCK = [
    "out/clock.csv",
    "--dataset",
    "digits",
    "--width",
    "0.0625",
    "--num-steps",
    "2",
    "--epochs",
    "2",
    "--batch-size",
    "16",
]


@pytest.fixture
def few_images(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 17, (40, 1, 8, 8), generator=generator, dtype=torch.uint8).numpy()
    monkeypatch.setattr(data, "load", lambda *args, **options: data.Samples(images, torch.arange(40) % 10, 16))


def clock_rows():
    with open("out/clock.csv", newline="") as file:
        return [{k: v for k, v in row.items() if "seconds" not in k and k != "date"} for row in csv.DictReader(file)]


def test_clock_goes_on_where_it_was_stopped(few_images, monkeypatch):
    pytest.importorskip("matplotlib")
    assert clock.main(CLOCK) == 0
    whole = clock_rows()
    assert [(row["gradient"], row["skip_zeros"], row["epoch"]) for row in whole] == [
        (gradient, str(skipping), str(epoch)) for gradient, skipping in clock.RUNS for epoch in (1, 2)
    ]
    assert all(0 < float(row["firing_rate"]) < 1 and 0 <= float(row["accuracy"]) <= 1 for row in whole)
    assert whole[0]["loss"] != whole[1]["loss"] != whole[5]["loss"] and Path("out/clock.png").is_file()
    shutil.rmtree("out")

    measure, calls = clock.Run._measure, []

    def stopped(self, validation):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return measure(self, validation)

    monkeypatch.setattr(clock.Run, "_measure", stopped)
    with pytest.raises(KeyboardInterrupt):
        clock.main(CLOCK)
    assert len(clock_rows()) == 5
    assert clock.main(CLOCK) == 0 and len(calls) == 6 + 3
    assert clock_rows() == whole


def test_clock_takes_no_states_of_another_run(few_images, capsys):
    pytest.importorskip("matplotlib")
    assert clock.main([*CLOCK, "--epochs", "1"]) == 0
    capsys.readouterr()
    assert clock.main([*CLOCK, "--batch-size", "8"]) == 2
    error = capsys.readouterr().err
    assert "is of another run" in error and error.count("\n") == 1


# --- the page of the docs that reads the rows ---------------------------------------------------


def test_the_page_where_the_time_goes_reads_the_rows(few_images, nothing_installed):
    pytest.importorskip("matplotlib")
    measured = runpy.run_path(str(ROOT / "docs" / "measured.py"))["measured"]
    page = (ROOT / "docs" / "where-the-time-goes.md").read_text(encoding="utf-8")
    empty = measured("out")
    assert all(page.count(f"<!-- {name} -->") == 1 and "Not measured" in text for name, text in empty.items())
    assert (
        bench("network", "sparse", "onm")[0] == 0 == clock.main(["out/clock-digits.csv", *CLOCK[1:], "--epochs", "1"])
    )
    with open("out/network-other.csv", "w") as file:
        file.write("question,case,competitor,p50_ms\nnetwork,a,bpsta,1\n")  # of before the parts
    texts = measured("out")
    for name, row in (
        ("network", "| without neurons, channels last |"), ("goals", "| >= 3.5 |"), ("sparse", "| 0.5 |"),
        ("onm", "| bpsta MultiStep |"), ("clock", "| rectangle | skipped | 1 |"),
    ):  # fmt: skip
        assert row in texts[name] and "1 thread(s)" in texts[name]
    assert "not installed" in texts["onm"]
    assert "clock-digits.png" in texts["clock"] and texts["network"].count("thread(s)") == 1


def test_loops(monkeypatch):
    code, _ = bench("loops")
    assert code == 0
    with open("out/loops-cpu.csv", newline="") as file:
        rows = {(row["case"], row["competitor"]): row for row in csv.DictReader(file)}
    assert {case for case, _ in rows} == set(loops.QUICK)
    for case in loops.QUICK:
        folded = rows[case, loops.FOLDED]
        assert float(folded["faster"]) > 0 < float(folded["first_call_of_loop"]) and float(folded["error"]) < 1e-4
        assert float(rows[case, loops.LOOP]["faster"]) == 1


@pytest.mark.parametrize("what", ["folded", "right"])
def test_loops_when_wrong_get_no_speed(what, monkeypatch):
    from snntorch_bpsta.folding import replay

    right = replay.Runner.__call__
    if what == "right":
        monkeypatch.setattr(replay.Runner, "__call__", lambda *args: tuple(1.1 * t for t in right(*args)))
    else:
        monkeypatch.setattr(replay.Runner, "__call__", lambda *args: [].pop())
    code, rows = bench("loops")
    assert code == 2
    assert rows["loops"][loops.FOLDED]["note"].startswith("WRONG") and not rows["loops"][loops.FOLDED]["faster"]


def test_family(nothing_installed):
    code, _ = bench("family")
    assert code == 0
    with open("out/family-cpu.csv", newline="") as file:
        rows = {(row["case"], row["competitor"]): row for row in csv.DictReader(file)}
    assert {case.rpartition(",")[0] for case, _ in rows} == set(family.FAMILY)
    for (case, competitor), row in rows.items():
        assert float(row["spikes_differ"]) == 0 < float(row["p50_ms"]) and 0 < float(row["rate"]) < 0.3, (
            case,
            competitor,
        )
        assert (float(row["of_leaky"]) > 0) if competitor == "bpsta" else row["of_leaky"] == ""
        assert float(row["faster"]) > 0
    assert float(rows["Leaky, 8x2x16", "bpsta"]["of_leaky"]) == 1


def test_family_when_wrong(monkeypatch, nothing_installed):
    right = ours.Sequence.__call__

    def wrong(self, x):
        spk = right(self, x)
        return spk if self.impl == "reference" or len(self.parameters) == 0 else spk + 1e-2 * (x - x.detach())

    monkeypatch.setattr(ours.Sequence, "__call__", wrong)
    code, _ = bench("family")
    with open("out/family-cpu.csv", newline="") as file:
        notes = {row["case"]: row["note"] for row in csv.DictReader(file) if row["competitor"] == "bpsta"}
    assert code == 2 and notes["Leaky, 8x2x16"] == ""
    assert "the gradient is off" in notes["RLeaky, 8x2x16"]


def test_call():
    code, rows = bench("call")
    assert code == 0
    rows = rows["call"]
    assert 0 < float(rows["torch.relu"]["p50_us"]) and float(rows["torch.relu"]["of_relu"]) == 1
    assert int(rows["bpsta"]["own_calls"]) > 1 and rows["torch.relu"]["own_calls"] == ""


@pytest.fixture
def nothing_compiled(monkeypatch):
    """torch.compile traces and leaves the code to Python."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compile_(model, backend="eager", **options))


@pytest.mark.parametrize("limit, note", [("4", ""), ("3", "not run: T > 3 (--compile-steps)")])
def test_the_compiled_loop_races_up_to_a_number_of_steps(limit, note, monkeypatch, nothing_compiled):
    monkeypatch.setattr(peers, "LAYER", [peers.OURS, peers.COMPILED])
    assert main(["layer", "--quick", "--device", "cpu", "--out", "out", "--compile-steps", limit]) == 0
    with open("out/layer-cpu.csv", newline="") as file:
        (row,) = (row for row in csv.DictReader(file) if row["competitor"] == peers.COMPILED.name)
    assert row["note"] == note and bool(row["p50_ms"]) == (note == "")


def test_compile(nothing_compiled):
    code, rows = bench("compile")
    assert code == 0
    for name in (nets.LOOP, nets.OURS):
        assert (
            float(rows["compile"][f"{name}, torch.compile"]["first_call_s"])
            > 0
            < float(rows["compile"][name]["p50_ms"])
        )


def test_cold(monkeypatch, capsys):
    """Its scripts, in this process instead of fresh ones."""
    caches = []

    def python(arguments, env):
        _, script, begin = arguments
        caches.append(env.get("NUMBA_CACHE_DIR"))
        monkeypatch.setattr(sys, "argv", ["-c", begin])
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(script, {})
        return out.getvalue()

    monkeypatch.setattr(cold, "python", python)
    code, rows = bench("cold")
    assert code == 0
    with open("out/cold-cpu.csv", newline="") as file:
        rows = {(row["case"], row["competitor"]): row for row in csv.DictReader(file)}
    for name in ("lif_multistep", "Leaky", "Synaptic"):
        row = rows[f"first result of {name}", "empty cache"]
        assert 0 < float(row["first_call_s"]) < float(row["p50_s"]) and not row["note"]
    assert caches[:3] == [None] * 3 and caches[3] == caches[4]  # the import; once to compile, once to find it compiled
    assert len(set(caches[4:])) == 4


def test_own_calls_are_those_of_files_in_the_package():
    x = torch.rand(3, 2)
    assert ours.own_calls(torch.relu, x) == 0
    assert ours.own_calls(lambda x: [_torch.version(x) for _ in range(3)], x) == 3


# --- another checkout in the same rounds ------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """A copy of the package whose spikes come out as minus themselves, so that what runs there shows."""
    shutil.copytree(ROOT / "snntorch_bpsta", tmp_path / "other" / "snntorch_bpsta")
    with (tmp_path / "other" / "snntorch_bpsta" / "__init__.py").open("a") as file:
        file.write(
            "\n_right = functional.lif_multistep\n"
            "def _minus(*args, **options):\n"
            "    out = _right(*args, **options)\n"
            "    return out._replace(spk=-out.spk)\n"
            "functional.lif_multistep = _minus\n"
            "print('what a library prints')\n"
        )
    return tmp_path / "other"


def test_another_checkout(checkout, nothing_installed):
    code, rows = bench("layer", "family", "step", "call", "--baseline", str(checkout))
    assert code == 0
    for question in ("layer", "family", "step", "call"):
        row = rows[question]["baseline"]
        assert float(row["faster_than_baseline"]) == 1 and row["rounds"] == "3" and row["baseline"] == "0.1.0"
        assert not row["note"]
    assert float(rows["layer"]["baseline"]["rate"]) == -float(rows["layer"]["bpsta"]["rate"]) < 0
    assert float(rows["family"]["baseline"]["rate"]) == float(rows["family"]["bpsta"]["rate"])
    assert rows["call"]["baseline"]["own_calls"] == rows["call"]["bpsta"]["own_calls"]
    assert float(rows["layer"]["bpsta"]["faster_than_baseline"]) > 0
    assert rows["layer"]["snntorch loop"]["faster_than_baseline"] == ""


def test_a_checkout_that_is_none_or_fails(tmp_path, checkout, capsys):
    assert bench("call", "--baseline", str(tmp_path))[0] == 2
    error = capsys.readouterr().err
    assert "--baseline takes a checkout" in error and error.count("\n") == 1
    with baseline.Baseline(checkout, settings()) as other:
        other.start((3, 2, 5))
        with pytest.raises(ValueError, match="the baseline: TypeError"):
            other.add("baseline", "sequence", neuron="Leaky", nonsense=1)
        turn, columns = other.add("baseline", "multistep", **peers.PAPER)
        assert turn.ms(torch.device("cpu"), 2) > 0 > columns["rate"]
        other.process.kill()
        with pytest.raises(ConnectionError, match="exit code -9"):
            turn.ms(torch.device("cpu"))


def test_memory(monkeypatch, nothing_installed):
    monkeypatch.setattr(nets, "MIDDLE", nets.MIDDLE[:1])
    code, rows = bench("memory")
    rows = rows["memory"]
    assert code == 0
    assert float(rows["bpsta"]["saved_bytes"]) < 4.1 < 7 < float(rows["snntorch loop"]["saved_bytes"])
    assert float(rows["bpsta, save bfloat16"]["saved_bytes"]) < 2.1
    assert float(rows["bpsta, save compact"]["saved_bytes"]) < 0.8
    with open("out/memory-cpu.csv", newline="") as file:
        assert float(list(csv.DictReader(file))[-1]["of_baseline"]) == 1
    assert rows["norse LIFBox, Lift"]["note"] == "not installed"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("variant", nets.MIDDLE)
def test_peak(variant):
    low, high = (children.peak(variant, "cpu", 1, batch, 2, 1 / 32) for batch in (2, 256))
    assert high > low + 2**20


def test_a_missing_library_of_figures_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, rows = bench("layer", "--plot")
    assert code == 2 and not rows
    assert "matplotlib is not installed: pip install" in capsys.readouterr().err


def test_figures(nothing_installed):
    pytest.importorskip("matplotlib")
    assert bench("time", "step", "network", "sparse", "loops", "--plot")[0] == 0
    for question in ("time", "step", "network", "sparse", "loops"):
        assert Path(f"out/{question}-cpu.png").read_bytes().startswith(b"\x89PNG")


SIZE = slice(16, 24)  # of a PNG: its width and height, here by the number of panels and rows
KEPT = sorted((ROOT / "benchmarks" / "results").glob("*.png"))


@pytest.mark.skipif(not KEPT, reason="the results are not part of this distribution")
def test_the_figures_that_are_kept_are_drawn_from_the_rows_beside_them(capsys):
    pytest.importorskip("matplotlib")
    Path("kept").mkdir()
    for file in KEPT:
        shutil.copy(file.with_suffix(".csv"), "kept")
    Path("kept/other.csv").write_text("cell,reset\nLeaky,zero\n")
    assert main(["draw", "kept"]) == 0
    assert "none, kept/other.csv is of no question" in capsys.readouterr().out
    assert {path.name for path in Path("kept").glob("*.png")} == {file.name for file in KEPT}
    for file in KEPT:
        assert Path("kept", file.name).read_bytes()[SIZE] == file.read_bytes()[SIZE], file.name


def test_a_file_that_is_not_there_cannot_be_drawn(capsys):
    assert main(["draw", "nowhere.csv"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks: error: ") and error.count("\n") == 1 and "nowhere.csv" in error


@pytest.mark.parametrize(
    "argv, words",
    [
        (["nothing"], "nothing"),
        ([], "question"),
        (["layer", "--rounds", "0"], "--rounds must be >= 1"),
        (["layer", "--threads", "0"], "--threads must be >= 1"),
        (["layer", "--rounds", "many"], "many"),
    ],
    ids=str,
)
def test_errors_are_one_line(argv, words, capsys):
    code, rows = bench(*argv)
    error = capsys.readouterr().err
    assert code == 2 and not rows
    assert error.startswith("benchmarks: error: ") and error.count("\n") == 1 and words in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none(capsys):
    assert main(["layer", "--device", "cuda"]) == 2
    assert "there is no CUDA device" in capsys.readouterr().err


# --- the parts ----------------------------------------------------------------------------------


def settings(**options):
    return timing.Settings(device=torch.device("cpu"), **options)


def test_everyone_runs_once_per_round_in_random_order():
    calls = []
    turns = {name: timing.Turn(lambda name=name: calls.append(name)) for name in "abcd"}
    times = timing.measure(turns, settings(rounds=20, quick=True))
    rounds = [calls[i : i + 4] for i in range(4 * timing.WARM_UPS, len(calls), 4)]
    assert len(rounds) == 20 and all(sorted(turn) == list("abcd") for turn in rounds)
    assert len({tuple(turn) for turn in rounds}) > 5
    assert [len(own) for own in times.values()] == [20] * 4


def test_the_slow_one_leaves_after_its_time():
    turns = {"slow": timing.Turn(lambda: timing.time.sleep(0.02)), "fast": timing.Turn(lambda: None)}
    times = timing.measure(turns, settings(rounds=30, seconds=0.05, quick=True))
    assert len(times["slow"]) == timing.MIN_ROUNDS and len(times["fast"]) == 30
    assert timing.ratio(times["slow"], times["fast"]) > 10


def test_what_is_prepared_is_not_timed():
    turn = timing.Turn(lambda argument: argument, lambda: timing.time.sleep(0.05))
    assert turn.ms(torch.device("cpu")) < 25


def test_figures_are_percentiles_and_medians_of_ratios_per_round():
    times = {
        "base": {0: 10.0, 1: 100.0, 2: 30.0},
        "bpsta": {0: 1.0, 1: 50.0, 2: 10.0},
        "floor": {0: 1.0, 1: 1.0, 2: 1.0},
    }
    columns = timing.figures(times, "base", "floor", baseline="base")["bpsta"]
    assert columns["p50_ms"] == 10 and columns["faster"] == 3 and columns["of_floor"] == 10 and columns["rounds"] == 3
    assert columns["faster_than_baseline"] == 3
    assert timing.percentiles([5.0]) == [5.0] * 3
    assert timing.percentiles(range(11)) == [2, 5, 8]
    assert timing.ratio({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    "run, total, without",
    [
        (lambda x: 2 * x, 0, 0),
        (torch.exp, 4, 0),  # keeps its output
        (lambda x: x * x, 0, 0),  # its input, which is not counted
        (lambda x: (x + 1).square(), 4, 4),
        (lambda x: x + (2 * x).exp().detach(), 0, 0),  # a node that is gone keeps nothing
    ],
    ids=["nothing", "output", "input", "between", "gone"],
)
def test_saved_bytes(run, total, without):
    x = torch.rand(3, 5, requires_grad=True)
    assert memory.saved_bytes(run, x) == (total * x.numel(), without * x.numel())


def test_saved_bytes_of_a_python_node():
    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.w, half = x + 1, x.to(torch.bfloat16)
            ctx.save_for_backward(half)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad

    x = torch.rand(3, 5, requires_grad=True)
    assert memory.saved_bytes(Keeps.apply, x) == (6 * 15, 6 * 15)


@pytest.mark.parametrize("relu", [False, True])
def test_the_current_makes_a_plausible_rate(relu):
    x, _ = ours.current((16, 8, 500), torch.device("cpu"), relu)
    assert 0.15 < peers.reference(peers.SNNTORCH, x, relu).mean() < 0.2


def test_a_busy_machine_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "_load", lambda: 1.4)
    report = timing.Report("layer", settings(out=tmp_path))
    assert "WARNING" not in report.table()
    monkeypatch.setattr(timing, "_load", lambda: 1.6)
    report.add("case", "name", p50_ms=1.0)
    assert "WARNING: the machine was busy (load above 1.5)" in report.table()


def test_a_failing_peer_is_a_note():
    notes = {}
    with contest.noted(notes, "peer"):
        raise RuntimeError("first line\nsecond")
    assert notes == {"peer": "failed: RuntimeError: first line second"}


def test_the_loop_of_middle_is_the_same_network():
    torch.manual_seed(0)
    net = nets.middle_network("bpsta", 1 / 32, 2)
    loop = nets.middle_network("snntorch loop", 1 / 32, 2)
    with torch.no_grad():
        for mine, other in zip(loop.parameters(), net.parameters(), strict=True):
            mine.copy_(other.mul_(2))
    x = 3 * torch.rand(2, 3, 3, 32, 32)
    spk = net.eval()(x)
    assert torch.equal(spk, loop.eval()(x)) and spk.any()


def test_half_precision_is_held_against_float32_on_the_same_currents(monkeypatch):
    (half,) = (peer._replace(needs_cuda=False) for peer in peers.LAYER if peer.dtype == torch.bfloat16)
    monkeypatch.setattr(peers, "LAYER", [half])
    code, rows = bench("layer")
    assert code == 0 and float(rows["layer"][half.name]["spikes_differ"]) == 0
    assert 1e-4 < float(rows["layer"][half.name]["gradient_error"]) < half.tolerance


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs want a CUDA device")
def test_a_cuda_graph():
    x, grad = ours.current((4, 2, 33), torch.device("cuda"))
    run = peers.build(peers.OURS, peers.Task(x.device, 4))
    assert contest.captured(run, x, grad).ms(x.device) > 0


def test_every_question_has_an_answer():
    assert set(ANSWERS) == set(QUESTIONS)


def test_the_command_of_the_package_finds_it(capsys):
    assert cli.main(["bench", "layer", "--rounds", "0"]) == 2
    assert "--rounds must be >= 1" in capsys.readouterr().err


SCRIPTS = sorted((ROOT / "benchmarks").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_questions_of_a_script_exist(script):
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    asked = [line.split(" --")[0].split() for line in script.read_text().splitlines() if line.startswith("ask ")]
    assert {word for line in asked for word in line[1:] if not word.isdigit()} == set(QUESTIONS)
