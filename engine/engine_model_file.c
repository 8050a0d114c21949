/* engine/engine_model_file.c - opening, reading and mapping the files of a model directory.
 *
 * The kernel is asked to resolve each name beneath the directory, so neither a name from an index file
 * nor a symbolic link can lead elsewhere.  One exception: the local cache of the Hugging Face tools
 * is made of links ../../blobs/<hash>, which operators point at all the time; exactly that form is
 * followed, by opening the blob by its own plain name. */
#include "engine/engine_model_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"

enum { NAME_CAP = 255 };

bool model_name_is_plain(const char *name)
{
    size_t len = strlen(name);

    return len > 0 && len <= NAME_CAP && strchr(name, '/') == NULL && strcmp(name, ".") != 0 &&
           strcmp(name, "..") != 0;
}

enum err model_dir_open(const char *path, struct model_dir *out, struct err_msg *msg)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        int e = errno;

        return err_set(msg, e == ENOENT || e == ENOTDIR ? ERR_NOT_FOUND : ERR_IO,
                       "%s: cannot open the model directory: %s", path, strerror(e));
    }
    out->fd = fd;
    out->path = path;
    return ERR_OK;
}

void model_dir_close(struct model_dir *d)
{
    if (d->fd >= 0)
        close(d->fd);
    d->fd = -1;
}

static int open_beneath(int dir, const char *name)
{
    struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, dir, name, &how, sizeof(how));

    if (fd < 0 && errno == ENOSYS) /* a kernel before 5.6, or a filter: refuse all links instead */
        return openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    return (int)fd;
}

/* The blob behind a link of a cache snapshot, or -1 with errno as open_beneath left it. */
static int open_cache_blob(int dir, const char *name, int why)
{
    static const char prefix[] = "../../blobs/";
    char target[NAME_CAP + sizeof(prefix)];
    ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
    const char *blob = target + sizeof(prefix) - 1;
    int blobs, fd;

    errno = why;
    if (n <= (ssize_t)sizeof(prefix) - 1)
        return -1;
    target[n] = '\0';
    if (strncmp(target, prefix, sizeof(prefix) - 1) != 0 ||
        blob[strspn(blob, "0123456789abcdef")] != '\0')
        return -1;
    blobs = openat(dir, "../../blobs", O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (blobs < 0)
        return -1;
    fd = openat(blobs, blob, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    why = errno;
    close(blobs);
    errno = why;
    return fd;
}

static enum err open_file(const struct model_dir *d, const char *name, bool optional, int *out,
                          uint64_t *size, struct err_msg *msg)
{
    struct stat st;
    int fd;

    if (!model_name_is_plain(name))
        return err_set(msg, ERR_INVALID,
                       "%s: '%.100s' is not a plain file name; model files must lie in the "
                       "directory itself",
                       d->path, name);
    fd = open_beneath(d->fd, name);
    if (fd < 0 && (errno == EXDEV || errno == ELOOP))
        fd = open_cache_blob(d->fd, name, errno);
    if (fd < 0) {
        int e = errno;

        if (e == ENOENT && optional)
            return ERR_NOT_FOUND;
        if (e == EXDEV || e == ELOOP)
            return err_set(msg, ERR_INVALID, "%s/%s: the link leads out of the model directory",
                           d->path, name);
        return err_set(msg, e == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s/%s: cannot open: %s", d->path,
                       name, strerror(e));
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(msg, ERR_INVALID, "%s/%s: not a regular file", d->path, name);
    }
    *out = fd;
    *size = (uint64_t)st.st_size;
    return ERR_OK;
}

enum err model_map_open(const struct model_dir *d, const char *name, bool optional,
                        struct model_map *out, struct err_msg *msg)
{
    uint64_t size;
    void *p;
    int fd;
    enum err err = open_file(d, name, optional, &fd, &size, msg);

    if (err != ERR_OK)
        return err;
    if (size == 0) {
        close(fd);
        return err_set(msg, ERR_INVALID, "%s/%s: the file is empty", d->path, name);
    }
    p = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        err = err_set(msg, errno == ENOMEM ? ERR_NOMEM : ERR_IO, "%s/%s: cannot map: %s", d->path,
                      name, strerror(errno));
    close(fd);
    if (err != ERR_OK)
        return err;
    out->bytes = p;
    out->len = size;
    return ERR_OK;
}

void model_map_close(struct model_map *map)
{
    if (map->bytes != NULL)
        munmap((void *)(uintptr_t)map->bytes, (size_t)map->len);
    map->bytes = NULL;
    map->len = 0;
}

static enum err read_all(int fd, char *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t n = read(fd, data + at, size - at);

        if (n <= 0)
            return ERR_IO;
        at += (size_t)n;
    }
    return ERR_OK;
}

enum err model_read_file(const struct model_dir *d, const char *name, size_t cap, bool optional,
                         char **out, size_t *len, struct err_msg *msg)
{
    uint64_t size;
    char *data;
    int fd;
    enum err err = open_file(d, name, optional, &fd, &size, msg);

    if (err != ERR_OK)
        return err;
    if (size > cap) {
        close(fd);
        return err_set(msg, ERR_INVALID, "%s/%s: larger than the limit of %zu bytes", d->path, name,
                       cap);
    }
    data = mem_try_alloc((size_t)size + 1);
    if (data == NULL)
        err = err_set(msg, ERR_NOMEM, "%s/%s: no memory to read it", d->path, name);
    else if (read_all(fd, data, (size_t)size) != ERR_OK)
        err = err_set(msg, ERR_IO, "%s/%s: cannot read: %s", d->path, name, strerror(errno));
    close(fd);
    if (err != ERR_OK) {
        mem_free(data);
        return err;
    }
    data[size] = '\0';
    *out = data;
    *len = (size_t)size;
    return ERR_OK;
}
