/* daemon/config.c - flags, environment, defaults, help: all from the table of config_table.h. */
#include "daemon/config.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "daemon/config_table.h"
#include "daemon/device_list.h"
#include "engine/engine.h"

const struct config_option config_options[CONFIG_N_OPTIONS] = {
#define X(field, type, fallback, min, max, unit, commands, group, help) \
    {#field,   CONFIG_##type, offsetof(struct daemon_config, field),    \
     fallback, min,           max,                                      \
     unit,     commands,      group,                                    \
     help},
    CONFIG_OPTIONS(X)
#undef X
};

static void *field_of(struct daemon_config *c, const struct config_option *o)
{
    return (char *)c + o->offset;
}

static enum err set_u32(struct daemon_config *c, const struct config_option *o, const char *text,
                        const char *where, struct err_msg *msg)
{
    unsigned long long v = 0;
    char *end = NULL;

    if (isdigit((unsigned char)text[0]))
        v = strtoull(text, &end, 10);
    if (end == NULL || *end != '\0' || v < o->min || v > o->max)
        return err_set(msg, ERR_INVALID,
                       "%s: %s is '%.80s'; allowed are whole numbers from %llu to %llu%s%s", where,
                       o->name, text, (unsigned long long)o->min, (unsigned long long)o->max,
                       o->unit[0] != '\0' ? " " : "", o->unit);
    *(uint32_t *)field_of(c, o) = (uint32_t)v;
    return ERR_OK;
}

static enum err set_bool(struct daemon_config *c, const struct config_option *o, const char *text,
                         const char *where, struct err_msg *msg)
{
    bool yes = strcmp(text, "true") == 0 || strcmp(text, "yes") == 0 || strcmp(text, "1") == 0;
    bool no = strcmp(text, "false") == 0 || strcmp(text, "no") == 0 || strcmp(text, "0") == 0;

    if (!yes && !no)
        return err_set(msg, ERR_INVALID, "%s: %s is '%.80s'; allowed are true and false", where,
                       o->name, text);
    *(bool *)field_of(c, o) = yes;
    return ERR_OK;
}

/* Is name one of "cpu, sim, ..."? */
static bool is_listed(const char *all, const char *name)
{
    size_t len = strlen(name);

    for (const char *at = all; len > 0; at += strspn(at, ", ")) {
        size_t n = strcspn(at, ", ");

        if (n == len && strncmp(at, name, n) == 0)
            return true;
        if (at[n] == '\0')
            return false;
        at += n;
    }
    return false;
}

/* An option that is one word of a list. */
static enum err check_word(const struct config_option *o, const char *text, const char *where,
                           struct err_msg *msg)
{
    const struct {
        const char *name, *words;
    } lists[] = {{"policy", sched_policy_live_names()},
                 {"backend", engine_backends()},
                 {"weights", "stored, fp8, int8"},
                 {"log_level", "error, warn, info, debug"},
                 {"log_format", "text, json"}};

    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        if (strcmp(o->name, lists[i].name) != 0 || is_listed(lists[i].words, text))
            continue;
        if (strcmp(o->name, "policy") == 0 && is_listed(sched_policy_names(), text))
            return err_set(msg, ERR_INVALID,
                           "%s: policy %s has to know the future: `baton simulate` runs it; a "
                           "server needs one of %s",
                           where, text, lists[i].words);
        if (strcmp(o->name, "backend") == 0 && strcmp(text, "cuda") == 0)
            return err_set(msg, ERR_INVALID,
                           "%s: this build has no CUDA backend, only %s; configure with "
                           "-DBATON_CUDA=ON (preset cuda)",
                           where, lists[i].words);
        return err_set(msg, ERR_INVALID, "%s: %s is '%.60s'; allowed are %s", where, o->name, text,
                       lists[i].words);
    }
    return ERR_OK;
}

enum err config_set(struct daemon_config *c, const struct config_option *o, const char *text,
                    const char *where, struct err_msg *msg)
{
    char **slot, *copy;
    enum err err;

    if (o->type == CONFIG_U32)
        return set_u32(c, o, text, where, msg);
    if (o->type == CONFIG_BOOL)
        return set_bool(c, o, text, where, msg);
    if (text[0] == '\0' && o->min > 0 && text != o->fallback)
        return err_set(msg, ERR_INVALID, "%s: %s is empty; a %s is wanted, or none at all", where,
                       o->name, o->unit);
    if (text[0] == '\0')
        text = o->fallback; /* an empty value is no value: what has a default always has one */
    err = check_word(o, text, where, msg);
    if (err != ERR_OK)
        return err;
    copy = text[0] != '\0' ? mem_try_strdup(text) : NULL;
    if (copy == NULL && text[0] != '\0')
        return err_set(msg, ERR_NOMEM, "no memory for the configuration");
    slot = field_of(c, o);
    mem_free(*slot);
    *slot = copy;
    return ERR_OK;
}

