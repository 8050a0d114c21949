/* daemon/config_file.c - the YAML file, read by libcyaml with a schema made from the option table.
 *
 * All scalars are read as text and converted by the code that also converts flags, so there is one set of
 * rules.  libcyaml refuses unknown keys and wrong shapes with line and column; for a value out of range the
 * line is found again by a second pass over the YAML events. */
#include <ctype.h>
#include <cyaml/cyaml.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

#include "base/mem.h"
#include "daemon/config_table.h"

enum { FILE_BYTES_MAX = 1 << 20, KEYS_MAX = 4096, TEXT_MAX = 4096 };

struct raw_tier {
    char *name, *ttft_ms, *tbt_ms;
};
struct raw_key {
    char *name, *sha256, *tenant, *tier;
};
struct raw_file {
    char *values[CONFIG_N_OPTIONS];
    char *model;
    struct raw_tier *tiers;
    unsigned n_tiers;
    struct raw_key *keys;
    unsigned n_keys;
};

#define TEXT_FIELD(structure, member, flags) \
    CYAML_FIELD_STRING_PTR(#member, CYAML_FLAG_POINTER | (flags), structure, member, 0, TEXT_MAX)

static const cyaml_schema_field_t tier_fields[] = {
    TEXT_FIELD(struct raw_tier, name, 0), TEXT_FIELD(struct raw_tier, ttft_ms, 0),
    TEXT_FIELD(struct raw_tier, tbt_ms, 0), CYAML_FIELD_END};
static const cyaml_schema_value_t tier_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_tier, tier_fields)};
static const cyaml_schema_field_t key_fields[] = {
    TEXT_FIELD(struct raw_key, name, CYAML_FLAG_OPTIONAL), TEXT_FIELD(struct raw_key, sha256, 0),
    TEXT_FIELD(struct raw_key, tenant, CYAML_FLAG_OPTIONAL),
    TEXT_FIELD(struct raw_key, tier, CYAML_FLAG_OPTIONAL), CYAML_FIELD_END};
static const cyaml_schema_value_t key_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct raw_key, key_fields)};
static const cyaml_schema_field_t fixed_fields[] = {
    TEXT_FIELD(struct raw_file, model, CYAML_FLAG_OPTIONAL),
    {.key = "tiers",
     .value = {.type = CYAML_SEQUENCE,
               .flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
               .data_size = sizeof(struct raw_tier),
               .sequence = {.entry = &tier_schema, .min = 1, .max = SCHED_TIERS_MAX}},
     .data_offset = offsetof(struct raw_file, tiers),
     .count_offset = offsetof(struct raw_file, n_tiers),
     .count_size = sizeof(unsigned)},
    {.key = "keys",
     .value = {.type = CYAML_SEQUENCE,
               .flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
               .data_size = sizeof(struct raw_key),
               .sequence = {.entry = &key_schema, .min = 0, .max = KEYS_MAX}},
     .data_offset = offsetof(struct raw_file, keys),
     .count_offset = offsetof(struct raw_file, n_keys),
     .count_size = sizeof(unsigned)},
};
enum { N_FIXED = sizeof(fixed_fields) / sizeof(fixed_fields[0]) };

/* ---- what libcyaml says ---- */

struct complaint {
    char what[200];
    char where[80]; /* "line: 3, column: 1" of the innermost place */
};

static void on_log(cyaml_log_t level, void *ctx, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));
static void on_log(cyaml_log_t level, void *ctx, const char *format, va_list args)
{
    struct complaint *c = ctx;
    char line[256];
    char *at;

    (void)level;
    vsnprintf(line, sizeof(line), format, args);
    line[strcspn(line, "\n")] = '\0';
    at = strstr(line, "(line: ");
    if (at != NULL && c->where[0] == '\0')
        snprintf(c->where, sizeof(c->where), "%.*s", (int)strcspn(at + 1, ")"), at + 1);
    else if (at == NULL && c->what[0] == '\0' && strstr(line, "Backtrace") == NULL)
        snprintf(c->what, sizeof(c->what), "%.190s",
                 strncmp(line, "Load: ", 6) == 0 ? line + 6 : line);
}

