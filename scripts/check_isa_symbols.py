#!/usr/bin/env python3
"""Fails when an object compiled for one instruction set holds a symbol that the linker may share with other objects.

usage: check_isa_symbols.py LIBRARY.a

Inline functions are compiled into every object that calls them, and the linker keeps any one copy: were it the one for
AVX-512, the program would stop on other processors. So these objects may define only symbols of their own.
"""
import re
import subprocess
import sys

OBJECT = re.compile(r"(loops_(avx\w+)|\w+_isa)\.cpp\.o:")
SHARED = set("WwVvu")

listing = subprocess.run(["nm", "--defined-only", "--demangle", sys.argv[1]], check=True, capture_output=True, text=True)
objects, problems, name = 0, [], None
for line in listing.stdout.splitlines():
    if line.endswith(":"):
        name = line if OBJECT.fullmatch(line) else None
        objects += name is not None
    elif name and line and line.split()[1] in SHARED:
        problems.append(f"{name} {line.split(maxsplit=2)[2]}")
if not objects:
    problems.append(f"{sys.argv[1]}: no object of an instruction set; has its name changed?")
print("\n".join(problems) or f"{objects} objects keep to themselves")
sys.exit(bool(problems))
