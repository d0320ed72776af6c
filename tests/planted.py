"""Faults on purpose, one at a time in a copy of the package: does the suite find them?

    python tests/planted.py                   every fault, judged by the test files beside it
    python tests/planted.py --all losses      one fault, judged by all of `make test`
    python tests/planted.py --list

A row of FAULTS names a text that stands exactly once in the files of its room, and what to put there. Where the package
changes, its row changes with it: `tests/test_suite.py` looks for every text. An escape is a test that is missing: write it.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "snntorch_bpsta"
OUTCOMES = {0: "ESCAPED", 1: "found"}  # by what pytest exits with; anything else is a fault of the row


class Fault(NamedTuple):
    """A fault: where, what stands there, what is put there, what that is, and the test files that have to find it."""

    room: str  # a module of the package, or a folder
    old: str
    new: str
    what: str
    tests: str  # file names without test_ and .py


FAULTS = {
    # --- surrogate, memory ---
    "leak": Fault(
        "surrogate", "torch.where(x > -threshold, self.leak * dspk, 0.0)", "self.leak * dspk",
        "a leak where the membrane is negative", "surrogate neurons_gradients",
    ),
    "leak-kernel": Fault(
        "functional/kernels/rows", "p0 if x > -threshold else zero", "p0", "the same in the kernels",
        "functional_kernels neurons_gradients",
    ),
    "leak-skipped": Fault(
        "neurons/engine", "not adjustment(self.spatial_adj).leak and", "", "a leak is left out where zeros are skipped",
        "functional_skipping",
    ),
    "meant": Fault(
        "_meant", "difflib.get_close_matches(word, [*names], 1)", "[*names][:1]",
        "another name than the one that was meant", "neurons_build cli",
    ),
    "spatial": Fault(
        "surrogate", "torch.where(x > 0, dspk / u, below)", "torch.where(x > 0, -dspk / u, below)",
        "a sign in Eq. 9", "surrogate",
    ),
    "rectangle": Fault(
        "surrogate", "x.abs() < self.width / 2", "x.abs() < self.width", "a window twice as wide", "surrogate",
    ),
    "bits": Fault(
        "memory", 'count=len(part), bitorder="little"', 'count=len(part), bitorder="big"',
        "bits restored in the wrong order", "memory",
    ),
    "version": Fault(
        "memory", "if now != saved.version:", "if False:",
        "a tensor changed in place goes unnoticed", "memory",
    ),
    # --- the engine ---
    "advance": Fault(
        "functional/cells", "h = beta * j - x", "h = beta * j + x", "a sign in the second current of Alpha", "neurons_on",
    ),
    "wipe": Fault(
        "functional/cells", "Cell(zero_keeps_input=True)", "Cell()", "Leaky's reset to zero wipes the input",
        "functional_door",
    ),
    "retreat": Fault(
        "functional/cells", "du = beta * (kept + residual * s) * du", "du = beta * kept * du",
        "no residual where the reset is to zero", "functional_kernels",
    ),
    "index": Fault(
        "functional/kernels/cpu_backward", "pi = I_rec[last : last + n]", "pi = I_rec[now : now + n]",
        "the current of a step too late", "functional_kernels",
    ),
    "next": Fault(
        "functional/kernels/cpu_forward", "                    z[:] = o\n", "                    pass\n",
        "no spike is fed back", "functional_kernels",
    ),
    "current": Fault(
        "functional/kernels/triton_template", "i = tl.where(there, e, i)", "i = tl.where(there, h, i)",
        "one current for the other", "triton_kernels",
    ),
    "norm": Fault(
        "folding/layout", "or norm.grad or", "or", "a batch norm that learns goes into the convolution", "folding_pool",
    ),
    "corner": Fault(
        "functional/kernels/triton_pool", "tl.where(place < COUNT, smaller, 1)", "smaller",
        "places beyond the window compete for its gradient", "triton_kernels",
    ),
    "kept": Fault(
        "functional/kernels/triton_code", "above.to(bits.dtype) << sign", "above.to(bits.dtype) << (sign - 1)",
        "another bit says that a neuron fired", "triton_kernels",
    ),
    "looped": Fault(
        "functional/multistep", "if text not in _said:", "if text in _said:", "the loop is taken without a word",
        "functional_door",
    ),
    "relu": Fault(
        "functional/kernels/cpu_backward", "dx[k] = dx[k] if ww[k] & 1 else zero", "dx[k] = dx[k]",
        "a gradient where the ReLU was zero", "functional_options",
    ),
    "prompt": Fault(
        "functional/kernels/cpu_backward", "gs[k] -= th[k] * d", "gs[k] -= d",
        "a reset within the step without its threshold", "functional_kernels",
    ),
    "code": Fault(
        "functional/kernels/rows", "np.int32(words[k] & magnitude) << 16", "np.int32(words[k] & magnitude) << 15",
        "the code of a derivative read wrongly", "functional_kernels",
    ),
    "channels": Fault(
        "functional/kernels/rows", "c, r = (begin // inner) % len(values), begin % inner", "c, r = 0, 0",
        "every block of neurons begins at the first channel", "functional_options",
    ),
    "ranges": Fault(
        "functional/kernels/cpu", "min(begin + size, num_neurons), *behind)", "min(begin + size, num_neurons - 1), *behind)",
        "the last neuron of two threads is left out", "functional_options",
    ),
    "winner": Fault(
        "functional/kernels/pool", "o[i] - lost == best[i] else zero", "o[i] == best[i] else zero",
        "the gradient of a window goes to no place, or to several", "functional_pool",
    ),
    "left-over": Fault(
        "functional/kernels/pool", "if band % down == down - 1:", "if False:",
        "a gradient where no window is", "functional_pool",
    ),
    "pack": Fault(
        "functional/kernels/rows", "lowest |= (word & 1) << bit", "lowest |= (word & 1) << 0",
        "the flags of eight neurons in one bit", "functional_options",
    ),
    "window": Fault(
        "functional/kernels/vectors", "for tap in reversed(range(size**2))", "for tap in range(size**2)",
        "the kernel is turned", "functional_skipping",
    ),
    "beyond": Fault(
        "functional/lists", "+ torch.arange(size.images, device=\"cpu\")", "", "two threads write one place",
        "functional_skipping",
    ),
    "turned": Fault(
        "functional/lists", "weight.transpose(0, 1).flip(2, 3)", "weight.transpose(0, 1)",
        "the gradient of the input by a kernel that is not turned", "functional_skipping",
    ),
    "at-spikes": Fault(
        "functional/kernels/skip", "gradients + 4 * start[row],", "gradients + 4 * start[0],",
        "the gradient of another spike", "functional_skipping",
    ),
    "transpose": Fault(
        "functional/recurrent", "return dx.reshape(-1, dx.shape[-1]).t() @ z.reshape(-1, z.shape[-1])",
        "return z.reshape(-1, z.shape[-1]).t() @ dx.reshape(-1, dx.shape[-1])",
        "the gradient of a recurrent weight is transposed", "functional_kernels",
    ),
    "custom": Fault(
        "functional/custom", "(slopes[1:], slopes[0])", "(slopes[:-1], slopes[0])",
        "derivatives of the step before", "functional_kernels",
    ),
    "saved": Fault(
        "functional/operator", "records[k] = outputs[place]", "records[k] = outputs[0]",
        "the membrane is kept in place of a current", "functional_kernels",
    ),
    "by-value": Fault(
        "functional/operator", "x.numel() == 1 else x.detach().clone()", "x.numel() == 1 else x",
        "a parameter written to before backward", "functional_kernels",
    ),
    "place": Fault(
        "functional/plan", "tuple(given.index(name)", "tuple(len(given) - 1 - given.index(name)",
        "states go in in the wrong order", "functional_kernels",
    ),
    "start": Fault(
        "functional/passes", "last.copy_(first)", "last.zero_()", "all sequences start at zero", "functional_kernels",
    ),
    # --- neurons ---
    "numbers": Fault(
        "neurons/engine", "return self.beta, self.threshold, self.graded_spikes_factor, self.alpha, None",
        "return self.alpha, self.threshold, self.graded_spikes_factor, self.beta, None", "alpha for beta", "neurons_on",
    ),
    "invalidation": Fault(
        "neurons/states", 'mine["_direct"] = mine["_known"] = None', "pass",
        "an attribute that is set is not seen", "neurons_field",
    ),
    "stale": Fault(
        "neurons/stale", "        if is_freed(node):", "        if False:",
        "a freed graph has an error of PyTorch's", "neurons_stale",
    ),
    "hidden": Fault(
        "neurons/states", "alive(value).detach() for name", "alive(value) for name",
        "a copy of a neuron fails with its graph", "neurons_copies",
    ),
    "older": Fault(
        "neurons/states", "del state_dict[prefix + name]", "pass", "hidden states of an older snnTorch are foreign keys",
        "neurons_older",
    ),
    "circuit": Fault(
        "neurons/engine", "return 1 - self.time_step / (self.R * self.C)", "return self.beta", "the decay is a number",
        "neurons_gradients",
    ),
    "residual": Fault(
        "neurons/core", "mem = mem + residual.to(mem.dtype)", "mem = mem + 0 * residual.to(mem.dtype)",
        "no residual in the loop", "neurons_field neurons_gradients",
    ),
    "rise": Fault(
        "neurons/adaptive", "self.threshold_decay * self.rise + self.threshold_step * spk",
        "self.threshold_decay * (self.rise + self.threshold_step * spk)", "the rise falls a step too early",
        "neurons_adaptive",
    ),
    "growth": Fault(
        "neurons/notices", 'crosses = 0 if self.reset_mechanism == "zero" else 1', "crosses = 0",
        "an open path is left out of the growth", "neurons_notices",
    ),
    "told": Fault(
        "telling", 'module = module.__dict__.get("_twin_of", module)', "pass", "a twin has no name",
        "layers_together",
    ),
    # --- doctor ---
    "explodes": Fault("doctor", "sizes[0] / sizes[-1] if", "sizes[-1] / sizes[0] if", "growth forwards in time", "doctor"),
    "averages": Fault("doctor", "buffer.copy_(before)", "pass", "a check moves running averages", "doctor"),
    # --- conversion ---
    "convert": Fault(
        "conversion", 'asked = {"spatial_adj": spatial_adj, "temporal_alpha": temporal_alpha}',
        'asked = {"spatial_adj": spatial_adj}', "an option is forgotten", "conversion",
    ),
    "convert-output": Fault(
        "conversion", "return neurons[-1][1] if neurons", "return neurons[0][1] if neurons",
        "the first neurons are taken for the output", "conversion",
    ),
    "patched": Fault(
        "conversion", "if blocks and type(self) is host:", "if blocks:",
        "a class of the user's is patched too", "conversion_patched",
    ),
    "reset": Fault(
        "conversion", "module.reset_mem()", "module.detach_hidden()", "a missing reset", "conversion_reset",
    ),
    # --- layers, networks ---
    "products": Fault(
        "energy", "self.missed[self.running[-1]] = None", "pass", "a product that is not counted is not named", "energy",
    ),
    "fold": Fault(
        "layers/over_time", "unflatten(0, x.shape[:2])", "unflatten(0, x.shape[1::-1]).transpose(0, 1)",
        "time and batch swapped", "layers_multistep",
    ),
    "foreign": Fault(
        "layers/over_time", "if names and not _same_by_step(layer, x, out):", "if False:",
        "a module with a state of its own is folded", "layers_multistep",
    ),
    "dropout": Fault(
        "layers/blocks", "dropout(torch.ones_like(x[0]), self.p)", "dropout(torch.ones_like(x), self.p)",
        "a mask per step in place of one per sample", "layers_blocks",
    ),
    "voting": Fault(
        "layers/blocks", "(x.shape[-1] // self.voters, self.voters)).mean(-1)",
        "(self.voters, x.shape[-1] // self.voters)).mean(-2)", "voters of one class lie apart", "layers_blocks",
    ),
    "normed": Fault(
        "layers/together", "norm.training or norm.running_mean is None", "norm.running_mean is None",
        "a norm in training becomes part of a convolution", "layers_together",
    ),
    "watched": Fault(
        "layers/turns", "if growth is None or layer in seen or has_hooks(layer):", "if growth is None or layer in seen:",
        "who looks at a layer sees parts of the time", "layers_turns",
    ),
    "order": Fault(
        "layers/memory_format", "return x.contiguous() if is_channels_last(x) else x", "return x",
        "what is returned lies otherwise", "layers_memory_format",
    ),
    "in-turns": Fault(
        "layers/multistep", "self._through(chain, part, spiking, True, states)",
        "self._through(chain, part, spiking, True, {})", "each turn begins at zero", "layers_turns",
    ),
    # --- a loop over time ---
    "chain": Fault(
        "folding", "ref.node is end and ref.out == name", "ref.out == name",
        "a state that something else wrote goes unseen", "folding_defeat",
    ),
    "turns": Fault(
        "folding", "states[unit] = [last[name] for name in twin._states]", "states.pop(unit, None)",
        "each part of the time begins from the first states", "folding",
    ),
    "left": Fault(
        "folding", "            neurons.put(module, states)", "            pass", "hidden states stay as they were",
        "folding_zoo",
    ),
    "around": Fault(
        "folding", "around = tuple(described(value) for value in self._around.values())", "around = ()",
        "numbers of the user's go unseen", "folding_defeat",
    ),
    "look": Fault(
        "folding", "if run.look(look) != look.seen:", "if False:", "a branch on the input is taken for ever",
        "folding_defeat",
    ),
    "draws": Fault(
        "folding", "            last[effect] = node", "            pass", "random numbers in another order", "folding_zoo",
    ),
    "counted": Fault(
        "folding", "attribute().add_(by)", "attribute().add_(0)", "batch norm forgets to count", "folding_zoo",
    ),
    "no-grad": Fault(
        "folding", "else torch.set_grad_enabled(node.grad)", "else nullcontext()", "gradients where the user has none",
        "folding_zoo",
    ),
    "compared": Fault(
        "folding", "            self.failed.append(unit)\n\n", "            pass\n\n",
        "a wrong layer is not left alone", "folding_defeat",
    ),
    "hooked": Fault(
        "folding/guards", "[type(module), has_hooks(module)]", "[type(module)]", "a hook that comes later goes unseen",
        "folding_defeat",
    ),
    "rows": Fault(
        "folding/layout", "step > 0 and places == list(", "step > 0 or places == list(",
        "steps out of order are taken for all steps", "folding_zoo folding_defeat folding_random",
    ),
    "preset": Fault(
        "networks", "**{**NEURONS[preset], **options}", "**{**options, **NEURONS[preset]}",
        "what the user asks for is overwritten", "networks",
    ),
    # --- nir ---
    "nir-factor": Fault(
        "nir/_load", "one(threshold / factor)", "one(threshold * factor)", "the factor of the input the wrong way round",
        "nir_networks",
    ),
    "nir-syn": Fault(
        "nir/_export", "w_in=tau_syn / dt", "w_in=tau / dt", "the wrong time constant beside the input", "nir_networks",
    ),
    "nir-edges": Fault(
        "nir/_load", "if extra or name in seen:", "if name in seen:", "two paths into one node are read as one",
        "nir_networks",
    ),
    "nir-twice": Fault(
        "nir/_export", "seen.add(layer)", "pass", "one neuron in two places becomes two", "nir_networks",
    ),
    # --- energy, flow ---
    "energy": Fault(
        "energy", "return E_MAC_PJ / energy if energy", "return E_AC_PJ / energy if energy",
        "the wrong constant of Eq. 11", "energy",
    ),
    "operations": Fault(
        "energy", "layer.in_features * layer.out_features", "layer.in_features",
        "a factor missing", "energy",
    ),
    "flow": Fault(
        "flow", "grad.detach().abs().flatten(1).mean(1)", "grad.detach().flatten(1).mean(1)",
        "gradients of either sign cancel", "flow",
    ),
    # --- data ---
    "frames": Fault(
        "data/frames", "* height + y) * width + x", "* height + x) * width + y",
        "rows and columns swapped", "data_frames",
    ),
    "remainder": Fault(
        "data/frames", "per_frame[-1] += count % num_steps", "per_frame[0] += count % num_steps",
        "the remainder in the first frame", "data_frames",
    ),
    "mnist": Fault(
        "data/images", "targets, scale=255)\n\n\ndef cifar10", "targets, scale=256)\n\n\ndef cifar10",
        "a scale off by one", "data_images",
    ),
    "aedat": Fault(
        "data/recordings", "127 - (address >> 8 & 127)", "(address >> 8 & 127)", "a mirrored axis", "data_events",
    ),
    "split": Fault(
        "data/events", "of_class[:first] if train else of_class[first:]",
        "of_class[first:] if train else of_class[first:]", "trained on the test part", "data_events",
    ),
    "frames-key": Fault(
        "data/recordings", "[(file.path, *file.version) for", "[(file.name, file.version.size) for",
        "recordings told apart by names and sizes", "data_cache",
    ),
    "frames-whole": Fault(
        "data/_frame_cache", "return left == 0 and file.read() ==", "return left == 0 or file.read() ==",
        "frames taken without their checksum", "data_cache",
    ),
    "slice": Fault(
        "data/_common", "page + data.ctypes.data - begin", "data.offset", "a pickled slice is the beginning", "data_cache",
    ),
    "gate": Fault(
        "data/_gate", "_pass(path, os.fstat(file.fileno()), largest)", "pass", "a pipe is read", "data_gate",
    ),
    "classes": Fault(
        "data/events", "if label.casefold() not in layout.classes]", "if label == '']", "a class that is none", "data_gate",
    ),
    "download": Fault(
        "data/_common", "stack.enter_context(locked(folder))", "pass", "a download by each process", "data_download",
    ),
    "windows": Fault(
        "data/frames", "frame = (t - t[:1]) // time_window", "frame = t // time_window",
        "time counted from zero", "data_frames",
    ),
    "parts": Fault(
        "data/folders", "own[tests:] if train else own[:tests]", "own[tests:] if train else own[-tests:]",
        "recordings that train and test", "data_folders",
    ),
    "labels": Fault(
        "data/folders", "classes=first.classes, targets=named[second.targets]", "classes=first.classes",
        "labels of the test part by its own folders", "data_folders",
    ),
    "cut-key": Fault(
        "data/_frame_cache", """("" if self.polarities == 2 else f"x{self.polarities}")""", '""',
        "one cache for one polarity and two", "data_folders",
    ),
    "padding": Fault(
        "functional/lengths", "[:, None] < lengths", "[:, None] <= lengths",
        "a step of the padding counts", "functional_lengths",
    ),
    "class-names": Fault(
        "training/datamodule", "names = (samples.classes,) if samples.classes else ()", "names = ()",
        "classes that were given other names", "cli_folder",
    ),
    "noise": Fault(
        "data/simulation", 'events["p"] = polarity', 'events["p"] = 1 - polarity',
        "noise of the other polarity", "data_simulation",
    ),
    "bound": Fault("decays", "value.clamp(edge, 1 - edge).logit()", "value.logit()", "no way back from 1", "decays"),
    "fed-back": Fault(
        "neurons/states", 'lift = name == "spk" and', 'lift = name == "mem" and',
        "half spikes meet full weights", "neurons_dtypes",
    ),
    # --- training ---
    "losses": Fault(
        "training/losses", "(label - rate).square().sum(1).mean()", "(label - rate).square().mean()",
        "Eq. 5 divided by the number of classes", "training_losses",
    ),
    "warm-up": Fault(
        "training", "start_factor=1 / (warm + 1)", "start_factor=1 / max(warm, 1)",
        "a learning rate that rises from elsewhere", "training",
    ),
    "variant": Fault(
        "training/recipes", '"spatial_adj": leaks, "temporal_alpha": self.temporal_alpha}',
        '"spatial_adj": leaks, "temporal_alpha": 0.0}',
        "BPTA is never on", "training_recipes",
    ),
    "checkpoints": Fault(
        "training", 'torch.load(path, map_location="cpu", weights_only=True)',
        'torch.load(path, map_location="cpu", weights_only=False)', "a checkpoint may run code", "training_checkpoints",
    ),
    "folder": Fault("training/folder", "    if held:\n", "    if False:\n", "a run is written over", "training_runs"),
    "stopped": Fault(
        "training/datamodule", "islice(super().__iter__(), self.done, None)", "super().__iter__()",
        "a run that was stopped in an epoch goes on with the batches that it had", "training_stopped",
    ),
    "another": Fault("training/module", "if changed:", "if False:", "another run goes on with this one", "training_runs"),
    "crc": Fault("training/checkpoints", "if broken is not None:", "if False:", "a flipped bit is taken", "training_runs"),
    "diverged": Fault("training/module", "value.isfinite().all()", "True", "a NaN over a good run", "training_runs"),
    "results": Fault(
        "training", '"accuracy": last["test_accuracy"]', '"accuracy": 100 * last["test_accuracy"]',
        "per cent in place of a share", "training",
    ),
    "schedule": Fault(
        "training/callbacks", "trainer.current_epoch < self.share * epochs", "trainer.current_epoch <= self.share * epochs",
        "a warm-up of an epoch more", "training",
    ),
    "encoded": Fault(
        "training/neurobench", "[x] * layers[encoding].num_steps", "[x]", "an image is one step", "neurobench",
    ),
    # --- studies ---
    "appended": Fault(
        "training/studies/run_all", "runs += [row for row in rows if _identity(row) not in held]", "runs = [*rows]",
        "a run loses those before", "studies",
    ),
    "paired": Fault(
        "training/studies/table", "[accuracies[seed] - base[seed] for", "[base[seed] - accuracies[seed] for",
        "the sign of a difference", "studies",
    ),
    "orphans": Fault(
        "training/studies/workers", "os._exit(1)", "pass", "workers train on without a parent", "studies_queue",
    ),
    "whole": Fault(
        "_files", "os.replace(part, path)", "path.write_bytes(part.read_bytes())", "written in place", "files",
    ),
    "swept": Fault("_files", "if _try_lock(file):", "if True:", "what is being written is swept away", "files"),
    "residual-type": Fault(
        "functional/reference", "neuron.residual).to(u.dtype)", "neuron.residual)", "half precision becomes float32",
        "functional_door",
    ),
    "no-number": Fault(
        "functional/kernels/rows", "return zero if x <= p1 else one / (y * y)", "return one / (y * y) if x > p1 else zero",
        "a NaN that a gradient hides", "functional_options",
    ),
    "outlives": Fault(
        "functional/kernels/cpu", "except RuntimeError:  # no more threads", "except MemoryError:  # no more threads",
        "a thread that outlives the main one fails", "functional_threads",
    ),
    "reloaded": Fault("_torch", "previous._destroy()", "pass", "an operator that is defined twice", "torch"),
    "decay": Fault(
        "neurons/build", "((value < 0) | (value > 1)).any()", "(value > 1).all() and (value < 0).all()",
        "a decay that has left its range goes unnoticed", "neurons_build",
    ),
    "freed": Fault(
        "neurons/states", "weakref.proxy(self, _freed)", "self", "the list keeps every neuron alive", "neurons_copies",
    ),
    "kernel-cache": Fault("_numba", "self.flush()", "pass", "an index that was cut is never mended", "numba"),
    # --- plots, the command line, the doors ---
    "palette": Fault("_palette", "(position + 1)", "(2 * position)", "two curves of one colour", "palette"),
    "plots": Fault(
        "plots", "_picture(frames[t], largest)", "_picture(frames[0], largest)",
        "a film of one frame", "plots_data",
    ),
    "cli": Fault(
        "training/_tables", "print(f\"test accuracy {100 * row['accuracy']:.2f} %\"",
        "print(f\"test accuracy {row['accuracy']:.2f} %\"",
        "a share called per cent", "cli",
    ),
    "seeds": Fault(
        "cli/_options", "list(range(int(text)))", "list(range(1, int(text) + 1))", "the first seed is another", "cli",
    ),
    "progress": Fault(
        "_progress", "self._bar.update(done - self._bar.n)", "self._bar.update(done)", "a bar that runs ahead",
        "cli_progress",
    ),
    "twice": Fault(
        "_signals", "if not (self.gently and first):", "if not self.gently:", "a second signal does not stop",
        "training_stopped",
    ),
    "checks": Fault(
        "_checks", "<= highest and number > above)", "<= highest and number >= above)",
        "an end of the range that is none", "checks data_simulation surrogate",
    ),
    "maker": Fault(
        "_checks", "function.__module__ in _SURROGATES and", "not function.__module__ and",
        "a maker is taken for a surrogate", "surrogate",
    ),
    "reset-delay": Fault(
        "_checks", "if alpha and not reset_delay:", "if alpha and reset_delay is None:",
        "an option without a meaning is taken", "checks",
    ),
    "host": Fault(
        "_snntorch", "OLDEST <= release < BEYOND", "OLDEST < release < BEYOND",
        "the oldest version is refused", "compatibility",
    ),
    "torch": Fault(
        "_torch", "return 0 if x.is_inference() else x._version", "return 0", "writes go unnoticed", "torch",
    ),
}  # fmt: skip


def find(fault, package=ROOT / PACKAGE):
    """The file that the fault goes into; a ValueError unless its text stands once in the room."""
    files = [path for path in (package / f"{fault.room}.py", *(package / fault.room).rglob("*.py")) if path.is_file()]
    hits = [(path, path.read_text(encoding="utf-8").count(fault.old)) for path in files]
    hits = [(path, count) for path, count in hits if count]
    if [count for _, count in hits] != [1]:
        where = ", ".join(f"{count} in {path.name}" for path, count in hits) or "none"
        raise ValueError(
            f"expected {fault.old!r} once in {fault.room}, got {where}: let tests/planted.py follow the code"
        )
    return hits[0][0]


def copy_to(folder):
    """A tree to run tests in: package and tests of its own, all else by links."""
    for path in ROOT.iterdir():
        if path.name in (PACKAGE, "tests"):
            shutil.copytree(path, folder / path.name)  # numba's cache goes with it
        elif path.name not in (".git", ".pytest_cache"):
            (folder / path.name).symlink_to(path)


def run(folder, files):
    """pytest's exit code, and the first failure."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-n",
        "0",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        *files,
    ]
    own = {**os.environ, "PYTHONPATH": str(folder)}  # processes that tests start take the copy as well
    done = subprocess.run(command, cwd=folder, env=own, capture_output=True, text=True)
    first = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return done.returncode, first[1] if first else done.stdout[-300:] + done.stderr[-300:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="rows of FAULTS; all by default")
    parser.add_argument("--all", action="store_true", help="let the whole of `make test` look for each")
    parser.add_argument("--list", action="store_true", help="say what there is, and look for every text")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(FAULTS)
    if unknown:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; --list names all")
    chosen = {name: FAULTS[name] for name in arguments.names or FAULTS}
    places = {name: find(fault) for name, fault in chosen.items()}
    if arguments.list:
        for name, fault in chosen.items():
            print(f"{name:14} {places[name].relative_to(ROOT / PACKAGE)!s:28} {fault.what} ({fault.tests})")
        return 0

    files = {name: [] if arguments.all else [f"tests/test_{test}.py" for test in fault.tests.split()]
             for name, fault in chosen.items()}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        copy_to(folder)
        code, first = run(folder, sorted(set().union(*files.values())))
        if code:
            print(f"without a fault the tests fail: {first}")
            return 2
        lost = []
        for name, fault in chosen.items():
            path, begun = folder / PACKAGE / places[name].relative_to(ROOT / PACKAGE), time.monotonic()
            good = path.read_text(encoding="utf-8")
            path.write_text(good.replace(fault.old, fault.new), encoding="utf-8")
            code, first = run(folder, files[name])
            shutil.copy2(places[name], path)  # with its time, which numba's cache goes by
            outcome = OUTCOMES.get(code, f"BROKEN (pytest exits with {code})")
            lost += [name] if outcome != "found" else []
            print(
                f"{name:14} {fault.what:48} {outcome}  {first if code else ''}  {time.monotonic() - begun:.0f} s",
                flush=True,
            )
    print(f"{len(chosen) - len(lost)} of {len(chosen)} found" + (f"; not: {', '.join(lost)}" if lost else ""))
    return bool(lost)


if __name__ == "__main__":
    sys.exit(main())
