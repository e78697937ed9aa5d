"""How the daemon starts and ends: what it says, what it leaves, whom it waits for."""
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
import unittest

import nbd
from bed import DONE, FAILED, USAGE, Bed, MiB, first_difference
from lab import processes
from lab.qmp import Qmp


class Daemon(Bed):
    def daemon_fails(self, *words, expect=FAILED):
        done = self.lab.run(self.tidemarkd, *words, ok=None, timeout=20)
        self.assertEqual(done.returncode, expect, done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        return done.stderr

    def test_who_finds_a_pid_can_connect(self):
        for i in range(5):
            daemon = self.lab.start(self.tidemarkd, "--pidfile", f"{i}.pid", "--chardev", f"socket,id=c,path={i}.qmp,server=on,wait=off",
                                    "--monitor", "c")
            pidfile = self.path / f"{i}.pid"
            while not pidfile.exists() or not pidfile.read_text(encoding="ascii"):
                self.assertIsNone(daemon.poll())
            Qmp(self.path / f"{i}.qmp").close()
            self.lab.stop(daemon)
            self.assertFalse(pidfile.exists())

    def test_second_instance_on_a_pidfile(self):
        first = self.lab.start(self.tidemarkd, "--pidfile", "pid", "--chardev", "socket,id=c,path=a.qmp,server=on,wait=off",
                               "--monitor", "chardev=c")
        self.until(lambda: (self.path / "pid").exists() and (self.path / "pid").read_text(), "a pidfile")
        self.assertEqual(int((self.path / "pid").read_text()), first.pid)
        self.assertIn("pid", self.daemon_fails("--pidfile", "pid"))
        self.assertEqual(int((self.path / "pid").read_text()), first.pid)
        self.assertEqual(self.lab.stop(first), DONE)
        self.assertFalse((self.path / "pid").exists())

    def test_daemonize(self):
        self.raw("disk.img")
        done = self.lab.run(self.tidemarkd, "--daemonize", "--pidfile", "pid", "--blockdev",
                            "driver=raw,node-name=disk,file.driver=file,file.filename=disk.img",
                            "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--export",
                            "type=nbd,id=e,node-name=disk,name=disk", ok=None, timeout=20)
        self.assertEqual(done.returncode, DONE, done.stderr)
        pid = int((self.path / "pid").read_text())
        try:
            self.assertEqual(first_difference(self.content(), (self.path / "disk.img").read_bytes()), None)
        finally:
            os.kill(pid, signal.SIGTERM)
        self.until(lambda: not (self.path / "pid").exists(), "the daemon's end")

    def test_what_cannot_start_says_why_and_leaves_nothing(self):
        self.assertIn("nothing.img", self.daemon_fails("--blockdev", "driver=file,node-name=f,filename=nothing.img"))
        self.assertIn("nothing.img", self.daemon_fails("--daemonize", "--blockdev", "driver=file,node-name=f,filename=nothing.img"))
        for words in (["--blockdev", "driver=nonsense,node-name=f"], ["--nonsense"], ["nonsense"], ["--daemonize", "--nonsense"],
                      ["--export", "nbd,id=e,node-name=n,writable=nonsense"]):
            self.assertIn("nonsense", self.daemon_fails(*words, expect=USAGE))
        self.daemon_fails("--pidfile", expect=USAGE)
        self.assertIn("nonsense", self.daemon_fails("--aio", "nonsense", expect=USAGE))
        self.daemon_fails("--nbd-server", "addr.type=inet,addr.host=127.0.0.1,addr.port=99999")
        self.daemon_fails("--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--export", "type=nbd,id=e,node-name=none")
        self.assertFalse((self.path / "nbd.sock").exists())

    def test_the_option_that_failed_is_named(self):
        self.raw("disk.img", 1 * MiB)
        null, disk = "null-co,node-name=n,size=1048576", "file,node-name=n,filename=disk.img"
        for given, reason in ((["--blockdev", null, "--export", "nbd,id=e,node-name=n"], "NBD server not running"),
                              (["--monitor", "c"], 'chardev "c" not found'),
                              (["--blockdev", disk, "--blockdev", disk], "Duplicate nodes with node-name='n'"),
                              (["--blockdev", "file,node-name=,filename=none.img"], "Invalid node-name: ''"),
                              (["--object", "iothread,id=t", "--object", "iothread,id=t"], "duplicate property 't'")):
            error = self.daemon_fails(*given)
            self.assertTrue(error.startswith(f"tidemarkd: {given[-2]} {given[-1]}: "), error)
            self.assertIn(reason, error)
        self.assertEqual(self.daemon_fails("--pidfile", "", expect=USAGE), "tidemarkd: --pidfile '': the path is empty\n")

    def test_a_character_device_without_a_monitor(self):
        """It is there as soon as its option has been carried out, and goes with the daemon."""
        daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", stderr=subprocess.PIPE, text=True)
        self.until((self.path / "qmp.sock").exists, "a socket")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.path / "qmp.sock"))
            daemon.send_signal(signal.SIGTERM)
            self.assertEqual(self.end_of(daemon)[0::2], (DONE, ""))
        self.assertFalse((self.path / "qmp.sock").exists())
        self.assertIn("No such file or directory", self.daemon_fails("--chardev", "socket,id=c,path=none/qmp.sock,server=on,wait=off"))
        self.assertIn("No such file or directory", self.daemon_fails("--chardev", "socket,id=c,path=qmp.sock"))

    def test_a_client_that_is_waited_for_comes_before_what_follows(self):
        daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on",
                                "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--monitor", "c")
        self.until((self.path / "qmp.sock").exists, "a socket")
        self.assertFalse((self.path / "nbd.sock").exists())
        self.qmp().execute("quit")
        self.assertEqual(self.end_of(daemon)[0], DONE)

    def test_character_devices_that_are_refused(self):
        listening = "server=on,wait=off"
        for given, reason in ((f"port=1,{listening}", "host=localhost, or host=0.0.0.0 for all interfaces"),
                              (f"path=q,host=localhost,port=1,{listening}", "a path or a host, not both"),
                              (f"host=localhost,{listening}", "a host needs a port"), (f"path=,{listening}", "the path is empty"),
                              ("path=q,wait=on", "'wait' option is incompatible with socket in client connect mode")):
            error = self.daemon_fails("--chardev", "socket,id=c," + given, "--monitor", "c")
            self.assertEqual((reason in error, error.count("\n")), (True, 1), error)
        self.assertIn("Parameter 'id' expects an identifier", self.daemon_fails("--chardev", f"socket,id=1,path=q,{listening}"))
        twice = self.daemon_fails("--chardev", f"socket,id=c,path=q,{listening}", "--monitor", "c", "--monitor", "c")
        self.assertIn("Device 'c' is in use", twice)
        self.assertFalse((self.path / "q").exists())

    def test_told_to_end_while_it_waits_for_a_client(self):
        daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on", "--monitor", "c",
                                stderr=subprocess.PIPE, text=True)
        self.until((self.path / "qmp.sock").exists, "a socket")
        daemon.send_signal(signal.SIGTERM)
        self.assertEqual(self.end_of(daemon)[0::2], (DONE, ""))
        self.assertFalse((self.path / "qmp.sock").exists())

    def test_signals_that_come_together_end_it_in_order(self):
        """As a service manager sends them; one that comes later ends it at once."""
        self.raw("disk.img")
        for signals in ((signal.SIGTERM, signal.SIGHUP), (signal.SIGINT, signal.SIGINT)):
            self.start_with_a_target()
            job = dict(job_id="j", device="disk", target="target", sync="full", speed=65536)
            self.client.execute("blockdev-backup", **job)
            for number in signals:
                self.daemon.send_signal(number)
            self.assertEqual(self.end_of(self.daemon)[0], DONE)

    def start_with_a_target(self):
        self.daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server,nowait", "--monitor", "c",
                                     "--blockdev", "file,node-name=disk,filename=disk.img",
                                     "--blockdev", "null-co,node-name=target,size=8388608")
        processes.wait_for_socket(self.path / "qmp.sock", self.daemon)
        self.client = self.qmp()

    def serve_within(self, *limits, direct="off"):
        for aio in ("io_uring", "threads"):
            with self.subTest(aio):
                daemon = self.lab.start(*limits, self.tidemarkd, "--aio", aio, "--blockdev", f"file,node-name=disk,filename=disk.img,cache.direct={direct}",
                                        "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                                        "--export", "nbd,id=e,node-name=disk,name=disk,writable=on")
                processes.wait_for_socket(self.path / "nbd.sock", daemon)
                yield self.disk("disk")
                self.assertEqual(self.lab.stop(daemon), DONE)

    def test_a_write_beyond_its_limits_is_an_error(self):
        """No signal that ends it; also when nothing else is under way, and the main thread writes."""
        self.raw("disk.img")
        for guest in self.serve_within("prlimit", f"--fsize={MiB}"):
            for _ in range(5):
                guest.pwrite(b"1" * 4096, 0)
                time.sleep(0.1)
                with self.assertRaises(nbd.Error) as caught:
                    guest.pwrite(b"1" * 4096, 2 * MiB)
                self.assertEqual(caught.exception.errno, "ENOSPC")
            self.assertEqual(guest.pread(4096, 0), b"1" * 4096)

    def test_where_there_is_no_thread_to_be_had(self):
        self.path.chmod(0o777)
        with open(self.path / "disk.img", "wb") as file:
            file.truncate(64 * MiB)
        os.chmod(self.path / "disk.img", 0o666)
        limits = ("setpriv", "--reuid=64321", "--regid=64321", "--clear-groups", "prlimit", "--nproc=1")
        if os.geteuid() or self.lab.run(*limits, self.tidemarkd, "--version", ok=None).returncode:
            self.skipTest("cannot be run as somebody else here")
        for guest in self.serve_within(*limits, direct="on"):
            for i in range(8):
                guest.pwrite(bytes([i + 1]) * MiB, i * 4 * MiB)
            for i in range(8):
                self.assertEqual(guest.pread(MiB, i * 4 * MiB), bytes([i + 1]) * MiB)

    def corrupt(self, name):
        """An image whose first cluster is where none can be."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", name, "1M")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write 0 64k", name)
        with open(self.path / name, "r+b") as image:
            entry_at = 40                                    # of the L1 table's place; then of its first entry; then of the L2 table's
            for _ in range(2):
                image.seek(entry_at)
                entry_at = struct.unpack(">Q", image.read(8))[0] & 0x00fffffffffffe00
            image.seek(entry_at)
            image.write(struct.pack(">Q", 1 << 63 | 0x12345600))

    def test_nobody_waits_for_who_reads_what_it_says(self):
        """Standard error is on a full disk, a pipe that nobody reads any more, or that is full."""
        deaf, full = os.pipe(), os.pipe()
        os.close(deaf[0])
        self.addCleanup(os.close, deaf[1])
        for end in full:
            self.addCleanup(os.close, end)
        os.set_blocking(full[1], False)
        with self.assertRaises(BlockingIOError):
            while True:
                os.write(full[1], b"x" * 4096)
        with open("/dev/full", "wb") as nowhere:
            for stderr, blocking in ((nowhere.fileno(), True), (deaf[1], True), (full[1], True), (full[1], False)):
                with self.subTest(stderr=os.readlink(f"/proc/self/fd/{stderr}"), blocking=blocking):
                    os.set_blocking(stderr, blocking)
                    self.corrupt("bad.qcow2")
                    daemon = self.lab.start(
                        self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off", "--monitor", "c",
                        "--blockdev", "qcow2,node-name=disk,file.driver=file,file.filename=bad.qcow2",
                        "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--export", "nbd,id=e,node-name=disk,writable=on",
                        stderr=stderr)
                    processes.wait_for_socket(self.path / "nbd.sock", daemon)
                    client = self.qmp()
                    guest = "qemu-io", "-f", "raw", "-c", "read 0 64k", "-c", "read 128k 64k", "nbd+unix:///disk?socket=nbd.sock"
                    told = self.lab.run(*guest, ok=None, timeout=20)
                    self.assertIn("read failed: Input/output error", told.stdout + told.stderr)
                    self.assertIn("read 65536/65536 bytes at offset 131072", told.stdout)
                    client.wait_event("BLOCK_IMAGE_CORRUPTED", node_name="disk")
                    self.assertEqual(self.lab.stop(daemon), DONE)

    def test_nohup(self):
        daemon = self.lab.start("sh", "-c", f"trap '' HUP; exec '{self.tidemarkd}' --chardev socket,id=c,path=qmp.sock,server=on,wait=off"
                                " --monitor c")
        processes.wait_for_socket(self.path / "qmp.sock", daemon)
        daemon.send_signal(signal.SIGHUP)
        self.assertEqual(self.qmp().execute("query-block-exports"), [])
        self.assertIsNone(daemon.poll())
        self.assertEqual(self.lab.stop(daemon), DONE)

    def test_what_happens_at_the_end_is_told(self):
        """To all monitors, as QEMU does; and who then tells it to end once more changes nothing."""
        self.raw("disk.img")
        for number in (None, signal.SIGTERM, signal.SIGINT, None, None):
            self.start_with_a_target()
            self.client.execute("blockdev-mirror", job_id="j", device="disk", target="target", sync="full", speed=65536)
            self.client.wait_event("JOB_STATUS_CHANGE", id="j", status="running")
            self.client.events.clear()
            watching = self.qmp()
            if number:
                self.daemon.send_signal(number)
            else:
                self.assertEqual(self.client.execute("quit"), {})
            for client in (watching, self.client):
                with self.assertRaises(ConnectionError):
                    client.wait_event("nothing more")
            self.daemon.send_signal(signal.SIGTERM)
            for client in (watching, self.client):
                told = [event["data"].get("status", event["event"]) for event in client.events]
                self.assertEqual(told, ["aborting", "BLOCK_JOB_CANCELLED", "concluded", "null"])
            self.assertEqual(self.end_of(self.daemon)[0], DONE)

    def silent_server(self):
        silent = socket.socket(socket.AF_UNIX)
        self.addCleanup(silent.close)
        silent.bind(str(self.path / "silent.sock"))
        silent.listen(8)
        silent.settimeout(20)
        return silent

    def test_told_to_end_while_an_option_waits(self):
        silent = self.silent_server()
        for number in (signal.SIGINT, signal.SIGTERM):
            daemon = self.lab.start(self.tidemarkd, "--pidfile", "pid", "--blockdev", "nbd,node-name=n,server.type=unix,server.path=silent.sock",
                                    stderr=subprocess.PIPE, text=True)
            connected, _ = silent.accept()
            self.addCleanup(connected.close)
            daemon.send_signal(number)
            self.assertEqual(self.end_of(daemon, patience=10)[0::2], (DONE, ""))
            self.assertFalse((self.path / "pid").exists())

    def test_told_to_end_while_a_server_says_nothing(self):
        silent = self.silent_server()
        self.raw("disk.img")
        self.start_with_a_target()
        adding = {"execute": "blockdev-add", "arguments": {"driver": "nbd", "node-name": "n", "open-timeout": 60,
                                                           "server": {"type": "unix", "path": str(self.path / "silent.sock")}}}
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.path / "qmp.sock"))
            monitor.sendall(json.dumps({"execute": "qmp_capabilities"}).encode() + json.dumps(adding).encode())
            connected, _ = silent.accept()
            self.addCleanup(connected.close)
            self.daemon.send_signal(signal.SIGTERM)
            self.assertEqual(self.daemon.wait(10), DONE)
            self.lab.ended(self.daemon)

    def lingering(self, name):
        """A socket whose listener has ended, and that still takes connections."""
        held = socket.socket(socket.AF_UNIX)
        self.addCleanup(held.close)
        listener = os.fork()
        if listener == 0:
            held.bind(str(self.path / name))
            held.listen(4096)                    # as many as ask meanwhile
            os._exit(0)
        os.waitpid(listener, 0)
        return held

    def test_sockets_of_a_killed_one(self):
        """The kernel holds them for io_uring a moment longer: they are replaced, and nobody takes them for the new daemon's."""
        self.raw("disk.img")
        held = [self.lingering(name) for name in ("nbd.sock", "qmp.sock")]
        threading.Timer(0.5, lambda: [one.close() for one in held]).start()
        with self.assertRaisesRegex(processes.Failure, "nobody serves"):
            processes.wait_for_socket(self.path / "qmp.sock", self.lab.start("sleep", "60"), patience=0.1)
        self.serve("disk.img=disk")
        self.assertEqual(self.json("job", "list"), [])
        self.content()

    def test_a_socket_that_a_child_of_its_maker_serves(self):
        self.lingering("nbd.sock")
        daemon = self.lab.start(self.tidemarkd, "--nbd-server", "addr.type=unix,addr.path=nbd.sock", stderr=subprocess.PIPE, text=True)
        status, _out, error = self.end_of(daemon)
        self.assertEqual((status, "Address already in use" in error), (FAILED, True), error)
        self.assertTrue((self.path / "nbd.sock").exists())

    def start_slowly(self, *options):
        """A daemon of two nodes that take a while each."""
        target = self.lab.start("nbdkit", "-f", "-U", "target.sock", "--filter=delay", "null", "4M", "delay-open=300ms",
                                stderr=subprocess.DEVNULL)
        processes.wait_for_socket(self.path / "target.sock", target)
        slow = "nbd,server.type=unix,server.path=target.sock,node-name="
        return self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server,nowait", "--monitor", "c",
                              "--nbd-server", "addr.type=unix,addr.path=nbd.sock",
                              "--blockdev", slow + "a", "--blockdev", slow + "b", *options)

    def test_early_clients_find_their_export(self):
        daemon = self.start_slowly("--export", "nbd,id=e,node-name=b,name=disk")
        processes.wait_for_socket(self.path / "nbd.sock", daemon)
        self.assertEqual(self.disk().get_size(), 4 * MiB)

    def test_early_monitors_see_all_of_the_command_line(self):
        daemon = self.start_slowly()
        processes.wait_for_socket(self.path / "qmp.sock", daemon)
        self.assertEqual(len(self.qmp().execute("query-named-block-nodes")), 2)

    def test_zeroes_that_a_client_writes_need_no_space(self):
        size, used = 32 * MiB, 1 * MiB
        for name in ("from.raw", "to.raw"):
            (self.path / name).touch()
            os.truncate(self.path / name, size)
        with open(self.path / "from.raw", "r+b") as file:
            file.write(b"x" * used)
        with open(self.path / "to.raw", "r+b") as file:
            file.write(b"y" * size)
        daemon = self.lab.start(self.tidemarkd, "--nbd-server", "addr.type=unix,addr.path=nbd.sock", "--blockdev",
                                "driver=raw,node-name=to,file.driver=file,file.filename=to.raw", "--export",
                                "nbd,id=to,node-name=to,writable=on")
        processes.wait_for_socket(self.path / "nbd.sock", daemon)
        self.lab.run("nbdcopy", "from.raw", "nbd+unix:///to?socket=nbd.sock")
        self.lab.stop(daemon)
        self.assertTrue((self.path / "to.raw").read_bytes() == (self.path / "from.raw").read_bytes())
        self.assertLess((self.path / "to.raw").stat().st_blocks * 512, 2 * used)

    def test_short_forms(self):
        for word in ("-V", "-h"):
            self.assertIn("tidemarkd", self.lab.run(self.tidemarkd, word).stdout)
        daemon = self.lab.start(self.tidemarkd, "--chardev", "socket,id=c,path=qmp.sock,server,nowait", "--monitor", "c,pretty=off")
        processes.wait_for_socket(self.path / "qmp.sock", daemon)
        self.qmp().execute("quit")
        self.assertEqual(self.end_of(daemon)[0], DONE)


if __name__ == "__main__":
    unittest.main()
