#!/usr/bin/env python3
"""Fail if a header does not compile alone as C11, is too long, or does not say what it is; public ones as C++17 too.

A header without an include guard is a fragment that is meant to be included more than once: it is not
compiled, but has to say so.  Include paths come from compile_commands.json in BATON_BUILD_DIR.
"""
import concurrent.futures
import fnmatch
import json
import os
import pathlib
import re
import shlex
import subprocess

import tree

STOP = 300
# Code, not headers: written in macros that the file which includes them has defined.
FRAGMENTS = ("engine/cpu/cpu_simd*.h",)
PRIVATE = re.compile(r"_(?:impl|int|internal)\.h$")  # shared by the files of one object: C is enough
root = tree.root_from_arguments()


def include_flags():
    database = pathlib.Path(os.environ.get("BATON_BUILD_DIR", root / "build/release")) / "compile_commands.json"
    flags = {"-I" + str(root): None}
    if database.is_file():
        for entry in json.loads(database.read_text()):
            words = shlex.split(entry["command"])
            for i, word in enumerate(words):
                if word.startswith("-I"):
                    flags[word] = None
                elif word == "-isystem":
                    flags["-isystem" + words[i + 1]] = None
    return list(flags)


def vector_flags(path):
    flags = []
    if "avx" in path.name:
        flags += ["-mavx2", "-mfma", "-mf16c"]
    if "avx512" in path.name:
        flags += ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
    return flags


def compile_alone(path, language, includes):
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-unused-const-variable"]
    if "c++" in language:
        warnings = ["-w"]  # it has to compile; the style is C's
    run = subprocess.run(
        ["cc", "-fsyntax-only", "-D_GNU_SOURCE", *language, *warnings, *includes, *vector_flags(path), "-"],
        input=f'#include "{path.relative_to(root)}"\n', capture_output=True, text=True, cwd=root)
    if run.returncode == 0:
        return []
    first = next((l for l in run.stderr.splitlines() if "error" in l), run.stderr.strip())
    return [f"{path.relative_to(root)}: does not compile alone as {language[1]}: {first}"]


def check(path, includes):
    name, text = str(path.relative_to(root)), path.read_text(errors="replace")
    bad, lines = [], text.count("\n")
    if lines >= STOP:
        bad.append(f"{name}: {lines} lines; a header stops at {STOP}")
    if not re.match(rf"/\* {re.escape(name)} - \S", text):
        bad.append(f"{name}: the first line must be '/* {name} - what it is'")
    if any(fnmatch.fnmatch(name, f) for f in FRAGMENTS):
        return bad
    if not re.search(r"^#ifndef \w+_H\w*\n#define \w+_H", text, re.M):
        comment = text.partition("*/")[0]
        if "included once per" not in re.sub(r"\s*\*?\s+", " ", comment):
            bad.append(f"{name}: no include guard; a fragment's first comment says 'included once per ...'")
        return bad
    bad += compile_alone(path, ["-x", "c", "-std=c11"], includes)
    if not PRIVATE.search(name):
        bad += compile_alone(path, ["-x", "c++", "-std=c++17"], includes)
    return bad


headers = [p for f in tree.read_layers(root) for p in tree.files(root, {".h"}, [f])]
paths = include_flags()
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    results = list(pool.map(lambda p: check(p, paths), headers))
tree.finish("headers", [b for r in results for b in r], f" ({len(headers)} headers alone, C and C++)")
