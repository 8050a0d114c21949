/* daemon/model_dir.c - finds the model directory, or the demo model beside the program. */
#include "daemon/model_dir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <uv.h>

#include "base/mem.h"

static bool is_directory(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

enum err daemon_model_dir_find(const char *name, char *out, size_t room, struct err_msg *msg)
{
    static const char *const places[] = {"/../../deploy/demo-model/model",
                                         "/../share/baton/demo-model"};
    char exe[512];
    size_t len = sizeof(exe) - 1;
    char *slash;

    if (name != NULL) {
        if (!is_directory(name))
            return err_set(
                msg, ERR_NOT_FOUND,
                "%.300s is no directory; MODEL_DIR is a Hugging Face model directory (config.json, "
                "*.safetensors, tokenizer.json)",
                name);
        if ((size_t)snprintf(out, room, "%s", name) >= room)
            return err_set(msg, ERR_LIMIT, "MODEL_DIR is longer than %zu bytes", room - 1);
        return ERR_OK;
    }
    if (uv_exepath(exe, &len) != 0)
        return err_set(msg, ERR_IO, "cannot find out where this program is");
    slash = strrchr(exe, '/');
    if (slash != NULL)
        *slash = '\0';
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        char *real;

        snprintf(out, room, "%s%s", exe, places[i]);
        real = realpath(out, NULL); /* allocated by libc, so freed by it */
        if (real != NULL && is_directory(real) && strlen(real) < room) {
            snprintf(out, room, "%s", real);
            (free)(real);
            return ERR_OK;
        }
        (free)(real);
    }
    return err_set(
        msg, ERR_NOT_FOUND,
        "no MODEL_DIR was given, and the demo model is not next to the program (%.200s%s)", exe,
        places[0]);
}

enum err daemon_model_dir_name(const char *dir, char **out, struct err_msg *msg)
{
    const char *end = dir + strlen(dir), *begin;

    while (end > dir + 1 && end[-1] == '/')
        end--;
    begin = end;
    while (begin > dir && begin[-1] != '/')
        begin--;
    if (strstr(dir, "demo-model") != NULL)
        *out = mem_try_strdup("baton-demo");
    else
        *out = mem_try_strndup(begin, (size_t)(end - begin));
    return *out != NULL ? ERR_OK : err_set(msg, ERR_NOMEM, "no memory for the model's name");
}
