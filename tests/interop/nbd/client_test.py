"""Our NBD client with the servers that people run: what the daemon writes through it is what the
server's own tools read, and the other way round; a server that is restarted is found again."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

DAEMON = os.environ["TIDEMARKD"]
SIZE = 8 << 20


def wait_for(path):
    for _ in range(1000):
        if os.path.exists(path):
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


class Client:
    """tidemarkd with a node over the server, exported again; and its QMP."""

    def __init__(self, directory, server, **options):
        self.qmp_path = os.path.join(directory, "qmp.sock")
        self.export = os.path.join(directory, "out.sock")
        self.process = subprocess.Popen([
            DAEMON, "--chardev", f"socket,id=q,path={self.qmp_path},server=on,wait=off", "--monitor", "chardev=q",
            "--nbd-server", f"addr.type=unix,addr.path={self.export}"])
        wait_for(self.qmp_path)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(self.qmp_path)
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.call("qmp_capabilities")
        self.call("blockdev-add", driver="nbd", server=server, discard="unmap", **{"node-name": "n"}, **options)
        self.call("block-export-add", type="nbd", id="e", writable=True, **{"node-name": "n"})
        self.uri = f"nbd+unix:///n?socket={self.export}"

    def call(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                raise AssertionError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def close(self):
        self.socket.close()
        self.lines.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0


class ClientTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="tidemark-nbd-")
        self.addCleanup(shutil.rmtree, self.directory)
        self.disk = os.path.join(self.directory, "disk")
        with open(self.disk, "wb") as file:
            file.truncate(SIZE)
        self.path = os.path.join(self.directory, "server.sock")

    def serve(self, *command):
        server = subprocess.Popen(command)
        self.addCleanup(lambda: (server.kill(), server.wait()))
        wait_for(self.path)
        return server

    def unix(self):
        return {"type": "unix", "path": self.path}

    def io(self, uri, *commands):
        arguments = [word for command in commands for word in ("-c", command)]
        done = subprocess.run(["qemu-io", "-f", "raw", "-d", "unmap", *arguments, uri], capture_output=True, text=True,
                              timeout=60)
        self.assertEqual((done.returncode, re.findall("fail|rror", done.stdout + done.stderr)), (0, []), done)

    def exercise(self, server, direct_uri, **options):
        client = Client(self.directory, server, **options)
        try:
            self.io(client.uri, "write -P 1 0 1M", "write -P 2 4096 512", "write -z 1M 1M", "write -P 3 2M 64k",
                    "discard 3M 1M", "write -f -P 4 4M 4k", "write -zu 2M 4k", "flush", "read -P 2 4096 512",
                    "read -P 0 1M 1M", "read -P 0 2M 4k", "read -P 3 2101248 60k")
            with open(os.path.join(self.directory, "random"), "wb") as file:
                file.write(os.urandom(1 << 20))
            subprocess.run(["nbdcopy", file.name, client.uri], timeout=60, check=True)
            self.io(client.uri, "read -P 4 4M 4k")
            mapped = json.loads(subprocess.check_output(["nbdinfo", "--map", "--json", client.uri], timeout=60))
            self.assertEqual(sum(part["length"] for part in mapped), SIZE)
            if direct_uri:
                for uri in client.uri, direct_uri:
                    self.io(uri, "read -P 4 4M 4k")
                subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", "-U", client.uri, direct_uri],
                               timeout=60, check=True, stdout=subprocess.DEVNULL)
        finally:
            client.close()

    def test_qemu_nbd(self):
        self.serve("qemu-nbd", "-t", "-e", "9", "-f", "raw", "-k", self.path, "-x", "disk", "--discard=unmap", self.disk)
        self.exercise(self.unix(), f"nbd+unix:///disk?socket={self.path}", export="disk")

    def test_qemu_storage_daemon(self):
        self.serve("qemu-storage-daemon", "--blockdev", f"file,node-name=d,filename={self.disk},discard=unmap",
                   "--nbd-server", f"addr.type=unix,addr.path={self.path},max-connections=9",
                   "--export", "nbd,id=e,node-name=d,name=disk,writable=on")
        self.exercise(self.unix(), f"nbd+unix:///disk?socket={self.path}", export="disk")

    def test_nbdkit(self):
        self.serve("nbdkit", "-f", "-U", self.path, "file", self.disk)
        self.exercise(self.unix(), f"nbd+unix:///?socket={self.path}")

    def test_nbdkit_with_blocks_of_4096(self):
        self.serve("nbdkit", "-f", "-U", self.path, "--filter=blocksize-policy", "file", self.disk,
                   "blocksize-minimum=4096", "blocksize-error-policy=error")
        self.exercise(self.unix(), None)

    def test_nbdkit_without_structured_replies(self):
        self.serve("nbdkit", "-f", "-U", self.path, "--no-sr", "file", self.disk)
        self.exercise(self.unix(), f"nbd+unix:///?socket={self.path}")

    def test_nbdkit_that_can_neither_zero_nor_fua(self):
        self.serve("nbdkit", "-f", "-U", self.path, "--filter=nozero", "--filter=fua", "file", self.disk)
        self.exercise(self.unix(), f"nbd+unix:///?socket={self.path}")

    def test_tcp(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        pid = os.path.join(self.directory, "pid")
        server = subprocess.Popen(["nbdkit", "-f", "-P", pid, "-i", "127.0.0.1", "-p", port, "file", self.disk])
        self.addCleanup(lambda: (server.kill(), server.wait()))
        wait_for(pid)
        self.exercise({"type": "inet", "host": "127.0.0.1", "port": port}, f"nbd://127.0.0.1:{port}")

    def test_server_is_restarted(self):
        command = ["nbdkit", "-f", "-U", self.path, "file", self.disk]
        server = self.serve(*command)
        client = Client(self.directory, self.unix(), **{"reconnect-delay": 60})
        try:
            self.io(client.uri, "write -P 5 0 1M")
            server.kill()
            server.wait()
            os.unlink(self.path)
            waiting = subprocess.Popen(["qemu-io", "-f", "raw", "-c", "read -P 5 0 1M", client.uri],
                                       stdout=subprocess.PIPE, text=True)
            self.serve(*command)
            output, _ = waiting.communicate(timeout=60)
            self.assertNotIn("fail", output)
            self.assertEqual(waiting.returncode, 0)
        finally:
            client.close()

    def test_errors(self):
        self.serve("nbdkit", "-f", "-r", "-U", self.path, "file", self.disk)
        for options, reason in (({}, "read-only export"),
                                ({"tls-creds": "x"}, "tls-creds"),
                                ({"server": {"type": "unix", "path": self.path + "x"}}, "No such file")):
            with self.assertRaisesRegex(AssertionError, reason):
                self.refused(**{"server": self.unix(), **options})

    def refused(self, server, **options):
        process = Client.__new__(Client)
        try:
            Client.__init__(process, self.directory, server, **options)
        finally:
            process.close()


if __name__ == "__main__":
    unittest.main()
