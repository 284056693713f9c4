#!/usr/bin/env python3
"""usage: slurm_test.py SOURCE BUILD: scripts/slurm on a real Slurm of one node, which this starts and ends.

An array job of four shards, one preempted by `scontrol requeue` and one told that its time is up, each half-way; merged
by the job that waits for them; read, it has the bits of one run. Without slurm-wlm, munge or root it says so and passes,
unless LAYERPROBE_REQUIRE holds "slurm", as it does in .ci/run.
"""
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

SOURCE, BUILD = map(pathlib.Path, (sys.argv[1], sys.argv[2]))
WORK = None  # the folder of all that this writes, once there is one
SCRIPTS, PROGRAM, MODEL = SOURCE / "scripts/slurm", BUILD / "layerprobe", SOURCE / "tests/data/parity/llama-defaults"
NEEDED = ("sbatch", "scontrol", "scancel", "squeue", "slurmctld", "slurmd", "munged")
SHARDS, PROMPTS = 4, 240  # prompts of each shard
RUN = ["--dtype", "float64", "--capture", "model.layers.*", "--tokens-per-batch", "64", "--commit-every", "0.1"]
SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SwitchType=switch/none
MpiDefault=none
JobRequeue=1
KillWait=20
SchedulerParameters=sched_interval=2,batch_sched_delay=1
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
# Every dataset that "bit-identical, as read" speaks of.
SAME_BITS = """
import sys, h5py
def datasets(path):
    found = {}
    def note(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith("end/"):
            found[name] = (item.shape, item.dtype.str, item[()].tobytes())
    with h5py.File(path, "r") as file:
        file.visititems(note)
    return found
a, b = map(datasets, sys.argv[1:])
assert a.keys() == b.keys(), a.keys() ^ b.keys()
different = [name for name in a if a[name] != b[name]]
assert not different, different
print(len(a), "datasets have the same bits")
"""


def fail(what):
    """After every log there is, for what comes last is what one reads."""
    print(all_logs())
    sys.exit(f"failed: {what}")


def expect(holds, what):
    if not holds:
        fail(what)


