/* bench/trace_csv.c - traces that are tables: Azure LLM inference (2023 and 2024) and BurstGPT.
 *
 * Columns are found by the names in the header, so their order and further columns do not matter.  A
 * time is a date (year-month-day hour:minute:second) or a number of seconds. */
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bench/trace_impl.h"

enum { COLUMNS_MAX = 64 };
enum column { COL_TIME = 0, COL_IN, COL_OUT, COL_SESSION, COL_KINDS };

struct table {
    int at[COL_KINDS]; /* -1: there is none */
    bool burst;        /* an answer of 0 tokens is a failed request, and no load */
};

/* Cuts the line at its commas; quotes around a field are taken off, commas inside them stay. */
static int split(char *line, char **field)
{
    int n = 0;

    for (char *p = line; n < COLUMNS_MAX;) {
        char *end;

        while (*p == ' ')
            p++;
        if (*p == '"') {
            end = strchr(++p, '"');
            field[n++] = p;
            if (end == NULL)
                return n;
            *end = '\0';
            end = strchr(end + 1, ',');
        } else {
            field[n++] = p;
            end = strchr(p, ',');
        }
        if (end == NULL)
            return n;
        *end = '\0';
        p = end + 1;
    }
    return n;
}

static int find(char **field, int n, const char *const *names)
{
    for (int i = 0; i < n; i++) {
        for (int k = 0; names[k] != NULL; k++) {
            if (strcasecmp(field[i], names[k]) == 0)
                return i;
        }
    }
    return -1;
}

static enum err read_header(char *line, const char *path, struct table *t, struct err_msg *msg)
{
    static const char *const time[] = {"TIMESTAMP", "arrival_timestamp", NULL};
    static const char *const azure_in[] = {"ContextTokens", NULL}, *const azure_out[] = {
                                                                       "GeneratedTokens", NULL};
    static const char *const burst_in[] = {"Request tokens", NULL}, *const burst_out[] = {
                                                                        "Response tokens", NULL};
    static const char *const session[] = {"Session ID", NULL};
    char *field[COLUMNS_MAX];
    int n;

    if (strncmp(line, "\xef\xbb\xbf", 3) == 0)
        line += 3;
    n = split(line, field);
    t->at[COL_TIME] = find(field, n, time);
    t->at[COL_IN] = find(field, n, azure_in);
    t->at[COL_OUT] = find(field, n, azure_out);
    t->at[COL_SESSION] = find(field, n, session);
    t->burst = t->at[COL_IN] < 0;
    if (t->burst) {
        t->at[COL_IN] = find(field, n, burst_in);
        t->at[COL_OUT] = find(field, n, burst_out);
    }
    if (t->at[COL_TIME] < 0 || t->at[COL_IN] < 0 || t->at[COL_OUT] < 0)
        return err_set(msg, ERR_INVALID,
                       "%s: row 1: not a known trace: expected a header with TIMESTAMP, "
                       "ContextTokens, GeneratedTokens (Azure) or Timestamp, Request tokens, "
                       "Response tokens (BurstGPT), or JSON",
                       path);
    return ERR_OK;
}

