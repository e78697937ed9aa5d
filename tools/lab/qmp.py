"""Qmp: a QMP client on a unix socket.  execute() returns the result or raises QmpError; events are kept."""
import contextlib
import json
import socket
import time


class QmpError(Exception):
    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}")
        self.error_class, self.desc = error["class"], error["desc"]


class Qmp:
    def __init__(self, path, timeout=30, first_timeout=None):
        """`first_timeout`: until it can be used."""
        self.events = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(first_timeout or timeout)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        try:
            self._socket.connect(str(path))
            self.greeting = self._read()
            self.execute("qmp_capabilities")
            self._socket.settimeout(timeout)
        except OSError:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._lines.close()
        self._socket.close()

    def _read(self):
        line = self._lines.readline()
        if not line:
            raise ConnectionError("the QMP server closed the connection")
        return json.loads(line)

    def send(self, command, **arguments):
        """A command whose answer() is asked for later."""
        message = {"execute": command, "arguments": {name.replace("_", "-"): v for name, v in arguments.items()}}
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def answer(self):
        while "event" in (answer := self._read()):
            self.events.append(answer)
        return answer

    def execute(self, command, **arguments):
        self.send(command, **arguments)
        answer = self.answer()
        if "error" in answer:
            raise QmpError(answer["error"])
        return answer["return"]

    def wait_event(self, name, **data):
        """Until an event comes, or has come already, that has these members in its data."""
        def wanted(event):
            return event["event"] == name and all(event["data"].get(key.replace("_", "-")) == v for key, v in data.items())

        while not any(map(wanted, self.events)):
            self.events.append(self._read())

    def wait_job(self, job, patience=120):
        """Until the job has concluded; dismisses it.  Its entry of query-jobs."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            found = [entry for entry in self.execute("query-jobs") if entry["id"] == job]
            if not found:
                raise QmpError({"class": "JobNotFound", "desc": f"job '{job}' is gone"})
            if found[0]["status"] == "concluded":
                self.execute("job-dismiss", id=job)
                return found[0]
            time.sleep(0.005)
        raise TimeoutError(f"job '{job}' is still running after {patience} s")


def wait_for_monitor(path, process, patience=20):
    """A Qmp of a daemon that is coming up.  The socket of one that was killed before it may be there a little longer."""
    end = time.monotonic() + patience
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            return Qmp(path)
        time.sleep(0.02)
    raise TimeoutError(f"nobody speaks QMP at '{path}'")
