/* base/log.c - formats into a buffer on the stack and writes it once, so that lines of several
 * threads and processes never mix.  Repeats are folded in a small table keyed by the address of the
 * event text, which is a literal. */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

enum { LINE_MAX_LEN = 2048, FOLD_SLOTS = 64 };

struct fold {
    const char *event;
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

/* false: this line is held back.  *held_before: lines held back since the last one written. */
static bool fold_admits(const char *event, uint64_t now_ns, unsigned *held_before)
{
    struct fold *f = &folds[((uintptr_t)event >> 4) % FOLD_SLOTS];
    uint64_t second = now_ns / CLOCK_NS_PER_S;
    bool admit;

    pthread_mutex_lock(&fold_lock);
    if (f->event != event) {
        *f = (struct fold){.event = event, .second = second};
    } else if (f->second != second) {
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

static size_t put_json_string(char *dst, size_t room, const char *s)
{
    size_t n = 0;

    for (; *s != '\0' && n + 7 < room; s++) {
        unsigned char c = (unsigned char)*s;

        if (c == '"' || c == '\\') {
            dst[n++] = '\\';
            dst[n++] = (char)c;
        } else if (c < 0x20) {
            n += (size_t)snprintf(dst + n, room - n, "\\u%04x", c);
        } else {
            dst[n++] = (char)c;
        }
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

void log_write(enum log_level level, const char *module, const char *event, const char *format, ...)
{
    char line[LINE_MAX_LEN], detail[LINE_MAX_LEN / 2];
    unsigned held;
    size_t n;
    int put;
    va_list args;

    if (!fold_admits(event, clock_now_ns(), &held))
        return;
    va_start(args, format);
    put = vsnprintf(detail, sizeof(detail), format, args);
    va_end(args);
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
            if ((unsigned char)*c < 0x20)
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
