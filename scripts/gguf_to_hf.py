#!/usr/bin/env python3
"""Writes a GGUF's dequantised weights as a Hugging Face folder: config.json and model.safetensors.

    scripts/gguf_to_hf.py MODEL.gguf FOLDER [--dtype bfloat16|float32]

transformers then runs the very weights that layerprobe reads from the GGUF, so that the two can be compared. The
tokenizer is not written. Needs numpy and the `gguf` package; knows the llama (also Mistral), qwen2 and qwen3
architectures.
"""
import argparse
import json
import pathlib

import numpy as np
from gguf import GGUFReader, dequantize

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
OUTSIDE_LAYERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
IN_LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}


def metadata(reader):
    """Every scalar and string key; a float32 as the shortest decimal that means it (1e-05, not 9.99999974e-06)."""
    values = {}
    for key, field in reader.fields.items():
        if len(field.types) != 1:
            continue
        value = field.contents()
        values[key] = float(str(np.float32(value))) if field.types[0].name == "FLOAT32" else value
    return values


def config_of(values, names, shapes, dtype):
    architecture = values["general.architecture"]
    if architecture not in CLASSES:
        raise SystemExit(f"architecture {architecture} is not one of {', '.join(CLASSES)}")

    def get(key, default=None):
        return values.get(f"{architecture}.{key}", default)

    config = {
        "architectures": [CLASSES[architecture]],
        "model_type": architecture,
        "hidden_act": "silu",
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": get("attention.head_count"),
        "num_key_value_heads": get("attention.head_count_kv", get("attention.head_count")),
        "rms_norm_eps": get("attention.layer_norm_rms_epsilon"),
        "vocab_size": shapes["token_embd.weight"][0],
        "max_position_embeddings": get("context_length"),
        "rope_theta": get("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in names,
        "torch_dtype": dtype,
    }
    config["head_dim"] = get("attention.key_length", config["hidden_size"] // config["num_attention_heads"])
    if architecture == "llama" and get("attention.sliding_window"):
        config.update(architectures=["MistralForCausalLM"], model_type="mistral",
                      sliding_window=get("attention.sliding_window"))
    if get("rope.scaling.type") in ("linear", "yarn"):
        config["rope_scaling"] = {"rope_type": get("rope.scaling.type"), "factor": get("rope.scaling.factor")}
        if get("rope.scaling.original_context_length"):
            config["rope_scaling"]["original_max_position_embeddings"] = get("rope.scaling.original_context_length")
    if architecture == "llama" and "blk.0.attn_q.bias" in names:
        config["attention_bias"] = True
    for key in ("bos_token_id", "eos_token_id"):
        if f"tokenizer.ggml.{key}" in values:
            config[key] = values[f"tokenizer.ggml.{key}"]
    return config


def hf_name(name):
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("blk."):
        _, layer, module = stem.split(".", 2)
        return f"model.layers.{layer}.{IN_LAYER[module]}.{kind}"
    return f"{OUTSIDE_LAYERS[stem]}.{kind}"


def uninterleaved(rows, num_heads):
    """llama's q and k rows: HF row j is stored at 2j, HF row j + head_dim/2 at 2j + 1 (in each head)."""
    heads = rows.reshape(num_heads, -1, 2, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2).reshape(rows.shape))


def bytes_of(values, dtype):
    if dtype == "float32":
        return values.astype("<f4").tobytes()
    bits = values.astype("<f4").view(np.uint32)  # to nearest, ties to even; a GGUF of finite values has no NaN
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("gguf")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    options = parser.parse_args()

    reader = GGUFReader(options.gguf)
    shapes = {tensor.name: [int(dim) for dim in reversed(tensor.shape)] for tensor in reader.tensors}
    config = config_of(metadata(reader), set(shapes), shapes, options.dtype)

    is_interleaved = config["model_type"] in ("llama", "mistral")

    item_bytes = {"bfloat16": 2, "float32": 4}[options.dtype]
    header, end = {"__metadata__": {"format": "pt"}}, 0
    tensors = [tensor for tensor in reader.tensors if tensor.name != "rope_freqs.weight"]
    for tensor in tensors:
        begin, end = end, end + item_bytes * int(np.prod(shapes[tensor.name]))
        header[hf_name(tensor.name)] = {"dtype": {"bfloat16": "BF16", "float32": "F32"}[options.dtype],
                                        "shape": shapes[tensor.name], "data_offsets": [begin, end]}
    header_bytes = json.dumps(header).encode()
    header_bytes += b" " * (-len(header_bytes) % 8)

    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    with open(options.folder / "model.safetensors", "wb") as out:
        out.write(len(header_bytes).to_bytes(8, "little") + header_bytes)
        for tensor in tensors:
            values = dequantize(tensor.data, tensor.tensor_type).reshape(shapes[tensor.name])
            module = tensor.name.split(".")[-2]
            if is_interleaved and module in ("attn_q", "attn_k"):
                values = uninterleaved(values, config["num_attention_heads" if module == "attn_q" else
                                                      "num_key_value_heads"])
            out.write(bytes_of(values, options.dtype))
    print(f"{options.folder}: {len(tensors)} tensors in {options.dtype}")


if __name__ == "__main__":
    main()
