#!/usr/bin/env python3
"""usage: full_disk_test.py BUILD MODEL: runs on a small tmpfs and a small ext4 that are full, or fill up.

Needs the right to mount; says so and passes where there is none. (tests/store/crash_test.cpp makes every single call
fail, everywhere.)
"""
import errno
import os
import pathlib
import subprocess
import sys
import tempfile

PROGRAM, MODEL = pathlib.Path(sys.argv[1]).resolve() / "layerprobe", pathlib.Path(sys.argv[2]).resolve()
MB = 1 << 20
RUN = [PROGRAM, "run", "--model", MODEL, "--quiet", "--random-tokens", "64x64:1", "--capture", "**"]


def expect(holds, what):
    if not holds:
        sys.exit(f"failed: {what}")


def run(output, *more):
    return subprocess.run([*RUN, "--output", output, *more], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def fill(folder, but):
    """A file that leaves `but` bytes of the disk, whatever a run takes meanwhile."""
    with open(folder / "filler", "wb") as filler:
        while True:
            status = os.statvfs(folder)
            size = status.f_bavail * status.f_frsize - but
            try:
                if size > 0:
                    os.posix_fallocate(filler.fileno(), 0, size)
                return
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def free_all(folder):
    (folder / "filler").unlink()


def try_disk(name, folder, undisturbed, size):
    def same_bits(output):
        return subprocess.run([PROGRAM, "compare", "--exact", undisturbed, output], stdout=subprocess.DEVNULL).returncode == 0

    output = folder / "run.h5"
    fill(folder, but=size // 2)
    refused = run(output)
    expect(refused.returncode == 2 and "where the disk has" in refused.stderr, refused.stderr)
    expect(sorted(os.listdir(folder)) in (["filler"], ["filler", "lost+found"]), f"nothing is left: {os.listdir(folder)}")
    free_all(folder)

    # A run that was stopped half-way, whose copy lost the space set aside for it; then the disk fills.
    stopped = folder / "stopped.h5.partial"
    with tempfile.TemporaryDirectory() as elsewhere:
        half = subprocess.Popen([*RUN, "--output", f"{elsewhere}/stopped.h5", "--commit-every", "0", "--tokens-per-batch",
                                 "64"], stderr=subprocess.DEVNULL)
        partial = pathlib.Path(elsewhere) / "stopped.h5.partial"
        while half.poll() is None and not partial.exists():
            pass
        half.kill()
        half.wait()
        expect(partial.exists(), "the run was killed half-way")
        subprocess.run(["cp", "--sparse=always", partial, stopped], check=True)
    fill(folder, but=64 << 10)
    full = run(folder / "stopped.h5", "--resume")
    expect(full.returncode == 2 and "No space left on device" in full.stderr, full.stderr)
    expect("make space on that disk, then run the same command with --resume" in full.stderr, full.stderr)
    shown = subprocess.run([PROGRAM, "inspect", stopped], stdout=subprocess.PIPE, text=True)
    expect(shown.returncode == 0, "what was there can be read")
    free_all(folder)
    resumed = run(folder / "stopped.h5", "--resume")
    expect(resumed.returncode == 0 and same_bits(folder / "stopped.h5"), f"it goes on once there is space: {resumed.stderr}")
    (folder / "stopped.h5").unlink()

    # A disk that fills while it runs: the space was set aside before; on tmpfs it is while it runs, all of it or not.
    running = subprocess.Popen([*RUN, "--output", output], stderr=subprocess.PIPE, text=True)
    while running.poll() is None and not (folder / "run.h5.partial").exists():
        pass
    fill(folder, but=0)
    problem = running.communicate()[1]
    if name == "tmpfs" and running.returncode != 0:
        expect(running.returncode == 2 and "No space left on device" in problem, f"it says so and no signal ends it: {problem}")
        free_all(folder)
        resumed = run(output, "--resume")
        expect(resumed.returncode == 0 and same_bits(output), f"it goes on once there is space: {resumed.stderr}")
        print(f"{name}: refused, stopped and resumed, ended and resumed when the disk filled")
        return
    expect(running.returncode == 0 and same_bits(output), f"it has its space already: {problem}")
    print(f"{name}: refused, stopped and resumed, ran on while the disk filled")


def why_not(*command):
    """Runs the command; what kept it from succeeding, or None."""
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        return f"there is no {command[0]}"
    return done.stderr.strip() or f"{command[0]} failed" if done.returncode != 0 else None


with tempfile.TemporaryDirectory() as work:
    work = pathlib.Path(work)
    undisturbed = work / "undisturbed.h5"
    expect(run(undisturbed).returncode == 0, "an undisturbed run succeeds")
    size = undisturbed.stat().st_size
    disk = work / "disk"
    disk.mkdir()
    tried = 0
    image = work / "image"
    with open(image, "wb") as file:
        file.truncate(4 * size + 16 * MB)
    for name, arguments in (("tmpfs", ["-t", "tmpfs", "-o", f"size={4 * size}", "tmpfs", disk]),
                            ("ext4", ["-o", "loop", image, disk])):
        reason = why_not("mkfs.ext4", "-q", image) if name == "ext4" else None
        reason = reason or why_not("mount", *arguments)
        if reason is not None:
            print(f"{name}: not tried here: {reason}")
            continue
        try:
            try_disk(name, disk, undisturbed, size)
            tried += 1
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)
    print(f"{tried} of 2 disks tried")
