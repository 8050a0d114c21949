/* bench/out_file.h - can a result be written there?  Asked before the work, not after it.
 *
 * Thread: the caller's.  Blocking: the file system. */
#ifndef BENCH_OUT_FILE_H
#define BENCH_OUT_FILE_H

#include "base/err.h"

/* Opens the file for appending and closes it; one that was not there is made and removed again.  path NULL: ERR_OK.
 * ERR_IO: msg names option, file and cause. */
MUST_USE enum err bench_out_check(const char *option, const char *path, struct err_msg *msg);

#endif
