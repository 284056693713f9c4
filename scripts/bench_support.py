"""What the benchmarks share: programs run and measured, and tables printed."""
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from typing import NamedTuple

SCRIPTS = pathlib.Path(__file__).resolve().parent


class Failed(Exception):
    """A program ended with an error or took too long; the message has the end of what it said."""


class Finished(NamedTuple):
    out: str
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int  # resident, mapped files included
    peak_own_bytes: int  # resident and of no file, as seen 20 times a second


class OwnMemory(threading.Thread):
    """Looks how much memory a process has that belongs to no file, until it is gone."""

    def __init__(self, process_id):
        super().__init__(daemon=True)
        self.status = pathlib.Path(f"/proc/{process_id}/status")
        self.peak_bytes = 0
        self.start()

    def run(self):
        while (found := self.now()) is not None:
            self.peak_bytes = max(self.peak_bytes, found)
            time.sleep(0.05)

    def now(self):
        try:
            found = re.search(r"RssAnon:\s+(\d+) kB", self.status.read_text())
        except OSError:
            return None
        return int(found[1]) * 1024 if found else None  # a process that has ended has no memory


def run(command, allowed=(0,), environment=None, limit_seconds=None):
    """Runs to the end and measures; the program's errors go to our stderr. `environment` is added to ours."""
    command = [str(word) for word in command]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out, stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
        own_memory = OwnMemory(child.pid)
        killer = threading.Timer(limit_seconds, child.kill) if limit_seconds else None
        if killer:
            killer.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall_seconds = time.perf_counter() - start
        if killer:
            killer.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if child.returncode not in allowed:
        is_late = limit_seconds and wall_seconds >= limit_seconds
        what = f"not done after {limit_seconds:.0f} s" if is_late else f"exit status {child.returncode}"
        raise Failed(f"{what}\n  {text[-1000:]}\n  help: the command was {' '.join(command)}")
    return Finished(text, wall_seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, own_memory.peak_bytes)


def find_folder(where, work):
    """The folder of the programs in a build folder, an unpacked tarball, or a tarball.

    A tarball is unpacked in `work`, and so is the one with the tests beside it. Without `where` it is what these scripts
    lie in.
    """
    where = pathlib.Path(where).absolute() if where else SCRIPTS.parent
    if where.is_file():
        tests = where.with_name(where.name.replace(".tar.gz", "-tests.tar.gz"))
        for path in (tests, where):
            if path.is_file():
                with tarfile.open(path) as archive:
                    archive.extractall(work)
                    folder = archive.getnames()[0].split("/")[0]
        where = pathlib.Path(work) / folder
    for folder in (where, where / "bin", where / "build"):
        if (folder / "layerprobe").is_file():
            return folder
    sys.exit(f"error: {where}: no layerprobe in it, in bin/ or in build/\n"
             "  help: name a build folder, or a tarball of `cmake --build build --target package`")


def print_row(cells):
    print("| " + " | ".join(cells) + " |", flush=True)


def print_header(cells):
    print_row(cells)
    print("|" + "---|" * len(cells), flush=True)


def table(header, rows):
    print_header(header)
    for row in rows:
        print_row(row)
    print(flush=True)


def machine():
    """The processor and the system, in words."""
    cpu_info = pathlib.Path("/proc/cpuinfo").read_text()
    name = re.search(r"model name\s*: (.*)", cpu_info)
    flags = set(re.search(r"flags\s*: (.*)", cpu_info)[1].split())
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_fp16") if flag in flags]
    release = re.search(r'PRETTY_NAME="(.*)"', pathlib.Path("/etc/os-release").read_text())
    return f"{name[1] if name else 'unknown'} ({', '.join(known)}), {os.cpu_count()} cores, {release[1]}"