/* "kv_mib" as "--kv-mib" or "BATON_KV_MIB". */
static void flag_name(const struct config_option *o, char out[64])
{
    size_t n = (size_t)snprintf(out, 64, "--%s", o->name);

    for (size_t i = 2; i < n; i++) {
        if (out[i] == '_')
            out[i] = '-';
    }
}

static void variable_name(const struct config_option *o, char out[64])
{
    size_t n = (size_t)snprintf(out, 64, "BATON_%s", o->name);

    for (size_t i = 0; i < n; i++)
        out[i] = (char)toupper((unsigned char)out[i]);
}

/* How many single-character edits apart, for "did you mean". */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], na = strlen(a), nb = strlen(b);

    if (na >= 64 || nb >= 64)
        return 64;
    for (size_t j = 0; j <= nb; j++)
        row[j] = j;
    for (size_t i = 1; i <= na; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= nb; j++) {
            size_t up = row[j], best = diagonal + (a[i - 1] != b[j - 1]);

            if (up + 1 < best)
                best = up + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = up;
            row[j] = best;
        }
    }
    return row[nb];
}

static enum err unknown_flag(enum daemon_command command, const char *flag, struct err_msg *msg)
{
    char name[64], best[64] = "";
    size_t least = 4;

    for (size_t i = 0; i < CONFIG_N_OPTIONS; i++) {
        size_t d;

        if (!(config_options[i].commands & (unsigned)command))
            continue;
        flag_name(&config_options[i], name);
        d = distance(flag, name);
        if (d < least) {
            least = d;
            snprintf(best, sizeof(best), "%s", name);
        }
    }
    return err_set(msg, ERR_INVALID, "unknown option %.100s%s%s; --help lists them all", flag,
                   best[0] != '\0' ? ", did you mean " : "", best);
}

static const struct config_option *find_flag(enum daemon_command command, const char *flag,
                                             size_t len)
{
    char name[64];

    for (size_t i = 0; i < CONFIG_N_OPTIONS; i++) {
        flag_name(&config_options[i], name);
        if ((config_options[i].commands & (unsigned)command) && strlen(name) == len &&
            strncmp(name, flag, len) == 0)
            return &config_options[i];
    }
    return NULL;
}

static enum err set_text(char **slot, const char *value, struct err_msg *msg)
{
    mem_free(*slot);
    *slot = mem_try_strdup(value);
    return *slot != NULL ? ERR_OK : err_set(msg, ERR_NOMEM, "no memory for the configuration");
}

/* One pass over argv.  With c NULL only --config and --help are looked for. */
static enum err read_flags(enum daemon_command command, int argc, char **argv,
                           struct daemon_config *c, const char **config_file, struct err_msg *msg)
{
    bool have_dir = false; /* a flag's MODEL_DIR replaces the file's */

    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i], *equals = strchr(arg, '='), *value;
        size_t len = equals != NULL ? (size_t)(equals - arg) : strlen(arg);
        const struct config_option *o;
        bool is_config = len == 8 && strncmp(arg, "--config", 8) == 0;
        enum err err;

        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            daemon_config_help(command, stdout);
            return ERR_CANCELED;
        }
        if (arg[0] != '-') {
            if (c == NULL)
                continue;
            if (have_dir)
                return err_set(msg, ERR_INVALID, "one MODEL_DIR is enough: '%.80s' and '%.80s'",
                               c->model_dir, arg);
            have_dir = true;
            err = set_text(&c->model_dir, arg, msg);
            if (err != ERR_OK)
                return err;
            continue;
        }
        o = find_flag(command, arg, len);
        if (o == NULL && !is_config)
            return unknown_flag(command, arg, msg);
        if (equals != NULL)
            value = equals + 1;
        else if (o != NULL && o->type == CONFIG_BOOL)
            value = "true";
        else if (i + 1 < argc)
            value = argv[++i];
        else
            return err_set(msg, ERR_INVALID, "%.100s needs a value", arg);
        if (is_config) {
            *config_file = value;
        } else if (c != NULL) {
            err = config_set(c, o, value, "command line", msg);
            if (err != ERR_OK)
                return err;
        }
    }
    return ERR_OK;
}

