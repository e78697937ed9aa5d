"""tidemark image bitmap: what we store QEMU uses, and the other way round."""
import random
import subprocess
import unittest

import nbd

from bed import KiB, MiB, processes
from image_bed import ImageBed


class Bitmaps(ImageBed):
    """What we store QEMU uses, and the other way round."""

    def dirty(self, name, bitmap):
        """The dirty ranges, as QEMU serves them."""
        socket = f"q{random.randrange(10**9)}.sock"
        process = self.lab.start("qemu-nbd", "-r", "-f", "qcow2", "-B", bitmap, "-k", self.path / socket, "-x", "x", name)
        processes.wait_for_socket(self.path / socket, process)
        handle = nbd.NBD()
        handle.add_meta_context(f"qemu:dirty-bitmap:{bitmap}")
        handle.connect_uri(f"nbd+unix:///x?socket={self.path / socket}")
        ranges, at, size = [], 0, handle.get_size()

        def extents(context, offset, entries, error):
            nonlocal at
            for length, flags in zip(entries[::2], entries[1::2]):
                if flags and context.startswith("qemu:"):
                    ranges.append((at, length))
                at += length

        while at < size:
            handle.block_status(size - at, at, extents)
        handle.shutdown()
        self.end_of(process)
        return ranges

    def bitmaps(self, name):
        ours = self.json("image", "info", name)
        self.assertEqual(ours, self.qemu_info(name))
        return {bitmap["name"]: sorted(bitmap["flags"]) for bitmap in ours["format-specific"]["data"].get("bitmaps", ())}

    def test_ours_in_qemu_s_hands(self):
        for options in ((), ("-o", "cluster_size=512"), ("-o", "cluster_size=2M"), ("-o", "refcount_bits=1")):
            name = self.make("a.qcow2", *options)
            self.image("bitmap", "--add", "-g", "4K", name, "one")
            self.image("bitmap", "--add", "--disable", name, "two")
            self.assertEqual(self.bitmaps(name), {"one": ["auto"], "two": []})
            self.qemu_check(name)
            self.qemu_io(name, "write -P 9 1M 64k", "write -P 9 33M 4k")
            self.assertEqual(self.dirty(name, "one"), [(MiB, 64 * KiB), (33 * MiB, 4 * KiB)])
            self.image("bitmap", "--merge", "one", name, "two")
            self.qemu_img("bitmap", "--merge", "two", name, "one")
            self.image("bitmap", "--clear", "--disable", name, "one")
            self.assertEqual(self.dirty(name, "one"), [])
            self.assertEqual(sum(length > 0 for _, length in self.dirty(name, "two")), 2)
            self.qemu_check(name)
            self.qemu_img("bitmap", "--remove", name, "one")
            self.image("bitmap", "--remove", name, "two")
            self.assertEqual(self.bitmaps(name), {})
            self.qemu_check(name)

    def test_qemu_s_in_our_hands(self):
        name = self.make("a.qcow2", size="10M", writes=0)
        self.qemu_img("bitmap", "--add", "-g", "64k", name, "b")
        self.qemu_io(name, "write -P 1 0 10M")
        self.qemu_img("bitmap", "--add", "--disable", name, "quiet")
        self.image("bitmap", "--add", "-g", "32K", name, "mine")
        self.image("bitmap", "--merge", "b", name, "mine")
        self.assertEqual(self.dirty(name, "mine"), [(0, 10 * MiB)])
        self.assertEqual(self.dirty(name, "b"), [(0, 10 * MiB)])
        self.make("other.qcow2", size="10M", writes=0)
        self.image("bitmap", "--add", "--merge", "mine", "-b", name, "other.qcow2", "copy")
        self.assertEqual(self.dirty("other.qcow2", "copy"), [(0, 10 * MiB)])
        self.qemu_check("other.qcow2")
        self.make("small.qcow2", size="1M", writes=0)
        self.image("bitmap", "--add", "small.qcow2", "x")
        self.assertIn("different sizes", self.fails("image", "bitmap", "--merge", "mine", "-b", name, "small.qcow2", "x"))

    def test_beside_a_backing_file(self):
        """The extension comes where the name was, and the name stays readable."""
        self.make("base.qcow2")
        for backing in ("base.qcow2", str(self.path / ("long" * 50))):
            if backing != "base.qcow2":
                (self.path / "base.qcow2").rename(backing)
            self.qemu_img("create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "qcow2", "top.qcow2", "64M")
            for n in range(5):
                self.image("bitmap", "--add", "top.qcow2", f"b{n}")
                self.assertEqual(self.qemu_info("top.qcow2")["backing-filename"], backing)
            self.qemu_img("check", "top.qcow2")
            for n in range(5):
                self.image("bitmap", "--remove", "top.qcow2", f"b{n}")
            self.assertEqual(self.qemu_info("top.qcow2")["backing-filename"], backing)
            self.qemu_check("top.qcow2")

    def test_converted_along(self):
        self.make("a.qcow2", size="10M", writes=0)
        self.image("bitmap", "--add", "-g", "32K", "a.qcow2", "on")
        self.image("bitmap", "--add", "--disable", "a.qcow2", "off")
        self.qemu_io("a.qcow2", "write -P 1 5M 1M")
        self.image("convert", "--bitmaps", "-O", "qcow2", "a.qcow2", "b.qcow2")
        self.assertEqual(self.bitmaps("b.qcow2"), {"on": ["auto"], "off": []})
        self.assertEqual(self.dirty("b.qcow2", "on"), [(5 * MiB, MiB)])
        self.qemu_check("b.qcow2")
        self.fails("image", "convert", "--bitmaps", "-O", "raw", "a.qcow2", "b.raw")

    def break_bitmaps(self, name):
        """As a crash of who writes to the image does."""
        process = self.lab.start("qemu-io", "-f", "qcow2", name, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process.stdin.write("write 0 64k\nflush\n")
        process.stdin.flush()
        self.until(lambda: "wrote" in process.stdout.readline(), "a write")
        process.kill()
        self.end_of(process)

    def test_none_of_a_disk_without_content(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "empty.qcow2", "0")
        self.assertIn("without content", self.fails("image", "bitmap", "--add", "empty.qcow2", "b"))
        self.qemu_img("create", "-q", "-f", "qcow2", "some.qcow2", "1M")
        self.image("bitmap", "--add", "some.qcow2", "b")
        self.assertIn("remove them first", self.fails("image", "resize", "--shrink", "some.qcow2", "0"))
        self.assertEqual(self.bitmaps("some.qcow2"), {"b": ["auto"]})
        self.qemu_check("some.qcow2")

    def test_an_inconsistent_one(self):
        name = self.make("a.qcow2")
        self.qemu_img("bitmap", "--add", name, "b")
        self.break_bitmaps(name)
        self.assertEqual(self.bitmaps(name), {"b": ["auto", "in-use"]})
        self.assertIn("inconsistent", self.fails("image", "bitmap", "--clear", name, "b"))
        self.image("bitmap", "--add", name, "other")
        self.assertEqual(self.bitmaps(name)["b"], ["auto", "in-use"])
        self.image("bitmap", "--rebuild", name, "b")
        self.assertEqual(self.dirty(name, "b"), [(0, 64 * MiB)])
        self.image("check", "-r", "all", name)
        self.qemu_check(name)
        self.break_bitmaps(name)
        self.image("bitmap", "--rebuild", "--clear", "--disable", name, "b")
        self.image("bitmap", "--remove", name, "other")
        self.assertEqual(self.bitmaps(name), {"b": []})
        self.assertEqual(self.dirty(name, "b"), [])

    def test_broken_ones_converted(self):
        name = self.make("a.qcow2")
        self.image("bitmap", "--add", name, "broken")
        self.break_bitmaps(name)
        self.image("bitmap", "--add", name, "good")
        for words in ([], ["-n"]):
            if words:
                self.make("b.qcow2", seed=4)
            message = self.fails("image", "convert", "--bitmaps", *words, "-O", "qcow2", name, "b.qcow2")
            self.assertIn("'broken'", message)
            self.image("convert", "--bitmaps", "--skip-broken-bitmaps", *words, "-O", "qcow2", name, "b.qcow2")
            self.assertEqual(self.bitmaps("b.qcow2"), {"good": ["auto"]})
            self.qemu_check("b.qcow2")
            (self.path / "b.qcow2").unlink()

    def test_an_image_that_is_written_over_keeps_its_own(self):
        """Those that record mark all that was written; the others are as they were; none is silently wrong."""
        self.make("t.qcow2", size="10M", writes=0)
        for words in (("on",), ("--disable", "off")):
            self.image("bitmap", "--add", "-g", "64K", *words[:-1], "t.qcow2", words[-1])
        self.qemu_io("t.qcow2", "write -P 1 0 64k")
        self.make("a.qcow2", size="10M", writes=0)
        self.qemu_io("a.qcow2", "write -P 2 4M 2M")
        self.image("convert", "-n", "-O", "qcow2", "--target-is-zero", "a.qcow2", "t.qcow2")
        self.assertEqual(self.bitmaps("t.qcow2"), {"on": ["auto"], "off": []})
        self.assertEqual(self.dirty("t.qcow2", "on")[-1], (4 * MiB, 2 * MiB))
        self.image("convert", "-n", "-O", "qcow2", "a.qcow2", "t.qcow2")
        self.assertEqual(self.dirty("t.qcow2", "on"), [(0, 10 * MiB)])
        self.assertEqual(self.dirty("t.qcow2", "off"), [])
        self.assertIn("identical", self.qemu_img("compare", "a.qcow2", "t.qcow2").stdout)
        self.image("bitmap", "--add", "a.qcow2", "more")
        self.qemu_io("a.qcow2", "write -P 3 1M 64k")
        self.image("convert", "-n", "--bitmaps", "-O", "qcow2", "a.qcow2", "t.qcow2")
        self.assertEqual(self.bitmaps("t.qcow2"), {"on": ["auto"], "off": [], "more": ["auto"]})
        self.assertEqual(self.dirty("t.qcow2", "more"), [(MiB, 64 * KiB)])
        self.qemu_check("t.qcow2")
        before = (self.path / "t.qcow2").read_bytes()
        self.assertIn("already exists", self.fails("image", "convert", "-n", "--bitmaps", "-O", "qcow2", "a.qcow2", "t.qcow2"))
        self.assertEqual((self.path / "t.qcow2").read_bytes(), before)
        self.make("large.qcow2", size="12M", writes=0)
        self.assertIn("another size", self.fails("image", "convert", "-n", "--bitmaps", "-O", "qcow2", "a.qcow2", "large.qcow2"))
        self.make("old.qcow2", "-o", "compat=0.10", size="10M", writes=0)
        self.assertIn("v2", self.fails("image", "convert", "-n", "--bitmaps", "-O", "qcow2", "a.qcow2", "old.qcow2"))

    def test_one_that_is_killed_over_does_not_count(self):
        self.make("t.qcow2")
        self.image("bitmap", "--add", "t.qcow2", "b")
        self.raw("a.raw", size=64 * MiB)
        process = self.lab.start(self.tidemark, "image", "convert", "-r", "1M", "-m", "1", "-n", "-O", "qcow2", "a.raw", "t.qcow2",
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        autoclear = lambda: (self.path / "t.qcow2").read_bytes()[88:96]
        self.until(lambda: autoclear() == bytes(8), "an image that is written to")
        process.kill()
        self.end_of(process)
        self.assertEqual(self.bitmaps("t.qcow2"), {})

    def test_verbs_that_write_keep_them(self):
        self.make("base.qcow2", size="8M", writes=0)
        self.make("other.qcow2", size="8M", writes=0)
        self.qemu_io("other.qcow2", "write -P 3 0 8M")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        for name in ("base.qcow2", "top.qcow2"):
            self.image("bitmap", "--add", "-g", "64K", name, "on")
            self.image("bitmap", "--add", "--disable", name, "off")
        self.qemu_io("top.qcow2", "write -P 5 1M 128k")
        self.image("resize", "top.qcow2", "12M")
        self.image("rebase", "-b", "other.qcow2", "-F", "qcow2", "top.qcow2")
        # Nobody knows whether it has been as large before, with other bytes.
        self.assertEqual(self.dirty("top.qcow2", "on"), [(MiB, 128 * KiB), (8 * MiB, 4 * MiB)])
        self.image("rebase", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        self.image("commit", "-d", "top.qcow2")
        self.assertEqual(self.dirty("base.qcow2", "on"), [(0, 12 * MiB)])      # what was written over the other file, too
        self.assertEqual(self.dirty("base.qcow2", "off"), [])
        for name in ("base.qcow2", "top.qcow2"):
            self.assertEqual(self.bitmaps(name), {"on": ["auto"], "off": []})
            self.qemu_check(name)
        self.assertEqual(list(self.path.glob("*.tidemark")), [])           # a store is for daemons

    def test_refused(self):
        name = self.make("a.qcow2", writes=0)
        before = (self.path / name).read_bytes()
        self.assertIn("not found", self.fails("image", "bitmap", "--remove", name, "b"))
        self.assertIn("power of 2", self.fails("image", "bitmap", "--add", "-g", "3K", name, "b"))
        self.assertIn("too large", self.fails("image", "bitmap", "--add", "-g", "4G", name, "b"))
        self.assertIn("too long", self.fails("image", "bitmap", "--add", name, "x" * 1024))
        self.assertIn("at least one", self.fails("image", "bitmap", name, "b"))
        self.assertIn("already exists", self.fails("image", "bitmap", "--add", "--add", name, "b"))
        self.assertEqual((self.path / name).read_bytes()[:len(before)], before)       # the last cluster is made whole
        self.make("old.qcow2", "-o", "compat=0.10", writes=0)
        self.assertIn("v2", self.fails("image", "bitmap", "--add", "old.qcow2", "b"))


if __name__ == "__main__":
    unittest.main()
