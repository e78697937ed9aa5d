"""tidemark chain show and plan: of files and of a daemon's nodes the same numbers, which are those of what jobs then move."""
import json
import shlex
import subprocess
import unittest

from bed import FAILED, KiB, MiB, Bed, processes
from snapshot_bed import SnapshotBed

DISK = 8 * MiB


class ChainPlan(Bed):
    def setUp(self):
        super().setUp()
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", DISK)
        for name, below in (("a", "base"), ("b", "a"), ("top", "b")):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{below}.qcow2", "-F", "qcow2", f"{name}.qcow2")
        # In clusters of 64 KiB.
        self.fill("base", (0, 64))
        self.fill("a", (0, 10), (20, 10))
        self.fill("b", (0, 8), (40, 4))
        self.fill("top", (0, 9))

    def fill(self, name, *runs):
        commands = [word for first, count in runs for word in ("-c", f"write -P 7 {first * 64}k {count * 64}k")]
        self.lab.run("qemu-io", "-f", "qcow2", *commands, f"{name}.qcow2")

    def chain(self, *arguments, live=False, status=0):
        if not live:
            self.lab.env.pop("TIDEMARK_QMP", None)
        done = self.lab.run(self.tidemark, "chain", *arguments, ok=None)
        self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done.stdout if status == 0 else done.stderr

    EXPECTED = [(9, None, 9), (12, 4, 12), (20, 12, 20), (64, 44, None)]

    def numbers(self, text):
        units = [(layer["bytes"], layer.get("pull"), layer.get("commit")) for layer in json.loads(text)]
        return [tuple(None if one is None else one // (64 * KiB) for one in row) for row in units]

    def test_of_files(self):
        self.assertEqual(self.numbers(self.chain("show", "top.qcow2", "--json")), self.EXPECTED)
        shown = self.chain("show", "top.qcow2")
        self.assertIn("[3] base.qcow2 <- [2] a.qcow2 <- [1] b.qcow2 <- [0] top.qcow2", shown)
        self.assertIn("768.0 KiB", shown)

    def test_of_files_by_their_whole_names(self):
        top = str(self.path / "top.qcow2")
        self.assertIn("[1] b.qcow2 <- [0] top.qcow2", self.chain("show", top))
        before = self.flat()
        self.chain("remove", top, "1", "2")
        self.assertEqual((self.files_below(), self.flat() == before), (["base.qcow2"], True))

    def test_of_a_daemon(self):
        self.serve("top.qcow2=vda")
        self.assertEqual(self.numbers(self.chain("show", "vda", "--json", live=True)), self.EXPECTED)
        plan = self.chain("plan", "vda", "vda[1]", "2", live=True)
        self.assertIn("then  vda[3] base.qcow2 <- vda[0] top.qcow2", plan)
        # What shows of both is 4 of b and 11 of a (its tenth cluster is below top's end); all that both hold is 22.
        self.assertIn("1. pull vda[1], vda[2] into vda[0]: 960.0 KiB", plan)
        self.assertEqual(json.loads(self.chain("plan", "vda", "1", "a.qcow2", "--json", live=True))["bytes"], 15 * 64 * KiB)

    def test_a_plan_moves_what_it_says(self):
        self.serve("top.qcow2=vda")
        plan = json.loads(self.chain("plan", "vda", "1", "2", "--json", live=True))
        qmp, before = self.qmp(), self.held()
        qmp.execute("block-stream", device="vda", **{"job-id": "j", "base-node": plan["layers"][3]["node-name"]})
        qmp.wait_event("BLOCK_JOB_COMPLETED", device="j")
        self.assertEqual(self.held() - before, plan["bytes"])

    def held(self):
        return json.loads(self.chain("show", "vda", "--json", live=True))[0]["bytes"]

    def test_layers_are_found_or_not(self):
        for word in ("1", "[1]", "top.qcow2[1]", "b.qcow2"):
            self.assertEqual(json.loads(self.chain("plan", "top.qcow2", word, "--json"))["bytes"], 4 * 64 * KiB, word)
        for word, why in (("4", "has 4 layers"), ("none.qcow2", "no layer 'none.qcow2'"), ("other[1]", "no layer")):
            self.assertIn(why, self.chain("plan", "top.qcow2", word, status=FAILED))
        self.assertIn("must stay", self.chain("plan", "top.qcow2", "0", "1", "2", "3", status=FAILED))
        self.assertIn("No such file", self.chain("show", "none.qcow2", status=FAILED))
        self.serve("top.qcow2=vda")
        self.assertIn("none", self.chain("show", "none", live=True, status=FAILED))

    def test_numbers_that_are_names(self):
        """1 <- 2 <- t.qcow2, of which the first one below the top is called 2."""
        (self.path / "1").write_bytes(bytes(DISK))
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "1", "-F", "raw", "2")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "2", "-F", "qcow2", "t.qcow2")
        self.lab.env.pop("TIDEMARK_QMP", None)
        for word, other in (("1", "2"), ("2", "1")):
            for words in (["snapshot", "delete", "t.qcow2", word], ["chain", "pull", "t.qcow2", word],
                          ["chain", "rebase", "t.qcow2", word], ["snapshot", "revert", "t.qcow2", word, "--discard"]):
                self.assertIn(f"say t.qcow2[{word}] or t.qcow2[{other}]", self.fails(*words))
        self.run_tidemark("snapshot", "delete", "t.qcow2", "t.qcow2[1]", "--way", "pull")
        told = json.loads(self.lab.run("qemu-img", "info", "--output=json", "t.qcow2").stdout)
        self.assertEqual(told["backing-filename"], "1")
        self.run_tidemark("snapshot", "delete", "t.qcow2", "1")         # both are the same now

    def test_the_bottom_is_pulled_and_the_top_committed(self):
        bottom = json.loads(self.chain("plan", "top.qcow2", "3", "--json"))["steps"]
        self.assertEqual([(step["action"], step["bytes"] // (64 * KiB)) for step in bottom], [("pull", 44)])
        top = json.loads(self.chain("plan", "top.qcow2", "0", "1", "2", "--json"))["steps"]
        self.assertEqual([(step["action"], step["bytes"] // (64 * KiB)) for step in top], [("commit", 24)])

    def flat(self):
        self.lab.run("qemu-img", "convert", "-O", "raw", "top.qcow2", "flat.raw")
        return (self.path / "flat.raw").read_bytes()

    def files_below(self):
        told = json.loads(self.lab.run("qemu-img", "info", "--backing-chain", "--output=json", "-U", "top.qcow2").stdout)
        return [one["filename"].rpartition("/")[2] for one in told[1:]]

    REMOVALS = {
        "cheapest": (("remove", "1", "2"), ["base.qcow2"]),
        "pull one": (("pull", "2"), ["b.qcow2", "base.qcow2"]),
        "pull two apart": (("pull", "1", "3"), ["a.qcow2"]),
        "commit one": (("commit", "1"), ["a.qcow2", "base.qcow2"]),
        "commit two": (("commit", "1", "2"), ["base.qcow2"]),
        "pull all": (("remove", "1", "2", "3"), []),
    }

    def test_removed_from_files(self):
        before = self.flat()
        for name, ((verb, *layers), left) in self.REMOVALS.items():
            with self.subTest(name):
                self.setUp()
                self.chain(verb, "top.qcow2", *layers)
                self.assertEqual(self.files_below(), left)
                self.assertEqual(self.flat(), before)
                self.lab.run("qemu-img", "check", "-q", "top.qcow2")

    def test_removed_from_a_daemons_disk(self):
        before = self.flat()
        for name, ((verb, *layers), left) in self.REMOVALS.items():
            with self.subTest(name):
                self.setUp()
                self.serve("top.qcow2=vda")
                done = json.loads(self.chain(verb, "vda", *layers, "--json", live=True))
                self.assertEqual(sum(len(step["layers"]) for step in done), len(layers))
                self.assertEqual(self.files_below(), left)
                self.assertEqual(self.content("vda"), before)
                self.assertEqual(self.qmp().execute("query-jobs"), [])

    def test_what_others_stand_on_is_not_written_to(self):
        """x <- y on the base of another chain, and on one of their own: where it costs the same, x is committed."""
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "own.qcow2", DISK)
        for live in (False, True):
            for base, action in (("own", "commit"), ("base", "pull")):
                for name, below in (("x", base), ("y", "x")):
                    self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{self.path}/{below}.qcow2", "-F", "qcow2",
                                 f"{name}.qcow2")
                    self.fill(name, (50 if name == "x" else 60, 3))
                before = self.flat()
                if live:
                    self.serve(f"{self.path}/y.qcow2=vda")
                with self.subTest(live=live, base=base):
                    disk = "vda" if live else "y.qcow2"
                    planned = json.loads(self.chain("plan", disk, "1", "--json", live=live))["steps"]
                    self.assertEqual([step["action"] for step in planned], ["commit"])
                    done = json.loads(self.chain("remove", disk, "1", "--json", live=live))
                    self.assertEqual(([step["action"] for step in done], self.flat() == before), ([action], True))
                    if base == "base":
                        refused = self.chain("remove", disk, "0", live=live, status=FAILED)
                        self.assertIn("other images may stand on", refused)
                        self.assertEqual(self.flat() == before, True)
                        self.chain(*shlex.split(refused.split("'tidemark chain ")[1].split("'")[0]), disk, "0", live=live)
                if live:
                    self.run_tidemark("qmp", "quit")
                    self.daemon.wait(20)
                    for socket in ("qmp.sock", "nbd.sock"):
                        (self.path / socket).unlink(missing_ok=True)

    def test_what_is_said_of_others_that_the_daemon_has_open(self):
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{self.path}/b.qcow2", "-F", "qcow2", "clone.qcow2")
        self.lab.run("qemu-img", "convert", "-O", "raw", "clone.qcow2", "clone.raw")
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 9 0 64k", "top.qcow2")
        self.serve(f"{self.path}/top.qcow2=vda")
        below = json.loads(self.chain("show", "vda", "--json", live=True))[1]["node-name"]
        self.qmp().execute("blockdev-add", driver="qcow2", node_name="clone", backing=below,
                           file={"driver": "file", "filename": f"{self.path}/clone.qcow2"})
        before = self.content("vda")
        words = shlex.split(self.chain("remove", "vda", "0", live=True, status=FAILED).split("'tidemark chain ")[1].split("'")[0])
        self.chain(*words, "vda", "0", live=True)
        self.assertEqual(self.content("vda") == before, True)
        self.run_tidemark("qmp", "quit")
        self.daemon.wait(20)
        self.lab.run("qemu-img", "compare", "-q", "-F", "raw", "clone.qcow2", "clone.raw")

    def test_what_cannot_be_removed(self):
        self.assertIn("nothing is above", self.chain("pull", "top.qcow2", "0", status=FAILED))
        self.assertIn("nothing is below", self.chain("commit", "top.qcow2", "3", status=FAILED))
        self.assertIn("is for a daemon's jobs", self.chain("commit", "--preserve-removed", "on", "top.qcow2", "1", status=FAILED))
        self.assertIn("--speed", self.chain("pull", "top.qcow2", "1", "--speed", "1M", status=FAILED))


class OfAnotherSize(SnapshotBed):
    """long <- short: guests see a disk that is shorter than what it stands on."""

    def begin(self, live):
        self.setUp()
        self.lab.run("qemu-img", "create", "-q", "-f", "raw", "long.raw", 4 * MiB)
        self.lab.run("qemu-io", "-f", "raw", "-c", "write -q -P 1 0 4M", "long.raw")
        self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", f"{self.path}/long.raw", "-F", "raw", "short.qcow2", 2 * MiB)
        self.lab.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 2 0 64k", "short.qcow2")
        self.before = self.flat("short.qcow2")
        self.offline()
        if live:
            self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
            self.serve(f"{self.path}/short.qcow2=vda")

    def test_the_top_is_not_committed_to_what_is_longer(self):
        for live in (False, True):
            self.begin(live)
            disk = "vda" if live else "short.qcow2"
            for words in (("chain", "remove", disk, "0"), ("chain", "commit", disk, "0"), ("snapshot", "delete", disk, "1", "--way", "commit")):
                with self.subTest(live=live, words=words):
                    told = self.fails(*words)
                    self.assertRegex(told, r"2097152 bytes.*\[1\].*4194304; .* chain pull")
                    self.assertEqual(self.chain("short.qcow2"), ["short.qcow2", "long.raw"])

    def test_nor_where_that_would_move_less(self):
        self.begin(True)
        self.run_tidemark("snapshot", "delete", "vda", "1")
        self.assertEqual(self.chain("short.qcow2"), ["short.qcow2"])
        self.assertEqual(self.content("vda") == self.before, True)

    def test_what_it_says_keeps_the_size(self):
        for live in (False, True):
            with self.subTest(live=live):
                self.begin(live)
                self.run_tidemark("chain", "pull", "vda" if live else "short.qcow2", "1")
                self.assertEqual((self.chain("short.qcow2"), self.flat("short.qcow2") == self.before), (["short.qcow2"], True))


class SeveralSteps(SnapshotBed):
    """l5 <- l4 <- l3 <- l2 <- l1 <- l0: l1 is cheapest pulled, for l0 hides it, and l2 committed."""

    WRITES = {"l5": "0 8M", "l4": "4M 1M", "l3": "6M 64k", "l2": "4M 1M", "l1": "0 3M", "l0": "0 3M"}

    def begin(self, live):
        self.setUp()
        below = []
        for seed, (name, where) in enumerate(self.WRITES.items(), 1):
            self.lab.run("qemu-img", "create", "-q", "-f", "qcow2", *below, f"{name}.qcow2", DISK)
            self.lab.run("qemu-io", "-f", "qcow2", "-c", f"write -q -P {seed} {where}", f"{name}.qcow2")
            below = ["-b", f"{name}.qcow2", "-F", "qcow2"]
        self.disk, self.before = "l0.qcow2", self.flat("l0.qcow2")
        self.offline()
        if live:
            self.lab.env["TIDEMARK_QMP"] = "qmp.sock"
            self.serve(f"{self.path}/l0.qcow2=vda")
            self.disk = "vda"

    def remove(self, verb, *layers):
        return [(step["action"], [file.rpartition("/")[2] for file in step["layers"]], step["into"].rpartition("/")[2])
                for step in self.json("chain", verb, self.disk, *layers)]

    def test_a_run_that_goes_both_ways(self):
        for live in (False, True):
            with self.subTest(live=live):
                self.begin(live)
                steps = self.remove("remove", "1", "2", "4")
                self.assertEqual(sorted(steps), [("commit", ["l2.qcow2"], "l3.qcow2"), ("pull", ["l1.qcow2"], "l0.qcow2"),
                                                 ("pull", ["l4.qcow2"], "l3.qcow2")])
                self.assertEqual(self.chain("l0.qcow2"), ["l0.qcow2", "l3.qcow2", "l5.qcow2"])
                self.assertEqual(self.flat("l0.qcow2") == self.before, True)

    def test_the_top_and_one_further_down(self):
        for live in (False, True):
            with self.subTest(live=live):
                self.begin(live)
                self.assertEqual(self.remove("commit", "0", "3"), [("commit", ["l0.qcow2"], "l1.qcow2"), ("commit", ["l3.qcow2"], "l4.qcow2")])
                self.assertEqual(self.chain("l1.qcow2"), ["l1.qcow2", "l2.qcow2", "l4.qcow2", "l5.qcow2"])
                self.assertEqual(self.flat("l1.qcow2") == self.before, True)

    def test_what_is_done_is_told_when_a_later_step_fails(self):
        for live in (False, True):
            with self.subTest(live=live):
                self.begin(live)
                reader = self.lab.start(self.tidemark, "serve", "l4.qcow2=other", "--read-only", "--nbd", "other.nbd", "--qmp", "other.qmp",
                                        stdout=subprocess.DEVNULL)
                processes.wait_for_socket(self.path / "other.qmp", reader)
                done = self.run_tidemark("--json", "chain", "commit", self.disk, "1", "3", expect=FAILED)
                self.assertEqual([step["into"].rpartition("/")[2] for step in json.loads(done.stdout)], ["l2.qcow2"])
                self.assertIn("error", json.loads(done.stderr))
                self.assertEqual(self.chain("l0.qcow2"), ["l0.qcow2", "l2.qcow2", "l3.qcow2", "l4.qcow2", "l5.qcow2"])
                self.assertEqual(self.flat("l0.qcow2") == self.before, True)


if __name__ == "__main__":
    unittest.main()
