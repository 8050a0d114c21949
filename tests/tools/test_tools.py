"""The checks of the tree find what they look for: each runs over a small tree with one thing wrong."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOLS = pathlib.Path(__file__).resolve().parent
GOOD = {
    "tests/tools/layers.txt": "base:\nengine: base\ndaemon: base engine\n",
    "base/a.h": "/* base/a.h - a. */\n#ifndef BASE_A_H\n#define BASE_A_H\nint a_get(void);\n#endif\n",
    "base/a.c": '/* base/a.c - a. */\n#include "base/a.h"\n\nint a_get(void)\n{\n    return 1;\n}\n',
    "engine/e.c": '/* engine/e.c - e. */\n#include "base/a.h"\n/* free(p), "strcpy(a)" */\n',
    "daemon/d.c": '/* daemon/d.c - d. */\n#include "engine/e.h"\nvoid d(void)\n{\n    exit(getenv("X") != 0);\n}\n',
    "engine/e.h": "/* engine/e.h - e. */\n#ifndef ENGINE_E_H\n#define ENGINE_E_H\n#endif\n",
}
LONG = "void f(void)\n{\n" + "    g();\n" * 151 + "}\n"


class Checks(unittest.TestCase):
    def run_tool(self, tool, changes=None):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**GOOD, **(changes or {})}.items():
                path = pathlib.Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            run = subprocess.run([sys.executable, TOOLS / tool, folder], capture_output=True, text=True)
        return run.returncode, run.stdout + run.stderr

    def assert_found(self, tool, name, text, expect):
        code, out = self.run_tool(tool, {name: text})
        self.assertEqual(code, 1, out)
        self.assertIn(expect, out)

    def test_a_good_tree_passes_all_checks(self):
        for tool in ("check_layers.py", "check_banned.py", "check_headers.py", "check_text.py"):
            code, out = self.run_tool(tool)
            self.assertEqual(code, 0, f"{tool}: {out}")

    def test_an_include_that_points_down_is_found(self):
        self.assert_found("check_layers.py", "base/b.c", '#include "engine/e.h"\n', "base may not include engine/")
        self.assert_found("check_layers.py", "base/b.c", ' # include "a.h"\n', "from the root")
        self.assert_found("check_layers.py", "base/b.c", '#include "other/x.h"\n', "no folder")
        self.assert_found("check_layers.py", "tests/tools/layers.txt", "engine: base\nbase:\n", "before")

    def test_banned_calls_are_found_and_may_be_allowed_with_a_reason(self):
        for call in ("strcpy(a, b)", "x = malloc (3)", "free(p)", "abort()", "getenv(n)", "strtok(a, b)"):
            self.assert_found("check_banned.py", "engine/x.c", f"void f(void)\n{{\n    {call};\n}}\n", "x.c:3")
        for fine in ("mem_free(p)", "o->free(p)", "o.free(p)", "my_exit(1)", "free(p); /* allow free: libc's own */"):
            code, out = self.run_tool("check_banned.py", {"engine/x.c": f"    {fine};\n"})
            self.assertEqual(code, 0, out)

    def test_headers_that_do_not_stand_alone_are_found(self):
        guard = "#ifndef BASE_B_H\n#define BASE_B_H\n{}\n#endif\n"
        first = "/* base/b.h - b. */\n"
        self.assert_found("check_headers.py", "base/b.h", first + guard.format("size_t b(void);"), "alone")
        self.assert_found("check_headers.py", "base/b.h", first + guard.format("int class;"), "c++")
        self.assert_found("check_headers.py", "base/b.h", guard.format("int b;"), "first line")
        self.assert_found("check_headers.py", "base/b.h", first + "int b;\n", "include guard")
        self.assert_found("check_headers.py", "base/b.h", first + guard.format("\n" * 300), "stops at 300")

    def test_text_that_has_no_place_is_found(self):
        first = "/* base/b.c - b. */\n"
        self.assert_found("check_text.py", "base/b.c", first + "/* \u2014 */\n", "ASCII")
        self.assert_found("check_text.py", "base/b.c", "int b;\n", "first line")
        self.assert_found("check_text.py", "base/b.c", first + "\n" * 1201, "stops at 1200")
        self.assert_found("check_text.py", "base/b.c", first + LONG, "f has 151 lines")
        self.assert_found("check_text.py", "README.md", "see /home/me/x\n", "machine")
        self.assert_found("check_text.py", "base/b.c", first + "/* TODO: it */\n", "later")
        code, out = self.run_tool("check_text.py", {"base/b.c": first + "/* Long because it is a table. */\n" + LONG})
        self.assertEqual(code, 0, out)

    def test_a_binary_without_hardening_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            source, binary = pathlib.Path(folder, "m.c"), pathlib.Path(folder, "m")
            source.write_text("#include <stdio.h>\nint main(int n, char **a)\n{\n    char b[64];\n"
                              "    snprintf(b, (unsigned)n * 9, \"%s\", a[0]);\n    return puts(b);\n}\n")
            hard = ["-O2", "-fPIE", "-pie", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-Wl,-z,relro,-z,now"]
            for flags, want, text in ((hard, 0, "ok"), (hard + ["-no-pie"], 1, "MISSING position"),
                                      (hard + ["-fno-stack-protector"], 1, "MISSING stack protector"),
                                      (hard + ["-Wl,-z,lazy"], 1, "MISSING all symbols"),
                                      (hard + ["-Wl,-z,norelro"], 1, "MISSING relocations"),
                                      (hard + ["-Wl,-z,execstack"], 1, "MISSING stack not"),
                                      (hard + ["-U_FORTIFY_SOURCE"], 1, "MISSING fortified")):
                subprocess.run(["cc", *flags, "-o", binary, source], check=True, capture_output=True)
                run = subprocess.run([sys.executable, TOOLS / "check_hardening.py", binary],
                                     capture_output=True, text=True)
                self.assertEqual(run.returncode, want, (flags, run.stdout, run.stderr))
                self.assertIn(text, run.stdout)


if __name__ == "__main__":
    unittest.main()
