#!/usr/bin/env python3
"""Fail on text that has no place in the tree; report lengths of files and functions.

Every file: no absolute path of somebody's machine, no notes to do later.  C: ASCII only, the first line
says what the file is, files stop at 1,200 lines and functions at 150.  A comment above a function that
says 'Long because ...' lifts its stop.
"""
import re
import statistics

import tree

FILE_STOP, FUNCTION_STOP = 1200, 150
TEXT_KINDS = tree.C_KINDS | {".py", ".sh", ".cmake", ".txt", ".md", ".yaml", ".yml", ".json", ".proto", ".toml"}
MACHINE = re.compile(r"(?<![\w.~$}/-])/(?:home/\w+|root/\w|Users/\w+|work/\w+|mnt/\w+|workspace/\w*)")
LATER = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
LITERAL = {"tests/tools/check_text.py", "tests/tools/test_tools.py"}  # they name what they look for

root = tree.root_from_arguments()
bad, lengths = [], []


def functions(text):
    """(name, first line, lines) of every function: its braces stand at the start of a line."""
    lines = tree.code_only(text).splitlines()
    start = None
    for i, line in enumerate(lines):
        if line.startswith("{"):
            start = i
        elif line.startswith("}") and start is not None:
            head = " ".join(lines[max(0, start - 6):start])
            names = re.findall(r"(\w+)\s*\(", head.rpartition(";")[2].rpartition("}")[2])
            if names:
                yield names[0], start + 1, i - start - 1
            start = None


def check_c(name, text):
    if not text.isascii():
        line = next(i for i, l in enumerate(text.splitlines(), 1) if not l.isascii())
        bad.append(f"{name}:{line}: C sources are ASCII")
    says = r"/\* \w" if name.startswith("tests/") else rf"/\* {re.escape(name)} - \S"
    if not re.match(says, text):
        bad.append(f"{name}:1: the first line must be '/* {name} - what it is'")
    if text.count("\n") > FILE_STOP:
        bad.append(f"{name}: {text.count(chr(10))} lines; a file stops at {FILE_STOP}")
    lines = text.splitlines()
    for function, start, length in functions(text):
        lengths.append((length, f"{name}:{start} {function}"))
        above = "\n".join(lines[max(0, start - 14):start])
        if length > FUNCTION_STOP and "Long because" not in above:
            bad.append(f"{name}:{start}: {function} has {length} lines; a function stops at {FUNCTION_STOP}")


for path in tree.files(root, TEXT_KINDS):
    name, text = str(path.relative_to(root)), path.read_text(errors="replace")
    if name in LITERAL:
        continue
    for number, line in enumerate(text.splitlines() if path.suffix != ".json" else [], 1):
        if MACHINE.search(line):
            bad.append(f"{name}:{number}: a path of one machine: {MACHINE.search(line).group(0)}")
        if LATER.search(line):
            bad.append(f"{name}:{number}: a note to do later belongs in an issue")
    if path.suffix in tree.C_KINDS:
        check_c(name, text)

if lengths:
    lengths.sort(reverse=True)
    sizes = sorted(length for length, _ in lengths)
    print(f"{len(sizes)} functions: median {statistics.median(sizes):.0f} lines, "
          f"p90 {sizes[len(sizes) * 9 // 10]}, longest:")
    for length, where in lengths[:5]:
        print(f"  {length:4} {where}")
tree.finish("text", bad)
