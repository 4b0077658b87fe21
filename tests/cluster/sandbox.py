"""A real Slurm of virtual nodes on this machine: munged, slurmctld and a slurmd a node, on free ports, in one folder.

The daemons are children of this process, in the foreground, and end with it, however it ends; what they have started is
then ended by a process that waits for this. What Slurm reads is slurm.conf in the folder alone, so a Slurm that the
machine has, or another of these, is not touched.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "setpriv")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
UP_SECONDS = 300
CONF = """\
ClusterName=sandbox
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool.%n
StateSaveLocation={folder}/state
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
TmpFS={folder}/tmp.%n
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdTimeout=120
KillWait=20
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
{nodes}
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=OFF
"""
NODE = "NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=1000 Gres=gpu:{gpus}"
GPUS = 4  # of each node: no real ones, but Slurm hands them out
MUNGE = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def missing() -> str:
    """Why no cluster can be started here; nothing where one can."""
    if os.geteuid() != 0:
        return "a Slurm of virtual nodes wants root"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    return f"no {', '.join(absent)} here: `make cluster-tools` installs them" if absent else ""


@dataclass
class Sandbox:
    """A cluster that is up."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which Slurm's commands find this cluster, and nothing of a Slurm job or a checkout around us."""
        others = ("SLURM_", "SBATCH_", "GNNSOUP_")
        plain = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        return plain | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def command(self, *words: object, cwd: Path | None = None, **variables: str) -> str:
        """Output of one of Slurm's commands, which must succeed."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, name: str, *words: str) -> None:
        """A daemon in the foreground that is killed when this process ends, its output in a file."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                env=self.environment | {"PATH": PATH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_node(self, name: str) -> None:
        """A node's slurmd."""
        self.start(name, "slurmd", "-D", "-N", name)

    def lose_node(self, name: str) -> None:
        """What a power cut does: the node's slurmd and all that it started are killed at once, and Slurm finds it down.

        It is told so, or a busy machine's slurmd, which is late to answer, would be found down too.
        """
        slurmd = self.daemons.pop(name)
        steps = _holders_of_sockets(f"{self.folder}/spool.{name}/")
        for pid in [slurmd.pid, *steps, *(below for step in steps for below in descendants(step))]:
            _kill(pid)
        slurmd.wait()
        self.command("scontrol", "update", f"nodename={name}", "state=down", "reason=lost")

    def down(self) -> None:
        """End all jobs, the daemons, and whatever jobs have left."""
        if "slurmctld" in self.daemons:
            with suppress(AssertionError, subprocess.TimeoutExpired):
                self.command("scancel", "--user=root", "--signal=KILL", "--full")
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for pid in self.leftovers():
            _kill(pid)

    def leftovers(self) -> list[int]:
        """Processes that belong to this cluster, but for this one."""
        mark, steps = f"SLURM_CONF={self.folder}/slurm.conf".encode(), _holders_of_sockets(f"{self.folder}/")
        ours = [pid for pid in _processes() if pid != os.getpid() and mark in _read(pid, "environ").split(b"\0")]
        return sorted({*steps, *ours})


@contextmanager
def up(folder: Path, nodes: int = 2, cpus: int = 8) -> Iterator[Sandbox]:
    """A cluster in `folder`, whose path must be short, as a socket's name must; it is down after the block."""
    (folder / "state").mkdir(parents=True)
    names = [f"n{i + 1}" for i in range(nodes)]
    for name in names:
        (folder / f"tmp.{name}").mkdir()
    host, ports = socket.gethostname().split(".")[0], free_ports(nodes + 1)
    lines = [NODE.format(i=i, host=host, port=port, cpus=cpus, gpus=GPUS) for i, port in enumerate(ports) if i]
    conf = CONF.format(host=host, folder=folder, ports=ports, nodes="\n".join(lines))
    (folder / "slurm.conf").write_text(conf, encoding="utf-8")
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n", encoding="utf-8")
    for number in range(GPUS):
        os.mknod(folder / f"gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))  # Slurm wants a device: /dev/null's
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    sandbox = Sandbox(folder)
    words = [sys.executable, __file__, str(folder)]
    sweeper = subprocess.Popen(words, stdin=subprocess.PIPE, start_new_session=True)  # our end closes when we end
    try:
        files = [f"--{option}={folder}/munge.{ending}" for option, ending in MUNGE.items()]
        sandbox.start("munged", "munged", "--foreground", "--force", *files)
        _wait(sandbox, "munged", (folder / "munge.socket").exists)
        sandbox.start("slurmctld", "slurmctld", "-D")
        for name in names:
            sandbox.start_node(name)
        _wait(sandbox, "the nodes", lambda: all_idle(sandbox, nodes))
        yield sandbox
    finally:
        sandbox.down()
        sweeper.communicate()


def all_idle(sandbox: Sandbox, nodes: int) -> bool:
    """Whether as many nodes wait for jobs."""
    with suppress(AssertionError):
        return sandbox.command("sinfo", "-h", "-p", "batch", "-N", "-o", "%t").split() == ["idle"] * nodes
    return False


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on, below those that the kernel deals out to outgoing connections."""
    found = []
    with ExitStack() as held:
        while len(found) < number:
            port = 20000 + secrets.randbelow(12000)
            probe = held.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found


def _wait(sandbox: Sandbox, what: str, until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + UP_SECONDS
    while not until():
        dead = [name for name, daemon in sandbox.daemons.items() if daemon.poll() is not None]
        if dead or time.monotonic() > deadline:
            logs = "".join(f"--- {log}\n{log.read_text()[-2000:]}" for log in sorted(sandbox.folder.glob("*.log")))
            raise AssertionError(f"{what} did not come up; ended: {dead}\n{logs}")
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    children = [int(word) for word in _read(pid, f"task/{pid}/children").split()]
    return [process for child in children for process in (child, *descendants(child))]


def _holders_of_sockets(prefix: str) -> list[int]:
    """Processes that hold a socket whose name begins so; slurmstepd has one in its node's spool."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    inodes = {f"socket:[{words[6]}]" for words in lines if len(words) > 7 and words[7].startswith(prefix)}
    return [pid for pid in _processes() if pid != os.getpid() and inodes & _open(pid)]


def _open(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(str(each.readlink()))
    return found


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.stdin.read()
    for left in Sandbox(Path(sys.argv[1])).leftovers():
        _kill(left)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
