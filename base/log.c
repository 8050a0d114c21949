/* base/log.c - formats into a buffer on the stack and writes it once, so that lines of several
 * threads and processes never mix.  Repeats are folded in a small hash table of (module, event). */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum { LINE_MAX_LEN = 2048, FOLD_SLOTS = 256, FOLD_PROBES = 8 };

struct fold {
    const char *module, *event; /* literals; NULL: unused */
    uint64_t second;
    unsigned written, held;
};

static enum log_level max_level = LOG_LEVEL_INFO;
static enum log_format line_format = LOG_FORMAT_TEXT;
static char who_name[32] = "baton";
static pthread_mutex_t fold_lock = PTHREAD_MUTEX_INITIALIZER;
static struct fold folds[FOLD_SLOTS];

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_setup(enum log_level level, enum log_format format, const char *who)
{
    max_level = level;
    line_format = format;
    snprintf(who_name, sizeof(who_name), "%s", who);
}

enum err log_level_parse(const char *name, enum log_level *out)
{
    for (int i = 0; i <= LOG_LEVEL_DEBUG; i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *out = (enum log_level)i;
            return ERR_OK;
        }
    }
    return ERR_INVALID;
}

bool log_is_on(enum log_level level)
{
    return level <= max_level;
}

static size_t fold_hash(const char *module, const char *event)
{
    uint64_t h = 0;

    for (const char *c = module; *c != '\0'; c++)
        h = (h ^ (unsigned char)*c) * 0x100000001b3u;
    for (const char *c = event; *c != '\0'; c++)
        h = (h ^ (unsigned char)*c) * 0x100000001b3u;
    return (size_t)(h ^ (h >> 32));
}

/* The event's own slot; else one that is free or whose event is quiet, made its own.  If all probed
 * ones are busy, the last of them is taken: its event may then write more than its burst. */
static struct fold *fold_find(const char *module, const char *event, uint64_t second)
{
    size_t h = fold_hash(module, event);
    struct fold *spare = NULL, *f = NULL;

    for (size_t i = 0; i < FOLD_PROBES; i++) {
        f = &folds[(h + i) % FOLD_SLOTS];
        if (f->event != NULL && strcmp(f->event, event) == 0 && strcmp(f->module, module) == 0)
            return f;
        if (spare == NULL && (f->event == NULL || (f->second != second && f->held == 0)))
            spare = f;
    }
    if (spare == NULL)
        spare = f;
    *spare = (struct fold){.module = module, .event = event, .second = second};
    return spare;
}

/* false: this line is held back.  *held_before: lines held back since the last one written. */
static bool fold_admits(const char *module, const char *event, uint64_t now_ns,
                        unsigned *held_before)
{
    uint64_t second = now_ns / CLOCK_NS_PER_S;
    struct fold *f;
    bool admit;

    pthread_mutex_lock(&fold_lock);
    f = fold_find(module, event, second);
    if (f->second != second) {
        f->second = second;
        f->written = 0;
    }
    admit = f->written < LOG_BURST;
    *held_before = 0;
    if (admit) {
        f->written++;
        *held_before = f->held;
        f->held = 0;
    } else {
        f->held++;
    }
    pthread_mutex_unlock(&fold_lock);
    return admit;
}

/* Bytes of the UTF-8 character at s, 0 if it is none. */
static size_t utf8_len(const char *s)
{
    const unsigned char *u = (const unsigned char *)s;
    size_t n = u[0] < 0x80 ? 1 : u[0] >= 0xc2 && u[0] < 0xe0 ? 2 : (u[0] & 0xf0) == 0xe0 ? 3 : 0;

    if (u[0] >= 0xf0 && u[0] < 0xf5)
        n = 4;
    for (size_t i = 1; i < n; i++) {
        if ((u[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f) ||
        (u[0] == 0xf0 && u[1] < 0x90) || (u[0] == 0xf4 && u[1] > 0x8f))
        return 0;
    return n;
}

/* What is no UTF-8 becomes U+FFFD: a line must parse, whatever a peer sent. */
static size_t put_json_string(char *dst, size_t room, const char *s)
{
    size_t n = 0;

    while (*s != '\0' && n + 7 < room) {
        unsigned char c = (unsigned char)*s;
        size_t len = utf8_len(s);

        if (c == '"' || c == '\\') {
            dst[n++] = '\\';
            dst[n++] = (char)c;
        } else if (c < 0x20) {
            n += (size_t)snprintf(dst + n, room - n, "\\u%04x", c);
        } else if (len == 0) {
            memcpy(dst + n, "\xef\xbf\xbd", 3);
            n += 3;
        } else {
            memcpy(dst + n, s, len);
            n += len;
        }
        s += len > 0 ? len : 1;
    }
    dst[n] = '\0';
    return n;
}

static int format_prefix(char *line, size_t room, enum log_level level, const char *module,
                         const char *event)
{
    uint64_t wall = clock_wall_ns();
    time_t seconds = (time_t)(wall / CLOCK_NS_PER_S);
    unsigned ms = (unsigned)(wall / CLOCK_NS_PER_MS % 1000);
    struct tm tm;
    char stamp[32];

    gmtime_r(&seconds, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
    if (line_format == LOG_FORMAT_JSON)
        return snprintf(line, room,
                        "{\"time\":\"%s.%03uZ\",\"level\":\"%s\",\"who\":\"%s\",\"module\":\"%s\","
                        "\"event\":\"%s\",\"detail\":\"",
                        stamp, ms, level_names[level], who_name, module, event);
    return snprintf(line, room, "%s.%03uZ %-5s %s %s: %s ", stamp, ms, level_names[level], who_name,
                    module, event);
}

__attribute__((format(printf, 4, 0))) static void write_line(enum log_level level,
                                                             const char *module, const char *event,
                                                             const char *format, va_list args,
                                                             unsigned held)
{
    char line[LINE_MAX_LEN], detail[LINE_MAX_LEN / 2];
    size_t n;
    int put = vsnprintf(detail, sizeof(detail), format, args);

    if (put < 0)
        return;
    n = (size_t)format_prefix(line, sizeof(line) / 4, level, module, event);
    if (n >= sizeof(line) / 4)
        n = sizeof(line) / 4 - 1;
    if (line_format == LOG_FORMAT_JSON) {
        n += put_json_string(line + n, sizeof(line) - n - 64, detail);
        line[n++] = '"';
    } else {
        for (char *c = detail; *c != '\0'; c++) {
            if ((unsigned char)*c < 0x20 || *c == 0x7f)
                *c = ' '; /* a line stays one line, whatever a peer sent */
        }
        n += (size_t)snprintf(line + n, sizeof(line) - n, "%s", detail);
    }
    if (held > 0)
        n += (size_t)snprintf(
            line + n, sizeof(line) - n,
            line_format == LOG_FORMAT_JSON ? ",\"held_back\":%u" : " (held back: %u)", held);
    n += (size_t)snprintf(line + n, sizeof(line) - n, "%s",
                          line_format == LOG_FORMAT_JSON ? "}\n" : "\n");
    if (write(STDERR_FILENO, line, n) < 0)
        return; /* nowhere left to report it */
}

void log_write(enum log_level level, const char *module, const char *event, const char *format, ...)
{
    unsigned held;
    va_list args;

    if (!fold_admits(module, event, clock_now_ns(), &held))
        return;
    va_start(args, format);
    write_line(level, module, event, format, args, held);
    va_end(args);
}

void log_write_every(enum log_level level, const char *module, const char *event,
                     const char *format, ...)
{
    va_list args;

    va_start(args, format);
    write_line(level, module, event, format, args, 0);
    va_end(args);
}
