"""Bitmaps of a daemon that was killed, and an image that tidemark image writes before the daemon is back: what was written
counts as changed, or the bitmap does not count.  Version 2 has no mark by which a store would see it."""
import unittest

from bed import KiB, MiB
from image_bed import ImageBed
from lab import processes

AT = 2 * MiB


class Marks(ImageBed):
    def setUp(self):
        super().setUp()
        self.lab.env.pop("TIDEMARK_QMP", None)

    def start(self, format):
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "chardev=c",
                                     "--blockdev", f"driver={format},node-name=disk,file.driver=file,file.filename=disk.{format}")
        processes.wait_for_socket(self.path / "qmp.sock", self.daemon)
        return self.qmp()

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()
        self.lab.ended(self.daemon)
        (self.path / "qmp.sock").unlink()

    def crashed(self, format):
        for name in self.names():
            (self.path / name).unlink()
        options = ["-o", "compat=0.10"] if format == "qcow2" else []
        self.qemu_img("create", "-q", "-f", format, *options, f"disk.{format}", "4M")
        self.start(format).execute("block-dirty-bitmap-add", node="disk", name="b", persistent=True, granularity=64 * KiB)
        self.kill()
        return f"disk.{format}"

    def bitmap(self, format):
        client = self.start(format)
        found = [b for n in client.execute("query-named-block-nodes") if n["node-name"] == "disk" for b in n.get("dirty-bitmaps", ())]
        self.kill()
        return found[0] if found else None

    def source(self):
        self.qemu_img("create", "-q", "-f", "raw", "new.raw", "4M")
        self.qemu_io("new.raw", f"write -P 85 {AT} 64k", format="raw")

    def overlay(self, disk, format):
        self.qemu_img("create", "-q", "-f", "qcow2", "-b", disk, "-F", format, "over.qcow2")
        self.qemu_io("over.qcow2", f"write -P 85 {AT} 64k")

    def write(self, how, disk, format):
        if how == "convert":
            self.source()
            self.image("convert", "-n", "-O", format, "new.raw", disk)
        elif how == "resize":
            self.image("resize", "-f", format, "--shrink", disk, str(AT))
            self.image("resize", "-f", format, disk, "4M")
        else:
            self.overlay(disk, format)
            self.run_tidemark(*(("image", "commit", "over.qcow2") if how == "commit" else ("chain", "commit", "over.qcow2", "[0]")))

    def test_what_is_written_is_marked(self):
        for format in ("raw", "qcow2"):
            for how in ("convert", "commit", "chain commit", "resize"):
                with self.subTest(how, format=format):
                    disk = self.crashed(format)
                    self.write(how, disk, format)
                    after = self.bitmap(format)
                    self.assertGreaterEqual(after["count"], (4 * MiB - AT) if how == "resize" else 64 * KiB, after)

    def test_a_bitmap_of_version_2_does_not_count_in_version_3(self):
        disk = self.crashed("qcow2")
        before = {name: (self.path / name).read_bytes() for name in (disk, disk + ".tidemark")}
        self.assertIn("remove it first", self.fails("image", "amend", "-o", "compat=1.1", disk))
        self.assertEqual({name: (self.path / name).read_bytes() for name in before}, before)
        (self.path / (disk + ".tidemark")).unlink()
        self.image("amend", "-o", "compat=1.1", disk)
        self.source()
        self.image("convert", "-n", "-O", "qcow2", "new.raw", disk)
        after = self.bitmap("qcow2")
        self.assertTrue(after is None or after.get("inconsistent"), after)

    def test_reading_changes_nothing(self):
        disk = self.crashed("qcow2")
        self.overlay(disk, "qcow2")
        before = {name: (self.path / name).read_bytes() for name in (disk, disk + ".tidemark")}
        for words in (["convert", disk, "copy.raw"], ["map", "over.qcow2"], ["compare", disk, disk], ["check", disk], ["info", disk]):
            self.image(*words)
        self.assertEqual({name: (self.path / name).read_bytes() for name in before}, before)
        self.assertEqual(self.bitmap("qcow2")["count"], 0)


if __name__ == "__main__":
    unittest.main()
