"""Backups to a target behind NBD that hangs, goes away, comes back, fills up, fails or talks nonsense: the guest goes
on, the job says what happened, and nobody waits for who does not answer."""
import os
import signal
import socket
import subprocess
import threading
import time
import unittest

import nbd
from bed import DONE, MiB, Bed, first_difference
from lab import processes
from lab.qmp import QmpError

DISK = 16 * MiB


class Target(Bed):
    def setUp(self):
        super().setUp()
        self.raw("disk.img", DISK)
        with open(self.path / "copy.img", "wb") as file:
            file.truncate(DISK)
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                     "--monitor", "chardev=c", "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                                     "--blockdev", "driver=raw,node-name=disk,file.driver=file,file.filename=disk.img",
                                     "--export", "nbd,id=disk,node-name=disk,name=disk,writable=on")
        for name in ("qmp.sock", "nbd.sock"):
            processes.wait_for_socket(self.path / name, self.daemon)
        self.client = self.qmp()
        self.point = (self.path / "disk.img").read_bytes()

    # The target's server

    def serve_target(self, *words, before=()):
        filters = [word for word in words if word.startswith("--")]
        self.server = self.lab.start(*before, "nbdkit", "-f", "-U", "target.sock", *filters, "file", "file=copy.img",
                                     *[word for word in words if word not in filters],
                                     stderr=subprocess.DEVNULL)
        self.addCleanup(self.server.kill)        # asked kindly it would wait for the daemon to disconnect
        if not before:
            processes.wait_for_socket(self.path / "target.sock", self.server)

    def lose_server(self):
        self.server.kill()
        self.server.wait()
        self.lab.ended(self.server)
        (self.path / "target.sock").unlink()

    def add_target(self, **options):
        self.client.execute("blockdev-add", driver="nbd", node_name="target",
                            server={"type": "unix", "path": str(self.path / "target.sock")}, **options)

    def start_backup(self, **options):
        self.client.execute("blockdev-backup", job_id="j", device="disk", target="target", sync="full",
                            auto_dismiss=False, **options)

    def job(self):
        return self.client.execute("query-jobs")[0]

    def until_copied(self, size):
        self.until(lambda: self.job()["current-progress"] >= size, f"{size} bytes copied")

    def concluded(self, patience=20):
        self.until(lambda: self.job()["status"] == "concluded", "the end of the job", patience)
        job = self.job()
        self.client.execute("job-dismiss", id="j")
        return job

    def hang_in_a_backup(self, reconnect_delay=0, **options):
        self.serve_target("--filter=rate", "rate=64M", "burstiness=0.1")
        self.add_target(reconnect_delay=reconnect_delay)
        # Else all of this small disk would be with the server before it hangs.
        self.start_backup(x_perf={"max-workers": 2}, **options)
        self.until_copied(1 * MiB)
        processes.halt(self.server)
        time.sleep(0.2)                          # so that requests are with a server that has stopped

    def assert_disk_works(self):
        disk = self.disk()
        disk.pwrite(b"guest" + bytes(4091), 5 * MiB)
        self.assertEqual(disk.pread(5, 5 * MiB), b"guest")
        disk.flush()
        disk.shutdown()

    def assert_backup_works(self):
        """To a server that is there again, by the node that was there all the time."""
        def done():
            self.start_backup()
            return "error" not in self.concluded()

        self.until(done, "a backup to the target that is back", 60)
        self.assertEqual(first_difference((self.path / "copy.img").read_bytes(), self.content()), None)

    def first_read(self):
        """Of the node by which it was written before: it has sent then what it sends again."""
        self.client.execute("nbd-server-add", device="target")
        handle, read = self.disk("target"), []

        def reads():
            try:
                read.append(handle.pread(4096, 0))
            except nbd.Error:
                return False
            return True

        self.until(reads, "a connection to the server that is back", 40)
        handle.shutdown()
        return read[0]

    # What happens to it

    def test_cancelled_while_it_hangs(self):
        for how in ("job-cancel", "block-job-cancel"):
            with self.subTest(how):
                self.hang_in_a_backup()
                self.assert_disk_works()
                begin = time.monotonic()
                if how == "job-cancel":
                    self.client.execute(how, id="j")
                else:
                    self.client.execute(how, device="j", force=True)
                self.assertEqual(self.concluded(5)["error"], "Operation canceled")
                self.assertLess(time.monotonic() - begin, 5)
                self.assert_disk_works()
                self.client.execute("blockdev-del", node_name="target")
                self.lose_server()

    def test_cancelled_while_it_hangs_with_a_bitmap_that_would_tell_what_it_has(self):
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b")
        self.hang_in_a_backup(reconnect_delay=600, bitmap="b", bitmap_mode="always")
        begin = time.monotonic()
        self.client.execute("job-cancel", id="j")
        self.assertEqual(self.concluded(20)["error"], "Operation canceled")
        self.assertLess(time.monotonic() - begin, 10)
        self.assert_disk_works()
        self.client.execute("blockdev-del", node_name="target")

    def test_a_guest_goes_on_while_it_hangs(self):
        self.hang_in_a_backup(reconnect_delay=600)
        self.assertEqual(self.job()["staging"], {"staged": 0, "spilled": 0, "budget": 4096 * MiB})
        begin = time.monotonic()
        disk = self.disk()
        written = range(8 * MiB, DISK, 64 * 1024)
        for offset in written:
            disk.pwrite(b"guest" + bytes(4091), offset)
        disk.flush()
        self.client.execute("block-dirty-bitmap-add", node="disk", name="b")     # which drains the disk
        self.assertLess(time.monotonic() - begin, 10)
        staged = self.job()["staging"]["staged"]             # what was zero costs nothing
        self.assertTrue(0 < staged <= len(written) * 4096, staged)
        self.server.send_signal(signal.SIGCONT)
        self.assertNotIn("error", self.concluded(60))
        self.assertEqual(first_difference((self.path / "copy.img").read_bytes(), self.point), None)
        for offset in written:
            self.assertEqual(disk.pread(5, offset), b"guest")
        disk.shutdown()

    def test_a_backup_fails_when_it_cannot_stage_more(self):
        self.serve_target("--filter=rate", "rate=64M", "burstiness=0.1")
        self.add_target()
        for options, error in (({"spill": False, "staging_memory": 1}, "staging-memory must be between"),
                               ({"spill_directory": "nowhere"}, "no scratch file for staging can be made"),
                               ({"spill": False, "spill_directory": "/tmp"}, "makes no sense")):
            with self.assertRaises(QmpError) as caught:
                self.start_backup(**options)
            self.assertIn(error, caught.exception.desc)
        self.start_backup(spill=False, staging_memory=4 * MiB, x_perf={"max-workers": 2})
        self.until_copied(1 * MiB)
        processes.halt(self.server)
        time.sleep(0.2)
        disk = self.disk()
        disk.pwrite(os.urandom(12 * MiB), 4 * MiB)
        self.assertEqual(self.concluded()["error"], "staging is full: 4 MiB of data that the guest has overwritten "
                         "wait for the target; make staging-memory larger, or allow spill")
        disk.shutdown()
        self.assert_disk_works()

    def test_the_daemon_ends_while_it_hangs(self):
        self.hang_in_a_backup(reconnect_delay=600)
        begin = time.monotonic()
        self.client.execute("quit")
        self.assertEqual(self.daemon.wait(20), DONE)
        self.assertLess(time.monotonic() - begin, 10)

    def test_the_daemon_is_told_to_end_while_the_disk_itself_hangs(self):
        self.serve_target()
        self.add_target()
        self.client.execute("nbd-server-add", device="target", writable=True)
        guest = self.disk("target")
        processes.halt(self.server)
        guest.aio_pwrite(b"x" * 4096, 0)
        time.sleep(0.2)
        begin = time.monotonic()
        self.daemon.terminate()
        self.daemon.wait(20)
        self.assertLess(time.monotonic() - begin, 10)

    def test_an_image_that_is_made_there_is_cancelled(self):
        self.serve_target()
        self.add_target()
        processes.halt(self.server)
        self.client.execute("blockdev-create", job_id="j", options={"driver": "qcow2", "file": "target", "size": MiB})
        time.sleep(0.2)
        self.client.execute("job-cancel", id="j")
        self.assertEqual(self.concluded(5)["error"], "Operation canceled")
        self.client.execute("blockdev-del", node_name="target")

    def test_reserving_what_storage_cannot_reserve_is_cancelled(self):
        self.client.execute("object-add", qom_type="throttle-group", id="slow", limits={"bps-write": MiB, "bps-write-max": MiB})
        self.client.execute("blockdev-add", driver="throttle", node_name="slow", throttle_group="slow",
                            file={"driver": "memory", "size": 256 * MiB})
        self.client.execute("blockdev-create", job_id="j", options={"driver": "qcow2", "file": "slow", "size": 128 * MiB,
                                                                    "preallocation": "falloc"})
        time.sleep(0.2)
        self.client.execute("job-cancel", id="j")
        self.assertEqual(self.concluded()["error"], "Operation canceled")

    def test_goes_away_in_mid_request(self):
        self.hang_in_a_backup()
        self.lose_server()
        self.assertEqual(self.concluded()["error"], "Input/output error")
        self.assert_disk_works()
        self.serve_target()
        self.assert_backup_works()

    def test_comes_back_within_the_reconnect_delay(self):
        self.hang_in_a_backup(reconnect_delay=60)
        self.lose_server()
        time.sleep(0.5)
        self.assertEqual(self.job()["status"], "running")
        self.serve_target()
        self.assertNotIn("error", self.concluded(60))
        self.assertEqual(first_difference((self.path / "copy.img").read_bytes(), self.point), None)

    def test_does_not_come_back_within_the_reconnect_delay(self):
        self.hang_in_a_backup(reconnect_delay=2)
        begin = time.monotonic()
        self.lose_server()
        self.assertEqual(self.concluded()["error"], "Input/output error")
        self.assertGreater(time.monotonic() - begin, 1)
        self.assert_disk_works()

    def test_cancelled_while_it_waits_for_it_to_come_back(self):
        self.hang_in_a_backup(reconnect_delay=600)
        self.lose_server()
        time.sleep(0.5)
        self.client.execute("job-cancel", id="j")
        self.assertIn("error", self.concluded(5))
        self.assert_disk_works()

    def test_a_failed_backup_writes_nothing_over_a_later_one(self):
        self.hang_in_a_backup()
        self.lose_server()
        self.assertIn("error", self.concluded())
        guest = self.disk()
        guest.pwrite(bytes(4 * MiB), 0)
        guest.shutdown()
        time.sleep(4)                            # it tries to connect after 1, 2 and 4 seconds
        self.serve_target()
        self.client.execute("blockdev-add", driver="nbd", node_name="later",
                            server={"type": "unix", "path": str(self.path / "target.sock")})
        self.client.execute("blockdev-backup", job_id="j", device="disk", target="later", sync="full", auto_dismiss=False)
        self.assertNotIn("error", self.concluded())
        self.first_read()
        self.assertEqual(first_difference((self.path / "copy.img").read_bytes(), self.content()), None)

    def test_what_could_not_be_flushed_is_not_written_once_it_is_inactive(self):
        self.client.execute("object-add", qom_type="iothread", id="t")
        for where in ({}, {"iothread": "t"}):
            with self.subTest(where):
                self.flush_in_vain_and_inactivate(**where)
                self.client.execute("nbd-server-remove", name="target")
                self.client.execute("blockdev-del", node_name="target")
                self.lose_server()

    def flush_in_vain_and_inactivate(self, **where):
        self.serve_target()
        self.add_target()
        self.client.execute("block-export-add", type="nbd", id="target", node_name="target", writable=True, **where)
        guest = self.disk("target")
        guest.pwrite(b"1" * 4096, 0)
        self.lose_server()
        with self.assertRaises(nbd.Error):
            guest.flush()
        guest.shutdown()
        self.client.execute("nbd-server-remove", name="target")
        self.client.execute("blockdev-set-active", node_name="target", active=False)
        with open(self.path / "copy.img", "r+b") as file:
            file.write(b"2" * 4096)
        self.serve_target()
        self.client.execute("blockdev-set-active", node_name="target", active=True)
        self.assertEqual(self.first_read(), b"2" * 4096)

    def test_answers_with_errors(self):
        for number, text in (("EIO", "Input/output error"), ("ENOSPC", "No space left on device")):
            with self.subTest(number):
                self.serve_target("--filter=error", f"error-pwrite={number}", "error-pwrite-rate=100%")
                self.add_target()
                self.start_backup()
                self.assertEqual(self.concluded()["error"], text)
                self.assert_disk_works()
                self.client.execute("blockdev-del", node_name="target")
                self.lose_server()

    def test_is_full_until_there_is_space(self):
        full = self.path / "full"
        full.touch()
        self.serve_target("--filter=error", "error-pwrite=ENOSPC", "error-pwrite-rate=100%", f"error-pwrite-file={full}")
        self.add_target()
        self.start_backup(on_target_error="enospc")
        self.until(lambda: self.job()["status"] == "paused", "the job waits for space")
        device, = self.client.execute("query-block-jobs")
        self.assertEqual(device["io-status"], "nospace")
        self.assert_disk_works()
        full.unlink()
        self.client.execute("job-resume", id="j")
        self.assertNotIn("error", self.concluded())
        self.assertEqual(first_difference((self.path / "copy.img").read_bytes(), self.point), None)

    def test_is_no_nbd_server(self):
        for said in (b"", b"220 mail.example.org ESMTP\r\n" * 20, os.urandom(4096), b"NBDMAGICIHAVEOPT\x00\x03" + b"\xff" * 300):
            with self.subTest(said[:16]), socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(self.path / "target.sock"))
                listener.listen()
                talker = threading.Thread(target=say, args=(listener, said))
                talker.start()
                with self.assertRaises(QmpError) as caught:
                    self.add_target()
                self.assertIn("target.sock", caught.exception.desc)
                talker.join()
                (self.path / "target.sock").unlink()

    def test_is_not_there_yet(self):
        begin = time.monotonic()
        with self.assertRaises(QmpError):
            self.add_target()
        self.assertLess(time.monotonic() - begin, 1)
        self.serve_target(before=("sh", "-c", 'sleep 1; exec "$@"', "late"))
        self.add_target(open_timeout=30)
        self.start_backup()
        self.assertNotIn("error", self.concluded())


def say(listener, words):
    """To whoever connects first; then hangs up."""
    connection, _ = listener.accept()
    with connection:
        connection.sendall(words)


if __name__ == "__main__":
    unittest.main()
