"""The versions that are tested. ``nox`` runs the suite in every row, ``nox -R`` again without installing anew,
``nox -s "tests(oldest)" -- tests/test_layers_blocks.py`` one row with other arguments to pytest."""

import nox

TOOLS = ("build", "hypothesis", "pytest", "pytest-xdist", "setuptools>=77")
TOOLS += ("nir", "nirtorch", "onnxruntime", "onnxscript", "pandas")
VERSIONS = [  # what setup.cfg admits: the oldest of everything, one between, the newest of everything
    nox.param("3.10", ("torch==2.6.0", "snntorch==0.9.4", "numpy==1.24.*", "numba==0.60.*"), "all", id="oldest"),
    nox.param("3.11", ("torch==2.13.0", "snntorch==0.9.4"), "train,plots", id="between"),
    nox.param("3.12", ("torch", "snntorch", "neurobench>=2.3"), "all", id="newest"),
]


@nox.session
@nox.parametrize("python, versions, extras", VERSIONS)
def tests(session, versions, extras):
    session.install(*versions, *TOOLS, "--editable", f".[{extras}]")
    name = session.name.partition("(")[2].rstrip(")")
    session.run("pytest", *(session.posargs or ("-n", "2", "--compatibility", f"docs/compatibility/{name}.json")))
