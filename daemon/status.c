/* daemon/status.c - see the header. */
#include "daemon/status.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/clock.h"
#include "daemon/secret.h"
#include "daemon/status_get.h"
#include "daemon/status_show.h"

static const char options_help[] =
    "  URL                http://HOST:PORT of `baton serve` [http://127.0.0.1:8000]\n"
    "  --key-file FILE    admin key (baton serve --admin-key-file, or a key with `admin: true`); "
    "with\n"
    "                     another key, or none, the view comes from /metrics and shows less\n"
    "  BATON_ADMIN_KEY    the key itself, from the environment\n";

struct options {
    const char *url, *key_file;
    char key[WIRE_SECRET_MAX + 1]; /* "": none */
    bool json, help;
};

static enum err read_key(struct options *o, struct err_msg *msg)
{
    const char *variable = getenv("BATON_ADMIN_KEY");
    struct wire_secret secret;
    enum err err;

    if (o->key_file == NULL) {
        snprintf(o->key, sizeof(o->key), "%s", variable != NULL ? variable : "");
        if (strpbrk(o->key, "\r\n") != NULL)
            return err_set(msg, ERR_INVALID, "BATON_ADMIN_KEY has a line end");
        return ERR_OK;
    }
    err = daemon_secret_read("key file", o->key_file, &secret, msg);
    if (err != ERR_OK)
        return err;
    snprintf(o->key, sizeof(o->key), "%.*s", (int)secret.len, (const char *)secret.bytes);
    explicit_bzero(&secret, sizeof(secret));
    if (strpbrk(o->key, "\r\n") != NULL)
        return err_set(msg, ERR_INVALID, "the key file %.200s has more than one line", o->key_file);
    return ERR_OK;
}

static enum err parse(int argc, char **argv, bool may_json, struct options *o, struct err_msg *msg)
{
    *o = (struct options){.url = NULL};
    for (int i = 0; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            o->help = true;
        else if (may_json && strcmp(argv[i], "--json") == 0)
            o->json = true;
        else if (strcmp(argv[i], "--key-file") == 0 && i + 1 < argc)
            o->key_file = argv[++i];
        else if (strncmp(argv[i], "--key-file=", 11) == 0)
            o->key_file = argv[i] + 11;
        else if (argv[i][0] != '-' && o->url == NULL)
            o->url = argv[i];
        else if (strcmp(argv[i], "--key-file") == 0)
            return err_set(msg, ERR_INVALID, "--key-file needs a FILE");
        else if (argv[i][0] != '-')
            return err_set(msg, ERR_INVALID, "one URL is enough: '%.80s' and '%.80s'", o->url,
                           argv[i]);
        else
            return err_set(msg, ERR_INVALID, "unknown option %.80s; --help lists them all",
                           argv[i]);
    }
    if (o->url == NULL)
        o->url = "http://127.0.0.1:8000";
    return status_check_url(o->url, msg);
}

/* false: *status is what to end with. */
static bool start(const char *who, int argc, char **argv, bool may_json, struct options *o,
                  int *status)
{
    struct err_msg msg = {""};

    *status = parse(argc, argv, may_json, o, &msg) != ERR_OK ? 2 : 0;
    if (*status == 0 && !o->help && read_key(o, &msg) != ERR_OK)
        *status = 1;
    if (*status != 0)
        fprintf(stderr, "baton %s: %s\n", who, msg.text);
    return *status == 0;
}

static const char *key_of(const struct options *o)
{
    return o->key[0] != '\0' ? o->key : NULL;
}

static int print_once(const struct options *o, const char *who)
{
    struct err_msg msg = {""};
    struct status s;
    struct buf out = BUF_INIT;
    enum err err = status_read(o->url, key_of(o), &s, &msg);

    if (err != ERR_OK) {
        fprintf(stderr, "baton %s: %s\n", who, msg.text);
        return 1;
    }
    err = o->json ? status_show_json(&s, &out) : status_show_table(&s, NULL, 0, &out);
    if (err == ERR_OK)
        fwrite(buf_bytes(&out), 1, out.len, stdout);
    buf_free(&out);
    status_free(&s);
    return err == ERR_OK ? 0 : 1;
}

int daemon_status_run(int argc, char **argv)
{
    struct options o;
    int status;

    if (!start("status", argc, argv, true, &o, &status))
        return status;
    if (o.help) {
        printf("Usage: baton status [URL] [--json] [--key-file FILE]\n\n"
               "Tiers, predictions and workers of a running server, once.\n\n%s"
               "  --json             one JSON object\n"
               "  --help             this text\n\n"
               "ATTAINED is what was kept of all that was judged: kept, broken and refused.\n",
               options_help);
        return 0;
    }
    status = print_once(&o, "status");
    explicit_bzero(&o, sizeof(o));
    return status;
}

/* ---- top ---- */

static struct termios before_us;
static volatile sig_atomic_t told_to_end;

static void on_signal(int number)
{
    (void)number;
    told_to_end = 1;
}

static void on_resize(int number)
{
    (void)number; /* poll returns, and the screen is drawn anew */
}

static void put_screen(const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(STDOUT_FILENO, text, len);

        if (n < 0 && errno != EINTR)
            return;
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
    }
}

static void say(const char *text)
{
    put_screen(text, strlen(text));
}

