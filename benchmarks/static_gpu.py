"""What the compiler makes of the Triton kernels for an H100 (sm_90), without one: registers, spills, width of the loads.

``python -m benchmarks.static_gpu FILE [BLOCK ...]`` writes a CSV file: a row for every neuron, reset and configuration (of
blocks of so many neurons), frozen and learned. Chunks of 32 steps take half a minute to compile: the reset to zero alone has
them. All of it takes a quarter of an hour.
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
from snntorch_bpsta.functional.kernels import triton as calls
from snntorch_bpsta.functional.kernels import triton_template as kernels

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
KINDS = ("frozen", "half", "learned")
SIZES = {"few": (8192, 64), "long": (8192, 1024), "many": (2**20, 16)}  # neurons, steps


def compiled(kernel, cell, reset, kind, config, window=(0, 0)):
    """The kernel of a neuron: the surrogate arctan, parameters that are one number each. `kind` is "frozen"; "half", with a
    float16 current; or "learned", with the gradients of all parameters. With a `window` the spikes are max pooled."""
    row, forward, learned = cells.CELLS[cell], kernel is kernels.forward_kernel, kind == "learned"
    currents = ["syn"] * (row.filter or row.alpha) + ["inh"] * row.alpha
    states = ["mem", *currents, *["fed"] * row.recurrent]
    parameters = ["beta", "threshold", *["alpha"] * bool(currents), *["tau"] * row.alpha, *["v"] * row.recurrent]
    there = ["saved", "values", *([f"{name}_rec" for name in currents] if learned else [])]
    if forward:
        there += ["input_", "spk", "factor", *states, *parameters]
    else:
        there += ["dspk", "dinput", *([*states, *(f"d{name}" for name in parameters)] if learned else [])]
    types = dict.fromkeys(there, "*fp32")
    types |= {
        "start": "i32",
        "stop": "i32",
        "num_neurons": "i32",
        **dict.fromkeys(("num_pooled", "height", "width", "channels"), "i32"),
        "stride": "i32",
        "p0": "fp64",
        "p1": "fp64",
        "residual": "fp64",
    }
    if kind == "half":
        types |= dict.fromkeys(("input_", "spk") if forward else ("dspk", "dinput"), "*fp16") | {"saved": "*bf16"}
    constants = {
        **cells.flags(cell, reset)._asdict(), **config.kwargs, "PROMPT": False, "SURROGATE": 2, "RELU": False,
        "MEMBRANE": learned, "CLIPPED": row.clipped, "FROM_ZERO": True, "CONSTANT": False, "MORE": False,
        "POOL": int(any(window)), "DOWN": window[0], "ACROSS": window[1],
        "PLACES": triton.next_power_of_2(window[0] * window[1]) if any(window) else 0,
    }  # fmt: skip
    names = kernel.arg_names
    signature = {name: types.get(name, "constexpr") for name in names}
    wide = [i for i, name in enumerate(names) if types.get(name, "")[:1] == "*" or name in ("num_neurons", "stride")]
    given = {(i,): constants.get(name) for i, name in enumerate(names) if signature[name] == "constexpr"}
    source = triton.compiler.ASTSource(kernel, signature, given, {(i,): [["tt.divisibility", 16]] for i in wide})
    options = {"num_warps": config.num_warps, "enable_fp_fusion": not forward}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def figures(kernel):
    """Registers of a thread, bytes that it spills, whether it loads vectors, and its fused multiply-adds."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [TOOLS / "cuobjdump", "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage).group(1)) for name in ("REG", "STACK"))
    ptx = kernel.asm["ptx"]
    return {
        "registers": registers,
        "spilled": stack,
        "vectors": "ld.global.v" in ptx,
        "fused": len(re.findall(r"\bfma\.", ptx)),
    }


def rows(blocks):
    """Of all neurons; of Leaky in half precision too."""
    for cell, reset, kind, size in itertools.product(cells.CELLS, ("zero", "subtract", "none"), KINDS, SIZES):
        if (
            (kind == "half" and cell != "Leaky")
            or (size == "long" and reset != "zero")
            or (size == "few" and reset == "zero")
        ):
            continue
        row = cells.CELLS[cell]
        read = 2 + (1 + row.filter + 2 * row.alpha) * (kind == "learned")
        for kernel, count in ((kernels.forward_kernel, 1), (kernels.backward_kernel, read)):
            for config in calls.configurations(*SIZES[size], count):
                if blocks and config.kwargs["BLOCK"] not in blocks:
                    continue
                constants = {
                    "block": config.kwargs["BLOCK"],
                    "warps": config.num_warps,
                    "chunk": config.kwargs["CHUNK"],
                }
                name = kernel.__name__.removesuffix("_kernel")
                made = figures(compiled(kernel, cell, reset, kind, config))
                yield {"cell": cell, "reset": reset, "kind": kind, "pass": name, **constants, **made}


if __name__ == "__main__":
    with open(sys.argv[1], "w", newline="") as file:
        writer = None
        for row in rows([int(block) for block in sys.argv[2:]]):
            if writer is None:
                writer = csv.DictWriter(file, row, lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            file.flush()
