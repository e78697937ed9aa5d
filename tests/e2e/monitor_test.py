"""What daemons may do to the command line: jobs that vanish, answers of the wrong shape, silence, hanging up."""
import signal
import subprocess
import unittest

from bed import DONE, FAILED, INTERRUPTED, Bed, MiB, processes
from monitor import Monitor


def event(name, **data):
    return {"event": name, "data": data, "timestamp": {"seconds": 1, "microseconds": 0}}


def status(name):
    return event("JOB_STATUS_CHANGE", id="job", status=name)


class Faked(Bed):
    def answers(self, *lists):
        """A monitor that gives these lists of messages, one a command, the last one again and again."""
        left = list(lists)
        monitor = Monitor(self.path / "qmp.sock", lambda *_: left.pop(0) if len(left) > 1 else left[0])
        self.addCleanup(monitor.close)


class Watch(Faked):
    RUNNING = {"return": [{"id": "job", "type": "backup", "status": "running", "current-progress": 1, "total-progress": 2}]}
    GONE = {"return": []}

    def test_a_job_that_ended_well_and_vanished(self):
        self.answers([self.RUNNING], [status("concluded"), event("BLOCK_JOB_COMPLETED", device="job"), status("null"), self.GONE])
        self.assertEqual(self.run_tidemark("job", "watch", "job").stdout, "job 'job' is done\n")

    def test_a_job_that_failed_and_vanished(self):
        self.answers([self.RUNNING], [status("aborting"), event("BLOCK_JOB_COMPLETED", device="job", error="No space left"),
                                      status("concluded"), status("null"), self.GONE])
        self.assertEqual(self.fails("job", "watch", "job"), "tidemark: job 'job' failed: No space left")

    def test_a_job_that_was_cancelled_and_vanished(self):
        self.answers([self.RUNNING], [status("aborting"), event("BLOCK_JOB_CANCELLED", device="job"), status("null"), self.GONE])
        self.assertEqual(self.json("job", "watch", "job", expect=FAILED)["error"], "it was cancelled")

    def test_events_of_other_jobs_do_not_count(self):
        self.answers([self.RUNNING], [event("JOB_STATUS_CHANGE", id="other", status="concluded"), self.GONE])
        self.assertIn("whether it went well was not told", self.fails("job", "watch", "job"))

    def test_a_real_job(self):
        self.raw("disk.img", 4 * MiB)
        self.serve("disk.img=disk")
        backup = self.start_slow_backup()
        job = self.json("job", "list")[0]["id"]
        watch, terminal = self.start_on_terminal("job", "watch", job)
        self.until_shown(terminal, "%")
        self.run_tidemark("job", "set-speed", job, "0")
        code, out, _ = self.end_of(watch)
        self.assertEqual((code, out), (DONE, f"job '{job}' is done\n"))
        self.assertEqual(self.end_of(backup)[0], DONE)

    def test_a_job_that_waits_to_be_finalized(self):
        """Watching ends, and so does completing, with what to do."""
        self.raw("disk.img", 4 * MiB)
        self.serve("disk.img=disk")
        job = {"job_id": "j", "device": "disk", "target": "target", "sync": "full", "auto_finalize": False, "auto_dismiss": False}
        pending = "job 'j' is pending: 'tidemark job finalize j'\n"
        with self.qmp() as qmp:
            qmp.execute("blockdev-add", driver="null-co", node_name="target", size=4 * MiB)
            qmp.execute("blockdev-backup", **job)
            self.assertEqual(self.run_tidemark("job", "watch", "j").stdout, pending)
            self.assertEqual(self.json("job", "watch", "j")["status"], "pending")
            self.assertEqual(self.run_tidemark("job", "finalize", "j").stdout, "job 'j' is done\n")
            self.assertEqual(self.json("job", "list")[0]["status"], "concluded")
            self.assertEqual(self.run_tidemark("job", "dismiss", "j").stdout, "")
            self.assertEqual(self.json("job", "list"), [])
            qmp.execute("blockdev-mirror", **job)
            self.assertEqual(self.run_tidemark("job", "watch", "j").stdout, "job 'j' is ready: 'tidemark job complete j'\n")
            self.assertEqual(self.run_tidemark("job", "complete", "j").stdout, pending)
            self.assertEqual(self.run_tidemark("job", "finalize", "j").stdout, "job 'j' is done\n")
            self.assertEqual(self.json("job", "dismiss", "j"), {"id": "j"})
        self.assertIn("j", self.fails("job", "finalize", "j"))
        self.assertIn("j", self.fails("job", "dismiss", "j"))

    def test_interrupted(self):
        self.raw("disk.img", 4 * MiB)
        self.serve("disk.img=disk")
        backup = self.start_slow_backup()
        job = self.json("job", "list")[0]["id"]
        with self.qmp() as qmp:
            watch = self.lab.start(self.tidemark, "job", "watch", job, stderr=subprocess.PIPE, text=True)
            self.until(lambda: self.catches(watch, signal.SIGINT), "a watcher that catches Ctrl-C")
            watch.send_signal(signal.SIGINT)
            code, _, err = self.end_of(watch)
            self.assertEqual(code, INTERRUPTED)
            self.assertEqual(err, "tidemark: interrupted; jobs go on\n")
            self.assertEqual([entry["id"] for entry in qmp.execute("query-jobs")], [job])
        backup.send_signal(signal.SIGINT)
        self.assertEqual(self.end_of(backup)[0], INTERRUPTED)


