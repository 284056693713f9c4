#!/usr/bin/env python3
"""Writes the ids that the `tokenizers` package gives to tests/tokenizer/data/corpus.txt, and small tokenizers for it.

usage: make_tokenizer_reference.py [--keep] GGUF DEEPSEEK_TOKENIZER_JSON
       (needs pip install tokenizers==0.23.3 gguf; the two files come from scripts/fetch_data; --keep trains nothing)

For each tokenizer, tests/tokenizer/data/<name>.ids has a line for each text of the corpus: the 32-bit FNV-1a hash of
its ids (each as 4 bytes, little-endian) in hexadecimal, and in every 20th line the ids too. Small tokenizers, trained on
the corpus in the style of a family, are beside it in <name>/tokenizer.json.
"""
import json
import pathlib
import re
import sys

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

DATA = pathlib.Path(__file__).parent.parent / "tests" / "tokenizer" / "data"
VERSION = "0.23.3"

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
MINIMAX = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTIONS + "?|"
           r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTIONS + "?|"
           r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
            " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"]


def unescaped(line: str) -> bytes:
    named = {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\"}

    def one(match: re.Match) -> bytes:
        escape = match[0][1:].decode()
        return named.get(escape) or bytes([int(escape[1:], 16)])

    return re.sub(rb"\\(x[0-9a-f]{2}|.)", one, line.encode())


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern) if isinstance(pattern, str) else pattern[0], behavior, invert)


