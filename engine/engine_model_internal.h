/* engine/engine_model_internal.h - private to engine_model*.c: the parts a model directory is read in.
 *
 *   engine_model_file.c    opening and mapping files beneath the directory
 *   engine_model_header.c  one safetensors header -> a table of checked entries
 *   engine_model_config.c  the two JSON configuration files
 *   engine_model.c         all together: shards, needed tensors, identity */
#ifndef ENGINE_ENGINE_MODEL_INTERNAL_H
#define ENGINE_ENGINE_MODEL_INTERNAL_H

#include "engine/engine_model.h"

enum { MODEL_DIMS_MAX = 8, MODEL_HEADER_MAX = 8 << 20, MODEL_TENSORS_MAX = 65536 };

/* ---- files ---- */

struct model_dir {
    int fd;
    const char *path; /* for messages; the caller's */
};

struct model_map {
    const uint8_t *bytes; /* NULL: nothing mapped */
    uint64_t len;
};

enum err model_dir_open(const char *path, struct model_dir *out, struct err_msg *msg);
void model_dir_close(struct model_dir *d);
/* Map a regular file read-only.  name must be a plain file name.  ERR_NOT_FOUND is returned without
 * a message if `optional`. */
enum err model_map_open(const struct model_dir *d, const char *name, bool optional,
                        struct model_map *out, struct err_msg *msg);
void model_map_close(struct model_map *map);
/* Read a whole small file into memory from base/mem.h; refused above cap bytes. */
enum err model_read_file(const struct model_dir *d, const char *name, size_t cap, bool optional,
                         char **out, size_t *len, struct err_msg *msg);
bool model_name_is_plain(const char *name);

/* ---- safetensors headers ---- */

struct model_entry {
    char *name;        /* owned by the table */
    const char *dtype; /* the file's word for it, a constant */
    uint32_t n_dims;
    uint64_t dims[MODEL_DIMS_MAX];
    uint64_t begin, end; /* within the data part */
};

struct model_header {
    struct model_entry *entries; /* in file order of their data */
    size_t n;
    uint64_t data_start; /* offset of the data part in the file */
};

/* `what` names the file in messages. */
enum err model_header_parse(const uint8_t *bytes, size_t len, uint64_t file_bytes, const char *what,
                            struct model_header *out, struct err_msg *msg);
void model_header_free(struct model_header *h);

/* ---- configuration ---- */

/* Adds the stop ids and the sampling defaults of generation_config.json to *c. */
enum err engine_model_parse_generation(const char *json, size_t len, struct engine_model_config *c,
                                       struct err_msg *msg);

#endif
