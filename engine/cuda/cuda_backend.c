/* engine/cuda/cuda_backend.c - where the CUDA backend will be plugged in: it can be named and says
 * what it found, and refuses to open. */
#include "engine/cuda/cuda_device.h"
#include "engine/engine_backend.h"

static enum err cuda_open(const struct engine_config *config, struct err_msg *msg,
                          struct engine **out)
{
    char devices[256];

    (void)config, (void)out;
    engine_cuda_describe(devices, sizeof(devices));
    return err_set(
        msg, ERR_UNSUPPORTED,
        "engine: the cuda backend is not built yet (CUDA runtime: %s); use --backend cpu", devices);
}

/* open never succeeds, so the dispatcher never has an engine to step or close. */
const struct engine_backend engine_backend_cuda = {.name = "cuda", .open = cuda_open};
