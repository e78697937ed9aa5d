"""tidemark image rebase and commit, with qemu-img as the judge."""
import subprocess
import unittest

from bed import KiB, MiB
from image_bed import ImageBed


class Rebase(ImageBed):
    def chain(self):
        self.make("base.qcow2", seed=1)
        self.make("other.qcow2", seed=2, size="40M", writes=0)
        self.scribble("other.qcow2", seed=2, size=40 * MiB)
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "70M")
        self.scribble("top.qcow2", seed=3, writes=15)
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "before.raw")

    def assert_as_before(self, backing):
        self.assertIn("identical", self.qemu_img("compare", "top.qcow2", "before.raw").stdout)
        self.assertEqual(self.qemu_info("top.qcow2").get("backing-filename"), backing)
        self.qemu_check("top.qcow2")

    def test_a_name_counts_from_where_the_kernel_finds_the_image(self):
        for folder in ("real/sub", "links"):
            (self.path / folder).mkdir(parents=True)
        (self.path / "links/link").symlink_to("../real/sub")
        for name, seed in (("real/base.qcow2", 1), ("links/base.qcow2", 2)):
            self.make(name, seed=seed)
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "../base.qcow2", "-F", "qcow2", "real/sub/top.qcow2")
        self.image("convert", "links/link/top.qcow2", "found.raw")
        self.assertIn("identical", self.qemu_img("compare", "-F", "raw", "real/base.qcow2", "found.raw").stdout)

    def test_safe(self):
        self.chain()
        self.image("rebase", "-b", "other.qcow2", "-F", "qcow2", "top.qcow2")
        self.assert_as_before("other.qcow2")
        self.image("rebase", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        self.assert_as_before("base.qcow2")
        self.image("rebase", "-b", "", "top.qcow2")
        self.assert_as_before(None)
        self.image("rebase", "-b", "other.qcow2", "-F", "qcow2", "top.qcow2")
        self.assert_as_before("other.qcow2")

    def test_zeroes_of_a_version_2_image_that_stood_on_nothing(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "top.qcow2", "1M")
        self.raw("base.raw", MiB)
        self.image("rebase", "-b", "base.raw", "-F", "raw", "top.qcow2")
        self.assertEqual(self.qemu_info("top.qcow2").get("backing-filename"), "base.raw")
        self.assertTrue(self.raw_bytes("top.qcow2") == bytes(MiB))

    def test_what_the_header_cannot_take_is_refused_before_anything_is_written(self):
        self.chain()
        self.qemu_img("convert", "-O", "qcow2", "other.qcow2", "x" * 200)
        before = (self.path / "top.qcow2").read_bytes()
        self.assertIn("too long", self.fails("image", "rebase", "-b", "./" * 500 + "x" * 200, "-F", "qcow2", "top.qcow2"))
        self.assertTrue((self.path / "top.qcow2").read_bytes() == before)

    def test_unsafe(self):
        self.chain()
        for name in ("a", "a-longer-name.qcow2", "b", str(self.path / ("x" * 200)), "c.qcow2"):
            (self.path / "base.qcow2").rename(self.path / name)
            self.image("rebase", "-u", "-b", name, "-F", "qcow2", "top.qcow2")
            self.assert_as_before(name)
            (self.path / name).rename(self.path / "base.qcow2")
        self.assertIn("too long", self.fails("image", "rebase", "-u", "-b", "x" * 1024, "-F", "qcow2", "top.qcow2"))

    def test_refused(self):
        self.chain()
        self.assertIn("without its format", self.fails("image", "rebase", "-b", "other.qcow2", "top.qcow2"))
        self.assertIn("No such file", self.fails("image", "rebase", "-b", "no.qcow2", "-F", "qcow2", "top.qcow2"))
        self.fails("image", "rebase", "-b", "top.qcow2", "-F", "qcow2", "top.qcow2")
        self.assert_as_before("base.qcow2")

    def test_extensions_stay(self):
        self.chain()
        self.qemu_img("bitmap", "--add", "top.qcow2", "bitmap")
        self.image("rebase", "-u", "-b", str(self.path / "base.qcow2"), "-F", "qcow2", "top.qcow2")
        self.assertEqual(self.qemu_info("top.qcow2")["format-specific"]["data"]["bitmaps"][0]["name"], "bitmap")
        self.qemu_check("top.qcow2")


class Commit(ImageBed):
    def chain(self):
        self.make("base.qcow2", seed=1)
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "mid.qcow2", "66M")
        self.scribble("mid.qcow2", seed=2)
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "mid.qcow2", "-F", "qcow2", "top.qcow2", "70M")
        self.scribble("top.qcow2", seed=3)
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "before.raw")

    def test_nobody_writes_to_it_until_it_is_emptied(self):
        """The base is checked before that, which takes a while."""
        for n in range(4):
            self.qemu_img("create", "-q", "-f", "qcow2", "-o", "cluster_size=512", "base.qcow2", "16M")
            self.qemu_io("base.qcow2", "write -P 1 0 16M")
            self.qemu_img("bitmap", "--add", "base.qcow2", "b")
            self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
            self.qemu_io("top.qcow2", "write -P 2 0 64k")
            process = self.lab.start(self.tidemark, "image", "commit", "top.qcow2", stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            written = 0
            while process.poll() is None and not written:
                done = self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 1M 64k", "top.qcow2", ok=None)
                written = done.returncode == 0
            process.wait()
            expected = bytes([9]) * (64 * KiB) if written else bytes([1]) * (64 * KiB)
            self.assertTrue(self.raw_bytes("top.qcow2")[MiB:MiB + 64 * KiB] == expected, n)

    def test_who_names_the_base_keeps_the_image(self):
        self.chain()
        before = (self.path / "top.qcow2").read_bytes()
        self.image("commit", "-b", "mid.qcow2", "top.qcow2")
        self.assertTrue((self.path / "top.qcow2").read_bytes() == before)
        self.assert_holds("mid.qcow2")

    def assert_holds(self, name):
        self.assertIn("identical", self.qemu_img("compare", name, "before.raw").stdout)
        self.qemu_check(name)

    def test_one_layer(self):
        self.chain()
        (self.path / "top.qcow2").chmod(0o640)
        self.assertTrue(self.json("image", "commit", "top.qcow2")["emptied"])
        self.assert_holds("mid.qcow2")
        self.assert_holds("top.qcow2")
        self.assertEqual((self.path / "top.qcow2").stat().st_mode & 0o777, 0o640)
        self.assertLess((self.path / "top.qcow2").stat().st_blocks * 512, 512 * KiB)
        self.scribble("top.qcow2", seed=4)
        self.qemu_check("top.qcow2")

    def test_to_the_base(self):
        self.chain()
        self.image("commit", "-b", "base.qcow2", "top.qcow2")
        self.assert_holds("base.qcow2")

    def test_kept(self):
        self.chain()
        before = (self.path / "top.qcow2").read_bytes()
        self.image("commit", "-d", "top.qcow2")
        self.assert_holds("mid.qcow2")
        self.assertEqual((self.path / "top.qcow2").read_bytes(), before)

    def test_the_base_s_snapshots_stay(self):
        self.chain()
        self.qemu_img("snapshot", "-c", "kept", "mid.qcow2")
        self.qemu_img("convert", "-O", "raw", "mid.qcow2", "mid.raw")
        self.image("commit", "top.qcow2")
        self.assert_holds("mid.qcow2")
        self.assert_holds("top.qcow2")
        self.qemu_img("convert", "-O", "raw", "-l", "kept", "mid.qcow2", "kept.raw")
        self.assertIn("identical", self.qemu_img("compare", "-f", "raw", "-F", "raw", "kept.raw", "mid.raw").stdout)

    def test_refused(self):
        self.make("base.qcow2")
        self.assertIn("does not have a backing file", self.fails("image", "commit", "base.qcow2"))
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2")
        self.assertIn("Did not find", self.fails("image", "commit", "-b", "other.qcow2", "top.qcow2"))
        self.serve("base.qcow2=disk")
        self.assertIn("lock", self.fails("image", "commit", "top.qcow2"))


if __name__ == "__main__":
    unittest.main()
