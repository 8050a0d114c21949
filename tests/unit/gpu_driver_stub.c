/* A libcuda.so.1 that serves no device: the CUDA runtime loads it and takes it for the driver whose version and
 * answer to cuInit the build gave it.  How a test sees an old driver on a machine without any. */
#include <stddef.h>
#include <string.h>

/* The names and types are the driver's; the runtime looks them up, nothing here includes its header. */
int cuDriverGetVersion(int *version);
int cuInit(unsigned flags);
int cuGetProcAddress_v2(const char *name, void **out, int version, unsigned long long flags,
                        int *status);

int cuDriverGetVersion(int *version)
{
    *version = STUB_VERSION;
    return 0;
}

int cuInit(unsigned flags)
{
    (void)flags;
    return STUB_INIT;
}

static int refuse(void)
{
    return STUB_INIT;
}

int cuGetProcAddress_v2(const char *name, void **out, int version, unsigned long long flags,
                        int *status)
{
    static const struct {
        const char *name;
        void *fn;
    } offered[] = {
        {"cuDriverGetVersion", (void *)(size_t)cuDriverGetVersion},
        {"cuInit", (void *)(size_t)cuInit},
        {"cuGetProcAddress", (void *)(size_t)cuGetProcAddress_v2},
    };

    (void)version, (void)flags;
    *out = (void *)(size_t)refuse;
    for (size_t i = 0; i < sizeof(offered) / sizeof(offered[0]); i++)
        if (strcmp(name, offered[i].name) == 0)
            *out = offered[i].fn;
    if (status != NULL)
        *status = 0;
    return 0;
}
