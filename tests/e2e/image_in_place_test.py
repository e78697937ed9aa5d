"""tidemark image convert into what is there: never at the cost of the source."""
import os
import subprocess
import unittest

from bed import KiB, MiB
from image_bed import ImageBed


def loop_device(path):
    """A loop device on a file, or None where this cannot be had."""
    try:
        return subprocess.run(["losetup", "-f", "--show", path], check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


class Apart(ImageBed):
    def setUp(self):
        super().setUp()
        self.raw("r.raw", 8 * MiB)
        self.qcow2("b.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "t.qcow2")
        self.qemu_io("t.qcow2", "write -P 2 3M 64k")
        (self.path / "link").symlink_to("r.raw")
        self.before = {name: (self.path / name).read_bytes() for name in self.names()}

    def refused(self, *words):
        error = self.fails("image", "convert", *words)
        self.assertIn("which the source is read from", error)
        for name, content in self.before.items():
            self.assertTrue((self.path / name).read_bytes() == content, f"{name} changed by {words}")

    def test_a_target_that_is_the_source_or_below_it(self):
        self.refused("-n", "-U", "r.raw", "r.raw")
        self.refused("-n", "-U", "r.raw", "link")
        self.refused("-n", "-U", "-O", "qcow2", "t.qcow2", "t.qcow2")
        self.refused("-n", "-U", "-O", "qcow2", "t.qcow2", "b.qcow2")
        self.refused("-n", "-U", "-O", "qcow2", "r.raw", "t.qcow2", "b.qcow2")

    def loop(self, name):
        device = loop_device(self.path / name)
        if not device:
            self.skipTest("no loop devices here")
        self.addCleanup(subprocess.run, ["losetup", "-d", device], check=True)
        return device

    def test_a_loop_device_on_the_source(self):
        device = self.loop("r.raw")
        self.refused("-f", "raw", "-n", "r.raw", device)
        self.refused("-f", "raw", "r.raw", device)
        self.refused("-f", "raw", "-O", "qcow2", "r.raw", device)
        self.refused("-f", "raw", "-n", device, "r.raw")
        self.refused("-f", "qcow2", "-n", "t.qcow2", self.loop("b.qcow2"))

    def test_a_server_that_shows_the_source(self):
        self.lab.start("qemu-nbd", "-f", "raw", "-k", str(self.path / "n.sock"), "-t", "r.raw")
        self.until(lambda: (self.path / "n.sock").exists(), "qemu-nbd")
        self.refused("-f", "raw", "-n", "-U", "r.raw", "nbd+unix:///?socket=n.sock")
        self.refused("-f", "raw", "-U", "r.raw", "nbd+unix:///?socket=n.sock")

    def test_others_are_written(self):
        device = self.loop("r.raw")
        with open(self.path / "other.raw", "wb") as other:
            other.truncate(9 * MiB)
        self.image("convert", "-n", "t.qcow2", device)
        os.sync()
        self.image("convert", "-n", "-f", "raw", device, "other.raw")
        self.image("convert", "t.qcow2", "want.raw")
        self.assertEqual((self.path / "other.raw").read_bytes()[:8 * MiB], (self.path / "want.raw").read_bytes())


if __name__ == "__main__":
    unittest.main()
