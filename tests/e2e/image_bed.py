"""What the tests of tidemark image share: both programs, and images that were written to."""
import json
import random

from bed import DONE, KiB, MiB, Bed

CORRUPT, LEAKS, CANNOT_CHECK = 2, 3, 63


class ImageBed(Bed):
    def image(self, *words, expect=DONE):
        return self.run_tidemark("image", *words, expect=expect)

    def qemu_img(self, *words, ok=(0,)):
        return self.lab.run("qemu-img", *words, ok=ok, timeout=60)

    def qemu_io(self, name, *commands, format="qcow2"):
        self.lab.run("qemu-io", "-f", format, *(word for command in commands for word in ("-c", command)), name, timeout=60)

    def raw_bytes(self, name):
        self.qemu_img("convert", "-O", "raw", name, "out.raw")
        return (self.path / "out.raw").read_bytes()

    def qemu_info(self, name, *words):
        return json.loads(self.qemu_img("info", "--output=json", *words, name).stdout)

    def qemu_check(self, name, expect=DONE):
        done = self.qemu_img("check", "--output=json", name, ok=None)
        self.assertEqual(done.returncode, expect, done.stdout + done.stderr)
        return json.loads(done.stdout)

    def make(self, name, *options, size="64M", seed=1, writes=40):
        """An image by qemu-img, written to here and there."""
        self.qemu_img("create", "-q", "-f", "qcow2", *options, name, size)
        self.scribble(name, seed, writes)
        return name

    def scribble(self, name, seed=1, writes=40, size=64 * MiB):
        rng = random.Random(seed)
        commands = []
        for n in range(writes):
            at, length = rng.randrange(size // 4096) * 4096, rng.choice([4, 64, 64, 256]) * KiB
            length = min(length, size - at)
            kind = rng.choice(["write -P %d" % rng.randrange(1, 256)] * 4 + ["write -z", "write -z -u", "discard"])
            commands.append(f"{kind} {at} {length}")
        self.qemu_io(name, *commands)

    def names(self):
        return sorted(entry.name for entry in self.path.iterdir())
