#!/usr/bin/env python3
"""Runs a model with transformers and forward hooks, and writes the file that `layerprobe run` writes.

It is the reference side of every comparison, the generator of the references in tests/data, and an example for people
who instrument another engine: `CaptureFile` below is all that writing the format takes (src/store/format.h).

    pip install -r scripts/requirements-reference.txt
    scripts/capture_hf.py --model DIR --input-ids ids.json --dtype float32 --output reference.h5
    layerprobe compare reference.h5 ours.h5

What it pins, because each was once the reason of a difference: explicit input ids; one prompt a forward, without padding;
no cache; TF32 and reduced-precision reduction off; the attention and experts implementation; a fresh model for each
prompt where rope_type is "dynamic", whose table depends on the prompts before.
"""
import argparse
import datetime
import difflib
import gc
import hashlib
import json
import os
import pathlib
import platform
import re
import shlex
import sys

import h5py
import numpy
import torch
import transformers

FORMAT_VERSION = 1
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
DEFAULT_POINTS = re.compile(r"model\.(language_model\.)?(embed_tokens|layers\.\d+|norm)")


class UsageError(Exception):
    """What the user asked for cannot be done; the message says what to change."""


# ---------------------------------------------------------------------------------------------------------- the file


def bfloat16_type():
    """Equals H5T_FLOAT_BFLOAT16LE of HDF5 2.0."""
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(15, 7, 8, 0, 7)  # sign; exponent: position, size; mantissa: position, size
    kind.set_precision(16)
    kind.set_size(2)
    kind.set_ebias(127)
    return kind


def string_type(size):
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(max(1, size))
    kind.set_strpad(h5py.h5t.STR_NULLPAD)
    kind.set_cset(h5py.h5t.CSET_UTF8)
    return kind


def semantics_of(name):
    """As semantics_of() in src/base/probe_point.cpp."""
    if name.endswith(":input"):
        return "module_input"
    layer = re.match(r"model\.(?:language_model\.)?layers\.\d+(\..*)?$", name)
    if layer:
        return "module_output" if layer.group(1) else "residual_after_block"
    if name.endswith("embed_tokens"):
        return "embedding"
    if name.endswith(".norm"):
        return "post_final_norm"
    return "logits" if name == "lm_head" else "module_output"


