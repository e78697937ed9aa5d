"""What the tests of tidemark snapshot share: disks with patterns of their own, and what chains of files read."""
import json
import os

from bed import KiB, MiB, Bed

SIZE = 4 * MiB


class SnapshotBed(Bed):
    def make(self, *names):
        for name in names:
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", f"{name}.qcow2", SIZE)
            self.write(f"{name}.qcow2", 1)

    def write(self, name, seed):
        """A pattern of its own at a place of its own, and one that all share."""
        self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -q -P {seed} 0 256k", "-c", f"write -q -P {seed} {seed * 64}k 1M", name)

    def guest_writes(self, name, seed):
        disk = self.disk(name)
        disk.pwrite(bytes([seed]) * (256 * KiB), 0)
        disk.pwrite(bytes([seed]) * MiB, seed * 64 * KiB)
        disk.flush()
        disk.shutdown()

    def flat(self, name):
        self.lab.run("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", name, "flat.raw")
        return (self.path / "flat.raw").read_bytes()

    def offline(self):
        self.lab.env.pop("TIDEMARK_QMP", None)

    def snapshot(self, *words, expect=0):
        return self.fails("snapshot", *words, expect=expect) if expect else self.run_tidemark("snapshot", *words).stdout

    def chain(self, name):
        told = json.loads(self.lab.run("qemu-img", "info", "-U", "--backing-chain", "--output=json", name).stdout)
        return [os.path.basename(one["filename"]) for one in told]

    def names(self):
        return sorted(entry.name for entry in self.path.iterdir() if entry.name.endswith(("qcow2", "partial")))
