"""Random 4 KiB and sequential 1 MiB over NBD: from the page cache, with direct I/O, on tmpfs."""
import contextlib
import json
import os

from side_by_side.measure import OURS, Case, rounds

MiB, GiB = 1 << 20, 1 << 30
QSD, NBDKIT, FIO = "qemu-storage-daemon", "nbdkit file", "fio io_uring"
BARE = "bare pair"          # the least that a server behind a socket has to do: what is left of fio's rate then


def fill(path, size, block=None):
    """A file of random bytes, or of `block`, that is all allocated, written out and in the page cache."""
    if path.exists() and path.stat().st_size == size:
        return
    block = block or os.urandom(MiB)
    with open(path, "wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def settle(path):
    """What was left to be written is written now, and does not slow the next measurement."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def warm(path):
    """All of it in the page cache, in pages of their own, as random requests leave it: direct writes of the case before have put some out
    of there, which whoever is measured first would read, and in folios of what was read ahead each write costs the kernel 30 µs."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
    while os.read(fd, MiB):
        pass
    os.close(fd)


class NbdCases:
    def __init__(self, bench):
        self.bench, self.lab, self.peers = bench, bench.lab, bench.peers

    def run_random(self):
        for depth in (1, 32):
            for mode in ("randread", "randwrite"):
                for place in ("cache", "direct", "shm"):
                    case = Case(f"4 KiB {mode} depth {depth}, {place}", "/s").against(QSD, 1.5)
                    contenders = [OURS, QSD]
                    if place != "direct":
                        contenders.append(NBDKIT)
                    if place == "cache" and depth == 32:
                        case.against(NBDKIT, 0.8)
                    if place == "direct" and depth == 32:
                        contenders.append(FIO)
                        case.against(FIO, 0.95)
                        if mode == "randwrite":
                            contenders.append(BARE)
                    self.raw(case, contenders, place, mode, 4096, depth)

    def run_sequential(self):
        for mode in ("read", "write"):
            for place in ("cache", "shm"):
                case = Case(f"1 MiB {mode}, {place}", "MiB/s").against(QSD, 1.7).against(NBDKIT, 0.8)
                self.raw(case, [OURS, QSD, NBDKIT], place, mode, MiB, 8)

    def file(self, place):
        path = (self.bench.shm if place == "shm" else self.lab.path) / "disk.raw"
        fill(path, self.bench.file_size)
        if place == "cache":
            warm(path)
        return path

    def raw(self, case, contenders, place, mode, size, depth):
        path = self.file(place)
        with contextlib.ExitStack() as stack:
            servers = {name: stack.enter_context(self.peers.start(name, path, direct=place == "direct"))
                       for name in contenders if name not in (FIO, BARE)}

            def measure(name):
                if name == FIO:
                    case.add(name, self.fio(mode, depth, "--ioengine=io_uring", f"--filename={path}", "--direct=1"))
                elif name == BARE:
                    done = self.lab.run(self.peers.bare_pair, path, depth, self.bench.seconds)
                    case.add(name, json.loads(done.stdout)["per-second"])
                else:
                    self.load(case, servers[name], mode, size, depth)
                settle(path)

            rounds(self.bench.rounds, contenders, measure)
        self.bench.report(case)

    def load(self, case, server, mode, size, depth, contender=None):
        before = server.processor_seconds()
        done = json.loads(self.lab.run(self.peers.load, server.socket, "disk", mode, size, depth, self.bench.seconds).stdout)
        processor = (server.processor_seconds() - before) * 1e6 / done["operations"]
        case.add(contender or server.name, done["per-second"] * (size / MiB if size == MiB else 1), processor)

    def fio(self, mode, depth, *words):
        """Requests a second by fio, with one of its engines."""
        done = self.lab.run("fio", "--name=load", *words, f"--rw={mode}", "--bs=4k", f"--iodepth={depth}", "--time_based",
                            f"--runtime={self.bench.seconds}s", "--ramp_time=200ms", "--randrepeat=0", "--norandommap",
                            "--output-format=json")
        job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]
        return job["write" if "write" in mode else "read"]["iops"]

    def run_fio(self):
        """Depth 32 as fio's nbd engine sees it; what that costs itself is in the number."""
        path = self.file("cache")
        for mode in ("randread", "randwrite"):
            case = Case(f"4 KiB {mode} depth 32, cache", "/s").against(QSD, 1.5).against(NBDKIT, 0.8)
            with contextlib.ExitStack() as stack:
                servers = {name: stack.enter_context(self.peers.start(name, path)) for name in (OURS, QSD, NBDKIT)}

                def measure(name):
                    case.add(name, self.fio(mode, 32, "--ioengine=nbd", f"--uri={servers[name].uri()}"))
                    settle(path)

                rounds(self.bench.rounds, servers, measure)
            self.bench.report(case)
