"""Bash completion: it offers what --help prints, values, and names of a running daemon."""
import re
import unittest

from bed import USAGE, Bed, processes

SCRIPT = r"""
source "$1"; shift
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=() COMP_CWORD=0
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
program=${COMP_WORDS[0]##*/}
"_$program" "${COMP_WORDS[0]}" "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
printf '%s\n' "${COMPREPLY[@]}"
"""
COMPLETIONS = processes.ROOT / "completions"


def split(line):
    """Words as readline splits them: at blanks, and at ':' and '=' which are words too."""
    words = re.findall(r"[:=]+|[^\s:=]+", line)
    return words + [""] if line[-1] == " " else words


def verbs_of(text):
    """The names in the last part of --help that has any."""
    listed = text.partition("Subcommands:\n")[2].partition("\n\n")[0]
    return re.findall(r"^  ([a-z-]+)", listed, re.MULTILINE)


def options_of(text):
    return {word for line in re.findall(r"^ +(-\S+)", text, re.MULTILINE) for word in line.split(",")}


class Completion(Bed):
    def complete(self, line):
        """What is offered at the end of a line."""
        first, _, rest = line.partition(" ")
        program = {"tidemark": self.tidemark, "tidemarkd": self.tidemarkd}[first]
        line = f"{program} {rest}"
        done = self.lab.run("bash", "--norc", "-c", SCRIPT, "bash", COMPLETIONS / first, line, *split(line), timeout=20)
        self.assertEqual(done.stderr, "", line)
        return done.stdout.split()

    def help(self, *words, program=None):
        return self.lab.run(program or self.tidemark, *words, "--help", timeout=20).stdout

    def offers(self, line, *words):
        """Nothing but these words is offered (a name with a blank counts as two)."""
        self.assertEqual(sorted(self.complete(line)), sorted(words), line)


class Words(Completion):
    def test_every_verb_and_option_of_help(self):
        pending, seen = [()], 0
        while pending:
            words = pending.pop()
            text, line = self.help(*words), " ".join(("tidemark", *words))
            verbs, options = verbs_of(text), options_of(text)
            if verbs:
                self.offers(line + " ", *verbs)
            self.assertLessEqual(options, set(self.complete(line + " -")), line)
            for option in options:
                self.assertIn(option, self.complete(f"{line} {option}"))
            pending += [(*words, verb) for verb in verbs]
            seen += 1
        self.assertGreater(seen, 20)

    def test_no_option_is_offered_that_is_not_taken(self):
        pending = [()]
        while pending:
            words = pending.pop()
            text = self.help(*words)
            offered = set(self.complete(" ".join(("tidemark", *words, "-"))))
            taken = set().union(*(options_of(self.help(*words[:n])) for n in range(len(words) + 1)))
            self.assertLessEqual(offered, taken, words)
            pending += [(*words, verb) for verb in verbs_of(text)]

    def test_the_daemon_s_options(self):
        options = options_of(self.help(program=self.tidemarkd))
        self.assertGreater(len(options), 10)
        self.offers("tidemarkd -", *options)
        self.offers("tidemarkd --daemonize --ann", "--announce")

    def test_values(self):
        self.offers("tidemark backup dir --level ", "auto", "full", "incremental")
        self.offers("tidemark backup dir --level inc", "incremental")
        self.offers("tidemark restore --format=q", "qcow2")
        self.offers("tidemark restore --format=", "raw", "qcow2")
        self.offers("tidemark --aio ", "io_uring", "threads")
        self.offers("tidemark --aio threads ser", "serve")
        self.offers("tidemark --json job re", "resume")
        self.offers("tidemarkd --aio=thr", "threads")
        self.offers("tidemarkd --nbd-server addr.type=", "unix", "inet")
        self.offers("tidemarkd --chardev socket,id=m,path=x --monitor chardev=", "m")
        self.offers("tidemarkd --blockdev raw,node-name=a,file=b --export nbd,id=x,node-name=", "a")
        self.offers("tidemark image resize --preallocation f", "falloc", "full")
        self.offers("tidemark image amend -o ref", "refcount_bits=")
        self.assertIn("qcow2,node-name=", self.complete("tidemarkd --blockdev qcow2,no"))

    def test_file_names(self):
        (self.path / "one disk.raw").touch()
        (self.path / "onward").mkdir()
        for line in ("tidemark serve on", "tidemark backup on", "tidemark restore d --to on", "tidemark qmp --qmp on",
                     "tidemarkd --pidfile on", "tidemarkd --blockdev file,filename=on"):
            self.offers(line, "one", "disk.raw", "onward")


class Names(Completion):
    def test_a_running_daemon_s(self):
        self.raw("a.img")
        self.serve("a.img=disk-a", "a.img=disk-b", options=["--read-only"])
        self.run_tidemark("bitmap", "add", "disk-a", "mark:1:x")
        self.run_tidemark("bitmap", "add", "disk-a", "other")
        self.offers("tidemark bitmap add ", "disk-a", "disk-b")
        self.offers("tidemark backup dir --disk disk-", "disk-a", "disk-b")
        self.offers("tidemark bitmap remove disk-a ", "mark:1:x", "other")
        self.offers("tidemark bitmap remove disk-a mark:1:", "x")
        self.offers("tidemark bitmap merge disk-a other m", "mark:1:x")
        self.offers("tidemark bitmap list disk-b", "disk-b")
        self.offers("tidemark bitmap list disk-b ")
        self.offers("tidemark qmp query-j", "query-jobs")
        self.offers("tidemark job watch ")

    def test_a_job_s(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        slow = self.start_slow_backup()
        job = self.json("job", "list")[0]["id"]
        self.offers("tidemark job cancel ", job)
        self.offers(f"tidemark job set-speed {job} 1", "10M", "100M", "1G")
        slow.terminate()
        self.end_of(slow)

    def test_a_backup_directory_s(self):
        self.raw("disk.img")
        self.serve("disk.img=disk")
        point = self.backup("--disk", "disk=system")["point"]
        self.offers("tidemark verify backups ", "latest", point)
        self.offers("tidemark restore backups " + point[:8], point)
        self.offers("tidemark restore backups --disk ", "system")

    def test_an_image_s_snapshots(self):
        self.qcow2("a.qcow2")
        for snapshot in ("first", "other"):
            self.run_tidemark("image", "snapshot", "-c", snapshot, "a.qcow2")
        for words in ("snapshot a.qcow2 -a", "snapshot a.qcow2 --delete", "convert a.qcow2 -l", "map a.qcow2 --snapshot"):
            self.offers(f"tidemark image {words} ", "first", "other")
        self.offers("tidemark image snapshot a.qcow2 -c ")
        self.offers("tidemark image snapshot -l a.qc", "a.qcow2")

    def test_silent_without_a_daemon(self):
        for line in ("tidemark bitmap add ", "tidemark job watch ", "tidemark qmp ", "tidemark backup d --disk ",
                     "tidemark bitmap remove d ", "tidemark restore nothing --disk "):
            self.offers(line)
        self.offers("tidemark restore nothing ", "latest")
        self.run_tidemark("job", "wait", expect=USAGE)


if __name__ == "__main__":
    unittest.main()
