#!/usr/bin/env python3
"""Fails when a folder includes one it may not, or when code outside cli/ prints or exits.

A file includes headers of its own folder and of lower tiers. This table is the architecture.
"""
import pathlib
import re
import sys

TIERS = [["base"], ["kernels"], ["weights", "tokenizer", "store", "device"], ["model", "placement", "capture"],
         ["plan"], ["runtime", "compare"], ["check"], ["cli"]]
ONLY_FROM = {"kernels": "device"}  # a folder, and the only other one that may include it
TIER_OF = {folder: tier for tier, folders in enumerate(TIERS) for folder in folders}
INCLUDE = re.compile(r'^\s*#include "([a-z_]+)/', re.M)
PRINTS_OR_EXITS = re.compile(r"std::(cout|cerr)\b|(?<![\w:])f?printf\(|\b(exit|abort)\(")

root = pathlib.Path(sys.argv[1])
problems = []
for path in sorted([*(root / "src").rglob("*"), *(root / "kernels").rglob("*")]):
    if path.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
        continue
    parts = path.relative_to(root).parts
    folder = parts[1] if parts[0] == "src" else parts[0]
    source = path.read_text()
    for other in set(INCLUDE.findall(source)) - {folder}:
        if not {folder, other} <= TIER_OF.keys():
            problems.append(f"{path}: {folder}/ or {other}/ is not in the table")
            continue
        lower = TIER_OF[other] < TIER_OF[folder]
        if not lower or ONLY_FROM.get(other, folder) != folder:
            problems.append(f"{path}: {folder}/ may not include {other}/")
    if folder != "cli" and PRINTS_OR_EXITS.search(source):
        problems.append(f"{path}: only cli/ prints or exits; throw Error instead")
print("\n".join(problems) or "layers hold")
sys.exit(bool(problems))
