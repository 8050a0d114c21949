/* bench/profile_file.c - see the header.  One table of keys serves reading and writing. */
#include "bench/profile_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct law_key {
    const char *key;
    double scale; /* file to law: us to ns */
    double high;
    bool must;
    const char *says; /* comment in a written file */
};
enum { KNEE = 4, PATH_ROOM = 1100 };

/* Limits are far beyond any machine, near enough that sums of them stay finite. */
/* clang-format off */
static const struct law_key prefill_keys[] = {
    {"step_us",       1e3, 1e9, true,  "each step"},
    {"token_us",      1e3, 1e9, true,  "per new token n"},
    {"token_pair_us", 1e3, 1e6, false, "per n (n + 2 past)"},
    {"below_knee_us", 1e3, 1e9, false, "per token that n is below the knee"},
    {"knee_tokens",   1,   1e7, false, NULL},
};
static const struct law_key decode_keys[] = {
    {"step_us",          1e3, 1e9, true,  "each step"},
    {"sequence_us",      1e3, 1e9, true,  "per sequence"},
    {"context_token_us", 1e3, 1e6, false, "per token of context of all sequences"},
    {"above_knee_us",    1e3, 1e9, false, "per sequence above the knee"},
    {"knee_sequences",   1,   1e7, false, NULL},
};
static const char *const class_names[] = {"name", "prefill", "decode", "kv_bytes_per_token",
                                          "link_bytes_per_s", "link_setup_us", "park_bytes_per_s",
                                          NULL};
/* clang-format on */
static const double BYTES_HIGH = 1e9, RATE_HIGH = 1e15, SETUP_US_HIGH = 1e9;

static double *law_field(struct sched_law *l, size_t i)
{
    return i == KNEE ? &l->knee : &l->c[i];
}

/* A rate that is not known is left out: 0 would say that nothing ever arrives. */
static enum err read_rate(const struct bench_yaml *y, int node, const char *key, double *out,
                          struct err_msg *msg)
{
    double v = -1;
    enum err err = bench_yaml_number(y, node, key, false, 0, RATE_HIGH, &v, msg);

    if (err == ERR_OK && v >= 0 && v < 1)
        return err_set(
            msg, ERR_INVALID,
            "%s: line %zu: %s: nothing would ever arrive; leave it out if it is not known", y->path,
            bench_yaml_line(y, bench_yaml_get(y, node, key)), key);
    *out = v >= 0 ? v : 0;
    return err;
}

static enum err read_law(const struct bench_yaml *y, int node, const char *what,
                         const struct law_key *keys, struct sched_law *l, struct err_msg *msg)
{
    const char *names[KNEE + 2] = {NULL};
    enum err err;

    if (node == 0)
        return ERR_OK;
    for (size_t i = 0; i <= KNEE; i++)
        names[i] = keys[i].key;
    err = bench_yaml_keys(y, node, what, names, NULL, msg);
    for (size_t i = 0; err == ERR_OK && i <= KNEE; i++) {
        double v = 0;

        err = bench_yaml_number(y, node, keys[i].key, keys[i].must, 0, keys[i].high, &v, msg);
        *law_field(l, i) = v * keys[i].scale;
    }
    if (err == ERR_OK && !sched_law_known(l))
        err = err_set(msg, ERR_INVALID,
                      "%s: line %zu: %s: step_us and %s cannot both be 0; leave %s out to have it "
                      "learned",
                      y->path, bench_yaml_line(y, node), what, keys[1].key, what);
    return err;
}

enum err bench_profile_class(const struct bench_yaml *y, int node, const char *const *more,
                             struct sched_class *out, struct err_msg *msg)
{
    struct sched_class c = {.frozen = false};
    double setup_us = 0;
    enum err err = bench_yaml_keys(y, node, "a class", class_names, more, msg);

    if (err == ERR_OK)
        err = bench_yaml_text(y, node, "name", true, c.name, sizeof(c.name), msg);
    if (err == ERR_OK)
        err = read_law(y, bench_yaml_get(y, node, "prefill"), "prefill", prefill_keys, &c.prefill,
                       msg);
    if (err == ERR_OK)
        err = read_law(y, bench_yaml_get(y, node, "decode"), "decode", decode_keys, &c.decode, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "kv_bytes_per_token", false, 0, BYTES_HIGH,
                                &c.kv_bytes_per_token, msg);
    if (err == ERR_OK)
        err = read_rate(y, node, "link_bytes_per_s", &c.link_bytes_per_s, msg);
    if (err == ERR_OK)
        err = bench_yaml_number(y, node, "link_setup_us", false, 0, SETUP_US_HIGH, &setup_us, msg);
    if (err == ERR_OK)
        err = read_rate(y, node, "park_bytes_per_s", &c.park_bytes_per_s, msg);
    if (err != ERR_OK)
        return err;
    c.link_setup_ns = (uint64_t)llround(setup_us * 1e3);
    *out = c;
    return ERR_OK;
}

enum err bench_profile_read(const char *path, struct sched_class *out, struct err_msg *msg)
{
    struct bench_yaml y = {0};
    enum err err = bench_yaml_open(path, &y, msg);

    if (err == ERR_OK)
        err = bench_profile_class(&y, bench_yaml_root(&y), NULL, out, msg);
    bench_yaml_close(&y);
    return err;
}

