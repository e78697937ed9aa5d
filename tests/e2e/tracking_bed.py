"""A disk of the real daemon with persistent bitmaps, which is killed and started again."""
import subprocess

from bed import KiB, MiB, Bed
from lab import processes

DISK = 16 * MiB
GRANULE = 64 * KiB


class TrackingBed(Bed):
    def start(self, kind, *options, more="", stderr=False):
        """The disk `disk`, with `more` options of its node, and its export."""
        image = "disk.img" if kind == "raw" else "disk.qcow2"
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                                     "--blockdev", f"driver={kind},node-name=disk,file.driver=file,file.filename={image}{more}",
                                     "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on", *options,
                                     stderr=subprocess.PIPE if stderr else None, text=True)
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()
        self.until(lambda: self.client.execute("query-block-exports"), "the end of the command line")

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()
        self.lab.ended(self.daemon)
        for name in ("qmp.sock", "nbd.sock"):
            (self.path / name).unlink(missing_ok=True)

    def end(self):
        self.client.execute("quit")
        self.assertEqual(self.daemon.wait(20), 0)
        self.lab.ended(self.daemon)

    def bitmap(self, name):
        nodes = self.client.execute("query-named-block-nodes")
        found = [b for n in nodes if n["node-name"] == "disk" for b in n.get("dirty-bitmaps", ()) if b["name"] == name]
        return found[0] if found else None

    def add_bitmap(self, name):
        self.client.execute("block-dirty-bitmap-add", node="disk", name=name, persistent=True, granularity=GRANULE)
