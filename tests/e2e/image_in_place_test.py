"""tidemark image convert into what is there: never at the cost of the source, and with its bitmaps."""
import json
import os
import random
import threading
import unittest

from bed import MiB
from image_bed import ImageBed


class Apart(ImageBed):
    def setUp(self):
        super().setUp()
        self.raw("r.raw", 8 * MiB)
        self.qcow2("b.qcow2")
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", "b.qcow2", "-F", "qcow2", "t.qcow2")
        self.qemu_io("t.qcow2", "write -P 2 3M 64k")
        (self.path / "link").symlink_to("r.raw")
        self.before = {name: (self.path / name).read_bytes() for name in self.names()}

    def test_zeroes_over_a_base_onto_a_device(self):
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", str(self.path / "b.qcow2"), "-F", "qcow2", "over.qcow2")
        self.qemu_io("over.qcow2", "write -P 0 0 1M", "write -z 4M 1M", "write -P 7 6M 64k")
        self.raw("device.img", 32 * MiB)
        device = self.loop_device(self.path / "device.img")
        self.image("convert", "-O", "qcow2", "-B", str(self.path / "b.qcow2"), "-F", "qcow2", "over.qcow2", device)
        self.assertIn("identical", self.qemu_img("compare", "-f", "qcow2", "-F", "qcow2", "over.qcow2", device).stdout)

    def test_a_source_that_others_write_to_is_not_taken_for_the_target(self):
        self.raw("live.raw", 8 * MiB)
        self.raw("t.raw", 8 * MiB, seed=7)
        ended = threading.Event()

        def write():
            with open(self.path / "live.raw", "r+b") as file:
                while not ended.is_set():
                    file.seek(random.randrange(512) * 4096)
                    file.write(random.randbytes(4096))
                    file.flush()
        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(5):
                self.image("convert", "-f", "raw", "-O", "raw", "-n", "-U", "live.raw", "t.raw")
        finally:
            ended.set()
            writer.join()

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

    def test_a_loop_device_on_the_source(self):
        device = self.loop_device("r.raw")
        self.refused("-f", "raw", "-n", "r.raw", device)
        self.refused("-f", "raw", "r.raw", device)
        self.refused("-f", "raw", "-O", "qcow2", "r.raw", device)
        self.refused("-f", "raw", "-n", device, "r.raw")
        self.refused("-f", "qcow2", "-n", "t.qcow2", self.loop_device("b.qcow2"))

    def test_a_server_that_shows_the_source(self):
        self.lab.start("qemu-nbd", "-f", "raw", "-k", str(self.path / "n.sock"), "-t", "r.raw")
        self.until(lambda: (self.path / "n.sock").exists(), "qemu-nbd")
        self.refused("-f", "raw", "-n", "-U", "r.raw", "nbd+unix:///?socket=n.sock")
        self.refused("-f", "raw", "-U", "r.raw", "nbd+unix:///?socket=n.sock")
        self.refused("-f", "raw", "-O", "qcow2", "-U", "r.raw", "nbd+unix:///?socket=n.sock")

    def test_a_loop_device_is_no_base_of_its_own_file(self):
        device = self.loop_device("b.qcow2")
        for words in (["create", "-f", "qcow2", "-b", device, "-F", "qcow2", "b.qcow2"], ["create", "-u", "-f", "qcow2", "-b", device, "-F", "raw",
                      "b.qcow2", "1M"], ["rebase", "-b", device, "-F", "raw", "b.qcow2"], ["rebase", "-u", "-b", device, "-F", "raw", "b.qcow2"],
                      ["create", "-f", "qcow2", "-b", self.path / "t.qcow2", "-F", "qcow2", device, "1M"], ["amend", "-o",
                      f"backing_file={device},backing_fmt=raw", "b.qcow2"], ["rebase", "-u", "-b", self.path / "b.qcow2", "-F", "qcow2", "-f", "qcow2", device]):
            self.assertRegex(self.fails("image", *words), "stands on '\\S+' itself, or is it", words)
            self.assertTrue((self.path / "b.qcow2").read_bytes() == self.before["b.qcow2"], words)

    def test_others_are_written(self):
        device = self.loop_device("r.raw")
        with open(self.path / "other.raw", "wb") as other:
            other.truncate(9 * MiB)
        self.image("convert", "-n", "t.qcow2", device)
        os.sync()
        self.image("convert", "-n", "-f", "raw", device, "other.raw")
        self.image("convert", "t.qcow2", "want.raw")
        self.assertEqual((self.path / "other.raw").read_bytes()[:8 * MiB], (self.path / "want.raw").read_bytes())


