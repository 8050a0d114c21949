/* bench/out_file.c - see the header. */
#include "bench/out_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

enum err bench_out_check(const char *option, const char *path, struct err_msg *msg)
{
    bool made = false;
    int fd;

    if (path == NULL)
        return ERR_OK;
    fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) {
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        made = fd >= 0;
    }
    if (fd < 0 && errno == ENXIO)
        return ERR_OK; /* a pipe whose reader comes later */
    if (fd < 0)
        return err_set(msg, ERR_IO, "%s: cannot write %.200s: %s", option, path, strerror(errno));
    close(fd);
    if (made)
        (void)unlink(path);
    return ERR_OK;
}
