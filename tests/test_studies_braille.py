"""The study of real recordings of a fingertip: what is read, what decides, and the file that they come from."""

import gzip
import os
import pickle

import numpy as np
import pytest
import torch
from layouts import source, unpack

pytest.importorskip("lightning", reason="lightning (extra: train) is missing")


def felt(folder, change=lambda row: row, seed=0):
    """A file of two letters that differ in what one channel reads in the middle; three repetitions of each part."""
    from snntorch_bpsta.training.studies import braille

    noise, rows = np.random.default_rng(seed), []
    for repetition in (0, 1, 2, 30, 31, 32, 33, 39, 40, 41, 49):
        for letter in ("A", "B"):
            readings = np.zeros((25, 12))
            readings[:, 1] = 10 + noise.random(25)
            readings[8:16, 6] = 20 if letter == "B" else -20
            rows.append(change({"letter": letter, "repetition": repetition, "taxel_data": readings}))
    with gzip.open(folder / braille.FILE, "wb") as file:
        pickle.dump(rows, file)
    return braille


def test_letters_are_told_by_a_rate_that_the_test_repetitions_do_not_choose(tmp_path, monkeypatch):
    braille = felt(tmp_path)
    monkeypatch.setattr(braille, "EPOCHS", 12)
    x, letters, repetitions = braille.recordings(tmp_path)
    assert x.shape == (12, 22, 12) and letters.tolist() == [0, 1] * 11 and repetitions.tolist()[::8] == [0, 31, 40]
    key = ("reset to zero, all read", "baseline")
    row = braille.measure_braille({key: None}, 1, tmp_path, tmp_path)[key]
    assert row["accuracy"] == 1 and len(row["history"]) == 12 and 0 < row["firing_rate"] < 1
    assert set(row["validation"]) == set(braille.LRS) and row["validation"][row["lr"]] == max(
        row["validation"].values()
    )

    def other_test(each):
        wrong = {"letter": "AB"[each["letter"] == "A"]} if each["repetition"] >= 40 else {}
        return {**each, **wrong}

    felt(tmp_path, other_test)
    swapped = braille.measure_braille({key: None}, 1, tmp_path, tmp_path)[key]
    assert swapped["accuracy"] == 0 and (swapped["lr"], swapped["validation"]) == (row["lr"], row["validation"])


def test_a_pause_has_the_mean_reading_and_only_then_is_read(tmp_path, monkeypatch):
    braille, seen = felt(tmp_path), []
    monkeypatch.setattr(braille, "EPOCHS", 1)
    forward = braille.Net.forward
    monkeypatch.setattr(braille.Net, "forward", lambda net, x: seen.append((net.read, x)) or forward(net, x))
    for setting, task in braille.TASKS.items():
        seen.clear()
        braille.measure_braille({(setting, "bpsa"): None}, 0, tmp_path, tmp_path)
        assert {(read, len(x)) for read, x in seen} == {(8 if task.last else 12, 12 + task.pause)}
        assert all((x[12:] == 0).all() and x.isfinite().all() for _, x in seen)
        trained_on = torch.cat([x[:12] for _, x in seen if x.shape[1] == 10], 1)
        assert trained_on.mean((0, 1))[[1, 6]].abs().max() < 0.05 and trained_on[..., 0].abs().max() == 0


class Foreign:
    def __reduce__(self):
        return os.mkdir, ("foreign",)


DAMAGED = {
    "code": (lambda row: {**row, "letter": Foreign()}, r"it holds a \w+\.mkdir"),
    "channels": (lambda row: {**row, "taxel_data": row["taxel_data"][:, :5]}, r"the shape \(5,\), not \(12,\)"),
    "key": (lambda row: {"letter": "A"}, "repetition"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_no_file_of_letters_is_refused_and_runs_nothing(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, said = DAMAGED[case]
    braille = felt(tmp_path, change)
    with pytest.raises(ValueError, match=said):
        braille.recordings(tmp_path)
    assert not (tmp_path / "foreign").exists()
    (tmp_path / braille.FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not the file of https://github.com/fzenke/spytorch"):
        braille.recordings(tmp_path)
    (tmp_path / braille.FILE).unlink()
    with pytest.raises(FileNotFoundError, match="can be had from https://github.com/fzenke/spytorch"):
        braille.recordings(tmp_path)


def test_the_real_letters_if_they_are_at_hand(tmp_path):
    if not (source() / "other" / "braille_tactile_1350.npz").is_file():
        pytest.skip("the Braille letters are not at hand")
    from snntorch_bpsta.training.studies import braille

    x, letters, repetitions = braille.recordings(unpack(source(), tmp_path, ["other"]))
    assert x.shape == (38, 1350, 12) and letters.bincount().tolist() == [50] * 27
    assert repetitions.bincount().tolist() == [27] * 50


def test_a_call_without_a_recipe_tells_how_far_it_is(tmp_path):
    from snntorch_bpsta.training.studies import study

    felt(tmp_path)
    heard, only = [], {"variants": ["bpsa"], "settings": ["reset to zero, last steps read"]}
    out = tmp_path / "runs.json"
    study("braille", None, [0], out, say=str, progress=lambda *at: heard.append(at), data_root=tmp_path, **only)
    assert list(dict.fromkeys(heard)) == [(done, 5) for done in range(6)]
