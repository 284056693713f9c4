#!/usr/bin/env python3
"""What `extract-all` is with transformers on a GPU, timed. Prints one JSON line.

usage: hf_extract_gpu.py FOLDER INPUT_IDS.json [--modes forward,hooks,...] [--batch 8] [--dtype bfloat16]
                         [--seconds 5] [--out FILE.h5] [--device-map cuda] [--max-memory JSON] [--base-model]
                         [--no-warm-up] [--dequantize]

INPUT_IDS.json is a list of ids a prompt. Prompts of several lengths are sorted and padded, a batch to its longest.

  forward      nothing kept: what the model alone can do
  hooks        a forward hook on every layer that calls .cpu(): the usual script
  pinned       hooks that copy into preallocated pinned memory without waiting: an expert's script
  hooks+h5     and pinned+h5: the same, and h5py writes it into FILE.h5, which is removed at the end

A mode without a file takes about SECONDS, whatever the prompts; one with a file goes over them once, and so does each
with --no-warm-up, which times the first pass. --base-model leaves out the head and its weights. Tokens are real ones.
"""
import time

started = time.perf_counter()

import argparse
import itertools
import json
import math
import os
import platform
import random
import resource

import h5py
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM

imported = time.perf_counter()
DTYPES = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2"}  # numpy has no bfloat16: its bits


class Job:
    def __init__(self, options):
        self.options = options
        torch.backends.cuda.matmul.allow_tf32 = False  # the default, said aloud
        self.dtype = getattr(torch, options.dtype)
        start = time.perf_counter()
        kind = AutoModel if options.base_model else AutoModelForCausalLM
        limits = {}
        if options.max_memory:  # {"0": "6GB", "cpu": "100GB"}
            given = json.loads(options.max_memory)
            limits["max_memory"] = {int(name) if name.isdigit() else name: size for name, size in given.items()}
        if options.dequantize:
            limits["quantization_config"] = transformers.FineGrainedFP8Config(dequantize=True)
        model = kind.from_pretrained(options.folder, dtype=self.dtype, device_map=options.device_map, **limits).eval()
        self.decoder = model if options.base_model else model.model
        self.is_gpu = self.decoder.device.type == "cuda"
        self.synchronize()
        self.load_seconds = time.perf_counter() - start
        weights = {tensor.data_ptr(): tensor.nbytes for tensor in model.parameters()}  # tied ones once
        self.loaded_bytes = sum(weights.values())
        self.layers = self.decoder.layers
        self.batches = self.make_batches(options)
        self.kept = {}
        self.pinned = {}

    def make_batches(self, options):
        """[(ids, mask or None, number of real tokens)]"""
        with open(options.input_ids) as file:
            prompts = sorted(json.load(file), key=len)
        batches = []
        for start in range(0, len(prompts), options.batch):
            part = prompts[start : start + options.batch]
            longest = len(part[-1])
            ids = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in part])
            mask = None
            if len(part[0]) != longest:
                mask = torch.tensor([[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in part])
            batches.append((ids, mask, sum(map(len, part))))
        random.Random(1).shuffle(batches)
        return batches

    def synchronize(self):
        for gpu in range(torch.cuda.device_count() if self.is_gpu else 0):
            torch.cuda.synchronize(gpu)

    def forward(self, ids, mask):
        device = self.decoder.device
        self.decoder(ids.to(device), attention_mask=None if mask is None else mask.to(device), use_cache=False)

    def hook(self, mode, layer):
        def to_host(module, inputs, output):
            self.kept[layer] = (output[0] if isinstance(output, tuple) else output).cpu()

        def to_pinned(module, inputs, output):
            values = output[0] if isinstance(output, tuple) else output
            buffer = self.pinned.get(layer)
            if buffer is None or buffer.numel() < values.numel():
                buffer = self.pinned[layer] = torch.empty(values.numel(), dtype=values.dtype, pin_memory=self.is_gpu)
            self.kept[layer] = buffer[: values.numel()].view(values.shape)
            self.kept[layer].copy_(values, non_blocking=True)

        return to_pinned if mode.startswith("pinned") else to_host

    def hooks(self, mode):
        if mode == "forward":
            return []
        return [layer.register_forward_hook(self.hook(mode, i)) for i, layer in enumerate(self.layers)]

    def run(self, mode, batch_seconds):
        """Tokens a second; all of it: hooks, conversion, file."""
        keeps, writes = mode != "forward", mode.endswith("+h5")
        hooks = self.hooks(mode)
        count = len(self.batches)
        if not writes and batch_seconds:
            count = math.ceil(self.options.seconds / batch_seconds)
        start = time.perf_counter()
        file = datasets = None
        if writes:
            shape = (sum(len(ids) for ids, _, _ in self.batches), max(ids.shape[1] for ids, _, _ in self.batches),
                     self.decoder.config.hidden_size)
            file = h5py.File(self.options.out, "w")
            datasets = [file.create_dataset(f"layer_{i}", shape, DTYPES[self.options.dtype]) for i in range(len(hooks))]
        tokens = row = 0
        for ids, mask, real in itertools.islice(itertools.cycle(self.batches), count):
            self.forward(ids, mask)
            if keeps:
                self.synchronize()
            for i, dataset in enumerate(datasets or ()):
                values = self.kept[i]
                values = values.view(torch.uint16) if self.dtype == torch.bfloat16 else values
                dataset[row : row + len(ids), : ids.shape[1]] = values.numpy()
            row += len(ids)
            tokens += real
        self.synchronize()
        if file:
            file.close()
        seconds = time.perf_counter() - start
        for hook in hooks:
            hook.remove()
        return {"tokens_per_second": tokens / seconds, "tokens": tokens, "seconds": seconds}

    def warm_up(self, mode):
        """The seconds of a batch, the largest; buffers have their size then."""
        ids, mask, _ = max(self.batches, key=lambda batch: batch[0].numel())
        self.forward(ids[:, :64], None if mask is None else mask[:, :64])  # the libraries' start
        hooks = self.hooks(mode)
        for _ in range(2):
            self.synchronize()
            start = time.perf_counter()
            self.forward(ids, mask)
            self.synchronize()
            seconds = time.perf_counter() - start
            if seconds > 3:
                break
        for hook in hooks:
            hook.remove()
        return seconds


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n\n")[0])
    parser.add_argument("folder")
    parser.add_argument("input_ids")
    parser.add_argument("--modes", default="forward,hooks,pinned")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16", choices=DTYPES)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--out")
    parser.add_argument("--device-map", default="cuda")
    parser.add_argument("--max-memory")
    parser.add_argument("--base-model", action="store_true")
    parser.add_argument("--no-warm-up", action="store_true")
    parser.add_argument("--dequantize", action="store_true", help="a checkpoint in FP8, expanded while it is loaded")
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()

    job = Job(options)
    modes = {}
    with torch.no_grad():
        for mode in options.modes.split(","):
            modes[mode] = job.run(mode, None if options.no_warm_up else job.warm_up(mode))
    if options.out and os.path.exists(options.out):
        os.remove(options.out)
    print(json.dumps({
        "modes": modes,
        "import_seconds": imported - started,
        "load_seconds": job.load_seconds,
        "loaded_bytes": job.loaded_bytes,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "gpu_peak_bytes": torch.cuda.max_memory_allocated() if job.is_gpu else 0,
        "versions": {"transformers": transformers.__version__, "torch": torch.__version__,
                     "CUDA of torch": torch.version.cuda, "cuDNN": str(torch.backends.cudnn.version()),
                     "h5py": h5py.__version__, "Python": platform.python_version()},
    }))


main()
