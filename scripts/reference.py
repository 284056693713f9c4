#!/usr/bin/env python3
"""Remakes tests/data/parity: tiny random checkpoints and what transformers computes on them.

    pip install -r scripts/requirements-reference.txt
    scripts/reference.py [--only PATTERN] [--output tests/data/parity]

Each folder is a model folder as users have them (config.json, model.safetensors or shards) with, beside it:

    input_ids.json   the prompts, one a forward
    reference.h5     transformers' float32 values of the embedding, each layer and the final norm (capture_hf.py)
    errors.json      {dtype: {point: [squared error of each prompt]}}: how far transformers' own bfloat16 and float16 runs
                     are from reference.h5, as the sum over the prompt's values of (its value - float32's)^2; of each token
                     instead where there are experts, whose values depend on the choice that the token made
    routing.json     {dtype: {point: [the experts of each token]}} of the bfloat16 and float16 runs, where there are experts

Cases of one `weights` name share one weights file in weights/, by symbolic links. All follows from the seeds below.
"""
import argparse
import copy
import fnmatch
import json
import os
import pathlib
import shutil
import sys
import tempfile
import zlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import capture_hf

DEFAULT_OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "tests/data/parity"
LENGTHS = [1, 7, 32]
KEPT_IN_F32 = "mlp.gate.e_score_correction_bias"  # DeepSeek-V3's, in transformers and in the files
ROUTER_POINTS = ["model.layers.*.mlp.gate", "model.layers.*.mlp:topk_indices", "model.layers.*.mlp:topk_weights"]

# ----------------------------------------------------------------------------------------------------------- weights
# Shapes that catch a wrong assumption: no power of two, head_dim apart from hidden_size / num_attention_heads, a
# vocabulary that is no multiple of 8, an odd intermediate_size.

LLAMA = dict(model_type="llama", vocab_size=97, hidden_size=48, intermediate_size=67, num_hidden_layers=3,
             num_attention_heads=4, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5,
             max_position_embeddings=64, rope_theta=10000.0)
QWEN3_VL_MOE = dict(model_type="qwen3_vl_moe", vision=dict(
    depth=1, hidden_size=16, intermediate_size=16, num_heads=2, patch_size=2, out_hidden_size=32,
    num_position_embeddings=4, deepstack_visual_indexes=[0]), text=dict(
    vocab_size=61, hidden_size=32, intermediate_size=29, moe_intermediate_size=8, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=2, head_dim=12, rms_norm_eps=1e-6, max_position_embeddings=64,
    num_experts=8, num_experts_per_tok=3, mlp_only_layers=[1], rope_parameters=dict(
        rope_type="default", rope_theta=5e6, mrope_section=[2, 2, 2], mrope_interleaved=True)))