/* Days since 1970-01-01 of a date of the Gregorian calendar. */
static long days(int y, int m, int d)
{
    long era, doe;

    y -= m <= 2;
    era = (y >= 0 ? y : y - 399) / 400;
    doe = (long)(y - era * 400) * 365 + (y - era * 400) / 4 - (y - era * 400) / 100 +
          (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
    return era * 146097 + doe - 719468;
}

static bool read_number(const char *s, double *out)
{
    char *end;

    if (!isdigit((unsigned char)*s) && *s != '.' && *s != '-')
        return false;
    errno = 0;
    *out = strtod(s, &end);
    while (*end == ' ')
        end++;
    return end != s && *end == '\0' && errno == 0 && isfinite(*out);
}

static bool read_time(const char *s, double *out)
{
    int y, mo, d, h, mi, used = 0;
    double sec;
    char *end;

    if (sscanf(s, "%4d-%2d-%2d%*[ T]%2d:%2d:%n", &y, &mo, &d, &h, &mi, &used) != 5 || used == 0)
        return read_number(s, out);
    if (!isdigit((unsigned char)s[used]))
        return false;
    sec = strtod(s + used, &end);
    if (strcmp(end, "+00:00") != 0 && strcmp(end, "Z") != 0 && *end != '\0')
        return false;
    if (y < 1970 || mo < 1 || mo > 12 || d < 1 || d > 31 || h < 0 || h > 23 || mi < 0 || mi > 59 ||
        !(sec >= 0 && sec < 61))
        return false;
    *out = (double)days(y, mo, d) * 86400 + h * 3600 + mi * 60 + sec;
    return true;
}

static bool read_tokens(const char *s, uint32_t *out)
{
    double v;

    if (!read_number(s, &v) || v < 0 || v > TRACE_TOKENS_MAX || v != floor(v))
        return false;
    *out = (uint32_t)v;
    return true;
}

static uint64_t hash_text(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (; *s != '\0'; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h | 1;
}

static enum err bad(const struct trace_text *t, const char *field, const char *value,
                    const char *want, struct err_msg *msg)
{
    return err_set(msg, ERR_INVALID, "%s: row %llu: field %s is '%.40s', not %s", t->path,
                   (unsigned long long)t->row, field, value, want);
}

static enum err read_row(const struct trace_text *t, const struct table *table, char *line,
                         struct trace_rows *r, struct err_msg *msg)
{
    static const char *const azure[] = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"};
    static const char *const burst[] = {"Timestamp", "Request tokens", "Response tokens"};
    const char *const *names = table->burst ? burst : azure;
    struct bench_trace_row row = {.n_prompt = 0};
    char *field[COLUMNS_MAX];
    int n = split(line, field), at = table->at[COL_SESSION];

    for (int i = 0; i <= COL_OUT; i++) {
        if (table->at[i] >= n)
            return err_set(msg, ERR_INVALID, "%s: row %llu: field %s is missing", t->path,
                           (unsigned long long)t->row, names[i]);
    }
    if (!read_time(field[table->at[COL_TIME]], &row.at_s))
        return bad(t, names[COL_TIME], field[table->at[COL_TIME]], "a time", msg);
    if (!read_tokens(field[table->at[COL_IN]], &row.n_prompt))
        return bad(t, names[COL_IN], field[table->at[COL_IN]], "a number of tokens (0 to 2^24)",
                   msg);
    if (!read_tokens(field[table->at[COL_OUT]], &row.n_out))
        return bad(t, names[COL_OUT], field[table->at[COL_OUT]], "a number of tokens (0 to 2^24)",
                   msg);
    if (at >= 0 && at < n && field[at][0] != '\0' && strcmp(field[at], "-") != 0)
        row.session = hash_text(field[at]);
    if (row.n_out == 0 && table->burst)
        return ERR_OK;
    row.n_prompt += row.n_prompt == 0;
    row.n_out += row.n_out == 0;
    return trace_rows_add(r, &row, msg);
}

enum err trace_read_csv(struct trace_text *t, char *header, struct trace_rows *r,
                        struct err_msg *msg)
{
    struct table table;
    enum err err = read_header(header, t->path, &table, msg);
    char *line;
    size_t len;

    if (err != ERR_OK)
        return err;
    snprintf(r->t->name, sizeof(r->t->name), "%s", table.burst ? "burstgpt" : "azure");
    r->timed = true;
    for (;;) {
        err = trace_text_line(t, &line, &len, msg);
        if (err != ERR_OK || line == NULL)
            return err;
        if (len == 0)
            continue;
        if (memchr(line, '\0', len) != NULL)
            return err_set(msg, ERR_INVALID, "%s: row %llu: not text", t->path,
                           (unsigned long long)t->row);
        err = read_row(t, &table, line, r, msg);
        if (err != ERR_OK)
            return err;
    }
}