def byte_level(use_regex=False, add_prefix_space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def trained(texts: list[str], vocab_size: int, pre_tokenizer, normalizer=None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def special(content: str, **flags) -> AddedToken:
    return AddedToken(content, special=True, normalized=False, **flags)


def small_tokenizers(texts: list[str]) -> dict[str, tuple[dict, dict | None]]:
    """name -> (tokenizer.json, tokenizer_config.json or None)"""
    out = {}

    # As Llama-3: ignore_merges with tokens that no merges lead to, and a template behind a ByteLevel post-processor.
    tokenizer = trained(texts, 900, pre_tokenizers.Sequence([split(LLAMA3), byte_level()]))
    tokenizer.add_special_tokens([special("<|begin_of_text|>"), special("<|eot_id|>")])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    made = json.loads(tokenizer.to_str())
    parts = {part for merge in made["model"]["merges"] for part in merge}
    made["model"]["merges"] = [merge for i, merge in enumerate(made["model"]["merges"])
                               if i % 4 or "".join(merge) in parts]
    made["model"]["ignore_merges"] = True
    out["llama3"] = made, None

    # As Qwen2: NFC, merges in the older spelling; and added tokens with every flag.
    tokenizer = trained(texts, 800, pre_tokenizers.Sequence([split(QWEN2), byte_level()]), normalizers.NFC())
    tokenizer.add_special_tokens([special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")])
    tokenizer.add_tokens([
        AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False, lstrip=True),
        AddedToken("[MASK]", normalized=False, lstrip=True, rstrip=True), AddedToken("<word>", single_word=True),
        AddedToken("equal", single_word=True), AddedToken("cafe\u0301!"), AddedToken("é", rstrip=True),
        AddedToken("<|END|>", normalized=True), AddedToken("12", single_word=True, lstrip=True)])
    made = json.loads(tokenizer.to_str())
    made["model"]["merges"] = [" ".join(merge) for merge in made["model"]["merges"]]
    out["qwen2"] = made, {"add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>"}

    # As MiniMax-M2: the o200k pattern and an unk_token.
    tokenizer = trained(texts, 900, pre_tokenizers.Sequence([split(MINIMAX), byte_level()]))
    tokenizer.add_special_tokens([special("]!p~["), special("]~b]"), special("]~!b[")])
    out["minimax"] = json.loads(tokenizer.to_str()), None

    # As DeepSeek-V3: three splits, normalized added tokens without a normalizer.
    tokenizer = trained(texts, 900, pre_tokenizers.Sequence([split(one) for one in DEEPSEEK] + [byte_level()]),
                        normalizers.Sequence([]))
    tokenizer.add_special_tokens([special("<｜begin▁of▁sentence｜>"), special("<｜end▁of▁sentence｜>")])
    tokenizer.add_tokens([AddedToken("<｜User｜>"), AddedToken("<think>")])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    out["deepseek"] = json.loads(tokenizer.to_str()), None

    # As GPT-2, with a space in front of every piece, BOS and EOS.
    tokenizer = trained(texts, 700, byte_level(use_regex=True, add_prefix_space=True))
    tokenizer.add_special_tokens([special("<|endoftext|>")])
    eos = tokenizer.token_to_id("<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A <|endoftext|>", special_tokens=[("<|endoftext|>", eos)])
    out["gpt2"] = json.loads(tokenizer.to_str()), None

    # As SmolLM2.
    tokenizer = trained(texts, 700, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                             byte_level(use_regex=True)]))
    tokenizer.add_special_tokens([special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")])
    out["smollm"] = json.loads(tokenizer.to_str()), None

    # Of no family: every behaviour of Split, patterns with every construct that is supported, alphabet with holes.
    tokenizer = trained(texts, 500, pre_tokenizers.Sequence([
        split((", ",), "removed"), split(r"\.+", "merged_with_previous"), split(r"(?<=\w)['’](?=\w)", "merged_with_next"),
        pre_tokenizers.Digits(individual_digits=False), split("-", "contiguous"),
        split(r"\b(?:ab)+\b|[\p{Lu}&&[^A-C]]{2,}?", "isolated"), split(r"(?>\h+)\H|^[^\S\n]+|[ \t]++$|\A.|.\z", "isolated"),
        split(r"(?=\d{3}\B)|\x41\x{e9}?+|\u00df{,2}x", "isolated"), split(r"\P{M}\p{^L}*", "isolated", invert=True),
        split(r"[\w\-]*(?i:[sdmt]|LL|ve|re)|[^\W\d_]*?\s", "contiguous"), byte_level()]))
    made = json.loads(tokenizer.to_str())
    missing = {"ÿ", "þ", "ð", "Į", "Ł"}
    made["model"]["merges"] = [merge for merge in made["model"]["merges"] if not missing & set("".join(merge))]
    made["model"]["vocab"] = {token: i for token, i in made["model"]["vocab"].items() if not missing & set(token)}
    made["model"]["vocab"]["<unk>"] = 600
    made["model"] |= {"unk_token": "<unk>", "fuse_unk": True}
    out["splits"] = made, None
    return out


def smollm2(gguf_path: str) -> Tokenizer:
    """SmolLM2's own rule: every digit alone, then GPT-2's pattern. transformers' GGUF conversion forgets the digits."""
    import gguf
    fields = gguf.GGUFReader(gguf_path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       byte_level(use_regex=True)])
    types = fields["tokenizer.ggml.token_type"].contents()
    tokenizer.add_special_tokens([special(token) for token, kind in zip(tokens, types) if kind == 3])
    return tokenizer


def write_ids(name: str, tokenizer: Tokenizer, texts: list[str]) -> None:
    lines = []
    for i, text in enumerate(texts):
        ids = tokenizer.encode(text).ids
        value = 0x811C9DC5
        for byte in b"".join(one.to_bytes(4, "little") for one in ids):
            value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
        lines.append(f"{value:08x}" + ("".join(f" {one}" for one in ids) if i % 20 == 0 else ""))
    (DATA / f"{name}.ids").write_text("\n".join(lines) + "\n")


def main() -> None:
    if tokenizers.__version__ != VERSION:
        sys.exit(f"error: tokenizers is {tokenizers.__version__}, not {VERSION}")
    keep = "--keep" in sys.argv
    gguf_path, deepseek_path = [argument for argument in sys.argv[1:] if argument != "--keep"]
    lines = (DATA / "corpus.txt").read_text(encoding="utf-8").split("\n")[:-1]
    texts = [unescaped(line).decode(errors="replace") for line in lines]
    if not keep:
        for name, (made, config) in small_tokenizers(texts).items():
            folder = DATA / name
            folder.mkdir(exist_ok=True)
            (folder / "tokenizer.json").write_text(
                json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
            if config is not None:
                (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    for folder in sorted(path.parent for path in DATA.glob("*/tokenizer.json")):
        write_ids(folder.name, Tokenizer.from_file(str(folder / "tokenizer.json")), texts)
    write_ids("smollm2-gguf", smollm2(gguf_path), texts)
    write_ids("deepseek-real", Tokenizer.from_file(deepseek_path), texts)


main()
