#!/usr/bin/env python3
"""usage: signals_test.py BUILD MODEL: SIGINT and SIGTERM during a run, once and twice."""
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

PROGRAM, MODEL = pathlib.Path(sys.argv[1]).resolve() / "layerprobe", pathlib.Path(sys.argv[2]).resolve()
RUN = [PROGRAM, "run", "--model", MODEL, "--random-tokens", "64x64:1", "--tokens-per-batch", "64", "--capture", "**",
       "--commit-every", "0.05"]


def expect(holds, what):
    if not holds:
        sys.exit(f"failed: {what}")


def start(folder, *more):
    return subprocess.Popen([*RUN, "--output", "run.h5", *more], cwd=folder, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def wait_until_it_writes(run, folder):
    """Until something is complete on the disk."""
    while run.poll() is None:
        if (folder / "run.h5.partial").exists():
            shown = subprocess.run([PROGRAM, "inspect", "run.h5.partial"], cwd=folder, stdout=subprocess.PIPE, text=True)
            if shown.returncode == 0:
                return
        time.sleep(0.005)
    sys.exit(f"failed: the run ended before it was stopped\n{run.communicate()[1]}")


def finish_and_compare(folder, undisturbed):
    resumed = start(folder, "--resume")
    expect(resumed.wait() == 0, f"it is resumed: {resumed.communicate()[1]}")
    compared = subprocess.run([PROGRAM, "compare", "--exact", undisturbed / "run.h5", folder / "run.h5"],
                              stdout=subprocess.PIPE, text=True)
    expect(compared.returncode == 0, f"the resumed run has the undisturbed one's bits:\n{compared.stdout[-500:]}")


with tempfile.TemporaryDirectory() as work:
    undisturbed = pathlib.Path(work) / "undisturbed"
    undisturbed.mkdir()
    expect(start(undisturbed).wait() == 0, "an undisturbed run succeeds")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        folder = pathlib.Path(work) / number.name
        folder.mkdir()
        run = start(folder)
        wait_until_it_writes(run, folder)
        run.send_signal(number)
        errors = run.communicate()[1]
        expect(run.returncode == 2, f"{number.name} ends it with status 2, not {run.returncode}: {errors}")
        expect("error: run.h5.partial: stopped as asked; " in errors, errors)
        expect("--resume" in errors, errors)
        expect(not (folder / "run.h5").exists(), "nothing stands under the final name")
        finish_and_compare(folder, undisturbed)
        print(f"{number.name}: stopped, status 2, resumed to the same bits")

    for number in (signal.SIGINT, signal.SIGTERM):
        folder = pathlib.Path(work) / f"{number.name}-twice"
        folder.mkdir()
        run = start(folder)
        wait_until_it_writes(run, folder)
        run.send_signal(signal.SIGSTOP)  # both are there when it goes on
        run.send_signal(number)
        run.send_signal(signal.SIGTERM if number == signal.SIGINT else signal.SIGINT)
        run.send_signal(signal.SIGCONT)
        run.communicate()
        expect(run.returncode < 0, f"the second signal ends it at once, not with status {run.returncode}")
        finish_and_compare(folder, undisturbed)
        print(f"{number.name} and another: ended at once, resumed to the same bits")

    folder = pathlib.Path(work) / "ignored"
    folder.mkdir()
    run = subprocess.Popen(["sh", "-c", 'trap "" HUP INT; exec "$@"', "sh", *map(str, RUN), "--output", "run.h5"],
                           cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_until_it_writes(run, folder)
    run.send_signal(signal.SIGHUP)
    run.send_signal(signal.SIGINT)
    expect(run.wait() == 0, f"signals that were ignored before stay ignored: {run.communicate()[1]}")
    print("ignored signals: ran on")
