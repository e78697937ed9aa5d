"""A flush that fails once: whoever asked for it, everyone who has written to the disk hears of it at the next flush, once."""
import unittest

import nbd
from bed import MiB, Bed
from lab import processes
from lab.qmp import QmpError

DISK = 4 * MiB

# Its next flush fails when there is a file 'broken'.
SERVER = ["nbdkit", "-f", "-U", "target.sock", "eval", f"get_size=echo {DISK}", "can_write=exit 0", "can_flush=exit 0",
          "pread=dd if=stored.img iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none",
          "pwrite=dd of=stored.img oflag=seek_bytes seek=$4 conv=notrunc status=none",
          "flush=if rm broken 2>/dev/null; then rm slow 2>/dev/null && sleep 1; echo 'EIO the cache is gone' >&2; exit 1; fi"]


class FlushFailure(Bed):
    def setUp(self):
        super().setUp()
        self.raw("stored.img", DISK)
        self.raw("other.img", DISK)
        self.server = self.lab.start(*SERVER)
        self.addCleanup(self.server.kill)
        processes.wait_for_socket(self.path / "target.sock", self.server)
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                                     "--blockdev", "driver=nbd,node-name=stored,server.type=unix,server.path=target.sock",
                                     "--blockdev", "driver=raw,node-name=disk,file=stored",
                                     "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on",
                                     "--export", "nbd,id=beside,node-name=disk,name=beside,writable=on")
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()
        self.guest, self.beside = self.disk("disk"), self.disk("beside")
        self.guest.pwrite(b"1" * 4096, 0)
        self.beside.pwrite(b"1" * 4096, 4096)

    def break_next(self):
        (self.path / "broken").touch()

    def assert_told(self, guest):
        with self.assertRaises(nbd.Error) as caught:
            guest.flush()
        self.assertEqual(caught.exception.errno, "EIO")
        guest.flush()

    def assert_failed_flush(self):
        self.assertFalse((self.path / "broken").exists(), "nobody has flushed")

    def test_of_another_client(self):
        self.break_next()
        self.assert_told(self.beside)
        self.assert_told(self.guest)

    def test_of_clients_that_share_an_export(self):
        """One that has come since is told nothing."""
        other = self.disk("disk")
        other.flush()
        self.guest.pwrite(b"2" * 4096, 0)
        self.break_next()
        self.assert_told(self.guest)
        late = self.disk("disk")
        late.flush()
        self.assert_told(other)

    def test_of_one_that_comes_again(self):
        """Its connection is lost while its flush fails: nobody has heard of that."""
        (self.path / "slow").touch()
        self.break_next()
        self.guest.aio_flush()
        while (self.path / "slow").exists():
            self.guest.poll(10)
        del self.guest
        again = self.disk("disk")
        self.assert_told(again)
        self.disk("disk").flush()

    def test_of_what_is_durable(self):
        self.guest.flush()
        self.beside.flush()
        self.break_next()
        with self.assertRaises(nbd.Error):
            self.beside.flush()
        self.guest.flush()

    def test_of_a_snapshot(self):
        self.break_next()
        with self.assertRaises(QmpError):
            self.client.execute("blockdev-snapshot-sync", node_name="disk", snapshot_file=str(self.path / "top.qcow2"),
                                snapshot_node_name="top")
        self.assert_failed_flush()
        self.assertFalse((self.path / "top.qcow2").exists())
        self.assert_told(self.guest)
        self.assert_told(self.beside)

    def test_of_a_reopen(self):
        self.client.execute("blockdev-add", driver="file", node_name="other", filename=str(self.path / "other.img"))
        self.break_next()
        raw = {"driver": "raw", "node-name": "disk"}
        with self.assertRaises(QmpError):
            self.client.execute("blockdev-reopen", options=[{**raw, "file": "other"}])
        self.assert_failed_flush()
        self.assertEqual(self.guest.pread(4096, 0), b"1" * 4096)
        self.assert_told(self.guest)
        self.client.execute("blockdev-reopen", options=[{**raw, "file": "other"}])
        self.assertNotEqual(self.guest.pread(4096, 0), b"1" * 4096)
        self.assert_told(self.beside)             # of what it had written before

    def test_of_a_backup(self):
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b")
        self.guest.pwrite(b"2" * 4096, 0)
        self.client.execute("blockdev-add", driver="file", node_name="other", filename=str(self.path / "other.img"))
        self.break_next()
        self.client.execute("blockdev-backup", job_id="j", device="disk", target="other", sync="incremental", bitmap="b",
                            auto_dismiss=False)
        self.assertEqual(self.client.wait_job("j")["error"], "Input/output error")
        self.assert_failed_flush()
        node = next(n for n in self.client.execute("query-named-block-nodes") if n["node-name"] == "disk")
        self.assertEqual(node["dirty-bitmaps"][0]["count"], DISK)         # it began with what may be lost now
        self.assert_told(self.guest)
        self.assert_told(self.beside)


if __name__ == "__main__":
    unittest.main()
