"""`tidemark image` against qemu-img: conversions (compressed ones of an eighth as much), until the target is durable,
and the check of a large image."""
import json
import time

from side_by_side import strewn_image
from side_by_side.backup_cases import TiB, touch_memory
from side_by_side.measure import OURS, Case, rounds
from side_by_side.nbd_cases import MiB, fill, settle
from side_by_side.prose import prose

LEAST = 1.3
QEMU_IMG = "qemu-img"


class ImageCases:
    def __init__(self, bench):
        self.bench, self.lab, self.tidemark = bench, bench.lab, bench.peers.tidemark

    def run_convert(self):
        raw, qcow2 = self.lab.path / "disk.raw", self.lab.path / "disk.qcow2"
        fill(raw, self.bench.file_size)
        self.make(raw, qcow2)
        self.convert("raw to qcow2", raw, "qcow2")
        self.convert("qcow2 to raw", qcow2, "raw")
        self.convert("qcow2 to qcow2", qcow2, "qcow2")

    def run_compress(self):
        raw = prose(self.lab.path / "prose.raw", self.bench.file_size // 8)
        qcow2 = self.lab.path / "prose.qcow2"
        self.make(raw, qcow2)
        for type in ("zlib", "zstd"):
            words = "-c", "-o", f"compression_type={type}"
            compressed = self.lab.path / f"{type}.qcow2"
            self.make(raw, compressed, *words)
            self.convert(f"qcow2 to qcow2 -c, {type}", qcow2, "qcow2", *words)
            self.convert(f"qcow2 of {type} clusters to raw", compressed, "raw")

    def make(self, source, target, *words):
        self.lab.run(QEMU_IMG, "convert", "-W", "-f", "raw", "-O", "qcow2", *words, source, target)
        settle(target)

    def convert(self, name, source, format, *words):
        for place in ("cache", "direct"):
            case = Case(f"convert {name}, {place}", "s", time=True).against(QEMU_IMG, LEAST)
            target = self.lab.path / f"target.{format}"
            programs = {OURS: (self.tidemark, "image", "convert", *(["--direct"] if place == "direct" else [])),
                        QEMU_IMG: (QEMU_IMG, "convert", *(["-T", "none", "-t", "none"] if place == "direct" else []))}

            def measure(contender):
                touch_memory(target, self.bench.file_size)
                begin = time.monotonic()
                self.lab.run(*programs[contender], "-f", source.suffix[1:], "-O", format, *words, source, target)
                settle(target)
                case.add(contender, time.monotonic() - begin)

            rounds(self.bench.rounds, programs, measure)
            target.unlink()
            self.bench.report(case)

    def run_check(self):
        size = TiB // 16 if self.bench.quick else TiB
        image = self.lab.path / "huge.qcow2"
        strewn_image.write(image, size, 0.1)
        settle(image)
        direct = "json:" + json.dumps({"driver": "file", "filename": str(image), "cache": {"direct": True}})
        for place, ours, theirs in (("cache", image, ()), ("direct", direct, ("-T", "none"))):
            label = f"check of {size // strewn_image.CLUSTER >> 20}Mi clusters, a tenth allocated, {place}"
            seconds, memory = Case(label, "s", time=True).against(QEMU_IMG, LEAST), Case(label, "peak MiB", time=True)
            programs = {OURS: (self.tidemark, "image", "check", "-f", "qcow2", ours),
                        QEMU_IMG: (QEMU_IMG, "check", "-f", "qcow2", *theirs, image)}

            def measure(contender):
                took, peak = self.peak(*programs[contender])
                seconds.add(contender, took)
                memory.add(contender, peak / MiB)

            rounds(self.bench.rounds, programs, measure)
            self.bench.report(seconds)
            self.bench.report(memory)
        image.unlink()

    def peak(self, *words):
        """Seconds, and the most memory that was seen, by looking every millisecond."""
        begin, peak = time.monotonic(), 0
        with open(self.lab.path / "words", "w") as output:
            process = self.lab.start(*words, stdout=output)
        while process.poll() is None:
            peak = max(peak, resident_peak(process.pid))
            time.sleep(0.001)
        took = time.monotonic() - begin
        if self.lab.ended(process) != 0:
            raise RuntimeError(f"{words[0]} check: {(self.lab.path / 'words').read_text()}")
        return took, peak


def resident_peak(process):
    try:
        with open(f"/proc/{process}/status") as status:
            return next((int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM")), 0)
    except OSError:
        return 0
