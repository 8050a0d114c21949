"""Cut charts out of a report page of `baton simulate` or `baton bench`, side by side in one SVG file.

    python3 docs/plots.py REPORT.html "CAPTION" ["CAPTION" ...] OUT.svg

The colours and the legend come from the page; the picture is light, whatever the reader's screen is."""
import html
import re
import sys


def chart(page, caption):
    found = re.search(rf"<figcaption>{re.escape(html.escape(caption, quote=False))}</figcaption>"
                      r"<svg[^>]*>(.*?)</svg>", page, re.S)
    if not found:
        captions = [html.unescape(c) for c in re.findall(r"<figcaption>(.*?)</figcaption>", page)]
        sys.exit(f"there is no chart {caption!r}; there are: {sorted(set(captions))}")
    return found


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    page = open(sys.argv[1], encoding="utf-8").read()
    captions = sys.argv[2:-1]
    charts = [chart(page, c) for c in captions]
    colours = dict(re.findall(r"--(\w+):(#\w+)", page.split("@media", 1)[0]))
    style = re.search(r"\nsvg text\{.*?(?=\n\.legend)", page, re.S).group(0)
    style += "".join(re.findall(r"^\.s0\{.*$", page, re.M))
    style = re.sub(r"var\(--(\w+)\)", lambda m: colours[m.group(1)], style)
    style = re.sub(r"stroke-dasharray:([^;}]*)", r"stroke-dasharray:\1", style)

    title = 30 if len(charts) > 1 else 0  # one has its caption in the text around it
    panels = "".join(
        f'<g transform="translate({440 * i} {title})">'
        + (f'<text class="n" x="30" y="-8">{html.escape(caption)}</text>' if title else "")
        + f"{found.group(1)}</g>" for i, (caption, found) in enumerate(zip(captions, charts)))
    legend = list(re.finditer(r'class="legend">(.*?)</(?:div|p)>', page[:charts[0].start()], re.S))
    rows, y = [], 268 + title
    names = re.findall(r"<svg[^>]*>(.*?)</svg>(.*?)</span>", legend[-1].group(1) if legend else "", re.S)
    for svg, name in names if len(names) > 1 else []:  # a line that is alone needs no name
        rows.append(f'<g transform="translate(70 {y - 9})">{svg}</g>'
                    f'<text class="n" x="106" y="{y}">{name.strip()}</text>')
        y += 18
    width, height = 440 * len(charts), y if rows else 260 + title
    with open(sys.argv[-1], "w", encoding="utf-8") as out:
        out.write(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
                  f'width="{660 if len(charts) == 1 else 900}">'
                  f'<style>{style}</style><rect width="{width}" height="{height}" fill="{colours["card"]}"/>'
                  f'{panels}{"".join(rows)}</svg>\n')


main()
