"""tidemark image convert, with qemu-img as the judge."""
import json
import random
import signal
import subprocess
import unittest

from bed import DONE, INTERRUPTED, KiB, MiB, first_difference
from image_bed import ImageBed
from lab import processes


class Convert(ImageBed):
    def test_any_to_any(self):
        self.make("base.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "70M")
        self.scribble("top.qcow2", seed=3)
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "top.raw")
        for source in ("top.qcow2", "top.raw"):
            for words in (["-O", "raw"], ["-O", "raw", "-S", "0"], ["-O", "qcow2"], ["-O", "qcow2", "-c"],
                          ["-O", "qcow2", "-c", "-o", "compression_type=zstd,cluster_size=1M"],
                          ["-O", "qcow2", "-c", "-o", "cluster_size=2M"],
                          ["-O", "qcow2", "-o", "compat=0.10,cluster_size=4k"], ["-O", "qcow2", "-S", "1M", "-m", "1"],
                          ["-O", "qcow2", "-o", "cluster_size=512", "--direct"]):
                report = self.json("image", "convert", *words, source, "out")
                self.assertEqual(report["virtual-size"], 70 * MiB)
                form = words[1]
                self.assertIn("identical", self.qemu_img("compare", "-F", form, source, "out").stdout, words)
                if form == "qcow2":
                    self.qemu_check("out")
        self.assertEqual([name for name in self.names() if "partial" in name], [])

    def test_one_after_another_compressed(self):
        """The second begins within a cluster."""
        content = b""
        for name, size in (("a.raw", 4 * MiB + 12 * KiB), ("b.raw", 4 * MiB)):
            content += self.raw(name, size).read_bytes()
        self.image("convert", "-c", "-O", "qcow2", "a.raw", "b.raw", "out.qcow2")
        self.qemu_check("out.qcow2")
        self.qemu_img("convert", "-O", "raw", "out.qcow2", "out.raw")
        self.assertIsNone(first_difference((self.path / "out.raw").read_bytes(), content))

    def test_sparse(self):
        self.raw("a.raw")
        with open(self.path / "a.raw", "r+b") as file:
            file.write(bytes(2 * MiB))
        self.image("convert", "a.raw", "b.raw")
        self.assertEqual((self.path / "b.raw").stat().st_blocks * 512, 4 * MiB)
        self.image("convert", "-S", "0", "a.raw", "b.raw")
        self.assertGreaterEqual((self.path / "b.raw").stat().st_blocks * 512, 8 * MiB)
        self.assertEqual((self.path / "a.raw").read_bytes(), (self.path / "b.raw").read_bytes())

    def test_on_the_same_base(self):
        self.make("base.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        self.scribble("top.qcow2", seed=4, writes=10)
        self.image("convert", "-O", "qcow2", "-o", "cluster_size=128k", "-B", "base.qcow2", "-F", "qcow2", "top.qcow2", "out.qcow2")
        self.assertIn("identical", self.qemu_img("compare", "top.qcow2", "out.qcow2").stdout)
        self.assertEqual(self.qemu_info("out.qcow2")["backing-filename"], "base.qcow2")
        self.assertLess((self.path / "out.qcow2").stat().st_blocks, (self.path / "base.qcow2").stat().st_blocks)
        self.raw("other.raw")
        self.assertIn("is not below", self.fails("image", "convert", "-O", "qcow2", "-b", "other.raw", "-F", "raw", "top.qcow2", "x.qcow2"))

    def test_several(self):
        self.raw("a.raw", seed=1)
        self.raw("b.raw", size=1 * MiB, seed=2)
        self.image("convert", "a.raw", "b.raw", "a.raw", "out.raw")
        a, b = (self.path / "a.raw").read_bytes(), (self.path / "b.raw").read_bytes()
        self.assertEqual(first_difference((self.path / "out.raw").read_bytes(), a + b + a), None)

    def test_to_and_from_nbd(self):
        self.make("a.qcow2")
        with open(self.path / "t.raw", "wb") as file:
            file.write(random.Random(9).randbytes(64 * MiB))
        self.serve("a.qcow2=source", "t.raw=target")
        source, target = (f"nbd+unix:///{name}?socket={self.path}/nbd.sock" for name in ("source", "target"))
        self.image("convert", source, "copy.raw")
        self.image("convert", "-n", "copy.raw", target)
        self.image("compare", source, target)
        self.image("convert", "-O", "qcow2", "copy.raw", target)
        self.image("compare", "-F", "qcow2", "copy.raw", target)
        self.lab.run("qemu-img", "compare", "-F", "raw", "copy.raw", source, timeout=60)

    def test_more_than_32_bits_from_a_server_without_extended_headers(self):
        with open(self.path / "large.raw", "wb") as file:
            file.truncate(5 * 1024 * MiB)
            file.seek(4500 * MiB)
            file.write(b"x" * MiB)
        peer = self.lab.start("qemu-nbd", "-t", "-r", "-f", "raw", "-k", self.path / "peer.sock", "large.raw")
        processes.wait_for_socket(self.path / "peer.sock", peer)
        uri = f"nbd+unix:///?socket={self.path}/peer.sock"
        found = json.loads(self.image("map", "--json", uri).stdout)
        self.assertEqual([(one["start"], one["length"]) for one in found if one["data"]], [(4500 * MiB, MiB)])
        self.image("measure", "-O", "qcow2", uri)

    def test_into_an_image_that_is_there(self):
        self.make("a.qcow2")
        self.make("t.qcow2", "-o", "cluster_size=256k", seed=5)
        self.image("convert", "-n", "-O", "qcow2", "a.qcow2", "t.qcow2")
        self.assertIn("identical", self.qemu_img("compare", "a.qcow2", "t.qcow2").stdout)
        self.qemu_check("t.qcow2")
        self.raw("small.raw")
        self.assertIn("has 8388608 bytes", self.fails("image", "convert", "-n", "a.qcow2", "small.raw"))

    def test_what_is_refused_leaves_what_was_there(self):
        self.raw("a.raw")
        before = (self.path / "a.raw").read_bytes()
        self.fails("image", "convert", "a.raw", "a.raw")
        self.fails("image", "convert", "-c", "a.raw", "b.raw")
        self.fails("image", "convert", "a.raw", "nowhere/b.raw")
        self.fails("image", "convert", "nothing.raw", "a.raw")
        self.assertEqual((self.path / "a.raw").read_bytes(), before)
        self.assertEqual(self.names(), ["a.raw"])

    def slow(self, *words):
        process = self.lab.start(self.tidemark, "image", "convert", "-r", "1M", "-m", "1", *words,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return process

    def test_interrupted(self):
        self.raw("a.raw", size=64 * MiB)
        (self.path / "t.raw").write_bytes(b"before")
        process = self.slow("a.raw", "t.raw")
        self.until(lambda: (self.path / "t.raw.tidemark-partial").exists() and self.catches(process, signal.SIGINT), "a file under way")
        process.send_signal(signal.SIGINT)
        status, _, err = self.end_of(process)
        self.assertEqual((status, err), (INTERRUPTED, "tidemark: interrupted; nothing was left behind\n"))
        self.assertEqual((self.path / "t.raw").read_bytes(), b"before")
        self.assertEqual(self.names(), ["a.raw", "t.raw"])

    def test_killed(self):
        self.raw("a.raw", size=64 * MiB)
        process = self.slow("-O", "qcow2", "a.raw", "t.qcow2")
        self.until(lambda: (self.path / "t.qcow2.tidemark-partial").exists(), "a file under way")
        process.kill()
        self.end_of(process)
        self.assertNotIn("t.qcow2", self.names())
        self.image("convert", "-O", "qcow2", "a.raw", "t.qcow2")
        self.assertEqual(self.names(), ["a.raw", "t.qcow2"])

    def test_half_an_image_in_place_does_not_look_whole(self):
        self.raw("a.raw", size=64 * MiB)
        with open(self.path / "t.raw", "wb") as file:
            file.write(random.Random(3).randbytes(64 * MiB))
        process = self.slow("-n", "a.raw", "t.raw")
        content = lambda: (self.path / "t.raw").read_bytes()
        source = (self.path / "a.raw").read_bytes()
        self.until(lambda: content()[4 * MiB:5 * MiB] == source[4 * MiB:5 * MiB], "some of it written")
        process.kill()
        self.end_of(process)
        self.assertEqual(content()[:2 * MiB], bytes(2 * MiB))
        self.image("convert", "-n", "a.raw", "t.raw")
        self.assertEqual(first_difference(content(), source), None)

    def test_progress_on_a_terminal(self):
        self.raw("a.raw", size=64 * MiB)
        process, terminal = self.start_on_terminal("image", "convert", "-r", "16M", "a.raw", "b.raw")
        self.until_shown(terminal, r"convert \[=+ *\] +\d+%")
        self.assertEqual(self.end_of(process)[0], DONE)


if __name__ == "__main__":
    unittest.main()
