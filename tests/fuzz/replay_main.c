/* tests/fuzz/replay_main.c - run a fuzz target over every file of the folders named on the command
 * line, and over every truncation of the small ones, so that a corpus is a test in every build. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FILE_CAP = 4 << 20, CUT_ALL_BELOW = 2048 };

static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = mem_try_alloc(FILE_CAP);
    size_t n;

    if (f == NULL || data == NULL) {
        fprintf(stderr, "cannot read %s\n", path);
        return 1;
    }
    n = fread(data, 1, FILE_CAP, f);
    fclose(f);
    LLVMFuzzerTestOneInput(data, n);
    for (size_t cut = 0; n < CUT_ALL_BELOW && cut < n; cut++) {
        uint8_t *exact = mem_try_alloc(cut); /* its own block, so that a read past the end is seen */

        if (exact != NULL) {
            memcpy(exact, data, cut);
            LLVMFuzzerTestOneInput(exact, cut);
            mem_free(exact);
        }
    }
    mem_free(data);
    return 0;
}

int main(int argc, char **argv)
{
    int files = 0, failed = 0;

    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        struct dirent *entry;

        if (dir == NULL) {
            fprintf(stderr, "no corpus at %s\n", argv[i]);
            return 1;
        }
        while ((entry = readdir(dir)) != NULL) {
            char path[4096];

            if (entry->d_name[0] == '.')
                continue;
            snprintf(path, sizeof(path), "%s/%s", argv[i], entry->d_name);
            failed |= run_file(path);
            files++;
        }
        closedir(dir);
    }
    printf("%d inputs replayed\n", files);
    return failed || files == 0;
}
