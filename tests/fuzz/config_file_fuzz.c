/* tests/fuzz/config_file_fuzz.c - any bytes as a configuration file: taken or refused with a text, never more, and
 * nothing stays allocated. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/mem.h"
#include "daemon/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t live = mem_live();
    struct err_msg msg = {""};
    int fd = memfd_create("config", MFD_CLOEXEC);
    char path[64];
    enum err err;

    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    err = daemon_config_check_file(path, &msg);
    if (err != ERR_OK && msg.text[0] == '\0')
        abort(); /* a refusal that says nothing */
    if (mem_live() != live)
        abort();
    close(fd);
    return 0;
}
