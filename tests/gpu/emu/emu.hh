/* tests/gpu/emu/emu.hh - inside the emulation: blocks (emu_block.cc), devices and streams (emu_device.cc).
 *
 * A device has a thread that takes the work of its streams, one piece at a time, from a stream drawn at random
 * among those whose next piece may run: so what is not ordered by a stream or an event runs in any order, and
 * late.  Device memory may be touched by that thread only: it is mapped without access while nothing runs. */
#ifndef TESTS_GPU_EMU_EMU_H
#define TESTS_GPU_EMU_EMU_H

#include <stddef.h>

#include <functional>

#include "engine/gpu.h"

struct gpu_dims;

namespace emu
{

/* Memory whose last byte is followed by a page without access, 128-byte aligned. */
struct guarded {
    unsigned char *bytes = nullptr;
    size_t mapped = 0;
    void *base = nullptr;
    explicit guarded(size_t len);
    ~guarded();
    guarded(const guarded &) = delete;
    guarded &operator=(const guarded &) = delete;
    void access(bool allowed);
};

void run_grid(const struct gpu_dims &d, const char *name, bool early,
              const std::function<void()> &fn);
/* Run fn on the device's thread when the stream gets here (or make it part of the graph that is captured). */
enum err enqueue(gpu_stream s, std::function<void()> fn);
/* From inside enqueued work: the device is broken from here on, `why` is gpu_trouble's text. */
void break_device(const char *why);

} // namespace emu

#endif
