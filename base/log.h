/* base/log.h - one line per event: module, fixed event text to search for, then key=value pairs.
 *
 *   LOG_INFO("kvt", "peer connected", "peer=%u path=%s", id, path);
 *
 * Levels: ERROR a person must act; WARN a request or a peer was lost; INFO start, stop, config,
 * peers; DEBUG per object.  Never log prompts, outputs, keys or secrets.  The same event of the same
 * module is written at most LOG_BURST times a second; what was held back is counted in the next line.
 *
 * Thread: any.  A line is one write to standard error.  LOG_* evaluate their arguments only when the
 * level is on. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

#include "base/err.h"

enum log_level { LOG_LEVEL_ERROR = 0, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
enum log_format { LOG_FORMAT_TEXT = 0, LOG_FORMAT_JSON };
enum { LOG_BURST = 20 };

/* Call before other threads start.  `who` names the process in every line ("serve", "decode-0");
 * it is copied. */
void log_setup(enum log_level level, enum log_format format, const char *who);
MUST_USE enum err log_level_parse(const char *name, enum log_level *out); /* ERR_INVALID */
bool log_is_on(enum log_level level);
void log_write(enum log_level level, const char *module, const char *event, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The same without folding, for lines that are records: one per request, say. */
void log_write_every(enum log_level level, const char *module, const char *event,
                     const char *format, ...) __attribute__((format(printf, 4, 5)));

#define LOG_AT(level, module, event, ...)                       \
    do {                                                        \
        if (log_is_on(level))                                   \
            log_write((level), (module), (event), __VA_ARGS__); \
    } while (0)
#define LOG_ERROR(module, event, ...) LOG_AT(LOG_LEVEL_ERROR, module, event, __VA_ARGS__)
#define LOG_WARN(module, event, ...) LOG_AT(LOG_LEVEL_WARN, module, event, __VA_ARGS__)
#define LOG_INFO(module, event, ...) LOG_AT(LOG_LEVEL_INFO, module, event, __VA_ARGS__)
#define LOG_DEBUG(module, event, ...) LOG_AT(LOG_LEVEL_DEBUG, module, event, __VA_ARGS__)

#define LOG_EVERY(module, event, ...)                                        \
    do {                                                                     \
        if (log_is_on(LOG_LEVEL_INFO))                                       \
            log_write_every(LOG_LEVEL_INFO, (module), (event), __VA_ARGS__); \
    } while (0)

#endif