WEIGHTS = {
    "llama": LLAMA,
    "llama-mha-tied": {**LLAMA, "hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 12,
                       "intermediate_size": 51, "vocab_size": 101, "tie_word_embeddings": True, "storage": "F32"},
    "llama-mqa-bias": {**LLAMA, "hidden_size": 60, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 12,
                       "num_hidden_layers": 2, "intermediate_size": 77, "attention_bias": True, "mlp_bias": True,
                       "rms_norm_eps": 1e-6, "storage": "F16", "shard_bytes": 20_000},
    "llama-odd": {**LLAMA, "hidden_size": 33, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10,
                  "intermediate_size": 45, "vocab_size": 61, "num_hidden_layers": 4, "base_export": True},
    "llama-defaults": {**LLAMA, "num_key_value_heads": 4, "head_dim": 12, "rms_norm_eps": 1e-6, "num_hidden_layers": 2},
    "mistral": dict(model_type="mistral", vocab_size=97, hidden_size=48, intermediate_size=65, num_hidden_layers=3,
                    num_attention_heads=4, num_key_value_heads=2, head_dim=14, rms_norm_eps=1e-5,
                    max_position_embeddings=64, rope_theta=1e6, sliding_window=8),
    "mistral-defaults": dict(model_type="mistral", vocab_size=59, hidden_size=40, intermediate_size=43,
                             num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=8, head_dim=5 * 2,
                             rms_norm_eps=1e-6, max_position_embeddings=131072, rope_theta=10000.0,
                             sliding_window=4096),
    "qwen2": dict(model_type="qwen2", vocab_size=101, hidden_size=48, intermediate_size=71, num_hidden_layers=4,
                  num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64,
                  rope_theta=1e6, tie_word_embeddings=True, use_sliding_window=False, sliding_window=8,
                  max_window_layers=2),
    "qwen2-mha": dict(model_type="qwen2", vocab_size=83, hidden_size=36, intermediate_size=53, num_hidden_layers=2,
                      num_attention_heads=2, num_key_value_heads=2, rms_norm_eps=1e-5, max_position_embeddings=64,
                      rope_theta=1e4, storage="F32"),
    "qwen3": dict(model_type="qwen3", vocab_size=97, hidden_size=48, intermediate_size=69, num_hidden_layers=4,
                  num_attention_heads=4, num_key_value_heads=2, head_dim=20, rms_norm_eps=1e-6,
                  max_position_embeddings=64, rope_theta=1e6, use_sliding_window=False, sliding_window=8,
                  max_window_layers=2),
    "qwen3-bias-tied": dict(model_type="qwen3", vocab_size=89, hidden_size=36, intermediate_size=55,
                            num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, head_dim=12,
                            rms_norm_eps=1e-5, max_position_embeddings=64, rope_theta=1e4, attention_bias=True,
                            tie_word_embeddings=True, stale_lm_head=True, storage="F32"),
    "qwen3-defaults": dict(model_type="qwen3", vocab_size=67, hidden_size=36, intermediate_size=41,
                           num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=128,
                           rms_norm_eps=1e-6, max_position_embeddings=32768, rope_theta=1e4),
    # torch's grouped product wants widths of whole 16 bytes; "batched_mm", which rounds alike, takes any.
    "mixtral": dict(model_type="mixtral", vocab_size=61, hidden_size=40, intermediate_size=8, num_hidden_layers=3,
                    num_attention_heads=4, num_key_value_heads=2, head_dim=10, rms_norm_eps=1e-5,
                    max_position_embeddings=64, rope_theta=1e6, num_local_experts=5, num_experts_per_tok=2),
    "mixtral-top1": dict(model_type="mixtral", vocab_size=53, hidden_size=22, intermediate_size=11, head_dim=10,
                         num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=1e-6,
                         max_position_embeddings=64, rope_theta=1e4, num_local_experts=3, num_experts_per_tok=1,
                         sliding_window=8, storage="F32", experts="batched_mm"),
    "qwen3-moe": dict(model_type="qwen3_moe", vocab_size=61, hidden_size=32, intermediate_size=29,
                      moe_intermediate_size=8, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
                      head_dim=12, rms_norm_eps=1e-6, max_position_embeddings=64, rope_theta=1e6, num_experts=8,
                      num_experts_per_tok=3, norm_topk_prob=True),
    "qwen3-moe-dense": dict(model_type="qwen3_moe", vocab_size=59, hidden_size=32, intermediate_size=43,
                            moe_intermediate_size=8, num_hidden_layers=4, num_attention_heads=4,
                            num_key_value_heads=4, rms_norm_eps=1e-5, max_position_embeddings=64, rope_theta=1e4,
                            num_experts=6, num_experts_per_tok=6, norm_topk_prob=True, decoder_sparse_step=2,
                            mlp_only_layers=[3], attention_bias=True, tie_word_embeddings=True,
                            use_sliding_window=True, sliding_window=6, storage="F16", shard_bytes=10_000),
    "minimax-m2": dict(model_type="minimax_m2", vocab_size=61, hidden_size=40, intermediate_size=8,
                       num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=20,
                       rms_norm_eps=1e-6, max_position_embeddings=64, rope_theta=5e6, rotary_dim=12,
                       num_local_experts=9, num_experts_per_tok=4),
    "minimax-m2-skewed": dict(model_type="minimax_m2", vocab_size=53, hidden_size=32, intermediate_size=16,
                              num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
                              rms_norm_eps=1e-6, max_position_embeddings=64, rope_theta=5e6, rotary_dim=16,
                              num_local_experts=7, num_experts_per_tok=2, selection_bias=[0, 0, -9, 0, 9, 0, -9]),
    "minimax-m2-fp8": dict(model_type="minimax_m2", vocab_size=61, hidden_size=64, intermediate_size=16,
                           num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
                           rms_norm_eps=1e-6, max_position_embeddings=64, rope_theta=5e6, rotary_dim=8,
                           num_local_experts=6, num_experts_per_tok=2, fp8_block=[32, 16], f32_router=True),
    "deepseek-v3": dict(model_type="deepseek_v3", vocab_size=61, hidden_size=40, intermediate_size=27,
                        moe_intermediate_size=8, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3,
                        q_lora_rank=22, kv_lora_rank=18, qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=12,
                        n_routed_experts=12, num_experts_per_tok=3, n_group=4, topk_group=2, n_shared_experts=1,
                        first_k_dense_replace=1, routed_scaling_factor=2.5, norm_topk_prob=True, rms_norm_eps=1e-5,
                        max_position_embeddings=64, rope_theta=1e4),
    "deepseek-v3-top1": dict(model_type="deepseek_v3", vocab_size=53, hidden_size=22, intermediate_size=19,
                             moe_intermediate_size=9, num_hidden_layers=2, num_attention_heads=2,
                             num_key_value_heads=2, q_lora_rank=None, kv_lora_rank=11, qk_nope_head_dim=5,
                             qk_rope_head_dim=8, v_head_dim=17, n_routed_experts=6, num_experts_per_tok=1, n_group=1,
                             topk_group=1, n_shared_experts=2, first_k_dense_replace=0, routed_scaling_factor=0.7,
                             norm_topk_prob=False, rope_interleave=False, attention_bias=True,
                             tie_word_embeddings=True, max_position_embeddings=64, rope_theta=1e4,
                             selection_bias=[0, 0, -9, 0, 9, 0], storage="F32", experts="batched_mm"),
    # DeepSeek-V3's own 576 rows of latents, and heads of its value's width.
    "deepseek-v3-latents": dict(model_type="deepseek_v3", vocab_size=31, hidden_size=16, intermediate_size=16,
                                moe_intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
                                num_key_value_heads=1, q_lora_rank=8, kv_lora_rank=512, qk_nope_head_dim=32,
                                qk_rope_head_dim=64, v_head_dim=32, n_routed_experts=4, num_experts_per_tok=2,
                                n_group=2, topk_group=1, first_k_dense_replace=0, max_position_embeddings=64,
                                rope_theta=1e4),
    # Of the blocks of 32 rows and 16 columns some are partial, as in the 576 rows.
    "deepseek-v3-fp8": dict(model_type="deepseek_v3", vocab_size=37, hidden_size=48, intermediate_size=40,
                            moe_intermediate_size=24, num_hidden_layers=2, num_attention_heads=3,
                            num_key_value_heads=3, q_lora_rank=40, kv_lora_rank=34, qk_nope_head_dim=10,
                            qk_rope_head_dim=6, v_head_dim=8, n_routed_experts=6, num_experts_per_tok=2, n_group=2,
                            topk_group=1, n_shared_experts=1, first_k_dense_replace=1, max_position_embeddings=64,
                            rope_theta=1e4, fp8_block=[32, 16]),
    "qwen2-5-vl": dict(model_type="qwen2_5_vl", vision=dict(
        depth=1, hidden_size=16, intermediate_size=16, num_heads=2, patch_size=2, window_size=8, out_hidden_size=48,
        fullatt_block_indexes=[0]), text=dict(
        vocab_size=61, hidden_size=48, intermediate_size=43, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, rms_norm_eps=1e-6, max_position_embeddings=64, use_sliding_window=False,
        sliding_window=8, max_window_layers=1, rope_parameters=dict(
            rope_type="default", rope_theta=1e6, mrope_section=[1, 1, 2]))),
    "qwen3-vl": dict(model_type="qwen3_vl", tie_word_embeddings=True, vision=dict(
        depth=1, hidden_size=16, intermediate_size=16, num_heads=2, patch_size=2, out_hidden_size=40,
        num_position_embeddings=4, deepstack_visual_indexes=[0]), text=dict(
        vocab_size=61, hidden_size=40, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=12, rms_norm_eps=1e-6, max_position_embeddings=64, rope_parameters=dict(
            rope_type="default", rope_theta=5e6, mrope_section=[2, 2, 2], mrope_interleaved=True))),
    "qwen3-vl-moe": QWEN3_VL_MOE,
    # As published: the experts' matrices the other way round than transformers 5 writes them.
    "qwen3-vl-moe-transposed": {**QWEN3_VL_MOE, "transposed_experts": True},
    "qwen3-fp8": dict(model_type="qwen3", vocab_size=61, hidden_size=48, intermediate_size=64, num_hidden_layers=2,
                      num_attention_heads=4, num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-6,
                      max_position_embeddings=64, rope_theta=1e6, fp8_block=[128, 128],
                      not_converted=["lm_head", "model.layers.1.self_attn.k_proj"]),
}
STORAGE_KEYS = ("transposed_experts", "fp8_block", "not_converted", "f32_router", "selection_bias", "experts", "storage", "shard_bytes", "base_export", "stale_lm_head", "own_init")

