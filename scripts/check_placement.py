#!/usr/bin/env python3
"""Holds `layerprobe plan`'s balanced, balanced_low_0 and sequential against transformers on random shapes and budgets.

usage: check_placement.py BUILD_FOLDER [--count 200] [--seed 1]

Needs torch, transformers 5.23.0 and accelerate 1.15.0 (pip install -r scripts/requirements-reference.txt)
and no GPU: models are on the meta device, and checkpoints are headers with a hole for the data. Prints each difference
with the command that shows it, and exits with 1 when there is one.

Both planners get the same weights and the same budgets: the weights_limit_bytes that `plan --json` prints, which are what
is left beside activations, workspace and, where weights stream, the room for two modules on their way.
"""
import argparse
import json
import logging
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map

STRATEGIES = ["balanced", "balanced_low_0", "sequential"]


def random_config(rng: random.Random) -> dict:
    heads = rng.choice([2, 4, 8])
    return {
        "model_type": rng.choice(["llama", "mistral", "qwen2", "qwen3"]),
        "vocab_size": rng.choice([100, 1000, 20000]),
        "hidden_size": rng.choice([32, 64, 128]),
        "intermediate_size": rng.choice([32, 96, 512]),
        "num_hidden_layers": rng.randint(1, 24),
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([1, 2, heads]),
        "head_dim": rng.choice([16, 32]),
        "max_position_embeddings": 2048,
        "sliding_window": None,
        "tie_word_embeddings": rng.random() < 0.4,
        "dtype": rng.choice(["bfloat16", "float32"]),
    }


def write_checkpoint(folder: pathlib.Path, config: dict, model: torch.nn.Module) -> None:
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        begin, end = end, end + tensor.numel() * tensor.element_size()
        dtype = {torch.bfloat16: "BF16", torch.float32: "F32"}[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def ours(program: pathlib.Path, folder: str, strategy: str, sizes: list[int], host: int) -> tuple[dict, list[str]]:
    command = [str(program), "plan", "--json", "--quiet", "--model", folder, "--output", "none", "--test-type", "full",
               "--random-tokens", "1x8", "--tokens-per-batch", "8", "--gpus", ",".join(f"{size}B" for size in sizes),
               "--device-map", strategy, "--max-memory", f"cpu:{host}B"]
    finished = subprocess.run(command, capture_output=True, text=True)
    return (json.loads(finished.stdout) if finished.returncode == 0 else {"error": finished.stderr}), command


def theirs(model: torch.nn.Module, strategy: str, budgets: dict) -> dict:
    if strategy != "sequential":
        budgets = get_balanced_memory(model, dict(budgets), model._no_split_modules, low_zero=strategy == "balanced_low_0")
    return infer_auto_device_map(model, max_memory=budgets, no_split_module_classes=model._no_split_modules)


def place_of(module: str, device_map: dict):
    """The longest prefix that ends at a dot."""
    while module not in device_map:
        module = module.rpartition(".")[0]
        if not module:
            return device_map[""]
    return device_map[module]


def compare(plan: dict, model: torch.nn.Module, strategy: str) -> list[str]:
    budgets = {i: row["weights_limit_bytes"] for i, row in enumerate(plan["devices"])} | {"cpu": plan["host_limit_bytes"]}
    device_map = theirs(model, strategy, budgets)
    differences = []
    for module, placed in plan["placement"].items():
        expected = place_of(module, device_map)
        home = {"host": "cpu", "disk": "disk"}.get(placed["home"], int(placed["device"].removeprefix("cuda:")))
        if home != expected:
            differences.append(f"{module}: {home} where transformers has {expected}")
    return differences


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.disable()  # every GPU is said to be missing
    rng = random.Random(arguments.seed)
    compared = streamed = unequal = refused = 0
    for _ in range(arguments.count):
        with tempfile.TemporaryDirectory() as folder:
            values = random_config(rng)
            config = AutoConfig.for_model(**values)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, values["dtype"]))
            write_checkpoint(pathlib.Path(folder), values, model)
            total = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
            roomy, _ = ours(arguments.build / "layerprobe", folder, "sequential", [10**12], 0)
            beside = sum(roomy["devices"][0]["reserve"].values())
            for strategy in STRATEGIES:
                sizes = [beside + int(total * rng.uniform(0.02, 1.2)) for _ in range(rng.randint(1, 5))]
                plan, command = ours(arguments.build / "layerprobe", folder, strategy, sizes, int(total * rng.uniform(0, 1.5)))
                if "error" in plan:  # no room to stream, or for the head's own copy of tied weights
                    if "error: " not in plan["error"] or "fit" not in plan["error"] and "needs" not in plan["error"]:
                        print(" ".join(command), plan["error"], sep="\n")
                        unequal += 1
                    refused += 1
                    continue
                compared += 1
                streamed += plan["num_waves"] > 0
                if differences := compare(plan, model, strategy):
                    unequal += 1
                    print(json.dumps(values), " ".join(command), *differences, sep="\n")
    print(f"transformers {transformers.__version__}: {compared} placements compared, {streamed} of them with weights on "
          f"cpu or disk, {refused} refused for want of room; {unequal} differ")
    return 1 if unequal or not compared else 0


sys.exit(main())
