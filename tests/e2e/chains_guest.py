"""A guest at work on a disk of a chain."""
import random
import threading

import nbd


class Writer(threading.Thread):
    """A guest, and what its disk holds; it ends when it is told to, or when the daemon is gone."""

    def __init__(self, uri, content, seed):
        super().__init__(daemon=True)
        self.uri, self.content, self.rng, self.ended = uri, bytearray(content), random.Random(seed), False

    def run(self):
        disk = nbd.NBD()
        disk.connect_uri(self.uri)
        while not self.ended:
            at, length = self.rng.randrange(len(self.content) // 512 - 64) * 512, 512 * self.rng.randrange(1, 64)
            data = self.rng.randbytes(length)
            disk.pwrite(data, at)
            self.content[at:at + length] = data
        disk.shutdown()

    def stop(self):
        self.ended = True
        self.join(20)
        return bytes(self.content)
