"""Which tests show which feature: the rows of the compatibility page, in its order.

A word is a file, or a file and the beginning of test names; the longest that fits a test wins.
"""

FEATURES = {
    "Leaky, options off: the host to the bit": "test_host_equality",
    "Leaky, options on: the gradients of the paper": "test_gradients",
    "Lapicque, RLeaky, Synaptic, RSynaptic, Alpha: gradients": "test_family",
    "Six classes against the host": "test_family_equality",
    "Faults of the host that are cured": "test_host_faults",
    "convert, revert, patched, reset": "test_conversion",
    "Refused arguments": "test_validation",
    "Any arguments at all (fuzz)": "test_fuzz",
    "Hostile checkpoints and data files": "test_checkpoints",
    "Two threads, forked processes": "test_threads",
    "The names of snnTorch": "test_namespace test_architecture",
    "snnTorch's versions": "test_compatibility",
    "Surrogates": "test_surrogate",
    "lif_multistep": "test_functional",
    "CPU kernels (numba)": "test_kernels",
    "Triton kernels": "test_triton_kernels",
    "The package on a GPU": "test_cuda test_compile::test_cuda test_compile::test_the_device test_compile::test_inductor_on",
    "compress_spikes": "test_memory",
    "MultiStep and the other layers": "test_layers",
    "Networks of Table 1": "test_networks",
    "torch.compile, torch.library, autocast": "test_compile test_export::test_compile",
    "torch.export": "test_compile::test_export test_export::test_export",
    "torch.func, functional_call": "test_export test_compile::test_functional_call test_compile::test_torch_func",
    "ONNX": "test_export::test_onnx",
    "NIR": "test_nir",
    "NeuroBench": "test_neurobench",
    "snnTorch's tutorials": "test_tutorials test_tutorials_functional",
    "Training and resuming (Lightning)": "test_training",
    "Training in two processes (DDP)": "test_training::test_two_processes test_training::test_membranes_are",
    "Recipes, comparisons and studies": "test_recipes test_results test_studies",
    "Images": "test_data_images",
    "Event recordings": "test_data_events test_data_frames",
    "Simulated recordings": "test_data_simulation",
    "Energy": "test_energy",
    "Plots": "test_plots",
    "Notebooks": "test_examples",
    "Docs in a browser (Chromium)": "test_browser",
    "Command line": "test_cli test_bench",
    "Types, wheel, sdist and docs": "test_types test_packaging test_docs",
}
WORDS = {word if "::" in word else f"{word}::": name for name, words in FEATURES.items() for word in words.split()}


def feature(nodeid):
    """The feature that the test `nodeid`, as pytest names it, belongs to; None if there is none."""
    path, _, test = nodeid.partition("::")
    name = f"{path.rpartition('/')[2].removesuffix('.py')}::{test}"
    return WORDS.get(max((word for word in WORDS if name.startswith(word)), key=len, default=None))
