"""A SLURM cluster of two nodes on this machine, in a folder of its own.

Real daemons (munged, slurmctld, two slurmd) with a configuration of their own, on free ports, run
by whoever runs this. A cluster this machine may belong to is never touched: only programs started
with `FakeCluster.environment` see this one. As a script, for trying things by hand:

python tests/slurm/fake_cluster.py FOLDER     # prints what to export, runs until Ctrl-C
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

PROGRAMS = (
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "srun",
    "squeue",
    "scancel",
    "scontrol",
    "sinfo",
)
NODES = ("n1", "n2")
# SLURM wants a character device a GPU, and is content with any: nothing is ever read from it.
FAKE_GPUS = ("/dev/zero", "/dev/full")
START_SECONDS = 240
REMEDY = "on Debian or Ubuntu: apt-get install slurm-wlm munge"

CONFIGURATION = """\
ClusterName=fake
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until the credentials of its first start have expired.
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
# Nothing of this machine is asked of the kernel: no cgroups, no accounting, no mail.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
# Jobs start when they can, a requeued one too, not when the next round of a minute is due.
SchedulerParameters=batch_sched_delay=0,sched_interval=2
# squeue must still know ended jobs when Snakemake asks.
MinJobAge=3600
KillWait={kill_wait}
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=DEFAULT CPUs=2 RealMemory=8000 Gres=gpu:2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first_port}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second_port}
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=600 PriorityTier=10 PreemptMode=off
PartitionName=low Nodes=n[1-2] MaxTime=600 PriorityTier=1 PreemptMode=requeue
"""


def missing_programs() -> list[str]:
    """What has to be installed first; Debian keeps daemons where users do not look."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


class FakeCluster:
    """The daemons, and how to talk to them."""

    def __init__(self, folder: Path, kill_wait: int = 120) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))},
            "PATH": f"{folder}/bin{os.pathsep}{_path()}",
            "SLURM_CONF": str(folder / "slurm.conf"),
        }
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._kill_wait = kill_wait

    def start(self) -> None:
        """Write the configuration, start the daemons, wait until both nodes are idle."""
        ports = _free_ports(1 + len(NODES))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=socket.gethostname().split(".")[0],
                user=psutil.Process().username(),
                folder=self.folder,
                controller_port=ports[0],
                first_port=ports[1],
                second_port=ports[2],
                kill_wait=self._kill_wait,
            )
        )
        (self.folder / "gres.conf").write_text(
            "".join(f"NodeName=n[1-2] Name=gpu File={device}\n" for device in FAKE_GPUS)
        )
        self._wrap_srun()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        self._start_munge(key)
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        self._wait_until_idle()

    def stop(self) -> None:
        """End the daemons and whatever still runs below them; never raises for what is gone."""
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            self.run("scancel", "--signal=KILL", "--full", "--state=RUNNING", seconds=30)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        left = self.processes()
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=60)

    def processes(self) -> list[psutil.Process]:
        """All that runs with this cluster's configuration: daemons, steps, jobs."""
        return [process for process in psutil.process_iter() if self._is_mine(process)]

    def run(self, *command: str, seconds: float = 120) -> str:
        """Standard output of a SLURM command."""
        return subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds,
            cwd=self.folder,
        ).stdout.strip()

    def submit(self, *arguments: str) -> str:
        """Submit a job; its number."""
        return self.run("sbatch", "--parsable", *arguments).split(";")[0]

    def states(self) -> dict[str, str]:
        """Number -> state of every job this cluster has seen."""
        lines = self.run("squeue", "--noheader", "--states=all", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def told(self) -> str:
        """The ends of the daemons' logs, for a failure's message."""
        ends = [
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:])
            for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        ]
        return "\n".join(ends)

    def _is_mine(self, process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]:
                return True
        # slurmstepd wipes its environment, and stays where slurmd was started.
        with contextlib.suppress(psutil.Error):
            return process.name() == "slurmstepd" and process.cwd() == str(self.folder)
        return False

    def _wrap_srun(self) -> None:
        """Snakemake's plugin takes SLURM_CONF from the environment of the srun it calls."""
        wrapper = self.folder / "bin" / "srun"
        wrapper.parent.mkdir()
        real = shutil.which("srun", path=_path())
        conf = self.environment["SLURM_CONF"]
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF="{conf}" exec "{real}" "$@"\n')
        wrapper.chmod(0o755)

    def _start(self, *command: str) -> None:
        with (self.folder / f"{command[0]}-{len(self._daemons)}.out").open("wb") as output:
            self._daemons.append(
                subprocess.Popen(
                    command,
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    cwd=self.folder,
                )
            )

    def _start_munge(self, key: Path) -> None:
        # --force: a folder of /tmp is not the home it demands for a system's own daemon.
        self._start(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munged.pid",
            f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munge.seed",
        )
        self._await("munge's socket", lambda: (self.folder / "munge.socket").exists())

    def _wait_until_idle(self) -> None:
        def idle() -> bool:
            try:
                lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T", seconds=30)
            except subprocess.SubprocessError:
                return False
            return set(lines.splitlines()) == {f"{node} idle" for node in NODES}

        self._await("two idle nodes", idle)

    def _await(self, what: str, is_there) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not is_there():
            for daemon in self._daemons:
                if daemon.poll() is not None:
                    raise RuntimeError(
                        f"{daemon.args} ended with {daemon.returncode}\n{self.told()}"
                    )
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {what} within {START_SECONDS} s\n{self.told()}")
            time.sleep(0.2)


@contextlib.contextmanager
def running_cluster(folder: Path) -> Iterator[FakeCluster]:
    """A cluster for the length of a block; ended whatever happens in it or on its way up."""
    cluster = FakeCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", "/sbin"])


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


if __name__ == "__main__":
    if missing_programs():
        sys.exit(f"missing: {', '.join(missing_programs())}; {REMEDY}")
    for number in (signal.SIGINT, signal.SIGTERM):  # in a shell's background Ctrl-C is ignored
        signal.signal(number, signal.default_int_handler)
    with running_cluster(Path(sys.argv[1]).resolve()) as fake:
        print(f"export SLURM_CONF={fake.environment['SLURM_CONF']}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