def output_of(*command, **options):
    done = subprocess.run([str(each) for each in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **options)
    expect(done.returncode == 0, f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def wait_until(holds, what, seconds=90):
    end = time.monotonic() + seconds
    while not (answer := holds()):
        expect(time.monotonic() < end, f"{what} within {seconds} s")
        time.sleep(0.02)
    return answer


def all_logs():
    logs = sorted(WORK.glob("**/*.log")) if WORK else []
    return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in logs)


class Slurm:
    """A cluster of this machine alone, until the block ends."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        with socket.socket() as one, socket.socket() as other:
            ports = [each.bind(("127.0.0.1", 0)) or each.getsockname()[1] for each in (one, other)]
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(
            host=socket.gethostname().split(".")[0], user=os.getuid(), folder=self.folder, ports=ports,
            cpus=min(len(os.sched_getaffinity(0)), 4)))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        f = self.folder
        output_of("munged", f"--key-file={key}", f"--socket={f}/munge.socket", f"--pid-file={f}/munge.pid",
                  f"--log-file={f}/munge.log", f"--seed-file={f}/munge.seed")
        output_of("slurmctld")
        output_of("slurmd")
        wait_until(lambda: "idle" in subprocess.run(["sinfo", "-h", "-o", "%T"], stdout=subprocess.PIPE,
                                                    stderr=subprocess.DEVNULL, text=True).stdout, "the node is idle")
        return self

    def __exit__(self, *_):
        subprocess.run(["scancel", "--quiet", *jobs()], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while jobs() and time.monotonic() < deadline:
            time.sleep(0.2)
        for name in ("slurmd", "slurmctld", "munge"):
            pid_file = self.folder / f"{name}.pid"
            if not pid_file.exists():
                continue
            pid = int(pid_file.read_text())
            os.kill(pid, signal.SIGTERM)
            while pathlib.Path(f"/proc/{pid}").exists() and time.monotonic() < deadline + 20:
                time.sleep(0.05)


def jobs():
    """Id, "4711_2" of an array's task, and state of those that have not ended."""
    for _ in range(20):  # a controller that is busy does not answer
        done = subprocess.run(["squeue", "-h", "-r", "-o", "%i %T"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              text=True)
        if done.returncode == 0:
            return dict(line.split() for line in done.stdout.splitlines())
        time.sleep(0.2)
    fail("squeue does not answer")


def is_half_way(shard):
    """Something is complete in its partial file, and not nearly all."""
    expect(not shard.exists(), f"{shard.name} is half-way before its run ends")
    shown = subprocess.run([PROGRAM, "inspect", "--json", f"{shard}.partial"], stdout=subprocess.PIPE,
                           stderr=subprocess.DEVNULL, text=True)
    if shown.returncode != 0:
        return False
    report = json.loads(shown.stdout)
    return 0 < report["complete_bytes"] < report["capture_bytes"] * 0.7


def programs_that_write(shard):
    """Their ids. The node is this machine."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.path.samefile(folder / "exe", PROGRAM) and os.fsencode(shard) in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended, or is the kernel's
            pass
    return found


def start_again(task):
    """Slurm lets a requeued job wait for two minutes; this does not. It takes its node two seconds to forget that the job
    was killed there."""

    def is_started():
        time.sleep(2)
        if jobs().get(task) == "PENDING":
            subprocess.run(["scontrol", "update", f"JobId={task}", "StartTime=now"], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
        return "try 2" in log_of(task)

    wait_until(is_started, f"{task} is started again")


def log_of(task):
    path = WORK / f"layerprobe-extract-all-array-{task.replace('_', '-')}.log"
    return path.read_text() if path.exists() else ""


def write_prompts(path):
    """Those of shards 1 and 2 are long enough for their runs to be stopped half-way."""
    numbers = random.Random(1)
    lengths = [length for length in (5, 640, 640, 7) for _ in range(PROMPTS)]
    path.write_text(json.dumps([[numbers.randrange(97) for _ in range(length)] for length in lengths]))


def has_check():
    return "\n  check " in output_of(PROGRAM, "--help")


def try_array():
    for_sbatch = ["--gres=none", "--cpus-per-task=1", "--mem=200M"]
    submitted = output_of(SCRIPTS / "submit_shards", SHARDS, *for_sbatch, "--", "--input-ids", WORK / "ids.json", *RUN)
    array = submitted.split()[2].rstrip(",")
    output = WORK / f"extract-all-{array}.h5"
    expect(submitted.rstrip().endswith(f"the output will be {output}"), submitted)
    shards = [WORK / f"extract-all-{array}-shard-{i}-of-{SHARDS}.h5" for i in range(SHARDS)]

    preempted, out_of_time = f"{array}_1", f"{array}_2"
    stops = {preempted: ["scontrol", "requeue", preempted],
             out_of_time: ["scancel", "--signal=USR1", "--batch", out_of_time]}  # as --signal does before the time limit
    held = {}

    def hold_who_is_half_way():
        """For a busy controller takes seconds to pass a signal on, longer than a shard takes."""
        for task in stops.keys() - held.keys():
            shard = shards[int(task[-1])]
            if is_half_way(shard):
                held[task] = programs_that_write(shard)
                for pid in held[task]:
                    os.kill(pid, signal.SIGSTOP)
        return len(held) == len(stops)

    wait_until(hold_who_is_half_way, "shards 1 and 2 are half-way")
    for task, command in stops.items():
        expect(held[task], f"a program writes what {task} has half of")
        output_of(*command)
        for pid in held[task]:
            os.kill(pid, signal.SIGCONT)
    for task in stops:
        wait_until(lambda: jobs().get(task) == "PENDING", f"{task} waits to be started again")
        expect(pathlib.Path(f"{shards[int(task[-1])]}.partial").exists(), "what it had is kept")
        start_again(task)
    wait_until(lambda: not jobs(), "all jobs have ended")

    for i, shard in enumerate(shards):
        log = log_of(f"{array}_{i}")
        expect(log, f"task {i} has a log")
        expect(f"output: {shard} (until it is finished: {shard}.partial)" in log, log)
        expect(log.rstrip().endswith(f"finished: {shard}"), log)
        expect((" were complete before" in log) == (i in (1, 2)), f"what was complete is not done again\n{log}")
        expect(("check" in log) == (os.environ["CHECK_LEVEL"] != "0"), log)
    expect(f"stopped; started again it goes on from {shards[1]}.partial" in log_of(preempted), log_of(preempted))
    expect(f"the time is nearly up; requeued, to go on from {shards[2]}.partial" in log_of(out_of_time),
           log_of(out_of_time))
    return output, shards


def check_same_as_one_run(output):
    one = WORK / "one.h5"
    arguments = ["--model", MODEL, "--input-ids", WORK / "ids.json", *RUN]
    output_of(PROGRAM, "run", *arguments, "--output", one, "--quiet")
    output_of(PROGRAM, "compare", "--exact", one, output)
    expect("is finished and matches" in output_of(PROGRAM, "run", *arguments, "--output", output, "--resume"),
           "the undivided run takes the merged file for its own")
    statistics = [json.loads(output_of(PROGRAM, "inspect", "--json", path))["points"] for path in (one, output)]
    expect(statistics[0] == statistics[1], "statistics are the same")
    python = os.environ.get("LAYERPROBE_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import h5py"], stderr=subprocess.DEVNULL).returncode == 0:
        print(output_of(python, "-c", SAME_BITS, one, output).rstrip())
    else:
        print(f"no h5py for {python}: the datasets were compared by layerprobe alone")


def try_refusals():
    """Without Slurm: what run_job does not take."""
    def refused(message, *arguments, **environment):
        done = subprocess.run([SCRIPTS / "run_job", "extract-all", *arguments], stdout=subprocess.PIPE, text=True,
                              env=os.environ | {"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(WORK)} | environment)
        expect(done.returncode == 2 and message in done.stdout, f"{message}: {done.returncode}, {done.stdout}")

    refused("error: MODEL_PATH is not set", MODEL_PATH="")
    refused("error: --output is not taken here", "--output", "x.h5")
    refused("error: the array's tasks are not 0 to 0", SLURM_ARRAY_TASK_ID="2", SLURM_ARRAY_TASK_COUNT="1",
            SLURM_ARRAY_TASK_MIN="2", SLURM_ARRAY_TASK_MAX="2")


def try_long_answers():
    """Without Slurm: where a job's id is its array's too, scontrol tells of every task, more than a pipe may hold."""
    programs = WORK / "programs"
    programs.mkdir()
    for script in SCRIPTS.glob("*.sbatch"):
        (programs / "scontrol").write_text(f"#!/bin/sh\nyes '   Command={script} x.h5' | head -n 20000\n")
        (programs / "scontrol").chmod(0o755)
        done = subprocess.run(["bash", script, "x.h5", "no-shard.h5"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, env=os.environ | {"SLURM_JOB_ID": "1", "MODEL_PATH": "",
                                                           "PATH": f"{programs}:{os.environ['PATH']}"})
        came_to = "no-shard.h5" if script.stem == "merge" else "MODEL_PATH is not set"
        expect(done.returncode == 2 and came_to in done.stdout, f"{script.name}: {done.returncode}, {done.stdout}")


def try_single():
    """A script that is called from another folder finds the program beside it; the time limit's signal comes first."""
    elsewhere = WORK / "else where"
    elsewhere.mkdir()
    output_of("sbatch", "--gres=none", "--cpus-per-task=1", "--mem=200M", SCRIPTS / "single.sbatch", "--layers",
              "0,-1", cwd=elsewhere, env=os.environ | {"NAME": "layers"})
    wait_until(lambda: not jobs(), "the job has ended")
    log = next(elsewhere.glob("layerprobe-single-*.log")).read_text()
    expect(log.rstrip().endswith(f"finished: {elsewhere}/layers.h5"), log)
    expect((elsewhere / "layers.h5").exists(), log)


scripts = sorted(path for path in SCRIPTS.iterdir())
if shutil.which("shellcheck"):
    output_of("shellcheck", *scripts)
elif "slurm" in os.environ.get("LAYERPROBE_REQUIRE", ""):
    fail("there is no shellcheck")
if os.getuid() != 0:
    expect("slurm" not in os.environ.get("LAYERPROBE_REQUIRE", ""), "not root, whom Slurm's daemons want")
    print("not root: scripts/slurm was not tried")
    sys.exit(0)
missing = [program for program in NEEDED if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")]
if missing:
    expect("slurm" not in os.environ.get("LAYERPROBE_REQUIRE", ""), f"there is no {', '.join(missing)}")
    print(f"no {', '.join(missing)}: scripts/slurm was not tried (apt-get install slurm-wlm munge)")
    sys.exit(0)
os.environ["PATH"] += ":/usr/sbin:/sbin"
with tempfile.TemporaryDirectory(prefix="slurm") as work:
    WORK = pathlib.Path(work).resolve()
    WORK.chmod(0o711)  # munged wants everybody to reach its socket
    os.chdir(WORK)
    (WORK / "cluster").mkdir()
    write_prompts(WORK / "ids.json")
    os.environ |= {"MODEL_PATH": str(MODEL), "LAYERPROBE": str(PROGRAM), "DEVICE_MAP": "cpu", "OMP_WAIT_POLICY": "passive",
                   "CHECK_LEVEL": "1" if has_check() else "0"}
    try_refusals()
    try_long_answers()
    start = time.monotonic()
    with Slurm(WORK / "cluster"):
        print(f"Slurm is up after {time.monotonic() - start:.1f} s")
        merged, _ = try_array()
        print(f"an array of {SHARDS} with two tasks requeued, merged: {time.monotonic() - start:.1f} s")
        try_single()
        check_same_as_one_run(merged)
    print(f"done after {time.monotonic() - start:.1f} s")
