"""What goes wrong on the way: interruption, death, full disks, damage, second instances.  Afterwards all is as it was."""
import json
import os
import re
import signal
import subprocess
import unittest

from bed import DAMAGED, DONE, FAILED, INTERRUPTED, MiB, USAGE, Bed, first_difference, processes


class Interrupted(Bed):
    def setUp(self):
        super().setUp()
        self.raw("disk.img", 32 * MiB)
        self.serve("disk.img=disk")
        self.first = self.backup(level="full")
        self.change(count=400)
        self.before = self.state()

    def assert_goes_on(self):
        """The chain does not notice: the next point is incremental and right."""
        point = self.backup(level="incremental")
        self.assert_restores(point["point"], self.content())
        self.assertEqual(self.json("job", "list"), [])
        self.assertEqual(len(self.json("bitmap", "list", "disk")), 1)

    def test_ctrl_c_leaves_all_as_it_was(self):
        for sign in (signal.SIGINT, signal.SIGTERM):
            process = self.start_slow_backup("--level", "full")
            process.send_signal(sign)
            code, _, err = self.end_of(process)
            self.assertEqual(code, INTERRUPTED, err)
            self.assertEqual(self.state(), self.before)
        self.assert_goes_on()

    def test_what_a_killed_backup_leaves_is_cleared_by_the_next(self):
        process = self.start_slow_backup("--level", "full")
        process.kill()
        self.end_of(process)
        self.assert_goes_on()
        self.assertEqual(sorted(self.names_of_points()), sorted(p["id"] for p in self.json("list", "backups")["points"]))
        self.assertEqual(self.state()["count"], self.before["count"])

    def test_daemon_dies_under_a_backup(self):
        process = self.start_slow_backup("--level", "full")
        self.daemon.kill()
        code, _, err = self.end_of(process)
        self.assertEqual(code, FAILED)
        self.assertRegex(err, r"^tidemark: the daemon at 'qmp.sock' (is gone: .*|has closed the connection)\n$")
        self.daemon.wait(10)
        self.lab.ended(self.daemon)
        self.assertEqual(self.names_of_points(), self.before["points"])
        self.serve("disk.img=disk")
        self.assert_goes_on()

    def test_a_job_that_somebody_else_cancels_is_no_point(self):
        process = self.start_slow_backup("--level", "full")
        qmp = self.qmp()
        job = qmp.execute("query-jobs")[0]["id"]
        qmp.execute("job-cancel", id=job)
        code, _, err = self.end_of(process)
        self.assertEqual(code, FAILED)
        self.assertIn("'disk'", err)
        self.assertEqual(self.state(), self.before)
        self.assert_goes_on()

    def test_second_backup_into_the_directory_is_refused(self):
        process = self.start_slow_backup("--level", "full")
        self.assertIn("in use by another backup", self.fails("backup", "backups"))
        process.send_signal(signal.SIGINT)
        self.assertEqual(self.end_of(process)[0], INTERRUPTED)
        self.assert_goes_on()