static void *cyaml_memory(void *ctx, void *p, size_t size)
{
    (void)ctx;
    if (size == 0) {
        mem_free(p);
        return NULL;
    }
    return mem_try_realloc(p, size);
}

struct source {
    const char *path;
    char *text;
    size_t len;
};

/* ---- lines ---- */

/* The line of `key` at the top (item < 0), in the item-th mapping of the sequence `section`, or anywhere
 * (section NULL); 0: not found. */
static size_t find_line(const char *text, size_t len, const char *section, int item,
                        const char *key)
{
    yaml_parser_t parser;
    yaml_event_t event;
    size_t line = 0;
    int depth = 0, seen_items = -1;
    bool in_section = false, expect_key = true, done = false;

    if (!yaml_parser_initialize(&parser))
        return 0;
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    while (!done && line == 0 && yaml_parser_parse(&parser, &event)) {
        bool is_scalar = event.type == YAML_SCALAR_EVENT;
        const char *word = is_scalar ? (const char *)event.data.scalar.value : "";

        if (event.type == YAML_MAPPING_START_EVENT || event.type == YAML_SEQUENCE_START_EVENT) {
            depth++;
            if (in_section && depth == 3)
                seen_items++;
            expect_key = true;
        } else if (event.type == YAML_MAPPING_END_EVENT || event.type == YAML_SEQUENCE_END_EVENT) {
            depth--;
            expect_key = true;
            if (depth == 1)
                in_section = false;
        } else if (is_scalar) {
            if (expect_key && depth == 1 && item >= 0 && section != NULL)
                in_section = strcmp(word, section) == 0;
            if (expect_key && strcmp(word, key) == 0 &&
                (section == NULL || (item < 0 && depth == 1) ||
                 (in_section && depth == 3 && seen_items == item)))
                line = event.start_mark.line + 1;
            expect_key = !expect_key;
        }
        done = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    yaml_parser_delete(&parser);
    return line;
}

/* libcyaml places an unexpected key where the value before it stands: find the key itself. */
static bool correct_line(const struct source *s, struct complaint *c)
{
    static const char start[] = "Unexpected key: ";
    size_t line;

    if (strncmp(c->what, start, sizeof(start) - 1) != 0)
        return false;
    line = find_line(s->text, s->len, NULL, 0, c->what + sizeof(start) - 1);
    snprintf(c->where, sizeof(c->where), "line %zu", line);
    return line > 0;
}

/* ---- converting ---- */

static void place(const struct source *s, const char *section, int item, const char *key, char *out,
                  size_t room)
{
    snprintf(out, room, "%s, line %zu", s->path, find_line(s->text, s->len, section, item, key));
}

static enum err number(const struct source *s, const char *section, int item, const char *key,
                       const char *text, uint64_t min, uint64_t max, uint64_t *out,
                       struct err_msg *msg)
{
    char where[300], *end = NULL;
    unsigned long long v = 0;

    if (isdigit((unsigned char)text[0]))
        v = strtoull(text, &end, 10);
    if (end == NULL || *end != '\0' || v < min || v > max) {
        place(s, section, item, key, where, sizeof(where));
        return err_set(msg, ERR_INVALID,
                       "%s: %s is '%.60s'; allowed are whole numbers from %llu to %llu", where, key,
                       text, (unsigned long long)min, (unsigned long long)max);
    }
    *out = v;
    return ERR_OK;
}

static enum err take_tiers(const struct source *s, const struct raw_file *raw,
                           struct daemon_config *c, struct err_msg *msg)
{
    char where[300];

    if (raw->n_tiers == 0)
        return ERR_OK;
    c->n_tiers = raw->n_tiers;
    for (unsigned i = 0; i < raw->n_tiers; i++) {
        const struct raw_tier *r = &raw->tiers[i];
        struct sched_tier *t = &c->tiers[i];
        uint64_t ttft, tbt;
        enum err err;

        place(s, "tiers", (int)i, "name", where, sizeof(where));
        if (r->name[0] == '\0' || strlen(r->name) >= sizeof(t->name) ||
            strspn(r->name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") !=
                strlen(r->name))
            return err_set(msg, ERR_INVALID,
                           "%s: a tier's name has 1 to %zu letters, digits, '_' or '-'", where,
                           sizeof(t->name) - 1);
        for (unsigned k = 0; k < i; k++) {
            if (strcmp(raw->tiers[k].name, r->name) == 0)
                return err_set(msg, ERR_INVALID, "%s: there are two tiers named '%s'", where,
                               r->name);
        }
        err = number(s, "tiers", (int)i, "ttft_ms", r->ttft_ms, 1, 86400000, &ttft, msg);
        if (err == ERR_OK)
            err = number(s, "tiers", (int)i, "tbt_ms", r->tbt_ms, 1, 86400000, &tbt, msg);
        if (err != ERR_OK)
            return err;
        *t = (struct sched_tier){.ttft_ns = ttft * 1000000, .tbt_ns = tbt * 1000000};
        memcpy(t->name, r->name, strlen(r->name));
    }
    return ERR_OK;
}

static int hex_digit(char c)
{
    const char *at = strchr("0123456789abcdef", tolower((unsigned char)c));

    return c != '\0' && at != NULL ? (int)(at - "0123456789abcdef") : -1;
}

static bool parse_sha256(const char *text, uint8_t out[32])
{
    if (strlen(text) != 64)
        return false;
    for (size_t i = 0; i < 32; i++) {
        int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

        if (high < 0 || low < 0)
            return false;
        out[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static enum err take_key(const struct source *s, int i, const struct raw_key *r,
                         const struct daemon_config *c, struct daemon_key *k, struct err_msg *msg)
{
    char where[300];

    place(s, "keys", i, "sha256", where, sizeof(where));
    if (!parse_sha256(r->sha256, k->sha256))
        return err_set(
            msg, ERR_INVALID,
            "%s: sha256 needs the 64 hex digits of the key's SHA-256 (printf %%s KEY | sha256sum)",
            where);
    snprintf(k->name, sizeof(k->name), "%.63s", r->name != NULL ? r->name : "");
    snprintf(k->tenant, sizeof(k->tenant), "%.63s", r->tenant != NULL ? r->tenant : k->name);
    for (k->tier = 0; r->tier != NULL && k->tier < c->n_tiers; k->tier++) {
        if (strcmp(r->tier, c->tiers[k->tier].name) == 0)
            break;
    }
    if (k->tier < c->n_tiers)
        return ERR_OK;
    place(s, "keys", i, "tier", where, sizeof(where));
    return err_set(msg, ERR_INVALID, "%s: tier '%.60s' is no configured tier", where, r->tier);
}

static enum err take_keys(const struct source *s, const struct raw_file *raw,
                          struct daemon_config *c, struct err_msg *msg)
{
    enum err err = ERR_OK;

    if (raw->n_keys == 0)
        return ERR_OK;
    c->keys = mem_try_calloc(raw->n_keys, sizeof(*c->keys));
    if (c->keys == NULL)
        return err_set(msg, ERR_NOMEM, "no memory for %u keys", raw->n_keys);
    for (unsigned i = 0; err == ERR_OK && i < raw->n_keys; i++) {
        err = take_key(s, (int)i, &raw->keys[i], c, &c->keys[i], msg);
        for (unsigned k = 0; err == ERR_OK && k < i; k++) {
            char where[300];

            if (memcmp(c->keys[k].sha256, c->keys[i].sha256, sizeof(c->keys[i].sha256)) != 0)
                continue;
            place(s, "keys", (int)i, "sha256", where, sizeof(where));
            err = err_set(msg, ERR_INVALID, "%s: this key was given before", where);
        }
        c->n_keys++;
    }
    return err;
}

static enum err take_all(const struct source *s, const struct raw_file *raw,
                         struct daemon_config *c, struct err_msg *msg)
{
    char where[300];
    enum err err = ERR_OK;

    for (size_t i = 0; err == ERR_OK && i < CONFIG_N_OPTIONS; i++) {
        if (raw->values[i] == NULL)
            continue;
        place(s, "", -1, config_options[i].name, where, sizeof(where));
        err = config_set(c, &config_options[i], raw->values[i], where, msg);
    }
    if (err == ERR_OK && raw->model != NULL) {
        c->model_dir = mem_try_strdup(raw->model);
        err = c->model_dir != NULL ? ERR_OK : ERR_NOMEM;
    }
    if (err == ERR_OK)
        err = take_tiers(s, raw, c, msg);
    if (err == ERR_OK)
        err = take_keys(s, raw, c, msg);
    return err;
}

static enum err read_whole(const char *path, struct source *s, struct err_msg *msg)
{
    struct stat st;
    FILE *f = stat(path, &st) == 0 && S_ISREG(st.st_mode) ? fopen(path, "rb") : NULL;

    if (f == NULL || fstat(fileno(f), &st) != 0 || !S_ISREG(st.st_mode)) {
        if (f != NULL)
            fclose(f);
        return err_set(msg, ERR_NOT_FOUND, "cannot read the config file %.200s", path);
    }
    if (st.st_size > FILE_BYTES_MAX) {
        fclose(f);
        return err_set(msg, ERR_LIMIT, "%.200s is larger than %d bytes", path, FILE_BYTES_MAX);
    }
    s->path = path;
    s->text = mem_try_alloc((size_t)st.st_size + 1);
    if (s->text != NULL)
        s->len = fread(s->text, 1, (size_t)st.st_size, f);
    fclose(f);
    return s->text != NULL ? ERR_OK : err_set(msg, ERR_NOMEM, "no memory for %.200s", path);
}

static void make_fields(cyaml_schema_field_t fields[CONFIG_N_OPTIONS + N_FIXED + 1])
{
    for (size_t i = 0; i < CONFIG_N_OPTIONS; i++)
        fields[i] = (cyaml_schema_field_t){
            .key = config_options[i].name,
            .value = {.type = CYAML_STRING,
                      .flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
                      .data_size = sizeof(char),
                      .string = {.min = 0, .max = TEXT_MAX}},
            .data_offset = (uint32_t)(offsetof(struct raw_file, values) + i * sizeof(char *))};
    memcpy(fields + CONFIG_N_OPTIONS, fixed_fields, sizeof(fixed_fields));
    fields[CONFIG_N_OPTIONS + N_FIXED] = (cyaml_schema_field_t){.key = NULL};
}

enum err config_read_file(const char *path, struct daemon_config *c, struct err_msg *msg)
{
    cyaml_schema_field_t fields[CONFIG_N_OPTIONS + N_FIXED + 1];
    cyaml_schema_value_t top = {.type = CYAML_MAPPING,
                                .flags = CYAML_FLAG_POINTER,
                                .data_size = sizeof(struct raw_file),
                                .mapping = {.fields = fields}};
    struct complaint complaint = {"", ""};
    cyaml_config_t how = {.log_fn = on_log,
                          .log_ctx = &complaint,
                          .mem_fn = cyaml_memory,
                          .log_level = CYAML_LOG_ERROR};
    struct source s = {path, NULL, 0};
    struct raw_file *raw = NULL;
    enum err err = read_whole(path, &s, msg);
    cyaml_err_t bad;

    if (err != ERR_OK)
        return err;
    make_fields(fields);
    bad = cyaml_load_data((const uint8_t *)s.text, s.len, &how, &top, (cyaml_data_t **)&raw, NULL);
    if (bad != CYAML_OK && correct_line(&s, &complaint))
        err = err_set(msg, ERR_INVALID, "%.200s, %s: %s", path, complaint.where, complaint.what);
    else if (bad != CYAML_OK)
        err = err_set(msg, ERR_INVALID, "%.200s, %s: %s", path,
                      complaint.where[0] != '\0' ? complaint.where : "YAML",
                      complaint.what[0] != '\0' ? complaint.what : cyaml_strerror(bad));
    else if (raw != NULL)
        err = take_all(&s, raw, c, msg);
    if (raw != NULL)
        cyaml_free(&how, &top, raw, 0);
    mem_free(s.text);
    return err;
}