# ------------------------------------------------------------------------------------------------------------- cases
# name: (weights, change), where `change` is what differs in config.json as transformers 5 spells it (None removes a
# key), or a function from that config to the text of an older spelling.


def rope(rope_type, **parameters):
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, **parameters}}


def old_spelling(*missing, **changes):
    """The config as transformers 4 wrote it: torch_dtype, rope_theta and rope_scaling at the top, no layer_types."""

    def change(config):
        parameters = dict(config.pop("rope_parameters"))
        config["rope_theta"] = parameters.pop("rope_theta")
        rope_type = parameters.pop("rope_type")
        config["rope_scaling"] = None if rope_type == "default" else {"type": rope_type, **parameters}
        config["torch_dtype"] = config.pop("dtype")
        config.pop("layer_types", None)
        config["transformers_version"] = "4.51.0"
        config.update(changes)
        for key in missing:
            config.pop(key)
        return config

    return change


def flat_spelling(config):
    """As Qwen2.5-VL is published: the decoder's keys at the top, the rotation in transformers 4's words."""
    text = config.pop("text_config")
    parameters = text.pop("rope_parameters")
    text["rope_theta"] = parameters["rope_theta"]
    text["rope_scaling"] = {"type": "mrope", "mrope_section": parameters["mrope_section"]}
    for key in ("model_type", "layer_types", "dtype"):
        text.pop(key, None)
    return {**text, **config}


