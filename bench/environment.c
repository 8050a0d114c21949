/* bench/environment.c - see the header. */
#include "bench/environment.h"

#include <sched.h>
#include <stdbool.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include <jansson.h>
#include <llhttp.h>
#include <uv.h>

#include "base/clock.h"

static void clean(char *s)
{
    for (; *s != '\0'; s++) {
        if (*s < 0x20 || *s > 0x7e)
            *s = '?';
    }
}

static void read_cpu(char *out, size_t room)
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    char line[256];

    snprintf(out, room, "unknown");
    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        const char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) == 0 && colon != NULL && colon[1] == ' ') {
            snprintf(out, room, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f != NULL)
        fclose(f);
    clean(out);
}

void bench_environment_read(uint64_t wall_ns, struct bench_environment *out)
{
    time_t wall = (time_t)(wall_ns / CLOCK_NS_PER_S);
    struct tm tm = {0};
    struct utsname u;
    cpu_set_t set;

    *out = (struct bench_environment){.cores = 1};
    read_cpu(out->cpu, sizeof(out->cpu));
    if (sched_getaffinity(0, sizeof(set), &set) == 0)
        out->cores = (uint32_t)CPU_COUNT(&set);
    if (uname(&u) == 0) /* not the node name */
        snprintf(out->kernel, sizeof(out->kernel), "%.20s %.50s %.20s", u.sysname, u.release,
                 u.machine);
    else
        snprintf(out->kernel, sizeof(out->kernel), "unknown");
    clean(out->kernel);
    gmtime_r(&wall, &tm);
    strftime(out->date, sizeof(out->date), "%Y-%m-%dT%H:%M:%SZ", &tm);
    snprintf(out->versions, sizeof(out->versions),
             "baton " BATON_VERSION " (" BATON_BUILD
             "), libuv %.20s, llhttp %d.%d.%d, jansson " JANSSON_VERSION,
             uv_version_string(), LLHTTP_VERSION_MAJOR, LLHTTP_VERSION_MINOR, LLHTTP_VERSION_PATCH);
}

/* ---- the command line ---- */

static bool listed(const char *const *list, const char *option, size_t len)
{
    for (; *list != NULL; list++) {
        if (strlen(*list) == len && memcmp(*list, option, len) == 0)
            return true;
    }
    return false;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash != NULL && slash[1] != '\0' ? slash + 1 : path;
}

/* Whatever option it belongs to. */
static bool is_path(const char *value)
{
    return value[0] == '/' || value[0] == '~' || strncmp(value, "./", 2) == 0 ||
           strncmp(value, "../", 3) == 0;
}

static bool is_here(const char *host, size_t len)
{
    static const char *const names[] = {"127.0.0.1", "localhost", "[::1]", NULL};

    return listed(names, host, len);
}

/* http://HOST:8000/v1 */
static void put_url(const char *url, char *out, size_t room)
{
    const char *host = strstr(url, "://") + 3, *end = host + strcspn(host, "/?#");
    const char *at = memchr(host, '@', (size_t)(end - host)), *port;

    host = at != NULL ? at + 1 : host;
    port = *host == '[' ? memchr(host, ']', (size_t)(end - host)) : host;
    port = port != NULL ? port + strcspn(port, ":/?#") : end;
    if (is_here(host, (size_t)(port - host)))
        snprintf(out, room, "%s", url);
    else
        snprintf(out, room, "%.*sHOST%.*s", (int)(strstr(url, "://") + 3 - url), url,
                 (int)strcspn(port, "/?#"), port);
}

/* A word as a shell would take it. */
static void append(char *out, size_t room, const char *word)
{
    bool plain = word[0] != '\0' && strpbrk(word, " \t'\"$&;|<>()*?{}[]#~`!\\") == NULL;
    size_t len = strlen(out);

    snprintf(out + len, room - len, plain ? " %s" : " '%s'", word);
}

void bench_command_line(const char *command, int argc, char *const *argv, const char *const *files,
                        const char *const *secrets, char *out, size_t room)
{
    char word[512], value[400];

    snprintf(out, room, "%s", command);
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i], *eq = strchr(arg, '=');
        size_t len = eq != NULL ? (size_t)(eq - arg) : strlen(arg);
        bool file = listed(files, arg, len), secret = listed(secrets, arg, len);
        const char *given = eq != NULL ? eq + 1 : i + 1 < argc ? argv[i + 1] : "";

        if (!file && !secret) {
            if (strncmp(arg, "http://", 7) == 0)
                put_url(arg, word, sizeof(word));
            else if (eq != NULL && is_path(eq + 1))
                snprintf(word, sizeof(word), "%.*s%s", (int)len + 1, arg, base_name(eq + 1));
            else
                snprintf(word, sizeof(word), "%s", is_path(arg) ? base_name(arg) : arg);
            append(out, room, word);
            continue;
        }
        snprintf(value, sizeof(value), "%s", secret ? "***" : base_name(given));
        snprintf(word, sizeof(word), "%.*s%s%s", (int)len, arg, eq != NULL ? "=" : "",
                 eq != NULL ? value : "");
        append(out, room, word);
        if (eq == NULL && ++i < argc)
            append(out, room, value);
    }
    clean(out);
}

static enum err put_member(struct buf *out, const char *name, const char *text, const char *end)
{
    enum err err = buf_printf(out, "\"%s\": \"", name);

    for (; *text != '\0' && err == ERR_OK; text++) {
        if (*text == '"' || *text == '\\')
            err = buf_append(out, "\\", 1);
        if (err == ERR_OK)
            err = buf_append(out, text, 1);
    }
    return err == ERR_OK ? buf_printf(out, "\"%s", end) : err;
}

enum err bench_environment_json(const struct bench_environment *e, const char *command,
                                struct buf *out)
{
    enum err err = buf_puts(out, "\"environment\": {");

    if (err == ERR_OK)
        err = put_member(out, "date", e->date, ", ");
    if (err == ERR_OK)
        err = put_member(out, "cpu", e->cpu, ", ");
    if (err == ERR_OK)
        err = buf_printf(out, "\"cores\": %u, ", e->cores);
    if (err == ERR_OK)
        err = put_member(out, "kernel", e->kernel, ", ");
    if (err == ERR_OK)
        err = put_member(out, "versions", e->versions, ", ");
    return err == ERR_OK ? put_member(out, "command", command, "}") : err;
}
