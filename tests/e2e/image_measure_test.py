"""tidemark image measure: for every combination of options, of images and of sizes, qemu-img measure's figures and refusals."""
import itertools
import json
import unittest

from bed import FAILED
from image_bed import ImageBed

CLUSTERS = ("", "cluster_size=512", "cluster_size=4k", "cluster_size=16k", "cluster_size=2M")
TABLES = ("", "extended_l2=on", "refcount_bits=1", "refcount_bits=64", "compat=0.10", "extended_l2=on,refcount_bits=8",
          "compat=0.10,refcount_bits=8", "compat=0.10,extended_l2=on", "lazy_refcounts=on", "compression_type=zstd", "compat=0.10,lazy_refcounts=on")
PLACES = ("", "preallocation=metadata", "preallocation=falloc", "preallocation=full", "data_file=d.raw", "data_file=d.raw,data_file_raw=on",
          "data_file=d.raw,preallocation=full", "compat=0.10,data_file=d.raw")
SIZES = ("0", "1", "512", "65537", "1M", "512M", "1G", "10T")


def joined(*options):
    return ",".join(option for option in options if option)


class Measure(ImageBed):
    def theirs(self, *words):
        """Its figures, or None where it refuses."""
        done = self.qemu_img("measure", "--output=json", *words, ok=None)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def alike(self, format, options, *what):
        words = ["-O", format, *(["-o", options] if options else []), *what]
        expected = self.theirs(*words)
        with self.subTest(" ".join(words)):
            done = self.run_tidemark("--json", "image", "measure", *words, expect=FAILED if expected is None else 0)
            if expected is not None:
                self.assertEqual(json.loads(done.stdout), expected)

    def every_pair(self):
        """Each option with each of the other two kinds."""
        pairs = {joined(a, b) for one, other in itertools.combinations((CLUSTERS, TABLES, PLACES), 2) for a in one for b in other}
        return sorted(options for options in pairs if options.count("compat") < 2)

    def test_of_a_size(self):
        for n, options in enumerate(self.every_pair()):
            for size in (SIZES[n % len(SIZES)], SIZES[(n // 3 + 5) % len(SIZES)]):
                self.alike("qcow2", options, "--size", size)
        for options in ("", "preallocation=off", "preallocation=falloc", "preallocation=full"):
            self.alike("raw", options, "--size", "65537")

    def test_of_an_image(self):
        self.make("old.qcow2", "-o", "compat=0.10")
        self.make("tiny.qcow2", "-o", "cluster_size=512", size="1M", writes=0)
        # In whole clusters, or QEMU guesses by holes in the file that there is less than the tables say.
        self.make("sub.qcow2", "-o", "extended_l2=on", writes=0)
        self.make("base.qcow2", writes=0)
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "70M")
        for name, at in (("sub.qcow2", 3), ("base.qcow2", 5), ("top.qcow2", 7)):
            self.qemu_io(name, *(f"write -P {n + 1} {n * at * 64}k {64 + n % 3 * 128}k" for n in range(12)), f"write -z {at * 8}M 1M")
        self.qemu_img("bitmap", "--add", "-g", "4k", "sub.qcow2", "b0")
        self.qemu_img("bitmap", "--add", "-g", "1M", "--disable", "top.qcow2", "a longer name")
        self.qemu_img("snapshot", "-c", "then", "sub.qcow2")
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "top.raw")
        images = (["old.qcow2"], ["tiny.qcow2"], ["sub.qcow2"], ["top.qcow2"], ["-l", "then", "sub.qcow2"], ["-f", "raw", "top.raw"],
                  ["-f", "raw", "base.qcow2"])
        for n, options in enumerate(self.every_pair()):
            self.alike("qcow2", options, *images[n % len(images)])
        for image in images:
            for options in ("", "cluster_size=4k", "compat=0.10", "data_file=d.raw", "preallocation=metadata", "preallocation=full"):
                self.alike("qcow2", options, *image)
            for options in ("", "preallocation=full"):
                self.alike("raw", options, *image)

    def test_options_that_name_a_size_or_a_backing_file(self):
        self.make("a.qcow2", "-o", "cluster_size=4k")
        self.qemu_img("bitmap", "--add", "a.qcow2", "b0")
        for options in ("size=1G", "backing_file=a.qcow2,backing_fmt=qcow2", "backing_file=nothing", "backing_fmt=qcow2",
                        "backing_file=a.qcow2,backing_fmt=qcow2,preallocation=metadata", "data_file_raw=on", "cluster_size=3k", "cluster_size=4M",
                        "refcount_bits=3", "refcount_bits=128", "preallocation=no"):
            for what in (["a.qcow2"], ["--size", "1M"]):
                self.alike("qcow2", options, *what)


if __name__ == "__main__":
    unittest.main()
