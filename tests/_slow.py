"""What `make test` leaves to `make test-slow`: whole runs, other processes and compilers, several seconds each.

A word is a file, a test of it, or one case of a test. Every room keeps tests that are not here.
"""

SLOW = """
test_bench::test_layer
test_bench::test_memory
test_bench::test_peak
test_browser
test_cli_progress::test_ctrl_c_at_a_terminal_and_on_to_the_end
test_compatibility::test_the_option_writes_the_outcomes[2]
test_compile::test_inductor
test_compile::test_other_batch_sizes_are_compiled_twice_at_most
test_data_download::test_of_several_processes_one_downloads[cifar10]
test_data_download::test_of_several_processes_one_downloads[mnist]
test_data_images::test_real_cifar10
test_data_simulation::test_it_looks_like_the_real_recordings
test_docs::test_a_picture_shows_what_the_package_computes
test_docs::test_the_blocks_of_a_page_run_in_order[docs/ecosystem.md]
test_examples::test_it_runs
test_export::test_onnx_with_any_batch
test_folding_processes::test_two_processes_give_the_gradients_of_the_loop_on_the_joined_batch
test_functional_options::test_every_fused_kernel
test_functional_options::test_the_module_of_the_operator_may_be_reloaded
test_neurons_copies::test_a_saved_module_loads_in_a_fresh_interpreter
test_numba::test_a_neuron_trains_where_nothing_can_be_written
test_packaging::test_the_wheel_works_without_the_extras
test_studies::test_the_command_line_runs_a_study
test_studies_queue::test_a_run_goes_on_from_its_own_checkpoint
test_studies_queue::test_two_commands_at_one_file_share_the_runs_out
test_training::test_it_learns
test_training_stopped::test_any_number_of_kills_ends_in_the_same_weights[40]
test_training_stopped::test_a_signal_ends_with_its_code_and_the_run_goes_on_to_the_same_end[midst-SIGINT]
test_training_stopped::test_a_signal_ends_with_its_code_and_the_run_goes_on_to_the_same_end[last_step-SIGINT]
test_training_stopped::test_a_signal_ends_with_its_code_and_the_run_goes_on_to_the_same_end[last_step-SIGTERM]
test_training_stopped::test_a_signal_ends_with_its_code_and_the_run_goes_on_to_the_same_end[measured-SIGINT]
test_training_stopped::test_a_signal_ends_with_its_code_and_the_run_goes_on_to_the_same_end[measured-SIGTERM]
test_training_stopped::test_one_process_of_two_is_told_and_both_stop
test_training::test_the_command_line_trains_with_two_processes
test_training::test_two_machines_by_torchrun
test_training::test_two_processes_give_the_gradients_of_one_on_the_joined_batch
test_triton_kernels::test_compiles_for_hopper_without_one
""".split()


def is_slow(nodeid):
    """Whether the test `nodeid`, as pytest names it, is one of those."""
    path, _, test = nodeid.partition("::")
    name = path.rpartition("/")[2].removesuffix(".py")
    return not {name, f"{name}::{test}", f"{name}::{test.partition('[')[0]}"}.isdisjoint(SLOW)
