#!/usr/bin/env python3
"""Writes tests/placement/transformers_5.23_vectors.json: the budgets and maps that transformers itself computes for the
models, strategies and budgets of transformers_5.15_vectors.json.

usage: make_placement_vectors.py

Needs torch, transformers 5.23.0 and accelerate 1.15.0, and no GPU: models are on the meta device. Between the two
releases balanced_low_0 and balanced came to leave room for the largest leaf instead of the mean one.
"""
import json
import pathlib
import re

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations.accelerate import get_balanced_memory, infer_auto_device_map

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "tests" / "placement"


class Leaf(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, dtype=torch.int8, device="meta"), requires_grad=False)


class ToyLayer(nn.Module):
    def __init__(self, attention: int, mlp: int):
        super().__init__()
        self.self_attn, self.mlp = Leaf(attention), Leaf(mlp)


class ToyRotary(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("inv_freq", torch.empty(2, dtype=torch.int8, device="meta"))


class ToyModel(nn.Module):
    def __init__(self, embedding: int, layers: list):
        super().__init__()
        self.embed_tokens = Leaf(embedding)
        self.layers = nn.ModuleList(ToyLayer(*sizes) for sizes in layers)
        self.norm, self.rotary_emb = Leaf(10), ToyRotary()


class Toy(nn.Module):
    """One byte an element."""

    _no_split_modules = {"ToyLayer"}

    def __init__(self, embedding: int, layers: list, tied: bool = False):
        super().__init__()
        self.model, self.lm_head = ToyModel(embedding, layers), Leaf(embedding)
        self.all_tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"} if tied else {}


def real(model_type: str, vocab_size: int, hidden_size: int, layers: int, heads: int, key_value_heads: int, head_dim: int,
         intermediate_size: int, **more) -> nn.Module:
    config = AutoConfig.for_model(model_type, vocab_size=vocab_size, hidden_size=hidden_size, num_hidden_layers=layers,
                                  num_attention_heads=heads, num_key_value_heads=key_value_heads, head_dim=head_dim,
                                  intermediate_size=intermediate_size, **({"tie_word_embeddings": False} | more))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


MODELS = {
    "toy_a": lambda: Toy(1000, [(200, 300)] * 8),
    "toy_a_tied": lambda: Toy(1000, [(200, 300)] * 8, tied=True),
    "toy_b": lambda: Toy(100, [(50, 50)] * 2 + [(50, 550)] * 4),
    "llama3_8b": lambda: real("llama", 128256, 4096, 32, 32, 8, 128, 14336),
    "llama3_70b": lambda: real("llama", 128256, 8192, 80, 64, 8, 128, 28672),
    "qwen25_05b": lambda: real("qwen2", 151936, 896, 24, 14, 2, 64, 4864, tie_word_embeddings=True),
    "qwen3_30b_a3b": lambda: real("qwen3_moe", 151936, 2048, 48, 32, 4, 128, 768, num_experts=128, num_experts_per_tok=8,
                                  moe_intermediate_size=768),
    "tiny_llama": lambda: real("llama", 256, 64, 4, 4, 2, 16, 128),
}


def with_ranges(device_map: dict) -> dict:
    """model.layers.3, .4, .5 on one device as model.layers.3..5"""
    out = {}
    for name, device in device_map.items():
        last = next(reversed(out), None)
        match = re.fullmatch(r"model\.layers\.(\d+)", name)
        if match and last and out[last] == device and (before := re.fullmatch(r"model\.layers\.(\d+)(?:\.\.\d+)?", last)):
            del out[last]
            name = f"model.layers.{before[1]}..{match[1]}"
        out[name] = device
    return out


def main() -> None:
    lines = []
    models = {}
    for vector in json.loads((FOLDER / "transformers_5.15_vectors.json").read_text()):
        model = models.setdefault(vector["model"], MODELS[vector["model"]]())
        given = {key if key == "cpu" else int(key): bytes for key, bytes in vector["max_memory"].items()}
        budget = dict(given)
        if vector["strategy"] != "sequential":
            budget = get_balanced_memory(model, budget, model._no_split_modules,
                                         low_zero=vector["strategy"] == "balanced_low_0")
        device_map = infer_auto_device_map(model, max_memory=dict(budget), no_split_module_classes=model._no_split_modules)
        vector |= {"budget": {str(key): bytes for key, bytes in budget.items()}, "map": with_ranges(device_map)}
        lines.append(json.dumps(vector))
    assert transformers.__version__ == "5.23.0", transformers.__version__
    (FOLDER / "transformers_5.23_vectors.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


main()
