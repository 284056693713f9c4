"""Run by layerprobe_h5_test.cpp: FOLDER holds finished.h5 and stopped.h5.partial, written by tests/store/sample.h.

Reads both with scripts/layerprobe_h5.py and with plain h5py, and writes FOLDER/foreign.h5 as another engine would.
"""
import os
import pathlib
import sys

import h5py
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
import layerprobe_h5  # noqa: E402

folder = pathlib.Path(sys.argv[1])
POINTS = ["model.embed_tokens", "model.layers.0.mlp:topk_indices", "model.layers.0", "model.layers.1", "model.norm",
          "lm_head"]
BYTES_A_ROW = {0: 12, 1: 8, 2: 12, 4: 20, 5: 2400}

def sample_rows(point, first_row, rows):
    """The formula of sample.h, as bytes."""
    place = np.arange(first_row * BYTES_A_ROW[point], (first_row + rows) * BYTES_A_ROW[point])
    return ((place * 37 + point * 101 + place // 256 + 1) & 0x3f).astype(np.uint8).tobytes()

run = layerprobe_h5.open(folder / "finished.h5")
assert run.is_finished and run.completion.all()
assert run.points == POINTS
assert run.keys() == [POINTS[point] for point in BYTES_A_ROW]
for point in BYTES_A_ROW:

    assert run[POINTS[point]].tobytes() == sample_rows(point, 0, 4), POINTS[point]
    assert run.prompt(2)[POINTS[point]].tobytes() == sample_rows(point, 3, 1), POINTS[point]
assert isinstance(run["lm_head"], np.memmap) and run["lm_head"].shape == (4, 300)
assert [run[POINTS[point]].dtype for point in (1, 2, 4, 5)] == [np.int32, np.float16, np.float32, np.float64]
bits = np.frombuffer(sample_rows(0, 0, 4), np.uint16).astype(np.uint32) << 16
assert (run.float32("model.embed_tokens").ravel() == bits.view(np.float32)).all()
assert (run.float32("model.layers.0") == run["model.layers.0"]).all()
assert [prompt.text for prompt in run.prompts()] == ["one two three", "", "grüß dich"]
assert run.prompt(0).input_ids.tolist() == [11, 12, 13] and run.prompt(-1).input_ids.tolist() == [15, 16]
assert run.prompt(0).position.tolist() == [0, 2]
assert run.attributes["seed"] == 7 and run.attributes["model_hash"] == "abc" and run.attributes["num_batches"] == 3
assert run.statistics("model.norm")["abs_max"] == 43 and run.statistics("model.norm")["abs_max_row"] == 3
assert run.statistics_of_prompt("model.norm", 1)["abs_max_row"] == 0
assert run.top_k()[2][3] == ["<103>", "<153>"]
for wrong in ("model.layers.1", "nothing"):
    try:
        run[wrong]
        raise SystemExit(f"{wrong} was found")
    except KeyError:
        pass
try:
    import torch
except ImportError:
    print("no torch: torch() was not tried")
else:
    tensor = run.torch("model.embed_tokens")
    assert tensor.dtype == torch.bfloat16
    assert (tensor.float().numpy() == run.float32("model.embed_tokens")).all()
    assert run.torch("lm_head").dtype == torch.float64 and run.prompt(0).torch("lm_head").shape == (2, 300)

partial = layerprobe_h5.open(folder / "stopped.h5.partial")
assert not partial.is_finished and partial.is_complete("lm_head", 0) and not partial.is_complete("lm_head", 2)
assert partial.prompt(0)["lm_head"].tobytes() == sample_rows(5, 0, 2)
assert not partial.prompt(2)["lm_head"].any()

with h5py.File(folder / "finished.h5") as file:  # without our script: slower, and the same values
    assert (file["captures/model.embed_tokens"][:].ravel() == bits.view(np.float32)).all()
    assert list(file["captures"]) == run.keys()
    assert file["captures/model.layers.0"].attrs["semantics"] == b"residual_after_block"

bfloat16 = h5py.h5t.IEEE_F32LE.copy()
bfloat16.set_fields(15, 7, 8, 0, 7)
bfloat16.set_offset(0)
bfloat16.set_precision(16)
bfloat16.set_size(2)
bfloat16.set_ebias(127)
with h5py.File(folder / "foreign.h5", "w", libver=("v108", "v110")) as file:
    file.attrs["format_version"] = 1
    file.attrs["engine"] = np.bytes_("another")
    file["prompts/cu_seqlens"] = np.array([0, 2, 3], np.int64)
    file["prompts/input_ids"] = np.array([5, 6, 7], np.int32)
    file["rows/cu_rows"] = np.array([0, 2, 3], np.int64)
    file["rows/position"] = np.array([0, 1, 0], np.int32)
    file["statistics/points"] = np.array([b"model.layers.0", b"model.norm"])
    file["captures/model.norm"] = np.arange(6, dtype=np.float16).reshape(3, 2)
    layers = h5py.h5d.create(file["captures"].id, b"model.layers.0", bfloat16, h5py.h5s.create_simple((3, 2)))
    layers.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(6, dtype=np.uint16), bfloat16)


def problem_of(change):
    """What open() says of finished.h5 after a change."""
    (folder / "damaged.h5").write_bytes((folder / "finished.h5").read_bytes())
    change(folder / "damaged.h5")
    try:
        layerprobe_h5.open(folder / "damaged.h5")
    except ValueError as problem:
        assert "damaged.h5" in str(problem)
        return str(problem)
    return None


def with_file(change):
    def changed(path):
        with h5py.File(path, "r+") as file:
            change(file)
    return problem_of(changed)


def with_a_jump(file):
    file["rows/cu_rows"][1] = 99


def without_row(file):
    del file["captures/model.embed_tokens"]
    file["captures/model.embed_tokens"] = np.zeros((1, 3))


assert problem_of(lambda path: None) is None
assert "HDF5" in problem_of(lambda path: path.write_text("no capture"))
assert problem_of(lambda path: os.truncate(path, path.stat().st_size // 2))
assert "/rows/cu_rows" in with_file(with_a_jump)
assert "/captures/model.embed_tokens" in with_file(without_row)
assert "/statistics/points" in with_file(lambda file: file.__delitem__("statistics/points"))
print("all as it should be")