class Silence(Faked):
    def silent(self, *words, expect=FAILED):
        monitor = Monitor(self.path / "qmp.sock")
        self.addCleanup(monitor.close)
        return self.lab.start(self.tidemark, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def test_nobody_greets(self):
        """As qemu-storage-daemon's monitor while another client has it."""
        code, out, err = self.end_of(self.silent("backup", "backups"))
        self.assertEqual((code, out), (FAILED, ""))
        self.assertRegex(err, r"^tidemark: 'qmp.sock' takes connections but does not greet: .*\n$")
        self.assertFalse((self.path / "backups").exists())

    def test_interrupted_while_nobody_greets(self):
        process = self.silent("job", "list")
        self.until(lambda: self.catches(process, signal.SIGINT), "a program that catches Ctrl-C")
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.end_of(process, patience=5), (INTERRUPTED, "", "tidemark: interrupted\n"))

    def test_a_busy_storage_daemon(self):
        self.raw("disk.img", 1 * MiB)
        daemon = self.lab.start("qemu-storage-daemon", "--chardev", "socket,id=c,path=qmp.sock,server=on,wait=off",
                                "--monitor", "chardev=c")
        processes.wait_for_socket(self.path / "qmp.sock", daemon)
        self.until(lambda: self.lab.run(self.tidemark, "job", "list", ok=None).returncode == DONE, "a monitor that answers")
        with self.qmp():
            self.assertIn("'qmp.sock' takes connections but does not greet", self.fails("job", "list"))
        self.assertEqual(self.json("job", "list"), [])

    def test_a_daemon_that_stops_answering_can_be_left(self):
        self.raw("disk.img", 1 * MiB)
        self.serve("disk.img=disk")
        process = self.lab.start(self.tidemark, "qmp", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True)
        process.stdin.write("query-jobs\n")
        process.stdin.flush()
        self.assertEqual(process.stdout.readline(), '{"return": []}\n')
        processes.halt(self.daemon)
        try:
            process.stdin.write("query-jobs\n")
            process.stdin.flush()
            process.send_signal(signal.SIGINT)
            self.assertEqual(self.end_of(process, patience=5)[0::2], (INTERRUPTED, "tidemark: interrupted\n"))
        finally:
            self.daemon.send_signal(signal.SIGCONT)

    def test_hanging_up(self):
        self.answers(None)
        self.assertEqual(self.fails("job", "list"), "tidemark: the daemon at 'qmp.sock' has closed the connection")


class Shapes(Faked):
    def test_answers_of_the_wrong_shape(self):
        for n, answer in enumerate(({"return": 1}, {"return": [1, {"id": 2}]}, {"return": {}}, {"other": 1}, {"error": 1},
                                    {"return": [5, None, {"dirty-bitmaps": 5}, {"node-name": 5, "dirty-bitmaps": [5, {"count": "x"}]}]})):
            self.lab.env["TIDEMARK_QMP"] = f"{n}.sock"
            for words in (["job", "list"], ["bitmap", "list"], ["checkpoint", "list"], ["job", "watch", "x"], ["backup", "backups"]):
                monitor = Monitor(self.path / f"{n}.sock", lambda *_: [answer])
                done = self.lab.run(self.tidemark, *words, ok=(DONE, FAILED), timeout=30)
                self.assertLessEqual(len(done.stderr.splitlines()), 1, done.stderr)
                monitor.close()
                (self.path / f"{n}.sock").unlink()
        self.assertFalse((self.path / "backups").exists())


if __name__ == "__main__":
    unittest.main()
