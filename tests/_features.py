"""Which tests show which feature: the rows of the compatibility page, in its order.

A word is a file, or a file and the beginning of test names; the longest that fits a test wins.
"""

FEATURES = {
    "Six neurons, options off: snnTorch to the bit": "test_neurons_off",
    "Six neurons, options on: snnTorch's spikes": "test_neurons_on test_neurons_warm_up",
    "Six neurons: the gradients of the paper": "test_neurons_gradients test_neurons_oracle",
    "Six neurons: all steps in one call": "test_neurons_sequence",
    "Six neurons: state_dict, copies, signatures": "test_neurons_build test_neurons_copies test_neurons_older",
    "Faults of snnTorch that are cured": "test_neurons_dtypes test_neurons_parallel test_neurons_stale test_neurons_states "
    "test_neurons_field",
    "convert, revert, patched, reset": "test_conversion test_conversion_patched test_conversion_refused "
    "test_conversion_reset",
    "Refused arguments": "test_checks",
    "What users reported in public": "test_field_reports",
    "Files that are whole or not there": "test_files",
    "Any arguments at all (fuzz)": "test_conversion_fuzz test_data_fuzz test_functional_fuzz test_folding_fuzz test_fuzz "
    "test_layers_fuzz test_neurons_fuzz test_nir_fuzz test_training_fuzz",
    "Hostile checkpoints and data files": "test_training_checkpoints test_training_nested test_data_gate",
    "Two threads, forked processes": "test_functional_threads",
    "The names of snnTorch": "test_namespace test_architecture test_torch",
    "snnTorch's versions": "test_compatibility",
    "A threshold that adapts": "test_neurons_adaptive",
    "Layers that are silent or whose gradients grow (warnings, check, wake)": "test_neurons_notices test_neurons_silent "
    "test_doctor",
    "Decays that learn": "test_decays",
    "Surrogates": "test_surrogate",
    "lif_multistep": "test_functional_door",
    "CPU kernels (numba)": "test_functional_kernels test_functional_memory test_functional_options test_functional_pool "
    "test_numba",
    "Triton kernels": "test_triton_kernels test_neurons_triton",
    "The package on a GPU": "test_cuda test_compile::test_cuda test_compile::test_the_device test_compile::test_inductor_on",
    "compress_spikes": "test_memory",
    "Layers that skip zeros": "test_functional_skipping",
    "MultiStep and the other layers": "test_layers_multistep test_layers_blocks test_layers_fused test_layers_together "
    "test_layers_memory_format test_layers_turns",
    "A loop over time, unchanged (fold_time)": "test_folding test_folding_defeat test_folding_zoo test_folding_random "
    "test_folding_pool test_folding_processes",
    "Networks of Table 1": "test_networks",
    "torch.compile, torch.library, autocast": "test_compile test_export::test_compile",
    "torch.export": "test_compile::test_export test_export::test_export",
    "torch.func, functional_call": "test_export test_compile::test_functional_call test_compile::test_torch_func",
    "ONNX": "test_export::test_onnx",
    "NIR": "test_nir test_nir_networks",
    "NeuroBench": "test_neurobench",
    "snnTorch's tutorials": "test_tutorials test_tutorials_functional",
    "Training and resuming (Lightning)": "test_training test_training_losses test_training_recipes "
    "test_training_runs test_training_stopped",
    "Training in two processes (DDP)": "test_training::test_two_processes test_training::test_membranes_are "
    "test_training_stopped::test_one_process_of_two",
    "Recipes, comparisons and studies": "test_training_recipes test_results test_studies "
    "test_studies_braille test_studies_queue",
    "Images": "test_data_images",
    "Downloads by several processes": "test_data_download",
    "Event recordings": "test_data_events test_data_frames test_data_cache",
    "Recordings of your own, sequences of different length": "test_data_folders test_functional_lengths test_cli_folder",
    "Simulated recordings": "test_data_simulation",
    "Energy": "test_energy",
    "Gradient flow": "test_flow",
    "Plots": "test_palette test_plots test_plots_data",
    "Notebooks": "test_examples",
    "Docs in a browser (Chromium)": "test_browser",
    "Command line": "test_cli test_cli_progress test_bench",
    "Types, wheel, sdist and docs": "test_types test_packaging test_docs test_suite",
}
WORDS = {word if "::" in word else f"{word}::": name for name, words in FEATURES.items() for word in words.split()}


def feature(nodeid):
    """The feature that the test `nodeid`, as pytest names it, belongs to; None if there is none."""
    path, _, test = nodeid.partition("::")
    name = f"{path.rpartition('/')[2].removesuffix('.py')}::{test}"
    return WORDS.get(max((word for word in WORDS if name.startswith(word)), key=len, default=None))