LLAMA3 = dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
# As MiniMax publishes it: no partial_rotary_factor, and keys of its own code.
MINIMAX = dict(attn_type_list=[1, 1, 1], layernorm_full_attention_beta=1.0, layernorm_linear_attention_beta=1.0,
               layernorm_mlp_beta=1.0, mlp_intermediate_size=50, mtp_transformer_layers=1, num_mtp_modules=3,
               qk_norm_type="per_layer", scoring_func="sigmoid", shared_intermediate_size=0,
               shared_moe_mode="sigmoid", sliding_window=None, use_mtp=True, use_qk_norm=True, use_routing_bias=True)
# As DeepSeek publishes it: keys of its own code, num_key_value_heads and no head_dim.
DEEPSEEK = dict(aux_loss_alpha=0.001, ep_size=1, moe_layer_freq=1, num_nextn_predict_layers=1, pretraining_tp=1,
                scoring_func="sigmoid", seq_aux=True, topk_method="noaux_tc")
YARN = dict(factor=4.0, original_max_position_embeddings=16)
DEEPSEEK_YARN = dict(factor=4.0, original_max_position_embeddings=16, beta_fast=32, beta_slow=1, mscale=1.0,
                     mscale_all_dim=1.0)
LONGROPE = dict(short_factor=[1.0, 1.05, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0],
                long_factor=[1.0, 1.3, 1.9, 2.7, 3.4, 4.0, 5.5, 7.0])