class Replaced(ImageBed):
    def test_owner_and_mode_stay(self):
        self.raw("r.raw", MiB)
        other = 65534 if os.geteuid() == 0 else os.geteuid()
        for mode in (0o644, 0o660, 0o600):
            for words in (["convert", "-O", "qcow2", "r.raw", "o"], ["create", "-f", "qcow2", "o", "1M"], ["create", "o", "1M"]):
                (self.path / "o").touch()
                (self.path / "o").chmod(mode)
                os.chown(self.path / "o", other, -1)
                self.image(*words)
                found = (self.path / "o").stat()
                self.assertEqual((found.st_mode & 0o777, found.st_uid), (mode, other), words)
                (self.path / "o").unlink()
                self.image(*words)
                self.assertEqual((self.path / "o").stat().st_mode & 0o777, 0o600, words)


class Bitmaps(ImageBed):
    """--bitmaps, wherever the target is; and those of the target itself."""

    def setUp(self):
        super().setUp()
        self.make("s.qcow2", size="2M", writes=0)
        self.qemu_img("bitmap", "--add", "s.qcow2", "b0")
        self.qemu_io("s.qcow2", "write -P 1 0 1M")
        self.device = {"driver": "file", "filename": "dev"}

    def dev(self, *bitmaps):
        """An image in something larger, like a device."""
        self.qemu_img("create", "-q", "-f", "qcow2", "dev", "2M")
        for name in bitmaps:
            self.qemu_img("bitmap", "--add", "dev", name)
        os.truncate(self.path / "dev", 8 * MiB)

    def bitmaps(self, name="dev"):
        found = json.loads(self.qemu_img("info", "-U", "--output=json", "-f", "qcow2", name).stdout)["format-specific"]["data"].get("bitmaps", [])
        self.assertTrue(all("in-use" not in bitmap["flags"] for bitmap in found), found)
        return sorted(bitmap["name"] for bitmap in found)

    def targets(self):
        """What leads to the file `dev`."""
        self.dev()
        server = self.lab.start("qemu-nbd", "-f", "raw", "-k", str(self.path / "n.sock"), "-t", "dev")
        self.until(lambda: (self.path / "n.sock").exists(), "qemu-nbd")
        yield "nbd+unix:///?socket=n.sock"
        server.terminate()
        server.wait()
        self.lab.ended(server)
        yield "json:" + json.dumps(self.device)
        yield "json:" + json.dumps({"driver": "qcow2", "file": self.device})
        yield "file:dev"

    def test_into_what_is_no_path(self):
        for target in self.targets():
            with self.subTest(target):
                if not target.startswith("nbd"):
                    self.dev("own")
                self.image("convert", "-O", "qcow2", "--bitmaps", "-n", "s.qcow2", target)
                self.assertEqual(self.bitmaps(), ["b0"] if target.startswith("nbd") else ["b0", "own"])
                self.image("convert", "-O", "qcow2", "--bitmaps", "s.qcow2", target)
                self.assertEqual(self.bitmaps(), ["b0"])
                self.assertIn("identical", self.qemu_img("compare", "-U", "-F", "qcow2", "s.qcow2", "dev").stdout)

    def test_their_own_stay(self):
        said = "json:" + json.dumps({"driver": "qcow2", "file": self.device})
        self.dev("own")
        self.image("resize", said, "3M")
        self.assertEqual(self.bitmaps(), ["own"])
        self.raw("r.raw", 2 * MiB)
        self.image("convert", "-n", "-O", "qcow2", "r.raw", said)
        self.assertEqual(self.bitmaps(), ["own"])
        self.image("bitmap", "--add", said, "more")
        self.assertEqual(self.bitmaps(), ["more", "own"])
        self.image("check", said)
        self.image("snapshot", "-c", "x", said)
        self.assertIn(" x ", self.image("snapshot", "-l", said).stdout)

    def test_what_cannot_be_copied_is_said_before_the_copy(self):
        self.assertIn("v2", self.fails("image", "convert", "-O", "qcow2", "-o", "compat=0.10", "--bitmaps", "s.qcow2", "n.qcow2"))
        self.raw("r.raw", 2 * MiB)
        self.assertIn("qcow2", self.fails("image", "convert", "-O", "qcow2", "--bitmaps", "r.raw", "n.qcow2"))
        server = self.lab.start("qemu-nbd", "-f", "qcow2", "-k", str(self.path / "n.sock"), "-t", "s.qcow2")
        self.until(lambda: "in-use" in self.qemu_img("info", "-U", "s.qcow2").stdout, "qemu-nbd, which has its socket before the image")
        self.assertIn("inconsistent", self.fails("image", "convert", "-U", "-O", "qcow2", "--bitmaps", "s.qcow2", "n.qcow2"))
        self.assertFalse((self.path / "n.qcow2").exists())
        self.image("convert", "-U", "-O", "qcow2", "--bitmaps", "--skip-broken-bitmaps", "s.qcow2", "n.qcow2")
        self.assertEqual(self.bitmaps("n.qcow2"), [])
        server.kill()
        server.wait()
        self.lab.ended(server)


if __name__ == "__main__":
    unittest.main()
