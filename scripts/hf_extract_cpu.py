#!/usr/bin/env python3
"""The job of `extract-all` as a user does it today: transformers, a hook on every layer, h5py. Prints one JSON line.

usage: hf_extract_cpu.py FOLDER INPUT_IDS.npy OUT.h5 [--dtype bfloat16] [--batch 8]

INPUT_IDS holds integers [num_prompts, num_tokens]. The tokens a second are those of the forward passes alone, and of
the whole job (hooks, conversion, the file); import, loading and one batch to warm up are outside both.
"""
import time

started = time.perf_counter()

import argparse
import json
import platform
import resource

import h5py
import numpy as np
import torch
import transformers

imported = time.perf_counter()


def forward_only(model, input_ids, batch):
    for start in range(0, len(input_ids), batch):
        model(input_ids[start : start + batch], use_cache=False)


def extract(model, input_ids, batch, path):
    kept = {}

    def keep(name):
        def hook(module, inputs, output):
            kept[name] = (output[0] if isinstance(output, tuple) else output).detach()

        return hook

    hooks = [layer.register_forward_hook(keep(f"layer_{i}")) for i, layer in enumerate(model.layers)]
    is_bf16 = model.dtype == torch.bfloat16  # which numpy does not have: its bits are stored
    with h5py.File(path, "w") as file:
        shape = (*input_ids.shape, model.config.hidden_size)
        datasets = [file.create_dataset(f"layer_{i}", shape, "<u2" if is_bf16 else "<f4") for i in range(len(hooks))]
        for start in range(0, len(input_ids), batch):
            model(input_ids[start : start + batch], use_cache=False)
            for i, dataset in enumerate(datasets):
                values = kept[f"layer_{i}"]
                dataset[start : start + batch] = (values.view(torch.uint16) if is_bf16 else values).numpy()
    for hook in hooks:
        hook.remove()


def seconds(work, *arguments):
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("input_ids")
    parser.add_argument("out")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()

    start = time.perf_counter()
    model = transformers.AutoModel.from_pretrained(options.folder, dtype=getattr(torch, options.dtype)).eval()
    load_seconds = time.perf_counter() - start
    input_ids = torch.from_numpy(np.load(options.input_ids).astype(np.int64))
    with torch.no_grad():
        forward_only(model, input_ids[: options.batch], options.batch)
        forward_seconds = seconds(forward_only, model, input_ids, options.batch)
        job_seconds = seconds(extract, model, input_ids, options.batch, options.out)
    print(json.dumps({
        "forward_tokens_per_second": input_ids.numel() / forward_seconds,
        "job_tokens_per_second": input_ids.numel() / job_seconds,
        "import_seconds": imported - started,
        "load_seconds": load_seconds,
        "job_seconds": job_seconds,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "threads": torch.get_num_threads(),
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__, "h5py": h5py.__version__,
                     "Python": platform.python_version()},
    }))


main()
