"""A visit to a GPU machine (tests/gpu/run.sh), rehearsed on one that is all fakes: whatever goes wrong there, the table
and the results say what, and one thing that fails costs none of the others."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
REPORT = '{"command": "x", "results": [{"name": "%s", "value": 2, "unit": "1", "better": "higher"}]}'
PROGRAMS = {  # of the build
    "tests/engine_gpu_lib_test": "echo '[  PASSED  ] 1 test(s).'",
    "tests/gpu_good": "echo '[  PASSED  ] 2 test(s).'",
    "tests/gpu_wrong": "echo '[  ERROR   ] --- good: element 3 of 9 is nan' >&2; echo ' 1 FAILED TEST(S)'; exit 1",
    "tests/gpu_odd": "printf 'level=error device call failed text=\\377\\300\\n' >&2; exit 1",
    "tests/gpu_short": "echo 'device 0: 9 MiB needed, 3 free' >&2; echo '{\"errors\": 0}'; exit 1",
    "tests/gpu_leaves": "sleep 600 & echo $! >\"$LEFT\"; exit 1",
    "tests/gpu_talks": "yes 'element 1 is wrong' | head -c 9000000; exit 1",
    "tests/gpu_engine_cuda": "exit 0",
    "tests/gpu_broken": "exit 0",
    "baton": "case $* in *--only*) echo '%s' ;; *' - '*) echo '%s' ;; *) echo baton 1 ;; esac"
             % (REPORT % "gpu.prefill.2048", REPORT % "rmsnorm.x"),
}
KERNELS = ("good", "wrong", "odd", "short", "leaves", "talks")
TOOLS = {
    "nvidia-smi": "echo 'GPU 0: Fake'",
    "pkg-config": "exit 0",
    "protoc-c": "exit 0",
    "nproc": "echo 8",
    "cmake": 'case $* in --build*) cp -r "$FAKES/build/." "$2/" ;; esac',
    "compute-sanitizer": "case $* in *'report-api-errors no'*) ;; *) echo '========= Program hit cudaErrorNotReady'; exit 99 ;; esac\n"
                         'for last; do :; done; exec "$last"',
    "python3": 'case "$*" in *pytest*) echo "1 passed in 0.1s" ;; *torch_llama*) echo \'%s\' ;; *handover*) echo \'%s\' ;; '
               '*) exec %s "$@" ;; esac' % (REPORT % "torch.prefill.2048", REPORT % "gpu.handover.exposed", sys.executable),
}


def write(path, text, mode=0o755):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def make_machine(top, programs, tools):
    """The repository as run.sh sees it, and the programs and tools it will find; returns its environment."""
    root, fakes = top / "root", top / "fakes"
    for name in ("run.sh", "report.py"):
        (root / "tests/gpu").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests/gpu" / name, root / "tests/gpu")
    for name, text in programs.items():
        write(fakes / "build" / name, "#!/bin/bash\n" + text + "\n")
    for name, text in tools.items():
        write(fakes / "bin" / name, "#!/bin/bash\n" + text + "\n")
    write(root / "deploy/install-cuda.sh", "exit 0\n")
    write(root / "engine/kernels/kernels.cmake", "set(KERNEL_SOURCES\n" + "\n".join(KERNELS) + "\n)\n")
    for name in KERNELS:
        for file in (f"{name}.h", f"{name}.cu", f"{name}_ref.c"):
            write(root / "engine/kernels" / file, "")
        write(root / f"tests/gpu/{name}_test.c", f'#include "engine/kernels/{name}.h"\n')
        write(root / f"bench/kernels/{name}_bench.c", f'#include "engine/kernels/{name}.h"\n')
    write(root / "tests/gpu/engine_cuda_test.c", "")
    write(root / "tests/e2e/test_gpu.py", "def test_one(gpu):\ndef test_two_things(gpu, role):\ndef test_emulated():\n")
    write(root / "bench/peer/torch_llama.py", "")
    return {**os.environ, "PATH": f"{fakes}/bin:{os.environ['PATH']}", "FAKES": str(fakes), "LEFT": str(top / "left")}


NEEDED = pathlib.Path("/usr/share/llhttp/llhttp.c")


@unittest.skipUnless(NEEDED.exists(), "llhttp's sources are not installed")
class Visit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        top = pathlib.Path(cls.folder.name)
        environment = make_machine(top, PROGRAMS, TOOLS)
        cls.left = top / "left"
        cls.run_visit = subprocess.run(
            [top / "root/tests/gpu/run.sh", "--out", top / "out/r.json"], capture_output=True, timeout=120, env=environment)
        cls.out = cls.run_visit.stdout.decode(errors="replace")
        cls.json = json.loads((top / "out/r.json").read_text())
        cls.archive = top / "out/r-logs.tar.gz"
        cls.steps = {s["step"]: s for s in cls.json["steps"]}

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_a_failure_comes_with_its_reason_and_the_status(self):
        self.assertEqual(self.run_visit.returncode, 1, self.out)
        self.assertEqual(self.steps["gpu_good"]["verdict"], "ok", self.out)
        self.assertIn("element 3 of 9 is nan", self.steps["gpu_wrong"]["detail"])
        self.assertIn("device call failed", self.steps["gpu_odd"]["detail"])  # and bytes that are no text hurt nobody
        self.assertIn("9 MiB needed", self.steps["gpu_short"]["detail"])
        self.assertIn("FAILED   gpu_wrong", self.out)

    def test_what_a_step_leaves_behind_is_ended(self):
        pid = self.left.read_text().strip()
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        self.assertEqual(state, "Z")

    def test_each_end_to_end_test_is_a_step_and_skips_nothing_of_others(self):
        self.assertEqual(sorted(n for n in self.steps if n.startswith("e2e")), ["e2e one", "e2e two_things"])
        self.assertEqual(self.steps["e2e two_things"]["verdict"], "ok", self.out)

    def test_the_goals_are_measured_before_the_kernels_and_both_are_in_the_results(self):
        order = [n for n in self.steps if n in ("bench", "handover", "peer", "kernels", "memcheck good")]
        self.assertEqual(order, ["bench", "handover", "peer", "kernels", "memcheck good"], self.out)
        self.assertEqual(self.steps["memcheck good"]["verdict"], "ok", self.out)  # which asks whether its work is over
        self.assertEqual(self.json["bench"]["results"][0]["name"], "gpu.prefill.2048")
        self.assertEqual(self.json["kernels"]["results"][0]["name"], "rmsnorm.x")
        over = [g for g in self.json["goals"] if g["name"] == "gpu.prefill.2048" and g["figure"] == "over PyTorch"]
        self.assertEqual(over[0]["value"], 1)

    def test_a_program_that_talks_too_much_does_not_fill_the_archive(self):
        with tarfile.open(self.archive) as t:
            sizes = {m.name: m.size for m in t.getmembers()}
        self.assertLess(max(sizes.values()), 3 << 20, sizes)
        self.assertIn("./gpu_talks.log", sizes)


@unittest.skipUnless(NEEDED.exists(), "llhttp's sources are not installed")
class WrongModel(unittest.TestCase):
    def goes_on_with(self, engine_test):
        where = {"tests/gpu_engine_cuda": engine_test, "baton": 'echo "{\\"command\\": \\"$0\\", \\"results\\": []}"'}
        with tempfile.TemporaryDirectory() as folder:
            top = pathlib.Path(folder)
            out = subprocess.run([top / "root/tests/gpu/run.sh", "--out", top / "r.json", "--only", "bench|gpu_engine|early"],
                                 capture_output=True, timeout=100, env=make_machine(top, {**PROGRAMS, **where}, TOOLS))
            result = json.loads((top / "r.json").read_text())
        self.assertIn("gpu_engine_cuda, no early starts", {s["step"] for s in result["steps"]}, out)
        return result["bench"]["command"]

    def test_a_model_that_early_starts_make_wrong_is_measured_without_them(self):
        self.assertEqual(self.goes_on_with("[[ $0 = *gpu-late* ]]"), "build/gpu-late/baton")

    def test_a_model_that_is_wrong_either_way_is_measured_as_it_was_built(self):
        self.assertEqual(self.goes_on_with("exit 1"), "build/gpu/baton")


@unittest.skipUnless(NEEDED.exists(), "llhttp's sources are not installed")
class Stuck(unittest.TestCase):
    def test_a_program_that_nobody_can_end_costs_what_comes_after_it_and_not_the_table(self):
        with tempfile.TemporaryDirectory() as folder:
            top = pathlib.Path(folder)
            hangs = {**PROGRAMS, "tests/gpu_engine_cuda": "echo >\"$LEFT.hangs\"; exec sleep 600"}
            endless = {**TOOLS, "timeout": '[ "$1" != -k ] || shift 2; shift; exec "$@"'}  # ends nothing
            visit = subprocess.Popen([top / "root/tests/gpu/run.sh", "--out", top / "r.json"], stdout=subprocess.PIPE,
                                     env=make_machine(top, hangs, endless), start_new_session=True)
            try:
                deadline = time.monotonic() + 100
                while not (top / "left.hangs").exists():
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.05)
                time.sleep(0.5)
                os.kill(visit.pid, signal.SIGUSR1)  # as its own watch does when time is over
                self.assertEqual(visit.wait(60), 1)
                steps = {s["step"]: s["verdict"] for s in json.loads((top / "r.json").read_text())["steps"]}
                self.assertEqual((steps["gpu_good"], steps["visit"]), ("ok", "FAILED"), steps)
                self.assertTrue((top / "r-logs.tar.gz").exists())
            finally:
                os.killpg(visit.pid, signal.SIGKILL)
                visit.stdout.close()


if __name__ == "__main__":
    unittest.main()
