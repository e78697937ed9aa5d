"""What the NBD interop tests share: a server over a file in a directory of its own, and peers run with a limit."""
import os
import pathlib
import random
import subprocess
import tempfile
import unittest

SERVE = os.environ.get("NBD_SERVE", "./nbd_serve")
LIMIT = 60                       # seconds that any one program may take
MIB = 1 << 20


def run(*command, ok=True):
    """Runs a program to its end; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if ok and done.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


class ServerTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="tidemark-nbd-")
        self.path = pathlib.Path(self.directory.name)
        self.addCleanup(self.directory.cleanup)

    def make_disk(self, size=16 * MIB, data=((0, MIB), (3 * MIB, 65536), (15 * MIB, MIB)), name="disk"):
        """A sparse file with random data at (offset, length) places."""
        path = self.path / name
        source = random.Random(7)
        with open(path, "wb") as file:
            file.truncate(size)
            for offset, length in data:
                file.seek(offset)
                file.write(source.randbytes(length))
        return path

    def serve(self, disk, *options, socket=None):
        """Starts a server that ends with the test; returns its URI."""
        socket = socket or self.path / f"{disk.name}.sock"
        server = subprocess.Popen([SERVE, *options, str(socket), str(disk)], stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.stop, server)
        words = server.stdout.readline().split()
        self.assertEqual(words[:1], ["ready"])
        self.server = server
        return words[1]

    def stop(self, server):
        server.terminate()
        self.assertEqual(server.wait(LIMIT), 0)
        server.stdout.close()