class CaptureFile:
    """Writes one captured run as src/store/format.h says, whole when finish() is through.

    `points` is [(name, torch dtype, width)] in the order of the forward pass, `prompts` a list of lists of ids. The
    measures (mean, largest element, ...) may be left out to make a small file smaller.
    """

    def __init__(self, path, points, prompts, texts=None, with_measures=True):
        self.points = points
        self.with_measures = with_measures
        self.lengths = [len(prompt) for prompt in prompts]
        self.starts = numpy.cumsum([0, *self.lengths]).astype("<i8")
        self.statistics = [[None] * len(prompts) for _ in points]
        self.file = h5py.File(path, "w", libver=("v108", "v110"))
        for group in ("prompts", "rows", "statistics"):
            self.file.create_group(group)
        self.file.create_group("captures", track_order=True)

        self._write("prompts/cu_seqlens", self.starts)
        self._write("prompts/input_ids", numpy.concatenate([numpy.asarray(prompt, "<i4") for prompt in prompts]))
        if texts is not None:
            encoded = [text.encode() for text in texts]
            self._write("prompts/text_offsets", numpy.cumsum([0, *map(len, encoded)]).astype("<i8"))
            self._write("prompts/text_bytes", numpy.frombuffer(b"".join(encoded), "u1"))
        self._write("rows/cu_rows", self.starts)
        self._write("rows/position", numpy.concatenate([numpy.arange(n, dtype="<i4") for n in self.lengths]))
        self._write_strings("statistics/points", [name for name, _, _ in points])
        self._write_strings("statistics/dtypes", [str(dtype).removeprefix("torch.") for _, dtype, _ in points])
        self._write("statistics/widths", numpy.array([width for _, _, width in points], "<i8"))
        for name, dtype, width in points:
            kind = {torch.float64: h5py.h5t.IEEE_F64LE, torch.float32: h5py.h5t.IEEE_F32LE,
                    torch.float16: h5py.h5t.IEEE_F16LE, torch.bfloat16: bfloat16_type(),
                    torch.int32: h5py.h5t.STD_I32LE}[dtype]
            self._create(f"captures/{name}", kind, (int(self.starts[-1]), width))
            self._attribute(self.file[f"captures/{name}"], "semantics", semantics_of(name))

    def write(self, point, prompt, values):
        """`values` is [tokens of the prompt, width], of the point's dtype."""
        name, dtype, width = self.points[point]
        first, count = int(self.starts[prompt]), self.lengths[prompt]
        if tuple(values.shape) != (count, width) or values.dtype != dtype:
            raise RuntimeError(f"{name}: {list(values.shape)} {values.dtype} where [{count}, {width}] {dtype} belongs")
        values = values.contiguous()
        dataset = self.file[f"captures/{name}"].id
        rows = dataset.get_space()
        rows.select_hyperslab((first, 0), (count, width))
        data = values.view(torch.int16).numpy() if dtype == torch.bfloat16 else values.numpy()
        dataset.write(h5py.h5s.create_simple((count, width)), rows, data, mtype=dataset.get_type())
        if self.with_measures:
            self.statistics[point][prompt] = statistics_of(values)

    def finish(self, attributes):
        """`attributes`: {name: str, int or float}, for "/"."""
        if self.with_measures:
            self._write_measures()
        for name, value in attributes.items():
            self._attribute(self.file["/"], name, value)
        self.file.close()

    def _write_measures(self):
        self.file.create_group("statistics/per_prompt")
        totals = [joined(row, self.lengths) for row in self.statistics]
        for measure, value in totals[0].items():
            kind = "<i8" if isinstance(value, int) else "<f8"
            table = numpy.array([[one[measure] for one in row] for row in self.statistics], kind)
            self._write(f"statistics/per_prompt/{measure}", table)
            self._write(f"statistics/{measure}", numpy.array([total[measure] for total in totals], kind))
        counts = numpy.array([one["count"] - one["nan_count"] - one["inf_count"] for one in totals], "<f8")
        with numpy.errstate(invalid="ignore", divide="ignore"):
            mean = numpy.array([one["sum"] for one in totals]) / counts
            square = numpy.array([one["sum_of_squares"] for one in totals]) / counts
        self._write("statistics/mean", mean)
        self._write("statistics/std", numpy.sqrt(numpy.maximum(square - mean * mean, 0)))

    def _create(self, path, kind, shape):
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_layout(h5py.h5d.CONTIGUOUS)
        create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        create.set_obj_track_times(False)  # the same run writes the same bytes
        return h5py.h5d.create(self.file.id, path.encode(), kind, h5py.h5s.create_simple(shape), create)

    def _write(self, path, values):
        kind = h5py.h5t.py_create(values.dtype)
        dataset = self._create(path, kind, values.shape)
        if values.size:
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, numpy.ascontiguousarray(values), mtype=kind)

    def _write_strings(self, path, strings):
        encoded = [string.encode() for string in strings]
        kind = string_type(max(map(len, encoded)))
        data = numpy.array(encoded, f"S{kind.get_size()}")
        self._create(path, kind, data.shape).write(h5py.h5s.ALL, h5py.h5s.ALL, data, mtype=kind)

    def _attribute(self, place, name, value):
        if isinstance(value, str):
            kind = string_type(len(value.encode()))
            data = numpy.array(value.encode(), f"S{kind.get_size()}")
        else:
            data = numpy.array(value, "<f8" if isinstance(value, float) else "<i8")
            kind = h5py.h5t.py_create(data.dtype)
        created = h5py.h5a.create(place.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
        created.write(data, mtype=kind)


def statistics_of(values):
    """As base/statistics.h: sums in one fixed tree within a row, rows in order; NaN and infinite elements apart."""
    x = values.to(torch.float64).numpy()
    rows, width = x.shape
    nan, inf = numpy.isnan(x), numpy.isinf(x)
    finite = ~(nan | inf)
    y = numpy.where(finite, x, 0.0)

    def total(z):
        z = numpy.pad(z, ((0, 0), (0, -width % 32)))
        lanes = numpy.zeros((rows, 32))
        for start in range(0, z.shape[1], 32):
            lanes = lanes + z[:, start : start + 32]
        for half in (16, 8, 4, 2, 1):
            lanes = lanes[:, :half] + lanes[:, half : 2 * half]
        return float(numpy.cumsum(lanes[:, 0])[-1])

    magnitude = numpy.where(finite, numpy.abs(x), -1.0)
    place = int(numpy.argmax(magnitude))
    abs_max = float(magnitude.flat[place])
    bad_rows = numpy.flatnonzero((~finite).any(axis=1))
    return {
        "count": x.size,
        "sum": total(y),
        "sum_of_squares": total(y * y),
        "min": float(numpy.where(finite, x, numpy.inf).min()),
        "max": float(numpy.where(finite, x, -numpy.inf).max()),
        "abs_max": abs_max,
        "abs_max_row": place // width if abs_max >= 0 else -1,
        "abs_max_column": place % width if abs_max >= 0 else -1,
        "nan_count": int(nan.sum()),
        "inf_count": int(inf.sum()),
        "first_non_finite_row": int(bad_rows[0]) if bad_rows.size else -1,
    }


def joined(parts, lengths):
    """The statistics of prompts put together in order; rows are counted over all of them."""
    total = dict(parts[0])
    first_row = 0
    for part, length in zip(parts[1:], lengths):
        first_row += length
        for measure in ("count", "sum", "sum_of_squares", "nan_count", "inf_count"):
            total[measure] += part[measure]
        total["min"], total["max"] = min(total["min"], part["min"]), max(total["max"], part["max"])
        if part["abs_max"] > total["abs_max"]:
            total["abs_max"], total["abs_max_column"] = part["abs_max"], part["abs_max_column"]
            total["abs_max_row"] = first_row + part["abs_max_row"]
        if total["first_non_finite_row"] < 0 <= part["first_non_finite_row"]:
            total["first_non_finite_row"] = first_row + part["first_non_finite_row"]
    return total


# ----------------------------------------------------------------------------------------------------------- the run


def pin_numerics():
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


def load_model(folder, dtype, attn_implementation="sdpa", experts_implementation="grouped_mm", device_map=None,
               device="cpu"):
    """from_pretrained casts the weights and leaves inv_freq in f32; `.to(dtype)` would round it."""
    transformers.utils.logging.disable_progress_bar()
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True).get_text_config()
    if any(getattr(config, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts")):
        experts = {"experts_implementation": experts_implementation}
    else:
        experts = {}  # a dense model refuses the argument
    if getattr(config, "quantization_config", None) or "quantization_config" in json.loads(
            (pathlib.Path(folder) / "config.json").read_text()):
        experts["quantization_config"] = transformers.FineGrainedFP8Config(dequantize=True)
    # A vision-language model's class, so that the decoder's modules have their place beside the other tower.
    has_tower = getattr(transformers.AutoConfig.from_pretrained(folder, local_files_only=True), "vision_config", None)
    kind = transformers.AutoModelForImageTextToText if has_tower else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(
        folder, dtype=dtype, attn_implementation=attn_implementation, device_map=device_map, local_files_only=True,
        **experts)
    return (model if device_map else model.to(device)).eval()


def check_rotary(model):
    """transformers up to 5.17 ignores MiniMax-M2's rotary_dim without a word: hidden states tens of percent off."""
    config = model.config.get_text_config()
    rotary_dim = getattr(config, "rotary_dim", None)
    if config.model_type != "minimax_m2" or rotary_dim is None:
        return
    length = model.get_submodule("model.rotary_emb").inv_freq.numel()
    if length != rotary_dim // 2:
        raise UsageError(
            f"the rotary table has {length} frequencies where config.json's rotary_dim {rotary_dim} needs "
            f"{rotary_dim // 2}: this transformers ignores rotary_dim and its values are wrong\n"
            '  help: use transformers 5.23.0, or put "partial_rotary_factor": 0.5 in config.json '
            "(--allow-wrong-rotary to go on)")


def needs_fresh_model(config):
    """Is the rotary table of a prompt changed by the prompts before it?"""
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return any("dynamic" in str(one.get("rope_type")) for one in [parameters, *nested])


def matching_points(model, patterns=None, layers=None):
    """Points that a pattern names: a module's path, or "PATH:input".

    As `layerprobe run --capture` takes them: * stops at a dot, ** does not. None: embedding, layers, final norm.
    """
    paths = [name for name, _ in model.named_modules() if name]
    routed = {name.removesuffix(".gate") for name in paths if name.endswith(".mlp.gate")}
    if patterns is None:
        chosen = {name for name in paths if DEFAULT_POINTS.fullmatch(name)}
    else:
        chosen = set()
        for pattern in patterns:
            expression = re.compile(re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^.:]*"))
            found = {name for path in paths for name in names_of(path, routed) if expression.fullmatch(name)}
            if not found:
                near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.3)
                raise UsageError(f"--capture {pattern}: no module has such a name\n"
                                 f"  help: near it are {', '.join(near)}")
            chosen |= found
    num_layers = model.config.get_text_config().num_hidden_layers
    kept = set(range(num_layers)) if layers is None else {k + num_layers if k < 0 else k for k in layers}

    def is_kept(name):
        layer = re.match(r"model\.(?:language_model\.)?layers\.(\d+)(?:[.:]|$)", name)
        return layer is None or int(layer.group(1)) in kept

    return [name for path in paths for name in names_of(path, routed) if name in chosen and is_kept(name)]


def names_of(path, routed):
    """A module's points; a block with experts has the choices of its router too."""
    return (f"{path}:input", *([f"{path}:topk_indices", f"{path}:topk_weights"] if path in routed else []), path)


def forward(model, input_ids, names):
    """{name: [tokens, width]} of one prompt, on the host; element 0 where a module returns a tuple.

    A module that is not called, or has no value of one row a token (a container, the rotary table), is left out. A
    router's tuple also gives the choices and their weights, by falling selection score, the lower expert first.
    """
    num_tokens = len(input_ids)
    values = {}

    def keep_choices(name, module, output):
        logits, weights, indices = output[:3]
        block = model.get_submodule(name)
        bias = getattr(block, "e_score_correction_bias", getattr(block.gate, "e_score_correction_bias", None))
        scores = logits.float() if bias is None else logits.float().sigmoid() + bias
        keys = scores.gather(1, indices)
        order = indices.argsort(dim=1, stable=True)
        order = order.gather(1, keys.gather(1, order).argsort(dim=1, stable=True, descending=True))
        for suffix, value in (("topk_indices", indices.to(torch.int32)), ("topk_weights", weights.float())):
            if f"{name}:{suffix}" in names:
                values[f"{name}:{suffix}"] = value.gather(1, order).detach().to("cpu", copy=True)

    def keep(name, value):
        value = value[0] if isinstance(value, (tuple, list)) and value else value
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return
        ones = (1,) * (value.dim() - 2)  # of the batch, and of the one head that a latent is
        if value.shape[:2] == (1, num_tokens) or value.shape[0] == num_tokens or value.shape[:-1] == (*ones, num_tokens):
            values[name] = value.detach().reshape(num_tokens, -1).to("cpu", copy=True)

    def hook_on(name):
        if name.endswith((":topk_indices", ":topk_weights")):
            block = name.rpartition(":")[0]
            return model.get_submodule(f"{block}.gate").register_forward_hook(
                lambda module, _, output: keep_choices(block, module, output))
        module = model.get_submodule(name.removesuffix(":input"))
        if name.endswith(":input"):
            return module.register_forward_pre_hook(
                lambda _, args, kwargs: keep(name, args or kwargs.get("hidden_states")), with_kwargs=True)
        return module.register_forward_hook(lambda _, __, output: keep(name, output))

    handles = [hook_on(name) for name in names]
    try:
        device = model.get_input_embeddings().weight.device
        ids = torch.tensor([list(input_ids)], dtype=torch.int64, device=device)
        run = model if any(name.startswith("lm_head") for name in names) else model.base_model
        with torch.no_grad():
            run(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return values


def captures(folder, prompts, dtype, patterns=None, layers=None, allow_wrong_rotary=False, **implementation):
    """Yields (model, values) of each prompt in turn: {name: [tokens, width]}, in the order of the forward pass."""
    pin_numerics()
    model = None
    for prompt in prompts:
        if model is None or needs_fresh_model(model.config):
            model = None
            gc.collect()
            model = load_model(folder, dtype, **implementation)
            if not allow_wrong_rotary:
                check_rotary(model)
            names = matching_points(model, patterns, layers)
        values = forward(model, prompt, names)
        if not values:
            raise UsageError("--capture: none of the modules named has one row a token as its output\n"
                             "  help: name layers (model.layers.*) or modules inside them")
        yield model, values


def capture_to_memory(folder, prompts, dtype, **options):
    """{name: [tokens of all prompts, width]}: for tests of small models."""
    parts = [values for _, values in captures(folder, prompts, dtype, **options)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def capture_to_file(path, folder, prompts, dtype, texts=None, attributes=None, with_measures=True, **options):
    """Writes `path`; the file has its name only when it is whole. `attributes`: more of them, of "/"."""
    partial = pathlib.Path(f"{path}.partial")
    out = None
    try:
        for index, (model, values) in enumerate(captures(folder, prompts, dtype, **options)):
            if out is None:
                points = [(name, value.dtype, value.shape[1]) for name, value in values.items()]
                out = CaptureFile(partial, points, prompts, texts, with_measures)
            for point, (name, _, _) in enumerate(points):
                out.write(point, index, values[name])
        out.finish({**describe(folder, model, dtype), **(attributes or {})})
    except BaseException:
        if out is not None:
            out.file.close()
            partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


def describe(folder, model, dtype):
    """What it takes to repeat the run."""
    config = pathlib.Path(folder, "config.json")
    return {
        "format_version": FORMAT_VERSION,
        "program": "capture_hf.py",
        "backend": "transformers",
        "transformers_version": transformers.__version__,
        "torch_version": torch.__version__,
        "h5py_version": h5py.__version__,
        "python_version": platform.python_version(),
        "model": pathlib.Path(folder).name,
        "config_sha256": hashlib.sha256(config.read_bytes()).hexdigest() if config.is_file() else "",
        "dtype": str(dtype).removeprefix("torch."),
        "attn_implementation": str(model.config._attn_implementation),
        "experts_implementation": str(getattr(model.config, "_experts_implementation", None)),
        "tf32": 0,
        "reduced_precision_reduction": 0,
        "use_cache": 0,
        "device": str(next(model.parameters()).device),
        "num_threads": torch.get_num_threads(),
    }


def now():
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


# ---------------------------------------------------------------------------------------------------- the command line


def parse_layers(text, option="--layers"):
    layers = []
    for part in text.split(","):
        match = re.fullmatch(r"(-?\d+)(?:-(\d+))?", part.strip())
        if not match:
            raise UsageError(f"{option} {text}: '{part}' is neither a layer nor a range such as 0-7")
        first = int(match.group(1))
        layers.extend(range(first, int(match.group(2)) + 1) if match.group(2) else [first])
    return layers


def tokenize(folder, texts):
    """By the folder's own tokenizer.json: AutoTokenizer rebuilds some tokenizers, and other ids come out."""
    path = pathlib.Path(folder, "tokenizer.json")
    if not path.is_file():
        raise UsageError(f"{path}: not found, so prompts cannot be tokenised\n  help: give --input-ids instead")
    import tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    return [tokenizer.encode(text).ids for text in texts]


def read_prompts(options, vocab_size):
    """(prompts, texts): a list of lists of ids, and the texts where the input was text."""
    if options.input_ids:
        path = pathlib.Path(options.input_ids)
        if path.suffix == ".h5":  # the very input of another capture
            with h5py.File(path) as file:
                ids, starts = file["prompts/input_ids"][:], file["prompts/cu_seqlens"][:]
            return [ids[a:b].tolist() for a, b in zip(starts[:-1], starts[1:])], None
        prompts = numpy.load(path).tolist() if path.suffix == ".npy" else json.loads(path.read_text())
        return prompts, None
    if options.random_tokens:
        match = re.fullmatch(r"(\d+)x(\d+)(?::(\d+))?", options.random_tokens)
        if not match:
            raise UsageError(f"--random-tokens {options.random_tokens}: expected PROMPTSxTOKENS[:SEED], as 64x256:1")
        rows, columns, seed = (int(group or 0) for group in match.groups())
        return numpy.random.default_rng(seed).integers(0, vocab_size, (rows, columns)).tolist(), None
    texts = list(options.prompt or [])
    if options.prompts:
        lines = pathlib.Path(options.prompts).read_text().splitlines()
        if options.prompts.endswith(".jsonl"):
            records = [json.loads(line) for line in lines if line.strip()]
            if records and "input_ids" in records[0]:
                return [record["input_ids"] for record in records], None
            texts += [record["text"] for record in records]
        else:
            texts += [line for line in lines if line]
    return tokenize(options.model, texts), texts


def parse_options(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder with config.json and *.safetensors")
    parser.add_argument("--output", required=True, help="the .h5 file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace --output if it exists")
    parser.add_argument("--dtype", default="auto", choices=["auto", *DTYPES], help="auto: config.json's")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--input-ids", metavar="FILE",
                       help=".json: a list of ids a prompt; .npy: [prompts, tokens]; .h5: the input of that capture")
    given.add_argument("--prompts", metavar="FILE", help=".txt, a prompt a line; .jsonl with text or input_ids")
    given.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    given.add_argument("--random-tokens", metavar="NxM[:SEED]", help="N prompts of M random ids (numpy's generator)")
    parser.add_argument("--capture", action="append", metavar="PATTERNS",
                        help="module paths, or PATH:input, comma separated; * stops at a dot, ** does not; "
                             "default: the embedding, every layer, the final norm")
    parser.add_argument("--layers", help="as 0-7 or 0,8,-1: which layers to keep; default all")
    parser.add_argument("--attn-implementation", default="sdpa")
    parser.add_argument("--experts-implementation", default="grouped_mm")
    parser.add_argument("--device-map", help="as transformers takes it; default: all on --device")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch's CPU threads; default torch's choice")
    parser.add_argument("--allow-wrong-rotary", action="store_true",
                        help="go on when the rotary table is not of config.json's rotary_dim")
    return parser.parse_args(arguments)


def run(options):
    output = pathlib.Path(options.output)
    if output.exists() and not options.overwrite:
        raise UsageError(f"{output}: exists already\n  help: --overwrite, or another --output")
    if options.threads:
        torch.set_num_threads(options.threads)
    config = transformers.AutoConfig.from_pretrained(options.model, local_files_only=True)
    text_config = config.get_text_config()
    dtype = DTYPES.get(options.dtype) or config.dtype or text_config.dtype or torch.float32
    prompts, texts = read_prompts(options, text_config.vocab_size)
    if not prompts or not all(prompts):
        raise UsageError("a prompt has no token\n  help: every prompt needs at least one")
    patterns = [part for group in options.capture or [] for part in group.split(",")]
    capture_to_file(
        output, options.model, prompts, dtype, texts=texts,
        attributes={"command_line": shlex.join([pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]), "started": now()},
        patterns=patterns or None, layers=parse_layers(options.layers) if options.layers else None,
        allow_wrong_rotary=options.allow_wrong_rotary, attn_implementation=options.attn_implementation,
        experts_implementation=options.experts_implementation, device_map=options.device_map, device=options.device)


def main():
    try:
        run(parse_options(sys.argv[1:]))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
