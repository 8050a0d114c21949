/* daemon/secret.c - secret files, and the run-time directory that holds one. */
#include "daemon/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum err daemon_secret_read(const char *path, struct wire_secret *out, struct err_msg *msg)
{
    char text[WIRE_SECRET_MAX * 2];
    struct stat st;
    ssize_t n;
    enum err err;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0) {
        if (fd >= 0)
            close(fd);
        return err_set(msg, ERR_NOT_FOUND, "cannot read the secret file %.200s: %s", path,
                       strerror(errno));
    }
    if (st.st_mode & 077) {
        close(fd);
        return err_set(msg, ERR_INVALID,
                       "the secret file %.200s may be read by others (mode %o); chmod 600 it", path,
                       (unsigned)st.st_mode & 0777);
    }
    n = read(fd, text, sizeof(text));
    close(fd);
    if (n < 0)
        return err_set(msg, ERR_IO, "cannot read the secret file %.200s: %s", path,
                       strerror(errno));
    err = wire_secret_parse(text, (size_t)n, out, msg);
    explicit_bzero(text, sizeof(text));
    return err;
}

static enum err make_secret(struct wire_secret *out, struct err_msg *msg)
{
    uint8_t random[32];

    if (RAND_bytes(random, sizeof(random)) != 1)
        return err_set(msg, ERR_IO, "no randomness for the workers' secret");
    out->len = 0;
    for (size_t i = 0; i < sizeof(random); i++)
        out->len += (size_t)snprintf((char *)out->bytes + out->len, 3, "%02x", random[i]);
    explicit_bzero(random, sizeof(random));
    return ERR_OK;
}

enum err daemon_run_directory(const char *secret_file, char *dir, size_t room,
                              struct wire_secret *out, struct err_msg *msg)
{
    const char *base = getenv("XDG_RUNTIME_DIR");
    char path[160];
    ssize_t n;
    int fd;
    enum err err;

    if (base == NULL || base[0] != '/' || strlen(base) > 60)
        base = "/tmp";
    err = secret_file != NULL ? daemon_secret_read(secret_file, out, msg) : make_secret(out, msg);
    if (err != ERR_OK)
        return err;
    snprintf(dir, room, "%s/baton-XXXXXX", base);
    if (mkdtemp(dir) == NULL) {
        dir[0] = '\0';
        return err_set(msg, ERR_IO, "cannot make a run-time directory under %s: %s", base,
                       strerror(errno));
    }
    snprintf(path, sizeof(path), "%.120s/secret", dir);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    n = fd >= 0 ? write(fd, out->bytes, out->len) : -1;
    if (fd >= 0)
        close(fd);
    if (n != (ssize_t)out->len)
        return err_set(msg, ERR_IO, "cannot write %s: %s", path, strerror(errno));
    return ERR_OK;
}
