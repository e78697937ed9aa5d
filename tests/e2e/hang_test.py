"""Storage that does not answer, while somebody wants what stands on it to end."""
import json
import signal
import socket
import subprocess
import unittest

import nbd
from bed import DONE, FAILED, KiB, MiB, Bed
from lab import processes
from lab.qmp import QmpError

LONG = 3600 * 10**9                              # in ns: longer than any test
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
        self.guest.pread(512, 0)
        processes.halt(self.server)
        self.write_first(self.guest)

    def add_slow(self):
        """A disk `hung` whose file does not answer writes to its first sector, and a guest."""
        self.raw("hung.raw", 2 * MiB)
        faults = {"event": "none", "iotype": "write", "errno": 0, "delay-ns": 3600 * 10**9, "sector": 0}
        self.client.execute("blockdev-add", driver="blkdebug", node_name="slow", inject_error=[faults],
                            image={"driver": "file", "filename": "hung.raw"})
        self.client.execute("blockdev-add", driver="raw", node_name="hung", file="slow")
        self.export("hung")
        self.guest = self.disk("hung")

    def write_first(self, guest):
        """Begins to write to the first sector.  What comes after it, and is refused, tells that it is under way."""
        guest.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"h" * 512)), 0)
        guest.set_strict_mode(0)
        with self.assertRaises(nbd.Error):
            guest.pread(512, 2 * MiB)

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

    def test_the_daemon_ends_though_a_request_hangs(self):
        """What has nothing to do with it is ended in order."""
        for how in ("SIGTERM", "quit"):
            with self.subTest(how):
                self.start("--end-patience", "1", "--pidfile", "pid")
                self.qcow2("image.qcow2", 2 * MiB)
                self.client.execute("blockdev-add", driver="qcow2", node_name="image", file={"driver": "file", "filename": "image.qcow2"})
                self.client.execute("block-dirty-bitmap-add", node="image", name="b", persistent=True)
                self.export("image")
                self.add_slow()
                for name in ("target", "target2"):
                    self.client.execute("blockdev-add", driver="null-co", node_name=name, size=2 * MiB)
                self.client.execute("blockdev-mirror", job_id="j", device="hung", target="target", sync="none")
                self.client.wait_event("BLOCK_JOB_READY", device="j")
                self.client.execute("blockdev-mirror", job_id="other", device="good", target="target2", sync="none")
                self.write_first(self.guest)
                image = self.disk("image")
                image.pwrite(b"i" * 64 * KiB, MiB)
                self.tell_to_end(how)
                status, _, err = self.end_of(self.daemon)
                self.assertEqual(status, FAILED)
                self.assertRegex(err, r"^tidemarkd: nothing has moved for 1 s: node 'slow', export 'hung', job 'j'; ended as if killed.*\n$")
                self.assertFalse((self.path / "pid").exists())
                self.assertFalse((self.path / "nbd.sock").exists())
                self.lab.run("qemu-img", "check", "-q", "image.qcow2")
                info = json.loads(self.lab.run("qemu-img", "info", "--output=json", "image.qcow2").stdout)
                bitmap, = info["format-specific"]["data"]["bitmaps"]
                self.assertEqual((bitmap["name"], bitmap["flags"]), ("b", ["auto"]))      # not in use: stored

    def tell_to_end(self, how):
        if how == "quit":
            self.client.execute("quit")
        else:
            self.daemon.send_signal(signal.SIGTERM)

    def test_the_daemon_ends_though_a_server_does_not_answer(self):
        """One that is asked over a connection need not: it is not waited for.  It may be asked for a last flush, or cut off before."""
        self.start()
        self.add_stopped()
        self.tell_to_end("SIGTERM")
        status, _, err = self.end_of(self.daemon)
        not_flushed = "tidemarkd: NBD server 'kit.sock': the server has not answered a flush; what was written before may not be durable\n"
        self.assertIn((status, err), [(DONE, ""), (FAILED, not_flushed)])

    def test_the_daemon_ends_though_a_command_hangs(self):
        self.start("--end-patience", "1")
        self.add_slow()
        self.write_first(self.guest)
        self.client.execute("blockdev-add", driver="null-co", node_name="target", size=2 * MiB)
        mirror = {"job-id": "j", "device": "hung", "target": "target", "sync": "none"}
        commands = {"execute": "qmp_capabilities"}, {"execute": "query-version"}, {"execute": "blockdev-mirror", "arguments": mirror}
        with socket.socket(socket.AF_UNIX) as monitor, monitor.makefile() as lines:
            monitor.connect(str(self.path / "qmp.sock"))
            monitor.sendall("".join(map(json.dumps, commands)).encode())
            while '"major"' not in lines.readline().partition("return")[2]:
                pass                                         # once this one is answered the last one has begun
            self.tell_to_end("SIGTERM")
            status, _, err = self.end_of(self.daemon)
        self.assertEqual(status, FAILED)
        self.assertRegex(err, r"^tidemarkd: nothing has moved for 1 s: .*node 'slow', .*a command; ended as if killed.*\n$")

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
