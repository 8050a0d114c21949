/* daemon/model_dir.h - where a model is: the directory named, or the demo model that comes with Baton. */
#ifndef DAEMON_MODEL_DIR_H
#define DAEMON_MODEL_DIR_H

#include <stddef.h>

#include "base/err.h"

/* name NULL: the demo model, next to the program (../../deploy/demo-model/model in a build tree,
 * ../share/baton/demo-model when installed).  ERR_NOT_FOUND says where it looked. */
MUST_USE enum err daemon_model_dir_find(const char *name, char *out, size_t room,
                                        struct err_msg *msg);
/* The name clients use by default: the directory's own; "baton-demo" for the demo model. */
MUST_USE enum err daemon_model_dir_name(const char *dir, char **out, struct err_msg *msg);

#endif
