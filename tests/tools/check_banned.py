#!/usr/bin/env python3
"""Fail on calls that the house rules ban.  A line may allow one by a comment: allow NAME: the reason."""
import re

import tree

# name: folders or files where it may be called
BANNED = {name: () for name in (
    "strcpy stpcpy strcat sprintf vsprintf gets atoi atol atoll atof strtok strtok_r alloca "
    "system popen tmpnam mktemp rand srand setjmp longjmp").split()}
BANNED |= {name: ("base/mem.c",) for name in (
    "malloc calloc realloc free reallocarray posix_memalign aligned_alloc memalign valloc "
    "strdup strndup asprintf vasprintf").split()}
BANNED |= {name: ("daemon/",) for name in "getenv secure_getenv setenv putenv".split()}
BANNED |= {name: ("daemon/",) for name in "abort exit _Exit quick_exit".split()}
BANNED["_exit"] = ("daemon/", "bench/")  # the way out of a forked child

CALL = re.compile(r"(?<![\w.>])(" + "|".join(sorted(BANNED)) + r")\s*\(")


def problems_of(path, name):
    text = path.read_text(errors="replace")
    lines = text.splitlines()
    for number, code in enumerate(tree.code_only(text).splitlines(), 1):
        for hit in CALL.finditer(code):
            call = hit.group(1)
            if name.startswith(BANNED[call] or ("\0",)):
                continue
            if re.search(rf"/\*.*\ballow {call}: \w", lines[number - 1]):
                continue
            yield f"{name}:{number}: {call}() is banned here"


root = tree.root_from_arguments()
found = []
for folder in tree.read_layers(root):
    if folder != "tests":
        for file in tree.files(root, tree.C_KINDS, [folder]):
            found += problems_of(file, str(file.relative_to(root)))
tree.finish("banned", found)
