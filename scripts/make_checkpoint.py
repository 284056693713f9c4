#!/usr/bin/env python3
"""Writes a checkpoint of a published shape with random weights, as fast as the file system takes it.

usage: make_checkpoint.py SHAPE FOLDER [--layers N] [--only LAYER] [--fp8] [--headers-only] [--processes N]
  --layers N      that many layers instead of the shape's own
  --only LAYER    data for this layer alone; the other files are holes of the right size
  --fp8           the matrices of the layers as F8_E4M3 with a factor for each block of 128 x 128
  --headers-only  all files are holes of the right size: for plans
  --processes N   that write at the same time (the number of cores)

The weights are normally distributed with a deviation of 0.02 and repeat after some millions: right for speed, where
they must not be zero, and for nothing else. A file a layer, bfloat16 but for --fp8. Needs Python alone.
"""
import argparse
import array
import json
import math
import os
import pathlib
import random
import statistics
import struct
import sys
import time

LLAMA = dict(architectures=["LlamaForCausalLM"], model_type="llama", rms_norm_eps=1e-5, rope_theta=500000.0,
             max_position_embeddings=131072)
QWEN2 = dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2", rms_norm_eps=1e-6, rope_theta=1000000.0,
             max_position_embeddings=32768)
MINIMAX_M2 = dict(architectures=["MiniMaxM2ForCausalLM"], model_type="minimax_m2", rms_norm_eps=1e-6, rope_theta=5000000,
                  rotary_dim=64, max_position_embeddings=196608, num_local_experts=256, num_experts_per_tok=8,
                  scoring_func="sigmoid", use_routing_bias=True, use_qk_norm=True, qk_norm_type="per_layer",
                  shared_intermediate_size=0)
SHAPES = {  # width, of the MLP, layers, heads, key and value heads, head_dim, vocabulary
    "tiny": (LLAMA, 64, 96, 4, 4, 2, 16, 1000),
    "llama-1b": (LLAMA, 2048, 8192, 16, 32, 8, 64, 128256),
    "llama-8b": (LLAMA, 4096, 14336, 32, 32, 8, 128, 128256),
    "minimax-m2": (MINIMAX_M2, 3072, 1536, 62, 48, 8, 128, 200064),
    "minimax-m2-4": (MINIMAX_M2, 3072, 1536, 4, 48, 8, 128, 200064),
    "minimax-m2-tiny": ({**MINIMAX_M2, "num_local_experts": 16, "rotary_dim": 8}, 128, 128, 2, 4, 2, 16, 1000),
    "qwen2-72b": (QWEN2, 8192, 29568, 80, 64, 8, 128, 152064),
}
FP8 = dict(quant_method="fp8", activation_scheme="dynamic", fmt="float8_e4m3fn", weight_block_size=[128, 128],
           modules_to_not_convert=["gate", "e_score_correction_bias", "lm_head"])
PERIOD = 4_194_301  # weights; a prime, so that no two rows of a matrix begin alike


