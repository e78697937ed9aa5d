"""The daemon under test: started, told, ended and killed; everything that it is told is written down, and must be answered in time."""
import json
import re
import signal
import threading
import time

from lab import processes
from lab.qmp import Qmp, wait_for_monitor

# What a sanitizer says when it has found something.
SANITIZERS = re.compile(r"(ERROR: AddressSanitizer|WARNING: ThreadSanitizer|runtime error:|ERROR: LeakSanitizer|TM_ASSERT|assertion)", re.I)


STOPPED_MAX = 900                                # seconds: beyond this even a machine that is at a stand is too slow


class Slow(Exception):
    """An answer that took too long."""


class Monitor(Qmp):
    """A client whose conversation is written down."""

    def __init__(self, path, transcript, name, clock, patience):
        self._transcript, self._name, self._clock, self._patience = transcript, name, clock, patience
        self.slowest = 0.0, ""
        super().__init__(path, timeout=STOPPED_MAX)

    def _read(self):
        message = super()._read()
        if "event" in message:
            self._transcript.write(f"{time.monotonic():.3f} {self._name} event {json.dumps(message)}\n")
        return message

    def execute(self, command, **arguments):
        begun = self._clock.now
        told = json.dumps({"execute": command, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}})
        self._transcript.write(f"{time.monotonic():.3f} {self._name} -> {told}\n")
        answer = None
        try:
            answer = super().execute(command, **arguments)
            return answer
        except Exception as error:
            answer = error
            raise
        finally:
            took = self._clock.now - begun
            self._transcript.write(f"{time.monotonic():.3f} {self._name} <- {took:.3f} s {str(answer)[:400]}\n")
            self._transcript.flush()
            self.slowest = max(self.slowest, (took, command))
            if took > self._patience:
                raise Slow(f"{command} was answered after {took:.1f} s")


class Observer(threading.Thread):
    """Asks everything that can be asked, all the time, from a connection of its own."""

    QUESTIONS = (("query-named-block-nodes", {}), ("query-named-block-nodes", {"flat": True}), ("query-jobs", {}), ("query-block-jobs", {}),
                 ("query-block", {}), ("query-blockstats", {"query_nodes": True}), ("query-block-exports", {}),
                 ("x-debug-query-block-graph", {}))

    def __init__(self, monitor, pause):
        super().__init__(name="observer", daemon=True)
        self.error, self.monitor, self._pause, self._ending = None, monitor, pause, threading.Event()

    def run(self):
        try:
            while not self._ending.is_set():
                for command, arguments in self.QUESTIONS:
                    self.monitor.execute(command, **arguments)
                    self.monitor.events.clear()
                    if self._ending.wait(self._pause):
                        break
        except Exception as error:               # of a daemon that ended; else it is told
            if not self._ending.is_set():
                self.error = error

    def stop(self):
        self._ending.set()
        self.join(60)


class Daemon:
    """Several have different prefixes to the names of their sockets."""

    def __init__(self, lab, program, clock, patience, prefix=""):
        self._lab, self._program, self._qmp, self.nbd = lab, program, f"{prefix}qmp.sock", f"{prefix}nbd.sock"
        self._clock, self._patience = clock, patience
        self.transcript = open(lab.path / "transcript.log", "a", encoding="utf-8")
        self.log = open(lab.path / "daemon.log", "a", encoding="utf-8")
        self.process = self.monitor = None
        self.slowest = 0.0, ""

    def start(self):
        for name in (self._qmp, self.nbd):
            (self._lab.path / name).unlink(missing_ok=True)
        self.process = self._lab.start(self._program, "--chardev", f"socket,id=c,path={self._qmp},server=on,wait=off", "--monitor", "c",
                                       "--nbd-server", f"addr.type=unix,addr.path={self.nbd}", stdout=self.log, stderr=self.log)
        wait_for_monitor(self._lab.path / self._qmp, self.process, patience=STOPPED_MAX).close()
        processes.wait_for_socket(self._lab.path / self.nbd, self.process, patience=STOPPED_MAX)
        self.monitor = self._connect("operator")
        self._observer = Observer(self._connect("observer"), 0.05)
        self._observer.start()

    def _connect(self, name):
        return Monitor(self._lab.path / self._qmp, self.transcript, name, self._clock, self._patience)

    def note(self, text):
        self.transcript.write(f"{time.monotonic():.3f} {text}\n")
        self.transcript.flush()

    def check(self):
        """It is there, and has nothing to complain about."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the daemon has ended with status {self.process.returncode}")
        if self._observer.error:
            raise self._observer.error
        self._check_log()

    def _check_log(self):
        self.log.flush()
        text = (self._lab.path / "daemon.log").read_text(errors="replace")
        if found := SANITIZERS.search(text):
            raise RuntimeError(f"the daemon says: {text[found.start():found.start() + 300]}")

    def quit(self, by_signal):
        self._observer.stop()
        if by_signal:
            self.process.send_signal(signal.SIGTERM)
        else:
            self.monitor.execute("quit")
        status = self.process.wait(STOPPED_MAX)
        self._gone()
        self._check_log()
        if status:
            raise RuntimeError(f"told to end, the daemon ended with status {status}")

    def kill(self):
        self._observer.stop()
        self.process.kill()
        self.process.wait(STOPPED_MAX)
        self._gone()

    def _gone(self):
        self._lab.ended(self.process)
        self.slowest = max(self.slowest, self.monitor.slowest, self._observer.monitor.slowest)
        self.monitor.close()
        self._observer.monitor.close()
