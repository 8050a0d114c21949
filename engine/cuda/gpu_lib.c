/* engine/cuda/gpu_lib.c - see the header for the contract. */
#include "engine/cuda/gpu_lib.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#define NAME(f) #f,
static const char *const lt_names[] = {GPU_LIB_CUBLAS_LT(NAME)};
static const char *const nccl_names[] = {GPU_LIB_NCCL(NAME)};

const struct gpu_lib gpu_lib_cublas_lt = {"cuBLASLt of CUDA 13", "libcublasLt.so.13",
                                          "nvidia-cublas", lt_names,
                                          sizeof(lt_names) / sizeof(lt_names[0])};
const struct gpu_lib gpu_lib_nccl = {"NCCL 2", "libnccl.so.2", "nvidia-nccl-cu13", nccl_names,
                                     sizeof(nccl_names) / sizeof(nccl_names[0])};

/* Where CUDA's own installer puts its libraries, which the linker's cache need not know. */
static const char *const folder = "/usr/local/cuda/lib64";

static void *open_library(const struct gpu_lib *lib, struct err_msg *msg)
{
    void *handle = dlopen(lib->file, RTLD_NOW | RTLD_LOCAL);
    char path[160], why[200];

    if (handle != NULL)
        return handle;
    snprintf(why, sizeof(why), "%s", dlerror());
    snprintf(path, sizeof(path), "%s/%s", folder, lib->file);
    handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        err_set(msg, ERR_NOT_FOUND,
                "engine: %s is needed and %s could not be opened (%s); looked in LD_LIBRARY_PATH, "
                "the system's "
                "library folders and %s; install it (CUDA 13, or the Python package %s) and set "
                "LD_LIBRARY_PATH",
                lib->what, lib->file, why, folder, lib->package);
    return handle;
}

enum err gpu_lib_load(const struct gpu_lib *lib, void *table, size_t bytes, struct err_msg *msg)
{
    unsigned char *slots = table;
    void *handle, *function;

    if (bytes != lib->n * sizeof(function))
        return err_set(msg, ERR_INVALID, "engine: the table of %s has %zu bytes for %zu functions",
                       lib->what, bytes, lib->n);
    handle = open_library(lib, msg);
    if (handle == NULL)
        return ERR_NOT_FOUND;
    for (size_t i = 0; i < lib->n; i++) {
        function = dlsym(handle, lib->names[i]);
        if (function == NULL)
            return err_set(msg, ERR_UNSUPPORTED, "engine: %s has no %s: it is not %s", lib->file,
                           lib->names[i], lib->what);
        memcpy(slots + i * sizeof(function), &function, sizeof(function));
    }
    return ERR_OK;
}
