/* bench/run_file.h - figures of runs as JSON: in a file of their own, and inside every report page, so that a later
 * report can show them beside its own.
 *
 * Thread: the caller's.  Ownership: loaded runs are the caller's: bench_run_free and mem_free each. */
#ifndef BENCH_RUN_FILE_H
#define BENCH_RUN_FILE_H

#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "bench/outcome.h"

enum { BENCH_RUN_FILE_MAX = 256 << 20 /* bytes */ };

/* {"runs": [...]}, safe inside HTML too.  ERR_NOMEM. */
MUST_USE enum err bench_runs_encode(const struct bench_run *const *runs, size_t n, struct buf *out);
MUST_USE enum err bench_runs_save(const char *path, const struct bench_run *const *runs, size_t n,
                                  struct err_msg *msg);
/* From such a file or from a report page.  *n: how many are in runs already, then how many there are.
 * ERR_NOT_FOUND, ERR_IO, ERR_INVALID (says what is wrong), ERR_LIMIT: more than max; ERR_NOMEM. */
MUST_USE enum err bench_runs_load(const char *path, struct bench_run **runs, size_t max, size_t *n,
                                  struct err_msg *msg);

#endif