/* ---- writing ---- */

static bool in_range(double v, double high)
{
    return v >= 0 && v <= high;
}

static enum err check_law(const struct sched_law *l, const char *what, const struct law_key *keys,
                          struct err_msg *msg)
{
    struct sched_law copy = *l;

    for (size_t i = 0; i <= KNEE; i++) {
        double v = *law_field(&copy, i) / keys[i].scale;

        if (!in_range(v, keys[i].high))
            return err_set(msg, ERR_INVALID, "class file: %s: %s %g is not from 0 to %g", what,
                           keys[i].key, v, keys[i].high);
    }
    return ERR_OK;
}

/* One line that stands in single quotes as it is. */
static bool plain_name(const char *name, size_t room)
{
    if (name[0] == '\0' || memchr(name, '\0', room) == NULL)
        return false;
    for (; *name != '\0'; name++) {
        if ((unsigned char)*name < 0x20 || *name == 0x7f || *name == '\'')
            return false;
    }
    return true;
}

static enum err check(const struct sched_class *c, struct err_msg *msg)
{
    enum err err;

    if (!plain_name(c->name, sizeof(c->name)))
        return err_set(msg, ERR_INVALID,
                       "class file: the class needs a name of one line without quotes");
    if (!in_range(c->kv_bytes_per_token, BYTES_HIGH) || !in_range(c->link_bytes_per_s, RATE_HIGH) ||
        !in_range(c->park_bytes_per_s, RATE_HIGH) ||
        !in_range((double)c->link_setup_ns / 1e3, SETUP_US_HIGH))
        return err_set(msg, ERR_INVALID, "class file: %s: a rate or time is out of range", c->name);
    err = check_law(&c->prefill, "prefill", prefill_keys, msg);
    return err == ERR_OK ? check_law(&c->decode, "decode", decode_keys, msg) : err;
}

static void print_law(FILE *f, const struct sched_law *l, const char *what,
                      const struct law_key *keys)
{
    struct sched_law copy = *l;

    if (!sched_law_known(l))
        return;
    fprintf(f, "%s:\n", what);
    for (size_t i = 0; i <= KNEE; i++) {
        double v = *law_field(&copy, i) / keys[i].scale;

        if (keys[i].says != NULL)
            fprintf(f, "  %s: %.9g # %s\n", keys[i].key, v, keys[i].says);
        else
            fprintf(f, "  %s: %.9g\n", keys[i].key, v);
    }
}

static void print_class(FILE *f, const struct sched_class *c, const char *comment)
{
    while (comment != NULL && *comment != '\0') {
        size_t len = strcspn(comment, "\n");

        fprintf(f, "# %.*s\n", (int)len, comment);
        comment += len + (comment[len] == '\n');
    }
    fprintf(f, "name: '%s'\n", c->name);
    print_law(f, &c->prefill, "prefill", prefill_keys);
    print_law(f, &c->decode, "decode", decode_keys);
    fprintf(f, "kv_bytes_per_token: %.9g\n", c->kv_bytes_per_token);
    if (c->link_bytes_per_s > 0)
        fprintf(f, "link_bytes_per_s: %.9g\n", c->link_bytes_per_s);
    fprintf(f, "link_setup_us: %.9g\n", (double)c->link_setup_ns / 1e3);
    if (c->park_bytes_per_s > 0)
        fprintf(f, "park_bytes_per_s: %.9g\n", c->park_bytes_per_s);
}

/* The file that becomes `path` when it is whole; a device or a pipe is never replaced by a file. */
static enum err open_part(const char *path, char *part, size_t room, FILE **f, struct err_msg *msg)
{
    struct stat st;
    bool in_place = stat(path, &st) == 0 && !S_ISREG(st.st_mode);

    if ((size_t)snprintf(part, room, "%s%s", path, in_place ? "" : ".part") >= room)
        return err_set(msg, ERR_INVALID, "%.100s...: the path is too long", path);
    *f = fopen(part, "wb");
    if (*f == NULL)
        return err_set(msg, ERR_IO, "%.200s: cannot be written: %s", path, strerror(errno));
    return ERR_OK;
}

enum err bench_profile_writable(const char *path, struct err_msg *msg)
{
    char part[PATH_ROOM];
    FILE *f;
    enum err err = open_part(path, part, sizeof(part), &f, msg);

    if (err != ERR_OK)
        return err;
    fclose(f);
    if (strcmp(part, path) != 0)
        (void)remove(part);
    return ERR_OK;
}

enum err bench_profile_write(const char *path, const struct sched_class *c, const char *comment,
                             struct err_msg *msg)
{
    char part[PATH_ROOM];
    FILE *f;
    bool bad;
    enum err err = check(c, msg);

    if (err == ERR_OK)
        err = open_part(path, part, sizeof(part), &f, msg);
    if (err != ERR_OK)
        return err;
    print_class(f, c, comment);
    bad = ferror(f) != 0;
    bad = fclose(f) != 0 || bad;
    if (!bad && (strcmp(part, path) == 0 || rename(part, path) == 0))
        return ERR_OK;
    err = err_set(msg, ERR_IO, "%.200s: cannot be written: %s", path, strerror(errno));
    if (strcmp(part, path) != 0)
        (void)remove(part);
    return err;
}
