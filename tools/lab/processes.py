"""Lab: a temporary directory and the processes started in it.

Whatever way its `with` block is left (an error, Ctrl-C, SIGTERM), every process that was started is ended by
its pid and the directory is removed.  A starter that is killed outright takes its processes along
(the kernel's parent-death signal, set by setpriv).
"""
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Failure(Exception):
    """What is told to the user in one message, without a traceback."""


def programs(directory=None):
    """tidemark and tidemarkd of a build directory."""
    directory = pathlib.Path(directory or os.environ.get("TIDEMARK_BUILD") or ROOT / "build").resolve()
    found = directory / "tidemark", directory / "tidemarkd"
    for program in found:
        if not os.access(program, os.X_OK):
            raise Failure(f"'{program}' is not built; run make first")
    return found


def _end_with_us(number, _frame):
    raise SystemExit(128 + number)


class Lab:
    def __init__(self, name, keep=False, below=None):
        self.keep = keep
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=f"tidemark-{name}-", dir=below)).resolve()
        self.env = dict(os.environ)
        self._running = []

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _end_with_us)
        return self

    def __exit__(self, *_):
        ignored = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
        for process in reversed(list(self._running)):
            self.stop(process)
        if self.keep:
            print(f"kept: {self.path}")
        else:
            shutil.rmtree(self.path, ignore_errors=True)
        for number, handler in zip(ignored, before):
            signal.signal(number, handler)

    def start(self, *words, **options):
        """A process that runs until stop(), or until this program ends."""
        words = ["setpriv", "--pdeathsig", "KILL", *map(str, words)]
        options = {"cwd": self.path, "env": self.env, "stdin": subprocess.DEVNULL, **options}
        process = subprocess.Popen(words, **options)
        self._running.append(process)
        return process

    def stop(self, process, number=signal.SIGTERM, patience=10):
        """Ends a process, by force when it does not follow; its exit status."""
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return self.ended(process)

    def ended(self, process):
        if process in self._running:
            self._running.remove(process)
        return process.returncode

    def run(self, *words, ok=(0,), timeout=120, **options):
        """Runs to the end; output is captured unless the options say otherwise."""
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        process = self.start(*words, **options)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.stop(process, signal.SIGKILL)
            raise Failure(f"{' '.join(map(str, words))}: no end after {timeout} s") from None
        finally:
            self.stop(process)
        if ok is not None and process.returncode not in ok:
            text = ((out or "") + (err or "")).strip()
            raise Failure(f"{' '.join(map(str, words))}: exit status {process.returncode}\n{text}")
        return subprocess.CompletedProcess(words, process.returncode, out, err)


def halt(process):
    """Stops it, with all its threads: when this returns none of them does anything, until SIGCONT."""
    process.send_signal(signal.SIGSTOP)
    while process.poll() is None and not os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
        time.sleep(0.001)


def _listener(connected):
    """The process that listens at the other end."""
    return struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))[0]


def wait_for_socket(path, process, patience=20):
    """Until `process` accepts connections at `path`: the socket of one that was killed may take some a moment longer."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if process.poll() is not None:
            raise Failure(f"process {process.pid} ended with status {process.returncode} before it served '{path}'")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)             # it would wait while nobody accepts and the queue is full
            with contextlib.suppress(OSError):
                probe.connect(str(path))
                if _listener(probe) == process.pid:
                    return
        time.sleep(0.01)
    raise Failure(f"nobody serves '{path}' after {patience} s")
