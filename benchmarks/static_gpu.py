"""What the compiler says of the Triton kernels on an H100 (sm_90), without one: registers, spills, width of the loads.

python benchmarks/static_gpu.py FILE [CELL ...]
"""

import csv
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget

from snntorch_bpsta.functional import cells
from snntorch_bpsta.functional.kernels import triton_template as kernels

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ALWAYS = ("input_", "spk", "mem", "dspk", "saved", "values", "dinput", "factor")
STATES = {"syn": "filter", "inh": "alpha", "fed": "recurrent"}
PARAMETERS = {"beta": None, "threshold": None, "alpha": "filter", "tau": "alpha", "v": "recurrent"}


def compiled(kernel, cell, reset, config, half=False, learn=False):
    """The kernel of a neuron: the surrogate arctan, parameters that are one number each, the code saved; with `learn` the
    membrane and the currents, and the gradients of all parameters. `half`: float16 with a bfloat16 code."""
    row = cells.CELLS[cell]
    currents = (*(("syn",) if row.filter or row.alpha else ()), *(("inh",) if row.alpha else ()))
    forward = kernel is kernels.forward_kernel
    there = {"input_", "spk", "saved", "values", "mem", "dspk", "dinput", *currents, *(["fed"] if row.recurrent else [])}
    if forward:
        there |= {"beta", "threshold", "factor", *(["alpha"] if currents else []), *(["tau"] if row.alpha else [])}
        there |= {"v"} if row.recurrent else set()
    elif not learn:
        there -= {"mem", "syn", "inh", "fed"}
    if learn:
        there |= {f"{name}_rec" for name in currents} | {"dbeta", "dthreshold", *(["dalpha"] if currents else [])}
    types = {name: "*fp32" for name in there}
    types |= {"start": "i32", "stop": "i32", "num_neurons": "i32", "stride": "i32", "p0": "fp64", "p1": "fp64", "residual": "fp64"}
    if half:
        types |= dict.fromkeys(("input_", "spk", "dspk", "dinput"), "*fp16")
        types |= {} if learn else {"saved": "*bf16"}
    constants = {
        **cells.flags(cell, reset)._asdict(), **config.kwargs, "PROMPT": False, "SURROGATE": 2, "RELU": False,
        "MEMBRANE": learn, "CLIPPED": row.clipped, "FROM_ZERO": True, "CONSTANT": False, "MORE": False,
    }  # fmt: skip
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    wide = [i for i, name in enumerate(names) if types.get(name, "")[:1] == "*" or name in ("num_neurons", "stride")]
    given = {(i,): constants.get(name) for i, name in enumerate(names) if signature[name] == "constexpr"}
    source = triton.compiler.ASTSource(kernel, signature, given, {(i,): [["tt.divisibility", 16]] for i in wide})
    options = {"num_warps": config.num_warps, "enable_fp_fusion": not forward}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def figures(kernel):
    """Registers of a thread, bytes that it spills, whether loads are vectors, fused multiply-adds."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [TOOLS / "cuobjdump", "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage).group(1)) for name in ("REG", "STACK"))
    ptx = kernel.asm["ptx"]
    return registers, stack, "ld.global.v" in ptx, len(re.findall(r"\bfma\.", ptx))