def config_of(shape, num_layers=None, fp8=False):
    """`shape` may end with "-fp8"."""
    fp8 = fp8 or shape.endswith("-fp8")
    shape = shape.removesuffix("-fp8")
    family, hidden, intermediate, layers, heads, key_value_heads, head_dim, vocabulary = SHAPES[shape]
    return {**family, "hidden_size": hidden, "intermediate_size": intermediate,
            "num_hidden_layers": num_layers or layers, "num_attention_heads": heads,
            "num_key_value_heads": key_value_heads, "head_dim": head_dim, "vocab_size": vocabulary,
            "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            **({"quantization_config": FP8} if fp8 else {})}


def layer_tensors(config):
    """{name: shape} of one layer."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key_value = config["num_key_value_heads"] * config["head_dim"]
    tensors = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,),
               "self_attn.q_proj.weight": (query, hidden), "self_attn.k_proj.weight": (key_value, hidden),
               "self_attn.v_proj.weight": (key_value, hidden), "self_attn.o_proj.weight": (hidden, query),
               "mlp.gate_proj.weight": (intermediate, hidden), "mlp.up_proj.weight": (intermediate, hidden),
               "mlp.down_proj.weight": (hidden, intermediate)}
    if config["model_type"] == "minimax_m2":
        for matrix in ("gate", "up", "down"):
            del tensors[f"mlp.{matrix}_proj.weight"]
        experts = config["num_local_experts"]
        tensors |= {"self_attn.q_norm.weight": (query,), "self_attn.k_norm.weight": (key_value,),
                    "block_sparse_moe.gate.weight": (experts, hidden),
                    "block_sparse_moe.e_score_correction_bias": (experts,)}
        for expert in range(experts):
            prefix = f"block_sparse_moe.experts.{expert}."
            tensors |= {f"{prefix}w1.weight": (intermediate, hidden), f"{prefix}w3.weight": (intermediate, hidden),
                        f"{prefix}w2.weight": (hidden, intermediate)}
    if "quantization_config" in config:
        for name, shape in list(tensors.items()):
            if is_fp8(name):
                tensors[f"{name}_scale_inv"] = tuple((size + 127) // 128 for size in shape)
    if config["model_type"] == "qwen2":
        tensors |= {"self_attn.q_proj.bias": (query,), "self_attn.k_proj.bias": (key_value,),
                    "self_attn.v_proj.bias": (key_value,)}
    return tensors


def files_of(config):
    """{file name: {tensor name: shape}}, the layers in order and then the rest."""
    count = config["num_hidden_layers"] + 1
    names = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    layer = layer_tensors(config)
    files = {names[i]: {f"model.layers.{i}.{name}": shape for name, shape in layer.items()} for i in range(count - 1)}
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    files[names[-1]] = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,),
                        "lm_head.weight": (vocabulary, hidden)}
    return files


def is_fp8(name):
    return name.endswith(("_proj.weight", ".w1.weight", ".w2.weight", ".w3.weight"))


def dtype_of(name, tensors):
    """safetensors' name of it, and the bytes of a number."""
    if name.endswith(("_scale_inv", "e_score_correction_bias")):
        return "F32", 4
    return ("F8_E4M3", 1) if f"{name}_scale_inv" in tensors else ("BF16", 2)


def bytes_of(tensors):
    return sum(dtype_of(name, tensors)[1] * math.prod(shape) for name, shape in tensors.items())


def checkpoint_bytes(config):
    return sum(map(bytes_of, files_of(config).values()))


def some_weights():
    """PERIOD bfloat16 numbers, twice, as bytes: a window on them may start anywhere in the first half."""
    normal = statistics.NormalDist(0, 0.02)
    bits = [struct.unpack("<HH", struct.pack("<f", normal.inv_cdf((i + 0.5) / 4096)))[1] for i in range(4096)]
    random.seed(1)
    picks = memoryview(random.randbytes(2 * PERIOD)).cast("H")
    once = array.array("H", (bits[pick & 4095] for pick in picks)).tobytes()
    return memoryview(once + once)


def write_all(file, pieces):
    for piece in pieces:
        while len(piece):
            piece = piece[file.write(piece):]


def weights_from(weights, start, count):
    """Windows on `weights`, of `count` numbers together."""
    while count:
        here = min(count, PERIOD)
        yield weights[2 * start : 2 * (start + here)]
        start = (start + here) % PERIOD
        count -= here


def some_fp8():
    """PERIOD F8_E4M3 numbers, twice: normally distributed about as the others are, none of them NaN."""
    random.seed(2)
    table = bytes((value % 0x60 + 0x10) | (value & 0x80) for value in range(256))
    once = random.randbytes(PERIOD).translate(table)
    return memoryview(once + once)


def fp8_from(fp8, start, count):
    while count:
        here = min(count, PERIOD)
        yield fp8[start : start + here]
        start = (start + here) % PERIOD
        count -= here


def write_file(path, tensors, weights, fp8=None):
    """`weights` None: a hole where the data would be."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        dtype, size = dtype_of(name, tensors)
        begin, end = end, end + size * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as file:
        write_all(file, [memoryview(struct.pack("<Q", len(text)) + text)])
        if weights is None:
            file.truncate(8 + len(text) + end)
            return
        for name, shape in tensors.items():
            count = math.prod(shape)
            if name.endswith("_scale_inv"):  # of F8_E4M3 numbers of some 50
                write_all(file, [memoryview(struct.pack("<f", 0.0004) * count)])
            elif name.endswith("e_score_correction_bias"):
                write_all(file, [memoryview(struct.pack("<f", 8.0) * count)])
            elif dtype_of(name, tensors)[0] == "F8_E4M3":
                write_all(file, fp8_from(fp8, hash_of(name) % PERIOD, count))
            elif "norm" in name:
                write_all(file, [memoryview(struct.pack("<H", 0x3F80) * count)])  # 1
            else:
                write_all(file, weights_from(weights, hash_of(name) % PERIOD, count))


def hash_of(name):
    value = 0
    for letter in name.encode():
        value = (value * 31 + letter) % 2**32
    return value


def make(shape, folder, layers=None, only=None, processes=None, fp8=False, headers_only=False):
    """Returns the checkpoint's bytes. config.json comes last: where it is, the rest is."""
    config = config_of(shape, layers, fp8)
    files = files_of(config)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = None if headers_only else some_weights()
    numbers = some_fp8() if "quantization_config" in config and not headers_only else None
    jobs = list(enumerate(files.items()))
    processes = min(processes or os.cpu_count(), len(jobs))
    children = []
    for process in range(processes):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for index, (name, tensors) in jobs[process::processes]:
                    write_file(folder / name, tensors, weights if only in (None, index) else None, numbers)
                status = 0
            except OSError as error:
                print(f"error: {error}", file=sys.stderr)
            finally:
                os._exit(status)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        sys.exit(f"error: {folder}: not written")
    write_json(folder, config, files)
    return checkpoint_bytes(config)


def link_layers(whole, folder, config):
    """A checkpoint of `config`, which has fewer layers than the one in `whole`, that takes no room: the same files by
    other names. Returns the checkpoint's bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(path.name for path in whole.glob("*.safetensors"))
    files = files_of(config)
    layers = config["num_hidden_layers"]
    for name, source in zip(files, names[:layers] + names[-1:]):
        os.link(whole / source, folder / name)
    write_json(folder, config, files)
    return checkpoint_bytes(config)


def write_json(folder, config, files):
    index = {"metadata": {"total_size": checkpoint_bytes(config)},
             "weight_map": {tensor: name for name, tensors in files.items() for tensor in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1].split("\n\n")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--only", type=int)
    parser.add_argument("--fp8", action="store_true")
    parser.add_argument("--headers-only", action="store_true")
    parser.add_argument("--processes", type=int)
    options = parser.parse_args()
    start = time.perf_counter()
    size = make(options.shape, options.folder, options.layers, options.only, options.processes, options.fp8,
                options.headers_only)
    print(f"{size / 1e9:.1f} GB in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