/* Keys come one by one and unseen; the screen that was there comes back at the end. */
static bool open_screen(void)
{
    struct termios raw;
    struct sigaction end = {.sa_handler = on_signal}, resize = {.sa_handler = on_resize};

    if (tcgetattr(STDIN_FILENO, &before_us) != 0)
        return false;
    raw = before_us;
    raw.c_lflag &= (tcflag_t) ~(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    sigaction(SIGINT, &end, NULL);
    sigaction(SIGTERM, &end, NULL);
    sigaction(SIGHUP, &end, NULL);
    sigaction(SIGWINCH, &resize, NULL);
    if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) != 0)
        return false;
    say("\x1b[?1049h\x1b[?25l");
    return true;
}

static void close_screen(void)
{
    say("\x1b[?25h\x1b[?1049l");
    tcsetattr(STDIN_FILENO, TCSANOW, &before_us);
}

/* What fits of the text, line by line, over what stood there. */
static enum err draw(const struct buf *text, struct buf *screen)
{
    struct winsize size = {0};
    const char *at = buf_bytes(text), *end = at + text->len;
    unsigned rows, columns;
    enum err err;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0)
        size = (struct winsize){0};
    rows = size.ws_row > 0 ? size.ws_row : 24;
    columns = size.ws_col > 0 ? size.ws_col : 80;
    buf_clear(screen);
    err = buf_puts(screen, "\x1b[H");
    for (unsigned row = 0; row < rows && at < end && err == ERR_OK; row++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t len = (size_t)((stop != NULL ? stop : end) - at);

        if (row > 0)
            err = buf_puts(screen, "\r\n");
        if (err == ERR_OK)
            err = buf_append(screen, at, len < columns ? len : columns);
        if (err == ERR_OK)
            err = buf_puts(screen, "\x1b[K");
        at += len + 1;
    }
    if (err == ERR_OK)
        err = buf_puts(screen, "\x1b[J");
    if (err == ERR_OK)
        put_screen(buf_bytes(screen), screen->len);
    return err;
}

/* true: q was pressed, or the terminal has gone.  A resize ends the wait early. */
static bool wait_for_key(uint64_t until_ns)
{
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    uint64_t now = clock_now_ns();
    char keys[64];
    ssize_t n;

    if (poll(&p, 1, until_ns > now ? (int)((until_ns - now) / CLOCK_NS_PER_MS) + 1 : 0) <= 0)
        return false;
    n = read(STDIN_FILENO, keys, sizeof(keys));
    if (n == 0 && (p.revents & (POLLHUP | POLLERR)))
        return true;
    for (ssize_t i = 0; i < n; i++) {
        if (keys[i] == 'q' || keys[i] == 'Q' || keys[i] == 3)
            return true;
    }
    return false;
}

struct top {
    const struct options *o;
    struct status now, before;
    bool has_now, has_before;
    uint64_t now_ns, before_ns;
    struct err_msg trouble;
    struct buf text, screen;
};

static void look(struct top *t)
{
    struct status fresh;

    t->trouble.text[0] = '\0';
    if (status_read(t->o->url, key_of(t->o), &fresh, &t->trouble) != ERR_OK)
        return;
    if (t->has_before)
        status_free(&t->before);
    t->before = t->now;
    t->before_ns = t->now_ns;
    t->has_before = t->has_now;
    t->now = fresh;
    t->now_ns = clock_now_ns();
    t->has_now = true;
}

static enum err show(struct top *t)
{
    enum err err;

    buf_clear(&t->text);
    err = t->trouble.text[0] != '\0' ? buf_printf(&t->text, "NO ANSWER: %s\n", t->trouble.text)
                                     : buf_printf(&t->text, "%s   q: leave\n", t->o->url);
    if (err == ERR_OK && t->has_now)
        err = status_show_table(&t->now, t->has_before ? &t->before : NULL,
                                (double)(t->now_ns - t->before_ns) / 1e9, &t->text);
    return err == ERR_OK ? draw(&t->text, &t->screen) : err;
}

static int run_top(const struct options *o)
{
    struct top t = {.o = o};
    bool leave = false;
    enum err err = ERR_OK;

    if (!open_screen()) {
        fprintf(stderr, "baton top: the terminal cannot be set: %s\n", strerror(errno));
        return 1;
    }
    while (!leave && !told_to_end && err == ERR_OK) {
        uint64_t next = clock_now_ns() + CLOCK_NS_PER_S;

        look(&t);
        do {
            err = show(&t);
            leave = wait_for_key(next);
        } while (err == ERR_OK && !leave && !told_to_end && clock_now_ns() < next);
    }
    close_screen();
    if (t.has_now)
        status_free(&t.now);
    if (t.has_before)
        status_free(&t.before);
    buf_free(&t.text);
    buf_free(&t.screen);
    return err == ERR_OK ? 0 : 1;
}

int daemon_top_run(int argc, char **argv)
{
    struct options o;
    int status;

    if (!start("top", argc, argv, false, &o, &status))
        return status;
    if (o.help) {
        printf("Usage: baton top [URL] [--key-file FILE]\n\n"
               "The view of baton status, drawn anew every second, with the rate of arrivals and "
               "the\nattainment of the last second.  q or Ctrl-C leaves.  Without a terminal it "
               "is printed once.\n\n%s"
               "  --help             this text\n",
               options_help);
        return 0;
    }
    status = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) ? run_top(&o) : print_once(&o, "top");
    explicit_bzero(&o, sizeof(o));
    return status;
}
