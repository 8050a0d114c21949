/* bench/environment.h - where and how something was measured, for whoever reads the result later: the machine's
 * processor, kernel and versions, the time, and the command line.  No host names, users, folders or keys.
 *
 * Thread: the caller's.  Ownership: a value.  All texts are printable ASCII. */
#ifndef BENCH_ENVIRONMENT_H
#define BENCH_ENVIRONMENT_H

#include <stdint.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/err.h"

struct bench_environment {
    char cpu[128];
    uint32_t cores; /* that the process may use */
    char kernel[96];
    char date[24]; /* UTC, as in 2026-11-21T08:15:00Z */
    char versions[160];
};
/* What cannot be found out is "unknown". */
void bench_environment_read(uint64_t wall_ns, struct bench_environment *out);

/* A command line without what is private.  Values of `files` and whatever begins as a path lose their folders, those
 * of `secrets` become ***, the host of a URL HOST unless it is this machine; lists end with NULL. */
void bench_command_line(const char *command, int argc, char *const *argv, const char *const *files,
                        const char *const *secrets, char *out, size_t room);

/* "environment": {...}, with the command as a member; nothing in front, no comma behind. */
MUST_USE enum err bench_environment_json(const struct bench_environment *e, const char *command,
                                         struct buf *out);

#endif
