"""What a release is, looked at from outside: ``make release-check``.

Builds wheel and sdist of the tracked files, has twine check them, holds what is in them against what belongs there, installs
the wheel with no extras in an empty environment, and uses it there. Prints the time to import the package beside the host's.
The arguments are what pip is to install before the wheel: a build of torch.
"""

import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "snntorch_bpsta"
IN_SDIST = (
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "MANIFEST.in",
    "PKG-INFO",
    "README.md",
    "pyproject.toml",
    "setup.cfg",
)
EXTRAS = ("lightning", "matplotlib", "nir", "neurobench", "pandas", "scikit-learn", "tonic", "torchvision")
ROUNDS = 9
STEP = f"""
import torch, {PACKAGE} as snn
lif = snn.Leaky(beta=0.9, threshold=0.5, reset_mechanism="zero", spatial_adj=True, temporal_alpha=0.8)
net = snn.MultiStep(torch.nn.Flatten(), torch.nn.Linear(64, 10), lif)
net(torch.rand(8, 4, 1, 8, 8)).sum().backward()
assert net[1].weight.grad.abs().sum() > 0
cur = torch.rand(8, 4, 10)
assert snn.functional.which_impl(cur, beta=0.9) == "cpu"
print(snn.__version__, "from", snn.__file__)
"""
IMPORT = """
import time
wall, cpu = time.perf_counter(), time.process_time()
import {}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


def run(*command, **options):
    """What the command prints. Where it fails, all of that goes to the screen, and ends this."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def build(folder):
    run("git", "-C", ROOT, "checkout-index", "-a", f"--prefix={folder}/source/")
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "source")
    (wheel,), (sdist,) = (folder / "dist").glob("*.whl"), (folder / "dist").glob("*.tar.gz")
    print(run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", wheel, sdist))
    return wheel, sdist


def check_wheel(wheel):
    """The package's modules, py.typed and the metadata with the licence; nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = {info.filename for info in archive.infolist() if not info.is_dir()}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).rglob("*.py")}
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert names - metadata == modules | {f"{PACKAGE}/py.typed"}, names - metadata ^ modules
    assert any(name.endswith("/LICENSE") for name in metadata), metadata
    print(f"{wheel.name}: {wheel.stat().st_size / 1e3:.0f} kB, {len(modules)} modules, py.typed, LICENSE")


def check_sdist(sdist):
    """The package, its tests, and the files beside them; no results, figures, documentation or data."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert folders == {PACKAGE, f"{PACKAGE}.egg-info", "tests"}, folders
    assert {name for name in names if "/" not in name} == set(IN_SDIST), names
    foreign = {name for name in names if name.startswith((f"{PACKAGE}/", "tests/")) and not name.endswith(".py")}
    assert foreign == {f"{PACKAGE}/py.typed"}, foreign
    print(f"{sdist.name}: {sdist.stat().st_size / 1e3:.0f} kB, {len(names)} files")


def install(wheel, folder, before):
    """The wheel, no extras, in an empty environment; returns its folder of programs."""
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", *before)
    run(*pip, "install", wheel)
    found = {line.partition("==")[0].lower() for line in run(*pip, "list", "--format", "freeze").splitlines()}
    assert {"torch", "snntorch", "numba", "snntorch-bpsta"} <= found and not found & set(EXTRAS), found
    print(f"in the empty environment: {', '.join(sorted(found))}")
    return folder / "bin"


def import_times(python, folder):
    """Medians over fresh processes, in turn, after one of each that fills the caches. Other work on the machine shows in the
    wall clock more than in the processor's time."""
    times = {"snntorch": [], PACKAGE: []}
    for turn in range(ROUNDS + 1):
        for name, seen in times.items():
            seconds = [float(part) for part in run(python, "-I", "-c", IMPORT.format(name), cwd=folder).split()]
            seen += [seconds] if turn else []
    for kind, clock in enumerate(("wall clock", "processor")):
        host, ours = (statistics.median(seconds[kind] for seconds in seen) for seen in times.values())
        verdict = "yes" if ours <= 1.1 * host else "NO"
        print(
            f"import, {clock}: snntorch {host:.3f} s, ours {ours:.3f} s, {ours / host:.3f} of it; at most 1.100: {verdict}"
        )


def check_tag(wheel):
    """Where a tag is built, it names the version of the wheel."""
    if os.environ.get("GITHUB_REF_TYPE") == "tag":
        tag, version = os.environ["GITHUB_REF_NAME"], wheel.name.split("-")[1]
        assert tag == f"v{version}", f"the tag is {tag}, the version {version}"


def main(before):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel, sdist = build(folder)
        check_tag(wheel)
        check_wheel(wheel)
        check_sdist(sdist)
        programs = install(wheel, folder / "empty", before)
        print(run(programs / "python", "-I", "-c", STEP, cwd=folder))
        print(run(programs / "bpsta", "--version", cwd=folder))
        import_times(programs / "python", folder)


if __name__ == "__main__":
    main(sys.argv[1:])
