"""tidemark image on a full volume: what is there reads as before, and holds nothing for nothing."""
import os
import random
import struct
import subprocess
import unittest

from bed import DONE, FAILED, MiB
from image_bed import ImageBed


class FullDisk(ImageBed):
    def setUp(self):
        super().setUp()
        self.small = self.path / "small"
        self.small.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", self.small], capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest(f"a small volume cannot be mounted here: {done.stderr.strip()}")
        self.addCleanup(subprocess.run, ["umount", "-l", self.small], check=True)

    def left(self):
        return sorted(os.listdir(self.small))

    def no_space(self, *words):
        self.assertIn("No space left", self.fails("image", *words))

    def test_new_files_are_gone(self):
        self.raw("a.raw", size=16 * MiB)
        for words in (["-O", "raw"], ["-O", "qcow2"], ["-O", "qcow2", "-c"], ["-O", "qcow2", "-o", "data_file=d.raw"],
                      ["-O", "qcow2", "-o", "preallocation=full"]):
            self.no_space("convert", *words, "a.raw", "small/t")
            self.assertEqual(self.left(), [], words)
        self.no_space("create", "-f", "qcow2", "-o", "preallocation=falloc", "small/t", "16M")
        self.no_space("create", "-o", "preallocation=full", "small/t", "16M")
        self.assertEqual(self.left(), [])

    def test_what_is_there_reads_as_before(self):
        self.make("base.qcow2", size="16M", writes=0)
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "small/a.qcow2", "16M")
        self.qemu_io("small/a.qcow2", "write -P 1 0 3M", "write -P 2 8M 300k")
        self.qemu_img("convert", "-O", "raw", "small/a.qcow2", "before.raw")
        self.raw("random.raw", size=16 * MiB)
        self.image("rebase", "-u", "-b", self.path / "random.raw", "-F", "raw", "small/a.qcow2")
        self.qemu_img("convert", "-O", "raw", "small/a.qcow2", "over.raw")
        self.no_space("rebase", "-b", "", "small/a.qcow2")
        self.assertIn("identical", self.qemu_img("compare", "-F", "raw", "small/a.qcow2", "over.raw").stdout)
        self.image("rebase", "-u", "-b", "", "small/a.qcow2")
        self.image("check", "-r", "all", "small/a.qcow2")
        self.no_space("resize", "--preallocation=full", "small/a.qcow2", "32M")
        self.image("resize", "--shrink", "small/a.qcow2", "16M")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "small/a.qcow2", "-F", "qcow2", "top.qcow2")
        self.qemu_io("top.qcow2", "write -P 3 0 16M")
        self.no_space("commit", "top.qcow2")
        self.assertEqual(set(self.raw_bytes("top.qcow2")), {3})
        self.assertIn(self.lab.run("qemu-img", "check", "small/a.qcow2", ok=None).returncode, (0, 3))

    def test_a_commit_or_rebase_that_does_not_fit_leaves_no_leaks(self):
        """Data that was written last has tables that were not: it is given back.  With room it goes on."""
        rng = random.Random(3)
        for verb, options in (("commit", "cluster_size=4k"), ("commit", "cluster_size=512"), ("rebase", "cluster_size=4k"),
                              ("commit", "cluster_size=64k,extended_l2=on"), ("commit", "cluster_size=4k,lazy_refcounts=on")):
            with self.subTest(verb + " " + options):
                writes = [f"write -P {rng.randrange(1, 256)} {rng.randrange(65536 - 16) * 4}k {rng.choice([4, 64])}k" for n in range(120)]
                written, above = "small/a.qcow2", "top.qcow2" if verb == "commit" else "small/a.qcow2"
                self.qemu_img("create", "-q", "-f", "qcow2", "old.qcow2", "256M")
                self.qemu_io("old.qcow2", *writes)
                below = [] if verb == "commit" else ["-b", str(self.path / "old.qcow2"), "-F", "qcow2"]
                self.qemu_img("create", "-q", "-f", "qcow2", "-o", options, *below, written, "256M")
                self.qemu_io(written, "write -P 7 1M 64k")
                self.qemu_img("bitmap", "--add", written, "b")
                if verb == "commit":
                    self.qemu_img("create", "-q", "-f", "qcow2", "-b", written, "-F", "qcow2", above)
                    self.qemu_io(above, *writes)
                before = self.raw_bytes(above)
                filler = self.small / "filler"
                with open(filler, "wb") as file:
                    os.posix_fallocate(file.fileno(), 0, 2 * MiB)
                words = ["commit", above] if verb == "commit" else ["rebase", "-b", "", written]
                error = self.fails("image", *words)
                self.assertIn("No space left", error)
                if verb == "commit":
                    self.assertIn("; 'top.qcow2' reads as before, 'small/a.qcow2' has a part of it: make room and commit again", error)
                self.assertNotIn("check", error)
                self.qemu_check(written)
                self.assertTrue(self.raw_bytes(above) == before)
                bitmaps = self.qemu_info(written)["format-specific"]["data"].get("bitmaps")      # they need room, too
                self.assertEqual(bitmaps is None, "; its bitmaps do not count any more" in error)
                self.assertTrue(bitmaps or options != "cluster_size=4k")
                filler.unlink()
                self.lab.run("mount", "-o", "remount,size=64m", str(self.small))
                self.image(*words)
                self.qemu_check(written)
                self.assertTrue(self.raw_bytes(written) == before)
                (self.small / "a.qcow2").unlink()
                self.lab.run("mount", "-o", "remount,size=4m", str(self.small))

    def test_bitmaps_that_are_not_usable_share_nothing_with_what_was_tidied(self):
        for verb in ("commit", "rebase"):
            image = "small/a.qcow2"
            self.qemu_img("create", "-q", "-f", "raw", "old.raw", "4M")
            self.qemu_io("old.raw", "write -P 3 0 4M", format="raw")
            below = [] if verb == "commit" else ["-b", str(self.path / "old.raw"), "-F", "raw"]
            self.qemu_img("create", "-q", "-f", "qcow2", *below, image, "4M")
            self.qemu_img("create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", "top.qcow2", "4M")
            self.qemu_io("top.qcow2", "write -P 5 0 4M")
            for name in ("good", "bad"):
                self.qemu_img("bitmap", "--add", image, name)
            self.qemu_io(image, "write -P 1 0 64k")
            content = bytearray((self.path / image).read_bytes())
            extension = content.index(struct.pack(">II", 0x23852875, 24))
            directory, = struct.unpack_from(">Q", content, extension + 24)
            content[content.index(b"bad", directory) - 9] |= 1        # its flags: in use
            (self.path / image).write_bytes(content)
            self.qemu_check(image)
            filler = self.small / "filler"
            with open(filler, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, 1 * MiB)
            words = ["commit", "top.qcow2"] if verb == "commit" else ["rebase", "-b", "", image]
            self.assertIn("No space left", self.fails("image", *words))
            filler.unlink()
            self.qemu_check(image)
            self.qemu_io(image, "write -P 1 1M 64k")
            self.image("bitmap", "--remove", image, "bad")
            self.qemu_check(image)
            (self.path / image).unlink()

    def test_new_tables_that_do_not_fit(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "small/a.qcow2", "64M")
        self.qemu_io("small/a.qcow2", *(f"write -P 1 {n * 2}M 64k" for n in range(30)))
        self.image("bitmap", "--add", "small/a.qcow2", "b")
        before = self.raw_bytes("small/a.qcow2")
        with open(self.small / "filler", "wb", buffering=0) as file, self.assertRaises(OSError):
            while True:
                file.write(bytes(4096))
        for words in (["snapshot", "-c", "x"], ["amend", "-o", "refcount_bits=64"]):
            self.no_space(*words, "small/a.qcow2")
            self.assertIn(self.qemu_img("check", "small/a.qcow2", ok=None).returncode, (0, 3))
        self.lab.run(self.tidemark, "image", "bitmap", "--add", "small/a.qcow2", "c", ok=(DONE, FAILED))
        self.assertIn(self.qemu_img("check", "small/a.qcow2", ok=None).returncode, (0, 3))
        self.assertTrue(self.raw_bytes("small/a.qcow2") == before)
        info = self.json("image", "info", "small/a.qcow2")
        self.assertNotIn("snapshots", info)
        self.assertEqual(info["format-specific"]["data"]["refcount-bits"], 16)


if __name__ == "__main__":
    unittest.main()
