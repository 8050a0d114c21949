/* daemon/config_files.c - files that options name: worker classes are read, of others it is known only when a role
 * starts whether they are right, but whether they can be read is known before. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "bench/profile_file.h"
#include "daemon/config_table.h"
#include "daemon/model_dir.h"

enum err daemon_config_classes(const struct daemon_config *c, struct sched_class *out, uint32_t *n,
                               struct err_msg *msg)
{
    const char *at = c->class_file != NULL ? c->class_file : "";
    struct err_msg what = {""};
    enum err err = ERR_OK;

    for (*n = 0; err == ERR_OK && *at != '\0'; ++*n) {
        size_t len = strcspn(at, ",");
        char path[1024];

        if (*n == SCHED_CLASSES_MAX)
            return err_set(msg, ERR_LIMIT, "class_file names more than %d files",
                           SCHED_CLASSES_MAX);
        if (len == 0 || len >= sizeof(path))
            return err_set(msg, ERR_INVALID,
                           "class_file is '%.100s': it needs paths with commas between",
                           c->class_file);
        snprintf(path, sizeof(path), "%.*s", (int)len, at);
        err = bench_profile_read(path, &out[*n], &what);
        if (err == ERR_NOT_FOUND)
            return err_set(msg, err,
                           "class_file names %.200s, which is not there: write it with `baton perf "
                           "profile --out FILE`, or leave it out and let speeds be learned",
                           path);
        if (err != ERR_OK)
            return err_set(msg, err, "class_file: %s", what.text);
        at += len + (at[len] == ',');
    }
    return err;
}

/* *option: which one it was. */
enum err config_check_files(const struct daemon_config *c, const char **option, struct err_msg *msg)
{
    const struct {
        const char *option, *path;
    } files[] = {{"sim_profile", c->sim_profile},
                 {"secret_file", c->secret_file},
                 {"admin_key_file", c->admin_key_file}};
    struct sched_class classes[SCHED_CLASSES_MAX];
    char dir[1024];
    uint32_t n;

    for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
        *option = files[i].option;
        if (files[i].path != NULL && access(files[i].path, R_OK) != 0)
            return err_set(msg, ERR_NOT_FOUND,
                           "%s is '%.200s': %s; paths are relative to where "
                           "baton is started",
                           *option, files[i].path, strerror(errno));
    }
    *option = "model";
    if (c->model_dir != NULL &&
        daemon_model_dir_find(c->model_dir, dir, sizeof(dir), msg) != ERR_OK)
        return ERR_NOT_FOUND;
    *option = "class_file";
    return daemon_config_classes(c, classes, &n, msg);
}
