"""qcow2 images over NBD: 4 KiB at random, from the page cache and with direct I/O."""
import random

from side_by_side.measure import OURS, Case, rounds
from side_by_side.nbd_cases import QSD, NbdCases, settle
from side_by_side.prose import prose

LEAST = 1.3
SINGLE = "tidemark, one image"                # with what the chain reads as
LAYERS, CLUSTER = 100, 65536


class Qcow2Cases:
    def __init__(self, bench):
        self.bench, self.lab, self.peers, self.nbd = bench, bench.lab, bench.peers, NbdCases(bench)

    def run_read(self):
        self.compare("read of allocated clusters", "randread", self.allocated)

    def run_overwrite(self):
        self.compare("overwrite of allocated clusters", "randwrite", self.allocated)

    def run_allocate(self):
        self.compare("allocating write", "randwrite", lambda: self.empty("64G"))

    def run_subclusters(self):
        self.compare("write to subclusters", "randwrite", lambda: self.empty("64G", "extended_l2=on,cluster_size=128k"))

    def run_compressed(self):
        for type in ("zlib", "zstd"):
            self.compare(f"read of {type} clusters", "randread", lambda: self.compressed(type))

    def run_chain(self):
        chain, single = self.chain()
        self.compare(f"read of {LAYERS} layers", "randread", lambda: chain, {SINGLE: (single, 0.7)})

    def compare(self, name, mode, prepare, others={}):
        """`others`: what else tidemarkd is measured with, an image and the least ratio to it."""
        for place in ("cache", "direct"):
            for depth in (1, 32):
                case = Case(f"4 KiB random {name}, depth {depth}, {place}", "/s").against(QSD, LEAST)
                for other, (_, least) in others.items():
                    case.against(other, least)

                def measure(contender):
                    path = others[contender][0] if contender in others else prepare()
                    program = OURS if contender in others else contender
                    with self.peers.start(program, path, driver="qcow2", direct=place == "direct") as server:
                        self.nbd.load(case, server, mode, 4096, depth, contender)
                    settle(path)

                rounds(self.bench.rounds, [OURS, QSD, *others], measure)
                self.bench.report(case)

    def allocated(self):
        path = self.lab.path / "allocated.qcow2"
        if not path.exists():
            self.lab.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.nbd.file("cache"), path)
            settle(path)
        return path

    def empty(self, size, options="cluster_size=64k"):
        path = self.lab.path / "empty.qcow2"
        path.unlink(missing_ok=True)
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, size)
        return path

    def compressed(self, type):
        path = self.lab.path / f"{type}.qcow2"
        if not path.exists():
            source = prose(self.lab.path / "prose.raw", self.bench.file_size // 4)
            self.lab.run("qemu-img", "convert", "-c", "-W", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={type}", source, path)
            settle(path)
        return path

    def chain(self):
        """Each layer has as many of the clusters as every other, strewn; all together have all."""
        size = self.bench.file_size // 4
        clusters = list(range(size // CLUSTER))
        random.Random(1).shuffle(clusters)
        for layer in range(LAYERS):
            path = self.lab.path / f"layer-{layer}.qcow2"
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", path, size)
            writes = [word for i in clusters[layer::LAYERS] for word in ("-c", f"write -q -P {layer + 1} {i * CLUSTER} {CLUSTER}")]
            self.lab.run("qemu-io", "-f", "qcow2", *writes, path)
            if layer:                         # only now: nobody opens the whole chain for each layer
                self.lab.run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", f"layer-{layer - 1}.qcow2", path)
        single = self.lab.path / "single.qcow2"
        self.lab.run("qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", path, single)
        settle(single)
        return path, single
