/* daemon/config_file.c - the YAML file, read by libcyaml with a schema made from the option table.
 *
 * All scalars are read as text and converted by the code that also converts flags, so there is one set of
 * rules.  libcyaml refuses unknown keys and wrong shapes with line and column; for a value out of range the
 * line is found again by a second pass over the YAML events. */
#include <ctype.h>
#include <cyaml/cyaml.h>
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <yaml.h>

#include "base/mem.h"
#include "daemon/config_table.h"

enum {
    FILE_BYTES_MAX = 1 << 20,
    TEXT_MAX = 4096,
    N_FIELDS = CONFIG_N_OPTIONS + 1 + CONFIG_N_SECTIONS
};

struct raw_section {
    struct config_entry *v;
    unsigned n;
};
struct raw_file {
    char *values[CONFIG_N_OPTIONS];
    char *model;
    struct raw_section sections[CONFIG_N_SECTIONS];
};

/* The schema of the file, made from the tables. */
struct schema {
    cyaml_schema_field_t top[N_FIELDS + 1];
    cyaml_schema_field_t fields[CONFIG_N_SECTIONS][CONFIG_FIELDS_MAX + 1];
    cyaml_schema_value_t entries[CONFIG_N_SECTIONS];
};

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

/* ---- lines ---- */

/* The line of `key` (NULL: the first one) at the top (item < 0), in the item-th mapping of the sequence
 * `section`, or anywhere (section NULL); 0: not found. */
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
            if (expect_key && (key == NULL || strcmp(word, key) == 0) &&
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
static bool correct_line(const struct config_source *s, struct complaint *c)
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

void config_place(const struct config_source *s, const char *section, int item, const char *key,
                  char *out, size_t room)
{
    size_t line = find_line(s->text, s->len, section, item, key);

    if (line == 0 && item >= 0) /* an absent field: the entry begins with its first one */
        line = find_line(s->text, s->len, section, item, NULL);
    snprintf(out, room, "%s, line %zu", s->path, line);
}

static enum err take_all(const struct config_source *s, const struct raw_file *raw,
                         struct daemon_config *c, struct err_msg *msg)
{
    static enum err (*const take[])(const struct config_source *, const struct config_entry *,
                                    unsigned, struct daemon_config *, struct err_msg *) = {
        [CONFIG_SECTION_TIERS] = config_take_tiers,
        [CONFIG_SECTION_TENANTS] = config_take_tenants,
        [CONFIG_SECTION_KEYS] = config_take_keys};
    char where[300];
    enum err err = ERR_OK;

    for (size_t i = 0; err == ERR_OK && i < CONFIG_N_OPTIONS; i++) {
        if (raw->values[i] == NULL)
            continue;
        config_place(s, "", -1, config_options[i].name, where, sizeof(where));
        err = config_set(c, &config_options[i], raw->values[i], where, msg);
    }
    if (err == ERR_OK && raw->model != NULL) {
        c->model_dir = mem_try_strdup(raw->model);
        err = c->model_dir != NULL ? ERR_OK : ERR_NOMEM;
    }
    for (int k = 0; err == ERR_OK && k < CONFIG_N_SECTIONS; k++)
        err = take[k](s, raw->sections[k].v, raw->sections[k].n, c, msg);
    return err;
}

static enum err read_whole(const char *path, struct config_source *s, struct err_msg *msg)
{
    struct stat st;
    bool there = stat(path, &st) == 0, is_file = there && S_ISREG(st.st_mode);
    FILE *f = is_file ? fopen(path, "rb") : NULL;

    if (f == NULL)
        return err_set(msg, ERR_NOT_FOUND, "cannot read the config file %.200s: %s", path,
                       there && !is_file ? "not a regular file" : strerror(errno));
    if (fstat(fileno(f), &st) != 0 || !S_ISREG(st.st_mode)) {
        fclose(f);
        return err_set(msg, ERR_NOT_FOUND, "cannot read the config file %.200s: not a regular file",
                       path);
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

static cyaml_schema_field_t text_field(const char *name, size_t offset, bool required)
{
    return (cyaml_schema_field_t){
        .key = name,
        .value = {.type = CYAML_STRING,
                  .flags = CYAML_FLAG_POINTER | (required ? 0u : CYAML_FLAG_OPTIONAL),
                  .data_size = sizeof(char),
                  .string = {.min = 0, .max = TEXT_MAX}},
        .data_offset = (uint32_t)offset};
}

static void make_section(struct schema *m, int k)
{
    const struct config_section *section = &config_sections[k];
    size_t at = offsetof(struct raw_file, sections) + (size_t)k * sizeof(struct raw_section);

    for (unsigned i = 0; i < section->n_fields; i++)
        m->fields[k][i] = text_field(section->fields[i].name, i * sizeof(char *),
                                     section->fields[i].fallback == NULL);
    m->entries[k] = (cyaml_schema_value_t){.type = CYAML_MAPPING,
                                           .data_size = sizeof(struct config_entry),
                                           .mapping = {.fields = m->fields[k]}};
    m->top[CONFIG_N_OPTIONS + 1 + k] = (cyaml_schema_field_t){
        .key = section->name,
        .value = {.type = CYAML_SEQUENCE,
                  .flags = CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL,
                  .data_size = sizeof(struct config_entry),
                  .sequence = {.entry = &m->entries[k], .min = section->min, .max = section->max}},
        .data_offset = (uint32_t)(at + offsetof(struct raw_section, v)),
        .count_offset = (uint32_t)(at + offsetof(struct raw_section, n)),
        .count_size = sizeof(unsigned)};
}

static void make_schema(struct schema *m)
{
    memset(m, 0, sizeof(*m));
    for (size_t i = 0; i < CONFIG_N_OPTIONS; i++)
        m->top[i] = text_field(config_options[i].name,
                               offsetof(struct raw_file, values) + i * sizeof(char *), false);
    m->top[CONFIG_N_OPTIONS] = text_field("model", offsetof(struct raw_file, model), false);
    for (int k = 0; k < CONFIG_N_SECTIONS; k++)
        make_section(m, k);
}

void config_locate(const char *path, const char *option, char *out, size_t room)
{
    struct config_source s = {path, NULL, 0};
    struct err_msg ignored;
    size_t line = 0;

    if (read_whole(path, &s, &ignored) == ERR_OK)
        line = find_line(s.text, s.len, "", -1, option);
    mem_free(s.text);
    if (line > 0)
        snprintf(out, room, "%s, line %zu", path, line);
    else
        snprintf(out, room, "%s", path);
}

enum err config_read_file(const char *path, struct daemon_config *c, struct err_msg *msg)
{
    struct schema schema;
    cyaml_schema_value_t top = {.type = CYAML_MAPPING,
                                .flags = CYAML_FLAG_POINTER,
                                .data_size = sizeof(struct raw_file),
                                .mapping = {.fields = schema.top}};
    struct complaint complaint = {"", ""};
    cyaml_config_t how = {.log_fn = on_log,
                          .log_ctx = &complaint,
                          .mem_fn = cyaml_memory,
                          .log_level = CYAML_LOG_ERROR};
    struct config_source s = {path, NULL, 0};
    struct raw_file *raw = NULL;
    enum err err = read_whole(path, &s, msg);
    cyaml_err_t bad;

    if (err != ERR_OK)
        return err;
    make_schema(&schema);
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