class First(Bed):
    """A first backup that fails leaves no backup directory, unless it leaves something of it on the disk."""

    def test_nothing_is_left(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        (self.path / "empty").mkdir()
        (self.path / "vm.json").write_text("{")
        for directory in ("backups", "empty"):
            for words in (["--disk", "nobody"], ["--disk", "disk=."], ["--level", "incremental"],
                          ["--machine", "vm.json"], ["--machine", "nothing.json"]):
                self.fails("backup", directory, *words)
                self.assertFalse((self.path / "backups").exists(), words)
                self.assertEqual(list((self.path / "empty").iterdir()), [], words)
        process = self.start_slow_backup()
        process.send_signal(signal.SIGINT)
        code, _, err = self.end_of(process)
        self.assertEqual(code, INTERRUPTED)
        self.assertEqual(err, "tidemark: interrupted; nothing was left behind\n")
        self.assertFalse((self.path / "backups").exists())
        process = self.start_slow_backup()
        self.fails("backup", "backups")
        self.daemon.kill()
        self.assertEqual(self.end_of(process)[0], FAILED)
        # The disk still has its bitmap: by the directory's id the next one finds it.
        self.assertEqual(self.names_of_points(), [])
        self.daemon.wait(10)
        self.lab.ended(self.daemon)
        self.serve("disk.img=disk")
        self.assertEqual(len(self.json("bitmap", "list", "disk")), 1)
        self.assert_restores(self.backup(level="full")["point"], self.content())
        self.assertEqual(len(self.json("bitmap", "list", "disk")), 1)

    def test_two_at_once(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        both = [self.lab.start(self.tidemark, "backup", "backups", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                for _ in range(2)]
        ends = sorted((self.end_of(process)[::2] for process in both))
        self.assertEqual(ends[0], (DONE, ""))
        if ends[1] != (DONE, ""):
            self.assertEqual(ends[1][0], FAILED)
            self.assertIn("in use by another backup", ends[1][1])
        self.assertEqual(len(self.json("list", "backups")["points"]), sum(end == (DONE, "") for end in ends))
        self.backup(level="incremental")


class OnTerminal(Bed):
    """Progress is shown, and Ctrl-C at any step leaves either a whole result or nothing."""

    def setUp(self):
        super().setUp()
        self.raw("disk.img", 160 * MiB)            # else a command may be quicker than its first line
        self.serve("disk.img=disk")

    def interrupt_at(self, pattern, *words):
        process, terminal = self.start_on_terminal(*words)
        self.until_shown(terminal, pattern)
        process.send_signal(signal.SIGINT)
        code, _, _ = self.end_of(process, patience=10)
        self.assertIn(code, (DONE, INTERRUPTED))
        return code, self.until_shown(terminal, r"nothing was left behind|interrupted") if code == INTERRUPTED else ""

    def test_backup(self):
        for pattern, options in ((r"backup \[", ()), (r"backup \[.* [1-9]\d%", ("--speed", "32M"))):
            code, said = self.interrupt_at(pattern, "backup", "backups", "--level", "full", *options)
            if code == INTERRUPTED:
                self.assertIn("nothing was left behind", said)
                self.assertEqual(self.json("bitmap", "list"), [])
                self.assertFalse((self.path / "backups").exists())
            else:
                self.assertEqual(len(self.names_of_points()), 1)
                (self.path / "backups").rename(self.path / f"kept-{len(pattern)}")
                for bitmap in self.json("bitmap", "list"):
                    self.run_tidemark("bitmap", "remove", "disk", bitmap["name"])
        self.assertEqual(self.json("job", "list"), [])

    def test_what_is_shown_fits_into_its_line(self):
        self.backup()
        for columns in (80, 60, 40):
            process, terminal = self.start_on_terminal("verify", "backups", columns=columns)
            shown = self.until_shown(terminal, r" left[^\r]*")
            self.assertEqual(self.end_of(process)[0], DONE)
            lines = [line.removesuffix("\x1b[K") for line in re.split("[\r\n]", shown)]
            self.assertLess(max(map(len, lines)), columns, lines)

    def test_verify_and_restore(self):
        self.backup()
        self.interrupt_at(r"verify .* \[", "verify", "backups", "--all")
        code, said = self.interrupt_at(r"restore \[", "restore", "backups", "--to", "out.img")
        names = [p.name for p in self.path.iterdir() if p.name.startswith("out.img")]
        self.assertEqual(names, ["out.img"] if code == DONE else [])
        if code == INTERRUPTED:
            self.assertIn("nothing was left behind", said)
        process, terminal = self.start_on_terminal("--quiet", "verify", "backups")
        self.assertEqual(self.end_of(process)[0], DONE)
        with self.assertRaises(OSError):                 # the terminal has ended, and nothing was shown
            os.read(terminal, 1)


class FullDisk(Bed):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0:
            self.skipTest("mounting needs root")
        self.small = self.path / "small"
        self.small.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", self.small], capture_output=True, text=True)
        if done.returncode != 0:
            self.skipTest("cannot mount: " + done.stderr.strip())
        self.addCleanup(subprocess.run, ["umount", self.small], check=True)
        self.raw("disk.img", 16 * MiB)

    def test_backup(self):
        self.raw("second.img", 16 * MiB)
        self.serve("disk.img=disk", "second.img=second")
        line = self.fails("backup", "small/backups")
        self.assertRegex(line, r"^tidemark: backup of disk '\w+' failed: No space left on device in '.*/small/backups'$")
        with self.qmp() as qmp:
            self.assertEqual(qmp.execute("query-jobs"), [])
            self.assertNotIn("tidemark-", str([n["node-name"] for n in qmp.execute("query-named-block-nodes")]))
        self.assertEqual(self.json("bitmap", "list", "disk"), [])
        self.assertEqual(list(self.small.iterdir()), [])
        self.change()
        self.assert_restores(self.backup(level="full")["point"], self.content(), disk="disk")

    def test_restore(self):
        self.serve("disk.img=disk")
        self.backup()
        self.assertIn("No space left on device", self.fails("restore", "backups", "--to", "small/out.img"))
        self.assertEqual(list(self.small.iterdir()), [])


class Wrong(Bed):
    def test_usage(self):
        for words in (["nonsense"], ["backup"], ["restore", "x"], ["backup", "x", "--level", "most"], ["--aio", "none", "list", "x"]):
            self.run_tidemark(*words, expect=USAGE)
        for words in (["--help"], ["--version"], ["backup", "--help"], ["bitmap", "add", "--help"]):
            self.assertNotEqual(self.run_tidemark(*words).stdout, "")

    def test_things_that_are_not_there(self):
        for words in (["list", "nothing"], ["verify", "nothing"], ["restore", "nothing", "--to", "x"], ["serve", "nothing.img=disk"]):
            self.assertIn("nothing", self.fails(*words))
        self.assertIn("qmp.sock", self.fails("backup", "backups"))
        self.assertFalse((self.path / "backups").exists())
        (self.path / "full").mkdir()
        (self.path / "full" / "file").write_text("x")
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.assertIn("not empty", self.fails("backup", "full"))
        self.assertIn("nobody", self.fails("bitmap", "list", "nobody"))
        self.assertIn("nobody", self.fails("job", "cancel", "nobody"))

    def test_mistakes_in_words(self):
        self.raw("disk.img", 1 * MiB)
        os.mkfifo(self.path / "fifo")
        (self.path / "file").touch()
        for words, said in ((["backup", ""], "DIRECTORY: is empty"), (["list", ""], "DIRECTORY: is empty"),
                            (["restore", "x", "--to", ""], "--to: is empty"), (["job", "list", "--qmp", ""], "--qmp: is empty"),
                            (["list", "-x"], "option '-x' is unknown; a file of that name is written './-x'"),
                            (["backup", "x", "--speed", "0.1"], "'0.1' is no size"), (["bitmap", "add", "d", "b", "--granularity", "4G"], "at most 2G"),
                            (["verify", "x", "--all", "latest"], "POINT excludes --all"),
                            (["nonsense"], "there is no 'nonsense'"), (["bitmap", "nonsense"], "there is no 'nonsense'"),
                            (["job"], "A subcommand is required"), (["bitmap", "add", "disk"], "NAME is required")):
            self.assertIn(said, self.fails(*words, expect=USAGE))
        for words, said in ((["fifo=x"], "'fifo' is neither a file nor a block device"), (["=x"], "'=x' names no file"),
                            ([".=x"], "'.' is neither"), (["disk.img="], "'' cannot name a disk"),
                            (["disk.img=a b"], "'a b' cannot name a disk"), (["disk.img=-x"], "'-x' cannot name a disk"),
                            (["disk.img=" + "x" * 32], "cannot name a disk"), (["disk.img=a", "disk.img=a"], "two disks are named 'a'"),
                            *((["disk.img", "--tcp", tcp], f"'{tcp}' is no address; give HOST:PORT")
                              for tcp in ("host", ":10809", "host:", "host:x", "host:65536", "::1:10809"))):
            self.assertIn(said, self.fails("serve", *words, "--qmp", "made/q.sock", "--nbd", "made/n.sock"))
            self.assertFalse((self.path / "made").exists())
        self.serve("disk.img=disk")
        self.assertIn("'/", self.fails("backup", "file"))
        self.assertIn("/file' is not a directory", self.fails("backup", "file"))
        self.assertIn("'fifo' is not a regular file", self.fails("backup", "backups", "--machine", "fifo"))
        self.assertFalse((self.path / "backups").exists())

    def test_names_of_files(self):
        """Blanks, commas, a first dash, '=', and relative paths, everywhere."""
        names = ("a, b.img", "-dash.img", "x=y.img", "100%.img")
        for name in names:
            self.raw(name, 1 * MiB)
        daemon = self.lab.start(self.tidemark, "serve", *(f"./{name}=d{n}" for n, name in enumerate(names)),
                                "--nbd", "n, 1 %.sock", "--qmp", "q, 1.sock", stdout=subprocess.PIPE, text=True)
        self.addCleanup(daemon.stdout.close)
        for name in names:
            uri = daemon.stdout.readline().strip()
            self.lab.run("nbdinfo", uri)
        for directory in ("b, c d", "./-b", "x=y"):
            self.run_tidemark("backup", directory, "--qmp", "q, 1.sock")
            self.run_tidemark("backup", directory, "--qmp", "q, 1.sock", "--level", "incremental")
            self.assertTrue(all(row["ok"] for row in self.json("verify", directory, "--all")))
            for n, name in enumerate(names):
                self.run_tidemark("restore", directory, "--disk", f"d{n}", "--to", f"./-out, {n}=.img")
                self.assertEqual((self.path / f"-out, {n}=.img").read_bytes(), (self.path / name).read_bytes())
                (self.path / f"-out, {n}=.img").unlink()

    def test_restores_into_one_file(self):
        self.raw("disk.img", 128 * MiB)
        self.serve("disk.img=disk")
        self.backup()
        first, terminal = self.start_on_terminal("restore", "backups", "--to", "out.img")
        self.until_shown(terminal, r"restore \[")
        processes.halt(first)
        try:
            partial = (self.path / "out.img.tidemark-partial").exists()
            if partial:                                  # else it was quicker than the signal
                self.assertIn("out.img.tidemark-partial", self.fails("restore", "backups", "--to", "out.img"))
        finally:
            first.send_signal(signal.SIGCONT)
        self.assertEqual(self.end_of(first)[0], DONE)
        self.assertEqual(first_difference((self.path / "out.img").read_bytes(), self.content()), None)

    def test_what_is_replaced_is_not_served_meanwhile(self):
        self.raw("disk.img", 128 * MiB)
        self.serve("disk.img=disk")
        self.backup()
        (self.path / "old.img").write_bytes(b"old" * 512)
        partial = self.path / "old.img.tidemark-partial"
        first, terminal = self.start_on_terminal("restore", "backups", "--to", "old.img", "--force")
        self.until_shown(terminal, r"restore \[")
        processes.halt(first)
        try:
            if partial.exists():                         # else it was quicker than the signal
                refused = self.run_tidemark("serve", "old.img=old", "--format", "raw", "--qmp", "q2.sock", "--nbd", "n2.sock", expect=FAILED)
                self.assertIn("lock", refused.stderr)
        finally:
            first.send_signal(signal.SIGCONT)
        self.assertEqual(self.end_of(first)[0], DONE)
        self.assertEqual(first_difference((self.path / "old.img").read_bytes(), self.content()), None)
        self.run_tidemark("restore", "backups", "--to", "old.img", "--force")

    def test_nothing_is_written_through_a_link_that_was_laid(self):
        self.raw("disk.img", 1 * MiB)
        self.serve("disk.img=disk")
        self.backup()
        (self.path / "precious").write_text("precious")
        for name in ("out.img", "new.img"):
            (self.path / f"{name}.tidemark-partial").symlink_to("precious")
        self.assertIn("symbolic link", self.fails("restore", "backups", "--to", "out.img"))
        self.assertIn("symbolic link", self.fails("image", "create", "-f", "raw", "new.img", "1M"))
        self.assertEqual((self.path / "precious").read_text(), "precious")
        self.assertTrue((self.path / "out.img.tidemark-partial").is_symlink())

    def test_nothing_is_restored_into_what_others_keep(self):
        """What has the name goes; it is not written to."""
        self.raw("disk.img", 1 * MiB)
        self.serve("disk.img=disk")
        self.backup()
        partial = self.path / "out.img.tidemark-partial"
        partial.touch()
        (self.path / "second").hardlink_to(partial)
        if os.geteuid() == 0:
            os.chown(partial, 65534, 65534)
        self.run_tidemark("restore", "backups", "--to", "out.img")
        self.assertEqual((self.path / "second").read_bytes(), b"")
        self.assertEqual((self.path / "out.img").stat().st_uid, os.geteuid())
        os.mkfifo(partial)
        self.assertIn("regular", self.fails("restore", "backups", "--to", "out.img", "--force"))
        self.assertTrue(partial.is_fifo())

    def test_restore_through_a_link(self):
        self.raw("disk.img", 1 * MiB)
        self.serve("disk.img=disk")
        self.backup()
        (self.path / "sub").mkdir()
        (self.path / "link").symlink_to("sub/target")
        self.run_tidemark("restore", "backups", "--to", "link")
        self.assertIn("exists", self.fails("restore", "backups", "--to", "link"))
        self.run_tidemark("restore", "backups", "--to", "link", "--force")
        self.assertTrue((self.path / "link").is_symlink())
        self.assertEqual((self.path / "sub" / "target").read_bytes(), (self.path / "disk.img").read_bytes())

    def test_an_image_is_served_once(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        for qmp, reason in (("other.qmp", "disk.img"), ("qmp.sock", "in use")):
            done = self.run_tidemark("serve", "disk.img=disk", "--nbd", "other.sock", "--qmp", qmp, expect=FAILED)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertIn(reason, done.stderr)
            self.assertFalse((self.path / "other.sock").exists())
        self.content()

    def test_sockets_are_private(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        for name in ("nbd.sock", "qmp.sock"):
            self.assertEqual((self.path / name).stat().st_mode & 0o077, 0)
        self.assertEqual(self.lab.stop(self.daemon), DONE)
        self.assertEqual([p.name for p in self.path.iterdir() if p.name.endswith(".sock")], [])

    def test_output_that_nobody_reads(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup()
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run([self.tidemark, "list", "backups"], cwd=self.path, stdout=writer, stderr=subprocess.PIPE, timeout=20)
        os.close(writer)
        self.assertNotEqual(done.returncode, DONE)

    def test_output_that_cannot_be_written(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup()
        with open("/dev/full", "w") as full:
            for words in (["--help"], ["--version"], ["list", "backups"], ["backup", "backups"], ["verify", "backups"],
                          ["--json", "list", "backups"], ["job", "list"], ["bitmap", "list"], ["qmp", "query-commands"],
                          ["restore", "backups", "--to", "out.img"]):
                done = self.lab.run(self.tidemark, *words, ok=None, timeout=20, stdout=full)
                said = json.loads(done.stderr)["error"]["message"] if "--json" in words else done.stderr.strip()
                self.assertEqual((done.returncode, said.removeprefix("tidemark: ")),
                                 (FAILED, "done, but its output is lost: No space left on device"), words)
            for words in (["--help"], ["--version"], ["--announce", "--nbd-server", "addr.type=unix,addr.path=n.sock", "--blockdev",
                                                      "driver=null-co,node-name=n", "--export", "nbd,id=e,node-name=n"]):
                done = self.lab.run(self.tidemarkd, *words, ok=None, timeout=20, stdout=full)
                self.assertEqual((done.returncode, done.stderr),
                                 (FAILED, "tidemarkd: write to standard output: No space left on device\n"), words)
        self.assertEqual(len(self.json("list", "backups")["points"]), 2)

    def test_standard_streams_that_are_not_there(self):
        """Messages neither end the program in another way nor go into a file that took a stream's number."""
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup()
        before = (self.path / "disk.img").read_bytes()
        with open("/dev/full", "w") as full:
            self.assertEqual(self.lab.run(self.tidemark, "list", "nothing", ok=None, stderr=full).returncode, FAILED)
            self.assertEqual(self.lab.run(self.tidemarkd, "--pidfile", "no/thing", ok=None, stderr=full).returncode, FAILED)
        for words in (["--json", "backup", "backups"], ["verify", "backups", "--all"], ["restore", "backups", "--to", "out.img"],
                      ["restore", "backups", "--to", "disk.img"]):
            done = self.lab.run("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", self.tidemark, *words, ok=None, timeout=30)
            self.assertEqual(done.returncode, FAILED if "disk.img" in words else DONE, words)
        self.assertEqual(first_difference((self.path / "disk.img").read_bytes(), before), None)
        self.assertEqual([row["ok"] for row in self.json("verify", "backups", "--all")], [True, True])
        self.assertEqual(first_difference((self.path / "out.img").read_bytes(), before), None)

    def test_restore_replaces_only_files(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        self.backup()
        (self.path / "folder").mkdir()
        self.assertIn("folder", self.fails("restore", "backups", "--to", "folder", "--force"))
        self.assertIn("disk.img", self.fails("restore", "backups", "--to", "disk.img", "--force"))
        self.assertEqual(first_difference((self.path / "disk.img").read_bytes(), self.content()), None)


class ErrorsAsJson(Bed):
    def error(self, *words, expect=FAILED):
        done = self.run_tidemark("--json", *words, expect=expect)
        self.assertEqual(done.stdout, "")
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        return json.loads(done.stderr)["error"]

    def test_of_every_command(self):
        for words in (["list", "nothing"], ["verify", "nothing"], ["restore", "nothing", "--to", "x"], ["serve", "nothing=x"],
                      ["backup", "x"], ["job", "list"], ["bitmap", "list"], ["qmp", "quit"]):
            error = self.error(*words)
            self.assertEqual(sorted(error), ["kind", "message"])
        self.assertEqual(self.error("list", "nothing")["kind"], "not found")
        self.assertEqual(self.error("nonsense", expect=USAGE)["kind"], "invalid argument")
        self.assertEqual(self.error("backup", "--level", "most", "x", expect=USAGE)["kind"], "invalid argument")

    def test_of_serve(self):
        self.raw("disk.img")
        self.serve("disk.img=a", "disk.img=b", options=["--json", "--read-only"])
        told = json.loads(self.daemon.stdout.readline())
        self.assertEqual(told, {"uris": [f"nbd+unix:///{name}?socket={self.path}/nbd.sock" for name in "ab"]})
        self.assertEqual(self.error("serve", "disk.img=a", "--qmp", "qmp.sock", "--nbd", "n.sock")["kind"], "busy")
        for tcp in ("localhost", "localhost:x"):
            self.assertIn("kind", self.error("serve", "disk.img=a", "--qmp", "q.sock", "--tcp", tcp))

    def test_damaged_points_are_rows(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        point = self.backup()["point"]
        (self.path / "backups" / "points" / point / "manifest.json").write_text("{")
        done = self.run_tidemark("--json", "verify", "backups", "--all", expect=DAMAGED)
        self.assertEqual(done.stderr, "")
        row, = json.loads(done.stdout)
        self.assertEqual((row["point"], row["ok"]), (point, False))
        self.assertIn("manifest", row["error"])
        done = self.run_tidemark("--json", "list", "backups", expect=DAMAGED)
        self.assertEqual((done.stderr, len(json.loads(done.stdout)["damaged"])), ("", 1))


if __name__ == "__main__":
    unittest.main()