static enum err read_environment(enum daemon_command command, struct daemon_config *c,
                                 struct err_msg *msg)
{
    for (size_t i = 0; i < CONFIG_N_OPTIONS; i++) {
        char name[64], where[96];
        const char *value;
        enum err err;

        if (!(config_options[i].commands & (unsigned)command))
            continue;
        variable_name(&config_options[i], name);
        value = getenv(name);
        if (value == NULL)
            continue;
        snprintf(where, sizeof(where), "environment variable %s", name);
        err = config_set(c, &config_options[i], value, where, msg);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

static enum err set_defaults(struct daemon_config *c, struct err_msg *msg)
{
    struct sched_config defaults;

    sched_config_defaults(&defaults);
    memcpy(c->tiers, defaults.tiers, sizeof(c->tiers));
    c->n_tiers = defaults.n_tiers;
    for (uint32_t i = 0; i < c->n_tiers; i++)
        memcpy(c->tier_labels[i], c->tiers[i].name, sizeof(c->tier_labels[i]));
    for (size_t i = 0; i < CONFIG_N_OPTIONS; i++) {
        enum err err =
            config_set(c, &config_options[i], config_options[i].fallback, "default", msg);

        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

/* Of the workers that this command starts, or is. */
static uint32_t most_ranks(enum daemon_command command, const struct daemon_config *c)
{
    uint32_t prefill = c->prefill_tp > 0 ? c->prefill_tp : c->tp;
    uint32_t decode = c->decode_tp > 0 ? c->decode_tp : c->tp;

    if (command != DAEMON_CMD_SERVE)
        return c->tp;
    prefill = c->prefill > 0 ? prefill : 0;
    decode = c->decode > 0 ? decode : 0;
    return prefill > decode ? prefill : decode;
}

/* What no single row can judge.  *option: where to look. */
static enum err check_whole(enum daemon_command command, const struct daemon_config *c,
                            const char **option, struct err_msg *msg)
{
    bool known = c->default_tier == NULL;
    struct daemon_device_list devices;
    double share;
    enum err err;

    *option = "heartbeat_ms";
    if (c->peer_timeout_ms < 3 * c->heartbeat_ms)
        return err_set(
            msg, ERR_INVALID,
            "peer_timeout_ms is %u: it must be at least three times heartbeat_ms, which is "
            "%u, or healthy workers would be taken for lost",
            c->peer_timeout_ms, c->heartbeat_ms);
    *option = "device";
    if (c->device != NULL && (err = daemon_device_list_parse(c->device, &devices, msg)) != ERR_OK)
        return err;
    if (c->device != NULL && devices.n < most_ranks(command, c))
        return err_set(msg, ERR_INVALID, "device lists %u, but a worker has %u ranks (tp)",
                       devices.n, most_ranks(command, c));
    *option = "gpu_memory";
    if (c->gpu_memory != NULL &&
        (err = daemon_device_share_parse(c->gpu_memory, &share, msg)) != ERR_OK)
        return err;
    *option = "default_tier";
    for (uint32_t i = 0; i < c->n_tiers; i++)
        known |= c->default_tier != NULL && strcmp(c->default_tier, c->tiers[i].name) == 0;
    if (!known)
        return err_set(msg, ERR_INVALID, "default_tier is '%.60s', which is no configured tier",
                       c->default_tier);
    return ERR_OK;
}

static enum err load(enum daemon_command command, int argc, char **argv, struct daemon_config *c,
                     struct err_msg *msg)
{
    const char *file = getenv("BATON_CONFIG"), *option;
    enum err err = set_defaults(c, msg);

    if (err == ERR_OK)
        err = read_flags(command, argc, argv, NULL, &file, msg);
    if (err == ERR_OK && file != NULL)
        err = config_read_file(file, c, msg);
    if (err == ERR_OK && file != NULL)
        err = set_text(&c->config_file, file, msg);
    if (err == ERR_OK)
        err = read_environment(command, c, msg);
    if (err == ERR_OK)
        err = read_flags(command, argc, argv, c, &file, msg);
    if (err == ERR_OK)
        err = check_whole(command, c, &option, msg);
    return err;
}

enum err daemon_config_load(enum daemon_command command, int argc, char **argv, struct err_msg *msg,
                            struct daemon_config **out)
{
    struct daemon_config *c = mem_try_calloc(1, sizeof(*c));
    enum err err;

    if (c == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the configuration");
    err = load(command, argc, argv, c, msg);
    if (err != ERR_OK)
        daemon_config_free(c);
    else
        *out = c;
    return err;
}

enum err daemon_config_check_file(const char *path, struct err_msg *msg)
{
    struct daemon_config *c = mem_try_calloc(1, sizeof(*c));
    struct err_msg what = {""};
    const char *option = "";
    char where[300];
    enum err err;

    if (c == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for the configuration");
    err = set_defaults(c, msg);
    if (err == ERR_OK)
        err = config_read_file(path, c, msg);
    if (err == ERR_OK) {
        err = check_whole(DAEMON_CMD_SERVE, c, &option, &what);
        if (err == ERR_OK)
            err = config_check_files(c, &option, &what);
        if (err != ERR_OK) {
            config_locate(path, option, where, sizeof(where));
            (void)err_set(msg, err, "%s: %s", where, what.text);
        }
    }
    daemon_config_free(c);
    return err;
}

void daemon_config_print(const struct daemon_config *c, FILE *to)
{
    for (size_t i = 0; i < CONFIG_N_OPTIONS; i++) {
        const struct config_option *o = &config_options[i];
        const void *at = (const char *)c + o->offset;

        if (o->type == CONFIG_U32)
            fprintf(to, "%s: %u\n", o->name, *(const uint32_t *)at);
        else if (o->type == CONFIG_BOOL)
            fprintf(to, "%s: %s\n", o->name, *(const bool *)at ? "true" : "false");
        else if (*(char *const *)at == NULL && o->min > 0)
            fprintf(to, "# %s: not given\n", o->name);
        else
            fprintf(to, "%s: \"%s\"\n", o->name,
                    *(char *const *)at != NULL ? *(char *const *)at : "");
    }
    config_print_sections(c, to);
}

static void print_option(const struct config_option *o, FILE *to)
{
    char flag[64], left[96];

    flag_name(o, flag);
    if (o->type == CONFIG_BOOL)
        snprintf(left, sizeof(left), "%s", flag);
    else
        snprintf(left, sizeof(left), "%s %s", flag, o->unit[0] != '\0' ? o->unit : "VALUE");
    fprintf(to, "  %-36s %s", left, o->help);
    if (o->type == CONFIG_U32)
        fprintf(to, " [%s; %llu to %llu]", o->fallback, (unsigned long long)o->min,
                (unsigned long long)o->max);
    else if (o->fallback[0] != '\0')
        fprintf(to, " [%s]", o->fallback);
    fprintf(to, "\n");
}

void daemon_config_help(enum daemon_command command, FILE *to)
{
    static const char *const what[] = {
        [DAEMON_CMD_SERVE] =
            "baton serve [MODEL_DIR] [options]\n\n"
            "Serve a model to OpenAI-compatible clients: a front end, a scheduler, and "
            "prefill and decode\nworkers as processes of their own.  Without MODEL_DIR the "
            "small demo model is served.\n",
        [DAEMON_CMD_PREFILL] =
            "baton prefill [MODEL_DIR] --scheduler HOST:PORT --secret-file FILE "
            "[options]\n\nA prefill worker: computes prompts for the `baton serve` at "
            "that address (its --listen-workers).\n",
        [DAEMON_CMD_DECODE] =
            "baton decode [MODEL_DIR] --scheduler HOST:PORT --secret-file FILE "
            "[options]\n\nA decode worker: generates tokens for the `baton serve` at "
            "that address (its --listen-workers).\n"};
    const char *group = "";

    fprintf(to, "Usage: %s", what[command]);
    for (size_t i = 0; i < CONFIG_N_OPTIONS; i++) {
        const struct config_option *o = &config_options[i];

        if (!(o->commands & (unsigned)command))
            continue;
        if (strcmp(group, o->group) != 0)
            fprintf(to, "\n%s\n", o->group);
        group = o->group;
        print_option(o, to);
    }
    fprintf(to,
            "\nFile\n  %-36s YAML file with any of these (kv_mib: 512), tiers and API keys\n"
            "  %-36s this text\n\n"
            "Every option may also come from the environment (BATON_KV_MIB=512).\n"
            "Order: flag, then environment, then file, then [default].\n",
            "--config FILE", "--help");
}

void daemon_config_reference(FILE *to)
{
    const char *group = "";

    for (size_t i = 0; i < CONFIG_N_OPTIONS; i++) {
        const struct config_option *o = &config_options[i];

        if (strcmp(group, o->group) != 0)
            fprintf(to, "\n**%s**\n\n| key | default | range | what |\n|---|---|---|---|\n",
                    o->group);
        group = o->group;
        fprintf(to, "| `%s` | %s | ", o->name, o->fallback[0] != '\0' ? o->fallback : "-");
        if (o->type == CONFIG_U32)
            fprintf(to, "%llu to %llu %s", (unsigned long long)o->min, (unsigned long long)o->max,
                    o->unit);
        else
            fprintf(to, "%s", o->type == CONFIG_BOOL ? "true, false" : o->unit);
        fprintf(to, " | %s |\n", o->help);
    }
    config_reference_sections(to);
}

void daemon_config_free(struct daemon_config *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < CONFIG_N_OPTIONS; i++) {
        if (config_options[i].type == CONFIG_TEXT)
            mem_free(*(char **)field_of(c, &config_options[i]));
    }
    mem_free(c->model_dir);
    mem_free(c->config_file);
    mem_free(c->keys);
    mem_free(c->tenants);
    mem_free(c);
}
