"""Cut one chart out of a report page of `baton simulate` or `baton bench`, as an SVG file of its own.

    python3 docs/plots.py REPORT.html "CAPTION" OUT.svg

The colours and the legend come from the page; the picture is light, whatever the reader's screen is."""
import html
import re
import sys


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    page = open(sys.argv[1], encoding="utf-8").read()
    captions = [html.unescape(c) for c in re.findall(r"<figcaption>(.*?)</figcaption>", page)]
    if sys.argv[2] not in captions:
        sys.exit(f"there is no chart {sys.argv[2]!r}; there are: {sorted(set(captions))}")
    figure = re.search(rf"<figcaption>{re.escape(html.escape(sys.argv[2], quote=False))}</figcaption>"
                       r"<svg[^>]*>(.*?)</svg>", page, re.S)
    colours = dict(re.findall(r"--(\w+):(#\w+)", page.split("@media", 1)[0]))
    style = re.search(r"\nsvg text\{.*?(?=\n\.legend)", page, re.S).group(0)
    style += "".join(re.findall(r"^\.s0\{.*$", page, re.M))
    style = re.sub(r"var\(--(\w+)\)", lambda m: colours[m.group(1)], style)
    style = re.sub(r"stroke-dasharray:([^;}]*)", r"stroke-dasharray:\1", style)

    legend = list(re.finditer(r'class="legend">(.*?)</(?:div|p)>', page[:figure.start()], re.S))
    rows, y = [], 268
    for svg, name in re.findall(r"<svg[^>]*>(.*?)</svg>(.*?)</span>", legend[-1].group(1) if legend else "", re.S):
        rows.append(f'<g transform="translate(70 {y - 9})">{svg}</g>'
                    f'<text class="n" x="106" y="{y}">{name.strip()}</text>')
        y += 18
    height = y if rows else 260
    with open(sys.argv[3], "w", encoding="utf-8") as out:
        out.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 440 {height}" width="660">'
                  f'<style>{style}</style><rect width="440" height="{height}" fill="{colours["card"]}"/>'
                  f'<g>{figure.group(1)}</g>{"".join(rows)}</svg>\n')


main()
