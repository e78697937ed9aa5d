"""tidemark image amend, with qemu-img as the judge."""
import unittest

from bed import USAGE
from image_bed import ImageBed


class Amend(ImageBed):
    def specific(self, name):
        return self.qemu_info(name)["format-specific"]["data"]

    def amended(self, name, options, as_before="before.raw"):
        self.image("amend", "-o", options, name)
        self.qemu_check(name)
        if as_before:
            self.assertIn("identical", self.qemu_img("compare", "-f", "qcow2", "-F", "raw", name, as_before).stdout)

    def test_versions_and_refcounts(self):
        for cluster_size in ("512", "64k", "2M"):
            name = self.make("a.qcow2", "-o", f"cluster_size={cluster_size}")
            self.qemu_img("convert", "-O", "raw", name, "before.raw")
            for bits in (1, 64, 8, 16):
                self.amended(name, f"refcount_bits={bits}")
                self.assertEqual(self.specific(name)["refcount-bits"], bits)
                self.scribble("a.qcow2", seed=bits, writes=5)
                self.qemu_img("convert", "-O", "raw", name, "before.raw")
            self.amended(name, "lazy_refcounts=on")
            self.assertTrue(self.specific(name)["lazy-refcounts"])
            self.amended(name, "compat=0.10")
            self.assertEqual(self.specific(name)["compat"], "0.10")
            self.scribble("a.qcow2", seed=9, writes=5)
            self.qemu_img("convert", "-O", "raw", name, "before.raw")
            self.amended(name, "compat=v3,refcount_bits=32,lazy_refcounts=on")
            self.amended(name, "lazy_refcounts=off,refcount_bits=16")
            self.assertFalse(self.specific(name)["lazy-refcounts"])

    def test_over_another_image(self):
        self.make("base.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2", "70M")
        self.scribble("top.qcow2", seed=3)
        self.qemu_img("convert", "-O", "raw", "top.qcow2", "before.raw")
        self.amended("top.qcow2", "compat=0.10")                     # zeroes that hide the base are written
        (self.path / "base.qcow2").rename(self.path / "other.qcow2")
        self.amended("top.qcow2", "backing_file=other.qcow2,backing_fmt=qcow2")
        self.assertEqual(self.qemu_info("top.qcow2")["backing-filename"], "other.qcow2")
        self.assertIn("plain file", self.fails("image", "amend", "-o", "backing_file=nbd://h/x,backing_fmt=raw", "top.qcow2"))
        self.amended("top.qcow2", "compat=1.1")
        self.amended("top.qcow2", "backing_file=", as_before=None)
        self.assertNotIn("backing-filename", self.qemu_info("top.qcow2"))

    def test_snapshots_and_bitmaps_stay(self):
        name = self.make("a.qcow2")
        self.image("snapshot", "-c", "kept", name)
        self.qemu_img("convert", "-O", "raw", name, "kept.raw")
        self.scribble(name, seed=4)
        self.qemu_img("convert", "-O", "raw", name, "before.raw")
        self.image("bitmap", "--add", name, "b")
        self.amended(name, "refcount_bits=4,lazy_refcounts=on")
        self.assertEqual(self.specific(name)["bitmaps"][0]["flags"], ["auto"])
        self.qemu_img("convert", "-l", "kept", "-O", "raw", name, "out.raw")
        self.assertIn("identical", self.qemu_img("compare", "out.raw", "kept.raw").stdout)
        self.assertIn("'b'", self.fails("image", "amend", "-o", "compat=0.10", name))
        self.assertIn("refcount of 2", self.fails("image", "amend", "-o", "refcount_bits=1", name))
        self.qemu_check(name)
        self.assertIn("identical", self.qemu_img("compare", name, "before.raw").stdout)

    def test_an_external_data_file(self):
        self.image("create", "-f", "qcow2", "-o", "data_file=d.raw,data_file_raw=on", "a.qcow2", "64M")
        self.scribble("a.qcow2")
        self.qemu_img("convert", "-O", "raw", "a.qcow2", "before.raw")
        self.amended("a.qcow2", "data_file_raw=off")
        self.assertFalse(self.specific("a.qcow2")["data-file-raw"])
        self.assertIn("may not be set", self.fails("image", "amend", "-o", "data_file_raw=on", "a.qcow2"))
        (self.path / "d.raw").rename(self.path / "moved.raw")
        self.amended("a.qcow2", "data_file=moved.raw")
        self.amended("a.qcow2", "refcount_bits=64")
        self.fails("image", "amend", "-o", "compat=0.10", "a.qcow2")

    def test_refused(self):
        name = self.make("a.qcow2", writes=4)
        before = (self.path / name).read_bytes()
        for options, why in (("cluster_size=4k", "cannot be amended"), ("size=1G", "resize"), ("nonsense=1", "Invalid parameter"),
                             ("refcount_bits=3", "power of two"), ("compat=2", "compatibility level"), ("encryption=on", "not supported"),
                             ("data_file=x", "external data file"), ("backing_file=b.qcow2", "without its format")):
            self.assertIn(why, self.fails("image", "amend", "-o", options, name), options)
        self.assertEqual((self.path / name).read_bytes(), before)
        self.image("amend", name, expect=USAGE)
        self.raw("a.raw")
        self.assertIn("only qcow2", self.fails("image", "amend", "-o", "compat=1.1", "a.raw"))
        self.serve("a.qcow2=disk")
        self.assertIn("lock", self.fails("image", "amend", "-o", "compat=0.10", name))

    def test_progress(self):
        name = self.make("a.qcow2", "-o", "cluster_size=512")
        done = self.image("amend", "-p", "-o", "refcount_bits=64", name)
        self.assertIn("amend [", done.stderr)
        self.assertEqual(self.image("amend", "-p", "-q", "-o", "refcount_bits=16", name).stderr, "")


if __name__ == "__main__":
    unittest.main()
