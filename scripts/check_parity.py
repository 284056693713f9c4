#!/usr/bin/env python3
"""Holds the program to transformers on checkpoints that are not in the repository.

    scripts/check_parity.py --count 50 --seed 7            random tiny checkpoints, and configs that must be refused
    scripts/check_parity.py --mixtures --count 50          the same of families with experts
    scripts/check_parity.py --model DIR --random-tokens 8x256
    scripts/check_parity.py --model FILE.gguf --reference DIR --prompts prompts.txt
    scripts/check_parity.py --device cuda --model tests/data/parity/*

transformers' float32 is the truth for both. In the table, `f32` is our largest relative L2 at any point (embedding, each
layer, router, final norm), `bf16` and `f16` our largest error there as a multiple of transformers' own error. In brackets:
the same prompt by prompt, for information. Exit status 1 when any is over its limit: 1e-5, 1.1, 1.2. A --model that
transformers itself cannot run is left out, and says why.

Of a model with experts only tokens that chose the experts that they chose in transformers' run of that dtype count, and so
did those before them; the last column says how many did not, in each dtype, and the largest gap of their scores (`margin`)
between two experts that took each other's place. In float32 that has to be a tie.
"""
import argparse
import dataclasses
import json
import math
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import h5py
import numpy
import torch
import transformers
from safetensors import safe_open

import capture_hf
import reference

MAX_REL_L2 = 1e-5
MAX_RATIO = {"bfloat16": 1.1, "float16": 1.2}  # float16: tests/end_to_end/parity_test.cpp says why
MAX_TIE = 1e-6  # of the scores of two experts that float32 may take for each other
POINTS = ["**.embed_tokens", "**.layers.*", "**.norm"]
TOPK = ".mlp:topk_indices"
ROUTER_POINTS = ["**.layers.*.mlp.gate", "**.layers.*" + TOPK]


# ------------------------------------------------------------------------------------------------------- one checkpoint


class Failure(Exception):
    """The program ended with an error where it should have run, or ran where it should have refused."""


class NoReference(Exception):
    """What transformers itself cannot run here, and why."""


def run_program(program, model, ids, dtype, output, *more):
    done = subprocess.run([program, "run", "--model", str(model), "--input-ids", str(ids), "--dtype", dtype, "--output",
                           str(output), "--overwrite", "--quiet", *more], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"exit {done.returncode}: {done.stderr.strip()}")


def read_captures(path):
    """{point: [rows, width] float64}, and the bits of everything for a comparison to the bit."""
    with h5py.File(path) as file:
        captures = file["captures"]
        return {name: captures[name][:].astype("f8") for name in captures}


def worst(ours, truth, prompts, theirs=None, scores=None):
    """Result of one dtype: our largest relative L2 at any point (`theirs`: as a multiple of their error), over all prompts
    and over any single one; and what became of the routing. At and behind a router that chose other experts for a token
    than transformers did in that dtype (than the truth, without `theirs`), that token and those behind it in its prompt
    are left out: another choice is another model. `scores`: of the experts, by router, that transformers chose by."""
    ends = numpy.cumsum([len(prompt) for prompt in prompts])
    prompt_rows = [slice(int(end) - len(prompt), int(end)) for end, prompt in zip(ends, prompts)]
    strict = numpy.ones(ends[-1], bool)
    result = Result()
    for name, true in truth.items():
        if name.endswith(TOPK):
            chosen, reference_choice = ours[name].astype(int), (theirs or truth)[name].astype(int)
            equal = (numpy.sort(chosen, 1) == numpy.sort(reference_choice, 1)).all(1)
            result.choices += len(equal)
            for token in numpy.flatnonzero(strict & ~equal):  # the others' inputs differ already
                result.flips += 1
                result.margin = max(result.margin, margin(scores[name][token], reference_choice[token], chosen[token]))
            for rows in prompt_rows:
                strict[rows] &= numpy.logical_and.accumulate(equal[rows])
            continue
        def ratio(rows):
            error = numpy.linalg.norm((ours[name] - true)[rows])
            scale = numpy.linalg.norm(true[rows] if theirs is None else (theirs[name] - true)[rows])
            return error / scale if scale else (math.inf if error else 0.0)
        result.whole = max(result.whole, ratio(strict))
        for rows in prompt_rows:
            kept = numpy.zeros_like(strict)
            kept[rows] = strict[rows]
            result.by_prompt = max(result.by_prompt, ratio(kept))
    return result


