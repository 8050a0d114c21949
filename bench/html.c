/* bench/html.c - the page around the sections, and the file. */
#include "bench/html.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "bench/run_file.h"

enum { RUNS_KEPT = 64 }; /* as data, for later comparisons */

/* Colours that stay apart for the colour-blind, on light and on dark pages; dashes tell the second six from the first.
 * The thirteenth is for those that only make up the crowd. */
static const char style[] =
    ":root{color-scheme:light dark;--page:#fcfcfb;--card:#fff;--ink:#1d2125;--soft:#59636e;--line:"
    "#d8dde2;--grid:#e9ecef;--bad:#b42318;--good:#1a7f4b;--bar:#7d9cbd;--barlow:#d9a39c;--g2:#"
    "dff3e6;"
    "--g1:#fff1cf;--g0:#fbe3df;"
    "--c0:#0063b2;--c1:#d1600a;--c2:#0a8a63;--c3:#a33c8c;--c4:#8a6d00;--c5:#3d8ec9;--c6:#b3261e;--"
    "c7:#5a4fcf;--c8:#6b7280;--c9:#3a6ea5;--c10:#5b8c5a;--c11:#b9c1c9;--c12:#b3bac1}\n"
    "@media(prefers-color-scheme:dark){:root{--page:#15181b;--card:#1c2024;--ink:#e8eaed;--soft:"
    "#a3adb8;--line:#3a424a;--grid:#2a3036;--bad:#ff8a80;--good:#6fd6a0;--bar:#5f81a6;--barlow:#"
    "8f5650;"
    "--g2:#1d3a2b;--g1:#443612;--g0:#4a2622;"
    "--c0:#5cb3ff;--c1:#ff9f55;--c2:#4fd1a5;--c3:#e291d0;--c4:#e0c04a;--c5:#9bd0f5;--c6:#ff7b72;--"
    "c7:#aaa2ff;--c8:#aab2bd;--c9:#6fa3d8;--c10:#8cc48a;--c11:#4a535c;--c12:#565f69}}\n"
    "*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:15px/1.45 "
    "system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\n"
    "main{max-width:1480px;margin:0 auto;padding:20px 24px 60px}h1{font-size:24px;margin:8px 0 "
    "4px;overflow-wrap:anywhere}h2{font-size:19px;margin:34px 0 "
    "6px;padding-top:14px;border-top:1px solid "
    "var(--line)}h3{font-size:15px;margin:20px 0 6px}\n"
    ".hint{color:var(--soft);margin:2px 0 12px;max-width:110ch}.note{border-left:4px solid "
    "var(--bad);padding:4px 10px;margin:8px 0;color:var(--bad)}.remark{border-left:4px solid "
    "var(--line);padding:4px 10px;margin:8px 0;color:var(--soft)}\n"
    ".machine{max-width:none}.command{margin:6px 0;padding:8px "
    "10px;background:var(--card);border:1px solid "
    "var(--line);border-radius:6px;"
    "overflow-x:auto}.command span{white-space:nowrap}code{font:13px/1.4 ui-monospace,'DejaVu Sans "
    "Mono',monospace}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;font-variant-numeric:"
    "tabular-nums;background:var(--card)}th,td{padding:5px 9px;text-align:right;white-space:nowrap;"
    "border-bottom:1px solid var(--grid)}tr:not(:nth-child(2))>th:first-child,tbody "
    "th:first-child{text-align:left}thead "
    "th{color:var(--soft);font-weight:600;vertical-align:bottom;border-bottom:1px solid "
    "var(--line)}thead th[colspan]{text-align:center}tbody th{font-weight:600}\n"
    "td.low{color:var(--bad);font-weight:600}td.ok{color:var(--good)}tr.reference{font-style:"
    "italic;color:var(--soft)}"
    "small{display:block;font-size:11.5px;color:var(--soft)}\n"
    ".glance td,.glance th{border-right:1px solid "
    "var(--grid)}.g2{background:var(--g2)}.g1{background:var(--g1)}.g0{"
    "background:var(--g0)}span.g0,span.g1,span.g2{padding:1px "
    "7px;border-radius:4px;color:var(--ink);white-space:nowrap}\n"
    ".bars td.bar{min-width:120px}.bar svg{width:64px;height:12px;margin-right:8px;vertical-align:-"
    "1px;background:var(--grid);border-radius:2px}.bar path{fill:var(--bar)}.low.bar "
    "path{fill:var(--barlow)}.bar "
    "span{display:inline-block;min-width:48px}.bar small{display:inline;margin-left:5px}\n"
    "details{margin:10px 0;padding:8px 12px 12px;background:var(--card);border:1px solid "
    "var(--line);border-radius:8px}summary{cursor:pointer;font-weight:600}.facts{margin:8px "
    "0;color:var(--soft)}.facts span{display:inline-block;margin-right:22px}.facts "
    "b{color:var(--ink);font-weight:600}\n";
