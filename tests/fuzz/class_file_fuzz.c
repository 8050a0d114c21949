/* Any bytes as a class file: read or refused with a message; what is read can be written and read back. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "bench/profile_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool good)
{
    if (!good)
        abort();
}

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-8 * fabs(b);
}

static void round_trip(const struct sched_class *c)
{
    struct sched_class again;
    struct err_msg msg = {""};
    char path[80];
    enum err err;

    snprintf(path, sizeof(path), "/tmp/baton-class-fuzz-%ld", (long)getpid());
    err = bench_profile_write(path, c, NULL, &msg);
    /* A name from YAML may hold what the writer does not quote. */
    check(err == ERR_OK || (err == ERR_INVALID && strstr(msg.text, "name") != NULL));
    if (err != ERR_OK)
        return;
    err = bench_profile_read(path, &again, &msg);
    (void)unlink(path);
    for (const char *p = c->name; err != ERR_OK && *p != '\0'; p++) {
        if ((unsigned char)*p > 0x7e) /* escaped in the input, not allowed as it is */
            return;
    }
    check(err == ERR_OK);
    for (int i = 0; i < 4; i++)
        check(near(again.prefill.c[i], c->prefill.c[i]) && near(again.decode.c[i], c->decode.c[i]));
    check(near(again.kv_bytes_per_token, c->kv_bytes_per_token));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sched_class c;
    struct err_msg msg = {""};
    size_t live = mem_live();
    int fd = memfd_create("class", MFD_CLOEXEC);
    char path[40];

    if (fd < 0 || write(fd, data, size) != (ssize_t)size) {
        if (fd >= 0)
            close(fd);
        return 0;
    }
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (bench_profile_read(path, &c, &msg) == ERR_OK)
        round_trip(&c);
    else
        check(msg.text[0] != '\0');
    check(mem_live() == live);
    close(fd);
    return 0;
}
