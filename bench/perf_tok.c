/* bench/perf_tok.c - see the header for the contract.
 *
 * Each figure is the best of the runs that fit into a quarter of a second: other work on the machine can
 * only make a run slower. */
#include "bench/perf_tok.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include "bench/perf_report.h"
#include "engine/engine_tok.h"

enum { TEXT_BYTES = 1 << 20, FILE_BYTES_MAX = 64 << 20 };
static const uint64_t RUN_NS = CLOCK_NS_PER_S / 4;

struct bench_tok {
    struct engine_tok *tok;
    struct bench_report report;
    struct buf prose;
    struct buf text; /* the repeated or random text of the current row */
    struct engine_ids ids;
    double prose_rate;
};

static uint32_t next_random(uint64_t *state, uint32_t below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 33) % below);
}

/* Words of English in about the proportions of prose: short ones often, long ones rarely, now and then a
 * number, a name that no vocabulary has, a quotation or a new paragraph. */
static const char *const common[] = {
    "the",  "of",  "and",  "to",    "a",   "in",   "that", "it",    "is",   "was",  "he",
    "for",  "on",  "with", "as",    "his", "they", "be",   "at",    "one",  "have", "this",
    "from", "or",  "had",  "by",    "not", "but",  "what", "all",   "were", "we",   "when",
    "your", "can", "said", "there", "use", "an",   "each", "which", "she"};
static const char *const usual[] = {
    "morning",  "river",      "answer",   "between",    "carried",   "distance",  "evening",
    "family",   "gathered",   "happened", "imagine",    "journey",   "knowledge", "language",
    "machine",  "neighbour",  "ordinary", "particular", "question",  "remember",  "suddenly",
    "together", "understand", "village",  "waiting",    "yesterday", "winter",    "children",
    "measure",  "promise",    "station",  "weather",    "memory",    "serving",   "request",
    "token",    "latency",    "schedule", "transfer",   "worker",    "didn't",    "we'll",
    "it's",     "they've",    "couldn't", "tomorrow",   "building",  "government"};
static const char *const rare[] = {"bandwidth-limited", "counterfactual",   "Przemysl",
                                   "disaggregation",    "unquestionably",   "phenomenology",
                                   "Llanfair",          "quadrilateral",    "hypothalamus",
                                   "zugzwang",          "microarchitecture"};

static enum err add_word(struct buf *out, uint64_t *seed, bool capital)
{
    uint32_t roll = next_random(seed, 1000);
    const char *word;
    char first;
    enum err err;

    if (roll < 15)
        return buf_printf(out, "%u", next_random(seed, roll < 8 ? 100 : 100000));
    if (roll < 30) { /* a made-up name */
        err = buf_append(out, "K", 1);
        for (uint32_t n = 3 + next_random(seed, 6); n > 0 && err == ERR_OK; n--) {
            first = (char)('a' + next_random(seed, 26));
            err = buf_append(out, &first, 1);
        }
        return err;
    }
    word = roll < 560   ? common[next_random(seed, sizeof(common) / sizeof(common[0]))]
           : roll < 970 ? usual[next_random(seed, sizeof(usual) / sizeof(usual[0]))]
                        : rare[next_random(seed, sizeof(rare) / sizeof(rare[0]))];
    first = (char)(capital && word[0] >= 'a' && word[0] <= 'z' ? word[0] - 32 : word[0]);
    err = buf_append(out, &first, 1);
    return err == ERR_OK ? buf_puts(out, word + 1) : err;
}

static enum err make_prose(struct buf *out)
{
    uint64_t seed = 1;
    enum err err = ERR_OK;

    while (err == ERR_OK && out->len < TEXT_BYTES) {
        uint32_t words = 4 + next_random(&seed, 16), end = next_random(&seed, 20);

        for (uint32_t i = 0; i < words && err == ERR_OK; i++) {
            if (i > 0)
                err = buf_puts(out, next_random(&seed, 12) == 0 ? ", " : " ");
            if (err == ERR_OK)
                err = add_word(out, &seed, i == 0);
        }
        if (err == ERR_OK)
            err = buf_puts(out, end == 0 ? ".\n\n" : end == 1 ? "? " : end == 2 ? "; \"" : ". ");
    }
    return err;
}

static enum err read_prose(const char *path, struct buf *out, struct err_msg *msg)
{
    FILE *f = fopen(path, "rb");
    enum err err = ERR_OK;
    size_t n = 1;

    if (f == NULL)
        return err_set(msg, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path,
                       strerror(errno));
    while (err == ERR_OK && n > 0) {
        err = buf_reserve(out, 1 << 16);
        if (err != ERR_OK)
            break;
        n = fread(buf_bytes(out) + out->len, 1, 1 << 16, f);
        buf_added(out, n);
        if (out->len > FILE_BYTES_MAX)
            err = err_set(msg, ERR_LIMIT, "%s: larger than %d MiB", path, FILE_BYTES_MAX >> 20);
    }
    if (err == ERR_OK && (ferror(f) != 0 || out->len == 0))
        err = err_set(msg, ERR_IO, "%s: empty, or cannot be read", path);
    fclose(f);
    return err;
}