static const char style_charts[] =
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:"
    "14px;margin:10px 0}figure{margin:0;padding:10px;background:var(--card);border:1px solid "
    "var(--line);border-radius:8px}figcaption{font-weight:600;font-size:14px;margin-bottom:4px}"
    "figure svg{width:100%;height:auto;display:block}\n"
    "svg text{font:11.5px system-ui,'DejaVu "
    "Sans',sans-serif;fill:var(--soft)}.e{text-anchor:end}.m{text-anchor:middle}svg text.n{fill:"
    "var(--ink)}svg text.t{fill:var(--ink);stroke:var(--card);stroke-width:3px;paint-order:stroke}"
    ".g{stroke:var(--grid);fill:none}.a{stroke:var(--line);fill:none}path.t{stroke:var("
    "--soft);stroke-dasharray:2 3;fill:none}\n"
    ".l{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}.f{fill:currentColor;"
    "fill-opacity:.75}.b{fill:currentColor}.d{fill:currentColor;stroke:var(--card);stroke-width:1}"
    "\n"
    ".legend{margin:6px 0 4px;font-size:13px}.legend "
    "span{display:inline-block;margin:0 18px 4px 0}.key{width:26px;height:10px;"
    "margin-right:6px}.keys{position:sticky;top:0;z-index:1;background:var(--page);padding:2px "
    "0;border-bottom:1px solid "
    "var(--grid)}\n"
    ".s0{color:var(--c0)}.s1{color:var(--c1)}.s2{color:var(--c2)}.s3{color:var(--c3)}.s4{color:"
    "var(--c4)}.s5{color:var(--c5)}.s6{color:var(--c6)}.s7{color:var(--c7)}.s8{color:var(--c8)}.s9{"
    "color:var(--c9)}.s10{color:var(--c10)}.s11{color:var(--c11)}.s12{color:var(--c12)}"
    ".l.s0{stroke-width:3}.l.s8{stroke-dasharray:2 "
    "3}.l.s12{stroke-width:1}.l.s6,.l.s7,.l.s9,.l.s10,.l.s11{"
    "stroke-dasharray:6 3}\n"
    "@media print{details{break-inside:avoid}.keys{position:static}}\n";

/* Each in one piece, or browsers would break lines behind the first dash of an option. */
static void put_words(struct html_out *o, const char *text)
{
    char word[256];

    while (*text != '\0') {
        size_t len = strcspn(text, " ");

        snprintf(word, sizeof(word), "%.*s", (int)len, text);
        html_put(o, "<span>");
        html_text(o, word);
        html_put(o, len < sizeof(word) ? "</span>" : "...</span>");
        text += len;
        if (*text == ' ')
            html_put(o, " ");
        text += *text == ' ';
    }
}

static void head(struct html_out *o, const struct bench_page *p, size_t n)
{
    html_put(o, "<h1>");
    html_text(o, p->title);
    html_fmt(o,
             "</h1>\n<p class=\"hint\">%zu run%s. Times count from when a request was meant to be "
             "sent.</p>\n",
             n, n == 1 ? "" : "s");
    if (p->command != NULL) {
        html_put(o, "<p class=\"command\"><code>");
        put_words(o, p->command);
        html_put(o, "</code></p>\n");
    }
    if (p->machine != NULL) {
        html_put(o, "<p class=\"hint machine\">Measured from: ");
        html_text(o, p->machine);
        html_put(o, "</p>\n");
    }
    if (p->interrupted)
        html_put(o,
                 "<p class=\"note\">Interrupted: not all that was asked for was measured.</p>\n");
}

static void page(struct html_out *o, const struct bench_page *p,
                 const struct bench_run *const *runs, size_t n)
{
    html_put(o, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta "
                "name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>");
    html_text(o, p->title);
    html_put(o, "</title><style>\n");
    html_put(o, style);
    html_put(o, style_charts);
    html_put(o, "</style></head><body><main>\n");
    head(o, p, n);
    html_glance(o, runs, n);
    html_pairs(o, runs, n);
    html_bars(o, runs, n, false);
    html_curves(o, runs, n);
    html_bars(o, runs, n, true);
    html_tables(o, runs, n);
    html_time_lines(o, runs, n);
    html_put(o, "<script type=\"application/json\" id=\"baton-runs\">");
    if (o->err == ERR_OK)
        o->err = bench_runs_encode(runs, n < RUNS_KEPT ? n : RUNS_KEPT, &o->b);
    html_put(o, "</script>\n</main></body></html>\n");
}

static enum err write_file(const char *path, const struct buf *b, struct err_msg *msg)
{
    FILE *f = fopen(path, "we");
    bool good;

    if (f == NULL)
        return err_set(msg, ERR_IO, "cannot write the report %.200s: %s", path, strerror(errno));
    good = fwrite(buf_bytes(b), 1, b->len, f) == b->len;
    good = fclose(f) == 0 && good;
    return good ? ERR_OK
                : err_set(msg, ERR_IO, "cannot write all of the report %.200s: %s", path,
                          strerror(errno));
}

enum err bench_html_write(const char *path, const struct bench_page *p,
                          const struct bench_run *const *runs, size_t n, struct err_msg *msg)
{
    struct html_out o = {.b = BUF_INIT, .with_labels = html_labels_differ(runs, n)};
    const struct bench_run **sorted = mem_try_calloc(n > 0 ? n : 1, sizeof(*sorted));
    enum err err;

    o.err = sorted != NULL ? html_sort(runs, n, sorted) : ERR_NOMEM;
    if (o.err == ERR_OK)
        page(&o, p, (const struct bench_run *const *)sorted, n);
    mem_free((void *)sorted);
    err = o.err == ERR_OK ? write_file(path, &o.b, msg)
                          : err_set(msg, o.err, "no memory for the report %.200s", path);
    buf_free(&o.b);
    return err;
}
