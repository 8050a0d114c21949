#!/usr/bin/env python3
"""Fail if a source file includes a folder that layers.txt does not allow it, or not from the root."""
import re

import tree

root = tree.root_from_arguments()
allowed = tree.read_layers(root)
bad = []
for folder, uses in allowed.items():
    for path in tree.files(root, tree.C_KINDS, [folder]):
        for number, text in enumerate(path.read_text(errors="replace").splitlines(), 1):
            hit = re.match(r'\s*#\s*include\s+"([^"]+)"', text)
            if not hit:
                continue
            where = f"{path.relative_to(root)}:{number}"
            target, slash, _ = hit.group(1).partition("/")
            if not slash:
                bad.append(f'{where}: "{hit.group(1)}": include from the root of the repository')
            elif target not in allowed:
                bad.append(f"{where}: {target}/ is no folder of layers.txt")
            elif target not in uses:
                bad.append(f"{where}: {folder} may not include {target}/")
tree.finish("layers", bad)
