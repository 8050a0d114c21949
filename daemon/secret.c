/* daemon/secret.c - secret files, the copy for our own workers, and the run-time directory. */
#include "daemon/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum err daemon_secret_read(const char *what, const char *path, struct wire_secret *out,
                            struct err_msg *msg)
{
    char text[WIRE_SECRET_MAX * 2];
    struct stat st;
    ssize_t n;
    enum err err;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0) {
        int why = errno;

        if (fd >= 0)
            close(fd);
        return err_set(msg, ERR_NOT_FOUND, "cannot read the %s %.200s: %s", what, path,
                       strerror(why));
    }
    if (st.st_mode & 077) {
        close(fd);
        return err_set(msg, ERR_INVALID,
                       "the %s %.200s may be read by others (mode %o); chmod 600 it", what, path,
                       (unsigned)st.st_mode & 0777);
    }
    n = read(fd, text, sizeof(text));
    if (n < 0)
        err_set(msg, ERR_IO, "cannot read the %s %.200s: %s", what, path, strerror(errno));
    close(fd);
    if (n < 0)
        return ERR_IO;
    err = wire_secret_parse(text, (size_t)n, out, NULL);
    if (err != ERR_OK)
        err_set(msg, err, "the %s %.200s has to hold %d to %d bytes, spaces around not counted",
                what, path, WIRE_SECRET_MIN, WIRE_SECRET_MAX);
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

/* The first place where a directory can be made.  A socket path has 107 bytes in all. */
static enum err make_directory(char *dir, size_t room, struct err_msg *msg)
{
    const char *places[] = {getenv("XDG_RUNTIME_DIR"), getenv("TMPDIR"), "/tmp"};
    int why = ENOENT;

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if (places[i] == NULL || places[i][0] != '/' || strlen(places[i]) > 60)
            continue;
        snprintf(dir, room, "%s/baton-XXXXXX", places[i]);
        if (mkdtemp(dir) != NULL)
            return ERR_OK;
        why = errno;
    }
    dir[0] = '\0';
    return err_set(msg, ERR_IO,
                   "cannot make a run-time directory: neither under XDG_RUNTIME_DIR nor TMPDIR "
                   "(absolute paths of at most 60 bytes) nor /tmp: %s",
                   strerror(why));
}

/* Into memory that has no name: nothing of it is left when all its readers have ended, however they did. */
static enum err keep_secret(const struct wire_secret *secret, int *out, struct err_msg *msg)
{
    int fd = memfd_create("baton-secret", MFD_CLOEXEC);

    if (fd >= 0 && fchmod(fd, 0600) == 0 &&
        write(fd, secret->bytes, secret->len) == (ssize_t)secret->len) {
        *out = fd;
        return ERR_OK;
    }
    err_set(msg, ERR_IO, "cannot keep the workers' secret in memory: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    return ERR_IO;
}

enum err daemon_run_directory(const char *secret_file, char *dir, size_t room,
                              struct wire_secret *out, int *secret_fd, struct err_msg *msg)
{
    enum err err = secret_file != NULL ? daemon_secret_read("secret file", secret_file, out, msg)
                                       : make_secret(out, msg);

    dir[0] = '\0';
    *secret_fd = -1;
    if (err == ERR_OK)
        err = make_directory(dir, room, msg);
    if (err == ERR_OK)
        err = keep_secret(out, secret_fd, msg);
    return err;
}