@dataclasses.dataclass
class Result:
    whole: float = 0.0
    by_prompt: float = 0.0
    choices: int = 0    # tokens that routers chose for
    flips: int = 0      # of them, those whose input agreed and that got other experts
    margin: float = 0.0  # the largest gap of the scores that a flip bridged


def margin(scores, theirs, ours):
    """How far apart the scores of the experts are that took each other's place, or those of their groups: the nearest two.
    `scores` is [groups, experts of each]; a group has the sum of its two best, of which there are several groups."""
    left, right = set(theirs) - set(ours), set(ours) - set(theirs)
    groups = numpy.sort(scores, 1)[:, -2:].sum(1)
    flat, size = scores.reshape(-1), scores.shape[1]
    gaps = [abs(flat[a] - flat[b]) for a in left for b in right]
    gaps += [abs(groups[a // size] - groups[b // size]) for a in left for b in right if a // size != b // size]
    return float(min(gaps))


def selection_scores(folder, values):
    """{router's choice point: [tokens, groups, experts of each]}: what transformers chose by, from its logits."""
    num_groups = json.loads((pathlib.Path(folder) / "config.json").read_text()).get("n_group") or 1
    biases = {}
    for path in pathlib.Path(folder).glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():
                if name.endswith("e_score_correction_bias"):
                    biases[int(name.split(".layers.")[1].split(".")[0])] = file.get_tensor(name).double().numpy()
    scores = {}
    for name in values:
        if not name.endswith(TOPK):
            continue
        logits = values[name.removesuffix(TOPK) + ".mlp.gate"]
        layer = int(name.split(".layers.")[1].split(".")[0])
        if layer in biases:
            scores[name] = 1 / (1 + numpy.exp(-logits)) + biases[layer]
        else:
            exponentials = numpy.exp(logits - logits.max(1, keepdims=True))
            scores[name] = exponentials / exponentials.sum(1, keepdims=True)
        scores[name] = scores[name].reshape(len(logits), num_groups, -1)
    return scores


def compare(program, model, folder, prompts, workplace, device, dtypes=("float32", "bfloat16", "float16")):
    """{dtype: Result} of the program on `model` against transformers on `folder`, both on `device`."""
    ids = workplace / "input_ids.json"
    ids.write_text(json.dumps(prompts))
    ours = workplace / "ours.h5"
    patterns = POINTS + (ROUTER_POINTS if has_experts(folder) else [])
    where = ("--device-map", device, "--capture", ",".join(patterns))
    how = dict(device=device, patterns=patterns, experts_implementation=experts_implementation(folder))
    run_program(program, model, ids, "float32", ours, *where)  # first: what it refuses needs no reference
    captured = read_captures(ours)
    truth = theirs_of(folder, prompts, torch.float32, **how)
    if captured.keys() != truth.keys():
        raise Failure(f"points are not the same: {sorted(captured.keys() ^ truth.keys())}")
    result = {"float32": worst(captured, truth, prompts, scores=selection_scores(folder, truth))}
    for dtype in dtypes[1:]:
        is_theirs = is_fp8(model) and not reference.has_partial_blocks(model)
        theirs = theirs_of(model if is_theirs else folder, prompts, capture_hf.DTYPES[dtype], **how)
        run_program(program, model, ids, dtype, ours, *where)
        result[dtype] = worst(read_captures(ours), truth, prompts, theirs, selection_scores(folder, theirs))
    return result


def experts_implementation(folder):
    """torch's grouped product wants widths of whole 16 bytes; "batched_mm", which rounds alike, takes any."""
    config = transformers.AutoConfig.from_pretrained(folder).get_text_config()
    width = getattr(config, "moe_intermediate_size", config.intermediate_size)
    return "batched_mm" if config.hidden_size % 8 or width % 8 else "grouped_mm"


def has_experts(folder):
    return any(".experts." in name for name in reference.tensor_names(pathlib.Path(folder)))


def use_aligned_attention():
    """torch 2.11's fused attention dies on a GPU (misaligned address) of values that are every n-th part of a wider row, as
    those of narrow latent attention are. Of a copy it takes the same values by the same kernels."""
    attention = torch.nn.functional.scaled_dot_product_attention

    def of_copies(query, key, value, *more, **how):
        states = [x.contiguous() if x.is_cuda else x for x in (query, key, value)]
        return attention(*states, *more, **how)

    torch.nn.functional.scaled_dot_product_attention = of_copies


def theirs_of(model, prompts, dtype, **how):
    try:
        return to_numpy(capture_hf.capture_to_memory(model, prompts, dtype, **how))
    except Exception as problem:
        raise NoReference(str(problem).split("\n")[0]) from problem


def is_fp8(model):
    config = pathlib.Path(model) / "config.json"
    return config.is_file() and "quantization_config" in json.loads(config.read_text())


def to_numpy(values):
    return {name: value.double().numpy() for name, value in values.items()}


def verdict(result):
    limits = {"float32": MAX_REL_L2, **MAX_RATIO}
    within = all(one.whole <= limits[dtype] for dtype, one in result.items())
    return "ok" if within and result["float32"].margin <= MAX_TIE else "OVER"


def row(name, result):
    columns = [f"{one.whole:8.1e} [{one.by_prompt:7.1e}]" if dtype == "float32" else f"{one.whole:6.3f} [{one.by_prompt:6.3f}]"
               for dtype, one in result.items()]
    if any(one.choices for one in result.values()):
        columns += ["other experts " + ", ".join(
            f"{one.flips}/{one.choices}" + (f" (margin {one.margin:.0e})" if one.flips else "") for one in result.values())]
    return f"{name:<28} {verdict(result):5} " + "  ".join(columns)


# --------------------------------------------------------------------------------------------------- random checkpoints


def random_rope(pick, head_dim, max_position):
    """rope_parameters in transformers 5's words."""
    theta = pick.choice([10000.0, 500000.0, 1000000.0, 150000.0, 1234.5, 25000])
    kind = pick.choice(["default", "default", "linear", "dynamic", "llama3", "yarn", "yarn", "longrope", "proportional"])
    original = pick.choice([8, 16, 32, max_position])
    rope = {"rope_type": kind, "rope_theta": theta}
    if kind in ("linear", "dynamic", "llama3", "yarn"):
        rope["factor"] = pick.choice([1.0, 2, 4.0, 8, 3.7])
    if kind in ("llama3", "yarn", "longrope"):
        rope["original_max_position_embeddings"] = original
    if kind == "llama3":
        rope.update(low_freq_factor=pick.choice([1.0, 1, 2.0]), high_freq_factor=pick.choice([4.0, 4, 3.5]))
    elif kind == "yarn":
        for key, values in dict(beta_fast=[32, 16.0], beta_slow=[1, 2.0], truncate=[True, False],
                                attention_factor=[1.0, 0.8, 1.3], mscale=[1.0, 0.707],
                                mscale_all_dim=[1.0, 0.5]).items():
            if pick.random() < 0.3:
                rope[key] = pick.choice(values)
        if pick.random() < 0.15:
            rope["factor"] = None
    elif kind == "longrope":
        rope["short_factor"] = [round(1 + pick.random(), 3) for _ in range(head_dim // 2)]
        rope["long_factor"] = [round(1 + 10 * pick.random(), 3) for _ in range(head_dim // 2)]
        for key, values in dict(factor=[2.0, 4, 1.0], attention_factor=[1.1, 0.9]).items():
            if pick.random() < 0.3:
                rope[key] = pick.choice(values)
    elif kind == "proportional":
        rope["partial_rotary_factor"] = pick.choice([0.25, 0.5, 1.0])
        if pick.random() < 0.5:
            rope["factor"] = pick.choice([2.0, 4])
    return rope


def random_shape(pick):
    """Arguments of the config class, and how the checkpoint is stored."""
    family = pick.choice(["llama", "mistral", "qwen2", "qwen3"])
    heads = pick.choice([1, 2, 3, 4, 5, 6, 8, 12])
    shape = dict(
        model_type=family,
        hidden_size=heads * pick.choice([n for n in range(1, 49) if 30 <= heads * n <= 160]),
        num_attention_heads=heads,
        num_key_value_heads=pick.choice([n for n in range(1, heads + 1) if heads % n == 0]),
        head_dim=pick.choice([6, 8, 10, 16, 18, 20, 24, 32, 40, 64, 80, 128]),
        intermediate_size=pick.choice([17, 33, 48, 67, 96, 129, 200]),
        vocab_size=pick.choice([23, 61, 97, 128, 257]),
        num_hidden_layers=pick.randint(1, 6),
        rms_norm_eps=pick.choice([1e-6, 1e-5, 1e-3, 1e-12]),
        max_position_embeddings=pick.choice([16, 64, 512, 4096]),
        tie_word_embeddings=pick.random() < 0.4)
    if family == "qwen2" and pick.random() < 0.7 and shape["hidden_size"] // heads % 2 == 0:
        del shape["head_dim"]
    if family == "llama":
        shape.update(attention_bias=pick.random() < 0.3, mlp_bias=pick.random() < 0.3)
    elif family == "mistral":
        shape["sliding_window"] = pick.choice([None, 1, 4, 16, 4096])
    else:
        if family == "qwen3":
            shape["attention_bias"] = pick.random() < 0.3
        shape.update(use_sliding_window=pick.random() < 0.6, sliding_window=pick.choice([2, 5, 16, 100]))
        shape["max_window_layers"] = pick.randint(0, shape["num_hidden_layers"])
        if shape["use_sliding_window"] and pick.random() < 0.5:
            shape["layer_types"] = [pick.choice(["full_attention", "sliding_attention"])
                                    for _ in range(shape["num_hidden_layers"])]
    head_dim = shape.get("head_dim") or shape["hidden_size"] // heads
    shape["rope_parameters"] = random_rope(pick, head_dim, shape["max_position_embeddings"])
    storage = dict(storage=pick.choice(["BF16", "BF16", "F32", "F16"]), base_export=pick.random() < 0.15,
                   stale_lm_head=shape["tie_word_embeddings"] and pick.random() < 0.3,
                   shard_bytes=pick.choice(["1GB", "1GB", 20_000]), own_init=pick.random() < 0.25)
    if storage["stale_lm_head"]:
        storage.update(base_export=False, shard_bytes="1GB")
    return shape, storage


def random_mixture(pick):
    """The same of a family with experts."""
    family = pick.choice(["mixtral", "qwen3_moe", "minimax_m2", "deepseek_v3", "deepseek_v3"])
    heads = pick.choice([1, 2, 3, 4])
    experts = pick.choice([4, 6, 8, 12, 24])
    shape = dict(model_type=family, hidden_size=pick.choice([30, 48, 64, 97]), num_attention_heads=heads,
                 num_key_value_heads=1, intermediate_size=pick.choice([17, 33, 64]), vocab_size=pick.choice([61, 128]),
                 num_hidden_layers=pick.randint(1, 4), rms_norm_eps=pick.choice([1e-6, 1e-5]),
                 max_position_embeddings=pick.choice([16, 64, 4096]), tie_word_embeddings=pick.random() < 0.3,
                 num_experts_per_tok=pick.randint(1, experts // 2))
    theta = pick.choice([10000.0, 1000000.0, 1234.5])
    shape["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    if family == "deepseek_v3":
        groups = pick.choice([n for n in (1, 2, 3, 4) if experts % n == 0 and experts // n >= 2])
        shape.update(
            num_key_value_heads=heads, n_routed_experts=experts, n_group=groups,
            topk_group=pick.choice([n for n in range(1, groups + 1) if n * (experts // groups) >= shape["num_experts_per_tok"]]),
            moe_intermediate_size=pick.choice([8, 13, 24]), n_shared_experts=pick.choice([1, 2]),
            first_k_dense_replace=pick.choice([0, 0, 1]), norm_topk_prob=pick.random() < 0.7,
            routed_scaling_factor=pick.choice([1.0, 2.5]), q_lora_rank=pick.choice([None, 5, 24]),
            kv_lora_rank=pick.choice([7, 16, 130]), qk_nope_head_dim=pick.choice([3, 16, 64]),
            qk_rope_head_dim=pick.choice([2, 8, 34]), v_head_dim=pick.choice([4, 16, 50]),
            rope_interleave=pick.random() < 0.7, attention_bias=pick.random() < 0.3)
        if pick.random() < 0.6:
            shape["rope_parameters"].update(rope_type="yarn", factor=pick.choice([4.0, 40]), mscale_all_dim=pick.choice([1.0, 0.7]),
                                            mscale=1.0, original_max_position_embeddings=16)
        return shape, storage_of(pick, shape)
    shape["head_dim"] = pick.choice([8, 12, 20])
    shape[{"qwen3_moe": "num_experts"}.get(family, "num_local_experts")] = experts
    if family == "qwen3_moe":
        shape.update(moe_intermediate_size=pick.choice([8, 13]), norm_topk_prob=pick.random() < 0.5,
                     mlp_only_layers=[0] if pick.random() < 0.3 else [])
    if family == "minimax_m2":
        shape["rotary_dim"] = shape["head_dim"] // 4 * 2
        shape["rope_parameters"]["partial_rotary_factor"] = shape["rotary_dim"] / shape["head_dim"]
    return shape, storage_of(pick, shape)


def storage_of(pick, shape):
    return dict(storage=pick.choice(["BF16", "BF16", "F32", "F16"]), own_init=False)


DEFAULTS = {  # of the config classes: such a key may be left out
    "llama": dict(rms_norm_eps=1e-6, tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
                  hidden_act="silu"),
    "mistral": dict(rms_norm_eps=1e-6, tie_word_embeddings=False, sliding_window=4096, num_key_value_heads=8,
                    hidden_act="silu"),
    "qwen2": dict(rms_norm_eps=1e-6, tie_word_embeddings=False, use_sliding_window=False, hidden_act="silu"),
    "qwen3": dict(rms_norm_eps=1e-6, tie_word_embeddings=False, use_sliding_window=False, attention_bias=False,
                  head_dim=128, hidden_act="silu"),
}


def respell(pick, config):
    """The same config in other words, as files in the field have it."""
    config = dict(config)
    for key, value in DEFAULTS[config["model_type"]].items():
        if key in config and config[key] == value and pick.random() < 0.5:
            del config[key]
    if config["model_type"] != "mistral" and pick.random() < 0.5 and \
            config.get("num_key_value_heads") == config["num_attention_heads"]:
        config["num_key_value_heads"] = None
        if config["model_type"] == "llama" and pick.random() < 0.5:
            del config["num_key_value_heads"]
    if config["model_type"] in ("llama", "mistral") and pick.random() < 0.5 and \
            config.get("head_dim") == config["hidden_size"] // config["num_attention_heads"]:
        config["head_dim"] = None
    parameters = dict(config["rope_parameters"])
    style = pick.choice(["new", "old", "old", "mixed"])
    if style == "new":
        return config
    if "original_max_position_embeddings" in parameters and pick.random() < 0.4:
        config["original_max_position_embeddings"] = parameters.pop("original_max_position_embeddings")
    if style == "mixed":  # theta beside rope_parameters
        config["rope_theta"] = parameters.pop("rope_theta")
        config["rope_parameters"] = parameters
        return config
    del config["rope_parameters"]
    config["rope_theta"] = parameters.pop("rope_theta")
    if config["rope_theta"] == 10000 and pick.random() < 0.5:
        del config["rope_theta"]
    if "partial_rotary_factor" in parameters and pick.random() < 0.5:
        config["partial_rotary_factor"] = parameters.pop("partial_rotary_factor")
    kind = parameters.pop("rope_type")
    if kind == "default":
        config["rope_scaling"] = pick.choice([None, {}, {"type": "default"}])
    else:
        config["rope_scaling"] = {pick.choice(["type", "rope_type"]): kind, **parameters}
    config["torch_dtype"] = config.pop("dtype", "bfloat16")
    if config.get("layer_types") and pick.random() < 0.5:
        rule = ["sliding_attention" if config.get("use_sliding_window") and i >= config["max_window_layers"]
                else "full_attention" for i in range(config["num_hidden_layers"])]
        if rule == config["layer_types"]:
            del config["layer_types"]
    return config


def make_checkpoint(folder, seed, is_mixture):
    """Writes the checkpoint of that seed; returns a word on it and its prompts."""
    pick = random.Random(seed)
    shape, storage = random_mixture(pick) if is_mixture else random_shape(pick)
    name = f"random-{seed}"
    reference.WEIGHTS[name] = {**shape, **storage}
    config = reference.make_weights(folder, name)
    if not is_mixture:
        config = respell(pick, config)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    lengths = [1, *(pick.choice([2, 5, 9, 12, 16, 17, 33, 64, 100, 257, 700, 1500]) for _ in range(pick.randint(1, 3)))]
    prompts = [[pick.randrange(shape["vocab_size"]) for _ in range(length)] for length in lengths]
    return f"{seed} {shape['model_type']} {shape['rope_parameters']['rope_type']}", prompts


def check_random(options, workplace):
    failed = 0
    for seed in range(options.seed, options.seed + options.count):
        folder = workplace / f"checkpoint-{seed}"
        folder.mkdir()
        name, prompts = make_checkpoint(folder, seed, options.mixtures)
        try:
            result = compare(options.program, folder, folder, prompts, workplace, options.device)
            print(row(name, result), flush=True)
            is_failed = verdict(result) != "ok"
        except Failure as failure:
            print(f"{name:<28} ERROR {failure}", flush=True)
            is_failed = True
        failed += is_failed
        if is_failed and options.keep:
            shutil.copytree(folder, pathlib.Path(options.keep) / folder.name, dirs_exist_ok=True)
            shutil.copy(workplace / "input_ids.json", pathlib.Path(options.keep) / folder.name)
        shutil.rmtree(folder)
    return failed


# ---------------------------------------------------------------------------------------------------------- refusals

REFUSED = {  # a change of a sound llama config.json -> what the message must name
    "another activation": ({"hidden_act": "gelu"}, "hidden_act"),
    "another architecture": ({"model_type": "gemma2"}, "gemma2"),
    "no architecture": ({"model_type": None}, "model_type"),
    "a key that changes the math": ({"attention_multiplier": 0.5}, "attention_multiplier"),
    "a key that changes the residual": ({"residual_multiplier": 0.22}, "residual_multiplier"),
    "a cap on the logits": ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
    "an unknown rope_type": ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "spiral"),
    "a rope key that is not known": ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4,
                                                          "twist": 2.0}}, "twist"),
    "linear without its factor": ({"rope_scaling": {"type": "linear"}}, "factor"),
    "quantised weights": ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quant_method"),
    "more layers than the file has": ({"num_hidden_layers": 4}, "model.layers.3"),
    "fewer layers than the file has": ({"num_hidden_layers": 2}, "model.layers.2"),
    "another hidden_size": ({"hidden_size": 52}, "embed_tokens"),
    "a bias that the file has not": ({"attention_bias": True}, "bias"),
    "heads that do not divide": ({"num_key_value_heads": 3}, "num_key_value_heads"),
    "part of a head rotated": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
}


def check_refusals(options, workplace):
    failed = 0
    base = reference.DEFAULT_OUTPUT / "llama-gqa"
    for name, (change, word) in REFUSED.items():
        folder = workplace / "refused"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        config = {**json.loads((base / "config.json").read_text()), **change}
        (folder / "config.json").write_text(json.dumps(config))
        try:
            run_program(options.program, folder, base / "input_ids.json", "float32", workplace / "refused.h5")
            message = "ran"
        except Failure as failure:
            message = str(failure)
        good = message.startswith("exit 2") and word in message and not (workplace / "refused.h5").exists()
        failed += not good
        print(f"{name:<34} {'refused' if good else 'WRONG'}  " + (message.split("\n")[0] if not good else ""), flush=True)
    return failed


# --------------------------------------------------------------------------------------------------------- a real model


def check_model(model, options, workplace):
    folder = pathlib.Path(options.reference or model)
    if folder.suffix == ".gguf":
        script = pathlib.Path(__file__).with_name("gguf_to_hf.py")
        folder = workplace / "dequantised"
        subprocess.run([sys.executable, str(script), model, str(folder)], check=True)
    dtypes = ("float32", "bfloat16", "float16")
    if is_fp8(folder):  # transformers' own float32 of it is none: reference.py says why
        plain, dtypes = workplace / "dequantised", dtypes[:2]
        shutil.rmtree(plain, ignore_errors=True)
        plain.mkdir()
        if (folder / "input_ids.json").exists():
            shutil.copy(folder / "input_ids.json", plain)
        folder = reference.dequantised(folder, plain)
    name = pathlib.Path(model).name
    given = argparse.Namespace(**{**vars(options), "model": folder, "prompt": None})
    if not (given.input_ids or given.prompts or given.random_tokens):
        its_own = folder / "input_ids.json"
        given.input_ids, given.random_tokens = (str(its_own), None) if its_own.exists() else (None, "4x128:1")
    try:
        vocab_size = transformers.AutoConfig.from_pretrained(folder).get_text_config().vocab_size
        prompts, _ = capture_hf.read_prompts(given, vocab_size)
        result = compare(options.program, model, folder, prompts[:options.max_prompts], workplace, options.device, dtypes)
    except NoReference as problem:
        print(f"{name:<28} LEFT  out: transformers {transformers.__version__}: {problem}", flush=True)
        return False
    except Exception as failure:  # ours: the next one may do
        print(f"{name:<28} ERROR {failure!r}", flush=True)
        return True
    print(row(name, result), flush=True)
    return verdict(result) != "ok"


def main():
    build = pathlib.Path(__file__).resolve().parent.parent / "build/layerprobe"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default=str(build), help="default: %(default)s")
    parser.add_argument("--count", type=int, default=20, help="how many random checkpoints; default 20")
    parser.add_argument("--mixtures", action="store_true", help="random checkpoints of families with experts")
    parser.add_argument("--seed", type=int, default=1, help="of the first one; default 1")
    parser.add_argument("--keep", help="a folder for the checkpoints that fail")
    parser.add_argument("--model", nargs="+", help="folders or .gguf files to check instead; without other input, a "
                        "folder's input_ids.json or random tokens")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, of both programs; default: %(default)s")
    parser.add_argument("--reference", help="with --model FILE.gguf: the folder of its dequantised weights, if there is one")
    parser.add_argument("--input-ids")
    parser.add_argument("--prompts")
    parser.add_argument("--random-tokens")
    parser.add_argument("--max-prompts", type=int, default=64, help="of a real model; default 64")
    parser.add_argument("--threads", type=int, default=1, help="torch's; default 1")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    use_aligned_attention()
    with tempfile.TemporaryDirectory() as folder:
        workplace = pathlib.Path(folder)
        print(f"{'':<28} {'':5} f32 [by prompt]      bf16 [by prompt]  f16 [by prompt]")
        if options.model:
            failed = sum(check_model(model, options, workplace) for model in options.model)
        else:
            failed = check_random(options, workplace) + check_refusals(options, workplace)
    print("all within their limits" if not failed else f"{failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