/* GB/s of encoding text. */
static enum err encode_rate(struct bench_tok *b, const struct buf *text, double *rate)
{
    uint64_t begin = clock_now_ns(), best = UINT64_MAX;
    enum err err;

    do {
        uint64_t start = clock_now_ns();

        b->ids.n = 0;
        err = engine_tok_encode(b->tok, buf_bytes(text), text->len, 0, &b->ids);
        if (err != ERR_OK)
            return err;
        if (clock_now_ns() - start < best)
            best = clock_now_ns() - start;
    } while (clock_now_ns() - begin < RUN_NS);
    *rate = (double)text->len / (double)best;
    return ERR_OK;
}

/* GB/s of text that decoding b->ids gives. */
static enum err decode_rate(struct bench_tok *b, double *rate)
{
    uint64_t begin = clock_now_ns(), best = UINT64_MAX;
    enum err err = ERR_OK;

    do {
        uint64_t start = clock_now_ns();
        struct engine_detok d;

        buf_clear(&b->text);
        engine_detok_init(&d, b->tok, false);
        for (size_t i = 0; i < b->ids.n && err == ERR_OK; i++)
            err = engine_detok_push(&d, b->tok, b->ids.ids[i], false, &b->text);
        if (err != ERR_OK)
            return err;
        if (clock_now_ns() - start < best)
            best = clock_now_ns() - start;
    } while (clock_now_ns() - begin < RUN_NS);
    *rate = (double)b->text.len / (double)best;
    return ERR_OK;
}

static enum err measure_one(struct bench_tok *b, const char *row)
{
    char name[96];
    double rate;
    enum err err = encode_rate(b, &b->text, &rate);

    if (err != ERR_OK)
        return err;
    snprintf(name, sizeof(name), "tok.encode.%s.throughput", row);
    bench_report_add(&b->report, name, rate, "GB/s", BENCH_HIGHER);
    bench_report_reference(&b->report, "prose, same run", b->prose_rate);
    return ERR_OK;
}

static enum err measure_repeats(struct bench_tok *b)
{
    static const struct {
        const char *row, *unit;
    } rows[] = {{"repeat_a", "a"},
                {"repeat_underscore", "_"},
                {"repeat_space", " "},
                {"repeat_cjk", "\xe6\x97\xa5"}};
    uint64_t seed = 2;
    enum err err = ERR_OK;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]) && err == ERR_OK; i++) {
        buf_clear(&b->text);
        while (err == ERR_OK && b->text.len + strlen(rows[i].unit) <= TEXT_BYTES)
            err = buf_puts(&b->text, rows[i].unit);
        if (err == ERR_OK)
            err = measure_one(b, rows[i].row);
    }
    buf_clear(&b->text);
    while (err == ERR_OK && b->text.len < TEXT_BYTES) {
        char c = (char)('a' + next_random(&seed, 26));

        err = buf_append(&b->text, &c, 1);
    }
    return err == ERR_OK ? measure_one(b, "random_letters") : err;
}

static enum err measure(struct bench_tok *b, const char *text_file, struct err_msg *msg)
{
    double rate;
    enum err err = encode_rate(b, &b->prose, &b->prose_rate);

    if (err != ERR_OK)
        return err_set(msg, err, "%s: %s", text_file != NULL ? text_file : "generated text",
                       err == ERR_INVALID ? "not UTF-8" : err_text(err));
    bench_report_add(&b->report, "tok.encode.prose.throughput", b->prose_rate, "GB/s",
                     BENCH_HIGHER);
    err = decode_rate(b, &rate);
    if (err == ERR_OK) {
        bench_report_add(&b->report, "tok.decode.throughput", rate, "GB/s", BENCH_HIGHER);
        err = measure_repeats(b);
    }
    return err == ERR_OK ? ERR_OK : err_set(msg, err, "perf tok: %s", err_text(err));
}

enum err bench_perf_tok(const char *model_dir, const char *text_file, bool json,
                        struct err_msg *msg)
{
    struct bench_tok b = {.prose = BUF_INIT, .text = BUF_INIT};
    uint64_t start = clock_now_ns();
    enum err err = engine_tok_open(model_dir, msg, &b.tok);

    if (err != ERR_OK)
        return err;
    bench_report_init(&b.report, "perf tok");
    bench_report_add(&b.report, "tok.load.time", (double)(clock_now_ns() - start) / 1e6, "ms",
                     BENCH_LOWER);
    err = text_file != NULL ? read_prose(text_file, &b.prose, msg) : make_prose(&b.prose);
    if (err == ERR_NOMEM)
        err_set(msg, err, "perf tok: out of memory for the text");
    if (err == ERR_OK)
        err = measure(&b, text_file, msg);
    if (err == ERR_OK)
        err = bench_report_print(&b.report, json);
    bench_report_free(&b.report);
    buf_free(&b.prose);
    buf_free(&b.text);
    engine_ids_free(&b.ids);
    engine_tok_close(b.tok);
    return err;
}
