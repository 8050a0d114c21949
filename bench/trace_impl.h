/* bench/trace_impl.h - private to bench/trace*.c: the text of a trace file, and the rows made of it. */
#ifndef BENCH_TRACE_IMPL_H
#define BENCH_TRACE_IMPL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/trace.h"

enum {
    TRACE_TOKENS_MAX = 1 << 24, /* of one prompt or answer */
    TRACE_ROWS_MAX = 50000000,
    TRACE_LINE_MAX = 64 << 20,
    TRACE_FIELD_MAX = 64
};

/* A file, plain or .gz, line by line. */
struct trace_text {
    const char *path;
    void *gz; /* gzFile */
    char *buf;
    size_t head, len, cap;
    uint64_t row; /* of the line given last, from 1 */
    bool ended;
};
/* *line is NULL at the end; else NUL-terminated, without the line break, valid until the next call. */
MUST_USE enum err trace_text_line(struct trace_text *t, char **line, size_t *len,
                                  struct err_msg *msg);

/* Rows as they are read; capacities beside the trace itself. */
struct trace_rows {
    struct bench_trace *t;
    size_t cap, blocks_cap, text_len, text_cap;
    bool timed; /* the file says when each row came */
};
MUST_USE enum err trace_rows_add(struct trace_rows *r, const struct bench_trace_row *row,
                                 struct err_msg *msg);
MUST_USE enum err trace_rows_block(struct trace_rows *r, uint64_t id, struct err_msg *msg);
MUST_USE enum err trace_rows_text(struct trace_rows *r, const char *s, size_t len, uint32_t *at,
                                  struct err_msg *msg);

/* The readers; the first line, or nothing but the file, was read before. */
MUST_USE enum err trace_read_csv(struct trace_text *t, char *header, struct trace_rows *r,
                                 struct err_msg *msg);
MUST_USE enum err trace_read_jsonl(struct trace_text *t, char *line, size_t len,
                                   struct trace_rows *r, struct err_msg *msg);
MUST_USE enum err trace_read_array(struct trace_text *t, struct trace_rows *r, struct err_msg *msg);

/* Sorts, moves the first arrival to 0, and sets the length. */
void trace_settle(struct bench_trace *t);

#endif
