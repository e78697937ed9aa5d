"""A daemon that carries out a script, and what it said and left behind.

Nodes that nobody named are called `#` whoever names them; times, and members that the schema of the comparison does not have,
are left out.
"""
import contextlib
import hashlib
import json
import random
import time

import nbd
from lab import processes
from lab.qmp import Qmp, QmpError

PATIENCE = 20
SIZES = {"k": 1 << 10, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_of(text):
    return int(text[:-1]) * SIZES[text[-1]] if text[-1] in SIZES else int(text)


def make_image(lab, directory, words):
    name, kind, size, *options = words
    path = directory / name
    if kind == "text":
        path.write_text("\n".join([size, *options]) + "\n", encoding="utf-8")
    elif kind == "raw":
        count = size_of(size)
        with open(path, "wb") as file:
            file.write(random.Random(options[0] if options else name).randbytes(count * 3 // 4))
            file.truncate(count)
    else:
        lab.run("qemu-img", "create", "-q", "-f", kind, *options, path, *([] if size == "-" else [size]), cwd=directory)


def failed(answer):
    """Of a guest's request."""
    return isinstance(answer, dict) and "errno" in answer


def nameless(value):
    """With all names that a daemon gave itself the same."""
    if isinstance(value, dict):
        return {key: nameless(one) for key, one in value.items()}
    if isinstance(value, list):
        return [nameless(one) for one in value]
    if isinstance(value, str) and value.startswith("#block"):
        return "#"
    return value


class Daemon:
    def __init__(self, lab, program, directory):
        self._lab, self._path = lab, directory
        directory.mkdir()
        self.answers, self.schema = [], None
        self._process, self._qmp, self._program = None, None, program

    def make(self, statement):
        make_image(self._lab, self._path, statement.words)

    def start(self):
        with open(self._path / "daemon.log", "wb") as log:
            self._process = self._lab.start(self._program, "--chardev", "socket,id=c,path=q.sock,server=on,wait=off", "--monitor", "c",
                                            "--pidfile", "daemon.pid", cwd=self._path, stdout=log, stderr=log)
        # Debian's greets twice who comes before it is ready, which is when it has written its pid.
        end = time.monotonic() + PATIENCE
        pidfile = self._path / "daemon.pid"
        while not pidfile.exists() or not pidfile.read_text(encoding="ascii"):
            if time.monotonic() > end or self._process.poll() is not None:
                raise processes.Failure(f"'{self._program}' does not come up")
            time.sleep(0.01)
        self._qmp = self._connect()
        return self._qmp.execute("query-qmp-schema")

    def _connect(self):
        """Debian's, on a busy machine, now and then does not answer who comes first."""
        for patience in (3, 3):
            try:
                return Qmp(self._path / "q.sock", timeout=PATIENCE, first_timeout=patience)
            except TimeoutError:
                pass
        return Qmp(self._path / "q.sock", timeout=PATIENCE)

    def command(self, command, arguments):
        """{"return": ...} or {"error": ...}"""
        try:
            return {"return": self._qmp.execute(command, **arguments)}
        except QmpError as error:
            return {"error": {"class": error.error_class, "desc": error.desc}}

    def wait(self, words):
        what, name, *rest = words
        if what == "job":
            return self._wait_job(name, ("concluded",))
        if what == "status":
            self._wait_job(name, rest)
            return None
        data = dict(word.split("=", 1) for word in rest)
        self._qmp.wait_event(name, **data)
        return None

    def _wait_job(self, job, statuses):
        """Until it has one of them, or is gone; its last entry of query-jobs."""
        end, last = time.monotonic() + PATIENCE, None
        while time.monotonic() < end:
            found = [entry for entry in self._qmp.execute("query-jobs") if entry["id"] == job]
            if not found or found[0]["status"] in statuses:
                return found[0] if found else None
            last = found[0]
            time.sleep(0.005)
        raise processes.Failure(f"job '{job}' does not come to be {' or '.join(statuses)}: {last}")

    def _export(self, name):
        handle = nbd.NBD()
        handle.set_export_name(name)
        handle.connect_unix(str(self._path / "nbd.sock"))
        return handle

    def _request(self, export, request):
        handle = self._export(export)
        try:
            answer = request(handle)
        except nbd.Error as error:
            # Debian's server hangs up when a read fails.
            answer = {"errno": "EIO" if error.errno == "ENOTCONN" else error.errno}
        if handle.aio_is_ready():
            handle.shutdown()
        return answer

    def write(self, words):
        name, offset, length, byte = words
        data = bytes([int(byte, 0)]) * size_of(length)
        return self._request(name, lambda handle: handle.pwrite(data, size_of(offset)))

    def read(self, words):
        def content(handle):
            size = handle.get_size()
            parts = (handle.pread(min(1 << 20, size - at), at) for at in range(0, size, 1 << 20))
            return hashlib.sha256(b"".join(parts)).hexdigest()
        return self._request(words[0], content)

    def flush(self, words):
        return self._request(words[0], lambda handle: handle.flush())

    def events(self):
        """All so far, without their times."""
        return [{key: value for key, value in event.items() if key != "timestamp"} for event in self._qmp.events]

    def end(self):
        """What is left: {file: (what qemu-img check says, content)}."""
        with contextlib.suppress(QmpError, OSError):
            self._qmp.execute("quit")
        status = self._process.wait(PATIENCE)
        self._lab.ended(self._process)
        self._qmp.close()
        left = {"exit status": status}
        for path in sorted(self._path.iterdir()):
            if path.is_file() and path.name not in ("daemon.log", "daemon.pid") and not path.name.endswith(".tidemark"):
                left[path.name] = self._seen(path)
        return left

    def _seen(self, path):
        kind = json.loads(self._lab.run("qemu-img", "info", "--output=json", path.name, cwd=self._path).stdout)["format"]
        if kind == "raw":
            return {"format": kind, "content": hashlib.sha256(path.read_bytes()).hexdigest()}
        check = self._lab.run("qemu-img", "check", "-q", "-f", kind, path.name, ok=None, cwd=self._path).returncode
        flat = self._path / "flat.tmp"
        done = self._lab.run("qemu-img", "convert", "-f", kind, "-O", "raw", path.name, flat, ok=None, cwd=self._path)
        content = hashlib.sha256(flat.read_bytes()).hexdigest() if done.returncode == 0 else done.stderr.replace(str(self._path), "")
        flat.unlink(missing_ok=True)
        return {"format": kind, "check": check, "content": content}