CASES = {
    "llama-gqa": ("llama", {}),
    "llama-old-spelling": ("llama", old_spelling()),
    "llama-rope-linear": ("llama", rope("linear", factor=2.5)),
    "llama-rope-linear-old": ("llama", [rope("linear", factor=2.5), old_spelling()]),
    "llama-rope-dynamic": ("llama", {**rope("dynamic", factor=2.0), "max_position_embeddings": 16}),
    "llama-rope-dynamic-old": ("llama", [{**rope("dynamic", factor=2.0), "max_position_embeddings": 16},
                                         old_spelling("rope_theta")]),
    "llama-rope-llama3": ("llama", rope("llama3", **LLAMA3)),
    "llama-rope-llama3-old": ("llama", [rope("llama3", **LLAMA3), old_spelling(
        rope_scaling={"rope_type": "llama3", **LLAMA3})]),
    "llama-rope-yarn": ("llama", rope("yarn", **YARN)),
    "llama-rope-yarn-old": ("llama", [rope("yarn", **YARN), old_spelling()]),
    "llama-rope-yarn-mscale": ("llama", rope("yarn", **YARN, mscale=1.0, mscale_all_dim=0.4, beta_fast=8,
                                             beta_slow=2)),
    "llama-rope-yarn-attention-factor": ("llama", rope("yarn", **YARN, attention_factor=0.9)),
    "llama-rope-yarn-untruncated": ("llama", rope("yarn", **YARN, truncate=False)),
    "llama-rope-yarn-no-factor": ("llama", rope("yarn", factor=None, original_max_position_embeddings=16)),
    "llama-rope-longrope": ("llama", rope("longrope", **LONGROPE, original_max_position_embeddings=16)),
    "llama-rope-longrope-top-level": ("llama", {**rope("longrope", **LONGROPE, factor=3.0),
                                                "original_max_position_embeddings": 24}),
    "llama-rope-longrope-attention-factor": ("llama", rope("longrope", **LONGROPE, attention_factor=1.25, factor=8.0,
                                                           original_max_position_embeddings=20)),
    "llama-rope-proportional": ("llama", rope("proportional", partial_rotary_factor=0.5, factor=2.0)),
    "llama-mha-tied-f32": ("llama-mha-tied", {}),
    "llama-mqa-bias-f16-sharded": ("llama-mqa-bias", {}),
    "llama-odd-base-export": ("llama-odd", {}),
    "llama-defaults": ("llama-defaults", old_spelling(
        "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling", "hidden_act",
        "max_position_embeddings", "tie_word_embeddings", "attention_bias", "mlp_bias", "torch_dtype")),
    "llama-null-keys": ("llama-defaults", old_spelling(num_key_value_heads=None, head_dim=None)),
    "mistral-window": ("mistral", {}),
    "mistral-window-old": ("mistral", old_spelling()),
    "mistral-no-window": ("mistral", {"sliding_window": None}),
    "mistral-window-one": ("mistral", {"sliding_window": 1}),
    "mistral-defaults": ("mistral-defaults", old_spelling(
        "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling", "max_position_embeddings",
        "sliding_window", "hidden_act")),
    "qwen2-gqa-tied": ("qwen2", {}),
    "qwen2-window-on-last-layers": ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "layer_types": None}),
    "qwen2-window-by-layer-types": ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "layer_types": [
        "sliding_attention", "full_attention", "full_attention", "sliding_attention"]}),
    "qwen2-window-old": ("qwen2", [{"use_sliding_window": True, "sliding_window": 8}, old_spelling()]),
    "qwen2-yarn-old": ("qwen2", [rope("yarn", **YARN), old_spelling(rope_theta=1e6)]),
    "qwen2-mha-f32": ("qwen2-mha", {}),
    "qwen3-gqa": ("qwen3", {}),
    "qwen3-window-on-last-layers": ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": None,
                                              "max_window_layers": 1}),
    "qwen3-window-by-layer-types": ("qwen3", {"use_sliding_window": True, "sliding_window": 5, "layer_types": [
        "full_attention", "sliding_attention", "full_attention", "sliding_attention"]}),
    "qwen3-yarn": ("qwen3", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **YARN}}),
    "qwen3-bias-tied-stale-lm-head": ("qwen3-bias-tied", {}),
    "qwen3-defaults": ("qwen3-defaults", old_spelling(
        "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling", "max_position_embeddings", "use_sliding_window",
        "sliding_window", "max_window_layers", "attention_bias", "tie_word_embeddings", "hidden_act")),
    "mixtral-gqa": ("mixtral", {}),
    "mixtral-old-spelling": ("mixtral", old_spelling()),
    "mixtral-top1-window-f32": ("mixtral-top1", {}),
    "qwen3-moe": ("qwen3-moe", {}),
    "qwen3-moe-yarn-not-normalised": ("qwen3-moe", {"norm_topk_prob": False, "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e6, **YARN}}),
    "qwen3-moe-dense-layers-f16": ("qwen3-moe-dense", {}),
    "minimax-m2": ("minimax-m2", {}),
    "minimax-m2-as-published": ("minimax-m2", old_spelling("rope_scaling", rotary_dim=12, **MINIMAX)),
    "minimax-m2-skewed": ("minimax-m2-skewed", {}),
    "minimax-m2-fp8": ("minimax-m2-fp8", old_spelling("rope_scaling", rotary_dim=8)),
    "deepseek-v3": ("deepseek-v3", {}),
    "deepseek-v3-yarn": ("deepseek-v3", rope("yarn", **DEEPSEEK_YARN)),
    "deepseek-v3-as-published": ("deepseek-v3", [rope("yarn", **DEEPSEEK_YARN), old_spelling(
        "rope_interleave", **DEEPSEEK)]),
    "deepseek-v3-top1-f32": ("deepseek-v3-top1", {}),
    "deepseek-v3-latents": ("deepseek-v3-latents", rope("yarn", **DEEPSEEK_YARN)),
    "deepseek-v3-fp8": ("deepseek-v3-fp8", [rope("yarn", **DEEPSEEK_YARN), old_spelling("rope_interleave", **DEEPSEEK)]),
    "qwen2-5-vl": ("qwen2-5-vl", {}),
    "qwen2-5-vl-flat": ("qwen2-5-vl", flat_spelling),
    "qwen3-vl-tied": ("qwen3-vl", {}),
    "qwen3-vl-moe": ("qwen3-vl-moe", {}),
    "qwen3-vl-moe-as-published": ("qwen3-vl-moe-transposed", {}),
    "qwen3-fp8": ("qwen3-fp8", {}),
}
# Cases that hold values inside a layer too.
INSIDE = {"deepseek-v3": [f"model.layers.1.{module}" for module in (
    "self_attn", "self_attn.q_a_layernorm", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa",
    "self_attn.kv_a_layernorm", "self_attn.kv_b_proj", "self_attn.o_proj:input", "mlp", "mlp.experts",
    "mlp.shared_experts", "mlp.shared_experts.act_fn")]}
# One model in two spellings: transformers must read them alike, and the reference is the other's, by a link.
SAME_AS = {"llama-old-spelling": "llama-gqa", "llama-rope-linear-old": "llama-rope-linear",
           "llama-rope-dynamic-old": "llama-rope-dynamic", "llama-rope-llama3-old": "llama-rope-llama3",
           "llama-rope-yarn-old": "llama-rope-yarn", "mistral-window-old": "mistral-window",
           "qwen2-window-old": "qwen2-window-on-last-layers", "mixtral-old-spelling": "mixtral-gqa",
           "minimax-m2-as-published": "minimax-m2", "qwen2-5-vl-flat": "qwen2-5-vl",
           "deepseek-v3-as-published": "deepseek-v3-yarn"}


def random_weights(model, seed, selection_bias=None):
    """Overwrites every parameter: activations of order one, peaked attention, biases that matter, norms around one.

    transformers' own initialisation (0.02 everywhere) leaves the layers of a tiny model almost without effect.
    """
    generator = numpy.random.default_rng(seed)
    family = model.config.model_type
    for name, parameter in sorted(model.named_parameters()):
        values = generator.standard_normal(tuple(parameter.shape))
        if name.endswith("norm.weight"):
            values = 1.0 + 0.25 * values
        elif name.endswith("bias"):
            values *= {"qwen2": {"k_proj": 10.0, "q_proj": 1.0}}.get(family, {}).get(name.split(".")[-2], 0.3)
        elif name.endswith("embed_tokens.weight"):
            pass
        elif name.endswith(("q_proj.weight", "k_proj.weight", "q_b_proj.weight")):
            values *= 1.3 / parameter.shape[1] ** 0.5
        elif name.endswith("mlp.gate.weight"):
            values *= 2.0 / parameter.shape[1] ** 0.5  # choices that are clear, most of them
        else:
            values /= parameter.shape[-1] ** 0.5
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(values))
    for name, buffer in sorted(model.named_buffers()):
        if not name.endswith("e_score_correction_bias"):
            continue
        values = 0.3 * generator.standard_normal(tuple(buffer.shape)) if selection_bias is None else selection_bias
        buffer.copy_(torch.tensor(numpy.asarray(values)))


