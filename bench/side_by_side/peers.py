"""The servers that are compared, each with one export named `disk` on a unix socket of its own."""
import json
import os

from lab import processes
from lab.qmp import Qmp

TICK = os.sysconf("SC_CLK_TCK")


def daemon_options(node, nbd_socket, monitor):
    """What tidemarkd and qemu-storage-daemon take alike."""
    return ("--chardev", f"socket,id=qmp,path={monitor},server=on,wait=off", "--monitor", "chardev=qmp",
            "--blockdev", json.dumps(node), "--nbd-server", f"addr.type=unix,addr.path={nbd_socket}",
            "--export", "type=nbd,id=disk,node-name=disk,name=disk,writable=on")


class Server:
    """A contender that runs, until its `with` block is left."""

    def __init__(self, lab, name, words, monitor=False):
        self.lab, self.name = lab, name
        tag = name.replace(" ", "-")
        self.socket, self.monitor, log = (lab.path / f"{tag}.{suffix}" for suffix in ("nbd", "qmp", "log"))
        with open(log, "w") as output:
            self.process = lab.start(*words(self.socket, self.monitor), stdout=output, stderr=output)
        try:
            for path in (self.socket, self.monitor)[:2 if monitor else 1]:
                processes.wait_for_socket(path, self.process)
        except processes.Failure as failure:
            raise processes.Failure(f"{name}: {failure}\n{log.read_text()}".rstrip()) from None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.lab.stop(self.process)
        for path in (self.socket, self.monitor):
            path.unlink(missing_ok=True)

    def qmp(self):
        return Qmp(self.monitor, timeout=300)

    def uri(self):
        return f"nbd+unix:///disk?socket={self.socket}"

    def peak_memory(self):
        """Bytes: the most that the process has held so far."""
        return self.memory("VmHWM")

    def memory(self, which="VmRSS"):
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith(which))

    def processor_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


class Peers:
    def __init__(self, lab, build):
        self.lab = lab
        self.tidemark, self.tidemarkd = processes.programs(build)
        self.load = self.tidemark.parent / "nbd_load"
        self.bare_pair = self.tidemark.parent / "bare_pair"
        for program in (self.load, self.bare_pair):
            if not program.exists():
                raise processes.Failure(f"'{program}' is not built; run make bench")

    def start(self, name, path, driver="raw", direct=False):
        if name == "nbdkit file":
            return Server(self.lab, name, lambda nbd, _: ("nbdkit", "-f", "-U", nbd, "-e", "disk", "file", f"file={path}"))
        # Contenders serve one file in turns, so none may lock the others out.
        file = {"driver": "file", "filename": str(path), "locking": "off", "cache": {"direct": direct}}
        program = self.tidemarkd
        if name == "qemu-storage-daemon":
            program = name
            file["aio"] = "io_uring"
        # Of the node, too: files below it that nobody described do as it does.
        node = {"driver": driver, "node-name": "disk", "cache": {"direct": direct}, "file": file}
        return Server(self.lab, name, lambda nbd, qmp: (program, *daemon_options(node, nbd, qmp)), monitor=True)

    def start_chain(self, name, files):
        """Images on one another, {node: path}, the lowest first; the last is exported, and called `disk`."""
        program, file = (name, {"aio": "io_uring"}) if name == "qemu-storage-daemon" else (self.tidemarkd, {})
        chain, below = [], {}
        for node, path in files.items():
            storage = {"driver": "file", "filename": str(path), "cache": {"direct": True}, **file}
            chain.append({"driver": "qcow2", "node-name": node, "cache": {"direct": True}, "file": storage, **below})
            below = {"backing": node}
        lower = [word for node in chain[:-1] for word in ("--blockdev", json.dumps(node))]
        return Server(self.lab, name, lambda nbd, qmp: (program, *lower, *daemon_options(chain[-1], nbd, qmp)), monitor=True)
