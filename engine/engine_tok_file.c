/* engine/engine_tok_file.c - see the header for the contract. */
#include "engine/engine_tok_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"

enum { CONFIG_MAX = 8 << 20 };

static enum err read_whole(int fd, const char *path, size_t size, struct buf *out,
                           struct err_msg *msg)
{
    size_t done = 0;
    enum err err = buf_reserve(out, size);

    while (err == ERR_OK && done < size) {
        ssize_t n = read(fd, buf_bytes(out) + out->len, size - done);

        if (n > 0) {
            buf_added(out, (size_t)n);
            done += (size_t)n;
        } else if (n == 0 || errno != EINTR) {
            err = err_set(msg, ERR_IO, "%s: cannot be read whole: %s", path,
                          n == 0 ? "it became shorter" : strerror(errno));
        }
    }
    if (err == ERR_NOMEM)
        err_set(msg, err, "%s: out of memory for %zu bytes", path, size);
    return err;
}

enum err engine_tok_read_file(const char *dir, const char *name, size_t cap, struct buf *out,
                              struct err_msg *msg)
{
    struct stat st;
    char path[4096];
    enum err err;
    int fd;

    if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
        return err_set(msg, ERR_INVALID, "the path of the model directory is too long");
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return err_set(msg, errno == ENOENT || errno == ENOTDIR ? ERR_NOT_FOUND : ERR_IO, "%s: %s",
                       path, strerror(errno));
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        err = err_set(msg, ERR_IO, "%s: not a regular file", path);
    else if (st.st_size < 0 || (unsigned long long)st.st_size > cap)
        err = err_set(msg, ERR_LIMIT, "%s: larger than %zu KiB", path, cap >> 10);
    else
        err = read_whole(fd, path, (size_t)st.st_size, out, msg);
    close(fd);
    return err;
}

enum err engine_tok_read_config(const char *dir, json_t **out, struct err_msg *msg)
{
    struct buf file = BUF_INIT;
    json_error_t bad;
    json_t *root = NULL;
    enum err err = engine_tok_read_file(dir, "tokenizer_config.json", CONFIG_MAX, &file, msg);

    if (err == ERR_OK) {
        root = json_loadb(file.len > 0 ? buf_bytes(&file) : "", file.len, JSON_REJECT_DUPLICATES,
                          &bad);
        if (root == NULL && json_error_code(&bad) == json_error_out_of_memory)
            err = err_set(msg, ERR_NOMEM, "tokenizer_config.json: out of memory");
        else if (root == NULL)
            err = err_set(msg, ERR_INVALID, "tokenizer_config.json:%d:%d: %s", bad.line, bad.column,
                          bad.text);
        else if (!json_is_object(root))
            err = err_set(msg, ERR_INVALID, "tokenizer_config.json: not an object");
    }
    buf_free(&file);
    if (err == ERR_OK)
        *out = root;
    else
        json_decref(root);
    return err;
}

const char *engine_tok_config_name(const json_t *config, const char *key)
{
    const json_t *j = json_object_get(config, key);

    return json_string_value(json_is_object(j) ? json_object_get(j, "content") : j);
}