def make_weights(folder, name):
    """Writes config.json (transformers' own spelling) and the weights; returns the config as a dict."""
    shape = {key: value for key, value in WEIGHTS[name].items() if key not in STORAGE_KEYS}
    storage = WEIGHTS[name].get("storage", "BF16")
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[storage]
    config = transformers.AutoConfig.for_model(**{
        {"text": "text_config", "vision": "vision_config"}.get(key, key): value for key, value in shape.items()})
    seed = zlib.crc32(name.encode())
    torch.manual_seed(seed)
    kind = transformers.AutoModelForImageTextToText if "vision" in shape else transformers.AutoModelForCausalLM
    model = kind.from_config(config, dtype=torch.float32)
    if not WEIGHTS[name].get("own_init"):
        random_weights(model, seed, WEIGHTS[name].get("selection_bias"))
    kept = {path: buffer.clone() for path, buffer in model.named_buffers() if path.endswith(KEPT_IN_F32)}
    model = model.to(dtype)
    for path, buffer in kept.items():
        model.get_submodule(path.rpartition(".")[0]).e_score_correction_bias = buffer
    saved = model.model if WEIGHTS[name].get("base_export") else model
    saved.save_pretrained(folder, max_shard_size=WEIGHTS[name].get("shard_bytes", "1GB"))
    pathlib.Path(folder, "generation_config.json").unlink(missing_ok=True)
    if WEIGHTS[name].get("stale_lm_head"):
        state = {key: value.clone() for key, value in model.state_dict().items()}
        state["lm_head.weight"] = torch.full_like(state["lm_head.weight"], 1e4)
        save_file(state, pathlib.Path(folder, "model.safetensors"), metadata={"format": "pt"})
    if WEIGHTS[name].get("transposed_experts"):
        state = {key: value.transpose(1, 2).contiguous() if ".experts." in key else value
                 for key, value in load_file(pathlib.Path(folder, "model.safetensors")).items()}
        save_file(state, pathlib.Path(folder, "model.safetensors"), metadata={"format": "pt"})
    if "fp8_block" in WEIGHTS[name]:
        make_fp8(pathlib.Path(folder), **{key: WEIGHTS[name][key] for key in ("fp8_block", "not_converted", "f32_router")
                                          if key in WEIGHTS[name]})
    return json.loads(pathlib.Path(folder, "config.json").read_text())


