#!/usr/bin/env python3
"""Runs the commands of README.md, in order, and fails at the first whose exit status is not what the README says.

usage: readme_test.py SOURCE_FOLDER BUILD_FOLDER

Every block that opens with ```sh runs, all in one shell, as if pasted; `# exit status N` behind a command says that it
ends with N. They run in a scratch folder that looks like the repository: links to what is in it, and build/ a link to
BUILD_FOLDER. Two things are not as pasted:

- `scripts/test`, which runs this test, is left out; that it exists is checked.
- `scripts/demo` runs but for its first steps: LAYERPROBE_SKIP_BUILD keeps it from installing and building.

`python3` is $LAYERPROBE_PYTHON where that is set: it needs h5py.

A block that opens with "```sh not run: REASON" is not run, and is listed with its reason.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BLOCK = re.compile(r"^```sh(?: not run: (?P<reason>[^\n]+))?\n(?P<commands>.*?)^```$", re.M | re.S)
EXIT_STATUS = re.compile(r"^(?P<command>.*?) +# exit status (?P<status>\d+)\b.*$", re.M)


def as_script(readme: str) -> str:
    """The blocks as one bash script that stops at the first failure and says before each which line it is of."""
    parts = ["set -euo pipefail"]
    for block in BLOCK.finditer(readme):
        place = f"README.md:{readme.count(chr(10), 0, block.start()) + 2}"
        if block["reason"]:
            print(f"{place}: not run: {block['reason']}")
            continue
        commands = re.sub(r"^scripts/test\b", "test -x scripts/test #", block["commands"], flags=re.M)
        commands = EXIT_STATUS.sub(r"status=0; { \g<command>; } || status=$?; [ $status = \g<status> ]", commands)
        parts.append(f"echo '== {place}'\n{commands}")
    return "\n".join(parts)


def main() -> int:
    source, build = (pathlib.Path(argument).absolute() for argument in sys.argv[1:3])
    script = as_script((source / "README.md").read_text())
    with tempfile.TemporaryDirectory(dir=build) as scratch, tempfile.TemporaryDirectory() as programs:
        for entry in source.iterdir():
            if entry.name not in {"demo", ".git"} and not entry.name.startswith("build"):
                (pathlib.Path(scratch) / entry.name).symlink_to(entry)
        (pathlib.Path(scratch) / "build").symlink_to(build)
        python = shutil.which(os.environ.get("LAYERPROBE_PYTHON", "python3"))
        (pathlib.Path(programs) / "python3").symlink_to(python)
        environment = os.environ | {"LAYERPROBE_SKIP_BUILD": "1", "PATH": f"{programs}:{os.environ['PATH']}"}
        return subprocess.run(["bash", "-c", script], cwd=scratch, env=environment, stdin=subprocess.DEVNULL).returncode


sys.exit(main())
