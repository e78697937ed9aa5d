"""Storage that does not answer, while somebody wants what stands on it to end."""
import signal
import subprocess
import unittest

import nbd
from bed import KiB, MiB, Bed
from lab import processes
from lab.qmp import QmpError

UNIX = {"type": "unix", "data": {"path": "nbd.sock"}}


class Hang(Bed):
    """A disk `good` that answers, and one whose storage does not."""

    def setUp(self):
        super().setUp()
        self.raw("good.raw", 2 * MiB)

    def start(self, *options):
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "c",
                                     *options, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.daemon.stderr.close)
        self.addCleanup(self.lab.stop, self.daemon, signal.SIGKILL)
        processes.wait_for_socket(self.path / "qmp.sock", self.daemon)
        self.client = self.qmp()
        self.client.execute("blockdev-add", driver="raw", node_name="good", file={"driver": "file", "filename": "good.raw"})
        self.client.execute("nbd-server-start", addr=UNIX)
        self.export("good")

    def export(self, node, **options):
        self.client.execute("block-export-add", type="nbd", node_name=node, **{"id": node, "name": node, "writable": True, **options})

    def add_stopped(self):
        """A disk `hung` whose server is stopped, with a guest's write under way."""
        self.server = self.lab.start("nbdkit", "-f", "-U", self.path / "kit.sock", "memory", "2M")
        self.addCleanup(self.lab.stop, self.server, signal.SIGKILL)
        processes.wait_for_socket(self.path / "kit.sock", self.server)
        self.client.execute("blockdev-add", driver="nbd", node_name="hung", server={"type": "unix", "path": "kit.sock"})
        self.export("hung")
        self.guest = self.disk("hung")
        self.guest.pwrite(b"a" * 512, 0)
        self.server.send_signal(signal.SIGSTOP)
        self.write_first(self.guest)

    def write_first(self, guest):
        """Begins to write to the first sector."""
        guest.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"h" * 512)), 0)
        while guest.aio_peek_command_completed() == 0 and guest.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
            guest.poll(100)

    def assert_gone(self, guest):
        """The server has closed the connection, though it has not answered."""
        with self.assertRaises(nbd.Error):
            while not guest.aio_is_dead() and not guest.aio_is_closed():
                self.assertNotEqual(guest.poll(20000), 0, "the connection is still there")
            guest.pread(512, 4 * KiB)

    def ids(self):
        return {export["id"] for export in self.client.execute("query-block-exports")}

    def test_a_server_stops_though_a_request_hangs(self):
        self.start()
        self.add_stopped()
        self.client.execute("nbd-server-stop")
        self.assert_gone(self.guest)
        self.assertEqual(self.ids(), {"hung"})
        self.client.wait_event("BLOCK_EXPORT_DELETED", id="good")
        self.client.execute("nbd-server-start", addr=UNIX)
        self.assert_taken()
        self.export("good")
        self.assertEqual(self.content("good"), (self.path / "good.raw").read_bytes())
        self.assert_freed()

    def test_an_export_is_removed_though_a_request_hangs(self):
        self.start()
        self.add_stopped()
        self.client.execute("block-export-del", id="hung", mode="hard")
        self.assert_gone(self.guest)
        self.assert_taken()
        self.assert_freed()

    def assert_taken(self):
        """By the request that hangs: the node, and the export's id, but not its name."""
        with self.assertRaisesRegex(QmpError, "Node hung is in use by export 'hung'"):
            self.client.execute("blockdev-del", node_name="hung")
        with self.assertRaisesRegex(QmpError, "id 'hung' is already in use: requests of its clients are still under way"):
            self.export("hung")
        self.export("good", id="other", name="hung", writable=False)
        self.assertEqual(self.disk("hung").pread(512, 0), (self.path / "good.raw").read_bytes()[:512])

    def assert_freed(self):
        """By an answer."""
        self.server.send_signal(signal.SIGCONT)
        self.client.wait_event("BLOCK_EXPORT_DELETED", id="hung")
        self.export("hung", name="again")
        self.assertEqual(self.disk("again").pread(512, 0), b"h" * 512)
        self.client.events.clear()
        self.client.execute("block-export-del", id="hung", mode="hard")
        self.client.wait_event("BLOCK_EXPORT_DELETED", id="hung")
        self.client.execute("blockdev-del", node_name="hung")


if __name__ == "__main__":
    unittest.main()
