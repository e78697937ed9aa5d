"""A QMP server that says what a test tells it to: answers, events and silences that no real daemon gives on demand."""
import json
import socket
import threading

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""}, "capabilities": []}}


class Monitor:
    """Serves one client.  `answer(command, arguments)` gives a list of messages; None hangs up.

    A message is a dictionary with "return", "error" or "event".  Without `answer` nobody is greeted.
    """

    def __init__(self, path, answer=None):
        self._answer, self._client = answer, None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.settimeout(30)
        self._listener.bind(str(path))
        self._listener.listen(5)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        if answer:
            self._thread.start()

    def close(self):
        self._listener.close()
        if self._answer:
            self._thread.join(30)

    def _serve(self):
        try:
            with self._listener.accept()[0] as client, client.makefile("rw", encoding="utf-8") as lines:
                self._send(lines, GREETING)
                for line in lines:
                    request = json.loads(line)
                    known = request["execute"] == "qmp_capabilities"
                    messages = [{"return": {}}] if known else self._answer(request["execute"], request.get("arguments", {}))
                    if messages is None:
                        return
                    for message in messages:
                        self._send(lines, message)
        except OSError:
            return                                # the client has gone, or nobody came

    def _send(self, lines, message):
        lines.write(json.dumps(message) + "\n")
        lines.flush()
