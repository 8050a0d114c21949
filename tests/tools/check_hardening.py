#!/usr/bin/env python3
"""Fail if a binary lacks a hardening that the build asks for:  check_hardening.py BINARY"""
import re
import subprocess
import sys


def readelf(*options):
    return subprocess.run(["readelf", "-W", *options, sys.argv[1]], capture_output=True, text=True, check=True).stdout


if len(sys.argv) != 2:
    sys.exit(__doc__)
header, segments, dynamic, symbols = (readelf(o) for o in ("-h", "-l", "-d", "--dyn-syms"))
stack = re.search(r"GNU_STACK(?:\s+0x\w+){5}\s+(\S[RWE ]*?)\s+0x", segments)
checks = {
    "position independent (PIE)": "DYN (" in header and "(INTERP)" not in header and "PIE" in dynamic,
    "all symbols bound at start (BIND_NOW)": "BIND_NOW" in dynamic or re.search(r"FLAGS_1\).*NOW", dynamic),
    "relocations read-only (GNU_RELRO)": "GNU_RELRO" in segments,
    "stack not executable (GNU_STACK)": stack and "E" not in stack.group(1),
    "stack protector (__stack_chk_fail)": "__stack_chk_fail" in symbols,
    "fortified libc calls (*_chk)": re.search(r"__(?:v?snprintf|memcpy|memmove|read|v?fprintf|v?printf)_chk", symbols),
    "no text relocations": "TEXTREL" not in dynamic,
    "no writable and executable segment": not re.search(r"LOAD\s.*\sRWE\s", segments),
    "no run path": "RUNPATH" not in dynamic and "RPATH" not in dynamic,
}
for what, found in checks.items():
    print(f"{'ok     ' if found else 'MISSING'} {what}")
sys.exit(not all(checks.values()))