def make_fp8(folder, fp8_block, not_converted=("gate", "e_score_correction_bias", "lm_head"), f32_router=False):
    """Turns the matrices of the layers to FP8 with a factor for each block, as the published checkpoints have them."""
    rows, columns = fp8_block
    tensors = {}
    for name, value in load_file(folder / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if not module.endswith(("_proj", "_with_mqa", ".w1", ".w2", ".w3")) or module.endswith(tuple(not_converted)):
            is_router = name.endswith((".gate.weight", "e_score_correction_bias"))
            tensors[name] = value.float() if is_router and f32_router else value
            continue
        padded = torch.nn.functional.pad(value.float(), (0, -value.shape[1] % columns, 0, -value.shape[0] % rows))
        blocks = padded.unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
        factors = blocks.abs().amax((1, 3)) / 448
        tensors[name] = (value.float() / of_elements(factors, fp8_block, value.shape)).to(torch.float8_e4m3fn)
        tensors[f"{name}_scale_inv"] = factors
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "float8_e4m3fn",
                                     "weight_block_size": fp8_block, "modules_to_not_convert": list(not_converted)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tensors(folder):
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


def of_elements(factors, fp8_block, shape):
    """The factor of each element of a matrix, of those of its blocks; the last of these may be partial."""
    rows, columns = fp8_block
    return factors.repeat_interleave(rows, 0).repeat_interleave(columns, 1)[:shape[0], :shape[1]]


def has_partial_blocks(folder):
    """transformers takes a block's size from the two shapes, and so needs whole ones, or one in a row or column."""
    folder = pathlib.Path(folder)
    block = json.loads((folder / "config.json").read_text())["quantization_config"]["weight_block_size"]
    stored = load_tensors(folder)
    return any(size > length and size % length for name in stored if f"{name}_scale_inv" in stored
               for size, length in zip(stored[name].shape, block))


def dequantised(folder, other):
    """The checkpoint in `folder` without FP8, in float32, in `other`: transformers' own float32 run of an FP8 checkpoint
    leaves all other tensors in the dtype of the file."""
    config = json.loads((folder / "config.json").read_text())
    fp8_block = config.pop("quantization_config")["weight_block_size"]
    config["dtype"] = "float32"
    (other / "config.json").write_text(json.dumps(config))
    stored, tensors = load_tensors(folder), {}
    for name, value in stored.items():
        if name.endswith("_scale_inv"):
            continue
        if f"{name}_scale_inv" in stored:
            value = value.float() * of_elements(stored[f"{name}_scale_inv"].float(), fp8_block, value.shape)
        tensors[name] = value.float()
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    return other


def changed(config, changes):
    """The case's config.json."""
    config = copy.deepcopy(config)
    for change in changes if isinstance(changes, list) else [changes]:
        if callable(change):
            config = change(config)
            continue
        config.update(change)
        if change.get("layer_types", "") is None:
            config.pop("layer_types")
    return config


def prompts_of(name, vocab_size):
    generator = numpy.random.default_rng(zlib.crc32(f"prompts of {name}".encode()))
    return [generator.integers(0, vocab_size, length).tolist() for length in LENGTHS]


def squared_errors(values, truth, prompts, of_tokens=False):
    """{point: [sum of (values - truth)^2 of each prompt, or of each token]}"""
    ends = numpy.cumsum([1 if of_tokens else len(prompt) for prompt in (sum(prompts, []) if of_tokens else prompts)])
    errors = {}
    for name, reference in truth.items():
        if reference.dtype == torch.int32:
            continue
        squares = ((values[name].double() - reference.double()) ** 2).sum(dim=1).numpy()
        errors[name] = [float(part.sum()) for part in numpy.split(squares, ends[:-1])]
    return errors


def make_folder(output, name, config, weights_folder):
    """The model folder of the case, without what is computed on it."""
    folder = output / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    is_shared = sum(weights == weights_folder.name for weights, _ in CASES.values()) > 1
    for file in sorted(weights_folder.glob("model*")):
        if is_shared:
            (folder / file.name).symlink_to(os.path.relpath(file, folder))
        else:
            file.rename(folder / file.name)
    if not is_shared:
        weights_folder.rmdir()
    return folder


def tensor_names(folder):
    names = []
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names += file.keys()
    return names


def make_reference(folder, experts_implementation):
    """Adds what transformers computes; returns its bfloat16 error at each point, relative to the float32 values."""
    vocab_size = transformers.AutoConfig.from_pretrained(folder).get_text_config().vocab_size
    prompts = prompts_of(folder.name, vocab_size)
    (folder / "input_ids.json").write_text(json.dumps(prompts) + "\n")
    has_experts = any(".experts." in name for name in tensor_names(folder))
    points = {"patterns": ["model.embed_tokens", "model.layers.*", "model.norm", *ROUTER_POINTS]} if has_experts else {}
    if has_experts and "vision_config" in json.loads((folder / "config.json").read_text()):
        points["patterns"] = [name.replace("model.", "model.language_model.") for name in points["patterns"]]
    if folder.name in INSIDE:
        points["patterns"] += INSIDE[folder.name]
    points["experts_implementation"] = experts_implementation
    with tempfile.TemporaryDirectory() as workplace:
        is_fp8 = "quantization_config" in json.loads((folder / "config.json").read_text())
        plain = dequantised(folder, pathlib.Path(workplace)) if is_fp8 else folder
        capture_hf.capture_to_file(folder / "reference.h5", plain, prompts, torch.float32, with_measures=False,
                                   attributes={"model": folder.name}, **points)
        truth = capture_hf.capture_to_memory(plain, prompts, torch.float32, **points)
        narrow = plain if is_fp8 and has_partial_blocks(folder) else folder
        runs = {"bfloat16": capture_hf.capture_to_memory(narrow, prompts, torch.bfloat16, **points)}
        if not is_fp8:
            runs["float16"] = capture_hf.capture_to_memory(folder, prompts, torch.float16, **points)
    errors = {name: squared_errors(run, truth, prompts, has_experts) for name, run in runs.items()}
    (folder / "errors.json").write_text(json.dumps(errors, indent=None if has_experts else 1) + "\n")
    if has_experts:
        routing = {name: {point: value.tolist() for point, value in run.items() if value.dtype == torch.int32}
                   for name, run in runs.items()}
        (folder / "routing.json").write_text(json.dumps(routing) + "\n")
    return [(sum(error) / float((truth[point].double() ** 2).sum())) ** 0.5
            for point, error in errors["bfloat16"].items()]


def link_reference(folder, other):
    """For a case that is `other` in another spelling, which is checked."""
    a, b = resolved(folder), resolved(other)
    different = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
    if different:
        sys.exit(f"{folder.name} and {other.name}: transformers reads {different} differently")
    for file in ("input_ids.json", "reference.h5", "errors.json", "routing.json"):
        if not (other / file).exists():
            continue
        (folder / file).symlink_to(f"../{other.name}/{file}")


def resolved(folder):
    config = transformers.AutoConfig.from_pretrained(folder).get_text_config().to_dict()
    for key in ("transformers_version", "_name_or_path", "architectures", "dtype", "rope_theta", "rope_scaling",
                "rotary_dim", "partial_rotary_factor", *MINIMAX, *DEEPSEEK):
        config.pop(key, None)
    config["rope_parameters"].pop("type", None)
    return config


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=DEFAULT_OUTPUT)
    parser.add_argument("--only", default="*", help="cases whose name matches; the others are left alone")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)

    for weights in WEIGHTS:
        chosen = [name for name in CASES if CASES[name][0] == weights and fnmatch.fnmatch(name, options.only)]
        if not chosen:
            continue
        weights_folder = options.output / "weights" / weights
        shutil.rmtree(weights_folder, ignore_errors=True)
        weights_folder.mkdir(parents=True)
        base = make_weights(weights_folder, weights)
        (weights_folder / "config.json").unlink()
        for name in chosen:
            folder = make_folder(options.output, name, changed(base, CASES[name][1]), weights_folder)
            if name in SAME_AS:
                link_reference(folder, options.output / SAME_AS[name])
                print(f"{name:40} as {SAME_AS[name]}", flush=True)
            else:
                errors = make_reference(folder, WEIGHTS[weights].get("experts", "grouped_mm"))
                print(f"{name:40} bfloat16 error " + " ".join(f"{error:.1e}" for error in errors), flush=True)


if __name__ == "__main__":
    main()
